//! What an output is asked, so that a batch that runs twice leaves what it leaves once.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::{BatchId, LedgerId};

/// A batch's name for outputs: a new ledger's batch 1 is another one than an old ledger's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchKey {
    /// The ledger.
    pub ledger: LedgerId,
    /// Its batch.
    pub batch: BatchId,
}

impl fmt::Display for BatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {} of ledger {}", self.batch, self.ledger)
    }
}

/// What running a batch again does to an output.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum SinkKind {
    /// It is there twice.
    AtLeastOnce,
    /// What the batch wrote before is replaced.
    Idempotent,
    /// The output knows that it has the batch: its name is stored in the same transaction as the data.
    Transactional,
}

/// What became of an output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It is there now, durable.
    New {
        /// What the ledger writes down with the commit: where it is, how much it is.
        token: Bytes,
    },
    /// It was there already.
    AlreadyThere {
        /// What was said the first time.
        token: Bytes,
    },
}

impl Stored {
    /// What to commit the batch with.
    #[must_use]
    pub fn token(&self) -> &Bytes {
        match self {
            Stored::New { token } | Stored::AlreadyThere { token } => token,
        }
    }
}

/// Where batches of outputs of type `T` go.
///
/// The order is: allocate, run, store, commit. Whatever crashes in between, the batch is stored again under the same key.
pub trait Sink<T> {
    /// What storing a batch again does.
    fn kind(&self) -> SinkKind;

    /// Makes the sink this ledger's. One that belongs to no ledger takes it; an operator's `adopt` takes it from another.
    ///
    /// # Errors
    /// [`SinkError::OtherLedger`] for one that holds another ledger's batches: their numbers would be taken for ours.
    fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError>;

    /// Stores a batch's output, durably, all of it or nothing.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] for a batch that was abandoned, [`SinkError::OtherLedger`], and the output's own.
    fn store(&mut self, key: BatchKey, output: T) -> Result<Stored, SinkError>;

    /// Refuses this batch from now on, durably, because it is about to be abandoned.
    ///
    /// # Errors
    /// [`SinkError::AlreadyStored`] when its output is there: such a batch is committed, not abandoned.
    fn fence(&mut self, key: BatchKey) -> Result<(), SinkError>;
}

/// What goes wrong with an output.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// It holds another ledger's batches.
    #[error("{sink} holds the output of ledger {holds}, not of {ledger}: adopt it, or choose another place")]
    OtherLedger {
        /// Which sink.
        sink: String,
        /// Whose it is.
        holds: LedgerId,
        /// Who asked.
        ledger: LedgerId,
    },
    /// Nobody has claimed it yet.
    #[error("{sink} is claimed by no ledger yet")]
    Unclaimed {
        /// Which sink.
        sink: String,
    },
    /// The batch was abandoned.
    #[error("{key} is fenced in {sink}: it was abandoned")]
    Fenced {
        /// Which sink.
        sink: String,
        /// Which batch.
        key: BatchKey,
    },
    /// The batch's output is there.
    #[error("{key} is in {sink} already: commit it, it cannot be abandoned")]
    AlreadyStored {
        /// Which sink.
        sink: String,
        /// Which batch.
        key: BatchKey,
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
    /// Another process, or another sink of this one, writes there.
    #[error("{sink} is in use{}: one sink at a time writes there", .pid.map_or(String::new(), |pid| format!(" by process {pid}")))]
    InUse {
        /// Which sink.
        sink: String,
        /// Who, where it could be read.
        pid: Option<u32>,
    },
    /// A flush failed, or the outcome of a change is not known: what it says from then on would not be proven.
    #[error(
        "{sink} takes nothing more since \"{cause}\": open it again, and store again what was not told to be stored"
    )]
    Poisoned {
        /// Which sink.
        sink: String,
        /// What went wrong first.
        cause: String,
    },
    /// A field of its configuration does not go with what is there, or with anything.
    #[error("{sink}: {field} {problem}")]
    Config {
        /// Which sink.
        sink: String,
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// What is in the sink is not what a sink writes.
    #[error("{what}")]
    Damaged {
        /// What is wrong, and where.
        what: String,
    },
    /// Anything else an implementation has to say.
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

impl SinkError {
    /// The operating system's error, with what was tried on what.
    #[must_use]
    pub fn io(op: &'static str, what: impl fmt::Display, source: std::io::Error) -> SinkError {
        SinkError::Io { op, what: what.to_string(), source: Arc::new(source) }
    }
}
