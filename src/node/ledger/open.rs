//! Replay, taking over, and inputs attached.

use std::sync::Arc;

use parking_lot::Mutex;

use super::config::LedgerConfig;
use super::error::LedgerError;
use super::port::StreamPort;
use super::settle::Pace;
use super::write::{Writer, append, checkpoint_bytes, log_bytes};
use super::{Inner, Ledger, Source, now, now_micros};
use crate::config::WhenFull;
use crate::error::Error;
use crate::io::{Storage, random};
use crate::ledger::{BatchStatus, Envelope, Event, Identity, Input, InputKind, Replay, ReplayError, Replayable};
use crate::log::Log;
use crate::node::replay::is_passed_over;
use crate::types::{Ballot, InputId, LedgerId, Lsn, LsnRange, Promise};

/// A replay begins anew so often when events are given up meanwhile.
const LOOKS_MAX: u32 = 20;

/// A log for a ledger takes records of so many bytes: an event of one range, a name or a reason.
const EVENT_BYTES_MIN: u64 = 4096;

/// What opening a ledger found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// There was no ledger, and one was created.
    pub created: bool,
    /// Events that were read.
    pub events: u64,
    /// Of these, written by drivers that had been taken over from, and without effect.
    pub fenced_events: u64,
    /// The frames they stood in.
    pub lsns: LsnRange,
    /// Batches that wait for their commit.
    pub pending: usize,
}

impl<S: Storage> Ledger<S> {
    /// Takes over the ledger in `log`, or creates one in an empty log. A driver that had it before is fenced.
    ///
    /// # Errors
    /// [`LedgerError::Replay`] when the log holds something else or is damaged, [`LedgerError::OfAnother`],
    /// [`LedgerError::Config`], and the log's.
    pub fn open(log: Log<S>, config: LedgerConfig) -> Result<(Ledger<S>, Opened), LedgerError> {
        Ledger::open_watched(log, config, &|_, _| {})
    }

