//! What the next batch holds.
//!
//! Inputs take turns in being first: the first one takes at least one piece, whatever the limits. Each is offered a fair
//! share, then what the others left.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::batch::Batch;
use super::error::LedgerError;
use super::port::StreamPort;
use super::write::PIECE_BYTES_MAX;
use super::{Inner, InputStatus, Ledger, Source, name};
use crate::io::Storage;
use crate::ledger::{
    BatchLimits, Event, Input, InputKind, Latest, Part, PartKey, PartState, Parts, Plan, Range, Share, ranges_max,
};
use crate::node::replay::is_passed_over;
use crate::receiver::{Block, Gist};
use crate::types::{BatchId, InputId, Lsn, LsnRange};

/// Streams give up what is committed with every so-many-th batch, and when nothing comes: each time their sources are written
/// down anew.
const TRIM_EVERY_BATCHES: u64 = 8;

/// Blocks without records that wait for some to go with: no more than this.
const SILENT_BYTES_MAX: u64 = 16 << 20;
const SILENT_BLOCKS_MAX: u64 = 1000;

/// Only to see whether there are records.
const NO_ROOM: Share = Share { records: 0, bytes: 0, ranges: 0, takes_one: false };

impl<S: Storage> Ledger<S> {
    /// Allocates the next batch: durable when it returns. `None` when there is nothing new (unless
    /// [`BatchLimits::allow_empty`]). Inputs that are not attached wait.
    ///
    /// # Errors
    /// [`LedgerError::TooManyPending`], [`LedgerError::Unreadable`], [`LedgerError::Stream`], [`LedgerError::Input`]: nothing is allocated, and what
    /// there is stays there. [`LedgerError::Fenced`] and [`LedgerError::Failed`] end this driver.
    pub fn allocate(&self, limits: &BatchLimits) -> Result<Option<Batch<S>>, LedgerError> {
        let inner = &self.inner;
        let _planning = inner.planner.lock();
        // Also when there is nothing to write: "nothing new" from a driver that has ended would be a lie.
        inner.check_alive()?;
        let allocated = inner.write_next(limits);
        // Written down before anything goes, whatever became of what came behind it: that may wait for just this room. What a
        // stream held back is asked for again.
        inner.trim_streams();
        let Some((batch, ranges)) = allocated? else { return Ok(None) };
        inner.pace.lock().allocated(batch, super::now());
        Ok(Some(self.batch(batch, ranges)))
    }

    /// Every input: how far it is, and what is there that no batch holds.
    ///
    /// # Errors
    /// [`LedgerError::Input`].
    pub fn latest(&self) -> Result<Vec<InputStatus>, LedgerError> {
        let inner = &self.inner;
        let ids: Vec<InputId> = inner.state.lock().inputs().map(|(id, _)| id).collect();
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let source = inner.sources.lock().get(&id).cloned();
            let latest = match &source {
                None => None,
                Some(Source::Stream(port)) => Some(inner.stream_latest(id, &**port)),
                Some(Source::Replayable(source)) => {
                    let known = Known { inner, input: id };
                    Some(source.latest(&known).map_err(|e| inner.input_error(id, e))?)
                }
            };
            let state = inner.state.lock();
            let Some(input) = state.input(id) else { continue };
            all.push(InputStatus {
                input: id,
                name: name(&input.name),
                kind: input.kind,
                is_attached: source.is_some(),
                records_allocated: input.records_allocated,
                records_settled: input.records_settled,
                records_lost: input.records_lost,
                latest,
            });
        }
        Ok(all)
    }
}

/// What was planned for one batch.
#[derive(Default)]
struct Planned {
    ranges: Vec<Range>,
    gone: Vec<(InputId, Vec<PartKey>)>,
}

impl Planned {
    /// A stream's range goes on where its last one ended: the chain at its end tells all of it.
    fn push(&mut self, range: Range, is_stream: bool) {
        let continues = |last: &&mut Range| is_stream && last.input == range.input && last.to == range.from;
        match self.ranges.iter_mut().rev().find(continues) {
            Some(last) => {
                (last.to, last.digest) = (range.to, range.digest);
                last.records += range.records;
                last.bytes += range.bytes;
            }
            None => self.ranges.push(range),
        }
    }
}

