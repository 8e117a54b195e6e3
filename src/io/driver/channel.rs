//! A directory's end of the driver, and what all ends and threads share.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::disk::DiskFile;
use super::super::fork::is_forked_child;
use super::super::{Backend, Client, GroupWrite, WriteTimes};
use super::event_loop::Place;
use super::inbox::Inbox;
use super::pool::{Pool, Work};
use super::ways::{Choice, Way, Ways};
use super::{AbortOnPanic, DriverConfig, Owner};
use crate::config::BackendChoice;

/// A write and where it came from.
pub(super) struct Order {
    pub(super) channel: Arc<Channel>,
    pub(super) write: GroupWrite<DiskFile>,
    /// Since when it is on its way, where there was a choice.
    sent: Option<(Choice, Instant)>,
}

impl Order {
    /// By which way it goes, from now on. A thread is used only where there is one.
    pub(super) fn choose_way(&mut self) -> Way {
        let shared = &self.channel.shared;
        if !shared.has_choice {
            return Way::Ring;
        }
        let mut ways = self.channel.ways.lock();
        let choice = ways.choose();
        if choice.way == Way::Pool && shared.writers.ensure_thread().is_err() {
            ways.refused();
            return Way::Ring;
        }
        self.sent = Some((choice, Instant::now()));
        choice.way
    }
}

/// A write that ended and has to be told.
pub(super) struct Ended {
    pub(super) order: Order,
    pub(super) result: io::Result<WriteTimes>,
}

/// What a driver's threads and channels have in common.
pub(super) struct Shared {
    pub(super) inbox: Inbox,
    pub(super) writers: Arc<Pool<Order>>,
    pub(super) background: Arc<Pool<Job>>,
    /// Writes go to the ring, by way of the inbox; otherwise straight to `writers`.
    pub(super) has_ring: AtomicBool,
    /// Where both would do, the quicker one is found by trying.
    has_choice: bool,
    /// The ring takes only what needs no flush by a thread.
    flushes_by_pool: AtomicBool,
    /// Writes handed to `writers` whose end has not been told.
    pub(super) writes_in_pool: AtomicUsize,
    /// Of one channel, at most this many writes occupy threads, ours or the kernel's.
    pub(super) threads_per_channel: usize,
    /// How new directories' writes are carried, and why not by io_uring.
    pub(super) carried: Mutex<(Backend, Option<String>)>,
    numbers: Mutex<Numbers>,
    /// Where the work is done in an event loop, if it is.
    pub(super) in_loop: OnceLock<Weak<Place>>,
    /// The ring's descriptor, so that a test can break it.
    #[cfg(all(test, feature = "io-uring"))]
    pub(super) ring_fd: std::sync::atomic::AtomicI32,
}

/// Small numbers for channels, used again, so that per-channel state can be an array.
#[derive(Default)]
struct Numbers {
    free: Vec<usize>,
    next: usize,
}

impl Shared {
    pub(super) fn new(config: &DriverConfig) -> io::Result<Arc<Shared>> {
        let threads_max = config.pool_threads_max.max(1);
        Ok(Arc::new(Shared {
            inbox: Inbox::new()?,
            writers: Pool::new("seawall-write", threads_max),
            background: Pool::new("seawall-bg", BACKGROUND_THREADS_MAX),
            has_ring: AtomicBool::new(false),
            has_choice: config.backend == BackendChoice::Auto,
            flushes_by_pool: AtomicBool::new(false),
            writes_in_pool: AtomicUsize::new(0),
            threads_per_channel: (threads_max / 2).max(1),
            carried: Mutex::new((Backend::Pwrite, None)),
            numbers: Mutex::default(),
            in_loop: OnceLock::new(),
            #[cfg(all(test, feature = "io-uring"))]
            ring_fd: std::sync::atomic::AtomicI32::new(-1),
        }))
    }

    /// From now on writes go to the ring.
    pub(super) fn becomes_ring(&self, owner: Owner) {
        *self.carried.lock() = (Backend::IoUring, None);
        self.flushes_by_pool.store(owner == Owner::AnyThread, Ordering::Relaxed);
        self.has_ring.store(true, Ordering::Relaxed);
    }

    /// How a directory's writes are carried, and why not by the ring.
    pub(super) fn carried_for(&self, is_direct: bool) -> (Backend, Option<String>) {
        match self.carried.lock().clone() {
            (Backend::IoUring, _) if !is_direct && self.flushes_by_pool.load(Ordering::Relaxed) => {
                let why = "in an event loop only direct writes go through io_uring".to_owned();
                (Backend::Pwrite, Some(why))
            }
            carried => carried,
        }
    }

    /// Has a thread of the pool do the write. Its end goes to the inbox, whatever happens.
    pub(super) fn write_by_pool(&self, order: Order) {
        self.writes_in_pool.fetch_add(1, Ordering::Relaxed);
        let lane = order.channel.number;
        if let Err((order, e)) = self.writers.push(lane, self.threads_per_channel, order) {
            self.inbox.post_ended(Ended { order, result: Err(e) });
        }
    }
}

/// One directory's way to the driver.
pub(crate) struct Channel {
    number: usize,
    shared: Arc<Shared>,
    /// A kick is on its way: the next one adds nothing.
    is_kicked: AtomicBool,
    client: Mutex<Option<Weak<dyn Client<DiskFile>>>>,
    /// Touched by the carrier alone.
    ways: Mutex<Ways>,
}

