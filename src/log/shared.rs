//! One open log: the commit pipeline with its lock, its waiters and its storage. The decisions are in `commit`; here
//! they meet threads and devices.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::catalog::Catalog;
use super::commit::{
    Body, ControlFacts, DriverTurn, Encoded, Group, Pipe, Placed, Refused, Released, Turn, Waiters, seal_after,
    wake_each,
};
use super::cuts::Cuts;
use super::space::{RETRY_AFTER, Space};
use crate::codec::Crc32c;
use crate::config::{Compression, Config, WhenFull};
use crate::error::{Error, Result};
use crate::events::{self, event};
use crate::io::{Buffer, BufferPool, Client, GroupWrite, Storage, WriteTimes, is_forked_child};
use crate::metrics::{Counters, add};
use crate::segment::{Control, FLAG_LZ4, HEADER_BYTES, frame_bytes, round_up};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, now, sleep};
use crate::types::{Lsn, LsnRange};

/// Payloads above this are copied before the lock is taken and become a chunk of their own.
const SOLO_BYTES: usize = 64 * 1024;
/// Shorter payloads are not worth compressing.
const COMPRESS_MIN_BYTES: usize = 256;

pub(super) struct Shared<S: Storage> {
    pub(super) storage: S,
    pub(super) config: Config,
    pub(super) control: Mutex<Control>,
    /// What a seal says of the control file, as it is on disk: read under the pipe's lock, which `control`, held during
    /// writes, must never be.
    pub(super) facts: Mutex<ControlFacts>,
    pub(super) pipe: Mutex<Pipe<S::File>>,
    pub(super) waiters: Waiters,
    /// Room in flight, a prepared segment, or a reason to stop waiting for them.
    room: Condvar,
    room_tasks: Mutex<Vec<std::task::Waker>>,
    /// Copies of what the pipe knows, for looking without its lock.
    flushed: AtomicU64,
    /// The first Lsn that is poisoned; `u64::MAX` when none is.
    poisoned_from: AtomicU64,
    closed: AtomicBool,
    /// Nothing more will be flushed, but for what is in flight.
    over: AtomicBool,
    /// Nobody waits for what is in flight either: a device that does not answer keeps no waiter.
    abandoned: AtomicBool,
    /// Suffix truncations since open, as `Pending`s see them.
    era: AtomicU64,
    cuts: Mutex<Cuts>,
    /// Changes with suffix truncations: a reader whose number differs looks where it stands.
    pub(super) truncations: AtomicU64,
    pub(super) trimmed: AtomicU64,
    /// Why appends are refused for as long as this log is open.
    pub(super) refusal: Option<Error>,
    pub(super) catalog: Catalog<S>,
    pub(super) space: Mutex<Space>,
    /// Held while the log is cut at either end: one trim or truncation at a time.
    pub(super) cutting: Mutex<()>,
    /// Held from giving a segment its number until it may be used.
    pub(super) numbering: Mutex<()>,
    pub(super) pool: Arc<BufferPool>,
    pub(super) counters: Counters,
    /// Damage that readers met, for the statistics.
    pub(super) faults: Mutex<Vec<LsnRange>>,
    pub(super) has_quarantine: AtomicBool,
    /// Blocking readers at the head sleep here.
    pub(super) news: Condvar,
    pub(super) news_lock: Mutex<()>,
    pub(super) news_tasks: Mutex<Vec<std::task::Waker>>,
    pub(super) me: std::sync::Weak<Shared<S>>,
    drive_state: Mutex<DriveState>,
    lock: Mutex<Option<S::Lock>>,
    work: Mutex<Work>,
    work_done: Condvar,
}

/// Background jobs of this log: the directory is given back only when none runs and none will.
#[derive(Default)]
struct Work {
    running: usize,
    retired: bool,
}

#[derive(Default)]
struct DriveState {
    /// The last Lsn assigned when the driver last looked, and since when it has not changed.
    seen: Lsn,
    quiet_since: Option<Instant>,
}

/// What [`super::open`] has put together.
pub(super) struct Parts<S: Storage> {
    pub(super) storage: S,
    pub(super) config: Config,
    pub(super) control: Control,
    pub(super) pipe: Pipe<S::File>,
    pub(super) catalog: Catalog<S>,
    pub(super) space: Space,
    pub(super) pool: Arc<BufferPool>,
    pub(super) refusal: Option<Error>,
    pub(super) lock: Option<S::Lock>,
}

/// How long an append may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    Never,
    /// Until there is room.
    Room,
}

