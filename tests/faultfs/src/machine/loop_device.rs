//! A block device over a file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::ioctl;

/// Times to try when somebody else takes the device that was free.
const TRIES_MAX: usize = 32;

/// A loop device over a file, in sectors of 512 bytes; taken off it when dropped.
///
/// Whatever happens to this process, the kernel takes it off when nobody uses it any more.
pub struct LoopDevice {
    path: PathBuf,
    device: File,
}

impl LoopDevice {
    /// Lays a free loop device over a file; with `direct_io`, the device bypasses the file's page cache.
    ///
    /// # Errors
    /// When there is no loop driver, no right to use it, or the file does not do.
    pub fn attach(path: &Path, direct_io: bool) -> io::Result<LoopDevice> {
        let mut flags = File::options();
        let flags = flags.read(true).write(true);
        let file = flags.open(path)?;
        let control = flags.open("/dev/loop-control")?;
        for _ in 0..TRIES_MAX {
            let path = PathBuf::from(format!("/dev/loop{}", ioctl::free_device(control.as_fd())?));
            let device = flags.open(&path)?;
            match ioctl::configure(device.as_fd(), file.as_fd(), 512, direct_io) {
                Ok(()) => return Ok(LoopDevice { path, device }),
                // Somebody else was faster.
                Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "every free loop device was taken by somebody else"))
    }

    /// The device, such as `/dev/loop3`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = ioctl::clear(self.device.as_fd());
    }
}

impl std::fmt::Debug for LoopDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoopDevice({})", self.path.display())
    }
}
