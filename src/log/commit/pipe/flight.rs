//! What is on its way to the device, and what its end sets free.

use std::sync::Arc;
use std::time::Duration;

use super::Writer;
use crate::codec::Chain;
use crate::io::GroupWrite;
use crate::log::commit::TailChunk;
use crate::segment::{Seal, SparseIndex};
use crate::types::{Lsn, SegmentNumber};

/// A group on its way to the device.
pub(crate) struct Group<F> {
    pub(crate) write: GroupWrite<F>,
    /// How long its oldest frame waited to be written.
    pub(crate) queued_for: Duration,
}

pub(super) struct Flight {
    pub(super) token: u64,
    pub(super) base: Lsn,
    pub(super) last: Lsn,
    pub(super) last_chain: Chain,
    pub(super) claims: Lsn,
    pub(super) chunks: std::ops::RangeInclusive<u64>,
    pub(super) bytes: u64,
    /// Bytes of data frames: what it frees of the in-flight limit.
    pub(super) frame_bytes: u64,
    /// The segment and the offset behind its last chunk.
    pub(super) ends_at: (SegmentNumber, u64),
    pub(super) waiters: u32,
    pub(super) starts_segment: bool,
    pub(super) tail: Vec<TailChunk>,
    pub(super) done: bool,
}

/// A segment change: the old one may be settled (indexed, mapped) once this is out.
#[derive(Debug)]
pub(crate) struct Rotation<F> {
    pub(crate) old: Writer<F>,
    /// The old segment's, taken out of its writer.
    pub(crate) index: Arc<SparseIndex>,
    pub(crate) old_end: Lsn,
    pub(crate) new: SegmentNumber,
    pub(crate) new_file: Arc<F>,
    pub(crate) new_file_bytes: u64,
    pub(crate) seal: Seal,
}

/// What the end of a group sets free; acted upon outside the lock.
#[derive(Debug)]
pub(crate) struct Released<F> {
    /// Chunks whose waiting threads must be woken.
    pub(crate) chunks: Option<std::ops::RangeInclusive<u64>>,
    pub(crate) flushed: Lsn,
    /// A queued chunk, one of whose waiting threads should look after the next group.
    pub(crate) nudge: Option<u64>,
    /// Work is queued that only the driver looks after.
    pub(crate) kick: bool,
    pub(crate) rotations: Vec<Rotation<F>>,
    /// Frames that are flushed now.
    pub(crate) group_frames: u64,
    /// Their bytes, headers included.
    pub(crate) frame_bytes: u64,
    /// In-flight bytes fell although someone may wait for that.
    pub(crate) room: bool,
    /// This group does not count: it failed, or ended behind one that did.
    pub(crate) poisoned: bool,
    /// It is the first that failed.
    pub(crate) is_news: bool,
}
