//! Room and space: what an append waits for, limits of bytes and their policies, what a trim gives back.

use std::time::Duration;

use seawall::{Config, Error, Log, Lsn, RecoveryMode, WhenFull};

use super::tasks::block_on;
use super::{SECOND, on_every_backend, open, payloads, record};

#[test]
fn limits_are_errors_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { record_bytes_max: 1000, in_flight_bytes_max: 64 << 10, ..Config::default() };
    let log = open(&dir, &config);
    assert!(matches!(log.append(&[0; 1001]), Err(Error::RecordTooLarge { bytes: 1001, limit_bytes: 1000 })));
    let mut busy = false;
    let mut pending = Vec::new();
    for _ in 0..200_000 {
        match log.try_append(&[1; 1000]) {
            Ok(p) => pending.push(p),
            Err(Error::Busy { in_flight_bytes, limit_bytes }) => {
                assert!(in_flight_bytes <= limit_bytes);
                busy = true;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(busy, "the in-flight limit was never reached");
    let waited = log.append(&[2; 1000]).unwrap();
    waited.wait().unwrap();
    assert_eq!(payloads(&log, Lsn::FIRST).len(), pending.len() + 1);
}

#[test]
fn trimming_gives_space_back_and_readers_are_told() {
    on_every_backend(|dir, config| {
        let config = Config { segment_bytes_min: 256 << 10, segment_bytes_max: 256 << 10, ..config };
        let log = open(dir, &config);
        for i in 0..2000 {
            let pending = log.append(&[i as u8; 1000]).unwrap();
            if i % 100 == 0 {
                pending.wait().unwrap();
            }
        }
        log.flush().unwrap();
        let held = log.read(Lsn::new(10)).unwrap();
        let before = log.stats();
        log.trim(Lsn::new(1500)).unwrap();
        let after = log.stats();
        assert!(after.segments < before.segments);
        assert_eq!(log.first(), Lsn::new(1501));
        assert!(matches!(log.read(Lsn::new(1500)), Err(Error::Trimmed { first, .. }) if first == Lsn::new(1501)));
        assert_eq!(log.read(Lsn::new(1501)).unwrap().payload[0], (1500 % 256) as u8);
        let mut reader = log.reader(Lsn::FIRST);
        assert!(matches!(reader.next(), Some(Err(Error::Trimmed { .. }))));
        assert_eq!(reader.count(), 500, "iteration goes on behind the trim point");
        for i in 0..2000 {
            drop(log.append(&[i as u8; 1000]).unwrap());
        }
        log.flush().unwrap();
        assert!(held.payload.iter().all(|b| *b == 9), "bytes in somebody's hands changed");
        assert!(matches!(log.trim(Lsn::new(99_999)), Err(Error::BeyondEnd { .. })));
        drop(log);
        let log = open(dir, &config);
        assert_eq!(log.first(), Lsn::new(1501));
        assert_eq!(log.reader(Lsn::new(1501)).count(), 2500);
        assert!(log.verify(|_, _| {}).unwrap().is_sound());
    });
}

/// The segment that held the log's end when everything was given up is nobody's since an open began another.
#[test]
fn a_trim_that_was_made_already_gives_back_what_nobody_needs_since() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        for i in 0..10 {
            log.append(&record(i)).unwrap().wait().unwrap();
        }
        log.trim(Lsn::new(10)).unwrap();
        let chain = log.chain_at(Lsn::new(10)).unwrap();
        drop(log);
        let log = open(dir, &config);
        assert_eq!(log.stats().segments, 2);
        for _ in 0..2 {
            log.trim(Lsn::new(10)).unwrap();
            log.trim(Lsn::new(3)).unwrap();
            assert_eq!((log.stats().segments, log.first()), (1, Lsn::new(11)));
        }
        drop(log);
        for expected in 11..13 {
            let (log, recovery) = Log::open(dir.path(), config.clone()).unwrap();
            assert!(recovery.damage.is_empty() && recovery.missing_segments.is_empty(), "{recovery:?}");
            assert_eq!(log.chain_at(Lsn::new(10)).unwrap(), chain);
            assert_eq!(log.append(b"after").unwrap().wait().unwrap(), Lsn::new(expected));
            assert!(log.verify(|_, _| {}).unwrap().is_sound());
        }
    });
}

/// So do segments of which nothing is left to drop.
#[test]
fn what_was_trimmed_makes_room_where_the_oldest_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        byte_limit: Some(4 << 20),
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        when_full: WhenFull::DropOldest,
        ..Config::default()
    };
    let log = open(&dir, &config);
    log.append(&vec![7; 2 << 20]).unwrap().wait().unwrap();
    log.trim(Lsn::FIRST).unwrap();
    drop(log);
    let log = open(&dir, &config);
    let (sender, told) = std::sync::mpsc::channel();
    let appending = log.clone();
    std::thread::spawn(move || sender.send(appending.append(&vec![7; 2 << 20]).and_then(|it| it.wait())));
    let told = told.recv_timeout(20 * SECOND);
    let last = told.unwrap_or_else(|_| panic!("it waits for ever: {:?}", log.stats())).unwrap();
    assert_eq!((last, log.stats().dropped_frames), (Lsn::new(2), 0));
}

