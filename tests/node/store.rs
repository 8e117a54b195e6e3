//! Connectors in the same process.

use std::future::Future;
use std::time::Duration;

use seawall::node::{LocalSource, ReceiverError};
use seawall::receiver::{Code, Poison, ReceiverConfig, RecordCheck, RejectReason, Sequences, WaitFor};
use seawall::{Config, Log, LsnRange, Seq, SourceId};

use crate::trouble::{PATIENCE, within_patience};
use crate::{Running, even_length, records};

#[test]
fn what_is_stored_is_in_the_stream_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    assert_eq!(source.resume(), Seq::ZERO);
    let one = source.store_blocking(&["one", "two"]).unwrap();
    assert_eq!(one.last, Seq::new(2));
    assert!(running.log.flushed() >= one.durable_lsn && one.durable_lsn.get() > 0);
    let two = source.store_blocking(&["three"]).unwrap();
    assert_eq!(two.last, Seq::new(3));
    assert!(two.durable_lsn > one.durable_lsn);
    let found: Vec<_> = records(&running.log).into_iter().map(|(source, seq, _)| (source, seq)).collect();
    assert_eq!(found, [("a".into(), 1), ("a".into(), 2), ("a".into(), 3)]);
    drop(source);
    running.close();
}

#[test]
fn many_sources_at_once_share_blocks_and_each_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { snapshot_interval_bytes: 4096, blocks_in_flight_max: 1, ..Default::default() };
    let running = Running::open(dir.path(), config.clone());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let receiver = running.receiver.clone();
            scope.spawn(move || {
                let mut source = receiver.local_blocking(&format!("source-{number}")).unwrap();
                for round in 0..50 {
                    let batch: Vec<String> = (0..3).map(|n| format!("{number}/{}", round * 3 + n + 1)).collect();
                    source.store_blocking(&batch).unwrap();
                }
            });
        }
    });
    let stats = running.receiver.stats();
    assert_eq!((stats.intake.records, stats.intake.charged_bytes), (1200, 0), "{stats:?}");
    let mut next = vec![0; 8];
    for (source, seq, record) in records(&running.log) {
        let number: usize = source["source-".len()..].parse().unwrap();
        next[number] += 1;
        assert_eq!((seq, record), (next[number], format!("{number}/{seq}").into_bytes()));
    }
    assert_eq!(next, vec![150; 8]);
    running.close();
}

#[test]
fn without_a_driver_nothing_is_acknowledged_and_one_that_goes_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
    let (receiver, driver, _) = seawall::node::Receiver::open(log, "test", ReceiverConfig::default()).unwrap();
    drop(driver);
    let error = receiver.local_blocking("a").unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Unavailable, .. }), "{error}");
}

#[test]
fn a_poisoned_log_is_told_and_nothing_is_acknowledged_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    source.store_blocking(&["one"]).unwrap();
    // A log that is closed under the receiver is one that takes nothing more.
    running.log.clone().close(Duration::from_secs(10)).unwrap();
    let error = source.store_blocking(&["two"]).unwrap_err();
    assert!(matches!(error, ReceiverError::Log(_)), "{error}");
    let error = running.receiver.local_blocking("b").unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Unavailable, .. }), "{error}");
}

fn checked(dir: &std::path::Path, poison: Poison) -> (Log, seawall::node::Receiver, seawall::node::DriverThread) {
    let (log, _) = Log::open(dir, Config::default()).unwrap();
    let config = ReceiverConfig { poison, record_bytes_max: 100, ..Default::default() };
    let check = Some(RecordCheck::new(even_length));
    let (receiver, driver, _) =
        seawall::node::Receiver::open_with(log.clone(), "test", config, check, &|_, _| {}).unwrap();
    (log, receiver, driver.spawn().unwrap())
}

#[test]
fn a_poison_record_stops_its_source_and_what_was_before_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (log, receiver, _thread) = checked(dir.path(), Poison::Stop);
    let mut source = receiver.local_blocking("a").unwrap();
    let error = source.store_blocking(&["ok", "odd", "ok"]).unwrap_err();
    let ReceiverError::Refused { code: Code::Poison, at, expected, .. } = error else { panic!("{error}") };
    assert_eq!((at, expected), (Seq::new(2), Seq::new(1)));
    let mut source = receiver.local_blocking("a").unwrap();
    assert_eq!(source.resume(), Seq::new(1));
    source.store_blocking(&["ok"]).unwrap();
    assert_eq!(records(&log).len(), 2);
}