    /// As [`Ledger::open`], told the events replayed and how many there are.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_watched(
        log: Log<S>,
        config: LedgerConfig,
        watch: &dyn Fn(u64, u64),
    ) -> Result<(Ledger<S>, Opened), LedgerError> {
        config.validate()?;
        check_log(&log)?;
        let (mut replay, mut begin, end) = replay_beside_a_driver(&log, watch)?;
        let created = replay.state().ledger().is_none();
        // Where its events were given up by somebody else, a ledger would begin again under the same name.
        if created && log.first() > Lsn::FIRST {
            let source = ReplayError::NoBeginning { lsn: log.first() };
            return Err(LedgerError::Replay { log: log.describe(), source });
        }
        let [proposer, _] = random().map_err(|source| Error::io("draw a ballot for", log.describe(), source))?;
        // A ledger is named as its log is: what an empty log has promised to another name, it has promised as its stream.
        let ledger = replay.state().ledger().unwrap_or(LedgerId::new(log.id().get()));
        let promised = log.promised();
        if let Some(promise) = promised.filter(|promise| created && promise.ledger != ledger) {
            return Err(LedgerError::OfAnother { log: log.describe(), ledger: promise.ledger });
        }
        let promised = promised.map_or(Ballot::ZERO, |promise| promise.ballot);
        let ballot = promised.max(replay.state().ballot()).above(proposer as u64);
        log.promise(Promise { ledger, ballot })?;
        let event = if created { Event::LedgerCreated { ledger } } else { Event::DriverBegan };
        let began = append(&log, &[Envelope { ballot, time_micros: now_micros(), event }], ballot)?;
        if let Some(refused) = began.refused {
            return Err(refused.into());
        }
        // What the driver before wrote until then counts. It may also have written its state down anew, and given up the
        // events before that; now it is fenced, and does so no more.
        match fold(&log, &mut replay, end.next(), began.last, watch) {
            Err(LedgerError::Log(Error::Trimmed { .. })) => {
                (replay, begin, _) = replay_beside_a_driver(&log, watch)?;
            }
            folded => folded?,
        }
        let opened = Opened {
            created,
            events: replay.events(),
            fenced_events: replay.fenced(),
            lsns: LsnRange::inclusive(begin, began.last),
            pending: replay.state().batches().filter(|(_, batch)| batch.status == BatchStatus::Pending).count(),
        };
        let (events, bytes) = replay.since_checkpoint();
        let state = replay.into_state();
        let bytes = log_bytes(events, bytes);
        let writer = Writer { bytes, checkpoint_bytes: checkpoint_bytes(&state), ..Writer::default() };
        let pace = Mutex::new(Pace::new(&config, now()));
        let inner = Inner {
            log,
            ledger,
            ballot,
            config,
            state: Mutex::new(state),
            writer: Mutex::new(writer),
            planner: Mutex::new(()),
            sources: Mutex::default(),
            silent: Mutex::default(),
            pace,
        };
        // Short lives would never get there otherwise.
        inner.checkpoint_if_due(&mut inner.writer.lock());
        Ok((Ledger { inner: Arc::new(inner) }, opened))
    }

    /// Attaches a stream under this name: the first time its records go into batches from its first frame on, after a
    /// restart it goes on where it was.
    ///
    /// # Errors
    /// [`LedgerError::OtherInput`] when the name was another stream's, [`LedgerError::StreamDamaged`] when it does not hold
    /// what was allocated, [`LedgerError::Stream`] when that cannot be read for now, or the claim not be written down, and when
    /// the stream obeys another ledger or a later driver ([`Error::OtherLedger`], [`Error::Fenced`]).
    pub fn add_stream(&self, input: &str, port: impl StreamPort + 'static) -> Result<InputId, LedgerError> {
        let inner = &self.inner;
        let _planning = inner.planner.lock();
        let identity = Identity(port.id().get());
        // Before it is claimed: another ledger's stream must not become ours by a wrong name.
        let known = inner.recognize(input, InputKind::Stream, identity)?;
        if known.is_none() {
            inner.check_new(input, InputKind::Stream, identity)?;
        }
        let claimed = port.claim(Promise { ledger: inner.ledger, ballot: inner.ballot });
        claimed.map_err(|source| LedgerError::Stream { name: input.to_owned(), source })?;
        let id = match known {
            Some((id, known)) => {
                check_stream(input, &known, &port)?;
                inner.come_back(id, &known)?;
                id
            }
            None => {
                let (first, _) = port.bounds();
                let start = first.max(Lsn::FIRST);
                let digest = known_chain(input, &port, start.previous())?;
                inner.add(input, InputKind::Stream, identity, start.get(), digest)?
            }
        };
        inner.attach(id, Source::Stream(Arc::new(port)));
        Ok(id)
    }

    /// Attaches an input that can be read again.
    ///
    /// # Errors
    /// [`LedgerError::OtherInput`] when the name was another input's; [`LedgerError::Input`].
    pub fn add_input(&self, input: &str, source: Arc<dyn Replayable>) -> Result<InputId, LedgerError> {
        let inner = &self.inner;
        let _planning = inner.planner.lock();
        let identity = source.identity().map_err(|source| LedgerError::Input { name: input.to_owned(), source })?;
        let id = match inner.recognize(input, InputKind::Replayable, identity)? {
            Some((id, known)) => {
                inner.come_back(id, &known)?;
                id
            }
            None => inner.add(input, InputKind::Replayable, identity, 0, 0)?,
        };
        inner.attach(id, Source::Replayable(source));
        Ok(id)
    }

    /// An operator's word that what is there under this name now is the same input, although it is not recognized (a
    /// directory that was moved to another disk with its files' identities). Add it afterwards.
    ///
    /// # Errors
    /// [`LedgerError::NoInput`]; a failure to write it down.
    pub fn adopt_input(&self, input: &str, identity: Identity) -> Result<(), LedgerError> {
        let _planning = self.inner.planner.lock();
        let id = self.inner.known(input)?;
        self.inner.write(vec![Event::InputAdopted { input: id, identity }])
    }

    /// Stops an input of which no batch is pending. How far it was is kept: added again under its name, it goes on there.
    ///
    /// # Errors
    /// [`LedgerError::NoInput`], [`LedgerError::Broken`] while batches of it are pending.
    pub fn remove_input(&self, input: &str) -> Result<(), LedgerError> {
        let _planning = self.inner.planner.lock();
        let id = self.inner.known(input)?;
        self.inner.write(vec![Event::InputRemoved { input: id }])?;
        let source = self.inner.sources.lock().remove(&id);
        if let (Some(Source::Stream(port)), true) = (source, self.inner.config.rate.is_some()) {
            port.set_rate(self.inner.ballot, None)?;
        }
        Ok(())
    }

    /// Writes the state down anew and gives up the events before it: what the ledger does by itself now and then.
    ///
    /// # Errors
    /// The log's.
    pub fn checkpoint(&self) -> Result<(), LedgerError> {
        self.inner.checkpoint_now()
    }
}

