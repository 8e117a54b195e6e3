//! The receiver of one stream: its intake, its stream, and who is woken by what.
//!
//! Whoever brings something in also carries what it caused to the log: sessions append blocks themselves, one at a time.
//! The [`Driver`] does what nobody is there for: it hears from the log what is durable, tells the intake, and tries again
//! what the log had no room for.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::ReceiverError;
use super::park::{Alarm, block_on};
use super::replay::{Replayed, is_passed_over, read_block, replay};
use super::session::Session;
use super::stream::{NoRoom, Stream, append};
use crate::codec::Checksummed;
use crate::error::Error;
use crate::io::{Disk, Storage};
use crate::log::Log;
use crate::receiver::{
    Block, Intake, IntakeStats, Nack, ReceiverConfig, RecordCheck, Refusal, SessionKey, SourceStatus,
};
use crate::types::{Lsn, LsnRange, Seq, SourceId};

/// How long until a block is offered again that the log had no room for, when nothing else is on its way.
const RETRY_BUSY: Duration = Duration::from_millis(1);
const RETRY_FULL: Duration = Duration::from_millis(200);

/// Sources that are told of a commit in one go: sessions go on in between.
const POSITIONS_AT_ONCE: usize = 4096;

/// Takes records from sources, and acknowledges them when the stream says that they are durable. Cheap to clone.
///
/// ```
/// use seawall::node::Receiver;
/// use seawall::receiver::ReceiverConfig;
/// use seawall::{Config, Log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let (log, _) = Log::open(dir.path(), Config::default())?;
/// let (receiver, driver, _) = Receiver::open(log.clone(), "clicks", ReceiverConfig::default())?;
/// let thread = driver.spawn()?;                       // or `driver.run().await` on any executor
/// let mut source = receiver.local_blocking("connector-1")?;
/// let stored = source.store_blocking(&["one", "two"])?;    // durable when it returns
/// assert_eq!(stored.last.get(), 2);
/// drop(source);
/// receiver.shut_down();
/// thread.join()?;
/// log.close(std::time::Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
pub struct Receiver<S: Storage = Disk> {
    pub(super) inner: Arc<Inner<S>>,
}

impl<S: Storage> Clone for Receiver<S> {
    fn clone(&self) -> Self {
        Receiver { inner: self.inner.clone() }
    }
}

pub(super) struct Inner<S: Storage> {
    pub(super) state: Mutex<State>,
    stream: Mutex<Stream<S>>,
    log: Log<S>,
    /// The driver's task.
    task: Mutex<Option<Waker>>,
    /// What the log's completions wake: goes on to `task`.
    waker: Waker,
    is_shut_down: AtomicBool,
    /// As [`Receiver::set_lone_writes`] says.
    lone_writes: AtomicBool,
    /// Wakes the driver.
    alarm: Alarm,
    /// What was committed before this receiver was opened has been told from what comes behind it.
    is_derived: AtomicBool,
    /// Why the log has no room for the block that waits.
    full: Mutex<Option<Error>>,
    stream_name: String,
}

/// The intake, and the tasks that wait for its sessions.
pub(super) struct State {
    pub(super) intake: Intake,
    wakers: Vec<Option<Waker>>,
    failure: Option<ReceiverError>,
}

impl State {
    /// Has `waker` woken when the session has something to say.
    pub(super) fn listen(&mut self, key: SessionKey, waker: &Waker) {
        let at = key.index();
        if self.wakers.len() <= at {
            self.wakers.resize(at + 1, None);
        }
        match &mut self.wakers[at] {
            Some(known) if known.will_wake(waker) => {}
            place => *place = Some(waker.clone()),
        }
    }

    pub(super) fn forget(&mut self, key: SessionKey) {
        if let Some(place) = self.wakers.get_mut(key.index()) {
            *place = None;
        }
    }

    /// Why nothing is acknowledged any more.
    pub(super) fn failure(&self) -> Option<ReceiverError> {
        self.failure.clone()
    }

    fn take_noisy(&mut self, wakers: &mut Vec<Waker>) {
        while let Some(key) = self.intake.poll_noisy() {
            wakers.extend(self.wakers.get_mut(key.index()).and_then(Option::take));
        }
    }
}

/// Passes a wake on to the driver's task.
struct WakeDriver<S: Storage>(Weak<Inner<S>>);

impl<S: Storage> Wake for WakeDriver<S> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(inner) = self.0.upgrade() {
            inner.wake_driver();
        }
    }
}

