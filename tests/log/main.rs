//! The log as its users see it: append, wait, reopen, read, tail, truncate; in `space`, limits and trims. Each test runs on both
//! backends.

use std::future::Future;
use std::io::IoSlice;
use std::time::Duration;

use seawall::{BackendChoice, Config, DirectIo, Error, Log, Lsn, LsnRange, RecoveryMode};
use tempfile::TempDir;

mod space;
#[path = "../support/tasks.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod tasks;
use tasks::block_on;

const SECOND: Duration = Duration::from_secs(1);

fn configs() -> Vec<Config> {
    let base = Config { segment_bytes_max: 4 << 20, ..Config::default() };
    vec![
        Config { backend: BackendChoice::Auto, ..base.clone() },
        Config { backend: BackendChoice::Pwrite, ..base.clone() },
        Config { backend: BackendChoice::Auto, direct_io: DirectIo::Never, ..base.clone() },
        Config { backend: BackendChoice::Pwrite, direct_io: DirectIo::Never, ..base },
    ]
}

fn on_every_backend(test: impl Fn(&TempDir, Config)) {
    for config in configs() {
        eprintln!("backend {:?}, direct {:?}", config.backend, config.direct_io);
        test(&tempfile::tempdir().unwrap(), config);
    }
}

fn open(dir: &TempDir, config: &Config) -> Log {
    let driver = config.driver().unwrap();
    Log::open_with(dir.path(), config.clone(), &driver).unwrap().0
}

fn record(i: u64) -> Vec<u8> {
    let mut bytes = format!("record {i} ").into_bytes();
    bytes.resize(20 + (i as usize * 37) % 700, b'.');
    bytes
}

fn payloads(log: &Log, from: Lsn) -> Vec<Vec<u8>> {
    log.reader(from).map(|frame| frame.unwrap().payload.to_vec()).collect()
}

#[test]
fn what_was_waited_for_is_there_after_reopening() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        let mut expected = Vec::new();
        for i in 0..300 {
            let pending = log.append(&record(i)).unwrap();
            assert_eq!(pending.lsn(), Lsn::new(i + 1), "the position is known at once");
            assert_eq!(pending.wait().unwrap(), Lsn::new(i + 1));
            expected.push(record(i));
        }
        assert_eq!(payloads(&log, Lsn::FIRST), expected);
        drop(log);
        for clean in [false, true] {
            let (log, recovery) = Log::open(dir.path(), config.clone()).unwrap();
            assert_eq!((recovery.clean, recovery.end), (clean, Lsn::new(300)));
            assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
            assert_eq!(payloads(&log, Lsn::FIRST), expected);
            assert_eq!(payloads(&log, Lsn::new(299)), expected[298..]);
            assert!(log.verify(|_, _| {}).unwrap().is_sound());
            log.close(SECOND).unwrap();
        }
    });
}

#[test]
fn many_threads_share_groups_and_every_position_is_used_once() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        let mut lsns: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|t| {
                    let log = &log;
                    scope.spawn(move || {
                        (0..100)
                            .map(|i| log.append(&record(t * 1000 + i)).unwrap().wait().unwrap().get())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        lsns.sort_unstable();
        assert_eq!(lsns, (1..=1600).collect::<Vec<_>>());
        let groups = log.stats().group_frames.count;
        assert!(groups < 1600, "no group was ever shared");
        assert_eq!(payloads(&log, Lsn::FIRST).len(), 1600);
    });
}

