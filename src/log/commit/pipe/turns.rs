//! Who writes the next group, and which frames are in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BACKLOG_CHUNKS, Chunk, DriverTurn, Flight, Group, Pipe, Turn};
use crate::io::GroupWrite;
use crate::log::commit::{Readiness, TailChunk};
use crate::types::Lsn;

/// The driver leaves frames that threads wait for alone for this many sweep intervals.
const SWEEPS_WITH_WAITERS: u32 = 16;

impl<F> Pipe<F> {
    fn first_queued(&self) -> Option<u64> {
        self.ready.front().or(self.open.as_ref()).map(|chunk| chunk.seq)
    }

    /// True while a chunk has not been written.
    pub(crate) fn is_queued(&self, chunk: u64) -> bool {
        self.first_queued().is_some_and(|first| chunk >= first)
    }

    fn queued_mut(&mut self, chunk: u64) -> Option<&mut Chunk<F>> {
        let first = self.first_queued()?;
        let at = chunk.checked_sub(first)? as usize;
        if at < self.ready.len() { self.ready.get_mut(at) } else { self.open.as_mut().filter(|open| open.seq == chunk) }
    }

    /// Counts a thread that waits for a chunk, once.
    pub(crate) fn arrive(&mut self, chunk: u64) {
        if let Some(chunk) = self.queued_mut(chunk) {
            chunk.waiters += 1;
            self.queued_waiters += 1;
        }
    }

    /// Counts a task that waits for a chunk, once; true when the driver should be kicked for it.
    pub(crate) fn arrive_task(&mut self, chunk: u64, now: Instant) -> bool {
        let Some(chunk) = self.queued_mut(chunk) else { return false };
        chunk.tasks += 1;
        chunk.waiters += 1;
        self.queued_waiters += 1;
        let free = self.flights.len() < self.depth.depth();
        self.queued_waiters == 1 || (free && self.gather.readiness(now, self.queued_waiters) == Readiness::Ready)
    }

    /// What the thread that waits for `chunk` should do. `was_deputy`: it slept with a time.
    pub(crate) fn turn(&mut self, now: Instant, chunk: u64, was_deputy: bool) -> Turn<F> {
        if was_deputy {
            self.deputy = false;
        }
        if !self.is_queued(chunk) || self.flights.len() >= self.depth.depth() {
            return Turn::Sleep(None);
        }
        match self.gather.readiness(now, self.queued_waiters) {
            Readiness::Ready => match self.take_group(now) {
                Some(group) => Turn::Lead(group),
                None => Turn::Sleep(None),
            },
            Readiness::At(_) if self.deputy => Turn::Sleep(None),
            Readiness::At(deadline) => {
                self.deputy = true;
                Turn::Sleep(Some(deadline.saturating_duration_since(now)))
            }
        }
    }

    /// What the driver should do: write what no waiting thread looks after. `force`: whatever is queued.
    pub(crate) fn take_for_driver(&mut self, now: Instant, force: bool) -> DriverTurn<F> {
        let Some(oldest) = self.ready.front().or(self.open.as_ref()) else { return DriverTurn::At(None) };
        // Threads that wait write for themselves; the driver only makes sure that they are not all asleep.
        let sweeps = if oldest.waiters > oldest.tasks { SWEEPS_WITH_WAITERS } else { 1 };
        let sweep_at = oldest.opened + self.config.sweep_interval * sweeps;
        let tasks = oldest.tasks > 0 || self.open.as_ref().is_some_and(|chunk| chunk.tasks > 0);
        if self.flights.len() >= self.depth.depth() || self.poison.is_some() {
            return DriverTurn::At(None);
        }
        let backlog = self.ready.len() >= BACKLOG_CHUNKS;
        let due = force || backlog || sweep_at <= now;
        let wait_until = match self.gather.readiness(now, self.queued_waiters) {
            _ if due => None,
            Readiness::Ready if tasks => None,
            Readiness::At(deadline) if tasks => Some(deadline.min(sweep_at)),
            _ => Some(sweep_at),
        };
        match wait_until {
            Some(at) => DriverTurn::At(Some(at)),
            None => self.take_group(now).map_or(DriverTurn::At(None), DriverTurn::Submit),
        }
    }

