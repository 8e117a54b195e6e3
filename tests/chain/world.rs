//! One seed: sources, a receiver, a driver and an output, and everything that can happen to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use seawall::ledger::{BatchLimits, Sink};
use seawall::node::{Batch, Ledger, LedgerConfig, Receiver, StreamPort};
use seawall::receiver::ReceiverConfig;
use seawall::{Config, Log, WhenFull};

use super::sim::{CrashChoice, DiskOptions, Effect, Fault, OpKind, Rng, SimDisk, SimStorage, Target, errno};
use super::sink::{Output, Row};

/// What is left of a life.
type Left = (Option<Front>, Option<Back>);
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What is broken, to see whether it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Honest,
    /// Disks say that they have flushed, and have not.
    FlushesLie,
    /// The output does not know which batches it has.
    SinkForgets,
    /// The driver commits a batch now and then without storing it.
    DriverSkips,
    /// The driver stores a batch now and then under the next batch's name as well.
    DriverRepeats,
}

/// What has happened, to know that it does.
#[derive(Default, Debug, Clone)]
pub struct Seen {
    counts: BTreeMap<&'static str, u64>,
}

const EVERYTHING: [&str; 15] = [
    "records",
    "batches",
    "batches read again",
    "stored again",
    "power lost",
    "killed",
    "receiver alone ended",
    "driver alone ended",
    "call failed",
    "source cut off",
    "store failed",
    "log poisoned",
    "ledger failed",
    "checkpoints",
    "streams trimmed",
];

impl Seen {
    fn note(&mut self, what: &'static str) {
        self.more(what, 1);
    }

    fn more(&mut self, what: &'static str, count: u64) {
        debug_assert!(EVERYTHING.contains(&what));
        *self.counts.entry(what).or_default() += count;
    }

    pub fn add(&mut self, other: &Seen) {
        other.counts.iter().for_each(|(what, count)| *self.counts.entry(what).or_default() += count);
    }

