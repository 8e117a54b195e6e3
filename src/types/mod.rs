//! The vocabulary: one type per position, identity and promise.

mod ballot;
#[cfg(feature = "ledger")]
mod batch;
mod ids;
mod lsn;
#[cfg(feature = "receiver")]
mod secret;
#[cfg(feature = "receiver")]
mod source;
mod watermark;

pub use ballot::{Ballot, LedgerId, Promise};
#[cfg(feature = "ledger")]
pub use batch::{BatchId, InputId};
pub use ids::{Incarnation, LogId, SegmentNumber, StreamId};
pub use lsn::{Lsn, LsnRange};
#[cfg(feature = "receiver")]
pub use secret::Secret;
#[cfg(feature = "receiver")]
pub use source::{Seq, SourceEpoch, SourceId};
pub use watermark::Watermarks;
