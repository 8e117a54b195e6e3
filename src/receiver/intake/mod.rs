//! The receiving end, for one stream: sessions in, blocks to the log, acknowledgments out. Pure: it is told the time,
//! what was received, and how far the log is durable, and it says what to send and what to append.
//!
//! ```text
//!            handle ─► hello / send ─► builder ─► take_block ─► (log) ─► placed
//! session ◄── poll_output ◄─────────── Sources::apply ◄────────────────── durable
//! ```
//!
//! Nothing is acknowledged as durable but from [`Intake::durable`], which applies the very ranges that are in the blocks.

mod blocks;
mod connections;
mod hello;
mod lone;
mod send;
mod session;
mod snapshot;
mod upkeep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Instant;

use super::block::{Range, RangeKind};
use super::budget::Budget;
use super::builder::{Builder, Draft, Part};
use super::config::ReceiverConfig;
use super::message::{Code, Message, Nack};
use super::sources::{SourceRef, Sources};
use crate::types::{Ballot, Lsn, Seq, SourceEpoch, SourceId};
use lone::Lone;
pub use send::{Oversized, RecordCheck};
use session::Sessions;
pub use session::{SessionKey, SessionOutput};
use snapshot::Snapshots;

/// The receiving end of one stream.
pub struct Intake {
    config: ReceiverConfig,
    stream: String,
    check: Option<RecordCheck>,
    sources: Sources,
    sessions: Sessions,
    /// Which session a source belongs to now.
    attached: HashMap<SourceRef, SessionKey>,
    /// Sources whose epoch a gateway's session has begun, since the receiver was opened.
    of_gateways: HashSet<SourceRef>,
    /// Sessions that have something to say.
    noisy: Vec<SessionKey>,
    builder: Builder,
    /// With the log, and not yet placed.
    taken: Option<Draft>,
    /// The log had no room for it.
    returned: Option<Draft>,
    flight: VecDeque<Flight>,
    lone: Lone,
    budget: Budget,
    /// The driver of batches that is obeyed, and whether the rate is one's.
    driver: Ballot,
    is_rate_of_driver: bool,
    snapshots: Snapshots,
    durable_lsn: Lsn,
    committed_lsn: Lsn,
    draining: Option<Draining>,
    /// Nothing more is taken, for this reason.
    ending: Option<String>,
    /// The log failed: nothing is acknowledged any more.
    failed: Option<String>,
    is_full: bool,
    /// The last time it was told.
    clock: Option<Instant>,
    stats: IntakeStats,
}

/// A block in the log.
#[derive(Debug)]
struct Flight {
    lsn: Lsn,
    parts: Vec<Part>,
    ends_snapshot: Option<Lsn>,
}

#[derive(Debug)]
struct Draining {
    /// `None`: for as long as sessions go on.
    until: Option<Instant>,
    text: String,
}

/// Whether a message may be read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reservation {
    /// Yes; its bytes are charged.
    Granted,
    /// Not before [`Intake::is_granted`]; the session is listed by [`Intake::poll_noisy`] then.
    Waiting,
}

/// Why a connection is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub Nack);

/// What was counted since the receiver was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct IntakeStats {
    /// Sessions at this moment.
    pub sessions: u64,
    /// Sources known.
    pub sources: u64,
    /// Bytes charged at this moment: read or being read, and not durable.
    pub charged_bytes: u64,
    /// Records put into blocks.
    pub records: u64,
    /// Their payload bytes, headers included.
    pub payload_bytes: u64,
    /// Blocks given to the log.
    pub blocks: u64,
    /// Records that had been received before.
    pub duplicates: u64,
    /// SENDs that did not continue their source's sequence.
    pub gaps: u64,
    /// Sessions taken over by a newer one of the same source.
    pub replaced: u64,
    /// Sources that were told something to be durable that is not here.
    pub acked_losses: u64,
    /// Records kept as rejects.
    pub rejected: u64,
    /// Records dropped at the wish of a source that waits for nothing durable.
    pub dropped: u64,
    /// Sessions ended because of something they said.
    pub refused: u64,
    /// Sessions ended because nothing was heard.
    pub timed_out: u64,
}