impl<S: Storage> Inner<S> {
    pub(super) fn known(&self, input: &str) -> Result<InputId, LedgerError> {
        let state = self.state.lock();
        let found = state.input_named(input).map(|(id, _)| id);
        found.ok_or_else(|| LedgerError::NoInput { name: input.to_owned() })
    }

    fn recognize(
        &self,
        input: &str,
        kind: InputKind,
        identity: Identity,
    ) -> Result<Option<(InputId, Input)>, LedgerError> {
        let state = self.state.lock();
        let Some((id, known)) = state.input_named(input) else { return Ok(None) };
        if known.kind != kind || known.identity != identity {
            return Err(LedgerError::OtherInput { name: input.to_owned(), known: known.identity, found: identity });
        }
        Ok(Some((id, known.clone())))
    }

    fn add(
        &self,
        input: &str,
        kind: InputKind,
        identity: Identity,
        start: u64,
        digest: u64,
    ) -> Result<InputId, LedgerError> {
        let id = self.state.lock().next_input();
        let name = input.as_bytes().to_vec().into();
        self.write(vec![Event::InputAdded { input: id, kind, identity, name, start, digest }])?;
        Ok(id)
    }

    fn come_back(&self, id: InputId, known: &Input) -> Result<(), LedgerError> {
        if known.is_removed {
            self.write(vec![Event::InputAdopted { input: id, identity: known.identity }])?;
        }
        Ok(())
    }

    fn attach(&self, id: InputId, source: Source) {
        self.silent.lock().remove(&id);
        self.sources.lock().insert(id, source.clone());
        if let Source::Stream(port) = source {
            self.tell_stream_or_later(id, &*port);
        }
    }

    /// Whether a name may be added, before anything is claimed for it.
    fn check_new(&self, input: &str, kind: InputKind, identity: Identity) -> Result<(), LedgerError> {
        let state = self.state.lock();
        let (id, name) = (state.next_input(), input.as_bytes().to_vec().into());
        Ok(state.check(&Event::InputAdded { input: id, kind, identity, name, start: 1, digest: 0 })?)
    }
}

/// A stream must hold everything that was allocated of it, and begin no later than what is to be allocated.
fn check_stream(input: &str, known: &Input, port: &impl StreamPort) -> Result<(), LedgerError> {
    let damaged = |what: String| Err(LedgerError::StreamDamaged { name: input.to_owned(), what });
    let Some(part) = known.stream() else { return damaged("the ledger knows no position of it".to_owned()) };
    let (first, durable) = port.bounds();
    let last = Lsn::new(part.allocated).previous();
    if durable < last {
        return damaged(format!("it ends at frame {durable}, and everything up to {last} was allocated"));
    }
    if first > last.next() {
        return damaged(format!(
            "it begins at frame {first}, and nothing behind {last} was in a batch: it was trimmed"
        ));
    }
    match port.chain_at(last) {
        // Behind what was dropped unread the chain was not known.
        Ok(chain) if chain.get() == part.digest || part.digest == 0 => Ok(()),
        Ok(chain) => damaged(format!("frame {last} has chain {chain}, {:016x} was allocated", part.digest)),
        // Trimmed exactly there, where the chain could not be read; or damage that a batch which needs it will tell.
        Err(Error::Trimmed { .. }) => Ok(()),
        Err(error) if error.is_damage() || matches!(error, Error::Quarantined { .. }) => Ok(()),
        Err(source) => Err(LedgerError::Stream { name: input.to_owned(), source }),
    }
}

