//! Outboxes and an intake, driven by bytes: each byte is a step. What is acknowledged must be in the durable blocks, and in
//! the end every record is there once, in its order.
//!
//! ```text
//! input | settings 1 | steps, a byte each: what % 16, who or how much / 16 … |
//! ```

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use seawall::receiver::{
    Block, Code, Intake, Message, Outbox, OutboxConfig, OutboxError, OutboxOutput, Poison, RangeKind, ReceiverConfig,
    RecordCheck, Reservation, Sequences, SessionKey, SessionOutput, Sources, WaitFor, decode, encode,
};
use seawall::{Lsn, Seq, SourceEpoch, SourceId};

use super::Input;

const SOURCES: usize = 2;

struct Source {
    id: SourceId,
    config: OutboxConfig,
    outbox: Outbox,
    key: Option<SessionKey>,
    up: VecDeque<Message>,
    down: VecDeque<Message>,
}

struct Bench {
    now: Instant,
    config: ReceiverConfig,
    intake: Intake,
    blocks: Vec<Bytes>,
    durable: usize,
    /// By the durable blocks alone.
    truth: [Seq; SOURCES],
    folded: usize,
    told: [Seq; SOURCES],
    sources: Vec<Source>,
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut bench = Bench::new(input.byte());
    for step in input.rest().iter().take(2000) {
        bench.step(step % 16, usize::from(step / 16));
    }
    bench.calm();
}

/// Every seventh record is poison; the number is in each.
fn record(seq: u64) -> Bytes {
    let head = if seq.is_multiple_of(7) { 'x' } else { 'r' };
    let mut bytes = format!("{head}{seq:08}").into_bytes();
    bytes.resize(9 + (seq as usize * 37) % 200, b'.');
    bytes.into()
}

fn carried(message: &Message) -> Message {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    decode(bytes.freeze()).expect("what an honest end says is a message")
}

impl Bench {
    fn new(settings: u8) -> Bench {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        let config = ReceiverConfig {
            record_bytes_max: 1000,
            frame_bytes_max: 1024,
            frame_records_max: 4,
            in_flight_bytes_max: 64 << 10,
            session_window_bytes: if settings & 1 == 0 { 1024 } else { 8192 },
            block_bytes_max: 4096,
            blocks_in_flight_max: 1 + u32::from(settings >> 6),
            snapshot_interval_bytes: if settings & 2 == 0 { 1024 } else { 1 << 20 },
            rejects_unseen_max: 2,
            poison: Poison::DeadLetter,
            welcome_wait: if settings & 4 == 0 { Duration::ZERO } else { Duration::from_secs(1) },
            ..ReceiverConfig::default()
        };
        let source = |n: usize| {
            let id = SourceId::new(format!("s{n}")).expect("short");
            let sparse = settings & 8 != 0 && n == 1;
            let config = OutboxConfig {
                source: Some(id.clone()),
                epoch: SourceEpoch::new(u64::from(settings & 16 != 0)),
                sequences: if sparse { Sequences::Sparse } else { Sequences::Dense },
                wait_for: if settings & 32 != 0 { WaitFor::Committed } else { WaitFor::Durable },
                held_bytes_max: 4096,
                send_bytes: 600,
                ..OutboxConfig::default()
            };
            Source {
                id,
                outbox: Outbox::new(config.clone()),
                config,
                key: None,
                up: VecDeque::new(),
                down: VecDeque::new(),
            }
        };
        let mut bench = Bench {
            now: *EPOCH.get_or_init(Instant::now),
            intake: Intake::new(config.clone(), "in", Sources::default(), Lsn::ZERO, Lsn::ZERO, 0),
            config,
            blocks: Vec::new(),
            durable: 0,
            truth: [Seq::ZERO; SOURCES],
            folded: 0,
            told: [Seq::ZERO; SOURCES],
            sources: (0..SOURCES).map(source).collect(),
        };
        bench.open();
        bench
    }

    /// As a node opens a receiver: the sources are replayed from where the newest block says.
    fn open(&mut self) {
        let blocks = &self.blocks[..self.durable];
        let mut sources = Sources::default();
        let replay_from = blocks.last().map_or(Lsn::ZERO, |newest| Block::read(newest).expect("a block").replay_from);
        for block in &blocks[replay_from.get().saturating_sub(1) as usize..] {
            Block::read(block).expect("a block").ranges.iter().for_each(|(range, _)| sources.apply(range));
        }
        let check = RecordCheck::new(|record| if record[0] == b'x' { Err("an x".to_owned()) } else { Ok(()) });
        let durable = Lsn::new(self.durable as u64);
        self.intake = Intake::new(self.config.clone(), "in", sources, durable, replay_from, 0).with_check(check);
    }

