use super::*;
use crate::ledger::Replay;
use crate::types::Lsn;

const BALLOT: Ballot = Ballot { round: 1, proposer: 7 };

fn envelope(event: Event) -> Envelope {
    Envelope { ballot: BALLOT, time_micros: 100, event }
}

fn begun() -> State {
    let mut state = State::default();
    state.apply(&envelope(Event::LedgerCreated { ledger: LedgerId::new(5) })).unwrap();
    let stream = added(1, InputKind::Stream, "clicks", 1);
    let files = added(2, InputKind::Replayable, "files", 0);
    [stream, files].into_iter().for_each(|event| assert!(state.apply(&envelope(event)).unwrap()));
    state
}

fn added(input: u32, kind: InputKind, name: &'static str, start: u64) -> Event {
    let name = Bytes::from_static(name.as_bytes());
    Event::InputAdded {
        input: InputId::new(input),
        kind,
        identity: Identity(u128::from(input)),
        name,
        start,
        digest: 77,
    }
}

fn part(name: &'static str) -> PartKey {
    PartKey::new(name.as_bytes()).unwrap()
}

fn range(input: u32, name: &'static str, from: u64, to: u64) -> Range {
    let opens = (input == 2 && from == 0).then(|| Bytes::from_static(b"a.txt"));
    let (records, bytes) = (to.saturating_sub(from), 10 * to.saturating_sub(from));
    Range { input: InputId::new(input), part: part(name), opens, from, to, digest: to, records, bytes }
}

fn allocated(batch: u64, ranges: Vec<Range>) -> Event {
    Event::BatchAllocated { batch: BatchId::new(batch), ranges }
}

fn committed(batch: u64) -> Event {
    Event::BatchCommitted { batch: BatchId::new(batch), token: Bytes::from_static(b"t") }
}

fn abandoned(batch: u64) -> Event {
    Event::BatchAbandoned { batch: BatchId::new(batch), reason: Bytes::from_static(b"poison") }
}

fn dropped(range: Range) -> Event {
    Event::RangeDropped { range, reason: Bytes::new() }
}

fn trimmed(upto: u64) -> Event {
    Event::Trimmed { input: InputId::new(1), upto }
}

fn forgotten(name: &'static str) -> Event {
    Event::PartsForgotten { input: InputId::new(2), parts: vec![part(name)] }
}

fn positions(state: &State) -> (u64, u64) {
    let part = state.input(InputId::new(1)).unwrap().stream().unwrap();
    (part.allocated, part.committed)
}

#[test]
fn what_would_break_an_invariant_is_refused_and_changes_nothing() {
    let mut state = begun();
    for event in [allocated(1, vec![range(1, "", 1, 5), range(2, "f", 0, 9)]), allocated(2, vec![range(1, "", 5, 6)])] {
        assert_eq!(state.apply(&envelope(event)), Ok(true));
    }
    type Is = fn(&Broken) -> bool;
    let refused: [(Event, Is); 21] = [
        (Event::LedgerCreated { ledger: LedgerId::new(6) }, |b| matches!(b, Broken::Order(_))),
        (allocated(2, vec![]), |b| matches!(b, Broken::NotNext { .. })),
        (allocated(4, vec![]), |b| matches!(b, Broken::NotNext { .. })),
        // A gap, an overlap, nothing, and the same twice in one batch.
        (allocated(3, vec![range(1, "", 7, 9)]), |b| matches!(b, Broken::Gap { expected: 6, .. })),
        (allocated(3, vec![range(1, "", 5, 9)]), |b| matches!(b, Broken::Gap { expected: 6, .. })),
        (allocated(3, vec![range(1, "", 6, 6)]), |b| matches!(b, Broken::Gap { .. })),
        (allocated(3, vec![range(1, "", 6, 8), range(1, "", 6, 8)]), |b| matches!(b, Broken::Gap { expected: 8, .. })),
        (allocated(3, vec![range(1, "x", 6, 8)]), |b| matches!(b, Broken::Part { .. })),
        (allocated(3, vec![range(2, "g", 3, 8)]), |b| matches!(b, Broken::Part { .. })),
        (allocated(3, vec![range(2, "f", 0, 8)]), |b| matches!(b, Broken::Part { .. })),
        (allocated(3, vec![range(3, "", 1, 8)]), |b| matches!(b, Broken::NoInput(_))),
        (dropped(range(1, "", 7, 9)), |b| matches!(b, Broken::Gap { .. })),
        (committed(3), |b| matches!(b, Broken::NotPending(_))),
        (abandoned(0), |b| matches!(b, Broken::NotPending(_))),
        (trimmed(1), |b| matches!(b, Broken::TrimBeforeCommit { committed: 1, .. })),
        (forgotten("f"), |b| matches!(b, Broken::Outstanding { .. })),
        (forgotten("g"), |b| matches!(b, Broken::Part { .. })),
        (Event::InputRemoved { input: InputId::new(1) }, |b| matches!(b, Broken::Outstanding { .. })),
        (added(4, InputKind::Stream, "more", 1), |b| matches!(b, Broken::InputTaken { .. })),
        (added(3, InputKind::Stream, "clicks", 1), |b| matches!(b, Broken::InputTaken { .. })),
        (added(3, InputKind::Stream, "more", 0), |b| matches!(b, Broken::InputTaken { .. })),
    ];
    for (event, is) in refused {
        let before = state.clone();
        let broken = state.apply(&envelope(event.clone())).expect_err("refused");
        assert!(is(&broken), "{event:?}: {broken}");
        assert_eq!(state, before);
    }
    let unknown = Envelope { ballot: BALLOT.above(1), ..envelope(allocated(3, vec![])) };
    assert!(matches!(state.apply(&unknown), Err(Broken::Ballot { .. })));
}