#[test]
fn dead_letters_are_kept_outside_the_data_and_told_until_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (log, receiver, _thread) = checked(dir.path(), Poison::DeadLetter);
    let mut source = receiver.local_blocking("a").unwrap();
    let long = "x".repeat(102);
    let stored = source.store_blocking(&["ok", "odd", &long, "ok"]).unwrap();
    assert_eq!(stored.last, Seq::new(4));
    let told: Vec<_> = stored.rejects.iter().map(|r| (r.seq.get(), r.reason, r.bytes)).collect();
    assert_eq!(told, [(2, RejectReason::Poison, 3), (3, RejectReason::Oversized, 102)]);
    assert_eq!(records(&log).iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(receiver.stats().intake.rejected, 2);
    let status = || receiver.source(&SourceId::new("a").unwrap()).unwrap();
    assert_eq!((status().durable, status().rejects_unseen), (Seq::new(4), 2));
    assert_eq!(futures(source.settle()).unwrap().rejects, []);
    assert_eq!(status().rejects_unseen, 0, "the next call says that they were seen");
}

#[test]
fn those_that_wait_for_nothing_durable_may_have_poison_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (log, receiver, _thread) = checked(dir.path(), Poison::Drop);
    let open = |wait_for| {
        let id = SourceId::new("a");
        futures(receiver.local_with(id, Sequences::Dense, wait_for)).unwrap()
    };
    let mut source: LocalSource = open(WaitFor::Received);
    futures(source.receive(&["ok", "odd", "ok"])).unwrap();
    let id = SourceId::new("a").unwrap();
    while receiver.source(&id).unwrap().durable < Seq::new(3) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(records(&log).iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(receiver.stats().intake.dropped, 1);
    drop(source);
    let mut source = open(WaitFor::Durable);
    let error = source.store_blocking(&["odd"]).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Poison, .. }), "{error}");
}

/// A store that was given up before it handed anything over had moved the source on: without sequences the next one waited
/// for records that nobody had sent, and with them it was refused.
#[test]
fn a_store_that_was_given_up_while_it_waited_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    for (source, sequences) in [(None, Sequences::None), (SourceId::new("a"), Sequences::Dense)] {
        let mut source = futures(running.receiver.local_with(source, sequences, WaitFor::Durable)).unwrap();
        running.receiver.set_rate(Some(1.0));
        source.store_blocking(&[[7u8; 10_000]]).unwrap();
        {
            let mut waits = std::pin::pin!(source.store(&["given up"]));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending());
        }
        running.receiver.set_rate(None);
        let (done, waited) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(source.store_blocking(&["stored"])));
        let stored = waited.recv_timeout(Duration::from_secs(60)).expect("it ended").unwrap();
        assert_eq!(stored.last, Seq::new(2));
    }
    running.close();
}

/// A store that was given up kept its place in the line, and the room it was then granted, for as long as its source was there.
#[test]
fn a_store_that_was_given_up_holds_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    let watch = running.receiver.connect().unwrap();
    for record in [vec![7u8; 100_000], vec![7; 5 << 20]] {
        running.receiver.set_rate(Some(1.0));
        source.store_blocking(&[[7u8; 10_000]]).unwrap();
        {
            let records = [record];
            let mut waits = std::pin::pin!(source.store(&records));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending() && watch.is_contended());
        }
        assert!(!watch.is_contended(), "it is in nobody's way");
        running.receiver.set_rate(None);
        nothing_is_charged(&running);
    }
    drop((source, watch));
    running.close();
}

/// Once what is on its way is durable.
fn nothing_is_charged(running: &Running) {
    let by = std::time::Instant::now() + Duration::from_secs(60);
    while running.receiver.stats().intake.charged_bytes > 0 {
        assert!(std::time::Instant::now() < by, "{:?}", running.receiver.stats());
        std::thread::yield_now();
    }
}

