//! What other threads leave for the driver's carrier, and how they wake it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::super::futex::Futex;
use super::channel::{Channel, Ended, Order};

/// What was left. Taken as a whole by exchanging vectors, so that a steady load allocates nothing.
#[derive(Default)]
pub(super) struct Pile {
    pub(super) orders: Vec<Order>,
    pub(super) ended: Vec<Ended>,
    pub(super) kicked: Vec<Arc<Channel>>,
    /// Nobody is left to post orders and kicks.
    pub(super) is_last: bool,
}

impl Pile {
    fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.ended.is_empty() && self.kicked.is_empty() && !self.is_last
    }
}

/// How the carrier sleeps.
pub(super) enum Sleep {
    /// In its ring, which watches the event counter.
    Ring,
    /// On the word.
    Word,
    /// In an event loop.
    Task(Waker),
}

/// Many threads post, one takes. A post costs a lock, and a system call only when the thread sleeps: a client that
/// posts while it is being driven never pays for one.
pub(super) struct Inbox {
    state: Mutex<State>,
    event: OwnedFd,
    word: Futex,
}

struct State {
    pile: Pile,
    /// How to wake the thread; `None`: it is awake, or somebody is waking it.
    sleep: Option<Sleep>,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Inbox> {
        let state = State { pile: Pile::default(), sleep: None };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Inbox { state: Mutex::new(state), event, word: Futex::new(0) })
    }

    /// Becomes readable, again, by each post that finds the thread asleep in its ring.
    #[cfg(feature = "io-uring")]
    pub(super) fn event(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.event)
    }

    pub(super) fn post_order(&self, order: Order) {
        self.post(|pile| pile.orders.push(order));
    }

    pub(super) fn post_ended(&self, ended: Ended) {
        self.post(|pile| pile.ended.push(ended));
    }

    pub(super) fn post_kick(&self, channel: Arc<Channel>) {
        self.post(|pile| pile.kicked.push(channel));
    }

    /// Nobody is left to post orders and kicks.
    pub(super) fn close(&self) {
        self.post(|pile| pile.is_last = true);
    }

    fn post(&self, change: impl FnOnce(&mut Pile)) {
        let sleep = {
            let mut state = self.state.lock();
            change(&mut state.pile);
            state.sleep.take()
        };
        self.wake_from(sleep);
    }

    /// Wakes the carrier's owner.
    pub(super) fn wake(&self) {
        let sleep = self.state.lock().sleep.take();
        self.wake_from(sleep);
    }

    /// Whether there is something to take.
    pub(super) fn has_something(&self) -> bool {
        !self.state.lock().pile.is_empty()
    }

    fn wake_from(&self, sleep: Option<Sleep>) {
        match sleep {
            None => {}
            Some(Sleep::Word) => {
                self.word.bump();
                self.word.wake_one();
            }
            Some(Sleep::Task(waker)) => waker.wake(),
            // Nobody reads the counter, the ring sees its edges; it would overflow in centuries.
            Some(Sleep::Ring) => _ = rustix::io::write(&self.event, &1u64.to_ne_bytes()),
        }
    }

    /// Exchanges the pile for an empty one; false when there was nothing in it.
    pub(super) fn take(&self, empty: &mut Pile) -> bool {
        debug_assert!(empty.is_empty());
        let mut state = self.state.lock();
        state.sleep = None;
        std::mem::swap(&mut state.pile, empty);
        !empty.is_empty()
    }

    /// The next post wakes the thread in this way. `None`, and it does not, when there is something to take already;
    /// otherwise what to give to [`wait`](Self::wait).
    pub(super) fn fall_asleep(&self, how: Sleep) -> Option<u32> {
        let mut state = self.state.lock();
        if !state.pile.is_empty() {
            return None;
        }
        state.sleep = Some(how);
        Some(self.word.load())
    }

    /// Sleeps on the word until a post since `fall_asleep`, or the timeout.
    pub(super) fn wait(&self, asleep: u32, timeout: Option<Duration>) {
        self.word.wait(asleep, timeout);
    }
}
