//! The way out: a group ended, well or not.

use std::sync::Arc;
use std::time::Instant;

use super::{Flight, Pipe, Released};
use crate::error::Error;
use crate::io::{Buffer, WriteTimes};
use crate::types::Lsn;

/// Emptied lists are kept for as many groups as are ever in flight.
const LISTS_KEPT: usize = 16;

impl<F> Pipe<F> {
    /// A group's write ended. `what`: the error's description of the write, made only when there is an error.
    pub(crate) fn complete(
        &mut self,
        now: Instant,
        token: u64,
        mut parts: Vec<Arc<Buffer>>,
        result: Result<WriteTimes, Error>,
    ) -> Released<F> {
        self.writes_in_flight -= 1;
        parts.clear();
        if self.parts_pool.len() < LISTS_KEPT {
            self.parts_pool.push(parts);
        }
        let mut released = Released {
            chunks: None,
            flushed: self.flushed,
            nudge: None,
            kick: false,
            rotations: Vec::new(),
            group_frames: 0,
            frame_bytes: 0,
            room: false,
            poisoned: false,
            is_news: false,
        };
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.token == token) else {
            debug_assert!(false, "a completion nobody waits for");
            return released;
        };
        // The failure may have been that of its own bytes, told to another.
        let result = match (result, &self.poison) {
            (Ok(_), Some((_, cause))) if self.has_failed => Err(cause.clone()),
            (result, _) => result,
        };
        match result {
            Ok(times) => {
                flight.done = true;
                let took = times.write + times.flush;
                self.flush_time = (self.flush_time * 7 + took) / 8;
                let (bytes, saturated) = (flight.bytes, !self.ready.is_empty());
                self.depth.completed(now, bytes, saturated);
            }
            Err(error) => {
                released.is_news = !std::mem::replace(&mut self.has_failed, true);
                let base = flight.base;
                self.poison_from(base, error);
                released.poisoned = true;
            }
        }
        let mut waiters = 0;
        while self.flights.front().is_some_and(|flight| flight.done) {
            let flight = self.flights.pop_front().expect("looked at above");
            waiters += flight.waiters;
            self.settle(flight, &mut released);
        }
        released.flushed = self.flushed;
        if released.chunks.is_some() {
            self.gather.released(now, waiters, self.queued_waiters, self.flush_time);
        }
        self.appoint(&mut released);
        released
    }

    /// The front group is flushed.
    fn settle(&mut self, flight: Flight, released: &mut Released<F>) {
        // A group that failed is never done, so nothing behind it comes here. What an end cuts off was never taken: a group
        // without frames may stand where that begins, its last frame is before it all the same.
        debug_assert!(self.poison.as_ref().is_none_or(|(from, _)| flight.last < *from), "flushed behind a failure");
        let first = released.chunks.as_ref().map_or(*flight.chunks.start(), |chunks| *chunks.start());
        released.chunks = Some(first..=*flight.chunks.end());
        if flight.last >= flight.base {
            released.group_frames += flight.last.since(flight.base.previous());
            released.frame_bytes += flight.frame_bytes;
            released.room = true;
            self.flushed = flight.last;
            self.flushed_chain = flight.last_chain;
        }
        self.proven = self.proven.max(flight.claims);
        self.flushed_at = flight.ends_at;
        self.in_flight_bytes -= flight.frame_bytes;
        let mut tail = flight.tail;
        for chunk in tail.drain(..) {
            self.tail.push(chunk);
        }
        if self.tail_pool.len() < LISTS_KEPT {
            self.tail_pool.push(tail);
        }
        if flight.starts_segment
            && let Some(rotation) = self.rotations.pop_front()
        {
            released.rotations.push(rotation);
        }
    }

    /// Finds someone to look after what is queued.
    fn appoint(&mut self, released: &mut Released<F>) {
        let Some(front) = self.ready.front().or(self.open.as_ref()) else { return };
        if self.deputy || self.poison.is_some() {
            return;
        }
        if front.waiters > front.tasks {
            released.nudge = Some(front.seq);
        } else {
            released.kick = true;
        }
    }

    /// Lets go of every file: their claims end, the next writer need not wait. Only after [`Pipe::abandon`].
    pub(crate) fn release_files(&mut self) {
        debug_assert!(self.poison.is_some() && self.writes_in_flight == 0);
        self.writer = None;
        self.open = None;
        self.spares.clear();
        self.rotations.clear();
        self.ready.clear();
    }

    /// Stops for good: whatever is queued is never written. What is in flight counts, if nothing has failed. True when `cause` is
    /// the first failure.
    pub(crate) fn abandon(&mut self, cause: Error) -> bool {
        let is_failure = !matches!(cause, Error::Closed);
        let is_news = is_failure && !std::mem::replace(&mut self.has_failed, true);
        if self.poison.is_none() {
            let from = self.ready.front().or(self.open.as_ref()).map_or(self.next, |chunk| chunk.base);
            self.poison = Some((from, cause));
        }
        is_news
    }

    /// Why nothing is acknowledged any more: a failure, or that the log was closed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.poison {
            Some((_, Error::Closed)) => Err(Error::Closed),
            Some((from, cause)) => Err(Error::Poisoned { from: *from, cause: Arc::new(cause.clone()) }),
            None => Ok(()),
        }
    }

    /// Nothing from `base` on will be flushed. The first cause stands.
    fn poison_from(&mut self, base: Lsn, error: Error) {
        let (from, cause) = self.poison.take().unwrap_or((Lsn::MAX, error));
        self.poison = Some((from.min(base), cause));
    }
}