/// What follows what is allocated of a stream.
struct Walked {
    range: Range,
    /// There are records in it.
    says_something: bool,
    has_more: bool,
}

impl Walked {
    /// Blocks that only tell how sources stand go with the next records: they are no news to an engine. So many of them
    /// are a batch without records all the same: what is never in one is never trimmed.
    fn is_piece(&self) -> bool {
        let Range { from, to, bytes, .. } = self.range;
        let is_much = bytes >= SILENT_BYTES_MAX || to - from >= SILENT_BLOCKS_MAX;
        to > from && (self.says_something || is_much)
    }
}

impl<S: Storage> Inner<S> {
    /// Writes down what the next batch holds, if there is one, and what goes with it.
    fn write_next(&self, limits: &BatchLimits) -> Result<Option<(BatchId, Vec<Range>)>, LedgerError> {
        let (batch, pending) = {
            let state = self.state.lock();
            (state.allocated().next(), state.batches().len())
        };
        let limit = self.config.pending_batches_max;
        if pending >= limit {
            return Err(LedgerError::TooManyPending { pending, limit });
        }
        let Planned { ranges, gone } = self.plan(batch.get(), limits)?;
        let is_batch = !ranges.is_empty() || limits.allow_empty;
        // What goes with a batch costs no flush of its own; when nothing comes, it goes by itself.
        let mut events = if is_batch && batch.get() % TRIM_EVERY_BATCHES != 0 { Vec::new() } else { self.trims_due() };
        events.extend(self.forgettable(gone, &ranges));
        if is_batch {
            events.push(Event::BatchAllocated { batch, ranges: ranges.clone() });
        }
        if !events.is_empty() {
            self.write(events)?;
        }
        Ok(is_batch.then_some((batch, ranges)))
    }

    fn plan(&self, turn: u64, limits: &BatchLimits) -> Result<Planned, LedgerError> {
        let mut sources: Vec<(InputId, Source)> =
            self.sources.lock().iter().map(|(id, source)| (*id, source.clone())).collect();
        let count = sources.len();
        if count > 0 {
            sources.rotate_left((turn % count as u64) as usize);
        }
        let mut left = Share::of(limits);
        // A batch that no event has room for would be planned again and again.
        left.ranges = left.ranges.min(ranges_max(self.log.config().record_bytes_max));
        let mut planned = Planned::default();
        // Where each part is after what is planned already.
        let mut ahead: BTreeMap<InputId, Ahead> = BTreeMap::new();
        let mut hungry = sources;
        for round in 0..2 {
            let offered = hungry.len();
            let mut still = Vec::new();
            for (i, (id, source)) in hungry.into_iter().enumerate() {
                let mut share = if round == 0 { left.fair(offered - i) } else { left };
                // Whoever is first takes a piece, even one that fits no share.
                share.takes_one = left.takes_one;
                if !share.takes_one && share.is_used_up() {
                    continue;
                }
                let plan = match &source {
                    Source::Stream(port) => self.plan_stream(id, &**port, share, ahead.get(&id))?,
                    Source::Replayable(source) => {
                        let known = Known { inner: self, input: id };
                        let over = Over { known: &known, ahead: ahead.get(&id) };
                        source.plan(&over, share).map_err(|e| self.input_error(id, e))?
                    }
                };
                let ahead = ahead.entry(id).or_default();
                for mut range in plan.ranges {
                    range.input = id;
                    left.take(range.records, range.bytes);
                    ahead.insert(range.part.clone(), (range.to, range.digest));
                    planned.push(range, matches!(source, Source::Stream(_)));
                }
                if round == 0 && !plan.gone.is_empty() {
                    planned.gone.push((id, plan.gone));
                }
                if plan.has_more {
                    still.push((id, source));
                }
            }
            hungry = still;
        }
        Ok(planned)
    }