#[test]
fn committed_is_the_gap_free_prefix() {
    let mut state = begun();
    for (batch, from, to) in [(1, 1, 5), (2, 5, 6), (3, 6, 9)] {
        state.apply(&envelope(allocated(batch, vec![range(1, "", from, to)]))).unwrap();
    }
    state.apply(&envelope(committed(2))).unwrap();
    assert_eq!((positions(&state), state.settled().get()), ((9, 1), 0));
    assert!(matches!(state.apply(&envelope(committed(2))), Err(Broken::NotPending(_))));
    state.apply(&envelope(abandoned(1))).unwrap();
    assert_eq!((positions(&state), state.settled().get()), ((9, 6), 2));
    state.apply(&envelope(dropped(range(1, "", 9, 12)))).unwrap();
    assert_eq!(positions(&state), (12, 6));
    assert!(state.apply(&envelope(trimmed(6))).is_err());
    state.apply(&envelope(trimmed(5))).unwrap();
    state.apply(&envelope(committed(3))).unwrap();
    // Behind the last batch only what was dropped is left.
    assert_eq!((positions(&state), state.settled().get()), ((12, 12), 3));
    state.apply(&envelope(dropped(range(1, "", 12, 13)))).unwrap();
    assert_eq!(positions(&state), (13, 13));
    let input = state.input(InputId::new(1)).unwrap();
    assert_eq!((input.records_allocated, input.records_settled, input.records_lost), (8, 8, 4 + 3 + 1));
    let ended: Vec<_> =
        state.recent().map(|s| (s.batch.get(), matches!(s.status, BatchStatus::Committed { .. }))).collect();
    assert_eq!(ended, [(1, false), (2, true), (3, true)]);
}

#[test]
fn an_older_driver_does_not_count() {
    let mut state = begun();
    let later = BALLOT.above(3);
    assert_eq!(state.apply(&Envelope { ballot: later, ..envelope(Event::DriverBegan) }), Ok(true));
    let before = state.clone();
    assert_eq!(state.apply(&envelope(allocated(1, vec![range(1, "", 1, 5)]))), Ok(false));
    assert_eq!(state.apply(&envelope(Event::DriverBegan)), Ok(false));
    assert_eq!(state, before);
    assert_eq!(state.apply(&Envelope { ballot: later, ..envelope(allocated(1, vec![])) }), Ok(true));
}

#[test]
fn a_part_that_is_forgotten_may_come_again() {
    let mut state = begun();
    state.apply(&envelope(allocated(1, vec![range(2, "f", 0, 9)]))).unwrap();
    state.apply(&envelope(committed(1))).unwrap();
    state.apply(&envelope(forgotten("f"))).unwrap();
    assert!(state.input(InputId::new(2)).unwrap().parts.is_empty());
    state.apply(&envelope(allocated(2, vec![range(2, "f", 0, 4)]))).unwrap();
}

/// Anything a driver might do, in any order; what is not allowed is refused.
fn random_event(random: &mut impl FnMut(u64) -> u64, state: &State) -> Event {
    let batch = 1 + random(state.allocated().get() + 2);
    match random(12) {
        0..=3 => {
            let mut ranges = Vec::new();
            let at = |input, name: &'static str| {
                let parts = &state.input(InputId::new(input)).map(|input| &input.parts);
                parts.and_then(|parts| parts.get(&part(name))).map_or(u64::from(input == 1), |part| part.allocated)
            };
            if random(2) == 0 {
                ranges.push(range(1, "", at(1, "") + random(20) / 19, at(1, "") + 1 + random(5)));
            }
            for name in ["f", "g"] {
                if random(2) == 0 {
                    ranges.push(range(2, name, at(2, name), at(2, name) + 1 + random(5)));
                }
            }
            allocated(state.allocated().get() + 1, ranges)
        }
        4..=6 => committed(batch),
        7 => abandoned(batch),
        8 => dropped(range(1, "", positions(state).0, positions(state).0 + 1 + random(3))),
        9 => trimmed(random(positions(state).1 + 1)),
        10 => forgotten(["f", "g"][random(2) as usize]),
        _ => Event::DriverBegan,
    }
}