#[test]
fn a_byte_limit_and_its_three_policies() {
    let config = Config {
        byte_limit: Some(2 << 20),
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        record_bytes_max: 64 << 10,
        ..Config::default()
    };
    let fill = |log: &Log| loop {
        match log.append(&[7; 10_000]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    // Reject: a typed error; after a trim appends work again.
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config { when_full: WhenFull::Reject, ..config.clone() });
    assert!(matches!(fill(&log), Error::Full { .. }));
    assert!(log.stats().used_bytes <= 2 << 20, "{:?}", log.stats());
    let end = log.flush().unwrap();
    log.trim(end).unwrap();
    let mut tries = 0;
    while let Err(error) = log.append(&[8; 10_000]) {
        assert!(matches!(error, Error::Full { .. }) && tries < 500, "{error}");
        tries += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    log.flush().unwrap();
    drop(log);

    // Block: waits until somebody trims.
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config { when_full: WhenFull::Block, ..config.clone() });
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..400).for_each(|_| drop(log.append(&[7; 10_000]).unwrap())));
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            let flushed = log.flushed();
            log.trim(flushed).unwrap();
        }
    });
    assert_eq!(log.flush().unwrap(), Lsn::new(400));
    assert!(log.stats().used_bytes <= 2 << 20);
    drop(log);

    // DropOldest: goes on, and says what it gave up.
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config { when_full: WhenFull::DropOldest, ..config });
    for _ in 0..1000 {
        drop(log.append(&[7; 10_000]).unwrap());
    }
    log.flush().unwrap();
    // The last drop may still be under way in the background: wait until nothing moves while we look.
    let look = |log: &Log| {
        let (first, stats) = (log.first(), log.stats());
        (stats.dropped_frames, first.get() - 1, log.reader(first).filter(Result::is_ok).count() as u64)
    };
    let mut tries = 0;
    while !matches!(look(&log), (dropped, trimmed, left) if dropped == trimmed && dropped + left == 1000) {
        assert!(tries < 500, "dropped, trimmed, left of 1000: {:?}", look(&log));
        tries += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let stats = log.stats();
    assert!(stats.dropped_frames > 0 && stats.used_bytes <= 2 << 20, "{stats:?}");
}

/// A file between the oldest segment and the next is gone: the oldest one's own frames are not all that goes with it, or it would
/// stay, and with it the log.
#[test]
fn the_oldest_is_dropped_also_where_frames_are_missing_behind_it() {
    let config = Config {
        byte_limit: Some(2 << 20),
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        record_bytes_max: 64 << 10,
        when_full: WhenFull::DropOldest,
        ..Config::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &config);
    (0..100).for_each(|_| drop(log.append(&[7; 10_000]).unwrap()));
    log.close(20 * SECOND).unwrap();
    let segment = |number: u64| dir.path().join(format!("{number:020}.seg"));
    std::fs::remove_file(segment(2)).unwrap();
    let log = open(&dir, &config);
    assert!(segment(1).exists());
    let appending = log.clone();
    let (sender, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        (0..400).for_each(|_| drop(appending.append(&[8; 10_000]).unwrap()));
        sender.send(appending.flush())
    });
    let told = told.recv_timeout(20 * SECOND);
    let last = told.unwrap_or_else(|_| panic!("it waits for ever: {:?}", log.stats())).unwrap();
    assert_eq!(last, Lsn::new(500));
    assert!(!segment(1).exists() && log.first() > Lsn::new(100), "{:?}", log.stats());
}

/// One that could never be placed was wanted for ever: no segment was prepared any more, and with `DropOldest` all of the
/// log was given up for it.
#[test]
fn a_record_that_never_fits_leaves_the_log_as_it_is() {
    let limit = 4 << 20;
    let config = Config {
        byte_limit: Some(limit),
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        ..Config::default()
    };
    let too_large = vec![7; 3900 << 10];
    for when_full in [WhenFull::Reject, WhenFull::Block, WhenFull::DropOldest] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir, &Config { when_full, ..config.clone() });
        for _ in 0..200 {
            log.append(&[7; 10_000]).unwrap().wait().unwrap();
        }
        for _ in 0..10 {
            let told = log.try_append(&too_large).map(drop);
            assert!(matches!(told, Err(Error::Full { .. } | Error::Busy { .. })), "{told:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(log.stats().dropped_frames, 0);
        let told = log.try_append(&too_large).map(drop);
        assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
        assert!(matches!(log.append(&too_large), Err(Error::Full { .. })), "nobody is left waiting");
        assert!(matches!(block_on(log.reserve(3900 << 10)).map(drop), Err(Error::Full { .. })));
        let mut tries = 0;
        while log.stats().used_bytes + (600 << 10) < limit {
            let appended = log.try_append(&[7; 10_000]).map(drop);
            assert!(matches!(appended, Ok(()) | Err(Error::Busy { .. })), "{appended:?} at {:?}", log.stats());
            tries += u32::from(appended.is_err());
            assert!(tries < 1000, "no segment is prepared: {:?}", log.stats());
            std::thread::sleep(Duration::from_millis(u64::from(appended.is_err())));
        }
    }
}