    /// Blocks that follow what is allocated.
    fn plan_stream(
        &self,
        id: InputId,
        port: &dyn StreamPort,
        share: Share,
        ahead: Option<&Ahead>,
    ) -> Result<Plan, LedgerError> {
        let at = ahead.and_then(|ahead| ahead.get(&PartKey::default())).map(|(at, _)| *at);
        let from = match at {
            Some(at) => Lsn::new(at),
            None => Lsn::new(self.state.lock().input(id).and_then(Input::stream).map_or(1, |part| part.allocated)),
        };
        let (first, durable) = port.bounds();
        let nothing = Range {
            input: id,
            part: PartKey::default(),
            opens: None,
            from: from.get(),
            to: from.get(),
            digest: 0,
            records: 0,
            bytes: 0,
        };
        // What has said nothing is not read again while it waits: only what has come since.
        let silent = self.silent.lock().remove(&id);
        let silent = silent.filter(|silent| silent.from == from.get() && silent.to > silent.from && from >= first);
        let waits = silent.map(|silent| self.walk(port, silent, durable, NO_ROOM)).transpose()?;
        let walked = match waits {
            Some(waits) if !waits.has_more && !waits.is_piece() => waits,
            // All of it is read before it goes into a batch: what cannot be read any more must be in none.
            _ => self.walk(port, nothing, durable, share)?,
        };
        let mut plan = Plan { has_more: walked.has_more, ..Plan::default() };
        if walked.is_piece() {
            plan.ranges.push(walked.range);
        } else {
            self.silent.lock().insert(id, walked.range);
        }
        Ok(plan)
    }

    /// Goes on with a range of a stream, as far as the share allows.
    fn walk(&self, port: &dyn StreamPort, range: Range, durable: Lsn, mut share: Share) -> Result<Walked, LedgerError> {
        let (id, from) = (range.input, Lsn::new(range.from));
        let mut walked = Walked { range, says_something: false, has_more: false };
        let Walked { range, says_something, has_more } = &mut walked;
        for frame in port.frames(LsnRange::inclusive(Lsn::new(range.to), durable)) {
            let frame = match frame {
                Ok(frame) => frame,
                // What can be read before it goes into a batch first.
                Err(_) if *says_something => break,
                Err(source) if is_passed_over(&source) => {
                    let lsns = source.lsns().unwrap_or(LsnRange::inclusive(from, from));
                    return Err(LedgerError::Unreadable { name: self.name_of(id), lsns, source });
                }
                Err(source) => return Err(LedgerError::Stream { name: self.name_of(id), source }),
            };
            if frame.lsn.get() != range.to {
                let what = format!("frame {} is followed by frame {}", Lsn::new(range.to).previous(), frame.lsn);
                return Err(LedgerError::StreamDamaged { name: self.name_of(id), what });
            }
            let Gist { records, moves } = match Block::gist(&frame.payload) {
                Ok(gist) => gist,
                Err(_) if *says_something => break,
                Err(source) => return Err(LedgerError::NotABlock { name: self.name_of(id), lsn: frame.lsn, source }),
            };
            let bytes = frame.payload.len() as u64;
            // A block that only says how sources stand is no piece: were it one, records behind it might never fit.
            if moves {
                if !share.has_room(records, bytes) {
                    *has_more = true;
                    break;
                }
                *says_something = true;
                // All its blocks are one range.
                let ranges = share.ranges;
                share.take(records, bytes);
                share.ranges = ranges.max(1);
            } else if range.bytes >= SILENT_BYTES_MAX && !*says_something {
                *has_more = true;
                break;
            }
            (range.to, range.digest) = (frame.lsn.next().get(), frame.chain.get());
            range.records += records;
            range.bytes += bytes;
        }
        Ok(walked)
    }

    fn stream_latest(&self, id: InputId, port: &dyn StreamPort) -> Latest {
        let next = self.state.lock().input(id).and_then(Input::stream).map_or(1, |part| part.allocated);
        let (_, durable) = port.bounds();
        Latest { bytes: 0, records: Some(durable.since(Lsn::new(next).previous())), waiting_bytes: 0 }
    }

    fn input_error(&self, id: InputId, source: crate::ledger::InputError) -> LedgerError {
        LedgerError::Input { name: self.name_of(id), source }
    }

