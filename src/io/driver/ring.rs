//! One io_uring for all directories, owned by the driver's thread: nobody else touches it.
//!
//! A group is one write request with RWF_DSYNC, durable when it completes; without O_DIRECT a write, and when that has
//! completed a flush. What does not fit into the ring waits its [turn](super::turns).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::super::WriteTimes;
use super::super::disk::check_written;
use super::channel::{Ended, Order, Shared};
use super::turns::Turns;

/// The kernel's bounds on one request.
const PARTS_MAX: usize = 1024;
const REQUEST_BYTES_MAX: u64 = 0x7fff_f000;

/// More entries than anybody has use for.
const ENTRIES_MAX: u32 = 4096;

/// Names the request that watches the inbox; writes have the number of their slot.
const WATCH: u64 = u64::MAX;

/// How long to leave a kernel alone that is out of memory for requests.
const RETRY_AFTER: Duration = Duration::from_millis(1);

pub(super) struct Ring {
    ring: IoUring,
    in_flight: InFlight,
    waiting: Turns<Order>,
    shared: Arc<Shared>,
    /// One request of the ring's size watches the inbox, the others can be writes.
    writes_max: usize,
    is_watching: bool,
    /// Empty between rounds; kept for its memory.
    completed: Vec<cqueue::Entry>,
}

impl Ring {
    /// A working ring, tried out; the calling thread is the one that may use it.
    ///
    /// # Errors
    /// When there is no io_uring, it is forbidden, or it is older than Linux 5.13.
    pub(super) fn new(shared: Arc<Shared>, entries: u32, threads_max: usize) -> io::Result<Ring> {
        let ring = build(entries.clamp(2, ENTRIES_MAX))?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "waiting with a timeout needs Linux 5.11"));
        }
        // Threads of the kernel that do what cannot be done without blocking: flushes, and writes into new blocks.
        // Kernels before 5.15 choose the number themselves.
        let workers = u32::try_from(threads_max.max(1)).unwrap_or(u32::MAX);
        let _ = ring.submitter().register_iowq_max_workers(&mut [workers, 0]);

        let writes_max = ring.params().sq_entries() as usize - 1;
        let mut ring = Ring {
            ring,
            in_flight: InFlight::default(),
            waiting: Turns::new(),
            shared,
            writes_max,
            is_watching: false,
            completed: Vec::new(),
        };
        // Multishot polls came with 5.13; a sandbox may also allow the setup and forbid the rest.
        ring.fill();
        ring.enter(Some(Duration::ZERO))?;
        #[cfg(test)]
        ring.shared.ring_fd.store(ring.ring.as_raw_fd(), std::sync::atomic::Ordering::Relaxed);
        let refusal = ring.ring.completion().map(|completion| completion.result()).find(|result| *result < 0);
        match refusal {
            Some(result) => Err(io::Error::from_raw_os_error(-result)),
            None => Ok(ring),
        }
    }

    /// Whether one request can carry this write.
    pub(super) fn accepts(&self, order: &Order) -> bool {
        order.write.parts.len() <= PARTS_MAX && order.write.bytes() <= REQUEST_BYTES_MAX
    }

    /// Takes a write; it goes to the kernel with the next [`enter`](Self::enter) that has room.
    pub(super) fn queue(&mut self, order: Order) {
        let threads_per_channel = self.shared.threads_per_channel;
        let under_way_max = if order.write.file.is_direct() {
            (self.writes_max / 2).max(1)
        } else {
            // Each of its flushes occupies a thread of the kernel.
            threads_per_channel
        };
        self.waiting.push(order.channel.number(), under_way_max, order);
    }

    /// Nothing in flight, and nothing that waits for its turn: with nothing in flight, all that waits is ready.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.count == 0 && !self.waiting.has_ready()
    }

    /// Submits, and waits for a completion, a post to the inbox, or the timeout; zero: does not wait.
    ///
    /// # Errors
    /// The ring is of no use any more.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.fill();
        let entered = match timeout {
            Some(Duration::ZERO) => {
                let to_submit = self.ring.submission().len();
                if to_submit == 0 && self.is_idle() {
                    return Ok(());
                }
                self.submit_without_waiting(to_submit)
            }
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
            None => self.ring.submit_and_wait(1),
        };
        match entered {
            Ok(_) => Ok(()),
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::TIME | Errno::INTR) => Ok(()),
                // Out of memory for requests, or completions to be taken first.
                Some(Errno::AGAIN | Errno::BUSY) => {
                    std::thread::sleep(RETRY_AFTER);
                    Ok(())
                }
                _ => Err(e),
            },
        }
    }

    #[allow(unsafe_code)]
    fn submit_without_waiting(&mut self, to_submit: usize) -> io::Result<usize> {
        // Asks for events although it waits for none: completions are posted only when asked for.
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument structure is passed; the requests were put there by `push`, which argues for them.
        unsafe { self.ring.submitter().enter::<()>(to_submit as u32, 0, flags, None) }
    }

    /// Moves what has completed to `ended`.
    pub(super) fn reap(&mut self, ended: &mut Vec<Ended>) {
        let mut completed = std::mem::take(&mut self.completed);
        completed.extend(self.ring.completion());
        if completed.is_empty() {
            self.completed = completed;
            return;
        }
        let now = Instant::now();
        for completion in completed.drain(..) {
            if completion.user_data() == WATCH {
                self.is_watching = cqueue::more(completion.flags());
            } else {
                self.complete(completion.user_data(), completion.result(), now, ended);
            }
        }
        self.completed = completed;
    }

    /// The ring is given up. What is in flight ends with the error; what waits is given back.
    pub(super) fn abandon(mut self, error: &io::Error) -> (Vec<Ended>, Vec<Order>) {
        let waiting = self.waiting.drain().collect();
        let ended = self.in_flight.take_all_leaking();
        let result = || Err(io::Error::new(error.kind(), format!("the ring failed: {error}")));
        (ended.map(|order| Ended { order, result: result() }).collect(), waiting)
    }

    fn fill(&mut self) {
        if !self.is_watching {
            let event = Fd(self.shared.inbox.event().as_raw_fd());
            let watch = opcode::PollAdd::new(event, u32::from(PollFlags::IN.bits())).multi(true);
            self.push(&watch.build().user_data(WATCH));
            self.is_watching = true;
        }
        while self.in_flight.count < self.writes_max {
            let Some((_, order)) = self.waiting.take() else { break };
            self.start(order);
        }
    }

    fn start(&mut self, order: Order) {
        let fd = Fd(order.write.file.as_raw_fd());
        let rw_flags = if order.write.file.is_direct() { ReadWriteFlags::DSYNC.bits() as i32 } else { 0 };
        let offset = order.write.offset;
        let vector: Vec<IoVec> = match &order.write.parts[..] {
            [_] => Vec::new(),
            parts => parts.iter().map(|part| IoVec { base: part.as_ptr(), len: part.len() }).collect(),
        };
        let request = match &order.write.parts[..] {
            [part] => {
                opcode::Write::new(fd, part.as_ptr(), part.len() as u32).offset(offset).rw_flags(rw_flags).build()
            }
            _ => opcode::Writev::new(fd, vector.as_ptr().cast(), vector.len() as u32)
                .offset(offset)
                .rw_flags(rw_flags)
                .build(),
        };
        let slot = self.in_flight.insert(Operation { order, _vector: vector, started: Instant::now(), written: None });
        self.push(&request.user_data(slot));
    }

    fn complete(&mut self, slot: u64, result: i32, now: Instant, ended: &mut Vec<Ended>) {
        let Some(operation) = self.in_flight.get_mut(slot) else { return };
        let write = &operation.order.write;
        let result = match (operation.written, u32::try_from(result)) {
            (_, Err(_)) => Err(io::Error::from_raw_os_error(-result)),
            (None, Ok(bytes)) => check_written(bytes as usize, write.bytes()).map(|()| {
                let took = now.saturating_duration_since(operation.started);
                write.file.is_direct().then_some(WriteTimes { write: Duration::ZERO, flush: took })
            }),
            (Some(written), Ok(_)) => Ok(Some(WriteTimes {
                write: written.saturating_duration_since(operation.started),
                flush: now.saturating_duration_since(written),
            })),
        };
        let result = match result {
            Err(e) => Err(e),
            Ok(Some(times)) => Ok(times),
            Ok(None) => {
                operation.written = Some(now);
                let flush = opcode::Fsync::new(Fd(write.file.as_raw_fd())).flags(FsyncFlags::DATASYNC);
                self.push(&flush.build().user_data(slot));
                return;
            }
        };
        if let Some(Operation { order, .. }) = self.in_flight.remove(slot) {
            self.waiting.done(order.channel.number());
            ended.push(Ended { order, result });
        }
    }

    #[allow(unsafe_code)]
    fn push(&mut self, request: &squeue::Entry) {
        // SAFETY: a request's buffers, vector and file are owned by its operation, which stays in `in_flight` until
        // the kernel has said that it is done with them; leaving earlier leaks the buffers (see `InFlight`). Shared
        // `Arc<Buffer>`s are not written to. The watch has no buffer, and its file lives in `shared`.
        let pushed = unsafe { self.ring.submission().push(request) };
        // One request per operation at a time and one watch: never more than entries.
        pushed.expect("a free entry");
    }
}

