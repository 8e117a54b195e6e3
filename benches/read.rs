//! Verified reads of 1 KiB records: in order and at random from sealed segments in the page cache, and the head from
//! memory. The limit beside them is CRC-32C alone over the same payloads.

mod bed;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall::{Config, Log, Lsn};

use bed::{KIB, MIB};

const RECORD_BYTES: usize = KIB;

fn read(criterion: &mut Criterion) {
    let dir = bed::scratch();
    let records = bed::amount(256 * KIB, 2 * KIB);
    let config = Config { memory_tail_bytes: 8 * MIB as u64, ..Config::default() };
    {
        let (log, _) = Log::open(dir.path(), config.clone()).expect("an empty directory");
        bed::fill(&log, records, RECORD_BYTES);
        bed::close(log);
    }
    // Opened again: every segment with records in it is sealed, and mapped when read.
    let (log, _) = Log::open(dir.path(), config).expect("closed cleanly");
    let mut group = criterion.benchmark_group("read");
    group.sample_size(20).measurement_time(Duration::from_secs(5));

    let all = Throughput::ElementsAndBytes { elements: records as u64, bytes: (records * RECORD_BYTES) as u64 };
    group.throughput(all.clone());
    let payloads = bed::record(records * RECORD_BYTES);
    group.bench_function("crc32c_alone", |bencher| {
        bencher.iter(|| payloads.chunks(RECORD_BYTES).fold(0, |sum, record| sum ^ crc32c::crc32c(black_box(record))));
    });
    drop(payloads);
    group.bench_function("in_order", |bencher| {
        bencher.iter(|| count(&log, Lsn::FIRST, records));
    });

    group.throughput(bed::records_of(RECORD_BYTES));
    let mut next = 1u64;
    group.bench_function("at_random", |bencher| {
        bencher.iter(|| {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lsn = Lsn::new(1 + (next >> 33) % records as u64);
            log.read(lsn).expect("a sound log").payload.len()
        });
    });

    let head = bed::amount(4 * KIB, 256);
    bed::fill(&log, head, RECORD_BYTES);
    let from = Lsn::new(log.flushed().get() - head as u64 + 1);
    let bytes = (head * RECORD_BYTES) as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: head as u64, bytes });
    group.bench_function("head_from_memory", |bencher| {
        bencher.iter(|| count(&log, from, head));
    });
    group.finish();
    bed::close(log);
}

fn count(log: &Log, from: Lsn, expected: usize) {
    let mut bytes = 0;
    for frame in log.reader(from) {
        bytes += black_box(frame.expect("a sound log").payload).len();
    }
    assert_eq!(bytes, expected * RECORD_BYTES);
}

criterion_group!(benches, read);
criterion_main!(benches);