#[test]
fn large_and_small_records_across_many_segments() {
    on_every_backend(|dir, config| {
        let config = Config { segment_bytes_min: 1 << 20, segment_bytes_max: 1 << 20, ..config };
        let log = open(dir, &config);
        let mut expected = Vec::new();
        let mut pending = Vec::new();
        for i in 0..120u64 {
            let size = match i % 4 {
                0 => 10,
                1 => 70_000,
                2 => 4096 - 64,
                _ => 300_001,
            };
            let bytes: Vec<u8> = (0..size).map(|k| (k as u64 * 31 + i) as u8).collect();
            pending.push(log.append(&bytes).unwrap());
            expected.push(bytes);
        }
        // One larger than the segments: the next segment grows for it.
        let large = vec![9u8; 3 << 20];
        pending.push(log.append(&large).unwrap());
        expected.push(large);
        for pending in pending {
            pending.wait().unwrap();
        }
        assert!(log.stats().rotations >= 10);
        assert_eq!(payloads(&log, Lsn::FIRST), expected);
        log.close(SECOND).unwrap();
        let log = open(dir, &config);
        assert_eq!(payloads(&log, Lsn::FIRST), expected);
        assert!(log.verify(|_, _| {}).unwrap().is_sound());
        assert_eq!(log.read(Lsn::new(121)).unwrap().payload.len(), 3 << 20);
    });
}

#[test]
fn pendings_are_futures_and_dropped_ones_are_written_all_the_same() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        block_on(async {
            for i in 0..50 {
                let permit = log.reserve(2000).await.unwrap();
                assert_eq!(permit.append(&record(i)).unwrap().await.unwrap(), Lsn::new(i + 1));
            }
        });
        drop(log.append(b"dropped").unwrap());
        let held = log.append(b"held").unwrap();
        let mut tail = log.tail(Lsn::new(51));
        assert_eq!(&tail.next_within(5 * SECOND).unwrap().unwrap().payload[..], b"dropped");
        assert_eq!(&tail.next_within(5 * SECOND).unwrap().unwrap().payload[..], b"held");
        assert!(held.is_settled());
    });
}

#[test]
fn parts_batches_and_buffers_of_users() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        log.append_vectored(&[IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"bc")]).unwrap().wait().unwrap();
        let pending = log.append_many(&[b"one".as_slice(), b"two", b""]).unwrap();
        assert_eq!(pending.lsns(), LsnRange::inclusive(Lsn::new(2), Lsn::new(4)));
        pending.wait().unwrap();
        let chained = bytes::Buf::chain(&b"first "[..], &b"second"[..]);
        log.append_buf(chained).unwrap().wait().unwrap();
        let all = payloads(&log, Lsn::FIRST);
        assert_eq!(all, [&b"abc"[..], b"one", b"two", b"", b"first second"]);
    });
}

/// Says that bytes remain and gives none.
struct Liar;
impl bytes::Buf for Liar {
    fn remaining(&self) -> usize {
        10
    }
    fn chunk(&self) -> &[u8] {
        &[]
    }
    fn advance(&mut self, _: usize) {}
}

/// Panics when it is read.
struct Bomb;
impl bytes::Buf for Bomb {
    fn remaining(&self) -> usize {
        10
    }
    fn chunk(&self) -> &[u8] {
        panic!("boom")
    }
    fn advance(&mut self, _: usize) {}
}

#[test]
fn a_lying_or_panicking_buffer_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config::default());
    assert!(matches!(log.append_buf(Liar), Err(Error::Invalid { .. })));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.append_buf(Bomb).map(drop))).is_err());
    assert_eq!(log.append(b"fine").unwrap().wait().unwrap(), Lsn::FIRST);
}

struct BadWaker;

impl std::task::Wake for BadWaker {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a bug in somebody's executor");
    }
}

#[test]
fn a_panicking_waker_costs_nobody_else_a_wake_up() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        for _ in 0..50 {
            let mut bad = Box::pin(log.append(b"bad").unwrap());
            let waker = std::task::Waker::from(std::sync::Arc::new(BadWaker));
            let _ = bad.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            let others: Vec<_> = (0..4).map(|_| log.append(b"good").unwrap()).collect();
            std::thread::scope(|scope| {
                let mut good = others.into_iter();
                scope.spawn(|| log.append(b"led").unwrap().wait().unwrap());
                good.by_ref().take(2).for_each(|pending| drop(scope.spawn(|| block_on(pending).unwrap())));
                for pending in good {
                    pending.wait().unwrap();
                }
            });
        }
        log.append(b"after").unwrap().wait().unwrap();
    });
}

