//! The byte format: what a log directory holds and how each byte is found again.
//!
//! ```text
//! DIR/control                        two slots, see control.rs
//! DIR/lock                           held by the one writer; holds its process id as text
//! DIR/00000000000000000007.seg       a segment, prepared or in use
//! DIR/00000000000000000008.seg.new   a segment being prepared; removed at open
//!
//! segment     | header block | group | group | …                       | index, once sealed | rest: old bytes
//!             0              block   ↑ every group starts on a device block
//! group       | frame | frame | … | zeros to the next device block |
//! frame       | header, 64 bytes | payload | zeros to the next multiple of 8 |
//! ```
//!
//! The first frame of the first group in a used segment is its *seal*: the statement that fixes where the log before
//! this segment ends. A segment without one is prepared and unused: in the place of the seal a record says *blank*, until
//! something is written behind it.

mod control;
mod frame;
mod header;
mod index;
mod local;
mod name;
mod salt;
mod scanner;

pub(crate) use control::{CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES, QUARANTINED_MAX};
pub(crate) use control::{CleanClose, Control, ControlError, Quarantined, TrimPoint};
pub(crate) use frame::{FLAG_LZ4, FRAME_ALIGN, FrameHeader, HEADER_BYTES, Kind, frame_bytes};
pub(crate) use header::{HeaderError, SegmentHeader};
pub(crate) use index::{INDEX_ENTRY_BYTES, IndexEntry, SparseIndex, was_index};
pub(crate) use local::{FlushMarker, Seal, encode_local};
pub(crate) use name::FileName;
pub(crate) use salt::Salt;
pub(crate) use scanner::{ByteSource, Found, Scanner, is_zero};

/// The version of the on-disk format this build writes, and the highest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// `offset` rounded up to a multiple of `unit` (a power of two).
#[inline]
pub(crate) const fn round_up(offset: u64, unit: u64) -> u64 {
    (offset + unit - 1) & !(unit - 1)
}
