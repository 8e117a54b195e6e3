//! A receiver whose log is damaged, full or gone.

use std::future::Future;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use seawall::node::{LocalSource, Receiver, ReceiverError};
use seawall::receiver::{Poison, ReceiverConfig, RecordCheck, Sequences, WaitFor};
use seawall::storage::{Driver, DriverConfig};
use seawall::{Config, Error, Log, Lsn, RecoveryMode, Seq, SourceId};

use crate::skip::skipped;
use crate::store::futures;
use crate::{Running, records, reopen, small};

/// Nothing here takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails, rather than hangs.
pub(crate) fn within_patience<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waited) = mpsc::channel();
    std::thread::spawn(move || done.send(what()));
    waited.recv_timeout(PATIENCE).expect("it ended within a minute")
}

#[test]
fn damage_in_what_tells_the_sources_is_refused_unless_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    for record in ["first of them", "second of them", "third of them"] {
        source.store_blocking(&[record]).unwrap();
    }
    drop(source);
    running.close();
    flip_bit_at(dir.path(), b"second of them");
    let quarantine = || Config { recovery: RecoveryMode::Quarantine, ..Config::default() };
    let log = reopen(dir.path(), &quarantine());
    let error = Receiver::open(log, "test", ReceiverConfig::default()).unwrap_err();
    assert!(matches!(error, ReceiverError::StateDamaged { .. }), "{error}");
    assert!(error.to_string().contains("accept_damage"), "{error}");
    assert!(error.to_string().contains(&format!(" of {} cannot", dir.path().display())), "{error}");
    let log = reopen(dir.path(), &quarantine());
    let config = ReceiverConfig { accept_damage: true, ..ReceiverConfig::default() };
    let (receiver, _driver, replayed) = Receiver::open(log, "test", config).unwrap();
    assert_eq!(replayed.damaged.len(), 1, "{replayed:?}");
    assert_eq!(receiver.source(&SourceId::new("a").unwrap()).unwrap().durable, Seq::new(3));
}

/// A source that sends nothing any more is told by the snapshot alone. Where that was damaged and given up, it was taken for
/// a new one, and asked for everything again.
#[test]
fn what_a_lost_snapshot_told_is_told_by_the_blocks_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let often = || ReceiverConfig { snapshot_interval_bytes: 1024, ..ReceiverConfig::default() };
    let quiet = SourceId::new("quiet").unwrap();
    let running = Running::open(dir.path(), often());
    running.receiver.local_blocking("quiet").unwrap().store_blocking(&["only"]).unwrap();
    let mut source = running.receiver.local_blocking("a").unwrap();
    for _ in 0..10 {
        source.store_blocking(&[[7u8; 300]]).unwrap();
    }
    drop(source);
    running.close();
    // Behind its session and its record, only snapshots speak of it.
    flip_each_bit_at(dir.path(), b"quiet", 2);
    let quarantine = || Config { recovery: RecoveryMode::Quarantine, ..Config::default() };
    let error = Receiver::open(reopen(dir.path(), &quarantine()), "test", often()).unwrap_err();
    assert!(matches!(error, ReceiverError::StateDamaged { .. }), "{error}");
    let given_up = ReceiverConfig { accept_damage: true, ..ReceiverConfig::default() };
    let running = Running::open_damaged(reopen(dir.path(), &quarantine()), given_up);
    assert_eq!(running.receiver.source(&quiet).unwrap().durable, Seq::new(1));
    // It is written down anew at once: the next open needs no permission.
    let began = std::time::Instant::now();
    let end = running.log.flushed();
    while running.log.flushed() == end {
        assert!(began.elapsed() < PATIENCE, "no snapshot");
        running.receiver.set_rate(None);
        std::thread::sleep(Duration::from_millis(1));
    }
    running.close();
    let (receiver, _driver, replayed) = Receiver::open(reopen(dir.path(), &quarantine()), "test", often()).unwrap();
    assert!(replayed.damaged.is_empty(), "{replayed:?}");
    assert_eq!(receiver.source(&quiet).unwrap().durable, Seq::new(1));
}

/// Flips a bit wherever the marker stands, but for the first places.
fn flip_each_bit_at(dir: &std::path::Path, marker: &[u8], leave: usize) {
    use std::os::unix::fs::FileExt;
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut left = leave;
    for path in paths {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for at in (0..bytes.len().saturating_sub(marker.len())).filter(|at| bytes[*at..].starts_with(marker)) {
            match left {
                0 => file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap(),
                _ => left -= 1,
            }
        }
        file.sync_all().unwrap();
    }
}

fn flip_bit_at(dir: &std::path::Path, marker: &[u8]) {
    use std::os::unix::fs::FileExt;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            file.sync_all().unwrap();
            return;
        }
    }
    panic!("no file holds the marker");
}

fn limits() -> ReceiverConfig {
    ReceiverConfig { block_bytes_max: 16 << 10, frame_bytes_max: 16 << 10, ..ReceiverConfig::default() }
}

