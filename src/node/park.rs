//! Waiting for a future on a thread of one's own, and for a moment on another.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Where there is no thread for an alarm, whoever sets it sleeps at most this long, and has it ring too soon.
const WITHOUT_THREAD_MAX: Duration = Duration::from_millis(200);
/// An alarm's thread waits so long for the next moment: under a rate there are thousands a second.
const LINGER: Duration = Duration::from_secs(1);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks until the future is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

/// Rings when the soonest of the moments it was set to has come; who wants to be woken at a later one sets it again then.
/// It needs no runtime: it takes a thread while it is set and [`LINGER`] longer, never more than one.
pub(crate) struct Alarm(Arc<Clock>);

struct Clock {
    set: Mutex<Set>,
    is_changed: Condvar,
    ring: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Set {
    at: Option<Instant>,
    has_thread: bool,
    is_over: bool,
}

impl Alarm {
    pub(crate) fn new(ring: impl Fn() + Send + Sync + 'static) -> Alarm {
        Alarm(Arc::new(Clock { set: Mutex::default(), is_changed: Condvar::new(), ring: Box::new(ring) }))
    }

    /// Has it ring at this moment, unless it is to ring before.
    pub(crate) fn set(&self, at: Instant) {
        let mut set = self.0.set.lock();
        if set.at.is_some_and(|sooner| sooner <= at) {
            return;
        }
        set.at = Some(at);
        let has_thread = std::mem::replace(&mut set.has_thread, true);
        drop(set);
        if has_thread {
            self.0.is_changed.notify_one();
            return;
        }
        let clock = self.0.clone();
        let sleeps = thread::Builder::new().name("seawall-retry".into()).spawn(move || clock.run());
        if sleeps.is_err() {
            // No thread to be had: better late for everybody than at once, over and over.
            *self.0.set.lock() = Set::default();
            thread::sleep(at.saturating_duration_since(Instant::now()).min(WITHOUT_THREAD_MAX));
            (self.0.ring)();
        }
    }
}

impl Clock {
    fn run(&self) {
        let mut set = self.set.lock();
        while !set.is_over {
            let at = set.at;
            match at {
                Some(at) if Instant::now() < at => _ = self.is_changed.wait_until(&mut set, at),
                Some(_) => {
                    set.at = None;
                    MutexGuard::unlocked(&mut set, || (self.ring)());
                }
                None if self.is_changed.wait_for(&mut set, LINGER).timed_out() && set.at.is_none() => break,
                None => {}
            }
        }
        set.has_thread = false;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.set.lock().is_over = true;
        self.0.is_changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// One was made and ended for each moment.
    #[test]
    fn an_alarm_that_rings_again_soon_rings_on_the_same_thread() {
        let (rings, rung) = mpsc::channel();
        let alarm = Alarm::new(move || rings.send(thread::current().id()).unwrap());
        let mut threads = Vec::new();
        for _ in 0..5 {
            alarm.set(Instant::now());
            threads.push(rung.recv_timeout(Duration::from_secs(60)).expect("it rang"));
            // One that goes behind each ring has gone by then.
            let rang = Instant::now();
            while alarm.0.set.lock().has_thread && rang.elapsed() < Duration::from_millis(20) {
                thread::yield_now();
            }
        }
        threads.dedup();
        assert_eq!(threads.len(), 1);
    }

    /// An alarm that was set for later took the place of one for sooner.
    #[test]
    fn an_alarm_rings_at_the_soonest_moment_it_was_set_to() {
        let (rings, rung) = mpsc::channel();
        let alarm = Alarm::new(move || rings.send(()).unwrap());
        let hour = Duration::from_secs(3600);
        alarm.set(Instant::now() + hour);
        alarm.set(Instant::now() + Duration::from_millis(1));
        alarm.set(Instant::now() + 2 * hour);
        rung.recv_timeout(Duration::from_secs(60)).expect("it rang");
        alarm.set(Instant::now() + hour);
        alarm.set(Instant::now());
        rung.recv_timeout(Duration::from_secs(60)).expect("it rang again");
        alarm.set(Instant::now() + hour);
        drop(alarm);
        let gone = rung.recv_timeout(Duration::from_secs(60));
        assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected), "its thread does not outlive it");
    }
}
