//! What becomes of a tail that nothing proves when it cannot be carried into the next segment, because a full disk has
//! no room for it or damage stands before it.

use super::super::recovery::{SegmentState, Verdict};
use super::super::shared::Shared;
use super::super::source::Window;
use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{FileName, Found, Scanner, round_up};

impl<S: Storage> Shared<S> {
    /// Flushes the tail where it stands.
    pub(super) fn make_durable_in_place(&self, state: &SegmentState<S::File>, verdict: &Verdict) -> Result<()> {
        let name = FileName::Segment(state.number).to_string();
        if !self.storage.medium().past_caches {
            // A cache may hold what a failed write-back left marked clean: a flush alone would prove nothing.
            // Writing the same bytes over themselves makes them dirty again, and the flush is then a real one.
            self.write_again(state, verdict, &name)?;
        }
        self.storage.flush(&state.file).map_err(|e| Error::io("flush", &name, e))
    }

    /// Where the groups begin that nothing proves. What is proven is on the device, and is not put at risk by another
    /// write; the header was flushed before the segment could be used, the seal before any group behind its own and
    /// before any marker.
    fn first_unproven(&self, state: &SegmentState<S::File>, verdict: &Verdict, name: &str) -> Result<u64> {
        let block = u64::from(self.catalog.block_bytes);
        if !state.scan.is_seal_proven() {
            return Ok(block);
        }
        let mut window = Window::new(&self.storage, state.file.clone(), name.into(), state.bytes);
        let salt = self.catalog.salt(state.number);
        let end = verdict.end.end_offset;
        let mut scanner = Scanner::new(&mut window, salt, self.catalog.block_bytes, block, end);
        while let Some(found) = scanner.next()? {
            if let Found::Frame { offset, header } = found
                && header.lsn > verdict.proven
            {
                return Ok(offset / block * block);
            }
        }
        Ok(round_up(end, block))
    }

    fn write_again(&self, state: &SegmentState<S::File>, verdict: &Verdict, name: &str) -> Result<()> {
        const PIECE: u64 = 1024 * 1024;
        let block = u64::from(self.catalog.block_bytes);
        let mut at = self.first_unproven(state, verdict, name)?;
        let end = round_up(verdict.end.end_offset, block);
        let mut buffer = Buffer::new(PIECE.min(end.saturating_sub(at)) as usize);
        while at < end {
            let bytes = PIECE.min(end - at) as usize;
            let got = self
                .storage
                .read_at(&state.file, at, bytes, &mut buffer)
                .map_err(|e| Error::io_at("read", name, at, e))?;
            if got == 0 {
                break;
            }
            self.storage.write(&state.file, at, &buffer).map_err(|e| Error::io_at("write", name, at, e))?;
            at += got as u64;
        }
        Ok(())
    }
}
