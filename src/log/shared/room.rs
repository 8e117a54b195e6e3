//! Placing a record: its Lsn, once there is room in flight and in a segment. Whoever finds none waits here, threads and
//! tasks alike, and is told when there is.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::commit::{Encoded, Part, Pipe, Placed, Refused, seal_after, wake_each};
use super::super::space::RETRY_AFTER;
use super::tasks::TaskList;
use super::{Shared, clock_micros};
use crate::error::{Error, Result};
use crate::io::{Storage, is_forked_child};
use crate::segment::frame_bytes;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, now};

/// How long an append may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    Never,
    /// Until there is room.
    Room,
}

/// Tasks that wait for room.
#[derive(Default)]
pub(super) struct RoomTasks {
    list: TaskList,
    /// The group data of the largest record for which there was no segment; 0: none of them waits for one.
    group_bytes: u64,
}

impl RoomTasks {
    fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.group_bytes = 0;
        self.list.take()
    }
}

/// A task's wait for room for a record. Dropped, it leaves nothing.
pub(crate) struct WaitForRoom<'a, S: Storage> {
    shared: &'a Shared<S>,
    bytes: u64,
    number: Option<u64>,
}

impl<S: Storage> Shared<S> {
    /// Appends one record per entry, with consecutive Lsns; returns the first and the last place.
    pub(crate) fn append(&self, records: &[&[Part<'_>]], patience: Patience) -> Result<(Placed, Placed)> {
        self.check_usable()?;
        if records.is_empty() {
            return Err(Error::Invalid { what: "an append needs at least one record".into() });
        }
        let mut scratch = Vec::new();
        let mut scratch_part = [Part::from(&[][..])];
        if let [record] = records {
            let record = self.encode(record, &mut scratch, &mut scratch_part)?;
            let placed = self.place_one(&mut self.pipe.lock(), record, patience)?;
            if placed.kick {
                self.storage.kick();
            }
            return Ok((placed, placed));
        }
        let mut scratches = vec![Vec::new(); records.len()];
        let mut scratch_parts = vec![[Part::from(&[][..])]; records.len()];
        let encoded = records
            .iter()
            .zip(&mut scratches)
            .zip(&mut scratch_parts)
            .map(|((record, scratch), part)| self.encode(record, scratch, part))
            .collect::<Result<Vec<_>>>()?;
        self.place_many(encoded, patience)
    }

    fn place_many(&self, records: Vec<Encoded<'_>>, patience: Patience) -> Result<(Placed, Placed)> {
        let mut first: Option<Placed> = None;
        let mut last = None;
        let mut pipe = self.pipe.lock();
        let mut failed = None;
        for record in records {
            // The first may be refused with nothing done. Later ones wait, and nobody gets in between: a batch is whole.
            let patience = if first.is_none() { patience } else { Patience::Room };
            match self.place_next(&mut pipe, record, patience, first.is_some()) {
                Ok(placed) => {
                    pipe.batching = true;
                    first.get_or_insert(placed);
                    last = Some(placed);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if first.is_some() {
            pipe.batching = false;
            drop(pipe);
            self.announce_room();
            // Also for the part of a batch that failed: nobody else looks after it.
            self.storage.kick();
        }
        match failed {
            Some(error) => Err(error),
            None => first.zip(last).ok_or(Error::Closed),
        }
    }

    /// Why nothing is appended any more. A failure also closes the log, and is told before that.
    pub(crate) fn gone(&self, pipe: &Pipe<S::File>) -> Option<Error> {
        pipe.check().err().or_else(|| self.closed.load(Ordering::Relaxed).then_some(Error::Closed))
    }

    fn place_one(
        &self,
        pipe: &mut MutexGuard<'_, Pipe<S::File>>,
        record: Encoded<'_>,
        patience: Patience,
    ) -> Result<Placed> {
        self.place_next(pipe, record, patience, false)
    }

    /// Gives a record its place. `in_batch`: the one before it is of the same batch.
    fn place_next(
        &self,
        pipe: &mut MutexGuard<'_, Pipe<S::File>>,
        record: Encoded<'_>,
        patience: Patience,
        in_batch: bool,
    ) -> Result<Placed> {
        let bytes = frame_bytes(record.payload_bytes as usize);
        let limit = self.config.in_flight_bytes_max;
        let mut record = Some(record);
        loop {
            if let Some(error) = self.gone(pipe) {
                return Err(error);
            }
            if pipe.paused || (pipe.batching && !in_batch) {
                if patience == Patience::Never {
                    return Err(Error::Busy { in_flight_bytes: pipe.in_flight_bytes, limit_bytes: limit });
                }
                self.await_room(pipe, None);
                continue;
            }
            if pipe.in_flight_bytes > 0 && pipe.in_flight_bytes + bytes > limit {
                if patience == Patience::Never {
                    return Err(Error::Busy { in_flight_bytes: pipe.in_flight_bytes, limit_bytes: limit });
                }
                // Nobody may be waiting for what fills the limit: the driver must look after it now.
                MutexGuard::unlocked(pipe, || self.storage.kick());
                self.await_room(pipe, Some(Duration::from_millis(100)));
                continue;
            }
            let clock = clock_micros();
            let placed = pipe.append(record.take().expect("taken once per success"), clock, now, |pipe, next| {
                seal_after(pipe, &self.facts.lock(), next)
            });
            match placed {
                Ok(placed) => return Ok(placed),
                Err((refused, back)) => {
                    record = Some(back);
                    self.await_segment(pipe, refused, patience)?;
                }
            }
        }
    }

    /// A prepared segment is needed: asks for it, and waits or refuses as configured.
    fn await_segment(
        &self,
        pipe: &mut MutexGuard<'_, Pipe<S::File>>,
        refused: Refused,
        patience: Patience,
    ) -> Result<()> {
        let Refused::NeedSegment { bytes } = refused;
        let full = MutexGuard::unlocked(pipe, || {
            // What was placed before may be waited for by nobody.
            self.storage.kick();
            self.want_segment(bytes)
        })?;
        if patience == Patience::Never {
            let in_flight_bytes = pipe.in_flight_bytes;
            return Err(full.unwrap_or(Error::Busy { in_flight_bytes, limit_bytes: self.config.in_flight_bytes_max }));
        }
        // A trim may make room, or the file system; with `DropOldest` the segment in use, once others have filled it.
        self.await_room(pipe, Some(Duration::from_millis(20)));
        Ok(())
    }

    /// Sleeps until there may be room, or something has ended, so long at most.
    pub(super) fn await_room(&self, pipe: &mut MutexGuard<'_, Pipe<S::File>>, patience: Option<Duration>) {
        match self.sleep_max(patience) {
            Some(patience) => _ = self.room.wait_for(pipe, patience),
            None => self.room.wait(pipe),
        }
    }

    /// Wakes whoever waits for room, a segment, or the end of a pause.
    pub(crate) fn announce_room(&self) {
        self.room.notify_all();
        let tasks = self.room_tasks.lock().take();
        wake_each(tasks);
    }

    pub(crate) fn wait_for_room(&self, bytes: u64) -> WaitForRoom<'_, S> {
        WaitForRoom { shared: self, bytes, number: None }
    }

    /// Tasks that wait for a segment cannot ask for it again and again as threads do: the driver asks for them.
    pub(super) fn retry_for_tasks(&self) -> Option<Duration> {
        let wanted = {
            let tasks = self.room_tasks.lock();
            (!tasks.list.is_empty() && tasks.group_bytes > 0).then_some(tasks.group_bytes)
        };
        let wanted = wanted.filter(|_| !self.closed.load(Ordering::Relaxed))?;
        (!matches!(self.want_segment(wanted), Ok(None))).then_some(RETRY_AFTER)
    }
}

impl<S: Storage> WaitForRoom<'_, S> {
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let (mut ready, mut lacks_segment) = self.look();
        // What freed room between the look and the registration must be seen; and the driver must know of a segment that is
        // lacking, which nobody else asks for again.
        let mut is_known: Option<bool> = None;
        while ready.is_pending() && is_known.is_none_or(|known| lacks_segment && !known) {
            self.register(lacks_segment, context);
            self.shared.storage.kick();
            is_known = Some(lacks_segment);
            (ready, lacks_segment) = self.look();
        }
        ready
    }

    /// And whether a segment is what it lacks, which is asked for then.
    fn look(&self) -> (Poll<Result<()>>, bool) {
        let shared = self.shared;
        let group_bytes = frame_bytes(self.bytes as usize);
        if let Err(error) = shared.check_usable() {
            return (Poll::Ready(Err(error)), false);
        }
        {
            let pipe = shared.pipe.lock();
            if let Some(error) = shared.gone(&pipe) {
                return (Poll::Ready(Err(error)), false);
            }
            let in_flight = pipe.in_flight_bytes;
            let is_full = in_flight > 0 && in_flight + group_bytes > shared.config.in_flight_bytes_max;
            // Others' turn, or too much on its way: told of in either case.
            if is_full || pipe.paused || pipe.batching {
                return (Poll::Pending, false);
            }
            if pipe.has_place_for(self.bytes) {
                return (Poll::Ready(Ok(())), false);
            }
        }
        match shared.want_segment(group_bytes) {
            Ok(_) => (Poll::Pending, true),
            Err(error) => (Poll::Ready(Err(error)), false),
        }
    }

    fn register(&mut self, lacks_segment: bool, context: &Context<'_>) {
        let mut tasks = self.shared.room_tasks.lock();
        tasks.list.register(&mut self.number, context.waker());
        if lacks_segment {
            tasks.group_bytes = tasks.group_bytes.max(frame_bytes(self.bytes as usize));
        }
    }
}

impl<S: Storage> Drop for WaitForRoom<'_, S> {
    fn drop(&mut self) {
        // In a child the lock may be held by nobody.
        if let Some(number) = self.number
            && !is_forked_child()
        {
            self.shared.room_tasks.lock().list.deregister(number);
        }
    }
}