/// What a receiver has counted, with its stream's positions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReceiverStats {
    /// Sessions, records, refusals.
    pub intake: IntakeStats,
    /// How far the stream is durable.
    pub durable: Lsn,
    /// Nothing is acknowledged any more, for this reason.
    pub failure: Option<String>,
}

impl<S: Storage> Receiver<S> {
    /// Opens the receiver of the stream in `log`, whose name is `stream`. Reads back what sources have sent: at most
    /// about [`ReceiverConfig::snapshot_interval_bytes`] (or four times what the sources themselves take). Waits until
    /// everything that was appended to the log is durable; a receiver that was open on it before must have ended, with its
    /// sessions.
    ///
    /// The [`Driver`] has to run for anything to be acknowledged.
    ///
    /// # Errors
    /// [`ReceiverError::NotABlock`] when something else wrote the log, [`ReceiverError::StateLost`] when it was trimmed
    /// behind the receiver's back, [`ReceiverError::StateDamaged`] when frames cannot be read that tell what sources sent, [`ReceiverError::Config`], and the log's errors.
    pub fn open(
        log: Log<S>,
        stream: impl Into<String>,
        config: ReceiverConfig,
    ) -> Result<(Receiver<S>, Driver<S>, Replayed), ReceiverError> {
        Receiver::open_with(log, stream, config, None, &|_, _| {})
    }

    /// As [`Receiver::open`], with a check that every record must pass, and told the frames replayed and how many there
    /// are.
    ///
    /// # Errors
    /// As [`Receiver::open`].
    pub fn open_with(
        log: Log<S>,
        stream: impl Into<String>,
        config: ReceiverConfig,
        check: Option<RecordCheck>,
        watch: &dyn Fn(u64, u64),
    ) -> Result<(Receiver<S>, Driver<S>, Replayed), ReceiverError> {
        config.validate()?;
        let goes_with = config.validate_log(log.config());
        goes_with.map_err(|error| match error {
            Error::Config { field, problem } => ReceiverError::Config { field, problem },
            error => error.into(),
        })?;
        let found = replay(&log, config.accept_damage, watch)?;
        let stream_name = stream.into();
        let bytes = found.replayed.bytes;
        let mut intake =
            Intake::new(config, stream_name.clone(), found.sources, log.flushed(), found.replay_from, bytes);
        if let Some(check) = check {
            intake = intake.with_check(check);
        }
        // Behind it, the next open needs none of what was given up now.
        if !found.replayed.damaged.is_empty() {
            intake.request_snapshot(Lsn::MAX);
        }
        let inner = Arc::new_cyclic(|me: &Weak<Inner<S>>| Inner {
            state: Mutex::new(State { intake, wakers: Vec::new(), failure: None }),
            stream: Mutex::new(Stream::new(&log)),
            log,
            task: Mutex::new(None),
            waker: Waker::from(Arc::new(WakeDriver(me.clone()))),
            is_shut_down: AtomicBool::new(false),
            lone_writes: AtomicBool::new(false),
            alarm: Alarm::new({
                let me = me.clone();
                move || drop(me.upgrade().inspect(|inner| inner.wake_driver()))
            }),
            is_derived: AtomicBool::new(false),
            full: Mutex::new(None),
            stream_name,
        });
        Ok((Receiver { inner: inner.clone() }, Driver { inner }, found.replayed))
    }

