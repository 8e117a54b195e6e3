//! Durable appends: threads × record size × backend, and many outstanding from one thread.
//!
//! One iteration is one record that its thread has waited for: the unit is durable records per second, with bytes of
//! payload per second beside it. The log is in a steady state: segments come back from the retention.

mod bed;

use std::collections::VecDeque;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use seawall::{Config, Log};

use bed::{KIB, MIB};

const THREADS: [usize; 3] = [1, 8, 64];
const RECORD_BYTES: [usize; 4] = [128, KIB, 64 * KIB, MIB];
const OUTSTANDING: usize = 64;

fn append(criterion: &mut Criterion) {
    for (backend, driver, config) in bed::backends() {
        let dir = bed::scratch();
        let config = Config { retain_bytes: Some(256 * MIB as u64), ..config };
        let (log, _) = Log::open_with(dir.path(), config, &driver).expect("an empty directory");
        // Until segments are used again instead of newly written.
        bed::fill(&log, bed::amount(640, 1), MIB);
        for bytes in RECORD_BYTES {
            let record = bed::record(bytes);
            let mut group = criterion.benchmark_group(format!("append/{backend}/{}", size(bytes)));
            group.throughput(bed::records_of(bytes)).sample_size(20);
            group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
            for threads in THREADS {
                group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
                    bencher.iter_custom(|records| closed_loop(&log, &record, threads, records));
                });
            }
            group.bench_function(BenchmarkId::new("outstanding", OUTSTANDING), |bencher| {
                bencher.iter_custom(|records| pipelined(&log, &record, records));
            });
            group.finish();
        }
        bed::close(log);
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{}MiB", bytes / MIB),
        KIB.. => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

/// Every thread appends, waits, and appends again.
fn closed_loop(log: &Log, record: &[u8], threads: usize, records: u64) -> Duration {
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let start = &start;
                let mine = records / threads as u64 + u64::from(thread < records % threads as u64);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..mine {
                        log.append(record).and_then(|pending| pending.wait()).expect("a disk that works");
                    }
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        began.elapsed()
    })
}

/// One thread keeps so many records on their way and waits for the oldest.
fn pipelined(log: &Log, record: &[u8], records: u64) -> Duration {
    let mut outstanding = VecDeque::with_capacity(OUTSTANDING);
    let began = Instant::now();
    for _ in 0..records {
        if outstanding.len() == OUTSTANDING {
            wait_for_oldest(&mut outstanding);
        }
        outstanding.push_back(log.append(record).expect("a disk that works"));
    }
    while !outstanding.is_empty() {
        wait_for_oldest(&mut outstanding);
    }
    began.elapsed()
}

fn wait_for_oldest(outstanding: &mut VecDeque<seawall::Pending>) {
    if let Some(oldest) = outstanding.pop_front() {
        oldest.wait().expect("a disk that works");
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
