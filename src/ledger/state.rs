//! What follows from the ledger's events. [`State::apply`] is the one transition, live and at replay.
//!
//! What always holds, whoever calls in whatever order, because [`State::check`] refuses the rest:
//! - *gapless*: a part's range begins where its last one ended, or behind what an operator dropped;
//! - *once*: a batch is committed or abandoned once, and its content never changes;
//! - *trim after commit*: nothing is given up that is not in a settled batch;
//! - *committed* is the gap-free prefix: a batch that is done while an older one is pending counts when that one is done.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::event::{Envelope, Event, TEXT_BYTES_MAX};
use super::range::{Identity, InputKind, PartKey, Range};
use crate::types::{Ballot, BatchId, InputId, LedgerId};

/// So many batches are remembered after they are settled.
pub(super) const RECENT_MAX: usize = 100;

/// A ledger, up to some event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub(super) ledger: Option<LedgerId>,
    pub(super) ballot: Ballot,
    pub(super) inputs: BTreeMap<InputId, Input>,
    pub(super) last_input: InputId,
    /// Allocated, and not in the settled prefix.
    pub(super) batches: BTreeMap<BatchId, Batch>,
    pub(super) allocated: BatchId,
    pub(super) settled: BatchId,
    pub(super) recent: VecDeque<Settled>,
}

/// An input, and how far its parts are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// What it is.
    pub kind: InputKind,
    /// What it is recognized by.
    pub identity: Identity,
    /// Its name.
    pub name: Bytes,
    /// Its parts. Of a stream one, with the empty key.
    pub parts: BTreeMap<PartKey, PartState>,
    /// Everything up to this position may be gone.
    pub trimmed: u64,
    /// Nothing of it goes into batches any more, until it is added again.
    pub is_removed: bool,
    /// Records in batches so far.
    pub records_allocated: u64,
    /// Of these, in batches of the settled prefix: committed or abandoned.
    pub records_settled: u64,
    /// Records that an operator gave up: in batches that were abandoned, or dropped before they were in one.
    pub records_lost: u64,
}

/// How far a part is. Positions are the next one, not the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartState {
    /// What people call it.
    pub label: Bytes,
    /// Everything below is in a batch, or dropped.
    pub allocated: u64,
    /// Of the last range.
    pub digest: u64,
    /// Everything below is in the gap-free prefix of settled batches.
    pub committed: u64,
    /// Ranges in batches that are not settled.
    pub(super) outstanding: u32,
}

/// A batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its content, in order.
    pub ranges: Vec<Range>,
    /// When it was allocated: of the driver's clock, µs since the Unix epoch.
    pub allocated_micros: u64,
    /// How it is.
    pub status: BatchStatus,
}

impl Batch {
    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.records))
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.bytes))
    }
}

/// How a batch is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchStatus {
    /// Its output is not known to be there.
    Pending,
    /// Its output is there.
    Committed {
        /// What the output said.
        token: Bytes,
        /// When, µs since the Unix epoch.
        micros: u64,
    },
    /// Given up by an operator.
    Abandoned {
        /// Why.
        reason: Bytes,
        /// When, µs since the Unix epoch.
        micros: u64,
    },
}

