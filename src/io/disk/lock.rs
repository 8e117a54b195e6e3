//! One writer per directory: a lock file, locked. The kernel lets go of it whatever way the process ends.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::LockFailed;
use super::super::fork::is_forked_child;

/// Times to begin again when somebody removes the file between our opening and locking it.
const TRIES_MAX: usize = 8;

/// Held by the one writer of a directory; released when dropped.
#[derive(Debug)]
pub struct DirLock {
    file: OwnedFd,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing would do, but for children between fork and exec, which have a copy of the descriptor for a moment:
        // whoever opens the log again at once would find it locked. A child itself must not unlock for its parent.
        if !is_forked_child() {
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Locks the file with this name, without waiting. Its content is the process id of whoever locked it last, for messages
/// only.
pub(crate) fn lock(dir: BorrowedFd<'_>, name: &str) -> Result<DirLock, LockFailed> {
    for _ in 0..TRIES_MAX {
        if let Some(lock) = try_lock(dir, name)? {
            return Ok(lock);
        }
    }
    Err(LockFailed::Io(io::Error::other("the lock file keeps being replaced")))
}

fn try_lock(dir: BorrowedFd<'_>, name: &str) -> Result<Option<DirLock>, LockFailed> {
    let failed = |e: Errno| LockFailed::Io(e.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666)).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(LockFailed::Held(read_pid(&file))),
        Err(e) => return Err(failed(e)),
    }
    // A lock on a file that has lost its name keeps nobody out.
    let ours = rustix::fs::fstat(&file).map_err(failed)?;
    match rustix::fs::statat(dir, name, AtFlags::empty()) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    // Only for messages, and impossible on a full disk: a lock without a process id is a lock.
    let pid = format!("{}\n", std::process::id());
    let _ = rustix::fs::ftruncate(&file, 0).and_then(|()| rustix::io::pwrite(&file, pid.as_bytes(), 0));
    Ok(Some(DirLock { file }))
}

fn read_pid(file: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let len = rustix::io::pread(file, &mut text, 0).ok()?;
    std::str::from_utf8(&text[..len]).ok()?.strip_suffix('\n')?.parse().ok()
}
