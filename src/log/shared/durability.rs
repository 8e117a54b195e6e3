//! Durability: a group is written and flushed, its end moves `flushed`, and whoever waits for its frames is told what
//! became of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::commit::{DriverTurn, Group, Pipe, Released, Turn, wake_each};
use super::Shared;
use crate::error::{Error, Result};
use crate::events::{self, event};
use crate::io::{GroupWrite, Storage, WriteTimes, is_forked_child};
use crate::metrics::add;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, now};
use crate::types::Lsn;

impl<S: Storage> Shared<S> {
    /// The last frame that survived a flush.
    pub(crate) fn flushed(&self) -> Lsn {
        Lsn::new(self.flushed.load(Ordering::Acquire))
    }

    /// Whether a frame that was appended after `era` truncations is settled: flushed, truncated, or never to be.
    pub(crate) fn settled(&self, lsn: Lsn, era: u64) -> Option<Result<()>> {
        if let done @ Some(_) = self.flushed_or_cut(lsn, era) {
            return done;
        }
        let lost = lsn.get() >= self.poisoned_from.load(Ordering::Acquire);
        if lost || self.abandoned.load(Ordering::Acquire) {
            // Asked again, era included: a group before the failed one may have ended meanwhile, and the log may even
            // have been truncated and have given the number to another frame.
            return self.flushed_or_cut(lsn, era).or_else(|| Some(Err(self.unknown(lsn))));
        }
        None
    }

    fn flushed_or_cut(&self, lsn: Lsn, era: u64) -> Option<Result<()>> {
        // In this order: a position of a later era is seen only with that era.
        let flushed = self.flushed();
        if self.era.load(Ordering::Acquire) != era {
            return Some(self.after_cuts(lsn, era));
        }
        (flushed >= lsn).then_some(Ok(()))
    }

    /// What became of a frame when the log was truncated: everything appended before was flushed first.
    fn after_cuts(&self, lsn: Lsn, era: u64) -> Result<()> {
        match self.cuts.lock().end_since(era) {
            Some(end) if lsn > end => Err(Error::Truncated { requested: lsn, end }),
            _ => Ok(()),
        }
    }

    /// Suffix truncations so far, and the lowest end they have left since there were `era`. Under the pipe's lock: what is
    /// seen flushed from now on is what they left, or newer.
    pub(crate) fn cuts_since(&self, era: u64) -> (u64, Option<Lsn>) {
        let _published = self.pipe.lock();
        (self.era.load(Ordering::Acquire), self.cuts.lock().end_since(era))
    }

    /// The log ends at `end` now. Called with the pipe's lock held, before any position of the new era is published.
    pub(crate) fn note_cut(&self, era: u64, end: Lsn) {
        self.cuts.lock().note(era, end);
        self.era.store(era, Ordering::Release);
    }

    fn unknown(&self, lsn: Lsn) -> Error {
        match &self.pipe.lock().poison {
            Some((_, Error::Closed)) | None => Error::Unknown { lsn },
            Some((from, cause)) => Error::Poisoned { from: *from, cause: Arc::new(cause.clone()) },
        }
    }

    /// As [`Pipe::check`].
    pub(crate) fn check_poison(&self) -> Result<()> {
        self.pipe.lock().check()
    }

    /// Blocks until the frame is settled; the calling thread writes its own group when that is the fastest way.
    pub(crate) fn wait(&self, lsn: Lsn, chunk: u64, era: u64) -> Result<()> {
        let mut arrived = false;
        let mut deputy = false;
        loop {
            let word = self.waiters.word(chunk);
            if let Some(settled) = self.settled(lsn, era) {
                return settled;
            }
            if is_forked_child() {
                return Err(Error::Forked);
            }
            let turn = {
                let mut pipe = self.pipe.lock();
                if !arrived {
                    pipe.arrive(chunk);
                    arrived = true;
                }
                pipe.turn(now(), chunk, std::mem::take(&mut deputy))
            };
            match turn {
                Turn::Lead(group) => {
                    add(&self.counters.groups_led, 1);
                    self.lead(group);
                }
                Turn::Sleep(timeout) => {
                    deputy = timeout.is_some();
                    self.waiters.sleep(chunk, word, self.sleep_max(timeout));
                }
            }
        }
    }

    /// Writes the group of `chunk` on this thread if that is all there is to do; else does nothing.
    #[cfg(feature = "receiver")]
    pub(crate) fn write_lone(&self, chunk: u64) {
        let group = self.pipe.lock().take_lone(now(), chunk);
        if let Some(group) = group {
            add(&self.counters.groups_led, 1);
            self.lead(group);
        }
    }

    /// How long to sleep at most for something under way, by now.
    pub(crate) fn sleep_max(&self, wanted: Option<Duration>) -> Option<Duration> {
        match (wanted, self.storage.watch_over()) {
            (Some(wanted), Some(allowed)) => Some(wanted.min(allowed)),
            (wanted, allowed) => wanted.or(allowed),
        }
    }

