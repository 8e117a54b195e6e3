//! One io_uring for all directories, owned by the driver's carrier: nobody else touches it.
//!
//! A group is one write request with RWF_DSYNC, durable when it completes; without O_DIRECT a write, and when that has
//! completed a flush. What does not fit into the ring waits its [turn](super::turns).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
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
use super::{Owner, SLEEP_MAX};

/// The kernel's bounds on one request.
const PARTS_MAX: usize = 1024;
const REQUEST_BYTES_MAX: u64 = 0x7fff_f000;

/// More entries than anybody has use for.
const ENTRIES_MAX: u32 = 4096;

/// Names the request that watches the inbox; writes have the number of their slot.
const WATCH: u64 = u64::MAX;
/// Names the request that completes when it is time.
const ALARM: u64 = u64::MAX - 1;
/// Names the requests that move the alarm to an earlier time.
const ALARM_MOVED: u64 = u64::MAX - 2;

/// Requests beside the writes that may wait to be submitted: the watch, the alarm, and its moving.
const OTHERS: u32 = 3;

/// How long to leave a kernel alone that is out of memory for requests.
const RETRY_AFTER: Duration = Duration::from_millis(1);

pub(super) struct Ring {
    ring: IoUring,
    in_flight: InFlight,
    waiting: Turns<Order>,
    shared: Arc<Shared>,
    owner: Owner,
    writes_max: usize,
    is_watching: bool,
    /// For when the alarm is set; what it is set by stays in place until the kernel has read it.
    alarm: Option<Instant>,
    alarm_after: Box<Timespec>,
    /// Empty between rounds; kept for its memory.
    completed: Vec<cqueue::Entry>,
}