fn build(entries: u32) -> io::Result<IoUring> {
    let is_unknown = |e: &io::Error| Errno::from_io_error(e) == Some(Errno::INVAL);
    // Completions are worked on when this thread asks for them and do not interrupt it (Linux 6.1).
    match IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries) {
        Err(e) if is_unknown(&e) => {}
        built => return built,
    }
    match IoUring::builder().setup_coop_taskrun().build(entries) {
        Err(e) if is_unknown(&e) => IoUring::new(entries),
        built => built,
    }
}

/// The system's `iovec`.
#[repr(C)]
struct IoVec {
    base: *const u8,
    len: usize,
}

/// A write that the kernel may be working on.
struct Operation {
    order: Order,
    /// Points into the order's buffers. The kernel copies it at submission; it is kept until the end all the same.
    _vector: Vec<IoVec>,
    started: Instant,
    /// When the write had completed; its flush is in flight now.
    written: Option<Instant>,
}

/// Operations by slot. An operation whose end has not been seen never frees its buffers: the device may still be
/// reading them, and memory used again for something else would end up in the log. They are leaked instead. The file
/// needs no such care, the kernel holds its own reference.
#[derive(Default)]
struct InFlight {
    slots: Vec<Option<Operation>>,
    free: Vec<usize>,
    count: usize,
}

impl InFlight {
    fn insert(&mut self, operation: Operation) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(operation);
        self.count += 1;
        slot as u64
    }

    fn get_mut(&mut self, slot: u64) -> Option<&mut Operation> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Its end has been seen.
    fn remove(&mut self, slot: u64) -> Option<Operation> {
        let operation = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot as usize);
        self.count -= 1;
        Some(operation)
    }

    /// Their ends have not been seen.
    fn take_all_leaking(&mut self) -> impl Iterator<Item = Order> {
        self.count = 0;
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().flatten().map(|operation| {
            for part in &operation.order.write.parts {
                // A count that never falls to zero; who has the others cannot get a mutable reference either.
                std::mem::forget(part.clone());
            }
            operation.order
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.take_all_leaking().for_each(drop);
    }
}