impl<S: Storage> Shared<S> {
    pub(super) fn new(parts: Parts<S>) -> Arc<Shared<S>> {
        let flushed = parts.pipe.flushed().0;
        let trimmed = parts.control.trim.lsn;
        let has_quarantine = !parts.control.quarantined.is_empty();
        Arc::new_cyclic(|me| Shared {
            storage: parts.storage,
            config: parts.config,
            facts: Mutex::new(ControlFacts::of(&parts.control)),
            control: Mutex::new(parts.control),
            pipe: Mutex::new(parts.pipe),
            waiters: Waiters::new(),
            room: Condvar::new(),
            room_tasks: Mutex::default(),
            flushed: AtomicU64::new(flushed.get()),
            poisoned_from: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            era: AtomicU64::new(0),
            cuts: Mutex::default(),
            truncations: AtomicU64::new(0),
            trimmed: AtomicU64::new(trimmed.get()),
            refusal: parts.refusal,
            catalog: parts.catalog,
            space: Mutex::new(parts.space),
            cutting: Mutex::new(()),
            numbering: Mutex::new(()),
            pool: parts.pool,
            counters: Counters::default(),
            faults: Mutex::default(),
            has_quarantine: AtomicBool::new(has_quarantine),
            news: Condvar::new(),
            news_lock: Mutex::new(()),
            news_tasks: Mutex::default(),
            me: me.clone(),
            drive_state: Mutex::default(),
            lock: Mutex::new(parts.lock),
            work: Mutex::default(),
            work_done: Condvar::new(),
        })
    }

    // --- append ----------------------------------------------------------------------------------------------------

