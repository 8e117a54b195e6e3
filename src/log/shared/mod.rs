//! One open log: the commit pipeline with its lock, its waiters and its storage. The decisions are in `commit`; here
//! they meet threads and devices.
//!
//! | file | what it does |
//! |---|---|
//! | `encode` | a record before the lock: checksum, compression, copy |
//! | `room` | its place: Lsn, segment, waiting for room |
//! | `tasks` | who waits for room or for news without a thread |
//! | `durability` | groups written and flushed, waiters told |
//! | `drive` | the driver's turns, background jobs, the end |

mod drive;
mod durability;
mod encode;
mod room;
mod tasks;

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::catalog::Catalog;
use super::commit::{ControlFacts, Part, Pipe, Waiters};
use super::cuts::Cuts;
use super::set_aside::SetAside;
use super::space::Space;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::io::{BufferPool, Storage, is_forked_child};
use crate::metrics::Counters;
use crate::segment::Control;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::types::{Lsn, LsnRange};
use drive::{DriveState, Work};
pub(super) use room::Patience;
use room::RoomTasks;
use tasks::TaskList;

pub(super) struct Shared<S: Storage> {
    pub(super) storage: S,
    pub(super) config: Config,
    pub(super) control: Mutex<Control>,
    /// The file itself; a log that refuses appends has none.
    pub(super) control_file: Option<S::File>,
    /// What a seal says of the control file, as it is on disk: read under the pipe's lock, which `control`, held during
    /// writes, must never be.
    pub(super) facts: Mutex<ControlFacts>,
    pub(super) pipe: Mutex<Pipe<S::File>>,
    pub(super) waiters: Waiters,
    /// Room in flight, a prepared segment, or a reason to stop waiting for them.
    room: Condvar,
    room_tasks: Mutex<RoomTasks>,
    /// Copies of what the pipe knows, for looking without its lock.
    flushed: AtomicU64,
    /// The first Lsn that is poisoned; `u64::MAX` when none is.
    poisoned_from: AtomicU64,
    closed: AtomicBool,
    /// Nothing more will be flushed, but for what is in flight.
    over: AtomicBool,
    /// Nobody waits for what is in flight either: a device that does not answer keeps no waiter.
    abandoned: AtomicBool,
    /// Suffix truncations since open, as `Pending`s see them.
    era: AtomicU64,
    cuts: Mutex<Cuts>,
    /// Changes with suffix truncations: a reader whose number differs looks where it stands.
    pub(super) truncations: AtomicU64,
    pub(super) trimmed: AtomicU64,
    /// Why appends are refused for as long as this log is open.
    pub(super) refusal: Option<Error>,
    pub(super) catalog: Catalog<S>,
    pub(super) space: Mutex<Space>,
    /// Held while the log is cut at either end: one trim or truncation at a time.
    pub(super) cutting: Mutex<()>,
    /// Held from giving a segment its number until it may be used.
    pub(super) numbering: Mutex<()>,
    pub(super) pool: Arc<BufferPool>,
    pub(super) counters: Counters,
    /// Damage that readers met, for the statistics.
    pub(super) faults: Mutex<Vec<LsnRange>>,
    /// What `control` says of quarantined ranges: a copy for readers, made when the file is written.
    pub(super) set_aside: SetAside,
    /// Blocking readers at the head sleep here.
    pub(super) news: Condvar,
    pub(super) news_lock: Mutex<()>,
    pub(super) news_tasks: Mutex<TaskList>,
    pub(super) me: std::sync::Weak<Shared<S>>,
    drive_state: Mutex<DriveState>,
    lock: Mutex<Option<S::Lock>>,
    work: Mutex<Work>,
    work_done: Condvar,
}

/// What [`super::open`] has put together.
pub(super) struct Parts<S: Storage> {
    pub(super) storage: S,
    pub(super) config: Config,
    pub(super) control: Control,
    pub(super) control_file: Option<S::File>,
    pub(super) pipe: Pipe<S::File>,
    pub(super) catalog: Catalog<S>,
    pub(super) space: Space,
    pub(super) pool: Arc<BufferPool>,
    pub(super) refusal: Option<Error>,
    pub(super) lock: Option<S::Lock>,
}

impl<S: Storage> Shared<S> {
    pub(super) fn new(parts: Parts<S>) -> Arc<Shared<S>> {
        let flushed = parts.pipe.flushed().0;
        let trimmed = parts.control.trim.lsn;
        let set_aside = SetAside::new(parts.control.quarantined.iter().map(|range| range.lsns));
        Arc::new_cyclic(|me| Shared {
            storage: parts.storage,
            config: parts.config,
            facts: Mutex::new(ControlFacts::of(&parts.control)),
            control: Mutex::new(parts.control),
            control_file: parts.control_file,
            pipe: Mutex::new(parts.pipe),
            waiters: Waiters::new(),
            room: Condvar::new(),
            room_tasks: Mutex::default(),
            flushed: AtomicU64::new(flushed.get()),
            poisoned_from: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
            // Without a writer nothing comes, and nobody would tell of it.
            over: AtomicBool::new(parts.refusal.is_some()),
            abandoned: AtomicBool::new(false),
            era: AtomicU64::new(0),
            cuts: Mutex::default(),
            truncations: AtomicU64::new(0),
            trimmed: AtomicU64::new(trimmed.get()),
            refusal: parts.refusal,
            catalog: parts.catalog,
            space: Mutex::new(parts.space),
            cutting: Mutex::new(()),
            numbering: Mutex::new(()),
            pool: parts.pool,
            counters: Counters::default(),
            faults: Mutex::default(),
            set_aside,
            news: Condvar::new(),
            news_lock: Mutex::new(()),
            news_tasks: Mutex::default(),
            me: me.clone(),
            drive_state: Mutex::default(),
            lock: Mutex::new(parts.lock),
            work: Mutex::default(),
            work_done: Condvar::new(),
        })
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        if is_forked_child() {
            return Err(Error::Forked);
        }
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    /// True when a reader at the head waits in vain.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_appends(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.announce_room();
    }

    /// Stops for good with `cause`: what is queued is not written, what is in flight may still be proven, if nothing has failed.
    pub(super) fn abandon(&self, cause: Error) {
        let is_news = {
            let mut pipe = self.pipe.lock();
            let is_news = pipe.abandon(cause);
            // Under the lock, and not before the cause: an append in between would be told that the log was closed.
            self.closed.store(true, Ordering::Relaxed);
            self.publish(&pipe);
            is_news
        };
        if is_news {
            self.announce_poison();
        }
        self.over.store(true, Ordering::Release);
        self.abandoned.store(true, Ordering::Release);
        self.waiters.wake_everyone();
        self.waiters.wake_tasks(Lsn::MAX);
        self.announce_room();
        self.announce_news();
    }
}

/// Microseconds since the Unix epoch by the wall clock.
pub(super) fn clock_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The parts of an [`IoSlice`] list as parts without checksums.
pub(super) fn as_parts<'a>(parts: &'a [IoSlice<'a>]) -> Vec<Part<'a>> {
    parts.iter().map(|part| Part::from(&**part)).collect()
}