    fn step(&mut self, what: u8, much: usize) {
        let n = much % SOURCES;
        match what {
            0 => self.connect(n),
            1 | 2 => self.push(n, 1 + much / SOURCES),
            3 | 4 => self.speak(n),
            5 | 6 => self.arrive(n, 1 + much / SOURCES),
            7 | 8 => self.hear(n, 1 + much / SOURCES),
            9 => self.append(much == 15),
            10 => self.flush(much),
            11 => self.cut(n),
            12 => match much / SOURCES {
                // Its user has forgotten everything, and goes on where the WELCOME says.
                0 | 1 => {
                    self.cut(n);
                    self.sources[n].outbox = Outbox::new(self.sources[n].config.clone());
                }
                2 | 3 => drop(self.sources[n].outbox.take_rejects()),
                4 => {
                    let last = self.sources[n].outbox.positions().pushed.get();
                    if self.sources[n].outbox.is_welcomed() && last > 0 {
                        let _ = self.sources[n].outbox.skip(Seq::new(last + 1));
                    }
                }
                _ => self.intake.request_snapshot(seawall::Lsn::MAX),
            },
            13 => self.crash(much),
            14 => self.pass(Duration::from_millis([1, 100, 1000, 10_000][much % 4])),
            _ => self.commit(),
        }
    }

    fn connect(&mut self, n: usize) {
        self.cut(n);
        let source = &mut self.sources[n];
        if source.outbox.failure().is_none() {
            source.key = Some(self.intake.connect(self.now).expect("there is room"));
            source.outbox.connect();
            source.up.push_back(carried(&source.outbox.hello()));
        }
    }

    fn cut(&mut self, n: usize) {
        let source = &mut self.sources[n];
        if let Some(key) = source.key.take() {
            self.intake.disconnect(self.now, key);
        }
        source.up.clear();
        source.down.clear();
        source.outbox.disconnected();
    }

    fn push(&mut self, n: usize, count: usize) {
        let source = &mut self.sources[n];
        for _ in 0..count {
            if !source.outbox.is_welcomed() {
                return;
            }
            let last = source.outbox.positions().pushed.get();
            let next = if source.config.sequences == Sequences::Sparse { last + 1 + last % 5 } else { last + 1 };
            match source.outbox.push_at(Seq::new(next), record(next)) {
                Ok(_) => {}
                Err(OutboxError::Full { .. }) => return,
                Err(error) => assert_eq!(source.outbox.failure(), Some(&error)),
            }
        }
    }

    /// The outbox says something.
    fn speak(&mut self, n: usize) {
        let source = &mut self.sources[n];
        if source.key.is_none() {
            return;
        }
        match source.outbox.poll_output(self.now) {
            Some(OutboxOutput::Message(message)) => source.up.push_back(carried(&message)),
            Some(OutboxOutput::Reconnect { .. } | OutboxOutput::Close) => self.cut(n),
            None => {}
        }
        let failure = self.sources[n].outbox.failure();
        assert!(failure.is_none(), "an honest source fails: {failure:?}");
    }

    /// Messages arrive at the receiver, and it answers.
    fn arrive(&mut self, n: usize, count: usize) {
        let Some(key) = self.sources[n].key else { return };
        for _ in 0..count {
            let Some(message) = self.sources[n].up.front() else { break };
            let bytes = if let Message::Send(send) = message { 16 + send.payload.len() as u32 } else { 60 };
            let is_reserved = self.intake.is_granted(key)
                && self.intake.reserve(self.now, key, Intake::cost_bytes(bytes)) == Reservation::Granted;
            if !is_reserved {
                break;
            }
            let message = self.sources[n].up.pop_front().expect("there is one");
            self.intake.handle(self.now, key, message);
        }
        self.answer(n);
    }

