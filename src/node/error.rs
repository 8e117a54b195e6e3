//! What can go wrong around a receiver.

use crate::error::Error;
use crate::receiver::{BlockError, Code, RejectReason};
use crate::types::{Lsn, LsnRange, Seq};

/// Why a receiver does not open, or does not take something.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// The log's own error.
    #[error(transparent)]
    Log(#[from] Error),
    /// The stream holds something that no receiver wrote.
    #[error("frame {lsn} of {log}: {source}")]
    NotABlock {
        /// The frame.
        lsn: Lsn,
        /// The log.
        log: String,
        /// What is wrong.
        source: BlockError,
    },
    /// How far the sources have come is told by frames that are gone: sources could not be told apart from their
    /// repetitions.
    #[error(
        "the state of the sources is told by the frames from {needed} on, but the stream begins at {first}; \
         a receiver's stream is trimmed through the receiver only"
    )]
    StateLost {
        /// The first frame that is needed.
        needed: Lsn,
        /// The first one there is.
        first: Lsn,
    },
    /// Frames that tell how far sources have come cannot be read. Opened all the same, the receiver would tell sources that
    /// records in them are durable, or take again what it has.
    #[error(
        "frames {lsns} of {log} cannot be read, and they tell what sources have sent: repair the log from a copy, or give \
         their records up with `accept_damage`"
    )]
    StateDamaged {
        /// The first of them.
        lsns: LsnRange,
        /// The log.
        log: String,
    },
    /// A field of the configuration and the log do not go together.
    #[error("{field} {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// What is said to be committed is not durable: no batch can hold it. Nothing was told of it.
    #[error(
        "everything up to frame {lsn} of {log} is said to be committed, and it is durable up to frame {durable} only: \
         this is another stream's position, or the stream has lost its end, or the receiver has not heard of it yet"
    )]
    NotDurable {
        /// What was said.
        lsn: Lsn,
        /// How far the stream is durable, as far as the receiver has heard.
        durable: Lsn,
        /// The log.
        log: String,
    },
    /// The source is refused.
    #[error("the receiver refuses ({code:?}): {text}")]
    Refused {
        /// Why.
        code: Code,
        /// The sequence concerned, or 0.
        at: Seq,
        /// Where the source would have to go on.
        expected: Seq,
        /// In words.
        text: String,
    },
    /// The record was recorded as a reject: it is not in the stream's data.
    #[error("record {seq} was rejected ({reason:?})")]
    Rejected {
        /// Its sequence.
        seq: Seq,
        /// Why.
        reason: RejectReason,
    },
    /// The receiver has ended: whether what was given to it is durable is unknown.
    #[error("the receiver has ended; whether what it had not acknowledged is durable is unknown")]
    Ended,
}
