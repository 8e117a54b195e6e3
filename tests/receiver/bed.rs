//! An intake over a log that is told when what is durable: for tests that say every step themselves.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use seawall::receiver::{
    Ack, Block, Code, Hello, Intake, Message, Nack, Oversized, PayloadBuilder, Poison, Preview, Range, ReceiverConfig,
    RecordCheck, Reservation, Send, Sequences, SessionKey, SessionOutput, Sources, WaitFor, Welcome, decode, encode,
};
use seawall::{Lsn, Seq, SourceEpoch, SourceId};

pub fn seq(number: u64) -> Seq {
    Seq::new(number)
}

pub fn id(name: &str) -> SourceId {
    SourceId::new(name).unwrap()
}

/// Small limits, so that each is met.
pub fn small() -> ReceiverConfig {
    ReceiverConfig {
        record_bytes_max: 1000,
        frame_bytes_max: 2048,
        frame_records_max: 100,
        oversized_bytes_max: 100_000,
        in_flight_bytes_max: 64 << 10,
        session_window_bytes: 4096,
        block_bytes_max: 4096,
        ..ReceiverConfig::default()
    }
}

/// Records that begin with an `x` are poison.
pub fn no_x() -> RecordCheck {
    RecordCheck::new(|record| if record.first() == Some(&b'x') { Err("an x".to_owned()) } else { Ok(()) })
}

pub fn hello(name: &str, epoch: u64) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        sequences: Sequences::Dense,
        wait_for: WaitFor::Durable,
        epoch: SourceEpoch::new(epoch),
        source: name.into(),
        ..Hello::default()
    }
}

/// A SEND of the records behind `previous`, one after the other.
pub fn dense(previous: u64, records: &[&[u8]]) -> Send {
    let mut payload = PayloadBuilder::new(Sequences::Dense, seq(previous));
    for (n, record) in records.iter().enumerate() {
        payload.push(seq(previous + 1 + n as u64), record).unwrap();
    }
    payload.finish()
}

pub fn sparse(previous: u64, records: &[(u64, &[u8])]) -> Send {
    let mut payload = PayloadBuilder::new(Sequences::Sparse, seq(previous));
    records.iter().for_each(|(at, record)| payload.push(seq(*at), record).unwrap());
    payload.finish()
}

/// Through the bytes and back.
pub fn carried(message: &Message) -> Message {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    decode(bytes.freeze()).expect("what an honest end says is a message")
}

pub struct Bed {
    pub now: Instant,
    pub intake: Intake,
    /// Every block that was appended; the n-th has Lsn n + 1.
    pub blocks: Vec<Bytes>,
    pub durable: usize,
}

impl Bed {
    pub fn new(config: ReceiverConfig) -> Bed {
        config.validate().unwrap();
        let intake = Intake::new(config, "in", Sources::default(), Lsn::ZERO, Lsn::ZERO, 0).with_check(no_x());
        Bed { now: Instant::now(), intake, blocks: Vec::new(), durable: 0 }
    }

    pub fn with_poison(poison: Poison) -> Bed {
        Bed::new(ReceiverConfig { poison, ..small() })
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub fn connect(&mut self) -> SessionKey {
        self.intake.connect(self.now).unwrap()
    }

    /// Charges and hands over a message, as a transport does.
    pub fn say(&mut self, key: SessionKey, message: Message) {
        let message = carried(&message);
        let needed = match &message {
            Message::Send(send) => Some(send.payload.len() as u32 + 16),
            Message::Hello(_) | Message::Skip { .. } => Some(40),
            _ => None,
        };
        if let Some(bytes) = needed {
            assert_eq!(self.intake.reserve(self.now, key, Intake::cost_bytes(bytes)), Reservation::Granted);
        }
        self.intake.handle(self.now, key, message);
    }

    pub fn send(&mut self, key: SessionKey, send: Send) {
        self.say(key, Message::Send(send));
    }

    /// All that is to be said on this connection now.
    pub fn heard(&mut self, key: SessionKey) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(SessionOutput::Message(message)) = self.intake.poll_output(key) {
            all.push(carried(&message));
        }
        all
    }