const BACKGROUND_THREADS_MAX: usize = 4;

impl Channel {
    /// # Errors
    /// When the threads that its work needs cannot be started.
    pub(super) fn open(shared: &Arc<Shared>, backend: Backend) -> io::Result<Arc<Channel>> {
        shared.background.ensure_thread()?;
        if backend != Backend::IoUring {
            shared.writers.ensure_thread()?;
        }
        Ok(Channel::new(shared.clone()))
    }

    fn new(shared: Arc<Shared>) -> Arc<Channel> {
        let number = {
            let mut numbers = shared.numbers.lock();
            numbers.free.pop().unwrap_or_else(|| {
                numbers.next += 1;
                numbers.next - 1
            })
        };
        let ways = Mutex::new(Ways::new(shared.threads_per_channel));
        Arc::new(Channel { number, shared, is_kicked: AtomicBool::new(false), client: Mutex::new(None), ways })
    }

    /// Unique among the channels that exist.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// See [`Storage::submit`](super::super::Storage::submit).
    pub(crate) fn submit(self: &Arc<Self>, write: GroupWrite<DiskFile>) {
        let order = Order { channel: self.clone(), write, sent: None };
        if self.shared.has_ring.load(Ordering::Relaxed) {
            self.shared.inbox.post_order(order);
        } else {
            self.shared.write_by_pool(order);
        }
    }

    /// See [`Storage::attach`](super::super::Storage::attach).
    pub(crate) fn attach(&self, client: Weak<dyn Client<DiskFile>>) {
        *self.client.lock() = Some(client);
    }

    /// See [`Storage::kick`](super::super::Storage::kick).
    pub(crate) fn kick(self: &Arc<Self>) {
        // A swap even if it is set: it orders what the caller did before the drive that will see it.
        if !self.is_kicked.swap(true, Ordering::AcqRel) {
            self.shared.inbox.post_kick(self.clone());
        }
    }

    /// See [`Storage::watch_over`](super::super::Storage::watch_over).
    pub(crate) fn watch_over(&self) -> Option<Duration> {
        let place = self.shared.in_loop.get().filter(|_| !is_forked_child())?.upgrade()?;
        Some(place.watch_over(&self.shared))
    }

    /// See [`Storage::background`](super::super::Storage::background).
    pub(crate) fn background(self: &Arc<Self>, job: Box<dyn FnOnce() + Send>) {
        let job = Job { _channel: self.clone(), job };
        // Cannot be given back: `open` made sure of a thread, and the last one stays.
        let _ = self.shared.background.push(self.number, 1, job);
    }

    /// Drives the client; called by the carrier alone. In how long it wants to be driven again.
    pub(super) fn drive(&self) -> Option<Duration> {
        self.is_kicked.swap(false, Ordering::AcqRel);
        self.call(|client| client.drive()).flatten()
    }

    /// Calls the client and keeps a panic of it away from everybody else; called by the carrier alone.
    fn call<R>(&self, f: impl FnOnce(&dyn Client<DiskFile>) -> R) -> Option<R> {
        let client = self.client.lock().clone()?;
        let result = match client.upgrade() {
            // This may be the last reference: it is dropped inside as well.
            Some(client) => catch_unwind(AssertUnwindSafe(move || f(&*client))).ok(),
            None => None,
        };
        if result.is_none() {
            let _ = catch_unwind(AssertUnwindSafe(|| client.upgrade().inspect(|client| client.panicked())));
            let mut current = self.client.lock();
            if current.as_ref().is_some_and(|current| current.ptr_eq(&client)) {
                *current = None;
            }
        }
        result
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // In a child the lock may be held by a thread that is not there.
        if !is_forked_child() {
            self.shared.numbers.lock().free.push(self.number);
        }
    }
}

impl Ended {
    /// Tells the client; called by the carrier alone.
    pub(super) fn tell(self) {
        let Ended { order: Order { channel, write, sent }, result } = self;
        if let Some((choice, at)) = sent {
            let mut ways = channel.ways.lock();
            match &result {
                Ok(_) => ways.ended(choice, at.elapsed()),
                Err(_) => ways.failed(choice),
            }
        }
        channel.call(move |client| client.complete(write, result));
    }
}

impl Work for Order {
    /// The pool's way of writing.
    fn run(self) {
        // A panic would leave the client waiting for ever.
        let _guard = AbortOnPanic::new();
        let result = self.write.file.write_flushed(self.write.offset, &self.write.parts);
        let shared = self.channel.shared.clone();
        shared.inbox.post_ended(Ended { order: self, result });
    }
}

/// Something to do on a thread that may block.
pub(super) struct Job {
    /// Keeps the channel's number, which is the job's lane, from being used again.
    _channel: Arc<Channel>,
    job: Box<dyn FnOnce() + Send>,
}

impl Work for Job {
    fn run(self) {
        // Reported by the panic hook; the directory's later jobs still run.
        let _ = catch_unwind(AssertUnwindSafe(self.job));
    }
}

#[cfg(test)]
impl Channel {
    /// Two channels of a driver without a thread.
    pub(super) fn unconnected() -> [Arc<Channel>; 2] {
        let shared = Shared::new(&DriverConfig::default()).unwrap();
        [Channel::new(shared.clone()), Channel::new(shared)]
    }
}