#[test]
fn a_checkpoint_and_a_replay_are_worth_a_replay_from_the_start() {
    for seed in 0..300u64 {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |below: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % below.max(1)
        };
        let mut live = begun();
        let mut whole = Replay::default();
        let mut short: Option<Replay> = None;
        let mut lsn = Lsn::ZERO;
        let mut write = |replay: &mut Replay, short: &mut Option<Replay>, event: Event| {
            lsn = lsn.next();
            let frame = envelope(event).encode();
            replay.frame(lsn, &frame).expect("what was checked is taken");
            short.iter_mut().for_each(|short| short.frame(lsn, &frame).expect("here too"));
        };
        let created = [Event::LedgerCreated { ledger: LedgerId::new(5) }, added(1, InputKind::Stream, "clicks", 1)];
        for event in created.into_iter().chain([added(2, InputKind::Replayable, "files", 0)]) {
            write(&mut whole, &mut short, event);
        }
        for step in 0..80 {
            let event = random_event(&mut random, &live);
            let before = live.clone();
            match live.apply(&envelope(event.clone())) {
                Ok(_) => write(&mut whole, &mut short, event),
                Err(_) => assert_eq!(live, before),
            }
            // Whatever was in a batch is in the order of its positions, each once.
            let part = live.input(InputId::new(1)).unwrap().stream().unwrap();
            assert!(part.committed <= part.allocated);
            assert!(live.input(InputId::new(1)).unwrap().trimmed < part.committed);
            if step % 20 == 19 {
                short = Some(Replay::default());
                for event in live.checkpoint(1 + random(200) as usize) {
                    write(&mut whole, &mut short, event);
                }
            }
            assert_eq!(whole.state(), &live, "seed {seed} step {step}");
            assert!(short.as_ref().is_none_or(|short| short.state() == &live), "seed {seed} step {step}");
        }
    }
}

#[test]
fn a_checkpoint_that_says_something_else_is_damage() {
    let state = begun();
    let mut replay = Replay::default();
    let mut other = begun();
    other.apply(&envelope(allocated(1, vec![]))).unwrap();
    let events = [Event::LedgerCreated { ledger: LedgerId::new(5) }, added(1, InputKind::Stream, "clicks", 1)];
    let more = [added(2, InputKind::Replayable, "files", 0)];
    let mut lsn = Lsn::ZERO;
    for event in events.into_iter().chain(more).chain(state.checkpoint(1 << 20)) {
        lsn = lsn.next();
        replay.frame(lsn, &envelope(event).encode()).unwrap();
    }
    assert_eq!(replay.checkpoint(), Some(Lsn::new(4)));
    let wrong = other.checkpoint(1 << 20).remove(0);
    let found = replay.frame(lsn.next(), &envelope(wrong).encode());
    assert!(matches!(found, Err(crate::ledger::ReplayError::Differs { .. })), "{found:?}");
    // In the middle nothing begins: neither an event nor the rest of a checkpoint.
    let middle = |event| Replay::default().frame(Lsn::new(9), &envelope(event).encode());
    let pieces = state.checkpoint(40);
    assert!(pieces.len() > 2);
    for event in [committed(1), Event::DriverBegan, pieces[1].clone()] {
        let found = middle(event);
        assert!(matches!(found, Err(crate::ledger::ReplayError::NoBeginning { .. })), "{found:?}");
    }
}

#[test]
fn two_drivers_may_find_a_ledger_empty() {
    let mut state = begun();
    let later = Envelope { ballot: BALLOT.above(1), ..envelope(Event::LedgerCreated { ledger: LedgerId::new(5) }) };
    let inputs = state.inputs.clone();
    assert_eq!(state.apply(&later), Ok(true));
    assert_eq!((state.ballot(), &state.inputs), (later.ballot, &inputs));
}

#[test]
fn what_a_fenced_driver_writes_between_the_pieces_of_a_checkpoint_does_not_count() {
    let mut state = begun();
    let ballot = BALLOT.above(1);
    state.apply(&Envelope { ballot, ..envelope(Event::DriverBegan) }).unwrap();
    let late = [committed(1), begun().checkpoint(1 << 20).remove(0), Event::DriverBegan];
    let mut replay = Replay::default();
    let mut lsn = Lsn::ZERO;
    let mut write = |replay: &mut Replay, ballot, event| {
        lsn = lsn.next();
        replay.frame(lsn, &Envelope { ballot, ..envelope(event) }.encode()).unwrap();
    };
    for piece in state.checkpoint(40) {
        write(&mut replay, ballot, piece);
        late.iter().for_each(|event| write(&mut replay, BALLOT, event.clone()));
    }
    assert_eq!(replay.state(), &state);
    assert!(replay.fenced() >= 6);
}