/// How far a source has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// Its name.
    pub id: SourceId,
    /// Its life.
    pub epoch: SourceEpoch,
    /// In memory.
    pub received: Seq,
    /// On the stream's devices.
    pub durable: Seq,
    /// In committed batches.
    pub committed: Seq,
    /// It may not come back.
    pub retired: bool,
    /// A session of it is open.
    pub is_connected: bool,
    /// Rejects it has not taken note of.
    pub rejects_unseen: usize,
}

impl Intake {
    /// For a stream that is durable up to `durable`, whose blocks gave `sources`, and of which `replay_from` is where
    /// its newest block says that a replay begins, `replayed_bytes` ago.
    #[must_use]
    pub fn new(
        config: ReceiverConfig,
        stream: impl Into<String>,
        sources: Sources,
        durable: Lsn,
        replay_from: Lsn,
        replayed_bytes: u64,
    ) -> Intake {
        Intake {
            stream: stream.into(),
            check: None,
            sources,
            sessions: Sessions::default(),
            attached: HashMap::new(),
            of_gateways: HashSet::new(),
            noisy: Vec::new(),
            builder: Builder::new(usize::try_from(config.block_bytes_max).unwrap_or(usize::MAX)),
            taken: None,
            returned: None,
            flight: VecDeque::new(),
            lone: Lone::default(),
            budget: Budget::new(config.in_flight_bytes_max),
            driver: Ballot::ZERO,
            is_rate_of_driver: false,
            snapshots: Snapshots::new(
                config.snapshot_interval_bytes,
                config.block_bytes_max,
                replay_from,
                replayed_bytes,
            ),
            durable_lsn: durable,
            committed_lsn: Lsn::ZERO,
            draining: None,
            ending: None,
            failed: None,
            is_full: false,
            clock: None,
            stats: IntakeStats::default(),
            config,
        }
    }

    /// Asks `check` about every record; what it refuses is poison, with its words as the reason.
    #[must_use]
    pub fn with_check(mut self, check: RecordCheck) -> Intake {
        self.check = Some(check);
        self
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &ReceiverConfig {
        &self.config
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> IntakeStats {
        IntakeStats {
            sessions: self.sessions.len() as u64,
            sources: self.sources.len() as u64,
            charged_bytes: self.budget.charged_bytes(),
            ..self.stats
        }
    }

    /// Every source, connected or not.
    pub fn sources(&self) -> impl Iterator<Item = SourceStatus> + '_ {
        self.sources.refs().map(|at| self.status_of(at))
    }

    /// One source.
    #[must_use]
    pub fn source(&self, id: &SourceId) -> Option<SourceStatus> {
        self.sources.find(id.as_bytes()).map(|at| self.status_of(at))
    }

    fn status_of(&self, at: SourceRef) -> SourceStatus {
        let source = &self.sources[at];
        SourceStatus {
            id: source.id.clone(),
            epoch: source.epoch,
            received: source.accepted,
            durable: source.durable,
            committed: source.committed,
            retired: source.retired,
            is_connected: self.attached.contains_key(&at),
            rejects_unseen: source.unseen().len(),
        }
    }
}

/// What was charged for the message at hand and belongs to nobody yet.
#[derive(Debug)]
struct Charge {
    bytes: u64,
}

impl Charge {
    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

fn nack(code: Code, at: Seq, expected: Seq, retry_after_millis: u32, text: String) -> Nack {
    Nack { code, at, expected, retry_after_millis, fatal: false, text }
}

fn range_of(source: &super::sources::Source, kind: RangeKind, previous: Seq, last: Seq) -> Range {
    Range {
        kind,
        source: Some(source.id.clone()),
        epoch: source.epoch,
        sequences: source.sequences,
        records: 0,
        previous,
        last,
    }
}

fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "HELLO",
        Message::Welcome(_) => "WELCOME",
        Message::Redirect { .. } => "REDIRECT",
        Message::Send(_) => "SEND",
        Message::Skip { .. } => "SKIP",
        Message::Ack(_) => "ACK",
        Message::Nack(_) => "NACK",
        Message::Ping { .. } => "PING",
        Message::Pong { .. } => "PONG",
        Message::GoAway { .. } => "GOAWAY",
        Message::Bye => "BYE",
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("stream", &self.stream).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
