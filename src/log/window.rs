//! What a reader has of a segment at a time: bytes in which groups stand as they do on disk.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::io::{Buffer, Mapping, Storage};
use crate::segment::{FileName, Salt};
use crate::types::{Lsn, SegmentNumber};

/// Mapped bytes are made safe to read in steps of this.
const POPULATE_BYTES: usize = 2 * 1024 * 1024;

/// A map, and how far it is safe to read.
pub(super) struct Mapped {
    map: Arc<Mapping>,
    safe: usize,
    /// So much is made safe ahead: nothing once a page there could not be read, which may be far behind what is asked for.
    ahead: usize,
}

impl Mapped {
    pub(super) fn new(map: Arc<Mapping>, safe: usize) -> Mapped {
        Mapped { map, safe, ahead: POPULATE_BYTES }
    }
}

pub(super) struct Window {
    pub(super) bytes: Bytes,
    /// Where the window starts in its segment.
    pub(super) base: u64,
    /// Where reading goes on, as an offset in the segment.
    pub(super) at: u64,
    pub(super) segment: SegmentNumber,
    pub(super) salt: Salt,
    /// Already checked when it was written: served from memory.
    pub(super) trusted: bool,
    /// Kept for [`Window::make_safe`].
    pub(super) map: Option<Mapped>,
    /// The window ends where its segment's data ends.
    pub(super) whole: bool,
    /// The file ended before the segment's data did: somebody cut it.
    pub(super) short: bool,
    /// The segment's last frame: what stands behind it, perhaps in the same block, was truncated or never acknowledged.
    /// [`Lsn::MAX`]: the segment had no end yet.
    pub(super) last: Lsn,
    /// The last frame that was flushed when the window was read: none behind it can be missed here.
    pub(super) flushed: Lsn,
}

impl Window {
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Bytes at an offset in the segment, if they are all here.
    pub(super) fn slice(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        let at = offset.checked_sub(self.base)? as usize;
        self.bytes.get(at..at.checked_add(bytes)?)
    }

    /// Up to this offset, as far as the window goes, a page that cannot be read is an error now and no signal later.
    #[inline]
    pub(super) fn make_safe<S: Storage>(&mut self, storage: &S, upto: u64) -> Result<()> {
        let Some(Mapped { map, safe, ahead }) = &mut self.map else { return Ok(()) };
        let need = ((upto - self.base) as usize).min(self.bytes.len());
        while need > *safe {
            let to = (need + *ahead).min(self.bytes.len());
            match storage.populate(map, *safe..to) {
                Ok(()) => *safe = to,
                Err(_) if to > need => *ahead = 0,
                Err(e) => return Err(Error::io_at("read", FileName::Segment(self.segment), *safe as u64, e)),
            }
        }
        Ok(())
    }
}

/// A pooled buffer as the bytes of windows and frames.
pub(super) fn shared(buffer: Arc<Buffer>) -> Bytes {
    Bytes::from_owner(SharedBuffer(buffer))
}

struct SharedBuffer(Arc<Buffer>);

impl AsRef<[u8]> for SharedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
