//! Why a source's end does not go on, or did not for a while.

use std::sync::Arc;

use crate::net::NetError;
use crate::receiver::{Code, OutboxError, Reject, WireError};
use crate::types::Seq;

/// What a [`Client`](super::Client) answers when it cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The outbox does not take the record, or nothing can go on.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A configuration value is not usable.
    #[error("configuration: {field} {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The receiver keeps the record as a reject, outside the stream's data.
    #[error("record {} was rejected by the receiver ({:?}); it is kept outside the data", .0.seq, .0.reason)]
    Rejected(Reject),
    /// The client went away before the record was acknowledged: it may or may not have been received. Whoever sends
    /// it again with the same sequence finds out.
    #[error("whether record {seq} arrived is unknown: {cause}")]
    Unknown {
        /// The record.
        seq: Seq,
        /// Why nothing more is heard.
        cause: Arc<ClientError>,
    },
    /// The ticket was awaited so late that thousands of rejects have been told since: whether this record is one is not known
    /// any more. [`Client::take_rejects`](super::Client::take_rejects) tells all of them.
    #[error("whether record {seq} was rejected is not known any more: too many were before its ticket was awaited")]
    Forgotten {
        /// The record.
        seq: Seq,
    },
    /// The client was closed or dropped.
    #[error("the client is closed")]
    Closed,
    /// What was sent was not acknowledged before the deadline.
    #[error("{records_bytes} bytes were not acknowledged in time; whether they arrived is unknown")]
    Unacknowledged {
        /// How much was held.
        records_bytes: u64,
    },
}

/// Why a connection ended, or was not made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// The network, or TLS.
    #[error(transparent)]
    Net(#[from] NetError),
    /// What came is no message.
    #[error("the receiver sent something that cannot be read: {0}")]
    Wire(#[from] WireError),
    /// The receiver said so.
    #[error("the receiver ended the session ({code:?}): {text}")]
    Told {
        /// Why.
        code: Code,
        /// In words.
        text: String,
    },
    /// The receiver sends us elsewhere.
    #[error("the receiver says to go to {address}")]
    Redirected {
        /// Where to.
        address: String,
    },
    /// Nothing was heard for three heartbeats, or nothing could be sent.
    #[error("the receiver is silent")]
    Silent,
    /// The receiver closed the connection without a word.
    #[error("the receiver closed the connection")]
    Ended,
    /// The connection would not be encrypted, and others could read it.
    #[error(
        "{address} is not on this machine and no TLS is configured; set `plaintext_beyond_loopback` if that is meant"
    )]
    Plaintext {
        /// Where it leads.
        address: String,
    },
}
