//! What an input that can be read again is asked. Streams are asked the same by the node, over their logs.

use std::sync::Arc;

use bytes::Bytes;

use super::limits::Share;
use super::range::{Identity, PartKey, Range};
use super::state::PartState;

/// How far the ledger is with a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Everything below is in a batch, or dropped: the next range begins here.
    pub allocated: u64,
    /// The digest of the last range.
    pub digest: u64,
    /// Everything below is in settled batches.
    pub committed: u64,
}

impl From<&PartState> for Part {
    fn from(part: &PartState) -> Part {
        Part { allocated: part.allocated, digest: part.digest, committed: part.committed }
    }
}

/// How far the ledger is with each part of an input.
pub trait Parts {
    /// One part; `None` when no range of it is in a batch yet.
    fn get(&self, key: &PartKey) -> Option<Part>;

    /// What people call a part, as its first range said ([`Range::opens`]); `None` where that is not known.
    fn label(&self, _key: &PartKey) -> Option<Bytes> {
        None
    }

    /// Every part, in the order of the keys. The ledger's state is held meanwhile: `take` must not ask the ledger anything.
    fn each(&self, take: &mut dyn FnMut(&PartKey, &Part));
}

/// What goes into the next batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Ranges, in the order in which they are to be read. The ledger fills in [`Range::input`].
    pub ranges: Vec<Range>,
    /// Parts that will never come again: the ledger forgets them once nothing of them is outstanding.
    pub gone: Vec<PartKey>,
    /// There is more than the share allowed.
    pub has_more: bool,
}

/// What is there and in no batch yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latest {
    /// Bytes that could be allocated now; of a stream 0.
    pub bytes: u64,
    /// Records, where that is known without reading them; of a stream, blocks.
    pub records: Option<u64>,
    /// Bytes that are there and wait: of a record that has not ended.
    pub waiting_bytes: u64,
}

/// A record read from a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayedRecord {
    /// Its position in the part.
    pub at: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

/// An input that can be read again: nothing of it is stored, only which of its ranges are in which batch.
///
/// What was planned once must read the same for ever, or fail: a batch is never silently smaller, larger or different.
/// Implementations take `&self`: a batch may be read while the next one is planned.
pub trait Replayable: Send + Sync {
    /// What it is recognized by when it is opened again; zero when by nothing.
    ///
    /// # Errors
    /// [`InputError`] when it is not there.
    fn identity(&self) -> Result<Identity, InputError>;

    /// What is there and in no batch yet.
    ///
    /// # Errors
    /// [`InputError`].
    fn latest(&self, known: &dyn Parts) -> Result<Latest, InputError>;

    /// The ranges that follow what is allocated, as far as the share goes; with [`Share::takes_one`] the smallest piece at
    /// least. The first range of a part has [`Range::opens`]. Called again with the same `known` when what it planned could
    /// not be written down.
    ///
    /// # Errors
    /// [`InputError`]; nothing is allocated then.
    fn plan(&self, known: &dyn Parts, share: Share) -> Result<Plan, InputError>;

    /// The records of a range, the same ones each time.
    ///
    /// # Errors
    /// [`InputError::Changed`] and [`InputError::Lost`] when that cannot be, at once or from the iterator.
    fn read(&self, range: &Range) -> Result<ReplayedRecords, InputError>;
}

/// The records of a range.
pub type ReplayedRecords = Box<dyn Iterator<Item = Result<ReplayedRecord, InputError>> + Send>;

/// What goes wrong with an input.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The range is there, with other content than was planned.
    #[error("{part}, {from}..{to}: {what}; what batches have of it cannot be read again as it was")]
    Changed {
        /// The part's name.
        part: String,
        /// The range's first position.
        from: u64,
        /// The first position after it.
        to: u64,
        /// What differs.
        what: String,
    },
    /// The range is not there any more: what a batch has of it, or, at a plan, what no batch has yet.
    #[error("{part}, {from}..{to}: {what}; it cannot be read any more")]
    Lost {
        /// The part's name.
        part: String,
        /// The range's first position.
        from: u64,
        /// The first position after it.
        to: u64,
        /// What is missing.
        what: String,
    },
    /// The operating system said no.
    #[error("{op} {what}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        what: String,
        /// The answer.
        source: Arc<std::io::Error>,
    },
    /// A limit of the input.
    #[error("{what}: {bytes} bytes, the limit is {limit_bytes} ({field})")]
    Limit {
        /// What is too large.
        what: String,
        /// How large.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
        /// Its name in the configuration.
        field: &'static str,
    },
    /// Anything else an implementation has to say.
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

impl InputError {
    /// The operating system's error, with what was tried on what.
    #[must_use]
    pub fn io(op: &'static str, what: impl std::fmt::Display, source: std::io::Error) -> InputError {
        InputError::Io { op, what: what.to_string(), source: Arc::new(source) }
    }
}
