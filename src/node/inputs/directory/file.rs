//! What a file is recognized by, and the directory they are all opened in.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::super::digest::Digest;
use super::config::FilesBy;
use super::error::DirectoryError;
use super::flush::done;
use crate::ledger::{Identity, InputError, PartKey};

/// Time stamps of file systems move in ticks, of 10 ms at most. What is older than this differs in time from whatever comes.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A file, whatever its name. Ordered by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct FileId {
    /// Zero where only the inode counts.
    pub(super) birth: Stamp,
    inode: u64,
}

/// A file system's time: seconds since the Unix epoch, nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct Stamp(i64, u32);

impl From<StatxTimestamp> for Stamp {
    fn from(time: StatxTimestamp) -> Stamp {
        Stamp(time.tv_sec, time.tv_nsec)
    }
}

impl Stamp {
    /// How long ago it was; `None` when it is yet to come.
    pub(super) fn age(self, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        match u64::try_from(self.0) {
            Ok(secs) => now.checked_sub(Duration::new(secs, self.1)),
            Err(_) => Some(now),
        }
    }
}

/// Keys begin with one of these.
const BY_BIRTH: u8 = 1;
const BY_INODE: u8 = 2;

impl FileId {
    /// The part's key, for ever: how (1 byte), inode (8), seconds (8), nanoseconds (4), little-endian.
    pub(super) fn key(self, by: FilesBy) -> PartKey {
        let mut key = Vec::with_capacity(21);
        key.push(if by == FilesBy::Birth { BY_BIRTH } else { BY_INODE });
        key.extend_from_slice(&self.inode.to_le_bytes());
        if by == FilesBy::Birth {
            key.extend_from_slice(&self.birth.0.to_le_bytes());
            key.extend_from_slice(&self.birth.1.to_le_bytes());
        }
        PartKey::new(key).expect("21 bytes")
    }

    pub(super) fn of_key(key: &PartKey) -> Option<FileId> {
        let (how, rest) = key.as_bytes().split_first()?;
        let (inode, rest) = rest.split_first_chunk()?;
        let birth = match (*how, rest.len()) {
            (BY_BIRTH, 12) => {
                let (secs, nanos) = rest.split_first_chunk()?;
                Stamp(i64::from_le_bytes(*secs), u32::from_le_bytes(nanos.try_into().ok()?))
            }
            (BY_INODE, 0) => Stamp::default(),
            _ => return None,
        };
        Some(FileId { birth, inode: u64::from_le_bytes(*inode) })
    }

    pub(super) fn of(stat: &Statx, by: FilesBy, path: &dyn Fn() -> PathBuf) -> Result<FileId, InputError> {
        let birth = match by {
            FilesBy::Inode => Stamp::default(),
            FilesBy::Birth if stat.stx_mask & StatxFlags::BTIME.bits() == 0 => {
                return Err(DirectoryError::NoBirthTime { path: path() }.into());
            }
            FilesBy::Birth => stat.stx_btime.into(),
        };
        Ok(FileId { birth, inode: stat.stx_ino })
    }
}

/// A name in the directory, opened: what it is now.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) id: FileId,
    pub(super) size: u64,
    pub(super) changed: Stamp,
    pub(super) modified: Stamp,
}

/// The directory: reached by its path anew each time, and refused when another one is there.
pub(super) struct Root {
    path: PathBuf,
    by: FilesBy,
    identity: Identity,
}

/// Where everything of one call is opened: what is mounted or renamed meanwhile does not mix in.
pub(super) struct Dir<'a> {
    root: &'a Root,
    fd: OwnedFd,
    device: (u32, u32),
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Root {
    pub(super) fn new(path: PathBuf, by: FilesBy) -> Result<Root, InputError> {
        let mut root = Root { path, by, identity: Identity::default() };
        root.identity = root.look()?.1;
        Ok(root)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn by(&self) -> FilesBy {
        self.by
    }

    /// What is there now.
    pub(super) fn look(&self) -> Result<(Dir<'_>, Identity), InputError> {
        let io = |op, e: Errno| InputError::io(op, self.path.display(), e.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|e| io("opening", e))?;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, WANTED).map_err(|e| io("looking at", e))?;
        let birth = Stamp::from(stat.stx_btime);
        let mut second = match birth {
            // Images are made with directories that were never born. Their file systems differ.
            Stamp(0, _) => rustix::fs::fstatvfs(&fd).map_err(|e| io("looking at", e))?.f_fsid.to_le_bytes().to_vec(),
            Stamp(secs, nanos) => [&secs.to_le_bytes()[..], &nanos.to_le_bytes()].concat(),
        };
        // Other keys make other parts: all would be read again.
        second.push(if self.by == FilesBy::Birth { BY_BIRTH } else { BY_INODE });
        let identity = Identity(u128::from(stat.stx_ino) << 64 | u128::from(Digest::of(0, &second)));
        Ok((Dir { root: self, fd, device: (stat.stx_dev_major, stat.stx_dev_minor) }, identity))
    }

    /// The directory that was there at first. An empty mount point must not look as if every file were gone.
    pub(super) fn open(&self) -> Result<Dir<'_>, InputError> {
        match self.look()? {
            (dir, identity) if identity == self.identity => Ok(dir),
            (_, found) => {
                Err(DirectoryError::Replaced { path: self.path.clone(), expected: self.identity, found }.into())
            }
        }
    }
}

