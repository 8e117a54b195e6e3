//! Tasks that wait for room or for news.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use seawall::{Config, Error, Log, Lsn, WhenFull};

use crate::sim::{DiskOptions, Fault, KillChoice, OpKind, errno};
use crate::story::Story;

#[derive(Default)]
struct Calls(AtomicU64);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// There was room for the record, and none who let it in: whoever reserved was told to come again, at once, for as long as the
/// batch waited.
#[test]
fn room_that_a_batch_keeps_others_from_is_waited_for() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config = Config { record_bytes_max: 48 << 10, in_flight_bytes_max: 64 << 10, ..story.config.clone() };
    let log = story.open();
    story.disk.set_manual(true);
    let batch = std::thread::spawn({
        let log = log.clone();
        move || log.append_many(&[vec![1; 40 << 10], vec![2; 40 << 10], vec![3; 40 << 10]]).unwrap().wait().unwrap()
    });
    wait_until("its first record has its place", || log.watermarks().appended.get() == 1);
    let calls = Arc::new(Calls::default());
    let waker = calls.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut reserving = std::pin::pin!(log.reserve(8));
    assert!(reserving.as_mut().poll(&mut context).is_pending(), "nobody gets in between");
    story.disk.set_manual(false);
    wait_until("the batch is durable", || {
        story.disk.pump();
        batch.is_finished()
    });
    batch.join().unwrap();
    assert!(calls.0.load(Ordering::Relaxed) > 0, "it was not told");
    let Poll::Ready(permit) = reserving.as_mut().poll(&mut context) else { panic!("there is room") };
    let last = permit.unwrap().append(b"after").unwrap();
    assert_eq!(last.lsn().get(), 4);
}

/// On a log without news each left its waker, and with it its task's memory, until there were some.
#[cfg(feature = "stream")]
#[test]
fn who_waits_no_more_leaves_nothing_behind() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config = Config { record_bytes_max: 48 << 10, in_flight_bytes_max: 64 << 10, ..story.config.clone() };
    let log = story.open();
    story.append(&log, &[100]);
    let calls = Arc::new(Calls::default());
    let waker = calls.clone().into();
    let mut context = Context::from_waker(&waker);
    let held = Arc::strong_count(&calls);
    {
        let mut following = std::pin::pin!(log.stream(log.flushed().next()));
        for _ in 0..3 {
            assert!(futures_core::Stream::poll_next(following.as_mut(), &mut context).is_pending());
            assert_eq!(Arc::strong_count(&calls), held + 1, "once, however often it is asked");
        }
    }
    assert_eq!(Arc::strong_count(&calls), held, "of the stream");
    story.disk.set_manual(true);
    let pending = log.append(&[1; 40 << 10]).unwrap();
    {
        let mut reserving = std::pin::pin!(log.reserve(30_000));
        assert!(reserving.as_mut().poll(&mut context).is_pending());
        assert_eq!(Arc::strong_count(&calls), held + 1);
    }
    assert_eq!(Arc::strong_count(&calls), held, "of who waits for room");
    story.disk.set_manual(false);
    drop(pending);
    story.disk.pump();
}

/// The one who waits is looked after again and again, and the driver is asleep in between: neither may cost the other anything.
#[test]
fn an_idle_log_is_proven_while_somebody_waits_for_room_who_is_looked_after_all_the_same() {
    let idle = Duration::from_millis(300);
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config = Config { when_full: WhenFull::Block, idle_proof_after: idle, ..story.config.clone() };
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
    while story.try_append(&log, &[20_000]).is_ok() {}
    let calls = Arc::new(Calls::default());
    let waker = calls.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut reserving = std::pin::pin!(log.reserve(20_000));
    story.disk.set_manual(true);
    wait_until("the marker is on its way", || {
        assert!(reserving.as_mut().poll(&mut context).is_pending());
        story.disk.tick();
        !story.disk.pending().is_empty()
    });
    let due = story.disk.due().expect("somebody waits");
    assert!(due < Instant::now() + idle / 3, "who waits is looked after when the log is next proven");
    story.disk.set_manual(false);
    story.disk.pump();
    // The driver has nothing to do any more but for who waits.
    let proven = Instant::now();
    wait_until("the log is idle again", || {
        assert!(reserving.as_mut().poll(&mut context).is_pending());
        story.disk.tick();
        proven.elapsed() > 2 * idle
    });
    assert!(reserving.as_mut().poll(&mut context).is_pending());
    calls.0.store(0, Ordering::Relaxed);
    story.disk.set_capacity(None);
    wait_until("it is told of the room", || {
        story.disk.tick();
        calls.0.load(Ordering::Relaxed) > 0
    });
    let end = log.flushed();
    story.disk.kill(&KillChoice::Landed);
    let (_, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
    assert_eq!((recovery.end, recovery.ambiguous_tail), (end, None));
}

/// Nothing is written while a truncation is under way. One that came to nothing left the log unproven for as long as nobody
/// appended: the driver had looked in vain, and was asleep.
#[test]
fn what_a_truncation_kept_from_being_proven_is_proven_behind_it() {
    let idle = Duration::from_millis(50);
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.idle_proof_after = idle;
    let log = story.open();
    story.append(&log, &[100]);
    story.append(&log, &[200]);
    story.disk.tick();
    std::thread::sleep(idle);
    let disk = story.disk.clone();
    story.disk.before(OpKind::Read, ".seg", move || {
        disk.tick();
        assert_eq!(disk.due(), None, "the driver is not asleep");
    });
    story.disk.fail(Fault::new(OpKind::Read, 0, errno::EIO));
    assert!(matches!(log.truncate(Lsn::FIRST), Err(Error::Io { .. })));
    story.disk.tick();
    story.disk.kill(&KillChoice::Landed);
    let (_, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
    assert_eq!((recovery.end, recovery.ambiguous_tail), (Lsn::new(2), None));
}
