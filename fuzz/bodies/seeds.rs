//! Inputs to start from. `tests/corpus.rs` writes them to `fuzz/corpus`.

use seawall::internals as door;
use seawall::{Chain, Lsn};

use super::base::{Base, bases};
use super::recovery::Damage;

/// An input's name and bytes.
pub type Seed = (String, Vec<u8>);

/// Of each target.
pub fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![
        ("frame", frame()),
        ("scanner", scanner()),
        ("recovery", recovery()),
        #[cfg(feature = "receiver")]
        ("wire", receiver::wire()),
        #[cfg(feature = "receiver")]
        ("block", receiver::block()),
        #[cfg(feature = "receiver")]
        ("sessions", receiver::sessions()),
        #[cfg(feature = "ledger")]
        ("ledger", ledger()),
    ]
}

fn named(inputs: Vec<(&str, Vec<u8>)>) -> Vec<Seed> {
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn frame() -> Vec<Seed> {
    let input = |decoder: u8, repair: u8, seed: u32, bytes: &[u8]| {
        let mut input = vec![decoder, repair];
        input.extend(seed.to_le_bytes());
        input.extend(bytes);
        input
    };
    let mut data = vec![0; door::FRAME_HEADER_BYTES + 5];
    door::encode_data(77, Lsn::new(42), Chain::start(0), b"hello", &mut data);
    let mut forged = data.clone();
    forged[0] = 130;
    forged[16..24].fill(0);
    let mut block = vec![0; 64];
    block[..8].copy_from_slice(b"SEAWALLS");
    block[8] = 1;
    block[13] = 16;
    let image = &bases()[0].image;
    let control = &image["control"];
    let slot = if control[..8] == *b"SEAWCTRL" { &control[..320] } else { &control[32 * 1024..32 * 1024 + 320] };
    let index: Vec<u8> = (1..6u64).flat_map(|i| [i, i * 10, i * 4096]).flat_map(u64::to_le_bytes).collect();
    let seal: Vec<u8> = (1..=10u64).flat_map(u64::to_le_bytes).collect();
    named(vec![
        ("header", input(0, 0, 77, &data)),
        ("header-at-another-place", input(0, 0, 78, &data)),
        ("header-of-a-marker", input(0, 1, 77, &forged)),
        ("data-empty", input(1, 0, 3, b"")),
        ("data", input(1, 0, 77, b"some record that is longer than a header is, if only by a little")),
        ("control-one-slot", input(2, 1, 0, slot)),
        ("control-both-slots", input(2, 1 | 2 | 4 | 8, 0, slot)),
        ("control-short", input(2, 1 | 16, 0, slot)),
        ("segment-header", input(3, 1, 0, &block)),
        ("seal", input(4, 0, 0, &seal)),
        ("marker", input(4, 0, 0, &seal[..16])),
        ("index", input(5, 0, 1 << 20, &index)),
    ])
}

/// A header that asks the scanner target to be made valid.
fn asking(kind: u8, asked: u8, lsn: u64, flushed: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; door::FRAME_HEADER_BYTES];
    frame[0] = kind;
    frame[2] = asked;
    frame[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[16..24].copy_from_slice(&lsn.to_le_bytes());
    frame[48..56].copy_from_slice(&flushed.to_le_bytes());
    frame.extend(payload);
    frame.resize(frame.len().next_multiple_of(8), 0);
    frame
}

fn scanner() -> Vec<Seed> {
    const BLOCK: usize = 512;
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let chain = Chain::start(0).get();
    let seal = asking(129, 5, 0, 0, &words(&[0, 0, 0, chain, 0, 0, 1, 0, chain, 1]));
    let data = |lsn: u64, flushed: u64| asking(1, 7, lsn, flushed, &[lsn as u8; 40]);
    let marker = |lsn: u64| asking(130, 5, 0, lsn, &words(&[lsn, 9]));
    let input = |shape: u8, groups: &[&[&[u8]]]| {
        let mut input = vec![shape, 8, 0, 4];
        for group in groups {
            let start = input.len();
            group.iter().for_each(|frame| input.extend(*frame));
            input.resize(start + (input.len() - start).next_multiple_of(BLOCK), 0);
        }
        input
    };
    let mut broken = data(3, 2);
    broken[2] = 3;
    let inner: Vec<u8> = (1..4).flat_map(|lsn| data(100 + lsn, 0)).collect();
    let own = data(1, 0);
    named(vec![
        ("blank", input(2, &[&[&[0; 64]]])),
        ("seal-alone", input(2, &[&[&seal]])),
        ("frames", input(2, &[&[&seal, &data(1, 0), &data(2, 0)], &[&data(3, 2)], &[&data(4, 3), &data(5, 3)]])),
        ("marker", input(2, &[&[&seal, &data(1, 0)], &[&data(2, 1)], &[&marker(2)]])),
        ("marker-without-its-frames", input(2, &[&[&seal, &data(1, 0)], &[&marker(9)]])),
        ("hole", input(2, &[&[&seal, &data(1, 0)], &[&[9; 64]], &[&data(3, 1)]])),
        ("damage", input(2, &[&[&seal, &data(1, 0)], &[&broken], &[&data(3, 2)]])),
        ("damage-then-hole", input(2, &[&[&seal], &[&data(2, 1)], &[&data(4, 1)]])),
        ("seal-damaged", input(2, &[&[&[7; 152], &data(1, 0)], &[&data(2, 1)]])),
        ("numbered-by-the-target", input(2, &[&[&seal, &asking(1, 15, 0, 0, b"one"), &asking(1, 15, 0, 0, b"two")]])),
        ("length-by-the-target", input(0, &[&[&seal, &asking(1, 31, 0, 0, &[5; 700])]])),
        ("frames-in-a-payload", input(2, &[&[&seal, &asking(1, 7, 1, 0, &inner)], &[&data(2, 1)]])),
        ("out-of-order", input(2, &[&[&seal, &data(2, 0), &own, &data(2, 0), &data(3, 2)]])),
        ("ends-early", input(4, &[&[&seal, &data(1, 0)], &[&data(2, 1)], &[&data(3, 2)]])),
        ("blocks-of-4096", input(3, &[&[&seal, &data(1, 0), &data(2, 0), &[0; 3700]], &[&data(3, 2)]])),
    ])
}

fn recovery() -> Vec<Seed> {
    let input = |log: u8, flags: u8, damages: &[Damage]| {
        let mut input = vec![log, flags];
        damages.iter().for_each(|damage| input.extend(damage.bytes()));
        input
    };
    let damage = |what, file, at, count, value, other| Damage { what, file, at, count, value, other };
    let last = |log: usize| (bases()[log].starts.len() - 1) as u16;
    let mut inputs = Vec::new();
    for log in 0..4u8 {
        inputs.push((format!("untouched-{log}"), input(log, 0, &[])));
        let last = last(log.into());
        inputs.push((format!("last-frame-{log}"), input(log, 0, &[damage(0, 0, last, 70, 1, 0)])));
        inputs.push((format!("header-within-{log}"), input(log, 0, &[damage(0, 0, last / 2, 20, 4, 0)])));
        // Everything in the segment that holds the log's end, its header too.
        let Base { starts, image, .. } = &bases()[usize::from(log)];
        let newest = image.keys().position(|name| *name == starts[usize::from(last)].0).expect("it is there") as u8;
        inputs.push((format!("newest-segment-rotten-{log}"), input(log, 0, &[damage(4, newest, 0, 255, 9, 0)])));
        inputs.push((format!("late-{log}"), input(log, 1, &[damage(6, 3, 700, 0, 0, 0), damage(3, 2, 3, 4, 0, 0)])));
    }
    inputs.extend(named(vec![
        ("hole", input(1, 0, &[damage(13, 0, last(1) - 3, 15, 0, 0)])),
        ("two-holes", input(1, 0, &[damage(13, 0, last(1) - 4, 9, 0, 0), damage(13, 0, last(1) - 1, 9, 0, 0)])),
        ("proof-without-frames", input(2, 0, &[damage(13, 0, last(2) - 2, 1, 0, 0)])),
        ("control-gone", input(0, 0, &[damage(8, 4, 0, 0, 0, 0)])),
        ("control-of-before", input(3, 0, &[damage(11, 255, 0, 1, 0, 0)])),
        ("newest-segment-gone", input(1, 0, &[damage(8, 2, 0, 0, 0, 0)])),
        ("segment-within-gone", input(0, 0, &[damage(8, 1, 0, 0, 0, 0)])),
        ("cut-short", input(2, 0, &[damage(6, 2, 4000, 0, 0, 0)])),
        ("lost-writes", input(1, 0, &[damage(12, 2, 20, 1, 9, 0)])),
        ("misdirected-write", input(3, 0, &[damage(5, 2, 12, 3, 20, 1)])),
        ("copied-segment", input(2, 0, &[damage(10, 1, 0, 0, 7, 0), damage(9, 2, 0, 0, 0, 3)])),
        ("seal-and-the-first-groups-lost", input(3, 0, &[damage(69, 0, 0xC1, 0x26, 0x9D, 0)])),
        ("newest-cut-below-its-seal", input(3, 0, &[damage(6, 3, 109, 0, 0, 0)])),
        ("header-of-another-over-the-newest", input(1, 0, &[damage(5, 255, 0, 0, 0, 0)])),
        (
            "blank-below-the-newest",
            input(
                1,
                0,
                &[
                    damage(235, 0xC2, 0x314A, 0xDC, 0x11, 0),
                    damage(176, 0x90, 0x5EB9, 0xAA, 0xC3, 0),
                    damage(100, 0x5C, 0x50, 0x49, 0x47, 0),
                ],
            ),
        ),
        (
            "blank-below-a-cut-one",
            input(
                3,
                0,
                &[
                    damage(188, 0xCE, 0x6D, 0x2F, 0x0E, 0),
                    damage(221, 0x3A, 1, 0x86, 0xD3, 0),
                    damage(9, 0xE4, 0x1FC, 0x46, 0xE6, 0),
                ],
            ),
        ),
        ("cut-behind-a-clean-end", input(0, 0, &[damage(6, 7, 2178, 0, 0, 0)])),
        (
            "first-control-over-rotten-seals",
            input(
                3,
                0,
                &[
                    damage(6, 206, 109, 0, 0, 0),
                    damage(11, 58, 1, 134, 0, 0),
                    damage(0, 0, 0, 0, 115, 0),
                    damage(9, 94, 0, 0, 0, 23269),
                    damage(11, 97, 0, 0, 0, 0),
                ],
            ),
        ),
        (
            "forged-chain-before-the-proof",
            input(3, 0, &[damage(0, 6, 32003, 0, 0, 0), damage(1, 24, 17674, 221, 3, 0)]),
        ),
        ("cut-below-one-block", input(2, 0, &[damage(6, 0, 184, 0, 0, 0)])),
        ("cut-while-open", input(2, 1, &[damage(6, 0x13, 700, 0, 0, 0)])),
        ("forged-claim", input(1, 0, &[damage(1, 0, last(1), 49, 1, 0)])),
    ]));
    inputs
}

#[cfg(feature = "receiver")]
mod receiver {
    use bytes::{Bytes, BytesMut};
    use seawall::receiver::{
        Ack, Block, Code, Hello, Message, Nack, PayloadBuilder, Range, RangeKind, Reject, RejectReason, Sequences,
        Welcome, encode,
    };
    use seawall::{Lsn, Seq, SourceEpoch, SourceId};

    use super::Seed;

    fn payload(sequences: Sequences) -> PayloadBuilder {
        let mut payload = PayloadBuilder::new(sequences, Seq::new(4));
        payload.push(Seq::new(5), b"five").expect("the next one");
        payload.push(Seq::new(6), b"").expect("the next one");
        payload
    }

    pub(super) fn wire() -> Vec<Seed> {
        let reject = Reject { seq: Seq::new(3), reason: RejectReason::Poison, bytes: 9 };
        let nack = |code, fatal| {
            let (at, expected) = (Seq::new(7), Seq::new(5));
            Message::Nack(Nack { code, at, expected, retry_after_millis: 9, fatal, text: "words".to_owned() })
        };
        let hello = Hello { version_max: 1, token: vec![1; 9], source: b"source".to_vec(), ..Hello::default() };
        let away = Message::GoAway { code: Code::Draining, deadline_millis: 10, text: "restart".to_owned() };
        let messages = [
            ("hello", Message::Hello(hello)),
            ("welcome", Message::Welcome(Welcome { version: 1, rejects: vec![reject; 3], ..Welcome::default() })),
            ("redirect", Message::Redirect { address: "there:1".to_owned(), retry_after_millis: 5 }),
            ("send-dense", Message::Send(payload(Sequences::Dense).finish())),
            ("send-sparse", Message::Send(payload(Sequences::Sparse).finish())),
            ("skip", Message::Skip { previous: Seq::new(1), to: Seq::new(9) }),
            ("ack", Message::Ack(Ack { durable: Seq::new(9), rejects: vec![reject], ..Ack::default() })),
            ("nack", nack(Code::Gap, false)),
            ("nack-of-a-later-version", nack(Code::Other, true)),
            ("ping", Message::Ping { nonce: 1, rejects_seen: Seq::new(2) }),
            ("pong", Message::Pong { nonce: 1 }),
            ("goaway", away),
            ("bye", Message::Bye),
        ];
        let input = |(name, message): (&str, Message)| {
            let mut frame = BytesMut::from(&[7][..]);
            encode_behind(&message, &mut frame);
            (name.to_owned(), frame.to_vec())
        };
        messages.into_iter().map(input).collect()
    }

    fn encode_behind(message: &Message, out: &mut BytesMut) {
        let mut frame = BytesMut::new();
        encode(message, &mut frame);
        out.extend_from_slice(&frame);
    }

    pub(super) fn block() -> Vec<Seed> {
        let range = |kind, sequences, records, last| Range {
            kind,
            source: SourceId::new("source"),
            epoch: SourceEpoch::new(2),
            sequences,
            records,
            previous: Seq::new(4),
            last: Seq::new(last),
        };
        let dense = || {
            (range(RangeKind::Records, Sequences::Dense, 2, 6), payload(Sequences::Dense).finish().payload.into_bytes())
        };
        let alone = |kind| (range(kind, Sequences::Dense, 0, 4), Bytes::new());
        let reason = RejectReason::Oversized;
        let mut unnamed = dense();
        (unnamed.0.source, unnamed.0.sequences) = (None, Sequences::None);
        let mut miscounted = dense();
        miscounted.0.records = 3;
        let sparse = (
            range(RangeKind::Records, Sequences::Sparse, 2, 6),
            payload(Sequences::Sparse).finish().payload.into_bytes(),
        );
        let reject =
            (range(RangeKind::Reject { reason, bytes: 3 }, Sequences::Dense, 0, 5), Bytes::from_static(b"bad"));
        let blocks = [
            ("empty", vec![]),
            ("records", vec![dense()]),
            ("sparse", vec![sparse]),
            ("unnamed", vec![unnamed]),
            ("miscounted", vec![miscounted]),
            ("reject", vec![reject.clone()]),
            ("session", vec![alone(RangeKind::Session), dense()]),
            ("skipped", vec![alone(RangeKind::Skipped)]),
            ("retired", vec![alone(RangeKind::Retired)]),
            ("position", vec![alone(RangeKind::Position), alone(RangeKind::Unseen { reason, bytes: 3 })]),
            ("seen", vec![reject, alone(RangeKind::Seen)]),
            ("twice", vec![dense(), dense()]),
        ];
        let encode =
            |(name, ranges): (&str, _)| (name.to_owned(), Block { replay_from: Lsn::new(3), ranges }.encode().to_vec());
        blocks.into_iter().map(encode).collect()
    }

    pub(super) fn sessions() -> Vec<Seed> {
        // A step is what + 16 * (source + 2 * how much).
        let begin = [0, 16, 5, 21, 9, 10, 7, 23];
        let go = [33, 49, 3, 3, 19, 19, 37, 53, 9, 26, 39, 55];
        let story = |name: &str, settings: u8, middle: &[u8]| {
            let mut input = vec![settings];
            for part in [&begin[..], &go, middle, &go, &go, middle, &begin, &go] {
                input.extend_from_slice(part);
            }
            (name.to_owned(), input)
        };
        vec![
            story("quiet", 0, &[]),
            story("cut", 1, &[11]),
            story("both-cut", 8, &[11, 27, 0, 16]),
            story("source-crash", 0, &[12, 0, 5, 9, 10, 7]),
            story("source-crash-same-epoch", 16, &[12, 0, 5, 7]),
            story("same-epoch-no-patience", 16 | 4, &[9, 12, 0, 5, 14, 7]),
            story("receiver-crash", 8, &[13, 0, 16]),
            story("receiver-crash-with-survivors", 8, &[9, 253, 0, 16]),
            story("full", 1, &[249, 249, 9]),
            story("snapshots", 2, &[252, 9, 9, 10, 13]),
            story("committed", 32, &[15, 13, 0, 16, 15]),
            story("rejects", 9, &[76, 92, 3, 19, 5, 21]),
            story("skips", 24, &[140, 156, 3, 19]),
            story("time", 192, &[62, 62, 62, 3, 19]),
        ]
    }
}

/// Frames, and stories of events as `bodies::ledger` reads them.
#[cfg(feature = "ledger")]
fn ledger() -> Vec<Seed> {
    use bytes::Bytes;
    use seawall::ledger::{Envelope, Event, Identity, InputKind, PartKey, Range};
    use seawall::{Ballot, BatchId, InputId, LedgerId};

    let frame = |name: &str, event: Event| {
        let frame = Envelope { ballot: Ballot { round: 1, proposer: 7 }, time_micros: 100, event }.encode();
        (name.to_owned(), [&[0], &frame[..]].concat())
    };
    let input = InputId::new(1);
    let part = PartKey::new("part").expect("short");
    let range =
        Range { input, part, opens: Some(Bytes::from("label")), from: 1, to: 9, digest: 5, records: 3, bytes: 80 };
    let text = Bytes::from_static(b"text");
    let identity = Identity(9);
    let mut seeds = vec![
        frame("created", Event::LedgerCreated { ledger: LedgerId::new(5) }),
        frame(
            "added",
            Event::InputAdded { input, kind: InputKind::Stream, identity, name: text.clone(), start: 1, digest: 7 },
        ),
        frame(
            "allocated",
            Event::BatchAllocated { batch: BatchId::new(1), ranges: vec![range.clone(), range.clone()] },
        ),
        frame("committed", Event::BatchCommitted { batch: BatchId::new(1), token: text.clone() }),
        frame("dropped", Event::RangeDropped { range: range.clone(), reason: text.clone() }),
        frame("forgotten", Event::PartsForgotten { input, parts: vec![range.part.clone(), range.part] }),
        frame("checkpoint", Event::Checkpoint { index: 0, count: 1, piece: text }),
    ];
    // what, input, batch, from, length, part, ballot, value
    let begun = [[0, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1, 0, 3]];
    let allocate = |input, length, part| [6, input, 0, 0, length, part, 0, 4];
    let commit = |batch| [9, 0, batch, 0, 0, 0, 0, 1];
    let story =
        |name: &str, steps: &[[u8; 8]]| (name.to_owned(), [&[1], begun.concat().as_slice(), &steps.concat()].concat());
    seeds.extend([
        story("in-order", &[allocate(1, 5, 0), commit(1), allocate(1, 3, 0), commit(2), [14, 1, 0, 0, 0, 0, 0, 1]]),
        story(
            "out-of-order",
            &[allocate(1, 5, 0), allocate(2, 3, 1), allocate(1, 4, 0), commit(3), commit(2), commit(1)],
        ),
        story("two-inputs-a-batch", &[[6, 1, 1, 0, 5, 1, 0, 2], commit(1), [6, 2, 1, 0, 5, 1, 0, 1], commit(2)]),
        story(
            "checkpoints",
            &[allocate(1, 5, 0), [15, 3, 0, 0, 0, 0, 0, 0], commit(1), [15, 0, 0, 0, 0, 0, 0, 0], allocate(1, 2, 0)],
        ),
        story("taken-over", &[allocate(1, 5, 0), [1, 0, 0, 0, 0, 0, 200, 0], [9, 0, 1, 0, 0, 0, 255, 1], commit(1)]),
        story(
            "committed-twice",
            &[allocate(1, 5, 0), allocate(1, 3, 0), commit(2), commit(2), [12, 0, 2, 0, 0, 0, 0, 1], commit(1)],
        ),
        story("dropped", &[allocate(1, 5, 0), [13, 1, 0, 0, 4, 0, 0, 1], allocate(1, 5, 0), commit(2), commit(1)]),
        story("abandoned", &[allocate(1, 5, 0), [12, 0, 1, 0, 0, 0, 0, 1], allocate(1, 2, 0), commit(2)]),
        story(
            "removed-and-adopted",
            &[
                allocate(1, 5, 0),
                [4, 1, 0, 0, 0, 0, 0, 0],
                commit(1),
                [4, 1, 0, 0, 0, 0, 0, 0],
                allocate(1, 1, 0),
                [3, 1, 0, 0, 0, 0, 0, 2],
                allocate(1, 1, 0),
            ],
        ),
        story(
            "parts-forgotten",
            &[allocate(2, 5, 1), [5, 2, 0, 0, 0, 1, 0, 0], commit(1), [5, 2, 0, 0, 0, 1, 0, 0], allocate(2, 5, 1)],
        ),
        story(
            "gaps",
            &[[6, 1, 0, 230, 5, 0, 0, 4], [6, 1, 0, 200, 5, 0, 0, 4], [6, 1, 255, 0, 5, 0, 0, 4], allocate(1, 0, 0)],
        ),
    ]);
    seeds
}
