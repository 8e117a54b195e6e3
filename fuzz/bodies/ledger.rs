//! A ledger's stream: frames of arbitrary bytes, and events nobody would write in any order.
//!
//! ```text
//! input | 0 | the first frame, to the end
//! input | n | events, 8 bytes each: what 1 | input 1 | batch 1 | from 1 | length 1 | part 1 | ballot 1 | value 1
//! ```
//!
//! Whatever they say: no panic; a frame has one form; what is refused changes nothing; replay makes what live made; a
//! checkpoint is worth the events before it. And by a count of its own, kept here: no position is in two batches or
//! passed over in silence, committed is the gap-free prefix, nothing is trimmed above it.

use std::collections::BTreeMap;

use bytes::Bytes;
use seawall::ledger::{Envelope, Event, Identity, InputKind, PartKey, Range, Replay, State};
use seawall::{Ballot, BatchId, InputId, LedgerId, Lsn};

use super::Input;

const STEPS_MAX: usize = 300;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() {
        0 => bytes(&Bytes::copy_from_slice(input.rest())),
        _ => events(input),
    }
}

fn bytes(frame: &Bytes) {
    let Ok(envelope) = Envelope::decode(frame) else { return };
    assert_eq!(envelope.encode(), *frame, "one event has one form");
    let _ = Replay::default().frame(Lsn::FIRST, frame);
    // Behind a ledger's creation, by a driver that nobody has taken over from.
    let mut replay = Replay::default();
    let created = Envelope { event: Event::LedgerCreated { ledger: LedgerId::new(1) }, ..envelope };
    replay.frame(Lsn::FIRST, &created.encode()).expect("a beginning");
    let before = replay.state().clone();
    if replay.frame(Lsn::new(2), frame).is_err() {
        assert_eq!(*replay.state(), before, "what is refused changes nothing");
    }
}

/// What is known besides the ledger of one input's part.
#[derive(Default)]
struct Count {
    /// Positions below it are in a batch or were dropped.
    taken: u64,
    /// Where each settled or unsettled interval ends, by its beginning, and in which batch it is.
    intervals: BTreeMap<u64, (u64, Option<u64>)>,
}

#[derive(Default)]
struct Counts {
    parts: BTreeMap<(u32, Vec<u8>), Count>,
    settled: BTreeMap<u64, bool>,
}

impl Counts {
    fn take(&mut self, range: &Range, batch: Option<u64>) {
        let part = self.parts.entry((range.input.get(), range.part.as_bytes().to_vec())).or_default();
        // A stream begins where it was added; a part that was forgotten begins anew.
        assert!(part.intervals.is_empty() || part.taken == range.from, "{range:?} is taken behind {}", part.taken);
        assert!(range.to > range.from);
        part.intervals.insert(range.from, (range.to, batch));
        part.taken = range.to;
    }

    /// The last batch of the gap-free prefix of settled ones.
    fn prefix(&self) -> u64 {
        (1..).take_while(|batch| self.settled.get(batch) == Some(&true)).count() as u64
    }

    /// Where what is not in that prefix begins: behind the last batch of it, and behind what was dropped further on, of
    /// which a part need not know before everything in it is settled. `None` where nothing was taken.
    fn committed(&self, part: &Count) -> Option<(u64, u64)> {
        let first = *part.intervals.keys().next()?;
        let (mut batches, mut all) = (first, first);
        for (from, (to, batch)) in &part.intervals {
            if *from != all || batch.is_some_and(|batch| batch > self.prefix()) {
                break;
            }
            all = *to;
            if batch.is_some() {
                batches = *to;
            }
        }
        Some((if all == part.taken { all } else { batches }, all))
    }
}

fn events(mut input: Input<'_>) {
    let mut live = State::default();
    let mut whole = Replay::default();
    let mut short: Option<Replay> = None;
    let mut counts = Counts::default();
    let mut lsn = Lsn::ZERO;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let facts = [(); 7].map(|()| input.byte());
        if what % 16 == 15 {
            // Whoever has taken over writes what is there.
            let pieces = live.checkpoint(1 + usize::from(facts[0]) * 4);
            let mut begun = Replay::default();
            for event in pieces {
                lsn = lsn.next();
                let frame = Envelope { ballot: live.ballot(), time_micros: 1, event }.encode();
                if live.ledger().is_some() {
                    whole.frame(lsn, &frame).expect("a checkpoint of what is there");
                    begun.frame(lsn, &frame).expect("a checkpoint is a beginning");
                }
            }
            short = live.ledger().is_some().then_some(begun);
            continue;
        }
        let envelope = envelope(&live, what, facts);
        lsn = lsn.next();
        let frame = envelope.encode();
        assert_eq!(Envelope::decode(&frame).as_ref(), Ok(&envelope));
        let before = live.clone();
        let is_fenced = envelope.ballot < live.ballot();
        let applied = live.apply(&envelope);
        if applied != Ok(true) {
            assert_eq!(live, before, "{envelope:?} is refused or does not count, and changes something");
        } else {
            assert!(!is_fenced, "{envelope:?} is of a driver that was taken over from");
            note(&mut counts, &envelope.event);
        }
        // What no driver writes is in no stream.
        if applied.is_ok() && live.ledger().is_some() {
            whole.frame(lsn, &frame).expect("taken live");
            short.iter_mut().for_each(|short| short.frame(lsn, &frame).expect("taken live"));
        }
        check(&live, &counts);
        assert_eq!(*whole.state(), live, "a replay makes something else of {envelope:?}");
        assert!(
            short.as_ref().is_none_or(|short| *short.state() == live),
            "a checkpoint is not worth what was before it"
        );
    }
}

