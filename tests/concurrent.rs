//! What several threads do to one log at once: cutting it at both ends, following it to its end.

#[path = "support/bed.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with other tests")]
mod bed;
#[path = "support/bytes.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with other tests")]
mod bytes;
#[path = "support/skip.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with other tests")]
mod skip;
#[path = "support/tasks.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod tasks;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use seawall::{Config, Error, Lsn};

fn small_segments(config: Config) -> Config {
    Config {
        idle_proof_after: Duration::from_millis(1),
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        ..config
    }
}

#[test]
fn truncations_trims_appends_and_idle_proofs_at_once() {
    for config in [bed::direct(), bed::buffered()] {
        let config = small_segments(Config { retain_bytes: Some(256 << 10), ..config });
        let dir = bed::empty(&config);
        let (log, _) = bed::open(&dir, &config);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for i in 0..60u64 {
                        let end = log.flushed().get();
                        match log.truncate(Lsn::new(end.saturating_sub(i % 3))) {
                            Ok(_) | Err(Error::Trimmed { .. } | Error::BeyondEnd { .. } | Error::Full { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                        // Long enough for a proof to come in between.
                        std::thread::sleep(Duration::from_millis(i % 4));
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match log.trim(Lsn::new(log.flushed().get().saturating_sub(5))) {
                        Ok(()) | Err(Error::BeyondEnd { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
            for thread in 0..2 {
                let (log, stop) = (&log, &stop);
                scope.spawn(move || {
                    let mut appended = 0;
                    while !stop.load(Ordering::Relaxed) {
                        match log.try_append(&vec![thread; 3000]) {
                            Ok(pending) => drop(pending),
                            Err(Error::Busy { .. }) => std::thread::sleep(Duration::from_micros(200)),
                            Err(other) => panic!("{other:?}"),
                        }
                        appended += 1;
                        if appended % 8 == 0 {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    }
                });
            }
        });
        let end = log.flush().unwrap();
        let marks = log.watermarks();
        assert!(marks.trimmed <= end && marks.flushed == end, "{marks:?}");
        let held: Vec<_> = log.reader(log.first()).map(|frame| frame.unwrap()).collect();
        assert_eq!(held.len() as u64, end.since(marks.trimmed));
        let first = log.first();
        drop(log);
        let (log, recovery) = bed::open(&dir, &config);
        assert!(recovery.damage.is_empty() && recovery.end == end, "{recovery:?}");
        assert_eq!(log.first(), first, "the trim point has moved back");
        assert!(log.reader(first).map(|frame| frame.unwrap()).eq(held));
    }
}

#[test]
fn the_trim_point_never_moves_back() {
    let config = small_segments(bed::direct());
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    for _ in 0..400 {
        drop(log.append(&[1; 2000]).unwrap());
    }
    log.flush().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = &log;
            scope.spawn(move || {
                for upto in (thread..390).step_by(4) {
                    let before = log.first();
                    log.trim(Lsn::new(upto)).unwrap();
                    assert!(log.first() >= before);
                }
            });
        }
    });
    let first = log.first();
    assert_eq!(first, Lsn::new(390));
    drop(log);
    let (log, recovery) = bed::open(&dir, &config);
    assert!(recovery.missing_segments.is_empty(), "{recovery:?}");
    assert_eq!(log.first(), first);
}

#[test]
fn who_follows_a_log_gets_everything_that_its_close_flushes() {
    for round in 0..30 {
        let config = bed::direct();
        let dir = bed::empty(&config);
        let (log, _) = bed::open(&dir, &config);
        let (blocking, streamed) = std::thread::scope(|scope| {
            let blocking = scope.spawn({
                let tail = log.tail(Lsn::FIRST);
                move || tail.map(|frame| frame.unwrap().lsn.get()).collect::<Vec<_>>()
            });
            let streamed = scope.spawn({
                let stream = log.stream(Lsn::FIRST);
                move || collect(stream)
            });
            for _ in 0..20 {
                drop(log.append(&[round; 5000]).unwrap());
            }
            // Nobody has waited: the close writes what is queued.
            log.clone().close(Duration::from_secs(5)).unwrap();
            (blocking.join().unwrap(), streamed.join().unwrap())
        });
        let all: Vec<u64> = (1..=20).collect();
        assert_eq!((&blocking, &streamed), (&all, &all), "round {round}");
    }
}

/// Everything a stream gives.
fn collect(stream: impl futures_core::Stream<Item = seawall::Result<seawall::Frame>>) -> Vec<u64> {
    let mut stream = pin!(stream);
    let waker = tasks::waker();
    let mut context = Context::from_waker(&waker);
    let mut lsns = Vec::new();
    loop {
        match stream.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(frame)) => lsns.push(frame.unwrap().lsn.get()),
            Poll::Ready(None) => return lsns,
            Poll::Pending => tasks::park(),
        }
    }
}

#[cfg(feature = "lz4")]
#[test]
fn a_compressed_record_that_is_too_large_for_this_reader_is_no_damage() {
    let config = Config { compression: seawall::Compression::Lz4, ..bed::direct() };
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let records: Vec<Vec<u8>> = vec![vec![7; 50_000], vec![8; 100], bed::sized(1, 20_000), vec![9; 300_000]];
    bed::append_each(&log, &records);
    assert!(log.stats().frame_bytes < 60_000, "nothing was compressed: {}", log.stats().frame_bytes);
    bed::close(log);
    let (log, _) = bed::open(&dir, &config);
    let read: Vec<_> = log.reader(Lsn::FIRST).map(|frame| frame.unwrap().payload).collect();
    assert!(read.iter().eq(&records));
    bed::close(log);
    let small = Config { record_bytes_max: 60_000, ..config };
    let (log, _) = bed::open(&dir, &small);
    let read: Vec<_> = log.reader(Lsn::FIRST).collect();
    assert!(read[..3].iter().all(Result::is_ok), "{read:?}");
    assert!(matches!(read[3], Err(Error::RecordTooLarge { bytes: 300_000, limit_bytes: 60_000 })), "{read:?}");
    assert!(log.verify(|_, _| {}).unwrap().is_sound());
    assert!(log.stats().faulty_ranges.is_empty());
}

#[test]
fn giving_up_everything_beside_writers_takes_nothing_that_came_later() {
    let config = small_segments(bed::direct());
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..700).for_each(|_| assert!(log.append(&[5; 4000]).unwrap().wait().is_ok()))))
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    log.trim(log.flushed()).unwrap();
                    // What was acknowledged since is still there.
                    let first = log.first();
                    for frame in log.range(seawall::LsnRange::inclusive(first, log.flushed())) {
                        match frame {
                            Ok(_) | Err(Error::Trimmed { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    let first = log.first();
    assert_eq!(log.reader(first).map(Result::unwrap).count() as u64, 1401 - first.get());
    drop(log);
    let (log, recovery) = bed::open(&dir, &config);
    assert!(recovery.missing_segments.is_empty() && recovery.end == Lsn::new(1400), "{recovery:?}");
    assert_eq!(log.reader(first).map(Result::unwrap).count() as u64, 1401 - first.get());
}

#[test]
fn who_waits_for_a_frame_that_is_truncated_is_told() {
    let config = bed::direct();
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let mut pendings: Vec<_> = (0..5).map(|i| log.append(&[i; 100]).unwrap()).collect();
    log.truncate(Lsn::new(2)).unwrap();
    let again: Vec<_> = (0..4).map(|i| log.append(&[10 + i; 100]).unwrap()).collect();
    assert_eq!(again[2].lsn(), Lsn::new(5));
    log.flush().unwrap();
    log.truncate(Lsn::new(4)).unwrap();
    let last = pendings.pop().unwrap();
    assert!(last.is_settled());
    let told = |result: Result<Lsn, Error>| match result {
        Err(Error::Truncated { end, .. }) => Err(end.get()),
        other => Ok(other.unwrap().get()),
    };
    assert_eq!(told(tasks::block_on(last)), Err(2), "another record stands there now");
    let waited: Vec<_> = pendings.into_iter().map(|pending| told(pending.wait())).collect();
    assert_eq!(waited, [Ok(1), Ok(2), Err(2), Err(2)]);
    let waited: Vec<_> = again.into_iter().map(|pending| told(pending.wait())).collect();
    assert_eq!(waited, [Ok(3), Ok(4), Err(4), Err(4)]);
    // And those who wait already.
    std::thread::scope(|scope| {
        for _ in 0..200 {
            let pending = log.append(b"soon gone").unwrap();
            let waiting = scope.spawn(move || pending.wait());
            log.truncate(Lsn::new(4)).unwrap();
            assert!(matches!(waiting.join().unwrap(), Ok(_) | Err(Error::Truncated { .. })));
        }
    });
}

#[test]
fn a_batch_has_consecutive_positions_however_crowded_it_is() {
    let config = small_segments(Config { in_flight_bytes_max: 64 << 10, record_bytes_max: 32 << 10, ..bed::direct() });
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..8u8 {
                    let records: Vec<Vec<u8>> = (0..30).map(|i| vec![thread * 8 + round, i, thread]).collect();
                    let records: Vec<Vec<u8>> = records.iter().map(|record| record.repeat(1000)).collect();
                    let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                    let pending = log.append_many(&slices).unwrap();
                    let lsns = pending.lsns();
                    assert_eq!(lsns.frames(), 30);
                    drop(log.append(&[99; 500]).unwrap());
                    pending.wait().unwrap();
                    let read: Vec<_> = log.range(lsns).map(|frame| frame.unwrap().payload).collect();
                    assert!(read.iter().eq(&records), "others' records stand at {lsns}");
                }
            });
        }
    });
}

