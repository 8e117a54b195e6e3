//! What carries writes to the device, for any number of directories.
//!
//! The [`carrier`] takes what others left in its [`inbox`], hands writes to the [`ring`] or to a [`pool`] of threads, and calls the
//! clients. Nobody else touches the ring, and clients are called by its owner alone, so neither needs a lock. The owner is the
//! [`thread`] `seawall-io`, which sleeps in the ring or on a futex, or somebody else's [event loop](event_loop). Jobs that may
//! block run elsewhere.

mod carrier;
mod channel;
mod event_loop;
mod inbox;
mod pool;
#[cfg_attr(not(feature = "io-uring"), path = "no_ring.rs")]
mod ring;
mod thread;
mod timers;
mod turns;
mod ways;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock, mpsc};

use parking_lot::Mutex;

pub(crate) use channel::Channel;
pub use event_loop::DriverLoop;

use super::Backend;
use super::fork::{is_forked_child, watch_forks};
use crate::config::BackendChoice;
use carrier::Carrier;
use channel::Shared;
use ring::Ring;

/// How a [`Driver`] works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// Which way writes are carried.
    pub backend: BackendChoice,
    /// Threads that may block in a write at the same time. One directory gets at most half of them.
    pub pool_threads_max: usize,
    /// Writes in flight in the ring at the same time. One directory gets at most half of them.
    pub ring_entries: u32,
}

impl Default for DriverConfig {
    fn default() -> DriverConfig {
        DriverConfig { backend: BackendChoice::Auto, pool_threads_max: 16, ring_entries: 256 }
    }
}

/// Who may use a ring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The thread that made it, and no other.
    ThisThread,
    /// One thread at a time.
    AnyThread,
}

/// Longest sleep, and longest alarm: the kernel adds a timeout to its clock without a look at the overflow.
const SLEEP_MAX: std::time::Duration = std::time::Duration::from_secs(3600);

const THREAD_NAME: &str = "seawall-io";

/// Carries the writes of any number of [`Disk`](super::Disk)s. A clone is another handle on the same one; the threads
/// end when the last handle and the last disk are gone and everything in flight has been told.
#[derive(Clone)]
pub struct Driver(Arc<Lazy>);

/// Started by its first use, so that the shared one needs no answer to "what if no thread can be started".
struct Lazy {
    config: DriverConfig,
    running: OnceLock<Running>,
    starting: Mutex<()>,
}

struct Running(Arc<Shared>);

impl Driver {
    /// Starts one.
    ///
    /// # Errors
    /// When no thread can be started, io_uring is required and does not work, or this process is a fork's child.
    pub fn start(config: DriverConfig) -> io::Result<Driver> {
        let driver = Driver::new(config);
        driver.running()?;
        Ok(driver)
    }

