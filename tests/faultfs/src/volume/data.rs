//! Bytes: read, written, reserved and made durable.

use std::time::SystemTime;

use rustix::io::Errno;

use super::file::FileBytes;
use super::{Handle, Ino, Result, Volume};
use crate::fault::Op;
use crate::options::FsyncFailure;
use crate::sparse::PAGE_BYTES;

impl Volume {
    pub(crate) fn read(&mut self, handle: Handle, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let ino = self.opened(handle, offset, bytes)?;
        self.may_fail(Op::Read, ino)?;
        Ok(self.bytes(ino)?.read(offset, bytes))
    }

    /// Writes, and says how much; with `durable`, what was written and the file's length survive when this returns.
    pub(crate) fn write(&mut self, handle: Handle, offset: u64, bytes: &[u8], durable: bool) -> Result<usize> {
        let ino = self.opened(handle, offset, bytes.len())?;
        self.may_fail(Op::Write, ino)?;
        let sector_bytes = self.options.sector_bytes as usize;
        let can_be_cut = bytes.len() > sector_bytes;
        let bytes = match can_be_cut && self.may_fail(Op::CutWrite, ino).is_err() {
            true => &bytes[..(bytes.len() / 2).next_multiple_of(sector_bytes)],
            false => bytes,
        };
        self.has_room(ino, offset, bytes.len() as u64)?;
        self.bytes(ino)?.write(offset, bytes);
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)?.modified = SystemTime::now();
        if durable {
            self.flush_range(ino, offset, bytes.len() as u64)?;
        }
        Ok(bytes.len())
    }

    /// All bytes of the file survive when this returns, and its length.
    pub(crate) fn fsync(&mut self, ino: Ino) -> Result<()> {
        self.powered()?;
        if let Err(e) = self.may_fail(Op::Fsync, ino) {
            self.flush_failed(ino, 0, u64::MAX)?;
            return Err(e);
        }
        self.bytes(ino)?.flush();
        if self.options.file_sync_keeps_name {
            self.names.flush_names_of(ino);
        }
        Ok(())
    }

    pub(crate) fn set_len(&mut self, ino: Ino, len: u64) -> Result<()> {
        self.powered()?;
        self.may_fail(Op::SetLen, ino)?;
        self.bytes(ino)?.set_len(len);
        Ok(())
    }

    /// Reserves space, makes a hole or zeroes, as the modes of fallocate(2) say.
    pub(crate) fn fallocate(&mut self, handle: Handle, offset: u64, bytes: u64, mode: i32) -> Result<()> {
        self.powered()?;
        let ino = self.handles.get(&handle).ok_or(Errno::BADF)?.ino;
        self.may_fail(Op::Fallocate, ino)?;
        let keeps_len = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => {}
            libc::FALLOC_FL_PUNCH_HOLE => {
                self.bytes(ino)?.zero(offset, bytes, true);
                return Ok(());
            }
            libc::FALLOC_FL_ZERO_RANGE => self.bytes(ino)?.zero(offset, bytes, false),
            _ => return Err(Errno::OPNOTSUPP),
        }
        self.has_room(ino, offset, bytes)?;
        let file = self.bytes(ino)?;
        file.reserve(offset, bytes);
        if !keeps_len {
            file.grow(offset + bytes);
        }
        Ok(())
    }

    /// Pages in all, and free.
    pub(crate) fn space(&self) -> Result<(u64, u64)> {
        self.powered()?;
        let all = self.options.capacity_bytes / PAGE_BYTES as u64;
        Ok((all, all.saturating_sub(self.used_pages())))
    }

    fn flush_range(&mut self, ino: Ino, offset: u64, bytes: u64) -> Result<()> {
        if let Err(e) = self.may_fail(Op::Fsync, ino) {
            self.flush_failed(ino, offset, bytes)?;
            return Err(e);
        }
        self.bytes(ino)?.flush_range(offset, bytes);
        Ok(())
    }

    fn flush_failed(&mut self, ino: Ino, offset: u64, bytes: u64) -> Result<()> {
        if self.options.fsync_failure == FsyncFailure::DropsPages {
            self.bytes(ino)?.drop_dirty(offset, bytes);
        }
        Ok(())
    }

    fn has_room(&self, ino: Ino, offset: u64, bytes: u64) -> Result<()> {
        let file = self.inode(ino)?.bytes.as_ref().ok_or(Errno::ISDIR)?;
        let missing = file.pages_missing(offset, bytes);
        if missing == 0 || self.space()?.1 >= missing { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// Space of files that have a name or are open: a name's removal gives it back before that is durable.
    fn used_pages(&self) -> u64 {
        let is_open = |ino: Ino| self.handles.values().any(|opened| opened.ino == ino);
        let counts = |ino: &Ino| self.names.links(*ino) > 0 || is_open(*ino);
        let files = self.inodes.iter().filter_map(|(ino, inode)| Some((ino, inode.bytes.as_ref()?)));
        files.filter(|(ino, _)| counts(ino)).map(|(_, bytes)| bytes.mapped_pages()).sum()
    }

    /// The file behind a handle, if it may be read or written at this place.
    fn opened(&self, handle: Handle, offset: u64, bytes: usize) -> Result<Ino> {
        self.powered()?;
        let opened = self.handles.get(&handle).ok_or(Errno::BADF)?;
        // The kernel does not ask this of a FUSE file, but a device would.
        if opened.mode.direct && !(offset | bytes as u64).is_multiple_of(self.options.direct_align_bytes) {
            return Err(Errno::INVAL);
        }
        Ok(opened.ino)
    }

    fn bytes(&mut self, ino: Ino) -> Result<&mut FileBytes> {
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)?.bytes.as_mut().ok_or(Errno::ISDIR)
    }
}
