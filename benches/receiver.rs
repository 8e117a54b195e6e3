//! What a record costs in the receiver's core: found or new, taken, laid out, put on the wire and read from it. One
//! thread, no log: blocks are durable as soon as they are taken.

mod bed;

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawall::receiver::{
    Ack, Block, Checksummed, Hello, Intake, Message, PayloadBuilder, Range, RangeKind, ReceiverConfig, Send, Sequences,
    SessionKey, SessionOutput, Sources, WaitFor, decode, encode,
};
use seawall::{Lsn, Seq, SourceEpoch, SourceId};

use bed::KIB;

const RECORD_BYTES: usize = KIB;
const RECORDS_A_FRAME: [u32; 2] = [1, 100];

fn name(n: u64) -> SourceId {
    SourceId::new(format!("source-{n:09}")).expect("16 bytes")
}

fn range(n: u64) -> Range {
    Range {
        kind: RangeKind::Records,
        source: Some(name(n)),
        epoch: SourceEpoch::new(1),
        sequences: Sequences::Dense,
        records: 1,
        previous: Seq::new(n),
        last: Seq::new(n + 1),
    }
}

fn send(previous: u64, records: u32) -> Send {
    let record = bed::record(RECORD_BYTES);
    let mut payload = PayloadBuilder::new(Sequences::Dense, Seq::new(previous));
    for n in 1..=u64::from(records) {
        payload.push(Seq::new(previous + n), &record).expect("the next one");
    }
    payload.finish()
}

/// An intake with one session, and a log that is always done.
struct End {
    intake: Intake,
    key: SessionKey,
    now: Instant,
    lsn: u64,
    sent: u64,
}

impl End {
    fn new() -> End {
        let now = Instant::now();
        let mut intake = Intake::new(ReceiverConfig::default(), "in", Sources::default(), Lsn::ZERO, Lsn::ZERO, 0);
        let key = intake.connect(now).expect("the first session");
        let hello = Hello { version_min: 1, version_max: 1, source: b"source".to_vec(), ..Hello::default() };
        intake.handle(now, key, Message::Hello(Hello { wait_for: WaitFor::Durable, ..hello }));
        let mut end = End { intake, key, now, lsn: 0, sent: 0 };
        end.settle();
        end
    }

    fn settle(&mut self) {
        while let Some(pieces) = self.intake.take_block() {
            black_box(pieces);
            self.lsn += 1;
            self.intake.placed(Lsn::new(self.lsn));
            self.intake.durable(self.now, Lsn::new(self.lsn));
        }
        while let Some(SessionOutput::Message(message)) = self.intake.poll_output(self.key) {
            black_box(message);
        }
    }

    fn take(&mut self, payload: &Checksummed, records: u32) {
        let cost = Intake::cost_bytes(payload.len() as u32 + 16);
        black_box(self.intake.reserve(self.now, self.key, cost));
        let send = Send { previous: Seq::new(self.sent), records, payload: payload.clone() };
        self.intake.handle(self.now, self.key, Message::Send(send));
        self.sent += u64::from(records);
    }
}

fn sources(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sources");
    let count = bed::amount(1_000_000, 1000) as u64;
    let mut sources = Sources::default();
    (0..count).for_each(|n| sources.apply(&range(n)));
    let names: Vec<_> = (0..4096).map(|n| name(n * 7919 % count)).collect();
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("lookup", count), |bencher| {
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 1) % names.len();
            sources.durable(black_box(&names[at]))
        });
    });
    let ranges: Vec<_> = (0..4096).map(|n| range(n * 7919 % count)).collect();
    group.bench_function(BenchmarkId::new("apply", count), |bencher| {
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 1) % ranges.len();
            sources.apply(black_box(&ranges[at]));
        });
    });
    group.finish();
}

fn intake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("intake");
    for records in RECORDS_A_FRAME {
        let payload = send(0, records).payload;
        group.throughput(Throughput::Elements(records.into()));
        group.bench_function(BenchmarkId::new("send", records), |bencher| {
            let mut end = End::new();
            bencher.iter(|| {
                end.take(&payload, records);
                end.settle();
            });
        });
        group.bench_function(BenchmarkId::new("duplicates", records), |bencher| {
            let mut end = End::new();
            end.take(&payload, records);
            end.settle();
            bencher.iter(|| {
                end.sent = 0;
                end.take(&payload, records);
                end.settle();
            });
        });
    }
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let ack = Message::Ack(Ack { received: Seq::new(9), durable: Seq::new(8), ..Ack::default() });
    let messages = RECORDS_A_FRAME.map(|records| (format!("send-{records}"), Message::Send(send(0, records)), records));
    for (label, message, records) in messages.into_iter().chain([("ack".to_owned(), ack, 1)]) {
        let mut out = BytesMut::new();
        encode(&message, &mut out);
        let frame = out.clone().freeze();
        group.throughput(Throughput::ElementsAndBytes { elements: records.into(), bytes: frame.len() as u64 });
        group.bench_function(BenchmarkId::new("encode", &label), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(black_box(&message), &mut out);
                out.len()
            });
        });
        group.bench_function(BenchmarkId::new("decode", &label), |bencher| {
            bencher.iter(|| decode(black_box(frame.clone())).expect("it was encoded"));
        });
    }
    group.finish();
}

fn block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block");
    let payload = send(0, 1000).payload;
    let range = Range { records: 1000, last: Seq::new(1000), ..range(0) };
    let bytes = Block { replay_from: Lsn::ZERO, ranges: vec![(range, payload.into_bytes())] }.encode();
    group.throughput(Throughput::ElementsAndBytes { elements: 1000, bytes: bytes.len() as u64 });
    group.bench_function("read_records", |bencher| {
        bencher.iter(|| {
            let block = Block::read(black_box(&bytes)).expect("a block");
            block.records().map(|record| record.expect("a record").record.len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, sources, intake, wire, block);
criterion_main!(benches);
