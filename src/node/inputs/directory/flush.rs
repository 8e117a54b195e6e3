//! What a plan has read becomes durable before the ledger counts on it. A writer may not have flushed it: then a power loss
//! makes the file shorter than its batches are, and what is written there afterwards would be in none.
//!
//! A flush of one file costs a flush of the device, whether anything of the file is left to write or not. Many files are
//! flushed by one call for all of their file system, with whatever others have left to write there.

use std::fs::File;

use rustix::io::Errno;

use super::file::Dir;
use crate::ledger::InputError;

/// So many files of a plan are flushed each by itself: dearer than one call for all, cheaper than the writes of others.
const ONE_BY_ONE_MAX: u32 = 16;

/// The flushes of one plan.
pub(super) struct Flush<'a> {
    dir: &'a Dir<'a>,
    files: u32,
    is_due: bool,
}

impl<'a> Flush<'a> {
    pub(super) fn new(dir: &'a Dir<'a>) -> Flush<'a> {
        Flush { dir, files: 0, is_due: false }
    }

    /// What can be read of this file is durable, or will be by [`Flush::finish`].
    pub(super) fn file(&mut self, file: &File, name: impl Fn() -> String) -> Result<(), InputError> {
        if self.files == ONE_BY_ONE_MAX && self.dir.flushes_whole() {
            self.is_due = true;
            return Ok(());
        }
        self.files = (self.files + 1).min(ONE_BY_ONE_MAX);
        match rustix::fs::fdatasync(file) {
            // Where nothing can be flushed, nothing was written.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS) => Ok(()),
            Err(e) => Err(InputError::io("flushing", name(), e.into())),
        }
    }

    /// The rest.
    pub(super) fn finish(self) -> Result<(), InputError> {
        if self.is_due { self.dir.flush_whole() } else { Ok(()) }
    }
}