    pub fn is_everything(&self) -> bool {
        EVERYTHING.iter().all(|what| self.counts.get(what).is_some_and(|count| *count > 0))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |what: &&str| format!("{what} {}", self.counts.get(*what).copied().unwrap_or(0));
        f.write_str(&EVERYTHING.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// A source: it can make its records again, and knows nothing else.
struct Source {
    name: String,
    total: u64,
    /// It was told that so many are durable.
    told: u64,
}

pub struct World {
    seed: u64,
    mode: Mode,
    rng: Rng,
    options: DiskOptions,
    stream_disk: SimDisk,
    ledger_disk: SimDisk,
    sources: Vec<Rc<RefCell<Source>>>,
    output: Output,
    seen: Seen,
}

/// The receiver's process, or its half of one.
struct Front {
    receiver: Receiver<SimStorage>,
    driver: Option<Task>,
    outcome: Rc<RefCell<Option<String>>>,
    /// A task of each source, while it has one.
    tasks: Vec<Option<Task>>,
}

/// The driver's.
struct Back {
    ledger: Ledger<SimStorage>,
    pending: Vec<Batch<SimStorage>>,
}

fn record(source: &str, seq: u64) -> Vec<u8> {
    let mut bytes = format!("{source}/{seq}/").into_bytes();
    let more = (seq.wrapping_mul(0x9E37_79B9) >> 7) % 300;
    bytes.extend((0..more).map(|i| (i ^ seq) as u8));
    bytes
}

impl World {
    pub fn new(seed: u64, mode: Mode) -> World {
        let mut rng = Rng::new(seed);
        let options = if rng.one_in(2) { DiskOptions::DIRECT } else { DiskOptions::BUFFERED };
        let sources = (0..1 + rng.below(3))
            .map(|i| {
                let total = 5 + rng.below(60);
                Rc::new(RefCell::new(Source { name: format!("source-{i}"), total, told: 0 }))
            })
            .collect();
        let disk = |lies| {
            let disk = SimDisk::new(options);
            disk.set_flushes_lie(lies);
            disk
        };
        let (stream_disk, ledger_disk) = (disk(mode == Mode::FlushesLie), disk(false));
        let output = Output { forgets: mode == Mode::SinkForgets, ..Output::default() };
        World { seed, mode, rng, options, stream_disk, ledger_disk, sources, output, seen: Seen::default() }
    }

    /// Lives until a last, undisturbed life has brought everything into the output.
    pub fn run(mut self, seen: &mut Seen) -> Result<(), String> {
        let lives = 1 + self.rng.below(5);
        let mut ends = None;
        for _ in 0..lives {
            ends = self.live(ends, true)?;
        }
        // What was handed on may have failed already, and tells it when it is used.
        for rest in 0.. {
            ends = self.live(ends, false)?;
            if ends.is_none() {
                break;
            }
            if rest == 3 {
                return Err("undisturbed lives fail".to_owned());
            }
        }
        let verdict = self.judge();
        seen.add(&self.seen);
        verdict
    }

    fn judge(&mut self) -> Result<(), String> {
        self.seen.more("stored again", self.output.again);
        let mut found: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (source, seq, bytes) in self.output.batches.values().flatten() {
            if *bytes != record(source, *seq) {
                return Err(format!("{source}/{seq} is not what was sent"));
            }
            found.entry(source).or_default().push(*seq);
        }
        for source in &self.sources {
            let source = source.borrow();
            let found = found.remove(source.name.as_str()).unwrap_or_default();
            if found != (1..=source.total).collect::<Vec<_>>() {
                return Err(format!("{} of {}, told {}: {found:?}", source.name, source.total, source.told));
            }
            self.seen.more("records", source.total);
        }
        self.seen.more("batches", self.output.batches.len() as u64);
        if found.is_empty() { Ok(()) } else { Err(format!("strangers: {found:?}")) }
    }

    // --- lives -----------------------------------------------------------------------------------------------------

    /// One life, in which `trouble` may come. What outlives it is handed on.
    fn live(&mut self, before: Option<Left>, trouble: bool) -> Result<Option<Left>, String> {
        let (front, back) = before.unwrap_or_default();
        if !trouble {
            self.stream_disk.heal();
            self.ledger_disk.heal();
        }
        let mut front = match front {
            Some(front) => Some(front),
            None => self.open_front(trouble)?,
        };
        let mut back = match (back, &front) {
            (Some(back), Some(front)) => self.attach(back, front)?,
            (None, Some(front)) => self.open_back(front, trouble)?,
            (_, None) => None,
        };
        if trouble && self.rng.one_in(3) {
            self.plan_fault();
        }
        let steps = if trouble { 5 + self.rng.below(120) } else { 100_000 };
        for step in 0..steps {
            let (Some(in_front), Some(behind)) = (&mut front, &mut back) else { break };
            match self.rng.below(10) {
                0..=2 => self.source_step(in_front, trouble),
                3..=4 => poll(&mut in_front.driver),
                5 => drop(self.stream_disk.pump()),
                // A group may wait for company, by the clock of whoever drives the log.
                6 => drop(self.stream_disk.tick()),
                7 => drop(self.ledger_disk.tick()),
                _ => {
                    // Its appends wait for segments, which the pump prepares.
                    self.ledger_disk.pump();
                    if !self.driver_step(behind, trouble)? {
                        self.seen.note("ledger failed");
                        back = None;
                    }
                }
            }
            if front.as_ref().is_some_and(|front| front.outcome.borrow().is_some()) {
                self.seen.note("log poisoned");
                front = None;
            }
            if !trouble {
                if front.is_none() || back.is_none() {
                    break;
                }
                if step % 16 == 0 && self.is_done(back.as_ref()) {
                    return Ok(None);
                }
                // A receiver offers what the log had no room for again after a while, by the real clock.
                if step % 512 == 511 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        if let (false, Some(front), Some(back)) = (trouble, &front, &back) {
            let told: Vec<_> = self.sources.iter().map(|s| (s.borrow().told, s.borrow().total)).collect();
            let state = back.ledger.with_state(|state| format!("{:?}", state.inputs().collect::<Vec<_>>()));
            let (pending, stats, bounds) = (back.ledger.pending(), front.receiver.stats(), front.receiver.bounds());
            return Err(format!(
                "it does not come to an end: told {told:?}, {state}, {pending:?}, {stats:?}, {bounds:?}"
            ));
        }
        Ok(self.end(front, back))
    }

    /// How a life ends: all of it, or one of its processes.
    fn end(&mut self, front: Option<Front>, back: Option<Back>) -> Option<Left> {
        let (mut front, mut back) = (front, back);
        match self.rng.below(4) {
            0 if front.is_some() => {
                self.seen.note("driver alone ended");
                back = None;
                self.replace_disk(false);
            }
            1 if back.is_some() => {
                self.seen.note("receiver alone ended");
                front = None;
                self.replace_disk(true);
            }
            _ => {
                (front, back) = (None, None);
                self.replace_disk(false);
                self.replace_disk(true);
            }
        }
        // What failed by itself is gone as well; its disk is found as a killed process left it.
        if front.is_none() {
            self.replace_disk(true);
        }
        if back.is_none() {
            self.replace_disk(false);
        }
        Some((front, back))
    }

    /// The disk as it is found after a power loss, or after the process was killed.
    fn replace_disk(&mut self, of_stream: bool) {
        let is_lost = self.rng.one_in(2);
        self.seen.note(if is_lost { "power lost" } else { "killed" });
        let choice = CrashChoice::random(self.rng.next());
        let disk = if of_stream { &mut self.stream_disk } else { &mut self.ledger_disk };
        *disk = if is_lost { disk.crash(&choice) } else { disk.fork() };
        disk.set_flushes_lie(self.mode == Mode::FlushesLie && of_stream);
    }

    fn plan_fault(&mut self) {
        let targets: [Target; 4] =
            [Target::Mutations, OpKind::WriteFlushed.into(), OpKind::Submit.into(), OpKind::SyncDir.into()];
        let target = targets[self.rng.below(4) as usize];
        let effects = [Effect::Before, Effect::AfterPartial, Effect::AfterFull];
        let fault = Fault::new(target, self.rng.below(20), errno::EIO).effect(effects[self.rng.below(3) as usize]);
        self.seen.note("call failed");
        if self.rng.one_in(2) { self.stream_disk.fail(fault) } else { self.ledger_disk.fail(fault) }
    }

    // --- the receiver's side ---------------------------------------------------------------------------------------

    fn log_config(&self) -> Config {
        Config {
            segment_bytes_min: 64 * 1024,
            segment_bytes_max: 64 * 1024,
            when_full: WhenFull::Reject,
            ..Config::default()
        }
    }

    /// `None`: it could not be opened, which only trouble explains.
    fn open_front(&mut self, trouble: bool) -> Result<Option<Front>, String> {
        let config = ReceiverConfig { snapshot_interval_bytes: 64 * 1024, ..ReceiverConfig::default() };
        let opened = Log::open_on(self.stream_disk.open(), self.log_config())
            .map_err(|error| error.to_string())
            .and_then(|(log, _)| Receiver::open(log, "stream", config).map_err(|error| error.to_string()));
        let (receiver, driver, replayed) = match opened {
            Ok(opened) => opened,
            Err(_) if trouble => return Ok(None),
            Err(error) => return Err(format!("the receiver does not open: {error}")),
        };
        if !replayed.damaged.is_empty() {
            return Err(format!("the stream is damaged: {:?}", replayed.damaged));
        }
        // What a source was told is there.
        for source in &self.sources {
            let source = source.borrow();
            let id = seawall::SourceId::new(&source.name).expect("a name");
            let durable = receiver.source(&id).map_or(0, |status| status.durable.get());
            if durable < source.told {
                return Err(format!("{} was told {}, {durable} are there", source.name, source.told));
            }
        }
        let outcome = Rc::new(RefCell::new(None));
        let told = outcome.clone();
        let driver: Task = Box::pin(async move {
            let ended = driver.run().await;
            *told.borrow_mut() = Some(format!("{ended:?}"));
        });
        let tasks = self.sources.iter().map(|_| None).collect();
        Ok(Some(Front { receiver, driver: Some(driver), outcome, tasks }))
    }

    fn source_step(&mut self, front: &mut Front, trouble: bool) {
        let i = self.rng.below(self.sources.len() as u64) as usize;
        if trouble && self.rng.one_in(12) && front.tasks[i].take().is_some() {
            self.seen.note("source cut off");
        }
        if front.tasks[i].is_none() {
            let (receiver, source) = (front.receiver.clone(), self.sources[i].clone());
            let chunk = 1 + self.rng.below(8);
            front.tasks[i] = Some(Box::pin(send(receiver, source, chunk)));
        }
        poll(&mut front.tasks[i]);
    }

    // --- the driver's side -----------------------------------------------------------------------------------------

    fn open_back(&mut self, front: &Front, trouble: bool) -> Result<Option<Back>, String> {
        let config = LedgerConfig { checkpoint_interval_bytes: 4096, ..LedgerConfig::default() };
        let opened = Log::open_on(self.ledger_disk.open(), self.log_config())
            .map_err(|error| error.to_string())
            .and_then(|(log, _)| {
                self.ledger_disk.pump();
                Ledger::open(log, config).map_err(|error| error.to_string())
            });
        match opened {
            Ok((ledger, _)) => self.attach(Back { ledger, pending: Vec::new() }, front),
            Err(_) if trouble => Ok(None),
            Err(error) => Err(format!("the ledger does not open: {error}")),
        }
    }

    fn attach(&mut self, back: Back, front: &Front) -> Result<Option<Back>, String> {
        match back.ledger.add_stream("stream", front.receiver.clone()) {
            Ok(_) => {}
            Err(
                error @ (seawall::node::LedgerError::StreamDamaged { .. }
                | seawall::node::LedgerError::OtherInput { .. }),
            ) => {
                return Err(format!("the stream is not what was allocated: {error}"));
            }
            Err(_) => return Ok(None),
        }
        self.output.claim(back.ledger.id(), false).map_err(|error| format!("the ledger is another one: {error}"))?;
        let pending = back.ledger.pending();
        Ok(Some(Back { pending, ..back }))
    }

    /// Allocates, runs, stores or commits. False when the driver has failed and must be opened again.
    fn driver_step(&mut self, back: &mut Back, trouble: bool) -> Result<bool, String> {
        if self.rng.one_in(20) {
            self.seen.note("checkpoints");
            return Ok(back.ledger.checkpoint().is_ok());
        }
        if back.pending.is_empty() || self.rng.one_in(4) {
            let records_max = if self.rng.one_in(2) { u64::MAX } else { 1 + self.rng.below(10) };
            return match back.ledger.allocate(&BatchLimits { records_max, ..BatchLimits::default() }) {
                Ok(batch) => {
                    back.pending.extend(batch);
                    Ok(true)
                }
                Err(_) => Ok(false),
            };
        }
        // In any order.
        let i = self.rng.below(back.pending.len() as u64) as usize;
        let batch = back.pending[i].clone();
        let rows = match read(&batch) {
            Ok(rows) => rows,
            Err(_) if trouble => return Ok(true),
            Err(error) => return Err(format!("batch {} cannot be read: {error}", batch.id())),
        };
        if self.rng.one_in(4) {
            self.seen.note("batches read again");
            if read(&batch).is_ok_and(|again| again != rows) {
                return Err(format!("batch {} reads differently again", batch.id()));
            }
        }
        if trouble && self.rng.one_in(10) {
            self.seen.note("store failed");
            self.output.fails = Some(self.rng.one_in(2));
        }
        if self.mode == Mode::DriverRepeats && self.rng.one_in(8) {
            let key = back.ledger.key(seawall::BatchId::new(batch.id().get() + 1_000));
            let _ = self.output.store(key, rows.clone());
        }
        let stored = match self.output.store(batch.key(), rows) {
            _ if self.mode == Mode::DriverSkips && self.rng.one_in(8) => {
                self.output.batches.remove(&batch.id());
                bytes::Bytes::new()
            }
            Ok(stored) => stored.token().clone(),
            // It stays pending, and is stored again.
            Err(_) => return Ok(true),
        };
        if trouble && self.rng.one_in(8) {
            // The engine forgets to commit for now.
            return Ok(true);
        }
        let first = back.ledger.with_state(|state| state.inputs().next().map(|(_, input)| input.trimmed));
        let done = back.ledger.commit(batch.id(), stored);
        back.pending.remove(i);
        if first != back.ledger.with_state(|state| state.inputs().next().map(|(_, input)| input.trimmed))
            || first > Some(0)
        {
            self.seen.note("streams trimmed");
        }
        Ok(done.is_ok())
    }

    fn is_done(&self, back: Option<&Back>) -> bool {
        let Some(back) = back else { return false };
        let all_told = self.sources.iter().all(|source| source.borrow().told == source.borrow().total);
        all_told && back.pending.is_empty() && back.ledger.pending().is_empty() && {
            let state =
                back.ledger.with_state(|state| state.inputs().map(|(_, input)| input.records_settled).sum::<u64>());
            state >= self.sources.iter().map(|source| source.borrow().total).sum()
        }
    }
}

/// Sends some of what comes next; told when it is durable.
async fn send(receiver: Receiver<SimStorage>, source: Rc<RefCell<Source>>, chunk: u64) {
    let (name, total) = (source.borrow().name.clone(), source.borrow().total);
    let Ok(mut session) = receiver.local(&name).await else { return };
    let resume = session.resume().get();
    {
        let mut source = source.borrow_mut();
        source.told = source.told.max(resume);
    }
    let records: Vec<Vec<u8>> = (resume + 1..=total.min(resume + chunk)).map(|seq| record(&name, seq)).collect();
    if let Ok(stored) = session.store(&records).await {
        let mut source = source.borrow_mut();
        source.told = source.told.max(stored.last.get());
    }
}

fn read(batch: &Batch<SimStorage>) -> Result<Vec<Row>, String> {
    let records = batch.read().map_err(|error| error.to_string())?;
    records
        .map(|record| {
            let record = record.map_err(|error| error.to_string())?;
            let source = record.source.map_or_else(String::new, |source| source.to_string());
            Ok((source, record.seq.get(), record.record.to_vec()))
        })
        .collect()
}

fn poll(task: &mut Option<Task>) {
    let mut context = Context::from_waker(Waker::noop());
    if task.as_mut().is_some_and(|task| task.as_mut().poll(&mut context).is_ready()) {
        *task = None;
    }
}
