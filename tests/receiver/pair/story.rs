//! What is to happen, told by a seed.

use std::time::Duration;

use seawall::SourceId;
use seawall::receiver::{Poison, ReceiverConfig, Sequences, WaitFor};

use super::super::bed::{id, small};

/// Small and good enough: every choice comes from here.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EA3_A11D)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.within(low, high))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    Record,
    /// Its first byte is an x.
    Poison,
    Oversized,
    /// Sequences that never come, up to this item's.
    Skip,
    /// It was refused for good, and the source's user gave it up.
    GivenUp,
}

#[derive(Clone, Debug)]
pub struct Planned {
    pub item: Item,
    pub seq: u64,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct SourceStory {
    pub id: SourceId,
    pub sequences: Sequences,
    pub wait_for: WaitFor,
    /// 0: every life takes the next epoch; otherwise all lives go on with this one.
    pub epoch: u64,
    pub plan: Vec<Planned>,
    pub says_bye: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Cut,
    CrashSource,
    /// The source is started a second time, and the first one does not know.
    Zombie,
    CrashReceiver,
    DrainReceiver,
    Full,
    Slow,
    Snapshot,
    /// Durable blocks cannot be read any more, which an open notices.
    Rot,
}

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::Cut,
        Fault::CrashSource,
        Fault::Zombie,
        Fault::CrashReceiver,
        Fault::DrainReceiver,
        Fault::Full,
        Fault::Slow,
        Fault::Snapshot,
        Fault::Rot,
    ];
}

/// An error a receiver, or what is around it, could have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// What is in memory is acknowledged as durable.
    AckReceived,
    /// Sources are not replayed.
    ForgetSources,
    /// A SEND that does not continue is taken as if it did.
    TakeGaps,
    /// Flushed blocks are lost.
    LoseFlushed,
    /// More is trimmed than the bound allows.
    TrimTooFar,
    /// A block is written twice.
    WriteTwice,
    /// Half of the replay is left out.
    ReplayHalf,
    /// Blocks are put into the log in another order.
    Swap,
    /// What a source waits for is never told.
    Mute,
    /// A replay is not told of blocks that cannot be read.
    HideRot,
    /// Damage is accepted when a replay begins, though nobody said so.
    AcceptRot,
}

impl Lie {
    pub const ALL: [Lie; 11] = [
        Lie::AckReceived,
        Lie::ForgetSources,
        Lie::TakeGaps,
        Lie::LoseFlushed,
        Lie::TrimTooFar,
        Lie::WriteTwice,
        Lie::ReplayHalf,
        Lie::Swap,
        Lie::Mute,
        Lie::HideRot,
        Lie::AcceptRot,
    ];
}

#[derive(Clone, Debug)]
pub struct Story {
    pub name: String,
    pub seed: u64,
    pub config: ReceiverConfig,
    pub sources: Vec<SourceStory>,
    pub rate: Option<f64>,
    /// What happens when, in steps.
    pub faults: Vec<(u64, Fault)>,
    /// What else happens: about one in so many steps; 0: nothing.
    pub fault_every: u64,
    /// No more faults after this.
    pub calm_after: Duration,
    pub delay_millis: u64,
    /// The receiver's disk may rot.
    pub rots: bool,
    pub lie: Option<Lie>,
}

impl Story {
    pub fn random(seed: u64) -> Story {
        let mut r = Random::new(seed);
        let poison = r.of(&[Poison::Stop, Poison::DeadLetter, Poison::DeadLetter, Poison::Drop]);
        let config = ReceiverConfig {
            poison,
            frame_records_max: r.of(&[3, 100]),
            session_window_bytes: r.of(&[2048, 4096, 16_384]),
            in_flight_bytes_max: 64 << 10,
            block_bytes_max: r.of(&[4096, 16_384]),
            blocks_in_flight_max: r.within(1, 4) as u32,
            snapshot_interval_bytes: r.of(&[1024, 8192, 64 << 20]),
            rejects_unseen_max: r.of(&[1, 2, 256]),
            heartbeat: r.of(&[Duration::from_millis(100), Duration::from_secs(10)]),
            welcome_wait: r.of(&[Duration::ZERO, Duration::from_millis(30), Duration::from_secs(5)]),
            ..small()
        };
        let sources = (0..r.within(1, 4)).map(|n| Story::source(&mut r, n, poison)).collect();
        Story {
            name: format!("seed {seed}"),
            seed,
            config,
            sources,
            rate: r.one_in(4).then(|| r.within(20_000, 400_000) as f64),
            faults: Vec::new(),
            fault_every: r.of(&[8, 20, 60]),
            calm_after: r.millis(50, 1500),
            delay_millis: r.of(&[2, 20]),
            rots: r.one_in(3),
            lie: None,
        }
    }

