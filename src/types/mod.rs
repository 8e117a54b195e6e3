//! The vocabulary: one type per position, identity and promise.

mod ids;
mod lsn;
mod watermark;

pub use ids::{Incarnation, LogId, SegmentNumber, StreamId};
pub use lsn::{Lsn, LsnRange};
pub use watermark::Watermarks;
