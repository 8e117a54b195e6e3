//! What a frame costs on the processor: its checksum, its place in the chain, its header written and read.

mod bed;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use seawall::internals as door;
use seawall::{Chain, Lsn};

use bed::KIB;

const PAYLOAD_BYTES: [usize; 3] = [128, KIB, 64 * KIB];
const SEED: u32 = 77;

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for bytes in PAYLOAD_BYTES {
        let payload = bed::record(bytes);
        let mut frame = vec![0; door::FRAME_HEADER_BYTES + bytes];
        group.throughput(bed::records_of(bytes));
        group.bench_function(BenchmarkId::new("crc32c", bytes), |bencher| {
            bencher.iter(|| door::crc32c(black_box(&payload)));
        });
        group.bench_function(BenchmarkId::new("encode", bytes), |bencher| {
            let mut chain = Chain::start(0);
            bencher.iter(|| {
                chain = door::encode_data(SEED, Lsn::FIRST, chain, black_box(&payload), &mut frame);
                chain
            });
        });
        group.bench_function(BenchmarkId::new("decode_and_verify", bytes), |bencher| {
            bencher.iter(|| {
                let facts = door::decode_frame(SEED, black_box(&frame)).expect("just encoded");
                assert_eq!(door::crc32c(&frame[door::FRAME_HEADER_BYTES..]), facts.payload_crc);
            });
        });
    }
    let mut frame = vec![0; door::FRAME_HEADER_BYTES];
    door::encode_data(SEED, Lsn::FIRST, Chain::start(0), b"", &mut frame);
    let facts = door::decode_frame(SEED, &frame).expect("just encoded");
    group.throughput(criterion::Throughput::Elements(1));
    group.bench_function("header_decode", |bencher| {
        bencher.iter(|| door::decode_frame(SEED, black_box(&frame)));
    });
    group.bench_function("header_encode", |bencher| {
        bencher.iter(|| door::encode_header(SEED, black_box(&facts)));
    });
    group.bench_function("chain", |bencher| {
        let mut chain = Chain::start(0);
        bencher.iter(|| {
            chain = black_box(&facts).chain_after(chain);
            chain
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
