//! A driver without a thread: its work is done in the midst of somebody else's event loop.
//!
//! A write that is submitted by a thread which waits for sockets, and whose end is heard by the same thread, costs no change of
//! threads: two of them, at 15 to 50 µs each, are what a thread of the driver's own adds to each group.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::fork::is_forked_child;
use super::carrier::{Carrier, Doze};
use super::channel::Shared;
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
/// So it does when somebody waits for one of these logs, and for a second nobody has turned it although there was something to do:
/// a thread that is to turn it should not wait for what they do. Of a log, `try_append`, `reserve`,
/// `.await` on a `Pending` and reading what is flushed do not block on it; `append` (for room), several records at once,
/// `Pending::wait`, a tailing iterator, `flush`, `truncate`, a `trim` beside one, `close`, and dropping the last handle of a log do, and
/// belong on another thread.
pub struct DriverLoop {
    place: Arc<Place>,
    /// The ring's, and ours: it has to be the same file as long as somebody watches it.
    readable: OwnedFd,
}

/// Where the work of a driver without a thread is found: by its loop, and by those who wait in vain for the loop.
pub(super) struct Place {
    /// None when the work is over, or goes on in a thread.
    carrier: Mutex<Option<Carrier>>,
    /// How often the loop was turned.
    turns: AtomicU64,
    neglect: Mutex<Neglect>,
}

/// Since when there has been something to do for a loop that does not turn.
#[derive(Default)]
struct Neglect {
    turns: u64,
    since: Option<Instant>,
}

/// So long a loop may let things lie that somebody waits for.
const NEGLECT_MAX: Duration = Duration::from_secs(1);

impl Place {
    /// Called by a thread before it sleeps until something is done, and so long after as this says. Where nobody turns the loop, it
    /// may be because that thread is the one which would: then the work goes on in a thread of its own, for good.
    pub(super) fn watch_over(&self, shared: &Shared) -> Duration {
        // Somebody is at it, this thread's own caller perhaps.
        let Some(mut carrier) = self.carrier.try_lock() else { return NEGLECT_MAX };
        let mut neglect = self.neglect.lock();
        let (turns, now) = (self.turns.load(Ordering::Relaxed), Instant::now());
        let is_waiting = carrier.as_mut().is_some_and(|carrier| carrier.has_something_to_do(now));
        if neglect.turns != turns || !is_waiting {
            *neglect = Neglect { turns, since: None };
        }
        let since = neglect.since.filter(|_| is_waiting);
        neglect.since = is_waiting.then_some(since.unwrap_or(now));
        let lasted = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if lasted < NEGLECT_MAX {
            return NEGLECT_MAX - lasted;
        }
        if let Some(neglected) = carrier.take() {
            // Without a thread to be had, the loop may still come to it, and we come again.
            *carrier = start_thread(neglected);
        }
        drop((carrier, neglect));
        // The loop's task, which is asleep, is over.
        shared.inbox.wake();
        NEGLECT_MAX
    }
}

/// Has a thread carry; gives the work back when none can be started.
fn start_thread(carrier: Carrier) -> Option<Carrier> {
    // Taken out by the thread that comes to be: a failed spawn drops what it was given.
    let place = Arc::new(Mutex::new(Some(carrier)));
    let run = {
        let place = place.clone();
        move || {
            let carrier = place.lock().take();
            carrier.into_iter().for_each(thread::run);
        }
    };
    let failed = std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(run).is_err();
    failed.then(|| place.lock().take()).flatten()
}

impl DriverLoop {
    pub(super) fn new(carrier: Carrier, readable: OwnedFd) -> DriverLoop {
        let place = Place { carrier: Mutex::new(Some(carrier)), turns: AtomicU64::new(0), neglect: Mutex::default() };
        DriverLoop { place: Arc::new(place), readable }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Does what there is to do; never blocks on the device. `waker` is woken when others leave something to do; ends of writes and
    /// deadlines make the descriptor readable, once for each (edge-triggered). Ready when nobody needs it any more.
    pub fn turn(&mut self, waker: &Waker) -> Poll<()> {
        if is_forked_child() {
            self.leave_to_the_parent();
            return Poll::Ready(());
        }
        let _guard = AbortOnPanic::new();
        self.place.turns.fetch_add(1, Ordering::Relaxed);
        let mut place = self.place.carrier.lock();
        for _ in 0..ROUNDS_MAX {
            let Some(carrier) = &mut *place else { return Poll::Ready(()) };
            if !carrier.work() {
                place.take().into_iter().for_each(Carrier::end);
                return Poll::Ready(());
            }
            match carrier.doze(waker) {
                Doze::Asleep => return Poll::Pending,
                Doze::Awake => {}
                Doze::RingLost => go_on_in_a_thread(&mut place),
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    /// The ring is the parent's, and so are the buffers that it reads.
    fn leave_to_the_parent(&mut self) {
        // Held by a thread that is not there, the lock will never be had.
        std::mem::forget(self.place.carrier.try_lock().and_then(|mut place| place.take()));
    }
}

/// As if there had been a thread from the beginning.
fn go_on_in_a_thread(place: &mut Option<Carrier>) {
    for _ in 0..TRIES {
        let Some(carrier) = place.take() else { return };
        *place = start_thread(carrier);
        if place.is_some() {
            std::thread::sleep(TRY_AGAIN_AFTER);
        }
    }
    if place.is_some() {
        // Everybody who waits would wait for ever. A log survives the end of its process.
        std::process::abort();
    }
}

impl Drop for DriverLoop {
    fn drop(&mut self) {
        if is_forked_child() {
            self.leave_to_the_parent();
            return;
        }
        go_on_in_a_thread(&mut self.place.carrier.lock());
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
        let runs_here = self.place.carrier.try_lock().is_none_or(|carrier| carrier.is_some());
        f.debug_struct("DriverLoop").field("runs_here", &runs_here).finish_non_exhaustive()
    }
}
