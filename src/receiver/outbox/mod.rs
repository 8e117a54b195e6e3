//! The sending end: records that are not acknowledged yet, and from where to go on after a reconnect. Pure.
//!
//! The transport feeds it messages and sends what [`Outbox::poll_output`] gives. A connection may end at any moment: after
//! [`Outbox::disconnected`] and [`Outbox::connect`] everything that was not durable is sent again, from where the receiver
//! says. Records leave the outbox when the watermark the source waits for has passed them.

mod link;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Code, Message, Reject, Sequences, WaitFor};
use crate::types::{Lsn, Secret, Seq, SourceEpoch, SourceId};

/// Passages of lost records remembered until somebody asks; the last one grows over all that comes then.
const LOST_MAX: usize = 64;

/// A SEND's body is counted in 32 bits, and holds a record's header besides.
const RECORD_BYTES_MAX: u64 = u32::MAX as u64 - 64;

/// Who sends, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxConfig {
    /// The source's name; may be absent without sequences.
    pub source: Option<SourceId>,
    /// Its life; 0: take the next.
    pub epoch: SourceEpoch,
    /// The stream's name; empty: the receiver's only one.
    pub stream: String,
    /// Proof of the right to send.
    pub token: Secret,
    /// How records are numbered.
    pub sequences: Sequences,
    /// What counts as done.
    pub wait_for: WaitFor,
    /// The highest sequence this source was ever told to be durable ([`Positions::told_durable`]), if it has kept that. Only
    /// with sequences: without them every life counts anew.
    pub told_durable: Seq,
    /// Bytes of records held until they are acknowledged. Default 64 MiB.
    pub held_bytes_max: u64,
    /// A SEND is at most this long, or an eighth longer with all there is, if the receiver takes it. Default 256 KiB.
    pub send_bytes: u64,
}

impl Default for OutboxConfig {
    fn default() -> OutboxConfig {
        OutboxConfig {
            source: None,
            epoch: SourceEpoch::ZERO,
            stream: String::new(),
            token: Secret::default(),
            sequences: Sequences::Dense,
            wait_for: WaitFor::Durable,
            told_durable: Seq::ZERO,
            held_bytes_max: 64 << 20,
            send_bytes: 256 << 10,
        }
    }
}

/// How far the source's records have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Given to the outbox.
    pub pushed: Seq,
    /// In the receiver's memory; may go back with a reconnect.
    pub received: Seq,
    /// Everything up to here is on the stream's devices, but for what was skipped or rejected. Stays before the first
    /// records that were lost ([`Outbox::take_lost`]).
    pub durable: Seq,
    /// What the receiver calls durable: also the SKIP over what was lost. Keep it for [`OutboxConfig::told_durable`].
    pub told_durable: Seq,
    /// In committed batches, or given up by an operator, on the record; not beyond lost records either.
    pub committed: Seq,
    /// How far the stream was durable then.
    pub durable_lsn: Lsn,
    /// From the first to the last record that was ever lost; [`Outbox::take_lost`] tells of those between that were not.
    pub lost: Option<Lost>,
}

/// Records of a source that waits for `received`: let go of as it wants, and not known to the receiver when it welcomed the
/// source again. Lost, unless it still had them in its memory then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The sequence before the first one.
    pub previous: Seq,
    /// The last one.
    pub to: Seq,
}

impl Positions {
    /// The position a source that waits for this counts.
    #[must_use]
    pub fn of(&self, wait_for: WaitFor) -> Seq {
        match wait_for {
            WaitFor::Received => self.received,
            WaitFor::Durable => self.durable,
            WaitFor::Committed => self.committed,
        }
    }
}