/// Longer than the window, it waited for room that never came.
#[test]
fn a_record_longer_than_the_window_is_treated_as_any_that_is_too_long() {
    let limits = |poison| ReceiverConfig {
        record_bytes_max: 4096,
        frame_bytes_max: 8192,
        session_window_bytes: 16 << 10,
        rejects_unseen_max: 2,
        poison,
        ..ReceiverConfig::default()
    };
    let records_of: [&[u8]; 3] = [b"before", &[7; 100_000], b"behind"];

    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), limits(Poison::DeadLetter));
    let mut source = running.receiver.local_blocking("a").unwrap();
    let stored = source.store_blocking(&records_of).unwrap();
    let [reject] = &stored.rejects[..] else { panic!("{stored:?}") };
    assert_eq!((stored.last, reject.seq, reject.reason), (Seq::new(3), Seq::new(2), RejectReason::Oversized));
    assert_eq!(records(&running.log), [("a".into(), 1, b"before".to_vec()), ("a".into(), 3, b"behind".to_vec())]);
    // More of them than rejects may be unseen.
    let many = source.store_blocking(&[&[7; 20_000][..]; 300]).unwrap();
    assert_eq!((many.last, many.rejects.len()), (Seq::new(303), 300));
    drop(source);
    nothing_is_charged(&running);
    running.close();

    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), limits(Poison::DeadLetter));
    let opened = running.receiver.local_with(SourceId::new("s"), Sequences::Sparse, WaitFor::Durable);
    let mut source = futures(opened).unwrap();
    let at = |seq, record| (Seq::new(seq), record);
    let stored = futures(source.store_at(&[at(5, records_of[0]), at(7, records_of[1]), at(9, records_of[2])])).unwrap();
    assert_eq!((stored.last, stored.rejects[0].seq, stored.rejects.len()), (Seq::new(9), Seq::new(7), 1));
    let mut nobody = futures(running.receiver.local_with(None, Sequences::None, WaitFor::Durable)).unwrap();
    let error = nobody.store_blocking(&records_of).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Oversized, .. }), "nobody to tell: {error}");
    drop((source, nobody));
    nothing_is_charged(&running);
    running.close();

    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), limits(Poison::Stop));
    let mut source = running.receiver.local_blocking("a").unwrap();
    let error = source.store_blocking(&records_of).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Oversized, .. }), "{error}");
    let source = running.receiver.local_blocking("a").unwrap();
    assert_eq!(source.resume(), Seq::new(1), "what was before it stands");
    drop(source);
    running.close();

    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), limits(Poison::Drop));
    let opened = running.receiver.local_with(SourceId::new("a"), Sequences::Dense, WaitFor::Received);
    let mut source = futures(opened).unwrap();
    assert_eq!(source.store_blocking(&records_of).unwrap().last, Seq::new(3));
    drop(source);
    running.close();
}

#[test]
fn committed_is_what_the_sequenced_records_of_its_blocks_reach() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let id = SourceId::new("a");
    let mut counted = running.receiver.local_blocking("a").unwrap();
    counted.store_blocking(&["one", "two", "three"]).unwrap();
    // Records without sequences under the same name count for themselves.
    let mut uncounted: LocalSource =
        futures(running.receiver.local_with(id.clone(), Sequences::None, WaitFor::Durable)).unwrap();
    uncounted.store_blocking(&["other"]).unwrap();
    let committed = || running.receiver.source(id.as_ref().unwrap()).unwrap().committed;
    assert_eq!(committed(), Seq::ZERO);
    running.receiver.committed(running.log.flushed()).unwrap();
    assert_eq!(committed(), Seq::new(3));
    // What is behind the committed batch is not committed, also for the first who asks after an open.
    let batch = running.log.flushed();
    counted.store_blocking(&["four"]).unwrap();
    drop((counted, uncounted));
    running.close();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let committed = || running.receiver.source(id.as_ref().unwrap()).unwrap().committed;
    running.receiver.committed(batch).unwrap();
    assert_eq!(committed(), Seq::new(3));
    running.receiver.committed(running.log.flushed()).unwrap();
    assert_eq!(committed(), Seq::new(4));
    running.close();
}

/// Nothing was told of it, and nobody heard why.
#[test]
fn what_is_not_durable_cannot_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    let durable = source.store_blocking(&["one"]).unwrap().durable_lsn;
    let error = running.receiver.committed(durable.next()).unwrap_err().to_string();
    assert!(error.contains(&format!("frame {durable}")) && error.contains(&durable.next().to_string()), "{error}");
    running.receiver.committed(durable).unwrap();
    drop(source);
    running.close();
}

