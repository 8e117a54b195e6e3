//! Writes through io_uring: one thread submits, waits and plays all clients.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::aligned::AlignedBytes;
use crate::clients::Group;
use crate::file::LimitFile;
use crate::{LimitError, Method, Run};

/// A slot's file, by its index in the ring's table of registered files.
fn file_of(slot: usize, files: usize) -> types::Fixed {
    types::Fixed((slot % files) as u32)
}

/// Completions of a flush carry this bit beside the number of the slot.
const FLUSH_BIT: u64 = 1 << 32;

/// Whether this process may use io_uring.
pub(crate) fn probe() -> io::Result<()> {
    ring(1).map(drop)
}

fn ring(depth: usize) -> io::Result<IoUring> {
    // A write and a flush per slot.
    let entries = 2 * depth as u32;
    // Completions are handled when this thread asks for them and interrupt nobody. Kernels before
    // 6.1 do not know the flags.
    let modern = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    modern.or_else(|_| IoUring::new(entries))
}

/// One write that may be in flight.
struct Slot {
    buffer: AlignedBytes,
    group: Group,
    offset: u64,
    /// Bytes of the group in flight.
    bytes: usize,
    /// Completions the kernel still owes: the write's and, with `fdatasync`, the flush's.
    pending: usize,
}

impl Slot {
    fn new(buffer: AlignedBytes) -> Slot {
        Slot { buffer, group: Group::default(), offset: 0, bytes: 0, pending: 0 }
    }
}

pub(crate) fn drive(run: &mut Run<'_>) -> Result<(), LimitError> {
    let slots = std::mem::take(&mut run.buffers).into_iter().map(Slot::new).collect();
    let ring = ring(run.depth).map_err(uring_error("io_uring_setup"))?;
    let mut driver = Driver { run, ring, slots, registered_buffers: false };
    driver.register()?;
    let result = driver.run_to_end();
    let drained = driver.drain();
    if drained.is_err() {
        // The kernel may still read from the buffers: they stay allocated for ever.
        std::mem::forget(driver.slots);
    }
    result.and(drained)
}

struct Driver<'r, 'f> {
    run: &'r mut Run<'f>,
    ring: IoUring,
    slots: Vec<Slot>,
    registered_buffers: bool,
}

impl Driver<'_, '_> {
    /// Spares the kernel looking up the file and pinning the pages for each write.
    fn register(&mut self) -> Result<(), LimitError> {
        let method = self.run.method;
        let descriptor = |file: &LimitFile| match method {
            Method::UringDsync => file.dsync().map(AsRawFd::as_raw_fd).ok_or(LimitError::Unavailable { method }),
            _ => Ok(file.plain().as_raw_fd()),
        };
        let descriptors = self.run.files.iter().map(descriptor).collect::<Result<Vec<_>, _>>()?;
        let submitter = self.ring.submitter();
        submitter.register_files(&descriptors).map_err(uring_error("register files"))?;
        let parts: Vec<_> = self
            .slots
            .iter()
            .map(|slot| slot.buffer.as_slice())
            .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
            .collect();
        // SAFETY: the buffers stay allocated until the ring has been drained, see `drive`.
        let registered = unsafe { submitter.register_buffers(&parts) };
        // Refused beyond RLIMIT_MEMLOCK; writes then name their memory each time.
        self.registered_buffers = registered.is_ok();
        Ok(())
    }

    fn run_to_end(&mut self) -> Result<(), LimitError> {
        for slot in 0..self.slots.len() {
            self.start_write(slot);
        }
        while !self.run.tally.is_over() {
            self.ring.submit_and_wait(1).map_err(uring_error("io_uring_enter"))?;
            while let Some(completion) = self.next_completion() {
                self.settle(&completion)?;
            }
            // After all completions are settled, so that a write takes everything that waits.
            for slot in 0..self.slots.len() {
                if self.slots[slot].pending == 0 && !self.run.tally.is_over() {
                    self.start_write(slot);
                }
            }
        }
        Ok(())
    }

    fn start_write(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        let Some((offset, bytes)) = self.run.take(&mut slot.group) else {
            return;
        };
        (slot.offset, slot.bytes) = (offset, bytes);
        let file = file_of(number, self.run.files.len());
        let start = slot.buffer.as_slice().as_ptr();
        let len = bytes as u32;
        let write = if self.registered_buffers {
            opcode::WriteFixed::new(file, start, len, number as u16).offset(offset).build()
        } else {
            opcode::Write::new(file, start, len).offset(offset).build()
        };
        let write = write.user_data(number as u64);
        if self.run.method == Method::UringFdatasync {
            let flush = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
            push(&mut self.ring, &write.flags(squeue::Flags::IO_LINK));
            push(&mut self.ring, &flush.user_data(number as u64 | FLUSH_BIT));
            self.slots[number].pending = 2;
        } else {
            push(&mut self.ring, &write);
            self.slots[number].pending = 1;
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Accounts for one completion; acknowledges the group when it was its last.
    fn settle(&mut self, completion: &cqueue::Entry) -> Result<(), LimitError> {
        let is_flush = completion.user_data() & FLUSH_BIT != 0;
        let slot = &mut self.slots[(completion.user_data() & !FLUSH_BIT) as usize];
        slot.pending -= 1;
        let offset = slot.offset;
        let Ok(result) = usize::try_from(completion.result()) else {
            let op = if is_flush { "io_uring fdatasync" } else { "io_uring write" };
            let source = io::Error::from_raw_os_error(-completion.result());
            return Err(LimitError::Write { op, offset, source });
        };
        if !is_flush && result < slot.bytes {
            let (wanted_bytes, written_bytes) = (slot.bytes, result);
            return Err(LimitError::ShortWrite { offset, wanted_bytes, written_bytes });
        }
        if slot.pending == 0 {
            self.run.acknowledge(&mut slot.group, slot.bytes);
        }
        Ok(())
    }

    /// Waits for whatever is in flight, so that the buffers may be freed.
    fn drain(&mut self) -> Result<(), LimitError> {
        while self.slots.iter().any(|slot| slot.pending > 0) {
            self.ring.submit_and_wait(1).map_err(uring_error("io_uring_enter"))?;
            while let Some(completion) = self.next_completion() {
                let number = (completion.user_data() & !FLUSH_BIT) as usize;
                self.slots[number].pending -= 1;
            }
        }
        Ok(())
    }
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: the entry's buffer belongs to a slot and is freed only after its completion has
    // been seen or, if that never comes, not at all (`drive`); the file is registered.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("the queue has two entries per slot, all submitted before a slot is reused");
}

fn uring_error(op: &'static str) -> impl FnOnce(io::Error) -> LimitError {
    move |source| LimitError::Uring { op, source }
}