#[test]
fn a_truncated_suffix_never_comes_back() {
    on_every_backend(|dir, config| {
        let config = Config { segment_bytes_min: 256 << 10, segment_bytes_max: 256 << 10, ..config };
        let log = open(dir, &config);
        for i in 0..1000u64 {
            drop(log.append(&[i as u8; 1000]).unwrap());
        }
        log.flush().unwrap();
        let mut reader = log.reader(Lsn::new(700));
        assert_eq!(reader.next().unwrap().unwrap().lsn, Lsn::new(700));
        assert_eq!(log.truncate(Lsn::new(333)).unwrap(), 1);
        assert_eq!(log.flushed(), Lsn::new(333));
        assert!(matches!(reader.next(), Some(Err(Error::Truncated { end, .. })) if end == Lsn::new(333)));
        assert!(matches!(log.read(Lsn::new(334)), Err(Error::BeyondEnd { .. })));
        let new = log.append(b"instead").unwrap();
        assert_eq!(new.wait().unwrap(), Lsn::new(334));
        assert_eq!(&reader.next().unwrap().unwrap().payload[..], b"instead");
        assert_eq!(log.truncate(Lsn::new(334)).unwrap(), 1, "nothing to remove");
        drop(log);
        let (log, recovery) = Log::open(dir.path(), config.clone()).unwrap();
        assert_eq!(recovery.end, Lsn::new(334), "{recovery:?}");
        assert_eq!(&log.read(Lsn::new(334)).unwrap().payload[..], b"instead");
        assert_eq!(log.read(Lsn::new(333)).unwrap().payload[0], (332 % 256) as u8);
        assert_eq!(log.reader(Lsn::FIRST).filter(Result::is_ok).count(), 334);
        assert!(log.verify(|_, _| {}).unwrap().is_sound());
        assert_eq!(log.truncate(Lsn::ZERO).unwrap(), 2);
        assert_eq!(log.append(b"from the start").unwrap().wait().unwrap(), Lsn::FIRST);
        drop(log);
        let log = open(dir, &config);
        assert_eq!(payloads(&log, Lsn::FIRST), [b"from the start"]);
    });
}

#[test]
fn a_reader_is_told_of_a_truncation_that_was_written_over() {
    on_every_backend(|dir, config| {
        let log = open(dir, &config);
        let append = |from: u64| (from..from + 9).for_each(|i| _ = log.append(&record(i)).unwrap().wait().unwrap());
        append(0);
        let mut behind = log.reader(Lsn::FIRST);
        assert_eq!(behind.by_ref().take(9).filter(Result::is_ok).count(), 9);
        let mut within = log.reader(Lsn::new(2));
        assert_eq!(within.next().unwrap().unwrap().lsn, Lsn::new(2));
        // Below and above each other: the lowest counts.
        for (end, from) in [(5, 100), (7, 200)] {
            log.truncate(Lsn::new(end)).unwrap();
            append(from);
        }
        let new: Vec<Vec<u8>> = [100, 101].into_iter().chain(200..209).map(record).collect();
        assert!(matches!(behind.next(), Some(Err(Error::Truncated { end, .. })) if end == Lsn::new(5)));
        let read: Vec<Vec<u8>> = behind.map(|frame| frame.unwrap().payload.to_vec()).collect();
        assert!(read == new, "{} frames", read.len());
        // Who has not read what was cut has nothing to take back.
        let old: Vec<Vec<u8>> = (2..5).map(record).collect();
        let read: Vec<Vec<u8>> = within.map(|frame| frame.unwrap().payload.to_vec()).collect();
        assert!(read == [old, new].concat(), "{} frames", read.len());
    });
}