/// A log with room for little, and a record in the receiver's memory that it has no space for.
fn full(dir: &std::path::Path) -> (Running, LocalSource) {
    let (log, _) = Log::open(dir, small()).unwrap();
    let running = Running::open_log(log, limits());
    let id = SourceId::new("a");
    let mut source = futures(running.receiver.local_with(id, Sequences::Dense, WaitFor::Received)).unwrap();
    for _ in 0..40 {
        futures(source.receive(&[[7u8; 10_000]])).unwrap();
    }
    (running, source)
}

#[test]
fn a_full_disk_holds_one_timer_however_many_ask() {
    let dir = tempfile::tempdir().unwrap();
    let (running, source) = full(dir.path());
    let retrying = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.trim() == "seawall-retry").count()
    };
    let began = std::time::Instant::now();
    while running.receiver.stats().intake.charged_bytes == 0 || retrying() == 0 {
        assert!(began.elapsed() < PATIENCE, "the log was not full: {:?}", running.receiver.stats());
    }
    for _ in 0..1000 {
        drop(running.receiver.connect().unwrap());
    }
    // Tests that run beside it have theirs.
    assert!(retrying() <= 50, "{} timers", retrying());
    drop(source);
    running.receiver.shut_down();
    assert!(within_patience(|| running.thread.join()).is_err());
}

#[test]
fn who_wants_to_end_does_not_wait_for_space() {
    let dir = tempfile::tempdir().unwrap();
    let (running, source) = full(dir.path());
    drop(source);
    running.receiver.shut_down();
    let error = within_patience(|| running.thread.join()).unwrap_err();
    assert!(matches!(error, ReceiverError::Log(seawall::Error::Full { .. })), "{error}");
    // What was acknowledged by then is there.
    let durable = running.receiver.source(&SourceId::new("a").unwrap()).unwrap().durable.get();
    assert!(durable > 0 && durable < 40, "{durable}");
    assert!(records(&running.log).len() as u64 >= durable);
}

/// Whoever wants to end does not wait for space, but for what has found some: it is told to be durable.
#[test]
fn who_wants_to_end_hears_first_of_what_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody turns it: what is on its way stays there.
    let (io, io_loop) = match Driver::in_event_loop(DriverConfig::default()) {
        Ok(both) => both,
        Err(e) => return skipped(format_args!("an event loop, which needs io_uring: {e}")),
    };
    let (log, _) = Log::open_with(dir.path(), small(), &io).unwrap();
    let (receiver, driver, _) = Receiver::open(log.clone(), "test", limits()).unwrap();
    let open = || futures(receiver.local_with(None, Sequences::None, WaitFor::Durable)).unwrap();
    let (mut one, mut other) = (open(), open());
    let context = &mut Context::from_waker(Waker::noop());
    // The first segment comes to be meanwhile.
    while matches!(log.try_append(b"before"), Err(Error::Busy { .. })) {}
    let mut first = Box::pin(one.store(&["first"]));
    assert!(first.as_mut().poll(context).is_pending());
    assert_eq!(receiver.stats().intake.blocks, 1);
    // To the last byte.
    for length in [10_000, 1000, 100, 1] {
        while !matches!(log.try_append(&vec![0; length]), Err(Error::Full { .. })) {}
    }
    let mut second = Box::pin(other.store(&["second"]));
    assert!(second.as_mut().poll(context).is_pending());
    receiver.shut_down();
    let mut runs = Box::pin(driver.run());
    assert!(runs.as_mut().poll(context).is_pending(), "the first is on its way");
    // Behind it, a thread does what there is to do.
    drop(io_loop);
    let error = futures(runs).unwrap_err();
    assert!(matches!(error, ReceiverError::Log(Error::Full { .. })), "{error}");
    assert_eq!(receiver.durable(), Lsn::new(2), "behind what was there before, the first");
    assert!(futures(first).is_ok(), "it is told, also once the driver has ended");
    assert!(futures(second).is_err());
}

/// One segment that could not be prepared ended the receiver, for all sources; nothing had been written.
#[test]
fn a_segment_that_cannot_be_prepared_for_once_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let of_log = Config { byte_limit: None, ..small() };
    let running = Running::open_log(Log::open(dir.path(), of_log).unwrap().0, limits());
    // Once there is one.
    let mut source = running.receiver.local_blocking("a").unwrap();
    // What stands under a segment's name before it is one, and cannot be removed.
    let in_the_way: Vec<_> = (1..50).map(|n| dir.path().join(format!("{n:020}.seg.new"))).collect();
    let in_the_way: Vec<_> = in_the_way.into_iter().filter(|path| std::fs::create_dir(path).is_ok()).collect();
    let stores = std::thread::spawn(move || {
        (0..40).try_for_each(|_| source.store_blocking(&[[7u8; 10_000]]).map(drop)).map_err(|e| e.to_string())
    });
    until("no segment is left", || {
        let waits = running.receiver.stats().intake.charged_bytes > 0 && running.log.stats().full.is_some();
        waits || stores.is_finished()
    });
    assert!(running.log.stats().full.is_some_and(|why| !why.contains("space")), "{:?}", running.log.stats().full);
    in_the_way.iter().for_each(|path| std::fs::remove_dir(path).unwrap());
    within_patience(|| stores.join().unwrap()).unwrap();
    assert_eq!(records(&running.log).len(), 40);
    running.close();
}