    /// Everything about a record that can be done before the lock: length, checksum, compression, a large one's copy.
    fn encode<'a>(
        &self,
        parts: &'a [&'a [u8]],
        scratch: &'a mut Vec<u8>,
        scratch_part: &'a mut [&'a [u8]; 1],
    ) -> Result<Encoded<'a>> {
        let raw: usize = parts.iter().map(|part| part.len()).sum();
        if raw as u64 > self.config.record_bytes_max {
            return Err(Error::RecordTooLarge { bytes: raw as u64, limit_bytes: self.config.record_bytes_max });
        }
        let mut parts = parts;
        let mut flags = 0;
        if self.config.compression == Compression::Lz4 && raw >= COMPRESS_MIN_BYTES && compress(parts, raw, scratch) {
            *scratch_part = [scratch.as_slice()];
            parts = scratch_part;
            flags = FLAG_LZ4;
        }
        let stored: usize = parts.iter().map(|part| part.len()).sum();
        let (body, payload_crc) = if stored > SOLO_BYTES {
            let (buffer, crc) = self.copy_solo(parts, stored);
            (Body::Solo(buffer), crc)
        } else {
            let mut crc = Crc32c::default();
            parts.iter().for_each(|part| crc.update(part));
            (Body::Parts(parts), crc.finish())
        };
        Ok(Encoded { body, payload_bytes: stored as u32, raw_bytes: raw as u32, payload_crc, flags })
    }

    /// Checksums and copies in one pass over cache-sized pieces: the second look at each finds it still in the cache
    /// (85 µs per MiB; copying first and summing the copy 98, one after the other 105).
    fn copy_solo(&self, parts: &[&[u8]], stored: usize) -> (Buffer, u32) {
        const PIECE: usize = 32 * 1024;
        let block = self.pipe_block();
        let mut buffer = self.pool.get(round_up(frame_bytes(stored), block) as usize);
        let mut crc = Crc32c::default();
        let into = buffer.whole_mut();
        let mut at = HEADER_BYTES;
        for part in parts {
            for piece in part.chunks(PIECE) {
                crc.update(piece);
                into[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
        }
        (buffer, crc.finish())
    }

    fn pipe_block(&self) -> u64 {
        u64::from(self.storage.medium().device_block_bytes)
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        if is_forked_child() {
            return Err(Error::Forked);
        }
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    /// Appends one record per entry, with consecutive Lsns; returns the first and the last place.
    pub(super) fn append(&self, records: &[&[&[u8]]], patience: Patience) -> Result<(Placed, Placed)> {
        self.check_usable()?;
        if records.is_empty() {
            return Err(Error::Invalid { what: "an append needs at least one record".into() });
        }
        let mut scratch = Vec::new();
        let mut scratch_part: [&[u8]; 1] = [&[]];
        if let [record] = records {
            let record = self.encode(record, &mut scratch, &mut scratch_part)?;
            let placed = self.place_one(&mut self.pipe.lock(), record, patience)?;
            if placed.kick {
                self.storage.kick();
            }
            return Ok((placed, placed));
        }
        let mut scratches = vec![Vec::new(); records.len()];
        let mut scratch_parts: Vec<[&[u8]; 1]> = vec![[&[]]; records.len()];
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
    pub(super) fn gone(&self, pipe: &Pipe<S::File>) -> Option<Error> {
        match &pipe.poison {
            Some((_, Error::Closed)) => Some(Error::Closed),
            Some((from, cause)) => Some(Error::Poisoned { from: *from, cause: Arc::new(cause.clone()) }),
            None => self.closed.load(Ordering::Relaxed).then_some(Error::Closed),
        }
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
                self.room.wait(pipe);
                continue;
            }
            if pipe.in_flight_bytes > 0 && pipe.in_flight_bytes + bytes > limit {
                if patience == Patience::Never {
                    return Err(Error::Busy { in_flight_bytes: pipe.in_flight_bytes, limit_bytes: limit });
                }
                // Nobody may be waiting for what fills the limit: the driver must look after it now.
                MutexGuard::unlocked(pipe, || self.storage.kick());
                self.room.wait_for(pipe, Duration::from_millis(100));
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
        });
        match full {
            // With `DropOldest` something to drop appears at the latest when the segment in use is full: wait for it.
            Some(error) if self.config.when_full == WhenFull::Reject => return Err(error),
            _ if patience == Patience::Never => {
                let in_flight_bytes = pipe.in_flight_bytes;
                return Err(
                    full.unwrap_or(Error::Busy { in_flight_bytes, limit_bytes: self.config.in_flight_bytes_max })
                );
            }
            _ => {}
        }
        self.room.wait_for(pipe, Duration::from_millis(20));
        Ok(())
    }

    /// Wakes whoever waits for room, a segment, or the end of a pause.
    pub(super) fn announce_room(&self) {
        self.room.notify_all();
        let tasks = std::mem::take(&mut *self.room_tasks.lock());
        wake_each(tasks);
    }

    /// Polls for room for a record of `bytes`.
    pub(super) fn poll_room(&self, bytes: u64, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<()>> {
        use std::task::Poll;
        let look = || -> Poll<Result<()>> {
            if let Err(error) = self.check_usable() {
                return Poll::Ready(Err(error));
            }
            let pipe = self.pipe.lock();
            if let Some(error) = self.gone(&pipe) {
                return Poll::Ready(Err(error));
            }
            let room = pipe.in_flight_bytes == 0
                || pipe.in_flight_bytes + frame_bytes(bytes as usize) <= self.config.in_flight_bytes_max;
            if room && !pipe.paused && pipe.has_place_for(bytes) {
                return Poll::Ready(Ok(()));
            }
            drop(pipe);
            if room
                && let Some(full) = self.want_segment(bytes)
                && self.config.when_full == WhenFull::Reject
            {
                return Poll::Ready(Err(full));
            }
            Poll::Pending
        };
        if let ready @ Poll::Ready(_) = look() {
            return ready;
        }
        remember(&mut self.room_tasks.lock(), context.waker());
        self.storage.kick();
        // What freed room between the look and the registration must be seen.
        look()
    }

    /// Tasks that wait for a segment cannot ask for it again and again as threads do: the driver asks for them.
    fn retry_for_tasks(&self) -> Option<Duration> {
        let waiting = !self.room_tasks.lock().is_empty();
        let full = waiting && !self.closed.load(Ordering::Relaxed) && self.want_segment(0).is_some();
        full.then_some(RETRY_AFTER)
    }

    // --- durability ------------------------------------------------------------------------------------------------

    /// The last frame that survived a flush.
    pub(super) fn flushed(&self) -> Lsn {
        Lsn::new(self.flushed.load(Ordering::Acquire))
    }

    /// Whether a frame that was appended after `era` truncations is settled: flushed, truncated, or never to be.
    pub(super) fn settled(&self, lsn: Lsn, era: u64) -> Option<Result<()>> {
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

    /// The log ends at `end` now. Called with the pipe's lock held, before any position of the new era is published.
    pub(super) fn note_cut(&self, era: u64, end: Lsn) {
        self.cuts.lock().note(era, end);
        self.era.store(era, Ordering::Release);
    }

    fn unknown(&self, lsn: Lsn) -> Error {
        match &self.pipe.lock().poison {
            Some((_, Error::Closed)) | None => Error::Unknown { lsn },
            Some((from, cause)) => Error::Poisoned { from: *from, cause: Arc::new(cause.clone()) },
        }
    }

    /// Blocks until the frame is settled; the calling thread writes its own group when that is the fastest way.
    pub(super) fn wait(&self, lsn: Lsn, chunk: u64, era: u64) -> Result<()> {
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
                    self.waiters.sleep(chunk, word, timeout);
                }
            }
        }
    }

    /// Writes a group on this thread.
    pub(super) fn lead(&self, group: Group<S::File>) {
        let Group { write, queued_for } = group;
        self.counters.queue_wait_micros.record_micros(queued_for);
        events::queue_waited(queued_for.as_micros() as u64);
        let result = self.storage.write_flushed(&write.file, write.offset, &write.parts);
        self.group_ended(write, result);
    }

    fn group_ended(&self, write: GroupWrite<S::File>, result: std::io::Result<WriteTimes>) {
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
    pub(super) fn publish(&self, pipe: &Pipe<S::File>) {
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
            events::happened("poisoned", 1);
            event!(error, log = %self.storage.describe(), "poisoned: a write or flush failed, nothing later is acknowledged");
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

    /// Tells readers at the head that `flushed` moved, or will not.
    pub(super) fn announce_news(&self) {
        {
            // Taken so that a reader between its look and its sleep is not missed.
            let _guard = self.news_lock.lock();
            self.news.notify_all();
        }
        let tasks = std::mem::take(&mut *self.news_tasks.lock());
        wake_each(tasks);
    }

    /// Stops for good with `cause`: what is queued is not written, what is in flight may still be proven.
    pub(super) fn abandon(&self, cause: Error) {
        self.closed.store(true, Ordering::Relaxed);
        {
            let mut pipe = self.pipe.lock();
            pipe.abandon(cause);
            self.publish(&pipe);
        }
        self.over.store(true, Ordering::Release);
        self.abandoned.store(true, Ordering::Release);
        self.waiters.wake_everyone();
        self.waiters.wake_tasks(Lsn::MAX);
        self.announce_room();
        self.announce_news();
    }

    /// Runs a job on the storage's background thread, unless the log is gone by then.
    pub(super) fn spawn(&self, job: impl FnOnce(&Shared<S>) + Send + 'static) {
        let me = self.me.clone();
        self.storage.background(Box::new(move || {
            let Some(shared) = me.upgrade() else { return };
            {
                let mut work = shared.work.lock();
                if work.retired {
                    return;
                }
                work.running += 1;
            }
            let ran = catch_unwind(AssertUnwindSafe(|| job(&shared)));
            shared.work.lock().running -= 1;
            shared.work_done.notify_all();
            if let Err(panic) = ran {
                shared.panicked();
                resume_unwind(panic);
            }
        }));
    }

    /// Gives the directory back: waits for writes in flight and background jobs, then releases the lock.
    pub(super) fn retire(&self) {
        // A device that hangs keeps its directory: the lock then goes with the last reference.
        let give_up = now() + Duration::from_secs(10);
        let mut work = self.work.lock();
        work.retired = true;
        while work.running > 0 {
            if self.work_done.wait_until(&mut work, give_up).timed_out() {
                return;
            }
        }
        drop(work);
        while self.pipe.lock().writes_in_flight > 0 {
            if now() >= give_up {
                return;
            }
            sleep(Duration::from_micros(200));
        }
        self.pipe.lock().release_files();
        self.catalog.release(&self.storage);
        self.lock.lock().take();
    }

    /// True when a reader at the head waits in vain.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_appends(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.announce_room();
    }

    /// Writes everything that is queued, on this thread, until the pipeline is idle, poisoned, or the time is over.
    pub(super) fn drain(&self, until: Option<Instant>) -> Result<()> {
        self.drain_through(Lsn::MAX, until)
    }

    /// The same, but ends as soon as everything up to `through` is flushed.
    pub(super) fn drain_through(&self, through: Lsn, until: Option<Instant>) -> Result<()> {
        let mut pipe = self.pipe.lock();
        loop {
            if pipe.flushed().0 >= through {
                return Ok(());
            }
            if let Some((from, cause)) = &pipe.poison {
                return Err(Error::Poisoned { from: *from, cause: Arc::new(cause.clone()) });
            }
            if pipe.is_idle() {
                return Ok(());
            }
            if until.is_some_and(|until| now() >= until) {
                return Err(Error::TimedOut { what: "writing what is queued" });
            }
            match pipe.take_for_driver(now(), true) {
                DriverTurn::Submit(group) => MutexGuard::unlocked(&mut pipe, || self.lead(group)),
                DriverTurn::At(_) => {
                    self.room.wait_for(&mut pipe, Duration::from_millis(1));
                }
            }
        }
    }
}

impl<S: Storage> Client<S::File> for Shared<S> {
    fn complete(&self, write: GroupWrite<S::File>, result: std::io::Result<WriteTimes>) {
        self.group_ended(write, result);
    }

    fn drive(&self) -> Option<Duration> {
        let waits_for_room = self.retry_for_tasks();
        let mut state = self.drive_state.lock();
        let mut pipe = self.pipe.lock();
        let now = now();
        let next_look = loop {
            match pipe.take_for_driver(now, false) {
                DriverTurn::Submit(group) => {
                    add(&self.counters.groups_driven, 1);
                    self.counters.queue_wait_micros.record_micros(group.queued_for);
                    events::queue_waited(group.queued_for.as_micros() as u64);
                    MutexGuard::unlocked(&mut pipe, || self.storage.submit(group.write));
                }
                DriverTurn::At(at) => break at,
            }
        };
        // Activity keeps the driver looking in once per sweep interval; silence ends in a proof, then in sleep.
        if pipe.wants_written_spare() {
            MutexGuard::unlocked(&mut pipe, || self.keep_spares());
        }
        let end = pipe.end().0;
        if end != state.seen || !pipe.is_idle() {
            state.seen = end;
            state.quiet_since = None;
        }
        let quiet_since = *state.quiet_since.get_or_insert(now);
        let sweep = self.config.sweep_interval;
        let quiet = now.saturating_duration_since(quiet_since);
        if quiet >= self.config.idle_proof_after && pipe.is_idle() {
            if !self.closed.load(Ordering::Relaxed)
                && pipe.put_marker(now)
                && let DriverTurn::Submit(group) = pipe.take_for_driver(now, true)
            {
                // What is appended from now on asks for the driver.
                pipe.driver_armed = false;
                MutexGuard::unlocked(&mut pipe, || self.storage.submit(group.write));
                return Some(self.config.idle_proof_after);
            }
            pipe.driver_armed = false;
            return waits_for_room;
        }
        if pipe.poison.is_some() {
            return None;
        }
        pipe.driver_armed = true;
        let at = next_look.map_or(sweep, |at| at.saturating_duration_since(now));
        Some(at.clamp(Duration::from_micros(20), sweep))
    }

    fn panicked(&self) {
        let what = std::io::Error::other("a panic in the log's own code, see the message it left");
        self.abandon(Error::io("work for", self.storage.describe(), what));
    }
}

/// Microseconds since the Unix epoch by the wall clock.
pub(super) fn clock_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(feature = "lz4")]
fn compress(parts: &[&[u8]], raw: usize, into: &mut Vec<u8>) -> bool {
    let joined;
    let input = if let [one] = parts {
        *one
    } else {
        joined = parts.concat();
        &joined
    };
    into.resize(lz4_flex::block::get_maximum_output_size(raw), 0);
    match lz4_flex::block::compress_into(input, into) {
        Ok(bytes) if bytes < raw => {
            into.truncate(bytes);
            true
        }
        _ => false,
    }
}