/// A reader at the head whose window was read before the segment was full took what came behind it for missing: every
/// frame up to the segment's end was told as corrupt.
#[test]
fn a_slow_reader_does_not_mind_a_change_of_segments() {
    on_every_backend(|dir, config| {
        // Nothing is served from memory, and three records fill a segment.
        let config =
            Config { memory_tail_bytes: 0, segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10, ..config };
        let log = open(dir, &config);
        let append = |count| {
            for _ in 0..count {
                log.append(&[7; 14 << 10]).unwrap().wait().unwrap();
            }
        };
        let mut slow = log.tail(Lsn::FIRST);
        let mut read = |count| {
            for _ in 0..count {
                slow.next().unwrap().unwrap();
            }
        };
        for _ in 0..5 {
            append(1);
            read(1);
            append(4);
            read(4);
        }
    });
}

#[test]
fn one_writer_at_a_time_any_number_of_readers() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config::default());
    for i in 0..10 {
        log.append(&record(i)).unwrap().wait().unwrap();
    }
    match Log::open(dir.path(), Config::default()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    // The idle proof makes everything readable for others.
    let read_only = Config { recovery: RecoveryMode::ReadOnly, create: false, ..Config::default() };
    let mut seen = 0;
    for _ in 0..200 {
        let (reader, _) = Log::open(dir.path(), read_only.clone()).unwrap();
        seen = reader.reader(Lsn::FIRST).filter(Result::is_ok).count();
        assert!(matches!(reader.append(b"x"), Err(Error::ReadOnly)));
        if seen == 10 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(seen, 10);
    drop(log);
    open(&dir, &Config::default());
}

#[test]
fn opening_a_thousand_times_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let log = open(&dir, &config);
    log.append(b"only").unwrap().wait().unwrap();
    drop(log);
    let files = |dir: &TempDir| {
        // Preparation goes on in the background for a moment.
        let mut names: Vec<(String, u64)> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
            })
            .filter(|(name, _)| name.ends_with(".seg"))
            .collect();
        names.sort();
        names
    };
    for _ in 0..3 {
        let log = open(&dir, &config);
        while log.stats().spare_segments < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let before = files(&dir);
    for i in 0..1000 {
        let (log, recovery) = Log::open(dir.path(), config.clone()).unwrap();
        assert_eq!(recovery.end, Lsn::FIRST);
        if i % 2 == 0 {
            log.close(SECOND).unwrap();
        }
    }
    assert_eq!(files(&dir), before);
}

#[test]
fn what_was_dropped_unclosed_is_unknown_not_absent() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { sweep_interval: SECOND, ..Config::default() };
    let log = open(&dir, &config);
    log.append(b"flushed").unwrap().wait().unwrap();
    let pending = log.append(b"never written").unwrap();
    drop(log);
    assert!(matches!(pending.wait(), Err(Error::Unknown { .. })));
}

#[test]
fn a_deadline_beyond_what_the_clock_can_say_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, &Config::default());
    log.append(b"only").unwrap().wait().unwrap();
    let (mut following, mut patient) = (log.tail(Lsn::FIRST), log.tail(Lsn::new(2)));
    let following = std::thread::spawn(move || following.by_ref().filter(Result::is_ok).count());
    let patient = std::thread::spawn(move || patient.next_within(Duration::MAX).map(|frame| frame.is_some()));
    log.close(Duration::MAX).unwrap();
    assert_eq!(following.join().unwrap(), 1);
    assert!(matches!(patient.join().unwrap(), Ok(false)));
    assert!(Log::open(dir.path(), Config::default()).unwrap().1.clean);
}