    fn answer(&mut self, n: usize) {
        let Some(key) = self.sources[n].key else { return };
        while let Some(output) = self.intake.poll_output(key) {
            let SessionOutput::Message(message) = output else { break };
            let durable = match &message {
                Message::Ack(ack) => Some(ack.durable),
                Message::Welcome(welcome) => Some(welcome.durable),
                Message::Nack(nack) => {
                    let wrong = [Code::Protocol, Code::Credit, Code::Limit, Code::AckedLoss, Code::Version];
                    assert!(!wrong.contains(&nack.code), "an honest source is told {nack:?}");
                    None
                }
                _ => None,
            };
            if let Some(durable) = durable {
                assert!(durable <= self.truth[n], "{durable} is acknowledged, {} is durable", self.truth[n]);
                assert!(durable >= self.told[n], "{durable} is told after {}", self.told[n]);
                self.told[n] = durable;
            }
            self.sources[n].down.push_back(carried(&message));
        }
    }

    fn hear(&mut self, n: usize, count: usize) {
        self.answer(n);
        let source = &mut self.sources[n];
        for message in source.down.drain(..count.min(source.down.len())) {
            source.outbox.handle(self.now, message);
        }
        assert!(source.outbox.positions().told_durable <= self.truth[n], "an outbox believes more than there is");
    }

    fn append(&mut self, is_full: bool) {
        let Some(pieces) = self.intake.take_block() else { return };
        if is_full {
            return self.intake.put_back(true);
        }
        let block: Bytes = pieces.concat().into();
        assert!(block.len() as u64 <= self.config.frame_of_log_bytes_max());
        self.blocks.push(block);
        self.intake.placed(Lsn::new(self.blocks.len() as u64));
    }

    fn flush(&mut self, much: usize) {
        self.durable += (self.blocks.len() - self.durable).min(1 + much);
        self.fold();
        self.intake.durable(self.now, Lsn::new(self.durable as u64));
    }

    fn fold(&mut self) {
        for block in &self.blocks[self.folded..self.durable] {
            for (range, _) in Block::read(block).expect("a block").ranges {
                let n =
                    self.sources.iter().position(|source| range.source.as_ref() == Some(&source.id)).expect("known");
                if matches!(range.kind, RangeKind::Records | RangeKind::Skipped | RangeKind::Reject { .. }) {
                    assert_eq!(range.previous, self.truth[n], "ranges follow each other");
                    self.truth[n] = range.last;
                }
            }
        }
        self.folded = self.durable;
    }

    fn crash(&mut self, survivors: usize) {
        (0..SOURCES).for_each(|n| self.cut(n));
        self.durable += (self.blocks.len() - self.durable).min(survivors / 4);
        self.blocks.truncate(self.durable);
        self.fold();
        self.open();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for n in 0..SOURCES {
            if let Some(key) = self.sources[n].key
                && self.intake.next_deadline(key).is_some_and(|deadline| deadline <= self.now)
            {
                self.intake.tick(self.now, key);
            }
        }
    }

    fn commit(&mut self) {
        let reached: Vec<_> = (0..SOURCES).map(|n| (self.sources[n].id.clone(), self.truth[n])).collect();
        self.intake.committed(Lsn::new(self.durable as u64), reached);
    }

    /// No more faults: everything that was given is acknowledged, and what is in the blocks is what was given.
    fn calm(&mut self) {
        for round in 0.. {
            assert!(round < 5000, "no progress: {:?} {:?}", self.intake.stats(), self.truth);
            for n in 0..SOURCES {
                if self.sources[n].key.is_none() || round % 500 == 499 {
                    self.connect(n);
                }
                for _ in 0..4 {
                    self.speak(n);
                }
                self.arrive(n, 9);
                self.hear(n, 9);
                self.sources[n].outbox.take_rejects();
            }
            self.append(false);
            self.flush(99);
            self.commit();
            self.pass(Duration::from_millis(50));
            let waits = |source: &Source| source.outbox.held_bytes() > 0 || !source.outbox.is_welcomed();
            if self.intake.is_settled() && !self.sources.iter().any(waits) {
                break;
            }
        }
        (0..SOURCES).for_each(|n| self.cut(n));
        assert_eq!(self.intake.stats().charged_bytes, 0, "everything is given back");
        let mut last = [0; SOURCES];
        for block in &self.blocks {
            let block = Block::read(block).expect("a block");
            for found in block.records() {
                let found = found.expect("a record");
                let n = self.sources.iter().position(|s| found.range.source.as_ref() == Some(&s.id)).expect("known");
                assert!(found.seq.get() > last[n], "once, and in order");
                last[n] = found.seq.get();
                assert_eq!(found.record, record(last[n]));
            }
        }
    }
}
