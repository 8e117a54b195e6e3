//! The recorder's two kinds of files, for the kernel: the device, and what it would hold after power losses.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use parking_lot::Mutex;

use super::tape::Tape;
use crate::sparse::Sparse;

/// The file that is the device.
pub(super) const DEVICE_NAME: &str = "device.img";

const ROOT: u64 = 1;
const DEVICE: u64 = 2;
/// The first number of a crash image; none is used twice, so nothing that the kernel remembers can be another's.
pub(super) const FIRST_IMAGE: u64 = 3;

/// Names and numbers never change.
const VALID: Duration = Duration::from_secs(3600);

/// A recording, and the images that were cut from it.
pub(super) struct Shelf {
    pub(super) tape: Tape,
    pub(super) images: BTreeMap<u64, Sparse>,
    pub(super) last_image: u64,
}

impl Shelf {
    fn read(&self, ino: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        if ino == DEVICE {
            return Ok(self.tape.read(offset, bytes));
        }
        let image = self.images.get(&ino).ok_or(Errno::EIO)?;
        let mut read = vec![0; self.tape.device_bytes().saturating_sub(offset).min(bytes as u64) as usize];
        image.read(offset, &mut read);
        Ok(read)
    }

    fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if ino == DEVICE {
            return self.tape.write(offset, bytes).map_err(|e| Errno::from_i32(e.raw_os_error()));
        }
        if offset + bytes.len() as u64 > self.tape.device_bytes() {
            return Err(Errno::ENOSPC);
        }
        self.images.get_mut(&ino).ok_or(Errno::EIO)?.write(offset, bytes);
        Ok(())
    }

    fn zero(&mut self, ino: u64, offset: u64, bytes: u64) -> Result<(), Errno> {
        if ino == DEVICE {
            return self.tape.zero(offset, bytes).map_err(|e| Errno::from_i32(e.raw_os_error()));
        }
        self.images.get_mut(&ino).ok_or(Errno::EIO)?.zero(offset, bytes);
        Ok(())
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        if ino != ROOT && ino != DEVICE && !self.images.contains_key(&ino) {
            return Err(Errno::ENOENT);
        }
        let (kind, size, perm) = match ino {
            ROOT => (FileType::Directory, 0, 0o755),
            _ => (FileType::RegularFile, self.tape.device_bytes(), 0o600),
        };
        let long_ago = SystemTime::UNIX_EPOCH;
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size / 512,
            atime: long_ago,
            mtime: long_ago,
            ctime: long_ago,
            crtime: long_ago,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// A shelf with the kernel on its other side.
pub(super) struct Served(pub(super) Arc<Mutex<Shelf>>);

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = match name.to_str() {
            Some(DEVICE_NAME) => Some(DEVICE),
            name => name.and_then(image_number),
        };
        match number.ok_or(Errno::ENOENT).and_then(|ino| self.0.lock().attr(ino)) {
            Ok(attr) => reply.entry(&VALID, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attr(ino.0) {
            Ok(attr) => reply.attr(&VALID, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, _ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The loop driver flushes; it does not write with O_DSYNC.
        match self.0.lock().write(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if ino.0 == DEVICE {
            self.0.lock().tape.flush();
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                match self.0.lock().zero(ino.0, offset, length) {
                    Ok(()) => reply.ok(),
                    Err(e) => reply.error(e),
                }
            }
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }
}

/// What an image is called.
pub(super) fn image_name(number: u64) -> String {
    format!("crash-{number}.img")
}

fn image_number(name: &str) -> Option<u64> {
    name.strip_prefix("crash-")?.strip_suffix(".img")?.parse().ok().filter(|number| *number >= FIRST_IMAGE)
}
