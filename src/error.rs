//! Typed errors: what went wrong, where, and what still works.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use crate::types::{Ballot, LedgerId, LogId, Lsn, LsnRange, SegmentNumber};

/// Result of the crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Cheap to clone: each waiter of a failed group gets its own copy.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file failed. A write or flush that fails also poisons the log.
    #[error("{op} {file}{}: {source}", Offset(*offset))]
    Io {
        /// What was tried: "read", "write and flush", "create" …
        op: &'static str,
        /// The file's name in the log's directory, or the directory.
        file: String,
        /// Byte offset in the file, where there is one.
        offset: Option<u64>,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },

    /// A write or flush failed earlier. Nothing is acknowledged any more; what was acknowledged before stands. Reopen
    /// the log: recovery tells what the device holds.
    #[error("the log is poisoned from {from} on, close and reopen it: {cause}")]
    Poisoned {
        /// The first frame whose durability is unknown.
        from: Lsn,
        /// The failure.
        cause: Arc<Error>,
    },

    /// The log was dropped or closed before this frame was proven durable: it may or may not be there after reopening.
    #[error("frame {lsn} was not proven durable before the log went away; after reopening, ask for it by its Lsn")]
    Unknown {
        /// The frame.
        lsn: Lsn,
    },

    /// The log is closed.
    #[error("the log is closed")]
    Closed,

    /// This process was forked from the one that opened the log; only the parent may use it.
    #[error("the log belongs to the parent process; open another after fork")]
    Forked,

    /// The log was opened read-only.
    #[error("the log is open read-only")]
    ReadOnly,

    /// Another writer holds the directory.
    #[error("{dir} is locked by {}; one log has one writer at a time", Pid(*pid))]
    Locked {
        /// The log's directory.
        dir: String,
        /// The writer's process id, if it could be read.
        pid: Option<u32>,
    },

    /// Too many bytes are in flight for a call that does not wait.
    #[error("{in_flight_bytes} bytes are in flight, the limit is {limit_bytes}; wait for a Pending or use `append`")]
    Busy {
        /// Bytes appended and not yet flushed.
        in_flight_bytes: u64,
        /// `in_flight_bytes_max` of the configuration.
        limit_bytes: u64,
    },

    /// No space for another segment: the file system, a quota, the log's byte limit, or no file descriptor. Trim, or make
    /// room; appends work again by themselves.
    #[error("no space for the next segment: {reason}; trim the log or make room, appends then go on by themselves")]
    Full {
        /// Which limit, in words.
        reason: String,
    },

    /// The record is larger than the configuration allows. The log goes on.
    #[error("a record of {bytes} bytes exceeds the limit of {limit_bytes}")]
    RecordTooLarge {
        /// Its length.
        bytes: u64,
        /// `record_bytes_max` of the configuration.
        limit_bytes: u64,
    },

    /// Damage: these bytes are not what was written, and they were proven durable. Never cut silently.
    #[error("segment {segment} is damaged at byte {offset}, frames {lsns}: {what}")]
    Corrupt {
        /// The segment.
        segment: SegmentNumber,
        /// Where the damage begins.
        offset: u64,
        /// The frames that cannot be read; empty when no frame is affected.
        lsns: LsnRange,
        /// What is wrong.
        what: &'static str,
    },

    /// A segment that ought to exist is not there.
    #[error("segment {segment} with frames {lsns} is missing")]
    Missing {
        /// The segment.
        segment: SegmentNumber,
        /// Its frames, as far as its neighbours tell.
        lsns: LsnRange,
    },

    /// The frames were damaged and set aside by an operator's decision.
    #[error("frames {lsns} are quarantined; the next readable frame is {}", lsns.end)]
    Quarantined {
        /// The whole gap.
        lsns: LsnRange,
    },

    /// The log refuses appends because its unsealed tail is damaged; reading goes on. Repair, or open with
    /// `RecoveryMode::Quarantine`.
    #[error("appends are refused, the tail is damaged: {damage}")]
    Damaged {
        /// The damage.
        damage: Arc<Error>,
    },

    /// The frame was trimmed.
    #[error("frame {requested} is trimmed; the first frame is {first}")]
    Trimmed {
        /// What was asked for.
        requested: Lsn,
        /// The first frame that can be read.
        first: Lsn,
    },

    /// The frame does not exist yet, or is not durable yet.
    #[error("frame {requested} is beyond the end; the last durable frame is {flushed}")]
    BeyondEnd {
        /// What was asked for.
        requested: Lsn,
        /// The last readable frame.
        flushed: Lsn,
    },

    /// The reader's position was removed by a suffix truncation.
    #[error("frame {requested} was truncated; the log now ends at {end}")]
    Truncated {
        /// Where the reader stood.
        requested: Lsn,
        /// The log's end after the truncation.
        end: Lsn,
    },

    /// A file was written by a later version. It is left untouched.
    #[error("{file} has format version {found}, this build knows up to {known}; use a newer build")]
    FutureVersion {
        /// The file's name.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },

    /// A file stands under one of our names but belongs to another log, disk or segment.
    #[error("{file} {what} (this log is {log})")]
    Foreign {
        /// The file's name.
        file: String,
        /// Whose it is.
        what: String,
        /// The log that was opened.
        log: LogId,
    },

    /// The control file is missing or damaged although segments are there.
    #[error("the control file of {dir} {what}")]
    Control {
        /// The log's directory.
        dir: String,
        /// What is wrong with it and what to do.
        what: String,
    },

    /// The directory holds no log.
    #[error("{dir} holds no log")]
    NotALog {
        /// The directory.
        dir: String,
    },

    /// Somebody with a higher ballot has taken over: this one may neither allocate nor trim any more.
    #[error(
        "fenced: ballot {promised} was promised, {ballot} is below it; another driver has taken over, stop this one"
    )]
    Fenced {
        /// The ballot of the caller.
        ballot: Ballot,
        /// The highest one that was promised.
        promised: Ballot,
    },

    /// The records of the log go into the batches of another ledger.
    #[error("the log belongs to ledger {owner}, not to {ledger}: a record is in one batch of one ledger")]
    OtherLedger {
        /// Whose it is.
        owner: LedgerId,
        /// Who asked.
        ledger: LedgerId,
    },

    /// A configuration value is not usable.
    #[error("configuration: {field} {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },

    /// The call's arguments make no sense here.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },

    /// A deadline passed first.
    #[error("{what} did not end in time")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, file: impl fmt::Display, source: io::Error) -> Error {
        Error::Io { op, file: file.to_string(), offset: None, source: Arc::new(source) }
    }

    pub(crate) fn io_at(op: &'static str, file: impl fmt::Display, offset: u64, source: io::Error) -> Error {
        Error::Io { op, file: file.to_string(), offset: Some(offset), source: Arc::new(source) }
    }

    pub(crate) fn control(dir: String, what: impl Into<String>) -> Error {
        Error::Control { dir, what: what.into() }
    }

    pub(crate) fn too_many_quarantined(max: usize) -> Error {
        let what = format!("{max} ranges are quarantined, more cannot be recorded; trim the log past some of them");
        Error::Invalid { what }
    }

    /// True for damage found on the medium: files are not as the log left them.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Corrupt { .. }
                | Error::Missing { .. }
                | Error::Damaged { .. }
                | Error::Foreign { .. }
                | Error::Control { .. }
        )
    }

    /// True when a device or a file system reports that it cannot read what was written (EIO and its like), by its own word or by a
    /// checksum of its own. It may be able to another time; [`rescue`](crate::rescue()) copies what it can.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Error::Io { op: "read", source, .. } if Error::is_lost(source))
    }

    /// True when this error of a read says that what stood there is lost.
    pub(crate) fn is_lost(error: &io::Error) -> bool {
        const SAID: [Errno; 6] =
            [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::UCLEAN, Errno::BADMSG];
        SAID.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// The frames that this error says cannot be read, if it names any. The range ends at [`Lsn::MAX`] when nobody can
    /// tell how many there were.
    #[must_use]
    pub fn lsns(&self) -> Option<LsnRange> {
        match self {
            Error::Corrupt { lsns, .. } | Error::Missing { lsns, .. } | Error::Quarantined { lsns } => Some(*lsns),
            Error::Damaged { damage } => damage.lsns(),
            _ => None,
        }
    }

    /// True when the operating system said that there is no space (disk or quota).
    pub(crate) fn is_no_space(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// True when the process or the machine has as many files open as it may.
    pub(crate) fn is_no_descriptor(error: &io::Error) -> bool {
        [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    }
}

struct Offset(Option<u64>);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