#[test]
fn a_large_record_takes_no_more_of_the_oldest_than_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        byte_limit: Some(4 << 20),
        segment_bytes_min: 256 << 10,
        segment_bytes_max: 256 << 10,
        when_full: WhenFull::DropOldest,
        ..Config::default()
    };
    let log = open(&dir, &config);
    for round in 0..3 {
        for _ in 0..500 {
            log.append(&[7; 10_000]).unwrap().wait().unwrap();
        }
        let (sender, told) = std::sync::mpsc::channel();
        let appending = log.clone();
        std::thread::spawn(move || sender.send(appending.append(&vec![7; 2 << 20]).and_then(|it| it.wait())));
        let told = told.recv_timeout(20 * SECOND);
        let last = told.unwrap_or_else(|_| panic!("round {round}: it waits for ever: {:?}", log.stats())).unwrap();
        let first = log.first();
        assert!(last.get() - first.get() > 30, "round {round}: {first} to {last} are left, {:?}", log.stats());
        assert!(log.stats().used_bytes <= 4 << 20);
    }
}

/// The segment in use is as long as the record that it was made for: beside it the next such record has no room, and nothing
/// that is given up makes any. It waited for ever; within a batch, everybody else did too.
#[test]
fn a_large_record_behind_another_is_refused_and_holds_nobody_up() {
    for when_full in [WhenFull::Block, WhenFull::DropOldest] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            byte_limit: Some(4 << 20),
            segment_bytes_min: 256 << 10,
            segment_bytes_max: 256 << 10,
            when_full,
            ..Config::default()
        };
        let log = open(&dir, &config);
        let (sender, told) = std::sync::mpsc::channel();
        let appending = log.clone();
        std::thread::spawn(move || {
            let large = vec![7; 2 << 20];
            let first = appending.append(&large).map(drop);
            let alone = appending.append(&large).map(drop);
            let in_a_batch = appending.append_many(&[&b"small"[..], &large]).map(drop);
            sender.send((first, alone, in_a_batch)).unwrap();
        });
        let (first, alone, in_a_batch) =
            told.recv_timeout(20 * SECOND).unwrap_or_else(|_| panic!("it waits for ever: {:?}", log.stats()));
        first.unwrap();
        assert!(matches!(alone, Err(Error::Full { .. })), "{when_full:?}: {alone:?}");
        assert!(matches!(in_a_batch, Err(Error::Full { .. })), "{when_full:?}: {in_a_batch:?}");
        log.append(b"small").unwrap().wait().unwrap();
        assert_eq!(log.stats().dropped_frames, 0);
    }
}

#[test]
fn readers_beside_a_writer_that_trims_and_recycles_meet_nothing_but_the_trim() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        record_bytes_max: 32 << 10,
        idle_proof_after: Duration::from_millis(1),
        ..Config::default()
    };
    let log = open(&dir, &config);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut trimmed, mut frames) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            for i in 0..6000u64 {
                let lsn = log.append(&[i as u8; 3000]).unwrap().wait().unwrap();
                if i % 16 == 15 {
                    log.trim(Lsn::new(lsn.get().saturating_sub(60))).unwrap();
                }
            }
        });
        let read_only = Config { recovery: RecoveryMode::ReadOnly, create: false, ..config.clone() };
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let (reader, recovery) = Log::open(dir.path(), read_only.clone()).unwrap();
            assert!(recovery.damage.is_empty() && recovery.missing_segments.is_empty(), "{recovery:?}");
            for frame in reader.reader(reader.first()) {
                match frame {
                    Ok(frame) => {
                        assert_eq!(frame.payload, [(frame.lsn.get() - 1) as u8; 3000][..]);
                        frames += 1;
                    }
                    Err(Error::Trimmed { .. }) => trimmed += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            let report = reader.verify(|_, _| {}).unwrap();
            assert!(report.is_readable(), "{:?}", report.findings);
        }
    });
    assert!(log.stats().segments_recycled > 0 && frames > 0);
    println!("{frames} frames read, overtaken {trimmed} times");
}

struct StopOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
