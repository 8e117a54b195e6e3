//! Carries what was posted: takes it, tells ends, hands writes on, calls clients. Where it sleeps is its owner's business: the
//! driver's own [`thread`](super::thread), or somebody else's [event loop](super::event_loop).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::super::Backend;
use super::SLEEP_MAX;
use super::channel::{Channel, Ended, Order, Shared};
use super::inbox::{Pile, Sleep};
use super::ring::Ring;
use super::timers::Timers;
use super::ways::Way;

/// Times the inbox is emptied before the ring and the clock get a look: clients that kick each other must not keep
/// their owner from them.
const ROUNDS_MAX: usize = 8;

/// What became of an attempt to have nothing to do.
pub(super) enum Doze {
    Asleep,
    /// There is something to do already.
    Awake,
    /// Nothing tells any more when a write ends: only a thread can wait for that.
    RingLost,
}

pub(super) struct Carrier {
    shared: Arc<Shared>,
    ring: Option<Ring>,
    timers: Timers,
    /// Empty between rounds; kept for its memory.
    pile: Pile,
    /// Writes of the ring that ended meanwhile, told first thing.
    ended: Vec<Ended>,
    /// Nobody is left who could post anything but ends of writes.
    is_closed: bool,
}

impl Carrier {
    pub(super) fn new(shared: Arc<Shared>, ring: Option<Ring>) -> Carrier {
        let (timers, pile) = (Timers::default(), Pile::default());
        Carrier { shared, ring, timers, pile, ended: Vec::new(), is_closed: false }
    }

    /// Does what there is to do; never sleeps. False when nobody is left who could want anything.
    pub(super) fn work(&mut self) -> bool {
        self.empty_inbox();
        self.drive_due();
        !self.is_finished()
    }

    /// Lets the threads go that did the rest. Only when there is nothing to do any more.
    pub(super) fn end(self) {
        self.shared.writers.stop();
        self.shared.background.stop();
    }

    /// Somebody has left something, a write has ended, or a deadline has passed.
    pub(super) fn has_something_to_do(&mut self, now: Instant) -> bool {
        let is_left = self.shared.inbox.has_something() || !self.ended.is_empty();
        is_left || self.ring.as_mut().is_some_and(Ring::has_more) || self.timers.next().is_some_and(|at| at <= now)
    }

    fn is_finished(&self) -> bool {
        self.is_closed
            && self.ring.as_ref().is_none_or(Ring::is_idle)
            && self.shared.writes_in_pool.load(Ordering::Relaxed) == 0
    }

    fn empty_inbox(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut pile = std::mem::take(&mut self.pile);
            // Taken before any client is called: from here on the carrier counts as awake, and what clients post costs
            // no system call.
            let is_empty = !self.shared.inbox.take(&mut pile) && self.ended.is_empty();
            for ended in self.ended.drain(..) {
                ended.tell();
            }
            for ended in pile.ended.drain(..) {
                self.shared.writes_in_pool.fetch_sub(1, Ordering::Relaxed);
                ended.tell();
            }
            for order in pile.orders.drain(..) {
                self.carry(order);
            }
            for channel in pile.kicked.drain(..) {
                self.drive(&channel);
            }
            self.is_closed |= std::mem::take(&mut pile.is_last);
            self.pile = pile;
            if is_empty {
                break;
            }
        }
    }

    fn carry(&mut self, mut order: Order) {
        match &mut self.ring {
            Some(ring) if ring.accepts(&order) && order.choose_way() == Way::Ring => ring.queue(order),
            _ => self.shared.write_by_pool(order),
        }
    }

    fn drive(&mut self, channel: &Arc<Channel>) {
        // Beyond what the clock can say is never.
        let due = channel.drive().and_then(|after| Instant::now().checked_add(after));
        self.timers.set(channel, due);
    }

    fn drive_due(&mut self) {
        if self.timers.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(channel) = self.timers.take_due(now) {
            self.drive(&channel);
        }
    }

    /// Until a write ends, somebody posts, or a deadline passes.
    pub(super) fn sleep(&mut self) {
        let how = if self.ring.is_some() { Sleep::Ring } else { Sleep::Word };
        let asleep = self.shared.inbox.fall_asleep(how);
        let timeout = match asleep {
            Some(_) => self.timers.next().map(|at| at.saturating_duration_since(Instant::now()).min(SLEEP_MAX)),
            None => Some(Duration::ZERO),
        };
        let Some(ring) = &mut self.ring else {
            if let Some(word) = asleep {
                self.shared.inbox.wait(word, timeout);
            }
            return;
        };
        match ring.enter(timeout) {
            Ok(()) => ring.reap(&mut self.ended),
            Err(e) => self.lose_ring(&e),
        }
    }

    /// Instead of sleeping: from now on a post wakes `waker`, and the ring's descriptor becomes readable when a write ends or a
    /// deadline passes.
    pub(super) fn doze(&mut self, waker: &Waker) -> Doze {
        let Some(ring) = &mut self.ring else { return Doze::RingLost };
        // First, so that an alarm that has gone off is set anew.
        ring.reap(&mut self.ended);
        if !self.ended.is_empty() {
            return Doze::Awake;
        }
        if let Err(e) = ring.submit(self.timers.next()) {
            self.lose_ring(&e);
            return Doze::RingLost;
        }
        if ring.has_more() {
            return Doze::Awake;
        }
        match self.shared.inbox.fall_asleep(Sleep::Task(waker.clone())) {
            Some(_) => Doze::Asleep,
            None => Doze::Awake,
        }
    }

    /// The ring does not work any more: what is in it gets the error, what comes later is written by the pool.
    fn lose_ring(&mut self, error: &io::Error) {
        let Some(ring) = self.ring.take() else { return };
        self.shared.has_ring.store(false, Ordering::Relaxed);
        *self.shared.carried.lock() = (Backend::Pwrite, Some(format!("the ring failed: {error}")));
        let (ended, orders) = ring.abandon(error);
        self.ended.extend(ended);
        for order in orders {
            self.shared.write_by_pool(order);
        }
    }
}