/// Why the outbox does not take a record, or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// As much is held as may be; wait for acknowledgments.
    #[error("{held_bytes} bytes wait for acknowledgments, the limit is {limit_bytes}")]
    Full {
        /// What is held.
        held_bytes: u64,
        /// `held_bytes_max`.
        limit_bytes: u64,
    },
    /// Sequences must be as agreed.
    #[error("sequence {seq} does not follow {last}: dense sequences go up by one, sparse ones go up")]
    Sequence {
        /// What was given.
        seq: Seq,
        /// The last one.
        last: Seq,
    },
    /// The receiver has not said yet where to go on: a record counted from anywhere else could be taken for another.
    #[error("no WELCOME yet: what the next sequence is, the receiver says")]
    NotWelcomed,
    /// The receiver, or any message, will never take it.
    #[error("a record of {bytes} bytes; the receiver takes {limit_bytes}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The receiver's limit.
        limit_bytes: u64,
    },
    /// The receiver has less than this source was told: acknowledged records are lost. Nothing is sent before somebody
    /// decides.
    #[error(
        "the receiver told us that records up to {told} were durable, and now has them up to {durable} only: {text}"
    )]
    AckedLoss {
        /// What we were told.
        told: Seq,
        /// What there is.
        durable: Seq,
        /// The receiver's words.
        text: String,
    },
    /// The receiver goes on behind records this outbox no longer, or not yet, holds.
    #[error("the receiver goes on behind {resume}, and the records from there to {first_held} are not held any more")]
    Missing {
        /// Where the receiver goes on.
        resume: Seq,
        /// The first record that is held.
        first_held: Seq,
    },
    /// The receiver ended the session for a reason that a reconnect does not mend.
    #[error("the receiver refuses ({code:?}): {text}")]
    Refused {
        /// Why.
        code: Code,
        /// Where.
        at: Seq,
        /// In words.
        text: String,
    },
    /// The receiver does not keep to the protocol.
    #[error("the receiver does not keep to the protocol: {0}")]
    Protocol(String),
}

/// What to do with the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutboxOutput {
    /// Send this.
    Message(Message),
    /// Close it and connect again, after this long and perhaps elsewhere.
    Reconnect {
        /// How long the receiver asks to wait; the transport's backoff comes on top.
        after: Duration,
        /// Where to, if not the same place.
        address: Option<String>,
    },
    /// Everything is said and done.
    Close,
}

#[derive(Debug)]
struct Held {
    /// Behind which sequence.
    previous: Seq,
    seq: Seq,
    /// `None`: skipped.
    record: Option<Bytes>,
}

#[derive(Debug)]
enum Link {
    Down,
    Greeting,
    Up(Agreed),
    /// Something was said that only a new connection can mend.
    Ending(OutboxOutput),
}

#[derive(Debug)]
struct Agreed {
    credit_bytes: u64,
    sent_bytes: u64,
    frame_bytes_max: u64,
    frame_records_max: u32,
    heartbeat: Duration,
    heard: Instant,
    pinged: bool,
    pong: Option<u64>,
    ping_due: bool,
    is_bye_said: bool,
    /// The receiver asked for patience before anything is sent again.
    patient_until: Option<Instant>,
    /// Without sequences: the session counts from 0 at this record.
    base: Seq,
}

/// The sending end of one source.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    link: Link,
    epoch: SourceEpoch,
    held: VecDeque<Held>,
    held_bytes: u64,
    /// What the receiver takes, as the last WELCOME said it; before, what a message carries.
    record_bytes_max: u64,
    /// How many of `held` this connection has sent.
    sent: usize,
    positions: Positions,
    rejects: Vec<Reject>,
    rejects_seen: Seq,
    /// Not asked for yet.
    lost: Vec<Lost>,
    is_welcomed_once: bool,
    /// How far the first WELCOME said that this source had come.
    welcomed_at: Seq,
    /// The highest sequence that was ever put into a SEND or a SKIP.
    sent_max: Seq,
    is_closing: bool,
    /// Done or failed: no connection would change anything.
    is_over: bool,
    failed: Option<OutboxError>,
    resent: u64,
    /// Where the receiver said to go on: what it has of an earlier life's records may lie between two of this one's. Until
    /// it says something else: what it had only in its memory it may lose.
    resume_behind: Seq,
}

impl Outbox {
    /// Nothing sent yet. Records are taken once the first WELCOME has said where to begin.
    #[must_use]
    pub fn new(config: OutboxConfig) -> Outbox {
        let told_durable = if config.sequences == Sequences::None { Seq::ZERO } else { config.told_durable };
        Outbox {
            epoch: config.epoch,
            positions: Positions { durable: told_durable, told_durable, ..Positions::default() },
            config,
            link: Link::Down,
            held: VecDeque::new(),
            held_bytes: 0,
            record_bytes_max: RECORD_BYTES_MAX,
            sent: 0,
            rejects: Vec::new(),
            rejects_seen: Seq::ZERO,
            lost: Vec::new(),
            is_welcomed_once: false,
            welcomed_at: Seq::ZERO,
            sent_max: Seq::ZERO,
            is_closing: false,
            is_over: false,
            failed: None,
            resent: 0,
            resume_behind: Seq::ZERO,
        }
    }

    /// How far the records have come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// What counts as done.
    #[must_use]
    pub fn wait_for(&self) -> WaitFor {
        self.config.wait_for
    }

