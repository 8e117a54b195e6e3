//! Tasks that wait for room or for news.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use seawall::Config;

use crate::sim::DiskOptions;
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