    fn source(r: &mut Random, n: u64, poison: Poison) -> SourceStory {
        let sequences = r.of(&[Sequences::Dense, Sequences::Dense, Sequences::Sparse, Sequences::None]);
        let wait_for = match (r.below(4), sequences) {
            (0, _) => WaitFor::Received,
            (1, Sequences::Dense | Sequences::Sparse) => WaitFor::Committed,
            _ => WaitFor::Durable,
        };
        let bad = if r.one_in(3) { 4 } else { 15 };
        let mut seq = 0;
        let plan = (0..r.within(3, 40))
            .map(|at| {
                let bad_item = if poison == Poison::Stop && !r.one_in(3) {
                    Item::Record
                } else {
                    r.of(&[Item::Poison, Item::Oversized])
                };
                let item = if r.one_in(bad) { bad_item } else { Item::Record };
                let item = if sequences != Sequences::None && r.one_in(12) { Item::Skip } else { item };
                let step = match sequences {
                    Sequences::Sparse if r.one_in(20) => r.within(1 << 32, 1 << 34),
                    Sequences::Sparse => r.within(1, 50),
                    _ if item == Item::Skip => r.within(1, 9),
                    _ => 1,
                };
                seq += step;
                Planned { item, seq, bytes: content(r, item, n, at) }
            })
            .collect();
        let epoch = if r.one_in(3) { 1 } else { 0 };
        SourceStory { id: id(&format!("source-{n}")), sequences, wait_for, epoch, plan, says_bye: r.one_in(2) }
    }

    /// Few records, and nothing but `faults` happens.
    pub fn short(variant: u64, faults: &[(u64, Fault)]) -> Story {
        let mut r = Random::new(variant);
        let sequences = [Sequences::Dense, Sequences::Sparse, Sequences::None, Sequences::Dense][variant as usize % 4];
        let wait_for =
            [WaitFor::Durable, WaitFor::Committed, WaitFor::Durable, WaitFor::Received][variant as usize % 4];
        let mut kinds = vec![Item::Record; 5];
        if sequences != Sequences::None {
            kinds.insert(2, Item::Poison);
            kinds.insert(4, Item::Skip);
        }
        let step = if sequences == Sequences::Sparse { 7 } else { 1 };
        let plan = kinds.iter().enumerate();
        let plan = plan.map(|(at, item)| Planned {
            item: *item,
            seq: (at as u64 + 1) * step,
            bytes: content(&mut r, *item, 0, at as u64),
        });
        let source = SourceStory {
            id: id("source-0"),
            sequences,
            wait_for,
            epoch: u64::from(variant >= 4),
            plan: plan.collect(),
            says_bye: true,
        };
        let config = ReceiverConfig {
            poison: Poison::DeadLetter,
            frame_records_max: 2,
            session_window_bytes: 2048,
            rejects_unseen_max: 1,
            snapshot_interval_bytes: 1024,
            heartbeat: Duration::from_millis(100),
            welcome_wait: Duration::from_millis(20),
            ..small()
        };
        Story {
            name: format!("variant {variant}, faults {faults:?}"),
            seed: variant,
            config,
            sources: vec![source],
            rate: None,
            faults: faults.to_vec(),
            fault_every: 0,
            calm_after: Duration::ZERO,
            delay_millis: 3,
            rots: true,
            lie: None,
        }
    }
}

pub const VARIANTS: u64 = 8;

fn content(r: &mut Random, item: Item, source: u64, at: u64) -> Vec<u8> {
    let head = if item == Item::Poison { 'x' } else { 'r' };
    let mut bytes = format!("{head}{source}.{at}.").into_bytes();
    let length = match item {
        Item::Oversized => r.within(1001, 9000),
        Item::Skip => 0,
        _ if r.one_in(5) => r.within(500, 1000),
        _ => r.within(8, 40),
    } as usize;
    bytes.resize(length.max(if item == Item::Skip { 0 } else { bytes.len() }), b'.');
    bytes
}
