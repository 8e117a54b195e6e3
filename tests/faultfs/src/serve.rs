//! The kernel's requests, answered by a [`Volume`].
//!
//! What the kernel really sends, found by trying (`tests/durability.rs` keeps it true):
//! - A write with O_DSYNC or RWF_DSYNC through a handle that bypasses the page cache (`FOPEN_DIRECT_IO`) is one request
//!   with the flag on it, and no fsync follows. Through the page cache it is a write, with the flag, and then an fsync.
//!   So the flag counts for direct handles only.
//! - The page cache writes through: without `FUSE_WRITEBACK_CACHE`, `write(2)` returns when this file system answered.
//! - Numbers of inodes and handles carry the epoch: after a power loss the kernel meets other inodes, so that no page and
//!   no attribute that it remembers from before can answer for them.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, MutexGuard};

use crate::sparse::PAGE_BYTES;
use crate::volume::{OpenMode, ROOT, Stat, Volume};

/// Names may change under the kernel at a power loss, so it asks each time.
const NAMES_VALID: Duration = Duration::ZERO;
/// All else changes only through the kernel itself.
const ATTRIBUTES_VALID: Duration = Duration::from_secs(3600);
/// Where the epoch begins in a number.
const EPOCH_SHIFT: u32 = 40;

/// A volume with the kernel on its other side.
pub(crate) struct Served(pub(crate) Arc<Mutex<Volume>>);

/// What the kernel calls an inode or a handle; dead if it is of an earlier epoch.
type Reached<'a> = Result<(MutexGuard<'a, Volume>, u64), Errno>;

