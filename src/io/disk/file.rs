//! Reading and writing one file, each durable write as few system calls as the medium allows.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use rustix::process::{Resource, getrlimit};

use super::super::{Buffer, Hold, Mapping, WriteTimes};

/// Parts of one system call, at most.
const PARTS_MAX: usize = 1024;

/// An open file of a [`Disk`](super::super::Disk).
pub struct DiskFile {
    /// Shared with the file's mappings: a claim belongs to the description, and lasts as long as they do.
    fd: Arc<OwnedFd>,
    /// Reads and writes go past the page cache.
    is_direct: bool,
    /// What it was called when it was opened, for messages.
    name: Box<str>,
    held: Mutex<Option<Hold>>,
    /// The kernel may still be writing to it, of which nobody will hear: the claim ends with the description, to which the kernel
    /// has a reference of its own, and not before.
    keeps_claim: AtomicBool,
}

impl DiskFile {
    pub(super) fn new(fd: OwnedFd, is_direct: bool, name: &str) -> DiskFile {
        DiskFile {
            fd: Arc::new(fd),
            is_direct,
            name: name.into(),
            held: Mutex::new(None),
            keeps_claim: AtomicBool::new(false),
        }
    }

    #[cfg(feature = "io-uring")]
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    /// Hands bytes to the kernel, not flushed.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_parts(offset, &[IoSlice::new(bytes)], ReadWriteFlags::empty()).map(drop)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        // Not even EINTR is tried again: a second flush may report success for pages that the first one gave up.
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    /// Writes the parts one after another and returns when they are durable.
    pub(crate) fn write_flushed(&self, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes> {
        let start = Instant::now();
        let flags = if self.is_direct { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        match parts {
            [part] => _ = self.write_parts(offset, &[IoSlice::new(part)], flags)?,
            parts => {
                let mut offset = offset;
                for parts in parts.chunks(PARTS_MAX) {
                    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                    offset += self.write_parts(offset, &parts, flags)?;
                }
            }
        }
        if self.is_direct {
            return Ok(WriteTimes { write: Duration::ZERO, flush: start.elapsed(), by_thread: true });
        }
        let written = Instant::now();
        self.flush()?;
        Ok(WriteTimes { write: written - start, flush: written.elapsed(), by_thread: true })
    }

    /// One system call, which writes all of it or fails.
    fn write_parts(&self, offset: u64, parts: &[IoSlice<'_>], flags: ReadWriteFlags) -> io::Result<u64> {
        let wanted = parts.iter().map(|part| part.len() as u64).sum();
        // Interrupted means that nothing was written; otherwise the count would say so.
        let written = retry_on_intr(|| rustix::io::pwritev2(&self.fd, parts, offset, flags))?;
        check_written(written, wanted)?;
        Ok(wanted)
    }

    /// Reads into the start of `into` until `bytes` or the file's end.
    pub(super) fn read_at(&self, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize> {
        into.set_len(0);
        if bytes > into.capacity() {
            let text = format!("{bytes} bytes do not fit into a buffer of {}", into.capacity());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut done = 0;
        while done < bytes {
            let rest = &mut into.whole_mut()[done..bytes];
            let wanted = rest.len();
            let read = retry_on_intr(|| rustix::io::pread(&self.fd, &mut *rest, offset + done as u64))?;
            done += read;
            // A direct read cannot go on from the end to see that nothing follows: that would not be aligned.
            if read == 0 || (self.is_direct && read < wanted && offset + done as u64 >= self.len()?) {
                break;
            }
        }
        into.set_len(done);
        Ok(done)
    }

    pub(super) fn map(&self, bytes: u64) -> io::Result<Mapping> {
        Mapping::of_file(self.fd.clone(), bytes)
    }

    /// Extends the file to `bytes` of reserved zeros.
    pub(super) fn allocate(&self, bytes: u64) -> io::Result<()> {
        let len = self.len()?;
        if bytes <= len {
            return Ok(());
        }
        // The kernel would send SIGXFSZ, which ends a process that is not prepared for it. Segments are never written
        // beyond what was allocated, so this is the one place to ask.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| bytes > limit) {
            return Err(Errno::FBIG.into());
        }
        match retry_on_intr(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), 0, bytes)) {
            // Lengthening alone reserves nothing: a later write could find the disk full.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(len, bytes),
            allocated => Ok(allocated?),
        }
    }

    /// Zeros from the first block at or after `from` up to `to`.
    pub(super) fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        const STEP_BYTES: u64 = 1 << 20;
        let align = if self.is_direct { super::BLOCK_BYTES_MAX } else { super::BLOCK_BYTES_MIN } as u64;
        let mut zeros = Buffer::new(STEP_BYTES as usize);
        let mut offset = from.next_multiple_of(super::BLOCK_BYTES_MAX as u64).min(to);
        if offset > from {
            rustix::fs::ftruncate(&self.fd, offset)?;
        }
        while offset < to {
            let step = (to - offset).min(STEP_BYTES);
            zeros.set_len(step as usize);
            let written = retry_on_intr(|| rustix::io::pwrite(&self.fd, &zeros, offset))?;
            // A full disk takes a part, and tells why with the next write. That one begins where a direct write may.
            offset += match written as u64 {
                whole if whole == step => step,
                part if part >= align => part / align * align,
                _ => return check_written(written, step),
            };
        }
        Ok(())
    }

    /// From now on a claim on it is not given back: the end of a write to it was not seen.
    #[cfg(feature = "io-uring")]
    pub(crate) fn keep_claim(&self) {
        self.keeps_claim.store(true, Ordering::Relaxed);
    }

    pub(super) fn hold(&self, hold: Hold) -> io::Result<bool> {
        let mut held = self.held.lock();
        if hold != Hold::Exclusive && *held == Some(Hold::Exclusive) && self.keeps_claim.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if try_flock(&self.fd, hold)? {
            *held = Some(hold);
            return Ok(true);
        }
        // The kernel gives up a lock before it asks for another kind. Take the old one back.
        match *held {
            Some(before) if before != hold && !try_flock(&self.fd, before)? => {
                *held = None;
                let text = format!("the claim on {} was lost while another kind was asked for", self.name);
                Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
            }
            _ => Ok(false),
        }
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for DiskFile {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl std::fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direct = if self.is_direct { ", direct" } else { "" };
        write!(f, "DiskFile({:?}, fd {}{direct})", self.name, self.fd.as_raw_fd())
    }
}

/// A write must be whole: what is missing of a short one was refused for a reason that trying again would hide.
pub(crate) fn check_written(written: usize, wanted: u64) -> io::Result<()> {
    if written as u64 == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("short write: {written} of {wanted} bytes")))
}

/// Locks a description, without waiting; false when another one has a conflicting lock.
fn try_flock(fd: &OwnedFd, hold: Hold) -> io::Result<bool> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Hold::Released => FlockOperation::NonBlockingUnlock,
    };
    match rustix::fs::flock(fd, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