/// A batch of the gap-free prefix, in short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Which.
    pub batch: BatchId,
    /// How it ended.
    pub status: BatchStatus,
    /// When it was allocated, µs since the Unix epoch.
    pub allocated_micros: u64,
    /// How many ranges it had.
    pub ranges: u64,
    /// How many records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An event that the ledger's invariants forbid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// There is a ledger already, or none yet.
    #[error("{0}")]
    Order(&'static str),
    /// A ballot that no driver began with.
    #[error("ballot {ballot} writes without having begun; the last driver has {known}")]
    Ballot {
        /// The event's.
        ballot: Ballot,
        /// The newest driver's.
        known: Ballot,
    },
    /// No such input.
    #[error("input {0} is not there")]
    NoInput(InputId),
    /// The name is taken, or the number is not the next.
    #[error("input {input} ({name}) cannot be added: {what}")]
    InputTaken {
        /// Its number.
        input: InputId,
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Batches of the input are pending.
    #[error("input {input}, part {part}: its batches are not settled")]
    Outstanding {
        /// Which input.
        input: InputId,
        /// Which part.
        part: PartKey,
    },
    /// No such part, or it is there already.
    #[error("input {input}: part {part} {what}")]
    Part {
        /// Which input.
        input: InputId,
        /// Which part.
        part: PartKey,
        /// What is wrong.
        what: &'static str,
    },
    /// Not the next batch.
    #[error("batch {batch} does not follow batch {last}")]
    NotNext {
        /// The event's.
        batch: BatchId,
        /// The last one allocated.
        last: BatchId,
    },
    /// A range does not begin where the last one ended, or is empty.
    #[error("input {input}, part {part}: a range {from}..{to} cannot follow: the next position is {expected}")]
    Gap {
        /// Which input.
        input: InputId,
        /// Which part.
        part: PartKey,
        /// Where it begins.
        from: u64,
        /// Where it ends.
        to: u64,
        /// Where it ought to begin.
        expected: u64,
    },
    /// The batch is settled, or was never allocated.
    #[error("batch {0} is not pending")]
    NotPending(BatchId),
    /// Not everything up to there is in settled batches.
    #[error("input {input} cannot be trimmed up to {upto}: only what is below {committed} is committed")]
    TrimBeforeCommit {
        /// Which input.
        input: InputId,
        /// How far.
        upto: u64,
        /// How far it may be.
        committed: u64,
    },
}

impl State {
    /// The ledger's identity, once there is one.
    #[must_use]
    pub fn ledger(&self) -> Option<LedgerId> {
        self.ledger
    }

    /// The newest driver's ballot.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The inputs.
    pub fn inputs(&self) -> impl Iterator<Item = (InputId, &Input)> {
        self.inputs.iter().map(|(id, input)| (*id, input))
    }

    /// One input.
    #[must_use]
    pub fn input(&self, id: InputId) -> Option<&Input> {
        self.inputs.get(&id)
    }

    /// The input with this name.
    #[must_use]
    pub fn input_named(&self, name: &str) -> Option<(InputId, &Input)> {
        self.inputs().find(|(_, input)| input.name == name.as_bytes())
    }

    /// The number the next input gets.
    #[must_use]
    pub fn next_input(&self) -> InputId {
        self.last_input.next()
    }

    /// Batches behind the settled prefix, oldest first: pending, and done before an older one.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = (BatchId, &Batch)> + DoubleEndedIterator {
        self.batches.iter().map(|(id, batch)| (*id, batch))
    }

    /// A batch behind the settled prefix.
    #[must_use]
    pub fn batch(&self, id: BatchId) -> Option<&Batch> {
        self.batches.get(&id)
    }

    /// The last batches of the settled prefix, oldest first.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Settled> {
        self.recent.iter()
    }

    /// The last batch that was allocated.
    #[must_use]
    pub fn allocated(&self) -> BatchId {
        self.allocated
    }

    /// The end of the gap-free prefix of batches that are committed or abandoned.
    #[must_use]
    pub fn settled(&self) -> BatchId {
        self.settled
    }

    /// Whether an event may happen now.
    ///
    /// # Errors
    /// [`Broken`] says why not.
    pub fn check(&self, event: &Event) -> Result<(), Broken> {
        match event {
            // Twice with one name: two drivers found it empty. The later one has taken over, as by `DriverBegan`.
            Event::LedgerCreated { ledger } if self.ledger.is_some_and(|known| known != *ledger) => {
                return Err(Broken::Order("a ledger is created once"));
            }
            Event::LedgerCreated { .. } => return Ok(()),
            _ if self.ledger.is_none() => return Err(Broken::Order("a ledger begins with its creation")),
            Event::DriverBegan | Event::Checkpoint { .. } => {}
            Event::InputAdded { input, name, kind, identity, start, .. } => {
                self.check_input(*input, name, *kind, *identity, *start)?;
            }
            Event::InputAdopted { input, identity } => {
                let known = self.inputs.get(input).ok_or(Broken::NoInput(*input))?;
                self.check_identity(*input, &known.name, *identity)?;
            }
            Event::InputRemoved { input } => {
                let known = self.known(*input)?;
                if let Some((part, _)) = known.parts.iter().find(|(_, part)| part.outstanding > 0) {
                    return Err(Broken::Outstanding { input: *input, part: part.clone() });
                }
            }
            Event::PartsForgotten { input, parts } => self.check_forgotten(*input, parts)?,
            Event::BatchAllocated { batch, ranges } => {
                if *batch != self.allocated.next() {
                    return Err(Broken::NotNext { batch: *batch, last: self.allocated });
                }
                self.check_ranges(ranges)?;
            }
            Event::BatchCommitted { batch, .. } | Event::BatchAbandoned { batch, .. } => {
                if self.batches.get(batch).is_none_or(|known| known.status != BatchStatus::Pending) {
                    return Err(Broken::NotPending(*batch));
                }
            }
            Event::RangeDropped { range, .. } => self.check_ranges(std::slice::from_ref(range))?,
            Event::Trimmed { input, upto } => {
                let known = self.known(*input)?;
                let committed = known.parts.get(&PartKey::default()).map_or(0, |part| part.committed);
                if *upto >= committed {
                    return Err(Broken::TrimBeforeCommit { input: *input, upto: *upto, committed });
                }
            }
        }
        Ok(())
    }

    /// What follows from an event. True when it counts: one of a driver that a later one has taken over from does not.
    ///
    /// # Errors
    /// [`Broken`]; nothing has changed then.
    pub fn apply(&mut self, envelope: &Envelope) -> Result<bool, Broken> {
        let Envelope { ballot, time_micros, event } = envelope;
        let begins = matches!(event, Event::LedgerCreated { .. } | Event::DriverBegan);
        if *ballot < self.ballot {
            return Ok(false);
        }
        if *ballot > self.ballot && !begins {
            return Err(Broken::Ballot { ballot: *ballot, known: self.ballot });
        }
        self.check(event)?;
        self.ballot = *ballot;
        match event {
            Event::LedgerCreated { ledger } => self.ledger = Some(*ledger),
            Event::DriverBegan | Event::Checkpoint { .. } => {}
            Event::InputAdded { input, kind, identity, name, start, digest } => {
                let mut parts = BTreeMap::new();
                if *kind == InputKind::Stream {
                    parts.insert(PartKey::default(), PartState::new(name.clone(), *start, *digest));
                }
                let trimmed = start.saturating_sub(1);
                self.inputs.insert(*input, Input::new(*kind, *identity, name.clone(), parts, trimmed));
                self.last_input = *input;
            }
            Event::InputAdopted { input, identity } => {
                let known = self.input_mut(*input);
                (known.identity, known.is_removed) = (*identity, false);
            }
            // Its positions stay: whoever adds it again must not get its records again.
            Event::InputRemoved { input } => self.input_mut(*input).is_removed = true,
            Event::PartsForgotten { input, parts } => {
                let known = self.input_mut(*input);
                parts.iter().for_each(|part| drop(known.parts.remove(part)));
            }
            Event::BatchAllocated { batch, ranges } => {
                for range in ranges {
                    let input = self.input_mut(range.input);
                    input.records_allocated = input.records_allocated.saturating_add(range.records);
                    input.advance(range).outstanding += 1;
                }
                let status = BatchStatus::Pending;
                let batch_of = Batch { ranges: ranges.clone(), allocated_micros: *time_micros, status };
                self.batches.insert(*batch, batch_of);
                self.allocated = *batch;
                self.settle();
            }
            Event::BatchCommitted { batch, token } => {
                self.end(*batch, BatchStatus::Committed { token: token.clone(), micros: *time_micros });
            }
            Event::BatchAbandoned { batch, reason } => {
                self.end(*batch, BatchStatus::Abandoned { reason: reason.clone(), micros: *time_micros });
            }
            Event::RangeDropped { range, .. } => {
                let input = self.input_mut(range.input);
                input.records_lost = input.records_lost.saturating_add(range.records);
                input.advance(range).catch_up();
            }
            Event::Trimmed { input, upto } => {
                let input = self.input_mut(*input);
                input.trimmed = input.trimmed.max(*upto);
            }
        }
        Ok(true)
    }

    // --- checks ----------------------------------------------------------------------------------------------------

    fn known(&self, input: InputId) -> Result<&Input, Broken> {
        self.inputs.get(&input).filter(|known| !known.is_removed).ok_or(Broken::NoInput(input))
    }

    /// One thing under two names would be in batches twice.
    fn check_identity(&self, input: InputId, name: &[u8], identity: Identity) -> Result<(), Broken> {
        let is_other = |(id, known): (&InputId, &Input)| *id != input && known.identity == identity;
        if identity == Identity::default() || !self.inputs.iter().any(is_other) {
            return Ok(());
        }
        let what = "it is an input already, under another name";
        Err(Broken::InputTaken { input, name: name.escape_ascii().to_string(), what })
    }

    fn check_input(
        &self,
        input: InputId,
        name: &[u8],
        kind: InputKind,
        identity: Identity,
        start: u64,
    ) -> Result<(), Broken> {
        self.check_identity(input, name, identity)?;
        let what = if input != self.last_input.next() {
            "its number is not the next one"
        } else if name.is_empty() {
            "it has no name"
        } else if name.len() > TEXT_BYTES_MAX {
            "its name is longer than 1024 bytes"
        } else if self.inputs.values().any(|known| known.name == name) {
            "its name is taken"
        } else if kind == InputKind::Stream && start == 0 {
            "a stream begins at Lsn 1"
        } else {
            return Ok(());
        };
        Err(Broken::InputTaken { input, name: name.escape_ascii().to_string(), what })
    }

    fn check_forgotten(&self, input: InputId, parts: &[PartKey]) -> Result<(), Broken> {
        let known = self.known(input)?;
        for part in parts {
            let wrong = |what| Broken::Part { input, part: part.clone(), what };
            if known.kind == InputKind::Stream {
                return Err(wrong("is a stream's, and stays as long as it does"));
            }
            let state = known.parts.get(part).ok_or_else(|| wrong("is not there"))?;
            if state.outstanding > 0 {
                return Err(Broken::Outstanding { input, part: part.clone() });
            }
        }
        Ok(())
    }

    fn check_ranges(&self, ranges: &[Range]) -> Result<(), Broken> {
        // Where parts would be after the ranges before.
        let mut moved: HashMap<(InputId, &PartKey), u64> = HashMap::new();
        for range in ranges {
            let Range { input, part, from, to, .. } = range;
            let known = self.known(*input)?;
            let wrong = |what| Broken::Part { input: *input, part: part.clone(), what };
            let at = moved.get(&(*input, part)).copied();
            let expected = match at.or_else(|| known.parts.get(part).map(|part| part.allocated)) {
                Some(_) if range.opens.is_some() => return Err(wrong("is there already")),
                Some(expected) => expected,
                None if known.kind == InputKind::Stream => return Err(wrong("is no stream's")),
                None if range.opens.is_none() => return Err(wrong("is not there")),
                None => *from,
            };
            if *from != expected || to <= from {
                let (input, part, from, to) = (*input, part.clone(), *from, *to);
                return Err(Broken::Gap { input, part, from, to, expected });
            }
            moved.insert((*input, part), *to);
        }
        Ok(())
    }

    // --- transitions -----------------------------------------------------------------------------------------------

    fn input_mut(&mut self, input: InputId) -> &mut Input {
        self.inputs.get_mut(&input).expect("checked")
    }

    fn end(&mut self, batch: BatchId, status: BatchStatus) {
        self.batches.get_mut(&batch).expect("checked").status = status;
        self.settle();
    }

    /// Moves the end of the gap-free prefix.
    fn settle(&mut self) {
        while let Some(entry) = self.batches.first_entry()
            && entry.get().status != BatchStatus::Pending
        {
            let (id, batch) = entry.remove_entry();
            self.settled = id;
            let is_lost = matches!(batch.status, BatchStatus::Abandoned { .. });
            for range in &batch.ranges {
                let input = self.input_mut(range.input);
                input.records_settled = input.records_settled.saturating_add(range.records);
                input.records_lost = input.records_lost.saturating_add(if is_lost { range.records } else { 0 });
                let part = input.parts.get_mut(&range.part).expect("outstanding parts stay");
                part.committed = range.to;
                part.outstanding -= 1;
                part.catch_up();
            }
            let (records, bytes) = (batch.records(), batch.bytes());
            let Batch { ranges, allocated_micros, status } = batch;
            let ranges = ranges.len() as u64;
            self.recent.push_back(Settled { batch: id, status, allocated_micros, ranges, records, bytes });
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
    }
}

