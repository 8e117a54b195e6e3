//! The handle of a mounted [`FaultFs`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::choice::Choice;
use crate::fault::{Fault, Op};
use crate::mounted::Mounted;
use crate::options::Options;
use crate::serve::Served;
use crate::volume::{Survived, Volume};

/// A file system whose power can be cut.
///
/// What was written is seen by every reader and survives nothing until it was flushed: bytes by fsync, fdatasync or a
/// write with O_DSYNC, names by fsync of their directory. Unmounted when dropped.
///
/// ```no_run
/// use seawall_faultfs::{Choice, FaultFs, Options};
///
/// # fn main() -> std::io::Result<()> {
/// let dir = std::path::Path::new("/mnt/test");
/// let fs = FaultFs::mount(dir, Options::default())?;
/// std::fs::write(dir.join("file"), "never flushed")?;
/// fs.crash(Choice::AllLost);
/// assert!(!dir.join("file").exists());
/// # Ok(()) }
/// ```
pub struct FaultFs {
    at: PathBuf,
    volume: Arc<Mutex<Volume>>,
    _mounted: Mounted,
}

impl FaultFs {
    /// Mounts an empty file system over a directory.
    ///
    /// # Errors
    /// When it cannot be mounted: no `/dev/fuse`, no right to.
    ///
    /// # Panics
    /// When the options make no sense.
    pub fn mount(at: &Path, options: Options) -> io::Result<FaultFs> {
        assert!(matches!(options.sector_bytes, 512 | 4096), "a sector has 512 or 4096 bytes");
        assert!(options.direct_align_bytes > 0, "an alignment is at least one byte");
        let volume = Arc::new(Mutex::new(Volume::new(options)));
        let mounted = Mounted::new(Served(volume.clone()), at)?;
        Ok(FaultFs { at: at.to_owned(), volume, _mounted: mounted })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts the power between two operations: those answered by now count, all others fail with EIO, until
    /// [`FaultFs::reboot`]. So whatever a victim acknowledges, before this returns or after, was flushed in time, or the
    /// victim lies.
    pub fn cut_power(&self) {
        self.volume.lock().cut_power();
    }

    /// Power comes back, with what survived. Everything that was opened before is dead (EIO), and faults are forgotten.
    pub fn reboot(&self, choice: Choice) -> Survived {
        let mut volume = self.volume.lock();
        volume.cut_power();
        volume.reboot(choice)
    }

    /// Power is lost now and comes back at once.
    pub fn crash(&self, choice: Choice) -> Survived {
        self.reboot(choice)
    }

    /// From now on, a call that is meant fails.
    pub fn fail(&self, fault: Fault) {
        self.volume.lock().faults.add(fault);
    }

    /// Forgets the faults that are still to come.
    pub fn clear_faults(&self) {
        self.volume.lock().faults.clear();
    }

    /// How many calls have failed because they were asked to.
    #[must_use]
    pub fn faults_fired(&self) -> u64 {
        self.volume.lock().faults.fired()
    }

    /// How often this was asked of the file system, failures included.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.volume.lock().count(op)
    }

    /// From now on, no more than this fits.
    pub fn set_capacity(&self, bytes: u64) {
        self.volume.lock().options.capacity_bytes = bytes;
    }
}

impl std::fmt::Debug for FaultFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultFs").field("at", &self.at).finish_non_exhaustive()
    }
}
