//! File systems of the kernel: made, mounted, unmounted.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Cannot;

/// Times to try to unmount what is busy, before it is only detached.
const UNMOUNT_TRIES: u32 = 5000;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(1);

/// A file system that a log may stand on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FsKind {
    /// All of them.
    pub const ALL: [FsKind; 3] = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];

    /// As mount(8) calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Btrfs => "btrfs",
        }
    }

    /// A small device that its `mkfs` takes.
    #[must_use]
    pub fn device_bytes(self) -> u64 {
        match self {
            // The second copy of its superblock is at 128 MiB.
            FsKind::Ext4 => 192 << 20,
            FsKind::Xfs => 320 << 20,
            FsKind::Btrfs => 128 << 20,
        }
    }

    /// What it is to be mounted with: a copy of a file system has the identity of the original, which XFS refuses.
    #[must_use]
    pub fn options(self) -> &'static str {
        match self {
            FsKind::Ext4 | FsKind::Btrfs => "",
            FsKind::Xfs => "nouuid",
        }
    }

    /// Makes one on a device.
    ///
    /// # Errors
    /// With what `mkfs` said.
    pub fn make(self, device: &Path) -> io::Result<()> {
        let arguments: &[&str] = match self {
            // Inode tables written now, not by the kernel later, and no more than a small log needs of them.
            FsKind::Ext4 => &[
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                "-N",
                "1024",
                "-J",
                "size=4",
            ],
            FsKind::Xfs => &["-q", "-f"],
            FsKind::Btrfs => &["-q", "-f", "-M"],
        };
        let made = Command::new(self.program()).args(arguments).arg(device).output()?;
        if made.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&made.stderr);
        Err(io::Error::other(format!("{} on {}: {}", self.program(), device.display(), said.trim())))
    }

    /// What a machine does while it boots when a file system does not mount.
    ///
    /// ext4 and btrfs write a superblock of several sectors in place, and refuse one that is torn. ext4's copy is enough to go
    /// on. btrfs writes its copies with a whole transaction, not with an fsync: recovered from one, it is as it was before the
    /// last fsyncs, and says nothing of what they had promised. So it is not repaired here. XFS's superblock is one sector.
    ///
    /// # Errors
    /// When it could not be repaired, or there is nothing to repair it with.
    pub fn repair(self, device: &Path) -> io::Result<()> {
        if self != FsKind::Ext4 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only ext4 is repaired"));
        }
        let output = Command::new("e2fsck").args(["-f", "-y"]).arg(device).output()?;
        // 1: errors were corrected.
        if output.status.success() || output.status.code() == Some(1) {
            return Ok(());
        }
        Err(io::Error::other(format!("e2fsck: {}", String::from_utf8_lossy(&output.stdout).trim())))
    }

    pub(super) fn is_there(self) -> Result<(), Cannot> {
        let program = self.program();
        if Command::new(program).arg("-V").output().is_err() {
            return Err(Cannot(format!("there is no {program}")));
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let knows = || known.lines().any(|line| line.trim() == self.name());
        // What is a module is known only once it was used.
        let loads = || Command::new("modprobe").arg(self.name()).status().is_ok_and(|status| status.success());
        if knows() || loads() { Ok(()) } else { Err(Cannot(format!("the kernel has no {}", self.name()))) }
    }

    fn program(self) -> &'static str {
        match self {
            FsKind::Ext4 => "mkfs.ext4",
            FsKind::Xfs => "mkfs.xfs",
            FsKind::Btrfs => "mkfs.btrfs",
        }
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    at: PathBuf,
    is_mounted: bool,
}

impl Mount {
    /// Mounts a device over a directory. Comma-separated options, as mount(8) takes them after `-o`.
    ///
    /// # Errors
    /// What mount(2) answers.
    pub fn new(device: &Path, dir: &Path, kind: FsKind, options: &str) -> io::Result<Mount> {
        let options = CString::new(options)?;
        mount(device, dir, kind.name(), MountFlags::NOATIME, Some(options.as_c_str()))?;
        Ok(Mount { at: dir.to_owned(), is_mounted: true })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts, waiting a while for whoever is just leaving.
    ///
    /// # Errors
    /// When it stays busy; then it is detached, and goes away with its last user.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.is_mounted) {
            return Ok(());
        }
        for _ in 0..UNMOUNT_TRIES {
            match unmount(&self.at, UnmountFlags::empty()) {
                Err(Errno::BUSY) => std::thread::sleep(UNMOUNT_PAUSE),
                ended => return Ok(ended?),
            }
        }
        unmount(&self.at, UnmountFlags::DETACH)?;
        Err(Errno::BUSY.into())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("{} was not unmounted: {e}", self.at.display());
        }
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mount({})", self.at.display())
    }
}
