//! What can go wrong around a ledger.

use crate::error::Error;
use crate::ledger::{Broken, Identity, InputError, ReplayError, SinkError};
use crate::node::ReceiverError;
use crate::receiver::BlockError;
use crate::types::{Ballot, BatchId, LedgerId, Lsn, LsnRange};

/// Why a ledger does not open, or does not do something.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A reader of a batch that has failed is asked for more.
    #[error("this reader of a batch has failed before: what came from it is not the whole batch; read it again")]
    ReadFailed,
    /// A log's own error.
    #[error(transparent)]
    Log(#[from] Error),
    /// A receiver's.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// The ledger's stream is damaged, or was written by something else. Nothing of it may be passed over: records could
    /// be in two batches then.
    #[error(
        "the ledger in {log}: {source}; restore it together with its streams and outputs, all from one point in time: an older \
         ledger beside newer outputs would take other records for batches that are stored"
    )]
    Replay {
        /// The log.
        log: String,
        /// What is wrong.
        source: ReplayError,
    },
    /// A ledger has a log of its own.
    #[error(
        "the log {log} is empty, and a stream of ledger {ledger}: its batches would pass for that one's; give the ledger a log \
         of its own"
    )]
    OfAnother {
        /// The log.
        log: String,
        /// Whose it is.
        ledger: LedgerId,
    },
    /// Another driver has taken over.
    #[error("another driver has taken over with ballot {promised}; this one had {ballot} and stops")]
    Fenced {
        /// This driver's.
        ballot: Ballot,
        /// The other's.
        promised: Ballot,
    },
    /// An event failed to be written: whether it is durable is unknown. Nothing is done any more until the ledger is opened
    /// again.
    #[error("the ledger has failed, open it again: {0}")]
    Failed(Box<LedgerError>),
    /// The ledger's rules forbid it.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Under this name something else was there before.
    #[error(
        "input {name} is {found}, the ledger knows it as {known}: adopt it if it is the same, or choose another name"
    )]
    OtherInput {
        /// The name.
        name: String,
        /// What it was recognized by.
        known: Identity,
        /// What is there now.
        found: Identity,
    },
    /// No input has this name.
    #[error("the ledger has no input {name}")]
    NoInput {
        /// The name.
        name: String,
    },
    /// What is asked for is a stream's.
    #[error("input {name} is no stream: of it nothing can be given up by position; remove it, or what it cannot read")]
    NoStream {
        /// The name.
        name: String,
    },
    /// The input of a batch has not been attached since the ledger was opened.
    #[error("input {name} is not attached: add it again before its batches are read")]
    NotAttached {
        /// Its name.
        name: String,
    },
    /// A stream's log cannot be read, or claimed: it obeys others, or the claim cannot be written down.
    #[error("stream {name}: {source}")]
    Stream {
        /// Its name.
        name: String,
        /// The log's error.
        source: Error,
    },
    /// The stream is not the one that was allocated: shorter, or another content.
    #[error("stream {name}: {what}; restore it from a copy, records that were allocated are not what they were")]
    StreamDamaged {
        /// Its name.
        name: String,
        /// What differs.
        what: String,
    },
    /// Frames that no batch holds yet cannot be read.
    #[error(
        "stream {name}: frames {lsns} cannot be read ({source}); repair the stream, or give them up with `drop_range`"
    )]
    Unreadable {
        /// Its name.
        name: String,
        /// The frames.
        lsns: LsnRange,
        /// Why.
        source: Error,
    },
    /// A frame of a stream is no block.
    #[error("stream {name}, frame {lsn}: {source}")]
    NotABlock {
        /// Its name.
        name: String,
        /// The frame.
        lsn: Lsn,
        /// What is wrong.
        source: BlockError,
    },
    /// An input's own error.
    #[error("input {name}: {source}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong.
        source: InputError,
    },
    /// The output did not let the batch be given up.
    #[error("batch {batch} is not abandoned: {source}")]
    Sink {
        /// The batch.
        batch: BatchId,
        /// What it said.
        source: SinkError,
    },
    /// Too many batches wait for their commit.
    #[error(
        "{pending} batches are pending, or done behind one that is; the limit is {limit} (pending_batches_max): commit or \
         abandon the oldest"
    )]
    TooManyPending {
        /// How many.
        pending: usize,
        /// The limit.
        limit: usize,
    },
    /// The batch is not pending, and nothing is known of it any more.
    #[error("batch {batch} of ledger {ledger} is not pending")]
    NotPending {
        /// The batch.
        batch: BatchId,
        /// The ledger.
        ledger: LedgerId,
    },
    /// The batch was committed with another token, or was abandoned.
    #[error("batch {batch} was {what} before")]
    Settled {
        /// The batch.
        batch: BatchId,
        /// How.
        what: String,
    },
    /// A value of the configuration is not usable.
    #[error("configuration: {field} {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}