    /// Writes a group on this thread.
    pub(crate) fn lead(&self, group: Group<S::File>) {
        let Group { write, queued_for } = group;
        self.counters.queue_wait_micros.record_micros(queued_for);
        events::queue_waited(queued_for.as_micros() as u64);
        let result = self.storage.write_flushed(&write.file, write.offset, &write.parts);
        self.group_ended(write, result);
    }

    pub(super) fn group_ended(&self, write: GroupWrite<S::File>, result: std::io::Result<WriteTimes>) {
        let bytes = write.bytes();
        let times = result.as_ref().copied().unwrap_or_default();
        if result.is_ok() {
            add(&self.counters.device_bytes, bytes);
            self.counters.write_micros.record_micros(times.write);
            self.counters.flush_micros.record_micros(times.flush);
            self.counters.group_bytes.record(bytes);
        }
        let offset = write.offset;
        let released = {
            let mut pipe = self.pipe.lock();
            let result = result.map_err(|e| {
                let file = pipe.file_of(write.token);
                Error::io_at("write and flush", file, offset, e)
            });
            let released = pipe.complete(now(), write.token, write.parts, result);
            // Before the positions are published: whoever sees a frame flushed finds its segment.
            released.rotations.iter().for_each(|rotation| self.enter_rotation(rotation));
            self.publish(&pipe);
            released
        };
        self.release(released, bytes, times);
    }

    /// Makes the pipe's positions visible without its lock. Called with it held.
    pub(crate) fn publish(&self, pipe: &Pipe<S::File>) {
        self.flushed.store(pipe.flushed().0.get(), Ordering::Release);
        if let Some((from, _)) = &pipe.poison {
            self.poisoned_from.store(from.get(), Ordering::Release);
        }
    }

    fn release(&self, released: Released<S::File>, bytes: u64, times: WriteTimes) {
        if released.chunks.is_some() {
            let (write, flush) = (times.write.as_micros() as u64, times.flush.as_micros() as u64);
            events::group_flushed(released.group_frames, bytes, write, flush);
        }
        if released.group_frames > 0 {
            self.counters.group_frames.record(released.group_frames);
            add(&self.counters.frame_bytes, released.frame_bytes);
        }
        for rotation in released.rotations {
            add(&self.counters.rotations, 1);
            events::happened("rotation", 1);
            event!(debug, segment = rotation.new.get(), end = rotation.old_end.get(), "rotated");
            self.rotated(rotation);
        }
        if released.poisoned {
            self.over.store(true, Ordering::Release);
            if released.is_news {
                self.announce_poison();
            }
            self.waiters.wake_everyone();
            self.waiters.wake_tasks(Lsn::MAX);
            self.announce_room();
            self.announce_news();
            return;
        }
        // The device first: whoever looks after the next group is woken before the many that this one releases.
        if let Some(chunk) = released.nudge {
            self.waiters.nudge_one(chunk);
        }
        if let Some(chunks) = released.chunks {
            self.waiters.wake_chunks(chunks);
        }
        self.waiters.wake_tasks(released.flushed);
        if released.room {
            self.announce_room();
        }
        self.announce_news();
        if released.kick {
            self.storage.kick();
        }
    }

    /// Tells operators, once.
    pub(super) fn announce_poison(&self) {
        events::happened("poisoned", 1);
        event!(error, log = %self.storage.describe(), "poisoned: a write or flush failed, nothing later is acknowledged");
    }

    /// Tells readers at the head that `flushed` moved, or will not.
    pub(crate) fn announce_news(&self) {
        {
            // Taken so that a reader between its look and its sleep is not missed.
            let _guard = self.news_lock.lock();
            self.news.notify_all();
        }
        let tasks = self.news_tasks.lock().take();
        wake_each(tasks);
    }

    /// Writes everything that is queued, on this thread, until the pipeline is idle, poisoned, or the time is over.
    pub(crate) fn drain(&self, until: Option<Instant>) -> Result<()> {
        self.drain_through(Lsn::MAX, until)
    }

    /// The same, but ends as soon as everything up to `through` is flushed.
    pub(crate) fn drain_through(&self, through: Lsn, until: Option<Instant>) -> Result<()> {
        let mut pipe = self.pipe.lock();
        loop {
            if pipe.flushed().0 >= through {
                return Ok(());
            }
            pipe.check()?;
            if pipe.is_idle() {
                return Ok(());
            }
            if until.is_some_and(|until| now() >= until) {
                return Err(Error::TimedOut { what: "writing what is queued" });
            }
            match pipe.take_for_driver(now(), true) {
                DriverTurn::Submit(group) => MutexGuard::unlocked(&mut pipe, || self.lead(group)),
                DriverTurn::At(_) => self.await_room(&mut pipe, Some(Duration::from_millis(1))),
            }
        }
    }
}