#[test]
fn a_reader_from_a_time() {
    on_every_backend(|dir, config| {
        let config = Config { segment_bytes_min: 256 << 10, segment_bytes_max: 256 << 10, ..config };
        let log = open(dir, &config);
        let mut times = Vec::new();
        for i in 0..1000 {
            drop(log.append(&[i as u8; 1000]).unwrap());
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        log.flush().unwrap();
        for frame in log.reader(Lsn::FIRST) {
            times.push(frame.unwrap().time_micros);
        }
        assert!(times.is_sorted());
        for at in [0, 1, 499, 500, 998, 999] {
            let first = times.iter().position(|t| *t >= times[at]).unwrap() as u64 + 1;
            assert_eq!(log.first_at(times[at]).unwrap(), Lsn::new(first));
        }
        assert_eq!(log.first_at(0).unwrap(), Lsn::FIRST);
        assert_eq!(log.first_at(u64::MAX).unwrap(), Lsn::new(1001));
    });
}

#[test]
fn the_forked_child_gets_an_error() {
    // The child must not touch locks that other threads of the parent may have held: it only asks and leaves.
    let dir = tempfile::tempdir().unwrap();
    // Nobody but who waits for it writes what is queued.
    let log = open(&dir, &Config { sweep_interval: SECOND, ..Config::default() });
    log.append(b"parent").unwrap().wait().unwrap();
    let mut queued = log.append(b"parent, not yet written").unwrap();
    let other = log.clone();
    let code = fork_and(|| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let polled = match std::pin::Pin::new(&mut queued).poll(&mut context) {
            std::task::Poll::Ready(polled) => polled.map(drop),
            std::task::Poll::Pending => Ok(()),
        };
        let forked = [
            polled,
            log.append(b"child").map(drop),
            log.flush().map(drop),
            log.read(Lsn::FIRST).map(drop),
            log.trim(Lsn::FIRST),
            log.truncate(Lsn::ZERO).map(drop),
            other.close(SECOND),
        ];
        forked.iter().position(|done| !matches!(done, Err(Error::Forked))).map_or(0, |at| at as i32 + 1)
    });
    assert_eq!(code, 0, "the child could do what the parent alone may");
    assert_eq!(queued.wait().unwrap(), Lsn::new(2));
    // The child's end has taken nothing from the parent: another writer still finds the log locked.
    assert!(matches!(Log::open(dir.path(), Config::default()), Err(Error::Locked { .. })));
    assert_eq!(log.append(b"parent").unwrap().wait().unwrap(), Lsn::new(3));
}

#[allow(unsafe_code)]
fn fork_and(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls one function that takes no lock and allocates nothing, and leaves without unwinding.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(child()),
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                libc::WEXITSTATUS(status)
            }
        }
    }
}

#[test]
fn opening_tells_how_far_the_scan_of_the_tail_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_min: 8 << 20, segment_bytes_max: 8 << 20, ..Config::default() };
    let log = open(&dir, &config);
    for _ in 0..60 {
        drop(log.append(&[1; 100_000]).unwrap());
    }
    log.flush().unwrap();
    drop(log);
    let told = std::cell::RefCell::new(Vec::new());
    let driver = config.driver().unwrap();
    let watch = |progress| told.borrow_mut().push(progress);
    let (log, recovery) = Log::open_watched(dir.path(), config.clone(), &driver, watch).unwrap();
    let told = told.take();
    assert!(told.len() >= 8 && recovery.bytes_scanned >= 8 << 20, "{told:?}");
    // The segment above is looked through as well: its seal might have rotted.
    let rises = |pair: &[seawall::RecoveryProgress]| {
        pair[0].segment != pair[1].segment || pair[0].scanned_bytes < pair[1].scanned_bytes
    };
    assert!(told.windows(2).all(rises), "{told:?}");
    let last = told.last().unwrap();
    assert_eq!((last.scanned_bytes, last.file_bytes), (8 << 20, 8 << 20));
    // After a close there is nothing to scan, but for a segment that was being prepared.
    let began = std::time::Instant::now();
    while log.stats().spare_segments < 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", log.stats());
        std::thread::yield_now();
    }
    log.close(SECOND).unwrap();
    let watch = |progress| panic!("{progress:?}");
    assert!(Log::open_watched(dir.path(), config, &driver, watch).unwrap().1.clean);
}
