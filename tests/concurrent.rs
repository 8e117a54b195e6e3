//! What several threads do to one log at once: cutting it at both ends, following it to its end.

#[path = "support/bed.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with other tests")]
mod bed;
#[path = "support/bytes.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with other tests")]
mod bytes;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
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
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut lsns = Vec::new();
    loop {
        match stream.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(frame)) => lsns.push(frame.unwrap().lsn.get()),
            Poll::Ready(None) => return lsns,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
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