    /// What can go of streams, before it goes.
    fn trims_due(&self) -> Vec<Event> {
        if !self.config.trim_streams {
            return Vec::new();
        }
        let attached: Vec<InputId> = self.sources.lock().keys().copied().collect();
        let state = self.state.lock();
        let due = |(id, input): (InputId, &Input)| {
            let upto = input.stream()?.committed.saturating_sub(1);
            (input.kind == InputKind::Stream && upto > input.trimmed && attached.contains(&id))
                .then_some(Event::Trimmed { input: id, upto })
        };
        state.inputs().filter_map(due).collect()
    }

    /// Parts that are gone, of which nothing is outstanding or planned: an event may hold no more of them than a frame does.
    fn forgettable(&self, gone: Vec<(InputId, Vec<PartKey>)>, planned: &[Range]) -> Vec<Event> {
        let mut taken: HashSet<(InputId, PartKey)> =
            planned.iter().map(|range| (range.input, range.part.clone())).collect();
        let event_bytes_max = PIECE_BYTES_MAX.min((self.log.config().record_bytes_max as usize).saturating_sub(64));
        let state = self.state.lock();
        let is_settled = |id, key: &PartKey| {
            state.input(id).and_then(|input| input.parts.get(key)).is_some_and(PartState::is_settled)
        };
        let mut events = Vec::new();
        for (input, keys) in gone {
            let (mut parts, mut bytes) = (Vec::new(), 0);
            for key in keys {
                if !is_settled(input, &key) || !taken.insert((input, key.clone())) {
                    continue;
                }
                let longer = bytes + 1 + key.as_bytes().len();
                if longer > event_bytes_max && bytes > 0 {
                    events.push(Event::PartsForgotten { input, parts: std::mem::take(&mut parts) });
                    bytes = 0;
                }
                bytes += 1 + key.as_bytes().len();
                parts.push(key);
            }
            if !parts.is_empty() {
                events.push(Event::PartsForgotten { input, parts });
            }
        }
        events
    }
}

/// Where parts are after what is planned for this batch.
type Ahead = BTreeMap<PartKey, (u64, u64)>;

/// The parts of an input, looked up one by one: the state is not held while an input plans.
struct Known<'a, S: Storage> {
    inner: &'a Inner<S>,
    input: InputId,
}

impl<S: Storage> Parts for Known<'_, S> {
    fn get(&self, key: &PartKey) -> Option<Part> {
        let state = self.inner.state.lock();
        state.input(self.input)?.parts.get(key).map(Part::from)
    }

    fn label(&self, key: &PartKey) -> Option<Bytes> {
        let state = self.inner.state.lock();
        Some(state.input(self.input)?.parts.get(key)?.label.clone())
    }

    fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
        let state = self.inner.state.lock();
        let Some(input) = state.input(self.input) else { return };
        input.parts.iter().for_each(|(key, part)| take(key, &Part::from(part)));
    }
}

/// The same after what is planned for this batch already.
struct Over<'a> {
    known: &'a dyn Parts,
    ahead: Option<&'a Ahead>,
}

impl Over<'_> {
    fn over(&self, key: &PartKey, known: Option<Part>) -> Option<Part> {
        match self.ahead.and_then(|ahead| ahead.get(key)) {
            Some((allocated, digest)) => {
                let committed = known.map_or(0, |part| part.committed);
                Some(Part { allocated: *allocated, digest: *digest, committed })
            }
            None => known,
        }
    }
}

impl Parts for Over<'_> {
    fn get(&self, key: &PartKey) -> Option<Part> {
        self.over(key, self.known.get(key))
    }

    fn label(&self, key: &PartKey) -> Option<Bytes> {
        self.known.label(key)
    }

    fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
        self.known.each(&mut |key, part| {
            take(key, &self.over(key, Some(*part)).expect("known"));
        });
        for key in self.ahead.into_iter().flat_map(BTreeMap::keys).filter(|key| self.known.get(key).is_none()) {
            take(key, &self.get(key).expect("ahead"));
        }
    }
}
