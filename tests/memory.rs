//! Memory: bounded by the configuration, independent of the backlog, and none allocated per append once it runs.

#[path = "support/counting.rs"]
#[allow(dead_code)]
mod counting;

use std::sync::Mutex;
use std::time::Duration;

use seawall::{Config, Log, Lsn};

#[cfg(feature = "receiver")]
use counting::in_use;
use counting::{allocations, begin_peak, peak_beyond};

/// The most bytes in use at once while `what` runs, beyond those in use before.
fn peak<R>(what: impl FnOnce() -> R) -> (usize, R) {
    let before = begin_peak();
    let result = what();
    (peak_beyond(before), result)
}

/// The peak is the whole process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const MIB: usize = 1 << 20;

#[test]
fn an_append_itself_allocates_nothing_once_the_log_runs() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let config = Config { memory_tail_bytes: MIB as u64, ..Config::default() };
    let (log, _) = Log::open(dir.path(), config).unwrap();
    let record = [7; 1024];
    for _ in 0..2000 {
        log.append(&record).unwrap().wait().unwrap();
    }
    let mut pendings = Vec::with_capacity(64);
    let groups = log.stats().group_bytes.count;
    let calls = allocations(|| {
        for _ in 0..500 {
            log.append(&record).unwrap().wait().unwrap();
        }
        for _ in 0..20 {
            pendings.extend((0..64).map(|_| log.append(&record).unwrap()));
            pendings.drain(..).for_each(|pending| assert!(pending.wait().is_ok()));
        }
    });
    let groups = log.stats().group_bytes.count - groups;
    // One per group, for the buffer that its readers will share; lists and the index still grow now and then.
    assert!(calls as u64 <= groups + groups / 4, "{calls} allocations for 1 780 appends in {groups} groups");
    assert!(groups <= 600, "{groups} groups");
}

#[test]
fn memory_is_bounded_by_the_configuration() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        record_bytes_max: MIB as u64,
        in_flight_bytes_max: 4 * MIB as u64,
        memory_tail_bytes: 2 * MIB as u64,
        group_bytes_max: MIB as u64,
        segment_bytes_max: 8 * MIB as u64,
        retain_bytes: Some(32 * MIB as u64),
        ..Config::default()
    };
    let (log, _) = Log::open(dir.path(), config).unwrap();
    let record = vec![7; 50_000];
    let (most, ()) = peak(|| {
        // 100 MiB, for which nobody waits.
        (0..2100).for_each(|_| drop(log.append(&record).unwrap()));
        log.flush().unwrap();
    });
    // In flight, what is kept of flushed ones (each in a buffer of a power of two), pieces of zeros and of windows.
    assert!(most < 20 * MIB, "{} MiB", most / MIB);
}

#[test]
fn opening_and_reading_do_not_load_the_backlog() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_max: 4 * MIB as u64, memory_tail_bytes: 0, ..Config::default() };
    let (log, _) = Log::open(dir.path(), config.clone()).unwrap();
    let record = vec![7; 1000];
    let mut last = None;
    for _ in 0..100_000 {
        last = Some(log.append(&record).unwrap());
    }
    last.unwrap().wait().unwrap();
    log.close(Duration::from_secs(10)).unwrap();
    let (most, (log, recovery)) = peak(|| Log::open(dir.path(), config).unwrap());
    assert_eq!(recovery.end, Lsn::new(100_000));
    assert!(most < 8 * MIB, "opening took {} KiB", most / 1024);
    let (most, frames) = peak(|| log.reader(Lsn::FIRST).map(Result::unwrap).count());
    assert_eq!(frames, 100_000);
    assert!(most < 8 * MIB, "reading took {} KiB", most / 1024);
}

/// A million sources are remembered, replayed and written down without taking much memory, or much time at once.
#[cfg(feature = "receiver")]
#[test]
fn a_million_sources_fit() {
    use std::time::Instant;

    use seawall::receiver::{Block, Intake, Range, RangeKind, ReceiverConfig, Sequences, Sources};
    use seawall::{Seq, SourceEpoch, SourceId};

    const SOURCES: u64 = 1_000_000;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = |n: u64| SourceId::new(format!("source-{n:09}")).expect("16 bytes");
    let range = |n: u64| Range {
        kind: RangeKind::Records,
        source: Some(name(n)),
        epoch: SourceEpoch::new(1),
        sequences: Sequences::Dense,
        records: 1,
        previous: Seq::new(n),
        last: Seq::new(n + 1),
    };
    assert_eq!(name(0).as_bytes().len(), 16);

    let before = in_use();
    let began = Instant::now();
    let mut sources = Sources::default();
    (0..SOURCES).for_each(|n| sources.apply(&range(n)));
    let took = began.elapsed();
    let in_use = in_use() - before;
    println!("{SOURCES} sources: {} MiB, applied in {took:?}", in_use / MIB);
    assert!(in_use <= 128 * MIB, "{} MiB", in_use / MIB);

    // A snapshot goes out in parts, none of which takes long.
    let config = ReceiverConfig::default();
    let mut intake = Intake::new(config, "in", sources, Lsn::new(7), Lsn::ZERO, 0);
    intake.request_snapshot(seawall::Lsn::MAX);
    let (mut blocks, mut longest, began) = (Vec::new(), Duration::ZERO, Instant::now());
    loop {
        let part = Instant::now();
        let Some(pieces) = intake.take_block() else { break };
        longest = longest.max(part.elapsed());
        let block = bytes::Bytes::from(pieces.concat());
        assert!(block.len() <= 257 << 10, "{}", block.len());
        blocks.push(block);
        let lsn = Lsn::new(7 + blocks.len() as u64);
        intake.placed(lsn);
        intake.durable(part, lsn);
    }
    let bytes: usize = blocks.iter().map(bytes::Bytes::len).sum();
    println!(
        "snapshot: {} blocks, {} MiB, {:?} in all, {longest:?} at most for one",
        blocks.len(),
        bytes / MIB,
        began.elapsed()
    );
    assert_eq!(intake.trim_bound(), Lsn::new(8));
    // Far above what it takes, and far below what anybody would notice.
    assert!(longest < Duration::from_millis(200), "{longest:?}");
    drop(intake);

    let (most, sources) = peak(|| {
        let began = Instant::now();
        let mut sources = Sources::default();
        for block in &blocks {
            let block = Block::read(block).expect("a block");
            block.ranges.iter().for_each(|(range, _)| sources.apply(range));
        }
        println!("replayed in {:?}", began.elapsed());
        sources
    });
    println!("{} MiB at the most", most / MIB);
    assert!(most <= 192 * MIB, "{} MiB: the old table beside the new one while it grows", most / MIB);
    assert_eq!(sources.len() as u64, SOURCES);
    for n in [0, 1, SOURCES / 2, SOURCES - 1] {
        assert_eq!(sources.durable(&name(n)), Some(Seq::new(n + 1)));
    }
}