    /// One without a thread of its own: its work is done by whoever has the [`DriverLoop`], in the midst of an event loop that
    /// waits for other things too, sockets for one. What its logs are asked for from within that loop costs no change of threads,
    /// unless a thread is found to be the quicker way for a write ([`BackendChoice::Auto`]).
    ///
    /// ```
    /// # #[cfg(feature = "net")] {
    /// use seawall::storage::{Driver, DriverConfig};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// // Where it cannot be (no io_uring): `Driver::shared`, which has a thread.
    /// let Ok((driver, driver_loop)) = Driver::in_event_loop(DriverConfig::default()) else { return };
    /// runtime.block_on(async {
    ///     tokio::spawn(seawall::node::run_loop(driver_loop));
    ///     let (log, _) = seawall::Log::open_with(&dir, seawall::Config::default(), &driver).unwrap();
    ///     let record = log.reserve(8).await.unwrap().append(b"a record").unwrap();
    ///     record.await.unwrap();           // what blocks, `record.wait()` for one, keeps the loop from turning
    /// });
    /// # }
    /// ```
    ///
    /// # Errors
    /// When io_uring does not work (`Unsupported` where positional writes were chosen), or this process is a fork's child.
    pub fn in_event_loop(config: DriverConfig) -> io::Result<(Driver, DriverLoop)> {
        watch_forks()?;
        if config.backend == BackendChoice::Pwrite {
            let text = "a driver in an event loop needs io_uring, and the configuration asks for positional writes";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let shared = Shared::new(&config)?;
        let ring = Ring::new(shared.clone(), config.ring_entries, config.pool_threads_max, Owner::AnyThread)?;
        let readable = ring.readable()?;
        shared.becomes_ring(Owner::AnyThread);
        let driver = Driver::new(config);
        _ = driver.0.running.set(Running(shared.clone()));
        let driver_loop = DriverLoop::new(Carrier::new(shared.clone(), Some(ring)), readable);
        _ = shared.in_loop.set(Arc::downgrade(driver_loop.place()));
        Ok((driver, driver_loop))
    }

    /// The process's own, with the default configuration; it starts with its first disk and never ends.
    #[must_use]
    pub fn shared() -> Driver {
        static SHARED: OnceLock<Driver> = OnceLock::new();
        SHARED.get_or_init(|| Driver::new(DriverConfig::default())).clone()
    }

    fn new(config: DriverConfig) -> Driver {
        Driver(Arc::new(Lazy { config, running: OnceLock::new(), starting: Mutex::new(()) }))
    }

    /// A way to this driver for a directory, how its writes are carried, and why not by io_uring if that was wanted.
    pub(super) fn connect(&self, is_direct: bool) -> io::Result<(Arc<Channel>, Backend, Option<String>)> {
        let shared = self.running()?;
        let (backend, reason) = shared.carried_for(is_direct);
        Ok((Channel::open(shared, backend)?, backend, reason))
    }

    fn running(&self) -> io::Result<&Arc<Shared>> {
        watch_forks()?;
        let _one_at_a_time = self.0.starting.lock();
        if let Some(running) = self.0.running.get() {
            return Ok(&running.0);
        }
        let shared = start(&self.0.config)?;
        Ok(&self.0.running.get_or_init(|| Running(shared)).0)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Driver").field(&self.0.config).finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In a child the thread is not there, and the lock may be held by it for ever.
        if !is_forked_child() {
            self.0.inbox.close();
        }
    }
}

fn start(config: &DriverConfig) -> io::Result<Arc<Shared>> {
    let shared = Shared::new(config)?;
    let (tell, told) = mpsc::sync_channel(1);
    let for_thread = (shared.clone(), config.clone());
    std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
        let (shared, config) = for_thread;
        // The ring belongs to the thread that made it.
        let chosen = choose(&shared, &config);
        let ring = match chosen {
            Ok(ring) => ring,
            Err(e) => return drop(tell.send(Err(e))),
        };
        let _ = tell.send(Ok(()));
        thread::run(Carrier::new(shared, ring));
    })?;
    told.recv().map_err(|_| io::Error::other("the driver's thread died while it started"))??;
    Ok(shared)
}

fn choose(shared: &Arc<Shared>, config: &DriverConfig) -> io::Result<Option<Ring>> {
    if config.backend == BackendChoice::Pwrite {
        return Ok(None);
    }
    match Ring::new(shared.clone(), config.ring_entries, config.pool_threads_max, Owner::ThisThread) {
        Ok(ring) => {
            shared.becomes_ring(Owner::ThisThread);
            Ok(Some(ring))
        }
        Err(e) if config.backend == BackendChoice::Auto => {
            shared.carried.lock().1 = Some(e.to_string());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Ends the process when a thread panics whose death would leave clients waiting for ever: a log survives the end of
/// its process, and nobody survives a wait without one. Clients' own panics never get here.
struct AbortOnPanic {
    /// Somebody else's panic, which this is a part of the unwinding of, ends nothing.
    was_panicking: bool,
}

impl AbortOnPanic {
    fn new() -> AbortOnPanic {
        AbortOnPanic { was_panicking: std::thread::panicking() }
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            std::process::abort();
        }
    }
}
