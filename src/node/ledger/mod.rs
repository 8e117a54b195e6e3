//! The driver of batches: a ledger over a log, streams and other inputs.
//!
//! | file | what it owns |
//! |---|---|
//! | `open` | replay, taking over, inputs attached and recognized |
//! | `write` | events made durable, then applied; checkpoints; who is fenced |
//! | `allocate` | what the next batch holds |
//! | `batch` | a batch's records, the same ones each time |
//! | `settle` | commit, abandon, drop; what follows for streams |
//! | `port` | what a driver asks of a stream |
//! | `view` | a ledger looked at without driving it |
//! | `config`, `error` | limits; what can go wrong |

mod allocate;
mod batch;
mod config;
mod error;
mod open;
mod port;
mod settle;
mod view;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::io::{Disk, Storage};
use crate::ledger::{BatchKey, BatchStatus, InputKind, Latest, Range, Replayable, State};
use crate::log::Log;
use crate::types::{Ballot, BatchId, InputId, LedgerId};

pub use batch::{Batch, BatchRecord, BatchRecords, LentRecord, Place, StreamBlock, StreamBlocks};
pub use config::LedgerConfig;
pub use error::LedgerError;
pub use open::Opened;
pub use port::{Frames, StreamPort};
pub use view::{LedgerView, read_ledger};

/// Puts every durable record into exactly one batch. Cheap to clone; all clones are the same driver.
///
/// The order of things: [`Ledger::allocate`] writes down what the batch holds, durable before it returns; the engine runs
/// it, as often as it must; the output is stored under the batch's [`BatchKey`]; [`Ledger::commit`] writes down that it is.
/// After a restart [`Ledger::pending`] has the batches in between, with the same content.
///
/// ```
/// use seawall::ledger::BatchLimits;
/// use seawall::node::{Ledger, LedgerConfig, Receiver};
/// use seawall::receiver::ReceiverConfig;
/// use seawall::{Config, Log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let (log, _) = Log::open(dir.path().join("clicks"), Config::default())?;
/// let (receiver, driver, _) = Receiver::open(log, "clicks", ReceiverConfig::default())?;
/// let thread = driver.spawn()?;
/// let (log, _) = Log::open(dir.path().join("ledger"), Config::default())?;
/// let (ledger, _) = Ledger::open(log, LedgerConfig::default())?;
/// ledger.add_stream("clicks", receiver.clone())?;
///
/// receiver.local_blocking("connector-1")?.store_blocking(&["one", "two"])?;
/// while let Some(batch) = ledger.allocate(&BatchLimits::default())? {
///     let records = batch.read()?.collect::<Result<Vec<_>, _>>()?;
///     assert_eq!(records.len(), 2);
///     // ... store the output under batch.key() ...
///     ledger.commit(batch.id(), "42 rows")?;
/// }
/// # receiver.shut_down();
/// # thread.join()?;
/// # Ok(())
/// # }
/// ```
pub struct Ledger<S: Storage = Disk> {
    inner: Arc<Inner<S>>,
}

impl<S: Storage> Clone for Ledger<S> {
    fn clone(&self) -> Self {
        Ledger { inner: self.inner.clone() }
    }
}

impl<S: Storage> fmt::Debug for Ledger<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({}, ballot {})", self.inner.ledger, self.inner.ballot)
    }
}

pub(super) struct Inner<S: Storage> {
    log: Log<S>,
    ledger: LedgerId,
    ballot: Ballot,
    config: LedgerConfig,
    state: Mutex<State>,
    /// Whoever writes events holds this until they are durable and applied: events are checked against the state they
    /// will meet.
    writer: Mutex<write::Writer>,
    /// Whoever plans a batch holds this: what is planned is what follows what is allocated.
    planner: Mutex<()>,
    sources: Mutex<BTreeMap<InputId, Source>>,
    /// Of streams, blocks behind what is allocated that say nothing: as far as the last plan has looked.
    silent: Mutex<BTreeMap<InputId, Range>>,
    pace: Mutex<settle::Pace>,
}

/// Nobody would lift the rate any more. A driver that another one has taken over from lifts nothing: streams obey the other.
impl<S: Storage> Drop for Inner<S> {
    fn drop(&mut self) {
        if self.config.rate.is_none() {
            return;
        }
        for source in self.sources.get_mut().values() {
            if let Source::Stream(port) = source {
                let _ = port.set_rate(self.ballot, None);
            }
        }
    }
}

/// An input as it is attached.
#[derive(Clone)]
enum Source {
    Stream(Arc<dyn StreamPort>),
    Replayable(Arc<dyn Replayable>),
}

/// An input, how far it is, and what is there that no batch holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InputStatus {
    /// Its number.
    pub input: InputId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: InputKind,
    /// Whether it has been added since the ledger was opened.
    pub is_attached: bool,
    /// Records in batches so far.
    pub records_allocated: u64,
    /// Of these, in settled batches.
    pub records_settled: u64,
    /// Records that an operator gave up.
    pub records_lost: u64,
    /// What is there and in no batch; `None` for one that is not attached. Of a stream, `records` counts blocks, also
    /// those that say nothing and make no batch by themselves, and `bytes` is 0.
    pub latest: Option<Latest>,
}

impl<S: Storage> Ledger<S> {
    /// The ledger's identity.
    #[must_use]
    pub fn id(&self) -> LedgerId {
        self.inner.ledger
    }

    /// This driver's ballot.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        self.inner.ballot
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &LedgerConfig {
        &self.inner.config
    }

    /// The name of a batch for outputs.
    #[must_use]
    pub fn key(&self, batch: BatchId) -> BatchKey {
        BatchKey { ledger: self.inner.ledger, batch }
    }

    /// Looks at the state, under the ledger's lock.
    pub fn with_state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.inner.state.lock())
    }

    /// Looks at the ledger's own log.
    pub fn with_log<R>(&self, look: impl FnOnce(&Log<S>) -> R) -> R {
        look(&self.inner.log)
    }

    /// How many events this driver has written, checkpoints not counted: each is a durable append, or a part of one.
    #[must_use]
    pub fn events_written(&self) -> u64 {
        self.inner.writer.lock().events
    }

    /// Batches that are allocated and not committed, oldest first, with the content they were allocated with.
    #[must_use]
    pub fn pending(&self) -> Vec<Batch<S>> {
        let state = self.inner.state.lock();
        let pending = state.batches().filter(|(_, batch)| batch.status == BatchStatus::Pending);
        pending.map(|(id, batch)| self.batch(id, batch.ranges.clone())).collect()
    }

    fn batch(&self, id: BatchId, ranges: Vec<Range>) -> Batch<S> {
        Batch::new(self.inner.clone(), id, ranges)
    }
}

impl<S: Storage> Inner<S> {
    fn source(&self, input: InputId) -> Result<Source, LedgerError> {
        let found = self.sources.lock().get(&input).cloned();
        found.ok_or_else(|| LedgerError::NotAttached { name: self.name_of(input) })
    }

    fn name_of(&self, input: InputId) -> String {
        let state = self.state.lock();
        state.input(input).map_or_else(|| format!("{input}"), |known| name(&known.name))
    }
}

fn name(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn now_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn now() -> Instant {
    Instant::now()
}
