//! A real directory of the operating system.

mod file;
mod lock;
mod probe;

#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

pub use file::DiskFile;
#[cfg(feature = "io-uring")]
pub(crate) use file::check_written;
pub use lock::DirLock;
#[cfg(feature = "ledger")]
pub(crate) use lock::lock;

use super::driver::Channel;
use super::fork::watch_forks;
use super::{Buffer, Client, Driver, GroupWrite, Hold, LockFailed, Mapping, Medium, Storage, WriteTimes};
use crate::config::DirectIo;
use probe::Direct;

/// What may be done to a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everything.
    ReadWrite {
        /// Make the directory, durably, if it is missing.
        create: bool,
    },
    /// No file is created or opened for writing.
    ReadOnly,
}

/// The file that a log's one writer holds.
const LOCK_NAME: &str = "lock";

/// Every medium takes multiples of this.
const BLOCK_BYTES_MIN: usize = 4096;
/// Where direct I/O asks for more than half a control file (each of its slots is written by itself), it is not used.
const BLOCK_BYTES_MAX: usize = 32 * 1024;

/// A directory, opened.
pub struct Disk {
    path: PathBuf,
    dir: OwnedFd,
    access: Access,
    medium: Medium,
    channel: Arc<Channel>,
    /// The last one ends the driver's threads; dropped after the channel.
    _driver: Driver,
}

impl Disk {
    /// Opens a directory, tries what its file system does, and connects it to the driver.
    ///
    /// # Errors
    /// When the directory cannot be opened, made or tried; when direct I/O is required and refused (`Unsupported`);
    /// when the driver cannot start; in a fork's child.
    pub fn open(dir: &Path, driver: &Driver, access: Access, direct: DirectIo) -> io::Result<Disk> {
        watch_forks()?;
        if access == (Access::ReadWrite { create: true }) {
            create_dir(dir)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        let found = match direct {
            DirectIo::Never => Direct::Refused("not wanted".to_owned()),
            DirectIo::Auto | DirectIo::Require | DirectIo::Trust => probe::probe(fd.as_fd(), access)?,
        };
        let is_required = matches!(direct, DirectIo::Require | DirectIo::Trust);
        let (is_direct, past_caches, block_bytes) = match found {
            Direct::Works { block_bytes, is_past_caches } => {
                (true, is_past_caches || direct == DirectIo::Trust, block_bytes)
            }
            Direct::Refused(reason) if is_required => {
                let text = format!("{}: direct I/O is required: {reason}", dir.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            Direct::Refused(_) => (false, false, BLOCK_BYTES_MIN),
        };
        let (channel, backend, backend_reason) = driver.connect(is_direct)?;
        let device_block_bytes = block_bytes as u32;
        let medium = Medium { backend, backend_reason, direct: is_direct, past_caches, device_block_bytes };
        Ok(Disk { path: dir.to_owned(), dir: fd, access, medium, channel, _driver: driver.clone() })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<DiskFile> {
        let direct = if self.medium.direct { OFlags::DIRECT } else { OFlags::empty() };
        // As std does: what the process's umask leaves.
        let mode = Mode::from_raw_mode(0o666);
        let fd = rustix::fs::openat(&self.dir, name, flags | direct | OFlags::CLOEXEC, mode)?;
        Ok(DiskFile::new(fd, self.medium.direct, name))
    }

    /// A name that cannot be followed is gone since, or a link: somebody else's, a log makes none.
    fn leads_nowhere(&self, name: &CStr, error: Errno) -> io::Result<bool> {
        match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ACCESS | Errno::NAMETOOLONG => {}
            _ => return Ok(false),
        }
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink),
            Err(Errno::NOENT) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory was opened to be read only"));
        }
        Ok(())
    }
}

impl Storage for Disk {
    type File = DiskFile;
    type Lock = DirLock;

    fn medium(&self) -> Medium {
        self.medium.clone()
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match rustix::fs::statat(&self.dir, entry.file_name(), AtFlags::empty()) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    files.push((name.to_owned(), stat.st_size as u64));
                }
                // Not a file.
                Ok(_) => {}
                Err(e) if self.leads_nowhere(entry.file_name(), e)? => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        self.check_writable()?;
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        match self.access {
            Access::ReadWrite { .. } => self.open_file(name, OFlags::RDWR),
            Access::ReadOnly => self.open_file(name, OFlags::RDONLY),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let fs = rustix::fs::fstatvfs(&self.dir)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    fn len(&self, file: &DiskFile) -> io::Result<u64> {
        file.len()
    }

    fn allocate(&self, file: &DiskFile, bytes: u64) -> io::Result<()> {
        file.allocate(bytes)
    }

    fn write(&self, file: &DiskFile, offset: u64, bytes: &Buffer) -> io::Result<()> {
        file.write(offset, bytes)
    }

    fn flush(&self, file: &DiskFile) -> io::Result<()> {
        file.flush()
    }

    fn write_flushed(&self, file: &DiskFile, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes> {
        file.write_flushed(offset, parts)
    }

    fn submit(&self, write: GroupWrite<DiskFile>) {
        self.channel.submit(write);
    }

    fn read_at(&self, file: &DiskFile, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize> {
        file.read_at(offset, bytes, into)
    }

    fn map(&self, file: &DiskFile, bytes: u64) -> io::Result<Mapping> {
        file.map(bytes)
    }

    fn populate(&self, map: &Mapping, range: Range<usize>) -> io::Result<()> {
        map.populate(range)
    }

    fn hold(&self, file: &DiskFile, hold: Hold) -> io::Result<bool> {
        file.hold(hold)
    }

    fn lock(&self) -> Result<DirLock, LockFailed> {
        self.check_writable().map_err(LockFailed::Io)?;
        lock::lock(self.dir.as_fd(), LOCK_NAME)
    }

    fn attach(&self, client: Weak<dyn Client<DiskFile>>) {
        self.channel.attach(client);
    }

    fn kick(&self) {
        self.channel.kick();
    }

    fn watch_over(&self) -> Option<Duration> {
        self.channel.watch_over()
    }

    fn background(&self, job: Box<dyn FnOnce() + Send>) {
        self.channel.background(job);
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("medium", &self.medium).finish_non_exhaustive()
    }
}

/// Makes a directory and what is missing above it, each name durable before the next is made below it.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        // The root is there.
        None => return Ok(()),
        // Of a relative name with one part.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let existed = dir.is_dir();
    if !existed {
        create_dir(parent)?;
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
    }
    // Even if it existed: whoever made it may have died before this.
    match std::fs::File::open(parent).and_then(|parent| parent.sync_all()) {
        Err(e) if is_others_business(existed, &e) => Ok(()),
        synced => synced,
    }
}

/// Gives a directory another name beside its own, durable when it returns.
pub(crate) fn rename_dir(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

/// A directory that was there, under one that cannot be flushed: it was made by somebody with other rights, or stands on a
/// file system of which nothing is written or no directory can be flushed. Its name is then their business.
fn is_others_business(existed: bool, error: &io::Error) -> bool {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    existed && (error.kind() == io::ErrorKind::PermissionDenied || is(Errno::INVAL) || is(Errno::ROFS))
}