    pub fn nacks(&mut self, key: SessionKey) -> Vec<(Code, u64)> {
        let is_nack = |message| {
            if let Message::Nack(Nack { code, expected, .. }) = message { Some((code, expected.get())) } else { None }
        };
        self.heard(key).into_iter().filter_map(is_nack).collect()
    }

    pub fn last_ack(&mut self, key: SessionKey) -> Option<Ack> {
        let is_ack = |message| if let Message::Ack(ack) = message { Some(ack) } else { None };
        self.heard(key).into_iter().filter_map(is_ack).last()
    }

    /// Gives the log what waits; nothing becomes durable.
    pub fn append(&mut self) {
        while let Some(pieces) = self.intake.take_block() {
            self.blocks.push(pieces.concat().into());
            self.intake.placed(Lsn::new(self.blocks.len() as u64));
        }
    }

    pub fn flush(&mut self) {
        self.durable = self.blocks.len();
        self.intake.durable(self.now, Lsn::new(self.durable as u64));
    }

    /// Appends and flushes until nothing waits.
    pub fn settle(&mut self) {
        while !self.intake.is_settled() {
            self.append();
            self.flush();
        }
    }

    /// A session that is open.
    pub fn open(&mut self, hello: Hello) -> (SessionKey, Welcome) {
        let key = self.connect();
        self.say(key, Message::Hello(hello));
        self.settle();
        match self.heard(key).first() {
            Some(Message::Welcome(welcome)) => (key, welcome.clone()),
            other => panic!("{other:?} instead of a WELCOME"),
        }
    }

    /// All ranges in the log, in order.
    pub fn ranges(&self) -> Vec<Range> {
        let blocks = self.blocks.iter().map(|block| Block::read(block).unwrap());
        blocks.flat_map(|block| block.ranges).map(|(range, _)| range).collect()
    }

    /// What is replayed of the durable blocks, as an open does it.
    pub fn replayed(&self) -> (Sources, Lsn) {
        replay(&self.blocks[..self.durable])
    }

    /// The receiver is gone with what was not durable, and comes back.
    pub fn restart(self) -> Bed {
        let (sources, replay_from) = self.replayed();
        let Bed { now, intake, mut blocks, durable } = self;
        blocks.truncate(durable);
        let config = intake.config().clone();
        let intake = Intake::new(config, "in", sources, Lsn::new(durable as u64), replay_from, 0).with_check(no_x());
        Bed { now, intake, blocks, durable }
    }
}

/// The sources' state, from where the newest block says.
pub fn replay(blocks: &[Bytes]) -> (Sources, Lsn) {
    let mut sources = Sources::default();
    let Some(newest) = blocks.last() else { return (sources, Lsn::ZERO) };
    let replay_from = Block::read(newest).unwrap().replay_from;
    for block in &blocks[replay_from.get().saturating_sub(1) as usize..] {
        Block::read(block).unwrap().ranges.iter().for_each(|(range, _)| sources.apply(range));
    }
    (sources, replay_from)
}

pub fn ping(seen: u64) -> Message {
    Message::Ping { nonce: 1, rejects_seen: seq(seen) }
}

/// Several records that pass by have room at once.
pub fn roomy() -> Bed {
    Bed::new(ReceiverConfig { poison: Poison::DeadLetter, in_flight_bytes_max: 1 << 20, ..small() })
}

/// Feeds a SEND of one record that is too long, in pieces.
pub fn pass_by(bed: &mut Bed, key: SessionKey, payload: &[u8], previous: u64) -> Option<()> {
    assert_eq!(bed.intake.reserve(bed.now, key, Oversized::COST_BYTES), Reservation::Granted);
    let head = Preview { previous: seq(previous), records: 1 };
    let mut oversized = bed.intake.begin_oversized(key, head, payload.len() as u64)?;
    payload.chunks(700).for_each(|piece| oversized.update(piece));
    bed.intake.end_oversized(key, oversized);
    Some(())
}
