//! A driver without a thread: its work is done in the midst of somebody else's event loop.
//!
//! A write that is submitted by a thread which waits for sockets, and whose end is heard by the same thread, costs no change of
//! threads: two of them, at 15 to 50 µs each, are what a thread of the driver's own adds to each group.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::fork::is_forked_child;
use super::carrier::{Carrier, Doze};
use super::{AbortOnPanic, THREAD_NAME, thread};

/// Rounds before others of the event loop have their turn.
const ROUNDS_MAX: usize = 8;

/// What is tried before a process ends that no thread can be started for.
const TRIES: u32 = 50;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The work of a [`Driver`](super::Driver) made by [`Driver::in_event_loop`](super::Driver::in_event_loop). Whoever has it calls
/// [`turn`](Self::turn) when its waker was woken and when its descriptor is readable: otherwise nothing that was appended to the
/// driver's logs becomes durable. Dropped, it goes on in a thread of its own: whoever watches the descriptor stops before that.
///
/// A thread that is to turn it must not wait for what these logs do: that would never end. Of a log, `try_append`, `reserve`,
/// `.await` on a `Pending`, reading what is flushed, and `trim` do not block on it; `append` (for room), several records at once,
/// `Pending::wait`, a tailing iterator, `truncate`, `close`, and dropping the last handle of a log (for 10 s) do, and belong on
/// another thread.
pub struct DriverLoop {
    /// None when the work is over, or goes on in a thread.
    carrier: Option<Carrier>,
    /// The ring's, and ours: it has to be the same file as long as somebody watches it.
    readable: OwnedFd,
}

impl DriverLoop {
    pub(super) fn new(carrier: Carrier, readable: OwnedFd) -> DriverLoop {
        DriverLoop { carrier: Some(carrier), readable }
    }

    /// Does what there is to do; never blocks on the device. `waker` is woken when others leave something to do; ends of writes and
    /// deadlines make the descriptor readable, once for each (edge-triggered). Ready when nobody needs it any more.
    pub fn turn(&mut self, waker: &Waker) -> Poll<()> {
        if is_forked_child() {
            self.leave_to_the_parent();
        }
        let _guard = AbortOnPanic::new();
        for _ in 0..ROUNDS_MAX {
            let Some(carrier) = &mut self.carrier else { return Poll::Ready(()) };
            if !carrier.work() {
                self.carrier.take().into_iter().for_each(Carrier::end);
                return Poll::Ready(());
            }
            match carrier.doze(waker) {
                Doze::Asleep => return Poll::Pending,
                Doze::Awake => {}
                Doze::RingLost => self.go_on_in_a_thread(),
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    /// The ring is the parent's, and so are the buffers that it reads.
    fn leave_to_the_parent(&mut self) {
        std::mem::forget(self.carrier.take());
    }

    /// As if there had been a thread from the beginning.
    fn go_on_in_a_thread(&mut self) {
        let Some(carrier) = self.carrier.take() else { return };
        // Taken out by the thread that comes to be: a failed spawn drops what it was given.
        let place = Arc::new(Mutex::new(Some(carrier)));
        for _ in 0..TRIES {
            let place = place.clone();
            let run = move || {
                let carrier = place.lock().take();
                carrier.into_iter().for_each(thread::run);
            };
            if std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(run).is_ok() {
                return;
            }
            std::thread::sleep(TRY_AGAIN_AFTER);
        }
        // Everybody who waits would wait for ever. A log survives the end of its process.
        std::process::abort();
    }
}

impl Drop for DriverLoop {
    fn drop(&mut self) {
        if is_forked_child() {
            self.leave_to_the_parent();
        }
        self.go_on_in_a_thread();
    }
}

impl AsFd for DriverLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl AsRawFd for DriverLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.readable.as_raw_fd()
    }
}

impl std::fmt::Debug for DriverLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverLoop").field("runs_here", &self.carrier.is_some()).finish_non_exhaustive()
    }
}