    /// A connection was made: a session for the transport.
    ///
    /// # Errors
    /// What to answer before closing it.
    pub fn connect(&self) -> Result<Session<S>, Nack> {
        let key = self.inner.with(|intake, now| intake.connect(now)).map_err(|Refusal(nack)| nack)?;
        Ok(Session::new(self.inner.clone(), key))
    }

    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.inner.stream_name
    }

    /// The log under the stream.
    #[must_use]
    pub fn log(&self) -> &Log<S> {
        &self.inner.log
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> ReceiverConfig {
        self.inner.state.lock().intake.config().clone()
    }

    /// How far the stream is durable, as far as the receiver has heard and told its sources.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.inner.state.lock().intake.durable_lsn()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        let state = self.inner.state.lock();
        ReceiverStats {
            intake: state.intake.stats(),
            durable: self.inner.log.flushed(),
            failure: state.failure.as_ref().map(ToString::to_string),
        }
    }

    /// Every source. Takes the receiver's lock for as long as copying them takes: some 100 ns each.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.inner.state.lock().intake.sources().collect()
    }

    /// One source.
    #[must_use]
    pub fn source(&self, id: &SourceId) -> Option<SourceStatus> {
        self.inner.state.lock().intake.source(id)
    }

    /// Refuses a source from now on; durable once [`Receiver::source`] says that it is retired.
    ///
    /// # Errors
    /// [`ReceiverError::Refused`] for a source that never came.
    pub fn retire(&self, id: &SourceId) -> Result<(), ReceiverError> {
        self.inner.with(|intake, _| intake.retire(id)).map_err(|id| ReceiverError::Refused {
            code: crate::receiver::Code::Limit,
            at: Seq::ZERO,
            expected: Seq::ZERO,
            text: format!("{id} never came here"),
        })
    }

    /// Batches up to and including `lsn` are committed: sources that wait for it are told. Reads the blocks committed since
    /// the last call; the first time since the receiver was opened, and where one of those cannot be read or was trimmed,
    /// the blocks behind `lsn` instead: what is not there is committed.
    ///
    /// # Errors
    /// [`ReceiverError::NotDurable`] for an `lsn` beyond [`Receiver::durable`], of which nothing is told; the log's, and
    /// [`ReceiverError::NotABlock`]. Where a frame behind `lsn` cannot be read either, only what was read is
    /// told, and the next call tries again.
    pub fn committed(&self, lsn: Lsn) -> Result<(), ReceiverError> {
        let first = self.inner.log.first();
        let (before, durable) = {
            let state = self.inner.state.lock();
            (state.intake.committed_lsn(), state.intake.durable_lsn())
        };
        if lsn > durable {
            return Err(ReceiverError::NotDurable { lsn, durable, log: self.inner.log.describe() });
        }
        let read = || -> Result<_, ReceiverError> {
            let mut positions = HashMap::new();
            let is_whole = self.each_block(before.next().max(first), lsn, |block| {
                positions.extend(block.reached().map(|(id, seq)| (id.clone(), seq)));
            })?;
            Ok((positions, is_whole))
        };
        let follows = self.inner.is_derived.load(Ordering::Relaxed) && before.next() >= first;
        let (mut positions, is_told) = if follows { read()? } else { (HashMap::new(), false) };
        if !is_told {
            let derived = self.not_behind(lsn)?;
            self.inner.is_derived.store(derived.is_some(), Ordering::Relaxed);
            match derived {
                Some(derived) => positions = derived,
                None if follows => {}
                None => positions = read()?.0,
            }
        }
        let mut positions = positions.into_iter();
        loop {
            let some: Vec<_> = positions.by_ref().take(POSITIONS_AT_ONCE).collect();
            self.inner.with(|intake, _| intake.committed(lsn, some));
            if positions.len() == 0 {
                return Ok(());
            }
        }
    }

    /// How far every source has come up to `lsn`, by what comes behind it; `None` where that cannot be read: nobody knows
    /// whose records it holds.
    fn not_behind(&self, lsn: Lsn) -> Result<Option<HashMap<SourceId, Seq>>, ReceiverError> {
        let (known, durable): (Vec<_>, _) = {
            // In one look: what becomes durable behind it is neither among the blocks read nor in these positions.
            let state = self.inner.state.lock();
            let known = state.intake.sources().map(|source| (source.id, source.durable));
            (known.collect(), state.intake.durable_lsn())
        };
        let mut positions: HashMap<_, _> = known.into_iter().collect();
        let mut later = HashMap::new();
        let is_whole = self.each_block(lsn.next().max(self.inner.log.first()), durable, |block| {
            for (range, _) in block.sequenced() {
                later.entry(range.source.clone()).or_insert(range.previous);
            }
        })?;
        positions.extend(later.into_iter().filter_map(|(id, previous)| Some((id?, previous))));
        Ok(is_whole.then_some(positions))
    }

    /// False when some could not be read.
    fn each_block(&self, from: Lsn, to: Lsn, mut each: impl FnMut(&Block)) -> Result<bool, ReceiverError> {
        let mut is_whole = true;
        if from > to {
            return Ok(is_whole);
        }
        for frame in self.inner.log.range(LsnRange::inclusive(from, to)) {
            match frame {
                Ok(frame) => each(&read_block(&self.inner.log, frame.lsn, &frame.payload)?),
                // Trimmed meanwhile: it was committed.
                Err(error) if is_passed_over(&error) || matches!(error, Error::Trimmed { .. }) => is_whole = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(is_whole)
    }

    /// Gives up blocks up to `upto`, as far as they are not needed to know how far the sources have come; returns how far
    /// that was. What is held back goes with a later call: the sources are written down anew meanwhile.
    ///
    /// # Errors
    /// The log's.
    pub fn trim(&self, upto: Lsn) -> Result<Lsn, ReceiverError> {
        let bound = self.inner.with(|intake, _| {
            let bound = intake.trim_bound();
            if bound <= upto {
                intake.request_snapshot(upto);
            }
            bound
        });
        let upto = upto.min(bound.previous());
        if upto >= self.inner.log.first() {
            self.inner.log.trim(upto)?;
        }
        Ok(self.inner.log.first().previous())
    }

    /// Limits how many bytes a second are taken from all sources together. A message of which nothing is new does not count.
    pub fn set_rate(&self, bytes_per_second: Option<f64>) {
        self.inner.with(|intake, now| intake.set_rate(now, bytes_per_second));
    }

    /// Has blocks written to the device by the thread that brings them, a connection's or a local source's, while there is
    /// one session only, not a gateway's, whose source waits for each of its blocks before it sends on: nobody else has to be
    /// woken, which makes the acknowledgment some 20 to 40 µs faster (`DESIGN.md`, 15). That thread is blocked for as long as
    /// the device takes, and keeps none of that session's times meanwhile, its heartbeats among them: a program that allows
    /// it has other threads that go on, also where a device hangs. Idle workers of tokio do so only when something wakes
    /// them: have a thread of its own `spawn` an empty task now and then. Where such writes take over a millisecond, others do
    /// them again for a while. Off at first.
    pub fn set_lone_writes(&self, are_allowed: bool) {
        self.inner.lone_writes.store(are_allowed, Ordering::Relaxed);
    }

    /// Asks every source to finish, closes the sessions that are left after `within`, and takes no new ones. A
    /// [`LocalSource`](super::LocalSource) is neither asked nor closed: whoever has it ends it.
    pub fn drain(&self, within: Duration, text: &str) {
        self.inner.with(|intake, now| intake.drain(now, within, text));
    }

    /// Has the driver end once everything received is durable. Sessions still open are told of that; one that brings more is
    /// refused (`Draining`), and with the driver all end (`Unavailable`).
    pub fn shut_down(&self) {
        self.inner.with(|intake, _| intake.take_no_more("the receiver ends"));
        self.inner.is_shut_down.store(true, Ordering::Release);
        self.inner.wake_driver();
    }
}

impl<S: Storage> Inner<S> {
    /// Changes the intake, then does what follows: wakes who has something to say, gives blocks to the log, and has the
    /// driver let in whom only the rate keeps out now: not every session has a clock of its own.
    pub(super) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut Intake, Instant) -> R) -> R {
        let (result, block) = self.change(change);
        self.carry(block);
        result
    }

    /// As [`with`](Self::with), but for the block, which is the caller's to carry.
    fn change<R>(&self, change: impl FnOnce(&mut Intake, Instant) -> R) -> (R, Option<Vec<Checksummed>>) {
        let now = Instant::now();
        let mut wakers = Vec::new();
        let (result, block, next_admission) = {
            let mut state = self.state.lock();
            let result = change(&mut state.intake, now);
            state.take_noisy(&mut wakers);
            // What the log had no room for is the driver's to try again: not everybody's who passes by.
            let block = if state.intake.has_returned() { None } else { state.intake.take_block() };
            (result, block, state.intake.next_admission())
        };
        wakers.into_iter().for_each(Waker::wake);
        if let Some(at) = next_admission {
            self.wake_driver_at(at);
        }
        (result, block)
    }

    /// Wakes the driver at this moment, or before.
    pub(super) fn wake_driver_at(&self, at: Instant) {
        self.alarm.set(at);
    }

    /// Gives blocks to the log. Only one thread at a time has one: the intake gives no other meanwhile.
    fn carry(self: &Arc<Self>, mut block: Option<Vec<Checksummed>>) {
        while let Some(pieces) = block {
            let appended = append(&self.log, &pieces);
            // What was copied need not be held while others wait for the lock.
            drop(pieces);
            block = match appended {
                Ok(Ok(pending)) => {
                    // Placed before it is followed: the intake must know the block before it can hear that it is durable.
                    let mut wakers = Vec::new();
                    let (next, is_lone) = {
                        let mut state = self.state.lock();
                        state.intake.placed(pending.lsn());
                        state.take_noisy(&mut wakers);
                        (state.intake.take_block(), state.intake.is_lone())
                    };
                    wakers.into_iter().for_each(Waker::wake);
                    *self.full.lock() = None;
                    if next.is_none() && is_lone && self.lone_writes.load(Ordering::Relaxed) {
                        // Without a lock: all others may go on meanwhile.
                        let began = Instant::now();
                        pending.write_lone();
                        self.state.lock().intake.wrote_lone(began.elapsed());
                    }
                    let is_settled = self.stream.lock().follow(pending, &mut Context::from_waker(&self.waker));
                    // While the intake waits for the place of one block it gives no other.
                    if is_settled { next.or(self.hear_for_driver()) } else { next }
                }
                Ok(Err(no_room)) => {
                    let mut wakers = Vec::new();
                    let (full, after) = match no_room {
                        NoRoom::Busy => (None, RETRY_BUSY),
                        NoRoom::Full(error) => (Some(error), RETRY_FULL),
                    };
                    {
                        let mut state = self.state.lock();
                        state.intake.put_back(full.is_some());
                        state.take_noisy(&mut wakers);
                    }
                    *self.full.lock() = full;
                    wakers.into_iter().for_each(Waker::wake);
                    // What is on its way to the device wakes the driver by itself.
                    if self.stream.lock().is_idle() {
                        self.wake_driver_at(Instant::now() + after);
                    }
                    None
                }
                Err(error) => {
                    self.fail(error);
                    None
                }
            };
        }
    }

    /// Nothing is acknowledged any more: what the log did not confirm is unknown.
    fn fail(&self, error: Error) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            state.intake.fail(error.to_string());
            state.failure.get_or_insert(ReceiverError::Log(error));
            state.take_noisy(&mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        self.wake_driver();
    }

    fn wake_driver(&self) {
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn drive(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Result<(), ReceiverError>> {
        {
            let mut task = self.task.lock();
            if task.as_ref().is_none_or(|known| !known.will_wake(context.waker())) {
                *task = Some(context.waker().clone());
            }
        }
        loop {
            let heard = self.hear();
            let heard_nothing = heard.is_none();
            self.carry(heard.flatten());
            if let Some(failure) = self.state.lock().failure() {
                return Poll::Ready(Err(failure));
            }
            self.retry();
            if heard_nothing {
                self.with(|intake, now| intake.admit_waiting(now));
                return self.poll_end();
            }
        }
    }

    /// Asks the log how far the stream is durable. `None`: nothing is new; else the block that follows from it, if any.
    fn hear(&self) -> Option<Option<Vec<Checksummed>>> {
        let polled = self.stream.lock().poll_durable(&mut Context::from_waker(&self.waker));
        match polled {
            Poll::Ready(Ok(lsn)) => Some(self.change(|intake, now| intake.durable(now, lsn)).1),
            Poll::Ready(Err(error)) => {
                self.fail(error);
                Some(None)
            }
            Poll::Pending => None,
        }
    }

    /// The same, in the driver's place: where it waits for more than this, it is woken to look.
    fn hear_for_driver(&self) -> Option<Vec<Checksummed>> {
        let block = self.hear().flatten();
        // In this order: the driver looks at the flag first, and at the intake then.
        let has_returned = self.state.lock().intake.has_returned();
        if has_returned || self.is_shut_down.load(Ordering::Acquire) {
            self.wake_driver();
        }
        block
    }

    /// Offers the log again what it had no room for.
    fn retry(self: &Arc<Self>) {
        let block = {
            let mut state = self.state.lock();
            if state.intake.has_returned() { state.intake.take_block() } else { None }
        };
        self.carry(block);
    }

    /// Whether the driver has nothing left to do.
    fn poll_end(&self) -> Poll<Result<(), ReceiverError>> {
        if !self.is_shut_down.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let (is_settled, has_returned, is_under_way) = {
            let state = self.state.lock();
            (state.intake.is_settled(), state.intake.has_returned(), state.intake.is_under_way())
        };
        if is_settled {
            return Poll::Ready(Ok(()));
        }
        // What finds no space was never acknowledged as durable; waiting for space is not for who wants to end.
        let full = self.full.lock().clone().filter(|_| has_returned && !is_under_way);
        full.map_or(Poll::Pending, |error| Poll::Ready(Err(error.into())))
    }
}

/// Hears from the log what is durable, and has sources told. Nothing is acknowledged unless it runs.
#[must_use = "nothing is acknowledged unless the driver runs"]
pub struct Driver<S: Storage = Disk> {
    inner: Arc<Inner<S>>,
}

impl<S: Storage> Driver<S> {
    /// Runs until [`Receiver::shut_down`], on any executor.
    ///
    /// # Errors
    /// The log's, when it is poisoned: reopen it and the receiver.
    pub async fn run(self) -> Result<(), ReceiverError> {
        poll_fn(|context| self.inner.drive(context)).await
    }

    /// Runs on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(self) -> std::io::Result<DriverThread> {
        let name = "seawall-receiver".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || block_on(self.run()))?;
        Ok(DriverThread { thread })
    }
}