    /// The source's life, once the receiver has said it.
    #[must_use]
    pub fn epoch(&self) -> SourceEpoch {
        self.epoch
    }

    /// Whether a WELCOME has ever said where to begin.
    #[must_use]
    pub fn is_welcomed(&self) -> bool {
        self.is_welcomed_once
    }

    /// Whether messages can be sent now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Bytes of records that are not acknowledged.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Records that were sent more than once.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Why nothing goes on any more.
    #[must_use]
    pub fn failure(&self) -> Option<&OutboxError> {
        self.failed.as_ref()
    }

    /// Records the receiver keeps as rejects that were not taken yet.
    #[must_use]
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// Records the receiver keeps as rejects, told once each. They are not told again once the receiver knows that
    /// they were seen.
    pub fn take_rejects(&mut self) -> Vec<Reject> {
        let rejects = std::mem::take(&mut self.rejects);
        if let Some(last) = rejects.iter().map(|reject| reject.seq).max() {
            self.rejects_seen = self.rejects_seen.max(last);
            if let Link::Up(agreed) = &mut self.link {
                agreed.ping_due = true;
            }
        }
        rejects
    }

    /// Records that were lost at most once, told once each, in their order. Only with sequences, and only when the source
    /// waits for `received`. Of more than 64 passages that nobody asked for the last one also holds what lies between.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    // --- records ---------------------------------------------------------------------------------------------------

    /// Takes the next record and returns its sequence (dense, or none: the outbox counts).
    ///
    /// # Errors
    /// See [`OutboxError`]; [`OutboxError::Full`] passes, the others do not.
    pub fn push(&mut self, record: Bytes) -> Result<Seq, OutboxError> {
        if !self.is_welcomed_once && self.config.sequences != Sequences::None {
            return Err(self.failed.clone().unwrap_or(OutboxError::NotWelcomed));
        }
        let last = self.positions.pushed;
        let next = last.checked_add(1).ok_or(OutboxError::Sequence { seq: last, last })?;
        self.push_at(next, record)
    }

    /// Takes a record with its sequence.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub fn push_at(&mut self, seq: Seq, record: Bytes) -> Result<Seq, OutboxError> {
        let step = seq.since(self.positions.pushed);
        let fits = match self.config.sequences {
            Sequences::Dense | Sequences::None => step == 1,
            Sequences::Sparse => step > 0,
        };
        if !fits {
            return Err(OutboxError::Sequence { seq, last: self.positions.pushed });
        }
        let (bytes, limit_bytes) = (record.len() as u64, self.record_bytes_max);
        if bytes > limit_bytes {
            return Err(OutboxError::TooLarge { bytes, limit_bytes });
        }
        self.check_room(bytes)?;
        // A step that a record cannot carry is told as a SKIP before it.
        if self.config.sequences == Sequences::Sparse && step > u64::from(u32::MAX) {
            self.hold(Seq::new(seq.get() - 1), None);
        }
        self.hold(seq, Some(record));
        // The receiver may have it from an earlier life.
        self.let_go();
        Ok(seq)
    }

    /// The sequences up to `to` will never come.
    ///
    /// # Errors
    /// [`OutboxError::Sequence`] without sequences or when records up to there were given already.
    pub fn skip(&mut self, to: Seq) -> Result<(), OutboxError> {
        if self.config.sequences == Sequences::None || to <= self.positions.pushed {
            return Err(OutboxError::Sequence { seq: to, last: self.positions.pushed });
        }
        self.check_room(0)?;
        self.hold(to, None);
        self.let_go();
        Ok(())
    }

    fn check_room(&self, bytes: u64) -> Result<(), OutboxError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (held_bytes, limit_bytes) = (self.held_bytes, self.config.held_bytes_max);
        if held_bytes > 0 && held_bytes + cost(bytes) > limit_bytes {
            return Err(OutboxError::Full { held_bytes, limit_bytes });
        }
        Ok(())
    }

    fn hold(&mut self, seq: Seq, record: Option<Bytes>) {
        self.held_bytes += cost(record.as_ref().map_or(0, |record| record.len() as u64));
        self.held.push_back(Held { previous: self.positions.pushed, seq, record });
        self.positions.pushed = seq;
    }

    /// Says goodbye once everything is acknowledged.
    pub fn close(&mut self) {
        self.is_closing = true;
    }
}

/// What holding a record costs.
fn cost(bytes: u64) -> u64 {
    bytes + 64
}