/// A committed frame that could not be read, or was trimmed under the reader, was passed over: the sources whose last records
/// it held were never told.
#[test]
fn what_was_committed_and_cannot_be_read_is_told_by_what_comes_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let committed = |name| running.receiver.source(&SourceId::new(name).unwrap()).unwrap().committed;
    let mut first = running.receiver.local_blocking("first").unwrap();
    first.store_blocking(&["one"]).unwrap();
    running.receiver.committed(running.log.flushed()).unwrap();
    assert_eq!(committed("first"), Seq::new(1));
    let mut second = running.receiver.local_blocking("second").unwrap();
    let lsn = second.store_blocking(&["one"]).unwrap().durable_lsn;
    running.log.quarantine(LsnRange::inclusive(lsn, lsn)).unwrap();
    first.store_blocking(&["two"]).unwrap();
    let batch = running.log.flushed();
    second.store_blocking(&["two"]).unwrap();
    running.receiver.committed(batch).unwrap();
    assert_eq!((committed("first"), committed("second")), (Seq::new(2), Seq::new(1)));
    drop((first, second));
    running.close();
}

#[test]
fn a_newer_session_of_the_same_source_fences_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut old = running.receiver.local_blocking("a").unwrap();
    old.store_blocking(&["one"]).unwrap();
    let mut new = running.receiver.local_blocking("a").unwrap();
    assert!(new.epoch() > old.epoch());
    assert_eq!(new.resume(), Seq::new(1));
    let error = old.store_blocking(&["not taken"]).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::OldEpoch, .. }), "{error}");
    new.store_blocking(&["two"]).unwrap();
    assert_eq!(records(&running.log).len(), 2);
    assert_eq!(running.receiver.stats().intake.replaced, 1);
    drop((old, new));
    running.close();
}

#[test]
fn a_log_that_drops_or_takes_too_little_is_refused() {
    let refused = |config: Config| {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), config).unwrap();
        seawall::node::Receiver::open(log, "test", ReceiverConfig::default()).unwrap_err()
    };
    let drops = refused(Config { when_full: seawall::WhenFull::DropOldest, ..Config::default() });
    assert!(matches!(drops, ReceiverError::Config { field, .. } if field.contains("when_full")), "{drops}");
    let small = refused(Config { record_bytes_max: 1 << 20, ..Config::default() });
    assert!(matches!(small, ReceiverError::Config { field: "record_bytes_max", .. }), "{small}");
}

#[test]
fn what_another_program_wrote_is_not_taken_for_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
    log.append(b"a line").unwrap().wait().unwrap();
    let error = seawall::node::Receiver::open(log, "test", ReceiverConfig::default()).unwrap_err();
    assert!(matches!(error, ReceiverError::NotABlock { .. }), "{error}");
}

/// A future on this thread.
pub(crate) fn futures<F: std::future::Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

/// Refused records beyond what may be unseen are an error, and what comes next is stored behind what was taken; it waited for
/// ever, as it followed records that were not.
#[test]
fn behind_what_was_refused_a_source_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { rejects_unseen_max: 2, poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
    let check = Some(RecordCheck::new(even_length));
    let (receiver, driver, _) = seawall::node::Receiver::open_with(log, "test", config, check, &|_, _| {}).unwrap();
    let _thread = driver.spawn().unwrap();
    let mut source = receiver.local_blocking("a").unwrap();
    let error = source.store_blocking(&["good", "bad", "bad", "bad", "good"]).unwrap_err();
    let ReceiverError::Refused { code: Code::RejectsUnseen, at, expected, .. } = error else { panic!("{error}") };
    assert_eq!((at, expected), (Seq::new(4), Seq::new(3)));
    let stored = source.store_blocking(&["good"]).unwrap();
    assert_eq!((stored.last, stored.rejects.len()), (Seq::new(4), 2));
}

