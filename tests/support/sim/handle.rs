//! What a process has open: released when dropped.

use std::sync::Weak;

use super::image::Ino;
use super::state::{Holder, SessionId, Shared};

/// An open file.
pub struct SimFile {
    /// Weak: files in flight are owned by the disk itself.
    pub(super) shared: Weak<Shared>,
    pub(super) session: SessionId,
    pub(super) handle: u64,
    pub(super) ino: Ino,
}

/// The directory's lock.
pub struct SimLock {
    pub(super) shared: Weak<Shared>,
    pub(super) holder: Holder,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state.lock().close_handle(self.ino, self.handle);
        }
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({}, handle {})", self.ino, self.handle)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = shared.state.lock();
            state.lock = state.lock.filter(|holder| *holder != self.holder);
        }
    }
}