impl Ring {
    /// A working ring, tried out.
    ///
    /// # Errors
    /// When there is no io_uring, it is forbidden, or it is older than Linux 5.13.
    pub(super) fn new(shared: Arc<Shared>, entries: u32, threads_max: usize, owner: Owner) -> io::Result<Ring> {
        let ring = build(entries.clamp(OTHERS + 1, ENTRIES_MAX), owner)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "waiting with a timeout needs Linux 5.11"));
        }
        // Threads of the kernel that do what cannot be done without blocking: flushes, and writes into new blocks.
        // Kernels before 5.15 choose the number themselves.
        let workers = u32::try_from(threads_max.max(1)).unwrap_or(u32::MAX);
        let _ = ring.submitter().register_iowq_max_workers(&mut [workers, 0]);

        let writes_max = (ring.params().sq_entries() - OTHERS) as usize;
        let mut ring = Ring {
            ring,
            in_flight: InFlight::default(),
            waiting: Turns::new(),
            shared,
            owner,
            writes_max,
            is_watching: false,
            alarm: None,
            alarm_after: Box::default(),
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
        // A flush is done by a thread of the kernel that belongs to the one that submitted it, and may end with it. So may a
        // direct write into blocks that are reserved and not written: cancelled, it is an error like any other.
        let is_flushed_here = order.write.file.is_direct() || self.owner == Owner::ThisThread;
        is_flushed_here && order.write.parts.len() <= PARTS_MAX && order.write.bytes() <= REQUEST_BYTES_MAX
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
        unless_lost(entered)
    }

    /// Submits and does not wait; the descriptor becomes readable at `wake_at` at the latest.
    ///
    /// # Errors
    /// The ring is of no use any more.
    pub(super) fn submit(&mut self, wake_at: Option<Instant>) -> io::Result<()> {
        // What the kernel did not take the last time goes first: until then the caller does not sleep, and needs no alarm.
        if !self.submit_all()? {
            return Ok(());
        }
        self.fill();
        if let Some(at) = wake_at {
            self.set_alarm(at);
        }
        self.submit_all().map(drop)
    }

    /// False when the kernel did not take all of it.
    fn submit_all(&mut self) -> io::Result<bool> {
        let to_submit = self.ring.submission().len();
        if to_submit > 0 {
            unless_lost(self.submit_without_waiting(to_submit))?;
        }
        Ok(self.ring.submission().is_empty())
    }

    /// Whether something is to be reaped already, or was not taken by the last submission.
    pub(super) fn has_more(&mut self) -> bool {
        !self.ring.completion().is_empty() || !self.ring.submission().is_empty()
    }

    /// Becomes readable when there is something to reap.
    #[allow(unsafe_code)]
    pub(super) fn readable(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring has its descriptor open, and is borrowed for as long as this is used.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    fn set_alarm(&mut self, at: Instant) {
        if self.alarm.is_some_and(|set| set <= at) {
            return;
        }
        *self.alarm_after = Timespec::from(at.saturating_duration_since(Instant::now()).min(SLEEP_MAX));
        let after: *const Timespec = &raw const *self.alarm_after;
        let request = match self.alarm {
            None => opcode::Timeout::new(after).build().user_data(ALARM),
            // Where it has just gone off, its own completion says so.
            Some(_) => opcode::TimeoutUpdate::new(ALARM, after).build().user_data(ALARM_MOVED),
        };
        self.push(&request);
        self.alarm = Some(at);
    }

    #[allow(unsafe_code)]
    fn submit_without_waiting(&mut self, to_submit: usize) -> io::Result<usize> {
        // Asks for events although it waits for none: those of a ring of one thread are posted only when asked for.
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
            match completion.user_data() {
                WATCH => self.is_watching = cqueue::more(completion.flags()),
                ALARM => self.alarm = None,
                ALARM_MOVED => {}
                slot => self.complete(slot, completion.result(), now, ended),
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
                write.file.is_direct().then_some(WriteTimes { write: Duration::ZERO, flush: took, by_thread: false })
            }),
            (Some(written), Ok(_)) => Ok(Some(WriteTimes {
                write: written.saturating_duration_since(operation.started),
                flush: now.saturating_duration_since(written),
                by_thread: false,
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
        // `Arc<Buffer>`s are not written to. The watch has no buffer, and its file lives in `shared`. The alarm's time lives as
        // long as the ring, and is changed only when the request that names it was submitted, or with it.
        let pushed = unsafe { self.ring.submission().push(request) };
        // One request per operation at a time, one watch, and one alarm that is moved once before all of it is submitted: never
        // more than entries.
        pushed.expect("a free entry");
    }
}

/// What entering the ring came to: errors that pass are none.
fn unless_lost(entered: io::Result<usize>) -> io::Result<()> {
    let Err(e) = entered else { return Ok(()) };
    match Errno::from_io_error(&e) {
        Some(Errno::TIME | Errno::INTR) => Ok(()),
        // Out of memory for requests, or completions to be taken first.
        Some(Errno::AGAIN | Errno::BUSY) => {
            std::thread::sleep(RETRY_AFTER);
            Ok(())
        }
        _ => Err(e),
    }
}

fn build(entries: u32, owner: Owner) -> io::Result<IoUring> {
    let is_unknown = |e: &io::Error| Errno::from_io_error(e) == Some(Errno::INVAL);
    if owner == Owner::AnyThread {
        // A task may go from thread to thread, and what one thread submitted must be heard of while it does something else.
        return IoUring::builder().dontfork().build(entries);
    }
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

// SAFETY: it points into buffers that the operation around it owns a share of, and these can be sent.
#[allow(unsafe_code)]
unsafe impl Send for IoVec {}

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
/// reading them, and memory used again for something else would end up in the log. They are leaked instead. To the file
/// the kernel holds its own reference; but its claim is not given back before that one goes.
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
            operation.order.write.file.keep_claim();
            operation.order
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.take_all_leaking().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::skip::skipped;
    use super::super::DriverConfig;
    use super::*;

    /// It slept without one where the kernel had left a request lying the last time and took all of them this time.
    #[test]
    fn who_sleeps_has_an_alarm() {
        let shared = Shared::new(&DriverConfig::default()).unwrap();
        let mut ring = match Ring::new(shared, 8, 1, Owner::AnyThread) {
            Ok(ring) => ring,
            Err(e) => return skipped(format_args!("io_uring: {e}")),
        };
        let hour = Timespec::from(Duration::from_secs(3600));
        ring.push(&opcode::Timeout::new(&raw const hour).build().user_data(ALARM_MOVED));
        ring.submit(Some(Instant::now() + Duration::from_secs(60))).unwrap();
        assert!(ring.alarm.is_some() || ring.has_more());
    }
}