/// Groups that the log's waiting threads wrote while `count` records were stored, each waited for.
fn led(running: &Running, source: &mut LocalSource, count: u64) -> u64 {
    let before = running.log.stats().groups_led;
    for _ in 0..count {
        let stored = source.store_blocking(&["a record"]).unwrap();
        assert!(running.log.flushed() >= stored.durable_lsn, "told before it was");
    }
    running.log.stats().groups_led - before
}

/// Whether the thread that stores writes as well. A device that is slow for a moment has it leave that to others for 1 024 blocks.
fn writes_itself(running: &Running, source: &mut LocalSource) -> bool {
    (0..20).any(|_| led(running, source, 100) > 0)
}

#[test]
fn a_lone_source_is_written_by_the_thread_that_brings_it_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    let mut source = running.receiver.local_blocking("a").unwrap();
    assert_eq!(led(&running, &mut source, 20), 0, "nobody allowed it");
    running.receiver.set_lone_writes(true);
    assert!(writes_itself(&running, &mut source));
    let mut other = running.receiver.local_blocking("b").unwrap();
    assert_eq!(led(&running, &mut source, 20), 0, "it is not alone any more");
    other.store_blocking(&["b"]).unwrap();
    drop(other);
    assert!(writes_itself(&running, &mut source));
    let last = source.store_blocking(&["the last"]).unwrap().last;
    assert_eq!(records(&running.log).len() as u64, last.get() + 1);
    drop(source);
    running.close();
}

/// What it had room for stayed charged until its peer had taken note of the end, and others waited for as long.
#[test]
fn a_session_that_has_said_bye_holds_no_room() {
    use seawall::receiver::{Hello, Message, SessionOutput};
    struct Wakes(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Wakes {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig::default();
    let most = u32::try_from(config.in_flight_bytes_max).unwrap() - 1000;
    let running = Running::open(dir.path(), config);
    let open = || {
        let mut session = running.receiver.connect().unwrap();
        let sequences = Sequences::None;
        session.handle(Message::Hello(Hello { version_min: 1, version_max: 1, sequences, ..Hello::default() }));
        assert!(matches!(session.try_output(), Some(SessionOutput::Message(Message::Welcome(_)))));
        session
    };
    let (mut ends, mut waits) = (open(), open());
    // A SEND has begun to come when the end is said.
    assert!(ends.poll_reserve(most, &mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready());
    ends.handle(Message::Bye);
    let woken = std::sync::Arc::new(Wakes(false.into()));
    let waker = std::task::Waker::from(woken.clone());
    let mut context = std::task::Context::from_waker(&waker);
    assert!(waits.poll_reserve(most, &mut context).is_pending());
    while ends.try_output() != Some(SessionOutput::Message(Message::Bye)) {}
    assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed), "there is room");
    assert!(waits.poll_reserve(most, &mut context).is_ready());
    drop(waits);
    assert_eq!(running.receiver.stats().intake.charged_bytes, 0);
    drop(ends);
    running.close();
}

/// Waits for what the driver brings about.
fn until(mut what: impl FnMut() -> bool) {
    let by = std::time::Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(std::time::Instant::now() < by, "it did not come about within a minute");
        std::thread::yield_now();
    }
}

/// A source that gave the refused record again was refused again, for ever: what would have had it say that the rejects before
/// were seen stood behind the refusal, and was not heard.
#[test]
fn a_refused_record_may_be_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { rejects_unseen_max: 2, poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let (receiver, _thread) = even(dir.path(), config);
    let mut source = receiver.local_blocking("a").unwrap();
    let error = source.store_blocking(&["good", "bad", "bad", "bad", "good"]).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::RejectsUnseen, .. }), "{error}");
    let id = SourceId::new("a").unwrap();
    until(|| receiver.source(&id).unwrap().rejects_unseen == 2);
    let stored = source.store_blocking(&["bad", "good"]).unwrap();
    assert_eq!((stored.last, rejected(&stored)), (Seq::new(5), vec![2, 3, 4]));
    // A source that comes anew has been told of them by its WELCOME alone.
    let error = source.store_blocking(&["bad", "bad", "bad"]).unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::RejectsUnseen, .. }), "{error}");
    drop(source);
    let mut source = receiver.local_blocking("a").unwrap();
    let stored = source.store_blocking(&["bad", "good"]).unwrap();
    assert_eq!((stored.last, rejected(&stored)), (Seq::new(9), vec![6, 7, 8]));
}