#[cfg(not(feature = "lz4"))]
fn compress(_: &[&[u8]], _: usize, _: &mut Vec<u8>) -> bool {
    false
}

/// Keeps a task's waker, once: a task that is polled again and again does not pile up.
pub(super) fn remember(tasks: &mut Vec<std::task::Waker>, waker: &std::task::Waker) {
    if !tasks.iter().any(|known| known.will_wake(waker)) {
        tasks.push(waker.clone());
    }
}

/// The parts of an [`IoSlice`] list as plain slices.
pub(super) fn as_slices<'a>(parts: &'a [IoSlice<'a>]) -> Vec<&'a [u8]> {
    parts.iter().map(|part| &**part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Log, LsnRange};

    #[test]
    fn a_panic_in_a_background_job_poisons_the_log_and_leaves_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        let before = log.append(b"before").unwrap();
        let lsn = before.wait().unwrap();
        log.shared_for_tests().spawn(|_| panic!("a bug in a job"));
        let mut tries = 0;
        let error = loop {
            match log.append(b"after").and_then(crate::Pending::wait) {
                Ok(_) => assert!(tries < 10_000, "appended for ever"),
                Err(error) => break error,
            }
            tries += 1;
        };
        assert!(matches!(error, Error::Poisoned { .. } | Error::Unknown { .. }), "{error:?}");
        assert_eq!(log.read(lsn).unwrap().payload, &b"before"[..]);
        let began = Instant::now();
        drop(log);
        assert!(began.elapsed() < Duration::from_secs(5), "the job that panicked is waited for");
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        assert_eq!(log.read(lsn).unwrap().payload, &b"before"[..]);
        assert_eq!(log.range(LsnRange::inclusive(lsn, lsn)).count(), 1);
    }
}