impl<S: Storage> Drop for Driver<S> {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        {
            let mut state = self.inner.state.lock();
            // Of a log that has failed nothing more is said.
            state.failure.get_or_insert(ReceiverError::Ended);
            state.intake.end_in_order(ReceiverError::Ended.to_string());
            state.take_noisy(&mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A driver on its thread.
#[derive(Debug)]
pub struct DriverThread {
    thread: JoinHandle<Result<(), ReceiverError>>,
}

impl DriverThread {
    /// Waits for it to end.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub fn join(self) -> Result<(), ReceiverError> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl<S: Storage> fmt::Debug for Receiver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("stream", &self.inner.stream_name).finish_non_exhaustive()
    }
}

impl<S: Storage> fmt::Debug for Driver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("stream", &self.inner.stream_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::config::Config;
    use crate::receiver::{Hello, Message, PayloadBuilder, Sequences, WaitFor};

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session that may send.
    fn open(inner: &Arc<Inner<Disk>>) -> SessionKey {
        let key = inner.with(|intake, now| intake.connect(now)).expect("a session");
        let (sequences, wait_for) = (Sequences::None, WaitFor::Received);
        let hello = Hello { version_min: 1, version_max: 1, sequences, wait_for, ..Hello::default() };
        inner.with(|intake, now| intake.handle(now, key, Message::Hello(hello)));
        assert!(inner.state.lock().intake.poll_output(key).is_some(), "it is welcomed");
        key
    }

    fn send(record: &[u8]) -> Message {
        let mut payload = PayloadBuilder::new(Sequences::None, Seq::ZERO);
        payload.push(Seq::new(1), record).expect("a record");
        Message::Send(payload.finish())
    }

    /// What finds no room while a block is not heard of has no timer: that block's end is to have it tried again. Its end may be
    /// heard in the driver's place, and wakes nobody then.
    #[test]
    fn who_hears_in_the_drivers_place_has_it_try_again_what_found_no_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let segment = 64 << 10;
        let config = Config {
            segment_bytes_min: segment,
            segment_bytes_max: segment,
            byte_limit: Some(4 * segment),
            ..Config::default()
        };
        let (log, _) = Log::open(dir.path(), config).expect("a log");
        let limits = ReceiverConfig { block_bytes_max: 16 << 10, frame_bytes_max: 16 << 10, ..Default::default() };
        let (receiver, _driver, _) = Receiver::open(log.clone(), "test", limits).expect("a receiver");
        let inner = &receiver.inner;
        let wakes = Arc::new(Counts::default());
        *inner.task.lock() = Some(Waker::from(wakes.clone()));
        let (first, second) = (open(inner), open(inner));
        // As `carry` does it, with all that comes between.
        let (_, block) = inner.change(|intake, now| intake.handle(now, first, send(b"first")));
        let pieces = block.expect("a block");
        let pending = loop {
            if let Ok(pending) = append(&log, &pieces).expect("the log is well") {
                break pending;
            }
        };
        inner.state.lock().intake.placed(pending.lsn());
        log.flush().expect("durable");
        assert!(inner.stream.lock().follow(pending, &mut Context::from_waker(Waker::noop())));
        // To the last byte.
        for length in [10_000, 1000, 100, 1] {
            while !matches!(log.try_append(&vec![0; length]), Err(Error::Full { .. })) {}
        }
        inner.with(|intake, now| intake.handle(now, second, send(b"second")));
        assert!(inner.state.lock().intake.has_returned());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        assert!(inner.hear_for_driver().is_none());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }
}