/// A reject was said to be seen when the source in this process had heard of it, before whoever stored the record had: given up in its
/// middle, the store left a record outside the data that nobody was told of.
#[test]
fn a_reject_is_told_until_whoever_stores_has_it() {
    let dir = tempfile::tempdir().unwrap();
    // One record at a time, so that a store hears of the first ones while it goes on.
    let config = ReceiverConfig {
        record_bytes_max: 1000,
        frame_bytes_max: 1024,
        session_window_bytes: 1024,
        poison: Poison::DeadLetter,
        ..ReceiverConfig::default()
    };
    let (receiver, _thread) = even(dir.path(), config);
    let id = SourceId::new("a").unwrap();
    let unseen = || receiver.source(&id).unwrap().rejects_unseen;
    let mut source = receiver.local_blocking("a").unwrap();
    {
        let records: Vec<Vec<u8>> = (0..100).map(|n| vec![7; if n == 0 { 999 } else { 1000 }]).collect();
        let mut stores = std::pin::pin!(source.store(&records));
        until(|| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(stores.as_mut().poll(&mut context).is_pending(), "99 more are to come");
            receiver.source(&id).unwrap().durable >= Seq::new(3)
        });
    }
    drop(source);
    let mut source = receiver.local_blocking("a").unwrap();
    assert_eq!(rejected(&source.store_blocking(&["okay"]).unwrap()), [1]);
    // Whoever was told, and ended before it could act on it, is told again.
    drop(source);
    let mut source = receiver.local_blocking("a").unwrap();
    assert_eq!(rejected(&source.store_blocking(&["okay"]).unwrap()), [1]);
    assert_eq!(unseen(), 1);
    assert_eq!(rejected(&source.store_blocking(&["okay"]).unwrap()), [0; 0]);
    assert_eq!(unseen(), 0, "who goes on has taken note");
}

/// Who only hands records over was never told of a reject, and the source kept all of them.
#[test]
fn who_only_hands_records_over_is_told_of_rejects() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, _thread) = even(dir.path(), ReceiverConfig { poison: Poison::DeadLetter, ..Default::default() });
    let id = SourceId::new("a");
    let mut source = futures(receiver.local_with(id.clone(), Sequences::Dense, WaitFor::Received)).unwrap();
    futures(source.receive(&["odd"])).unwrap();
    until(|| receiver.source(id.as_ref().unwrap()).unwrap().rejects_unseen == 1);
    assert_eq!(rejected(&futures(source.receive(&["okay"])).unwrap()), [1]);
    assert_eq!(rejected(&futures(source.receive(&["okay"])).unwrap()), [0; 0]);
    assert_eq!(receiver.source(id.as_ref().unwrap()).unwrap().rejects_unseen, 0);
}

fn rejected(stored: &seawall::node::Stored) -> Vec<u64> {
    stored.rejects.iter().map(|reject| reject.seq.get()).collect()
}

/// A receiver that takes records of an even length.
fn even(dir: &std::path::Path, config: ReceiverConfig) -> (seawall::node::Receiver, seawall::node::DriverThread) {
    let (log, _) = Log::open(dir, Config::default()).unwrap();
    let check = Some(RecordCheck::new(even_length));
    let (receiver, driver, _) = seawall::node::Receiver::open_with(log, "test", config, check, &|_, _| {}).unwrap();
    (receiver, driver.spawn().unwrap())
}

/// Whoever hears that a block is durable in the driver's place has it look whether that was the last: it waited for ever.
#[test]
fn a_receiver_ends_beside_a_source_that_writes_for_itself() {
    for _ in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::open(dir.path(), ReceiverConfig::default());
        running.receiver.set_lone_writes(true);
        let mut source = running.receiver.local_blocking("a").unwrap();
        let storing = std::thread::spawn(move || while source.store_blocking(&["a record"]).is_ok() {});
        let began = std::time::Instant::now();
        while running.log.stats().groups_led < 10 {
            assert!(began.elapsed() < PATIENCE, "nothing is written");
            std::thread::yield_now();
        }
        running.receiver.shut_down();
        let Running { log, thread, .. } = running;
        within_patience(move || thread.join()).unwrap();
        storing.join().unwrap();
        log.close(PATIENCE).unwrap();
    }
}
