//! What the ledger costs: a batch that holds nothing, a replay of many events, and a batch read beside the log's own reader.

mod bed;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawall::ledger::{BatchLimits, Envelope, Event, Identity, InputKind, PartKey, Range, Replay};
use seawall::node::{Ledger, LedgerConfig, Receiver};
use seawall::receiver::ReceiverConfig;
use seawall::{Ballot, BatchId, Config, InputId, LedgerId, Log, Lsn};

use bed::KIB;

/// Two of three are batches allocated and committed.
const EVENTS: usize = 1_000_000;
const BLOCKS: usize = 4_000;
const RECORDS_A_BLOCK: usize = 64;

fn frames(events: u64) -> Vec<Bytes> {
    let ballot = Ballot { round: 1, proposer: 1 };
    let write = |event| Envelope { ballot, time_micros: 1, event }.encode();
    let input = InputId::new(1);
    let name = Bytes::from_static(b"clicks");
    let mut all = vec![
        write(Event::LedgerCreated { ledger: LedgerId::new(1) }),
        write(Event::InputAdded { input, kind: InputKind::Stream, identity: Identity(1), name, start: 1, digest: 0 }),
    ];
    for n in 1.. {
        if all.len() as u64 >= events {
            return all;
        }
        let range = Range {
            input,
            part: PartKey::default(),
            opens: None,
            from: n * 10 - 9,
            to: n * 10 + 1,
            digest: n,
            records: 10,
            bytes: 1000,
        };
        all.push(write(Event::BatchAllocated { batch: BatchId::new(n), ranges: vec![range] }));
        all.push(write(Event::BatchCommitted { batch: BatchId::new(n), token: Bytes::from_static(b"1000 rows") }));
        all.push(write(Event::Trimmed { input, upto: n * 10 }));
    }
    unreachable!("n goes on for ever")
}

/// Target: a million in a second.
fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("ledger/replay");
    let events = bed::amount(EVENTS, 1000) as u64;
    let frames = frames(events);
    group.throughput(Throughput::Elements(frames.len() as u64)).sample_size(10);
    group.bench_function(BenchmarkId::from_parameter(format!("{events} events")), |b| {
        b.iter(|| {
            let mut replay = Replay::default();
            for (lsn, frame) in (1..).zip(&frames) {
                replay.frame(Lsn::new(lsn), frame).expect("an event");
            }
            black_box(replay.state().settled())
        });
    });
    group.finish();
}

/// A batch that holds nothing: two durable appends. Beside it, two appends of the log alone.
fn empty_batch(c: &mut Criterion) {
    let dir = bed::scratch();
    let (log, _) = Log::open(dir.path().join("ledger"), Config::default()).expect("opens");
    let (ledger, _) = Ledger::open(log, LedgerConfig::default()).expect("opens");
    let (alone, _) = Log::open(dir.path().join("log"), Config::default()).expect("opens");
    let limits = BatchLimits { allow_empty: true, ..BatchLimits::default() };
    let mut group = c.benchmark_group("ledger/empty batch");
    group.bench_function("allocate and commit", |b| {
        b.iter(|| {
            let batch = ledger.allocate(&limits).expect("allocates").expect("an empty one");
            ledger.commit(batch.id(), "").expect("commits");
        });
    });
    group.bench_function("two appends to a log", |b| {
        b.iter(|| [(); 2].map(|()| alone.append(&[7; 60]).expect("appends").wait().expect("durable")));
    });
    group.finish();
}

/// The same bytes as frames of the log, as blocks of a batch, and as its records. Target: 0.9 of the log's reader.
fn read(c: &mut Criterion) {
    let dir = bed::scratch();
    let (log, _) = Log::open(dir.path().join("stream"), Config::default()).expect("opens");
    let (receiver, driver, _) = Receiver::open(log.clone(), "stream", ReceiverConfig::default()).expect("opens");
    let thread = driver.spawn().expect("a thread");
    let mut source = receiver.local_blocking("source").expect("a source");
    let records = vec![bed::record(KIB); RECORDS_A_BLOCK];
    let blocks = bed::amount(BLOCKS, 4);
    for _ in 0..blocks {
        source.store_blocking(&records).expect("stored");
    }
    let (of_ledger, _) = Log::open(dir.path().join("ledger"), Config::default()).expect("opens");
    let (ledger, _) = Ledger::open(of_ledger, LedgerConfig::default()).expect("opens");
    ledger.add_stream("stream", receiver.clone()).expect("the stream is there");
    let began = Instant::now();
    let limits = BatchLimits::bytes(u64::MAX);
    let batch = ledger.allocate(&limits).expect("allocates").expect("all of it");
    println!("allocated {} MiB in {:?}", batch.ranges()[0].bytes >> 20, began.elapsed());
    let range = batch.ranges()[0].clone();
    let mut group = c.benchmark_group("ledger/read");
    group.throughput(Throughput::Bytes(range.bytes)).sample_size(10).measurement_time(Duration::from_secs(8));
    group.bench_function("log", |b| {
        b.iter(|| {
            log.range(seawall::LsnRange::new(Lsn::new(range.from), Lsn::new(range.to)))
                .map(|f| f.expect("a frame").payload.len())
                .sum::<usize>()
        });
    });
    group.bench_function("batch, blocks", |b| {
        b.iter(|| batch.blocks(&range).expect("there").map(|b| b.expect("a block").block.ranges.len()).sum::<usize>());
    });
    group.bench_function("batch, records", |b| {
        b.iter(|| batch.read().expect("there").map(|r| r.expect("a record").record.len()).sum::<usize>());
    });
    group.bench_function("batch, records lent", |b| {
        b.iter(|| {
            let (mut records, mut bytes) = (batch.read().expect("there"), 0);
            while let Some(record) = records.lend().expect("a record") {
                bytes += record.record.len();
            }
            bytes
        });
    });
    group.finish();
    drop(source);
    receiver.shut_down();
    thread.join().expect("in order");
}

criterion_group!(benches, replay, empty_batch, read);
criterion_main!(benches);