    /// The group of `chunk`, for the thread that appended it: only where nothing else is to be written, and nothing is under way.
    #[cfg(feature = "receiver")]
    pub(crate) fn take_lone(&mut self, now: Instant, chunk: u64) -> Option<Group<F>> {
        let queued = self.ready.len() + usize::from(self.open.is_some());
        let is_lone = queued == 1 && self.writes_in_flight == 0 && self.is_queued(chunk);
        if is_lone { self.take_group(now) } else { None }
    }

    /// The next group, if one may be written now.
    fn take_group(&mut self, now: Instant) -> Option<Group<F>> {
        if self.poison.is_some() {
            return None;
        }
        let barrier = |chunk: Option<&Chunk<F>>| chunk.is_some_and(|chunk| chunk.barrier);
        if !self.flights.is_empty() && barrier(self.ready.front().or(self.open.as_ref())) {
            return None;
        }
        let token = self.next_token;
        let mut parts = self.parts_pool.pop().unwrap_or_default();
        let mut tail = self.tail_pool.pop().unwrap_or_default();
        let mut group: Option<(Flight, Arc<F>, u64)> = None;
        let mut queued_for = Duration::ZERO;
        loop {
            if self.ready.is_empty() {
                self.close_open();
            }
            let Some(front) = self.ready.front() else { break };
            if let Some((flight, file, _)) = &group
                && (!Arc::ptr_eq(file, &front.file)
                    || flight.bytes + front.buffer.len() as u64 > self.config.group_bytes_max)
            {
                break;
            }
            let chunk = self.ready.pop_front().expect("looked at above");
            self.queued_waiters -= chunk.waiters;
            let (flight, _, _) = group.get_or_insert_with(|| {
                queued_for = now.saturating_duration_since(chunk.opened);
                let flight = Flight {
                    token,
                    base: chunk.base,
                    last: chunk.base.previous(),
                    last_chain: chunk.last_chain,
                    claims: Lsn::ZERO,
                    chunks: chunk.seq..=chunk.seq,
                    bytes: 0,
                    frame_bytes: 0,
                    ends_at: (chunk.segment, chunk.offset),
                    waiters: 0,
                    starts_segment: chunk.barrier,
                    tail: Vec::new(),
                    done: false,
                };
                (flight, chunk.file.clone(), chunk.offset)
            });
            flight.last = chunk.last;
            flight.last_chain = chunk.last_chain;
            flight.claims = flight.claims.max(chunk.claims);
            flight.chunks = *flight.chunks.start()..=chunk.seq;
            flight.bytes += chunk.buffer.len() as u64;
            flight.frame_bytes += chunk.data_bytes;
            flight.ends_at = (chunk.segment, chunk.offset + chunk.buffer.len() as u64);
            flight.waiters += chunk.waiters;
            let buffer = Arc::new(chunk.buffer);
            if chunk.last >= chunk.base {
                tail.push(TailChunk {
                    first: chunk.base,
                    last: chunk.last,
                    segment: chunk.segment,
                    offset: chunk.offset,
                    buffer: buffer.clone(),
                });
            }
            parts.push(buffer);
        }
        let (mut flight, file, offset) = group?;
        flight.tail = tail;
        self.next_token += 1;
        self.written = self.written.max(flight.last);
        self.gather.taken(now, flight.waiters);
        self.deputy = false;
        self.recent_group_bytes = (self.recent_group_bytes * 3 + flight.bytes) / 4;
        self.flights.push_back(flight);
        self.writes_in_flight += 1;
        Some(Group { write: GroupWrite { file, offset, parts, token }, queued_for })
    }
}