#[test]
fn a_batch_is_truncated_as_a_whole_or_not_at_all() {
    let config = small_segments(Config { in_flight_bytes_max: 64 << 10, record_bytes_max: 32 << 10, ..bed::direct() });
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                log.truncate(log.first().previous()).unwrap();
            }
        });
        for _ in 0..40 {
            let records = vec![vec![1; 3000]; 40];
            let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let pending = log.append_many(&slices).unwrap();
            assert_eq!(pending.lsns().frames(), 40);
            assert!(matches!(pending.wait(), Ok(_) | Err(Error::Truncated { .. })));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_flush_ends_when_its_own_records_are_flushed() {
    let config = bed::direct();
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(log.append(&[1; 2000]).unwrap());
                }
            });
        }
        for _ in 0..20 {
            let end = log.flush().unwrap();
            assert!(log.flushed() >= end);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_nobody_waits_for_is_written_soon_also_after_a_proof() {
    let config = Config { idle_proof_after: Duration::from_secs(1), ..bed::direct() };
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let one = log.append(b"one").unwrap().wait().unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    drop(log.append(b"two").unwrap());
    let mut waited = 0;
    while log.flushed() == one {
        assert!(waited < 500, "it waits for the next proof");
        std::thread::sleep(Duration::from_millis(1));
        waited += 1;
    }
}

#[test]
fn a_truncation_of_a_log_that_is_closed_meanwhile_ends() {
    for round in 0..20u64 {
        let config = small_segments(bed::direct());
        let dir = bed::empty(&config);
        let (log, _) = bed::open(&dir, &config);
        bed::append_each(&log, &(0..10).map(bed::record).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            let truncating = scope.spawn(|| (0..8).rev().map(|end| log.truncate(Lsn::new(end))).collect::<Vec<_>>());
            std::thread::sleep(Duration::from_micros(round * 300));
            let _ = log.clone().close(Duration::from_secs(5));
            for outcome in truncating.join().unwrap() {
                assert!(
                    matches!(outcome, Ok(_) | Err(Error::Closed | Error::Poisoned { .. } | Error::Full { .. })),
                    "{outcome:?}"
                );
            }
        });
    }
}

#[test]
fn frames_behind_a_truncation_are_not_set_aside_with_those_that_were_before() {
    let config = bed::direct();
    let dir = bed::empty(&config);
    let (log, _) = bed::open(&dir, &config);
    let records: Vec<Vec<u8>> = (0..60).map(bed::record).collect();
    bed::append_each(&log, &records);
    log.quarantine(seawall::LsnRange::new(Lsn::new(35), Lsn::new(60))).unwrap();
    log.truncate(Lsn::new(40)).unwrap();
    bed::append_each(&log, &[b"41".to_vec(), b"42".to_vec()]);
    let look = |log: &seawall::Log| {
        assert_eq!(&log.read(Lsn::new(41)).unwrap().payload[..], b"41");
        assert!(matches!(log.read(Lsn::new(40)), Err(Error::Quarantined { lsns }) if lsns.end == Lsn::new(41)));
    };
    look(&log);
    drop(log);
    look(&bed::open(&dir, &config).0);
}