/// An event that often fits, and often almost.
fn envelope(state: &State, what: u8, [input, batch, from, length, part, ballot, value]: [u8; 7]) -> Envelope {
    let number = InputId::new(u32::from(input % 4));
    let near = |base: u64, off: u8| match off {
        0..=191 => base,
        off => (base + u64::from(off)).saturating_sub(224),
    };
    let next_batch = BatchId::new(near(state.allocated().get() + 1, batch));
    let known_batch = BatchId::new(u64::from(batch) % (state.allocated().get() + 2));
    let name = |number: u8| Bytes::copy_from_slice(&[b'a' + number % 4]);
    let identity = Identity(u128::from(value % 8));
    let range = |input: InputId, skip: u64| {
        let known = state.input(input);
        let is_stream = known.is_some_and(|known| known.kind == InputKind::Stream);
        let key = if is_stream { PartKey::default() } else { PartKey::new(name(part)).expect("short") };
        let at = match known {
            Some(known) => known.parts.get(&key).map_or(0, |part| part.allocated),
            None => 0,
        };
        let from = near(at + skip, from);
        let opens = known.is_some_and(|known| !is_stream && !known.parts.contains_key(&key));
        Range {
            input,
            part: key,
            opens: opens.then(|| name(value)),
            from,
            to: from + u64::from(length % 16),
            digest: u64::from(value),
            records: u64::from(length % 16),
            bytes: u64::from(length),
        }
    };
    let event = match what % 16 {
        0 => Event::LedgerCreated { ledger: LedgerId::new(u128::from(value % 2) + 1) },
        1 => Event::DriverBegan,
        2 => Event::InputAdded {
            input: InputId::new(near(u64::from(state.next_input().get()), batch) as u32),
            kind: if value % 2 == 0 { InputKind::Stream } else { InputKind::Replayable },
            identity,
            name: name(part),
            start: u64::from(value % 2 == 0) + u64::from(from % 8),
            digest: u64::from(value),
        },
        3 => Event::InputAdopted { input: number, identity },
        4 => Event::InputRemoved { input: number },
        5 => Event::PartsForgotten { input: number, parts: vec![PartKey::new(name(part)).expect("short")] },
        6..=8 => {
            let other = InputId::new(u32::from(value % 4));
            let mut ranges = vec![range(number, 0)];
            if batch % 4 == 1 {
                ranges.push(range(other, if other == number { u64::from(length % 16) } else { 0 }));
            }
            if batch % 16 == 2 {
                ranges.clear();
            }
            Event::BatchAllocated { batch: next_batch, ranges }
        }
        9..=11 => Event::BatchCommitted { batch: known_batch, token: name(value) },
        12 => Event::BatchAbandoned { batch: known_batch, reason: name(value) },
        13 => Event::RangeDropped { range: range(number, 0), reason: name(value) },
        _ => {
            let committed = state.input(number).and_then(|known| known.stream()).map_or(0, |part| part.committed);
            Event::Trimmed { input: number, upto: near(committed, from).saturating_sub(u64::from(value % 3)) }
        }
    };
    let ballot = match ballot {
        0..=199 => state.ballot(),
        200..=219 => Ballot { round: state.ballot().round + 1, proposer: u64::from(ballot) },
        _ => Ballot { round: state.ballot().round.saturating_sub(1), proposer: u64::from(ballot) },
    };
    Envelope { ballot, time_micros: u64::from(value), event }
}

fn note(counts: &mut Counts, event: &Event) {
    match event {
        Event::BatchAllocated { batch, ranges } => {
            assert_eq!(counts.settled.insert(batch.get(), false), None, "batch {batch} is there already");
            ranges.iter().for_each(|range| counts.take(range, Some(batch.get())));
        }
        Event::BatchCommitted { batch, .. } | Event::BatchAbandoned { batch, .. } => {
            assert_eq!(counts.settled.insert(batch.get(), true), Some(false), "batch {batch} was settled already");
        }
        Event::RangeDropped { range, .. } => counts.take(range, None),
        Event::PartsForgotten { input, parts } => {
            for part in parts {
                let gone = counts.parts.remove(&(input.get(), part.as_bytes().to_vec())).expect("it was taken from");
                let is_settled = |batch: &u64| counts.settled.get(batch) == Some(&true);
                assert!(gone.intervals.values().all(|(_, batch)| batch.as_ref().is_none_or(is_settled)));
            }
        }
        Event::InputRemoved { input } => {
            for ((of, _), part) in &counts.parts {
                let is_settled = |batch: &u64| counts.settled.get(batch) == Some(&true);
                let all = part.intervals.values().all(|(_, batch)| batch.as_ref().is_none_or(is_settled));
                assert!(*of != input.get() || all, "something of input {input} is pending");
            }
        }
        _ => {}
    }
}

fn check(state: &State, counts: &Counts) {
    for (id, input) in state.inputs() {
        for (key, part) in &input.parts {
            assert!(part.committed <= part.allocated);
            let Some(count) = counts.parts.get(&(id.get(), key.as_bytes().to_vec())) else { continue };
            assert_eq!(part.allocated, count.taken, "input {id}, part {key}");
            if let Some((least, most)) = counts.committed(count) {
                let committed = part.committed;
                assert!(
                    (least..=most).contains(&committed),
                    "input {id}, part {key}: {committed} not in {least}..={most}"
                );
            }
        }
        if let Some(part) = input.stream() {
            assert!(
                input.trimmed < part.committed,
                "trimmed up to {}, committed below {}",
                input.trimmed,
                part.committed
            );
        }
    }
    assert_eq!(state.settled().get(), counts.prefix(), "settled is the gap-free prefix");
    assert_eq!(state.allocated().get(), counts.settled.len() as u64);
}