#[test]
fn rejects_are_taken_note_of_once_by_who_does_not_wait_for_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
    let config = ReceiverConfig { poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let check = RecordCheck::new(|record| if record == b"bad" { Err("bad".into()) } else { Ok(()) });
    let (receiver, driver, _) = Receiver::open_with(log, "test", config, Some(check), &|_, _| {}).unwrap();
    let _thread = driver.spawn().unwrap();
    let id = SourceId::new("a").unwrap();
    let watched = receiver.clone();
    within_patience(move || {
        let mut source = futures(receiver.local_with(Some(id.clone()), Sequences::Dense, WaitFor::Received)).unwrap();
        futures(source.receive(&["good", "bad"])).unwrap();
        while receiver.source(&id).unwrap().durable < Seq::new(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..10 {
            futures(source.receive(&["good"])).unwrap();
        }
        source.store_blocking(&["good"]).unwrap();
        assert_eq!(receiver.source(&id).unwrap().rejects_unseen, 0);
    });
    assert_eq!(watched.stats().intake.rejected, 1);
}

#[test]
fn who_waits_for_room_hears_that_the_log_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let limits = ReceiverConfig { in_flight_bytes_max: 64 << 10, ..limits() };
    let (receiver, driver, _) = Receiver::open(log, "test", limits).unwrap();
    let thread = driver.spawn().unwrap();
    let id = SourceId::new("a");
    let mut source = futures(receiver.local_with(id, Sequences::Dense, WaitFor::Received)).unwrap();
    // What finds no space in the log keeps its room.
    let stores = std::thread::spawn(move || {
        loop {
            if let Err(error) = futures(source.receive(&[[7u8; 10_000]])) {
                return error;
            }
        }
    });
    let watch = receiver.connect().unwrap();
    // Until it waits, and nothing moves any more that could give it room.
    let mut before = receiver.log().flushed();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = receiver.log().flushed();
        if watch.is_contended() && now == before {
            break;
        }
        before = now;
    }
    receiver.log().clone().close(PATIENCE).unwrap();
    let error = within_patience(|| stores.join().unwrap());
    assert!(matches!(error, ReceiverError::Log(_)), "{error}");
    assert!(within_patience(|| thread.join()).is_err());
}

#[test]
fn a_rate_lets_in_those_without_a_clock_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    running.receiver.set_rate(Some(100_000.0));
    within_patience(move || {
        for _ in 0..3 {
            source.store_blocking(&[[0u8; 20_000]]).unwrap();
        }
    });
    running.close();
}

/// The timer that was set for when the rate lets somebody in, in an hour, took the place of the one that tries again what the
/// log had no room for: nothing was acknowledged to anybody for as long.
#[test]
fn a_slow_rate_does_not_hold_up_what_waits_for_space() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open_log(Log::open(dir.path(), small()).unwrap().0, limits());
    let id = SourceId::new("gone").unwrap();
    drop(running.receiver.local_blocking("gone").unwrap());
    let waits = overdraw(&running);
    // To the last byte.
    for length in [10_000, 1000, 100, 1] {
        while running
            .log
            .try_append(&vec![0; length])
            .map_or_else(|e| !matches!(e, seawall::Error::Full { .. }), |_| true)
        {}
    }
    running.receiver.retire(&id).unwrap();
    assert!(!running.receiver.source(&id).unwrap().retired, "there is no space for it");
    running.log.flush().unwrap();
    running.log.trim(running.log.flushed()).unwrap();
    until("it is tried again", || running.receiver.source(&id).unwrap().retired);
    running.receiver.set_rate(None);
    within_patience(|| waits.join().unwrap());
    running.close();
}

/// Nobody looked at the time any sooner.
#[test]
fn a_rate_that_is_raised_lets_in_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let waits = overdraw(&running);
    running.receiver.set_rate(Some(100_000.0));
    within_patience(|| waits.join().unwrap());
    running.close();
}

/// A source that waits for a rate that opens in hours, on its thread.
fn overdraw(running: &Running) -> std::thread::JoinHandle<()> {
    let mut source = running.receiver.local_blocking("a").unwrap();
    let watch = running.receiver.connect().unwrap();
    running.receiver.set_rate(Some(1.0));
    source.store_blocking(&[[7u8; 10_000]]).unwrap();
    let waits = std::thread::spawn(move || drop(source.store_blocking(&["waits"]).unwrap()));
    until("it waits", || watch.is_contended());
    waits
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
