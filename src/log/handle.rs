//! The log as its users hold it.

use std::future::poll_fn;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;

use super::commit::Part;
use super::open::{Recovery, open};
use super::pending::Pending;
use super::reader::{Cursor, Frame};
use super::readers::{Reader, Tail};
use super::recovery::RecoveryProgress;
use super::shared::{Patience, Shared, as_parts};
use super::stats::Stats;
use super::verify::Report;
use crate::codec::Chain;
#[cfg(feature = "receiver")]
use crate::codec::Checksummed;
use crate::config::{BackendChoice, Config, RecoveryMode};
use crate::error::{Error, Result};
use crate::io::{Access, Disk, Driver, DriverConfig, Medium, Storage, is_forked_child};
use crate::segment::CleanClose;
use crate::sync::now;
use crate::types::{Incarnation, LogId, Lsn, LsnRange, Promise, StreamId, Watermarks};

/// One durable, ordered log in one directory. Cheap to clone; all clones are the same log.
///
/// ```
/// # fn main() -> Result<(), seawall::Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// let (log, recovery) = seawall::Log::open(dir.path(), seawall::Config::default())?;
/// assert!(recovery.created);
/// let pending = log.append(b"a record")?;          // has its position already
/// let lsn = pending.wait()?;                       // survived a flush of the device
/// let frame = log.read(lsn)?;
/// assert_eq!(&frame.payload[..], b"a record");
/// log.close(std::time::Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
pub struct Log<S: Storage = Disk> {
    shared: Arc<Shared<S>>,
    /// The last one to go abandons the log.
    handle: Arc<Handle<S>>,
}

struct Handle<S: Storage>(Arc<Shared<S>>);

impl<S: Storage> Drop for Handle<S> {
    fn drop(&mut self) {
        // In a child everything is the parent's, the claims on files included, and locks may be held by nobody.
        if is_forked_child() {
            return;
        }
        // Without a close there is no clean-close marker, and whoever still waits is told that the outcome is unknown. After
        // one nothing is left to tell, unless it did not come to its end.
        self.0.abandon(Error::Closed);
        self.0.retire();
    }
}

impl<S: Storage> Clone for Log<S> {
    fn clone(&self) -> Self {
        Log { shared: self.shared.clone(), handle: self.handle.clone() }
    }
}

impl Log {
    /// Opens the log in `dir`, creating both if `config.create`. All logs of a process opened this way share one I/O
    /// driver, but for those that ask for a certain [`Config::backend`]: each of these gets its own, and
    /// [`Log::open_with`] lets them share.
    ///
    /// # Errors
    /// [`Error::Locked`] when another writer has it, [`Error::Config`], [`Error::NotALog`], [`Error::FutureVersion`],
    /// [`Error::Control`], and [`Error::Io`]. Damage is no error here: see [`RecoveryMode`] and [`Recovery::damage`].
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<(Log, Recovery)> {
        match config.backend {
            BackendChoice::Auto => Log::open_with(dir, config, &Driver::shared()),
            _ => {
                let driver = config.driver()?;
                Log::open_with(dir, config, &driver)
            }
        }
    }

    /// Opens the log with a driver of the caller's choice.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(dir: impl AsRef<Path>, config: Config, driver: &Driver) -> Result<(Log, Recovery)> {
        Log::open_watched(dir, config, driver, |_| {})
    }

    /// Opens the log and tells meanwhile how far the scan of its unsealed tail has come (at most
    /// [`Config::segment_bytes_max`] or one record, whatever the length of the log): about once per MiB.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_watched(
        dir: impl AsRef<Path>,
        config: Config,
        driver: &Driver,
        watch: impl Fn(RecoveryProgress),
    ) -> Result<(Log, Recovery)> {
        config.validate()?;
        let dir = dir.as_ref();
        let access = match config.recovery {
            RecoveryMode::ReadOnly => Access::ReadOnly,
            _ => Access::ReadWrite { create: config.create },
        };
        let disk = Disk::open(dir, driver, access, config.direct_io).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NotALog { dir: dir.display().to_string() },
            _ => Error::io("open", dir.display(), e),
        })?;
        open(disk, config, &watch)
    }
}

