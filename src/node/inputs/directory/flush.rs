//! What a plan has read becomes durable before the ledger counts on it. A writer may not have flushed it: then a power loss
//! makes the file shorter than its batches are, and what is written there afterwards would be in none. Nor may whoever moved it
//! there have flushed its name: then it would be somewhere else, and after its part was forgotten come as a new one. The same with
//! one that is removed.
//!
//! A flush of one file costs a flush of the device, whether anything of the file is left to write or not. Many files are
//! flushed by one call for all of their file system, with whatever others have left to write there.
//!
//! A flush that failed stops the whole source, also one of a single file, and also where bad files are skipped: nobody tells
//! whether it was that file's bytes or the cache of the device, with bytes of others in it. Their own flushes find nothing left
//! to write, and succeed (shown by a test of `tests/faultfs`).

use std::collections::BTreeSet;
use std::fs::File;

use rustix::io::Errno;

use super::file::Dir;
use crate::ledger::InputError;

/// So many files of a plan are flushed each by itself, and so many directories: dearer than one call for all, cheaper than the
/// writes of others.
const ONE_BY_ONE_MAX: usize = 16;

/// The flushes of one plan.
pub(super) struct Flush<'a> {
    dir: &'a Dir<'a>,
    files: usize,
    is_due: bool,
    /// Directories whose names are to be durable; all above them are among them.
    dirs: BTreeSet<Box<[u8]>>,
}

impl<'a> Flush<'a> {
    pub(super) fn new(dir: &'a Dir<'a>) -> Flush<'a> {
        Flush { dir, files: 0, is_due: false, dirs: BTreeSet::new() }
    }

    /// What can be read of this file is durable, or will be when all of it is done.
    pub(super) fn file(&mut self, file: &File, name: impl Fn() -> String) -> Result<(), InputError> {
        if self.files == ONE_BY_ONE_MAX && self.dir.flushes_whole() {
            self.is_due = true;
            return Ok(());
        }
        self.files = (self.files + 1).min(ONE_BY_ONE_MAX);
        done(rustix::fs::fdatasync(file)).map_err(|e| InputError::io("flushing", name(), e.into()))
    }

    /// What this directory holds under which names is to be durable: as far as its own name is.
    pub(super) fn names(&mut self, dir: &[u8]) {
        let mut dir = dir;
        while self.dirs.insert(dir.into()) && !dir.is_empty() {
            dir = &dir[..dir.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
        }
    }

    /// What is left to do: one flush of everything there is.
    pub(super) fn is_whole(&self) -> bool {
        self.is_due || (self.dirs.len() > ONE_BY_ONE_MAX && self.dir.flushes_whole())
    }

    /// Otherwise a flush of each of these directories.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &[u8]> {
        self.dirs.iter().map(|dir| &**dir)
    }
}

/// Where nothing can be flushed, nothing was written. A file system that is only read-only says nothing of that here: one that says
/// it became so by an error of its own, and has bytes in caches that it writes nowhere.
pub(super) fn done(flushed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match flushed {
        Err(Errno::INVAL) => Ok(()),
        flushed => flushed,
    }
}