impl Served {
    fn reach(&self, number: u64) -> Reached<'_> {
        let volume = self.0.lock();
        let (epoch, own) = (number >> EPOCH_SHIFT, number & ((1 << EPOCH_SHIFT) - 1));
        // The uppermost directory has the same number always.
        if own != ROOT && epoch != volume.epoch() {
            return Err(Errno::EIO);
        }
        Ok((volume, own))
    }

    /// An inode, through a handle of it: the uppermost directory's can be dead too.
    fn reach_open(&self, ino: INodeNo, handle: FileHandle) -> Reached<'_> {
        drop(self.reach(handle.0)?);
        self.reach(ino.0)
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Sealed segments are mapped through handles that were opened with O_DIRECT.
        let _ = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.reach(parent.0).and_then(|(mut volume, dir)| {
            let ino = or(volume.lookup(dir, name))?;
            attr(&volume, ino)
        });
        answer_entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(self.reach(ino.0).and_then(|(volume, ino)| attr(&volume, ino)), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.reach(ino.0).and_then(|(mut volume, ino)| {
            if let Some(len) = size {
                or(volume.set_len(ino, len))?;
            }
            if let Some(mode) = mode {
                or(volume.chmod(ino, mode as u16 & 0o7777))?;
            }
            attr(&volume, ino)
        });
        answer_attr(set, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.reach(parent.0).and_then(|(mut volume, dir)| {
            let ino = or(volume.make_dir(dir, name, (mode & !umask) as u16 & 0o7777))?;
            attr(&volume, ino)
        });
        answer_entry(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.reach(parent.0).and_then(|(mut volume, dir)| or(volume.unlink(dir, name))), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.reach(parent.0).and_then(|(mut volume, dir)| or(volume.remove_dir(dir, name))), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let may_replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let to = self.reach(newparent.0).map(|(_, to)| to);
        let renamed = to.and_then(|to| {
            let (mut volume, from) = self.reach(parent.0)?;
            or(volume.rename((from, name), (to, newname), may_replace))
        });
        answer(renamed, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = open_mode(flags.0);
        let opened = self.reach(ino.0).and_then(|(mut volume, ino)| {
            let handle = or(volume.open(ino, mode))?;
            Ok(tagged(&volume, handle))
        });
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle), fopen(mode)),
            Err(e) => reply.error(e),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let open = open_mode(flags);
        let created = self.reach(parent.0).and_then(|(mut volume, dir)| {
            let (ino, handle) = or(volume.create(dir, name, (mode & !umask) as u16 & 0o7777, open))?;
            Ok((attr(&volume, ino)?, tagged(&volume, handle)))
        });
        match created {
            Ok((attr, handle)) => {
                reply.created(&NAMES_VALID, &attr, Generation(0), FileHandle(handle), fopen(open));
            }
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.reach(fh.0).and_then(|(mut volume, handle)| or(volume.read(handle, offset, size as usize)));
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // O_SYNC is O_DSYNC and a bit more.
        let durable = flags.0 & (libc::O_DIRECT | libc::O_DSYNC) == libc::O_DIRECT | libc::O_DSYNC;
        match self.reach(fh.0).and_then(|(mut volume, handle)| or(volume.write(handle, offset, data, durable))) {
            Ok(written) => reply.written(written as u32),
            Err(e) => reply.error(e),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer(self.reach_open(ino, fh).and_then(|(mut volume, ino)| or(volume.fsync(ino))), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Ok((mut volume, handle)) = self.reach(fh.0) {
            volume.release(handle);
        }
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.reach(ino.0).and_then(|(mut volume, ino)| {
            let handle = or(volume.open(ino, OpenMode::default()))?;
            Ok(tagged(&volume, handle))
        });
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(&self, _: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.reach(fh.0).and_then(|(mut volume, handle)| {
            let epoch = volume.epoch();
            for (nth, (name, ino, is_dir)) in or(volume.list(handle, offset as usize))?.iter().enumerate() {
                let kind = if *is_dir { FileType::Directory } else { FileType::RegularFile };
                if reply.add(INodeNo(ino | epoch << EPOCH_SHIFT), offset + nth as u64 + 1, kind, name) {
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        if let Ok((mut volume, handle)) = self.reach(fh.0) {
            volume.release(handle);
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer(self.reach_open(ino, fh).and_then(|(mut volume, ino)| or(volume.sync_dir(ino))), reply);
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match or(self.0.lock().space()) {
            Ok((all, free)) => {
                reply.statfs(all, free, free, 1 << 20, 1 << 20, PAGE_BYTES as u32, 255, PAGE_BYTES as u32);
            }
            Err(e) => reply.error(e),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.reach(fh.0).and_then(|(mut volume, handle)| or(volume.fallocate(handle, offset, length, mode)));
        answer(done, reply);
    }
}

fn or<T>(result: crate::volume::Result<T>) -> Result<T, Errno> {
    result.map_err(|e| Errno::from_i32(e.raw_os_error()))
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

fn answer_entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry_with_ttls(&ATTRIBUTES_VALID, &NAMES_VALID, &attr, Generation(0)),
        Err(e) => reply.error(e),
    }
}

fn answer_attr(result: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&ATTRIBUTES_VALID, &attr),
        Err(e) => reply.error(e),
    }
}

fn open_mode(flags: i32) -> OpenMode {
    OpenMode { direct: flags & libc::O_DIRECT != 0 }
}

/// Direct handles bypass the page cache, all others share it; the kernel keeps it coherent with direct writes.
fn fopen(mode: OpenMode) -> FopenFlags {
    match mode.direct {
        true => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        false => FopenFlags::FOPEN_KEEP_CACHE,
    }
}

fn tagged(volume: &Volume, number: u64) -> u64 {
    if number == ROOT { ROOT } else { number | volume.epoch() << EPOCH_SHIFT }
}

fn attr(volume: &Volume, ino: u64) -> Result<FileAttr, Errno> {
    let Stat { ino, is_dir, len, pages, mode, links, modified } = or(volume.stat(ino))?;
    Ok(FileAttr {
        ino: INodeNo(tagged(volume, ino)),
        size: len,
        blocks: pages * (PAGE_BYTES as u64 / 512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: mode,
        nlink: links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    })
}