impl Dir<'_> {
    pub(super) fn by(&self) -> FilesBy {
        self.root.by
    }

    pub(super) fn full(&self, relative: &[u8]) -> PathBuf {
        self.root.path.join(std::ffi::OsStr::from_bytes(relative))
    }

    pub(super) fn io(&self, op: &'static str, relative: &[u8], error: Errno) -> InputError {
        InputError::io(op, self.full(relative).display(), error.into())
    }

    /// A directory in it; the empty name is itself.
    pub(super) fn open_dir(&self, relative: &[u8]) -> rustix::io::Result<OwnedFd> {
        let name = if relative.is_empty() { b".".as_slice() } else { relative };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
    }

    /// Whether another file system begins at this directory: mounted, it cannot be told from what is below it when it is not.
    pub(super) fn is_foreign(&self, stat: &Statx) -> bool {
        (stat.stx_dev_major, stat.stx_dev_minor) != self.device || is_mount(stat)
    }

    /// A regular file; `None` when there is none of this name.
    pub(super) fn open_file(&self, relative: &[u8]) -> Result<Option<Opened>, InputError> {
        // Without waiting: the name may be a pipe's by now.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.fd, relative, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Ok(None),
            Err(e) => return Err(self.io("opening", relative, e)),
        };
        let stat = look(&fd, b"").map_err(|e| self.io("looking at", relative, e))?;
        if !FileType::from_raw_mode(stat.stx_mode.into()).is_file() {
            return Ok(None);
        }
        if is_mount(&stat) {
            return Err(DirectoryError::OtherFileSystem { path: self.full(relative) }.into());
        }
        let id = FileId::of(&stat, self.root.by, &|| self.full(relative))?;
        let (changed, modified) = (stat.stx_ctime.into(), stat.stx_mtime.into());
        Ok(Some(Opened { file: fd.into(), id, size: stat.stx_size, changed, modified }))
    }

    /// Whether [`Dir::flush_whole`] is known to flush what a flush of each file would: FUSE and network file systems pass a file's
    /// flush on, and not this one.
    pub(super) fn flushes_whole(&self) -> bool {
        const KNOWN: [u32; 5] = [EXT4, XFS, BTRFS, F2FS, TMPFS];
        const EXT4: u32 = 0xef53;
        const XFS: u32 = 0x5846_5342;
        const BTRFS: u32 = 0x9123_683e;
        const F2FS: u32 = 0xf2f5_2010;
        const TMPFS: u32 = 0x0102_1994;
        rustix::fs::fstatfs(&self.fd).is_ok_and(|found| KNOWN.contains(&(found.f_type as u32)))
    }

    /// Everything that was written to its file system becomes durable.
    pub(super) fn flush_whole(&self) -> Result<(), InputError> {
        done(rustix::fs::syncfs(&self.fd)).map_err(|e| self.io("flushing the file system of", b"", e))
    }

    /// The names in a directory become durable.
    pub(super) fn flush_names(&self, fd: &OwnedFd, relative: &[u8]) -> Result<(), InputError> {
        done(rustix::fs::fsync(fd)).map_err(|e| self.io("flushing", relative, e))
    }

    /// When a name last changed; `None` when there is none.
    pub(super) fn changed(&self, relative: &[u8]) -> Result<Option<Stamp>, InputError> {
        match look(&self.fd, relative) {
            Ok(stat) => Ok(Some(stat.stx_ctime.into())),
            // A name longer than the file system has is nobody's.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(e) => Err(self.io("looking at", relative, e)),
        }
    }
}

/// What is known of a name, or of the descriptor itself when it is empty. Links are not followed, nothing is mounted.
pub(super) fn look(at: impl AsFd, name: &[u8]) -> rustix::io::Result<Statx> {
    let empty = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    rustix::fs::statx(at, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | empty, WANTED)
}

/// Whether something is mounted there; a single file may be. Of files the device tells nothing: overlayfs gives them several.
pub(super) fn is_mount(stat: &Statx) -> bool {
    stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

impl From<DirectoryError> for InputError {
    fn from(error: DirectoryError) -> InputError {
        InputError::Other(Arc::new(error))
    }
}