impl<S: Storage> Log<S> {
    /// Opens the log on a storage of one's own: the way simulated and recording storages come in.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(storage: S, config: Config) -> Result<(Log<S>, Recovery)> {
        open(storage, config, &|_| {})
    }

    #[cfg(test)]
    pub(super) fn shared_for_tests(&self) -> &Shared<S> {
        &self.shared
    }

    pub(super) fn new(shared: Arc<Shared<S>>) -> Log<S> {
        Log { handle: Arc::new(Handle(shared.clone())), shared }
    }

    // --- appending -------------------------------------------------------------------------------------------------

    /// Appends a record and returns at once with its position; waits only for room (in flight, or for space with
    /// [`crate::WhenFull::Block`]). Does no I/O.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], [`Error::Full`] and, when no segment could be prepared for another reason than a lack of
    /// space, [`Error::Io`] leave the log usable; [`Error::Poisoned`], [`Error::Closed`], [`Error::Damaged`],
    /// [`Error::ReadOnly`], [`Error::Forked`] do not.
    pub fn append(&self, record: &[u8]) -> Result<Pending<S>> {
        self.append_records(&[&[record.into()]], Patience::Room)
    }

    /// Like [`Log::append`], but never blocks.
    ///
    /// # Errors
    /// [`Error::Busy`] when it would have to wait; otherwise as [`Log::append`].
    pub fn try_append(&self, record: &[u8]) -> Result<Pending<S>> {
        self.append_records(&[&[record.into()]], Patience::Never)
    }

    /// Appends one record that lies in several slices.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_vectored(&self, parts: &[IoSlice<'_>]) -> Result<Pending<S>> {
        self.append_records(&[&as_parts(parts)], Patience::Room)
    }

    /// Like [`Log::append_vectored`], but never blocks.
    ///
    /// # Errors
    /// As [`Log::try_append`].
    pub fn try_append_vectored(&self, parts: &[IoSlice<'_>]) -> Result<Pending<S>> {
        self.append_records(&[&as_parts(parts)], Patience::Never)
    }

    /// Like [`Log::try_append_vectored`], of parts whose checksums may be known.
    #[cfg(feature = "receiver")]
    pub(crate) fn try_append_checksummed(&self, parts: &[Checksummed]) -> Result<Pending<S>> {
        let parts: Vec<Part<'_>> = parts.iter().map(Part::from).collect();
        self.append_records(&[&parts], Patience::Never)
    }

    /// Whether an append that ended so may succeed later: there was no room for it, and nothing of it was written. An
    /// [`Error::Io`] tells that no segment could be prepared: that is tried again, unless it is over until the log is opened again.
    #[cfg(feature = "receiver")]
    pub(crate) fn is_for_now(&self, error: &Error) -> bool {
        match error {
            Error::Busy { .. } | Error::Full { .. } => true,
            Error::Io { .. } => !self.shared.is_past_preparing(),
            _ => false,
        }
    }

    /// Appends one record from any buffer. The buffer is read to its end before the record gets its position, so that
    /// one that is slow, lies about its length or panics holds up nobody.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_buf(&self, mut record: impl Buf) -> Result<Pending<S>> {
        let limit = self.shared.config.record_bytes_max;
        let mut bytes = Vec::with_capacity(record.remaining().min(limit as usize));
        while record.has_remaining() {
            let chunk = record.chunk();
            if chunk.is_empty() {
                return Err(Error::Invalid { what: "the buffer says that bytes remain but gives none".into() });
            }
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                let bytes = bytes.len() as u64 + chunk.len() as u64;
                return Err(Error::RecordTooLarge { bytes, limit_bytes: limit });
            }
            let taken = chunk.len();
            bytes.extend_from_slice(chunk);
            record.advance(taken);
        }
        self.append(&bytes)
    }

    /// Appends several records with consecutive positions; the `Pending` is for all of them. When room runs out in
    /// the middle it waits; when it fails in the middle the records before that point may be durable.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_many<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Pending<S>> {
        let parts: Vec<[Part<'_>; 1]> = records.iter().map(|record| [record.as_ref().into()]).collect();
        let records: Vec<&[Part<'_>]> = parts.iter().map(|part| &part[..]).collect();
        self.append_records(&records, Patience::Room)
    }

    fn append_records(&self, records: &[&[Part<'_>]], patience: Patience) -> Result<Pending<S>> {
        let (first, last) = self.shared.append(records, patience)?;
        Ok(Pending::new(self.shared.clone(), first, last))
    }

    /// Waits, without blocking the thread, until a record of up to `bytes` has room.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn reserve(&self, bytes: u64) -> Result<Permit<'_, S>> {
        let limit_bytes = self.shared.config.record_bytes_max;
        if bytes > limit_bytes {
            return Err(Error::RecordTooLarge { bytes, limit_bytes });
        }
        let mut waiting = self.shared.wait_for_room(bytes);
        poll_fn(|context| waiting.poll(context)).await?;
        drop(waiting);
        Ok(Permit { log: self, bytes })
    }

    /// Blocks until everything appended so far is durable; returns the last position.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn flush(&self) -> Result<Lsn> {
        self.shared.check_usable()?;
        let end = {
            let pipe = self.shared.pipe.lock();
            pipe.check()?;
            pipe.end().0
        };
        self.shared.drain_through(end, None)?;
        Ok(end)
    }

    // --- positions -------------------------------------------------------------------------------------------------

    /// How far the log has come.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        let pipe = self.shared.pipe.lock();
        let trimmed = self.shared.trimmed();
        pipe.watermarks(trimmed)
    }

    /// The first frame that can be read (or will be, when there is none yet).
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.shared.trimmed().next()
    }

    /// The last frame that survived a flush.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.shared.flushed()
    }

    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.shared.control.lock().log
    }

    /// This disk's identity as a holder of the log.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.control.lock().incarnation
    }

    /// The stream it holds.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.shared.config.stream
    }

    /// How bytes reach the device.
    #[must_use]
    pub fn medium(&self) -> Medium {
        self.shared.storage.medium()
    }

    /// The configuration it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    // --- reading ---------------------------------------------------------------------------------------------------

    /// One frame.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::BeyondEnd`], [`Error::Corrupt`], [`Error::Missing`], [`Error::Quarantined`].
    pub fn read(&self, lsn: Lsn) -> Result<Frame> {
        if lsn == Lsn::ZERO {
            return Err(Error::Trimmed { requested: lsn, first: self.first() });
        }
        let mut cursor = Cursor::new(self.shared.clone(), lsn);
        let flushed = self.flushed();
        cursor.read()?.ok_or(Error::BeyondEnd { requested: lsn, flushed })
    }

    /// Every frame from `from` to the end as it is now (and as it moves while reading).
    pub fn reader(&self, from: Lsn) -> Reader<S> {
        Reader::new(Cursor::new(self.shared.clone(), from), Lsn::MAX)
    }

    /// The frames of a range.
    pub fn range(&self, range: LsnRange) -> Reader<S> {
        Reader::new(Cursor::new(self.shared.clone(), range.start), range.end)
    }

    /// The first frame at or after a time (µs since the Unix epoch, by the writers' clock), or the end.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn first_at(&self, time_micros: u64) -> Result<Lsn> {
        self.shared.first_at(time_micros)
    }

    /// Every frame from `from` on, for ever: blocks for frames that are not there yet. Ends when the log is closed, and
    /// behind the last frame of one that takes no appends: opened read-only, or damaged.
    pub fn tail(&self, from: Lsn) -> Tail<S> {
        Tail::new(Cursor::new(self.shared.clone(), from))
    }

    /// Like [`Log::tail`], as a `Stream`. Frames that are not in memory are read from the disk inside `poll_next`.
    #[cfg(feature = "stream")]
    pub fn stream(&self, from: Lsn) -> super::TailStream<S> {
        super::TailStream::new(Cursor::new(self.shared.clone(), from))
    }

    // --- upkeep ----------------------------------------------------------------------------------------------------

    /// Gives up every frame up to and including `upto`: readers get [`Error::Trimmed`], segments that hold nothing
    /// else are recycled. Durable when it returns. The segment in use stays; the same call again gives it back when the log has
    /// gone on in another since.
    ///
    /// # Errors
    /// [`Error::BeyondEnd`] when `upto` is not flushed; [`Error::Io`] poisons the log; [`Error::ReadOnly`],
    /// [`Error::Damaged`], [`Error::Poisoned`], [`Error::Closed`], [`Error::Forked`] as for an append.
    pub fn trim(&self, upto: Lsn) -> Result<()> {
        self.shared.trim(upto)
    }

    /// Removes every frame above `end`, durably; their numbers are given again. Returns how many times the log was
    /// truncated in its life. Waits for what is in flight; appends wait meanwhile.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::BeyondEnd`], [`Error::Full`] without a prepared segment; [`Error::Io`] of what follows
    /// its seal, also of the removal of files, poisons the log, which is truncated when it is opened again;
    /// [`Error::ReadOnly`], [`Error::Damaged`], [`Error::Poisoned`], [`Error::Closed`], [`Error::Forked`] as for an append.
    pub fn truncate(&self, end: Lsn) -> Result<u64> {
        self.shared.truncate(end)
    }

    /// Records damaged frames as set aside: readers get a typed gap and go on behind it. None of these frames is given to a
    /// reader of this log that asks for one after this has returned `Ok`, wherever the reader stands; who has opened it read-only
    /// before hears of it at the next open. Ranges that overlap are told to readers as one.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the range holds no flushed frame or too many are recorded already; [`Error::Io`] poisons the
    /// log; [`Error::ReadOnly`], [`Error::Damaged`], [`Error::Poisoned`], [`Error::Closed`], [`Error::Forked`] as for an
    /// append.
    pub fn quarantine(&self, lsns: LsnRange) -> Result<()> {
        self.shared.quarantine(lsns)
    }

    /// Promises, durably, that the log's records go into batches of this ledger alone and that nobody with a lower ballot
    /// drives it. The same promise again writes nothing.
    ///
    /// # Errors
    /// [`Error::OtherLedger`], [`Error::Fenced`]; [`Error::Io`] poisons the log; [`Error::ReadOnly`], [`Error::Damaged`],
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::Forked`] as for an append.
    pub fn promise(&self, promise: Promise) -> Result<()> {
        self.shared.promise(promise)
    }

    /// What was promised last.
    #[must_use]
    pub fn promised(&self) -> Option<Promise> {
        self.shared.promised()
    }

    /// The chain up to and including a frame, of the trim point and of the empty log too.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn chain_at(&self, lsn: Lsn) -> Result<Chain> {
        self.shared.trim_chain(lsn).map_or_else(|| self.read(lsn).map(|frame| frame.chain), Ok)
    }

    /// Reads every byte of every segment and checks it: headers, seals, checksums, chain, padding. Works on a live log;
    /// `progress` gets (bytes done, bytes in all) now and then. Where the log is truncated meanwhile it goes back to the cut, and
    /// ends with [`Report::cut`] when it comes no further for that.
    ///
    /// # Errors
    /// Only when nothing can be checked at all: damage is in the report.
    pub fn verify(&self, progress: impl FnMut(u64, u64)) -> Result<Report> {
        self.shared.verify(progress)
    }

    /// Counters and distributions since the log was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// A name for messages: where the log is.
    #[cfg(feature = "receiver")]
    pub(crate) fn describe(&self) -> String {
        self.shared.storage.describe()
    }

    /// Writes what is queued and closes the log, so that the next open has nothing to find out.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `deadline`, [`Error::Closed`] when it was closed before, and whatever kept the rest from
    /// being written. The log is closed either way; what was not proven durable is unknown. The deadline is looked at between
    /// writes: this thread may write groups itself, and one that the device does not answer has no bound. The last handle to go
    /// then waits up to ten seconds more for what others have in flight, and unlocks the directory: until then an open of it is
    /// [`Error::Locked`].
    pub fn close(self, deadline: Duration) -> Result<()> {
        if is_forked_child() {
            return Err(Error::Forked);
        }
        let shared = &self.shared;
        if shared.refusal.is_some() {
            return Ok(());
        }
        shared.refuse_appends();
        let drained = shared.drain(now().checked_add(deadline));
        let marked = drained.and_then(|()| {
            let highest_segment = shared.control.lock().highest_segment;
            let at = {
                let pipe = shared.pipe.lock();
                let (lsn, chain, time_micros) = pipe.end();
                pipe.writer().map(|writer| CleanClose {
                    highest_segment: highest_segment.max(writer.number),
                    segment: writer.number,
                    end_offset: writer.offset,
                    lsn,
                    chain,
                    time_micros,
                })
            };
            match at {
                Some(at) => shared.update_control(|control| control.clean_close = Some(at)),
                None => Ok(()),
            }
        });
        shared.abandon(Error::Closed);
        marked
    }
}

impl<S: Storage> std::fmt::Debug for Log<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.shared.storage.describe()).field("at", &self.watermarks()).finish()
    }
}

/// Room for one record; see [`Log::reserve`].
#[must_use = "room is taken by appending"]
pub struct Permit<'a, S: Storage = Disk> {
    log: &'a Log<S>,
    bytes: u64,
}

impl<S: Storage> Permit<'_, S> {
    /// Appends the record room was asked for.
    ///
    /// # Errors
    /// [`Error::Busy`] when others took the room first (reserve again), [`Error::RecordTooLarge`] when it is longer
    /// than what was reserved; otherwise as [`Log::try_append`].
    pub fn append(self, record: &[u8]) -> Result<Pending<S>> {
        if record.len() as u64 > self.bytes {
            return Err(Error::RecordTooLarge { bytes: record.len() as u64, limit_bytes: self.bytes });
        }
        self.log.try_append(record)
    }
}

impl Config {
    /// A driver as this configuration asks for; logs opened with it share it.
    ///
    /// # Errors
    /// [`Error::Io`] when io_uring is required and cannot be had.
    pub fn driver(&self) -> Result<Driver> {
        let config = DriverConfig { backend: self.backend, ..DriverConfig::default() };
        Driver::start(config).map_err(|e| Error::io("start", "the I/O driver", e))
    }
}