impl Input {
    pub(super) fn new(
        kind: InputKind,
        identity: Identity,
        name: Bytes,
        parts: BTreeMap<PartKey, PartState>,
        trimmed: u64,
    ) -> Input {
        Input {
            kind,
            identity,
            name,
            parts,
            trimmed,
            is_removed: false,
            records_allocated: 0,
            records_settled: 0,
            records_lost: 0,
        }
    }

    /// The only part of a stream.
    #[must_use]
    pub fn stream(&self) -> Option<&PartState> {
        self.parts.get(&PartKey::default()).filter(|_| self.kind == InputKind::Stream)
    }

    fn advance(&mut self, range: &Range) -> &mut PartState {
        let label = || range.opens.clone().unwrap_or_default();
        let part =
            self.parts.entry(range.part.clone()).or_insert_with(|| PartState::new(label(), range.from, range.digest));
        (part.allocated, part.digest) = (range.to, range.digest);
        part
    }
}

impl PartState {
    pub(super) fn new(label: Bytes, at: u64, digest: u64) -> PartState {
        PartState { label, allocated: at, digest, committed: at, outstanding: 0 }
    }

    /// No batch that is not settled holds anything of it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.outstanding == 0
    }

    /// What was dropped behind the last batch counts as committed when nothing before it is outstanding.
    fn catch_up(&mut self) {
        if self.outstanding == 0 {
            self.committed = self.allocated;
        }
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