/// The chain at a position; 0 where the frame is gone, or cannot be read.
pub(super) fn known_chain(name: &str, port: &dyn StreamPort, lsn: Lsn) -> Result<u64, LedgerError> {
    match port.chain_at(lsn) {
        Ok(chain) => Ok(chain.get()),
        Err(Error::Trimmed { .. } | Error::Quarantined { .. }) => Ok(0),
        Err(error) if error.is_damage() => Ok(0),
        Err(source) => Err(LedgerError::Stream { name: name.to_owned(), source }),
    }
}

/// Everything there is. A driver that is still at work may write its state down anew and give up what is being read.
fn replay_beside_a_driver<S: Storage>(
    log: &Log<S>,
    watch: &dyn Fn(u64, u64),
) -> Result<(Replay, Lsn, Lsn), LedgerError> {
    for looks in 1.. {
        let (mut replay, begin, end) = (Replay::default(), log.first(), log.flushed());
        match fold(log, &mut replay, begin, end, watch) {
            Err(LedgerError::Log(Error::Trimmed { .. })) if looks < LOOKS_MAX => {}
            folded => return folded.map(|()| (replay, begin, end)),
        }
    }
    unreachable!("the last look returns")
}

/// What trims by itself would trim events; what waits for room that only the ledger makes would wait for ever.
fn check_log<S: Storage>(log: &Log<S>) -> Result<(), LedgerError> {
    let of_log = log.config();
    if of_log.when_full == WhenFull::DropOldest || of_log.retain_for.is_some() || of_log.retain_bytes.is_some() {
        let problem =
            "of the log would trim the ledger's events behind its back: the ledger trims them itself".to_owned();
        return Err(LedgerError::Config { field: "when_full, retain_for or retain_bytes", problem });
    }
    if of_log.record_bytes_max < EVENT_BYTES_MIN {
        let problem = format!("of the log is {}: an event may take {EVENT_BYTES_MIN}", of_log.record_bytes_max);
        return Err(LedgerError::Config { field: "record_bytes_max", problem });
    }
    if of_log.when_full == WhenFull::Block && of_log.byte_limit.is_some() {
        let problem =
            "of the log is to wait at its byte limit for room that only the ledger itself makes: use reject".to_owned();
        return Err(LedgerError::Config { field: "when_full", problem });
    }
    Ok(())
}

pub(super) fn fold<S: Storage>(
    log: &Log<S>,
    replay: &mut Replay,
    from: Lsn,
    to: Lsn,
    watch: &dyn Fn(u64, u64),
) -> Result<(), LedgerError> {
    let from = from.max(Lsn::FIRST);
    let total = to.since(from.previous());
    for frame in log.range(LsnRange::inclusive(from, to)) {
        let taken = match frame {
            Ok(frame) => replay.frame(frame.lsn, &frame.payload).map(|()| frame.lsn),
            Err(error) => match error.lsns() {
                Some(lsns) if is_passed_over(&error) => Err(ReplayError::Unreadable { lsns, what: error.to_string() }),
                _ => return Err(error.into()),
            },
        };
        let lsn = taken.map_err(|source| LedgerError::Replay { log: log.describe(), source })?;
        watch(lsn.since(from.previous()), total);
    }
    Ok(())
}
