//! Sources that do whatever they like, beside one that is honest: nothing panics, nobody else's positions move, what is
//! charged stays bounded, and it all comes back.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use seawall::receiver::{
    Code, FrameHeader, HEADER_BYTES, Hello, Intake, Message, Nack, Oversized, Poison, Preview, ReceiverConfig,
    Reservation, Send, Sequences, SessionKey, SessionOutput, WaitFor, WireError, decode,
};
use seawall::{Seq, SourceEpoch};

use crate::bed::{Bed, dense, hello, id, seq, small};
use crate::pair::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

struct Hostile {
    r: Random,
    bed: Bed,
    keys: Vec<SessionKey>,
    /// How the sessions that are well begun count.
    counts: BTreeMap<SessionKey, Sequences>,
    victim: SessionKey,
    sent: u64,
    most_charged: u64,
}

impl Hostile {
    fn new(seed: u64) -> Hostile {
        let mut r = Random::new(seed);
        let config = ReceiverConfig {
            poison: r.of(&[Poison::Stop, Poison::DeadLetter, Poison::DeadLetter, Poison::Drop]),
            rejects_unseen_max: r.of(&[1, 50]),
            snapshot_interval_bytes: r.of(&[1024, 1 << 20]),
            session_window_bytes: 1 << 20,
            sessions_max: 12,
            sources_max: 4,
            ..small()
        };
        let mut bed = Bed::new(config);
        let (victim, _) = bed.open(hello("victim", 5));
        Hostile { r, bed, keys: Vec::new(), counts: BTreeMap::new(), victim, sent: 0, most_charged: 0 }
    }

    fn number(&mut self) -> u64 {
        match self.r.below(6) {
            0 => self.r.next(),
            1 => u64::MAX - self.r.below(3),
            2 => 0,
            _ => self.r.below(30),
        }
    }

    fn message(&mut self, key: SessionKey) -> Message {
        match self.r.below(30).min(14) {
            0 => Message::Hello(Hello {
                version_min: self.r.below(3) as u16,
                version_max: self.r.within(1, 3) as u16,
                features: self.r.next(),
                sequences: self.r.of(&[Sequences::Dense, Sequences::Sparse, Sequences::None]),
                wait_for: self.r.of(&[WaitFor::Received, WaitFor::Durable, WaitFor::Committed]),
                epoch: SourceEpoch::new(self.number()),
                told_durable: seq(if self.r.one_in(3) { self.number() } else { 0 }),
                token: vec![7; self.r.below(20) as usize],
                stream: if self.r.one_in(5) { "elsewhere".to_owned() } else { String::new() },
                source: match self.r.below(8) {
                    0 => vec![b'n'; 200],
                    1 => Vec::new(),
                    _ => self.r.of(&NAMES).into(),
                },
            }),
            1..=8 | 14 => Message::Send(self.send(key)),
            9 | 10 => {
                let previous = self.near(key);
                Message::Skip {
                    previous: seq(previous),
                    to: seq(previous.saturating_add(if self.r.one_in(20) { u64::MAX } else { self.r.below(30) })),
                }
            }
            11 => Message::Ping { nonce: self.r.next(), rejects_seen: seq(self.number()) },
            12 if self.r.one_in(2) => Message::Bye,
            12 => Message::Pong { nonce: 1 },
            _ => Message::Nack(Nack {
                code: Code::Full,
                at: seq(self.number()),
                expected: seq(self.number()),
                retry_after_millis: 0,
                fatal: self.r.one_in(2),
                text: String::new(),
            }),
        }
    }

    /// Where the source stands, or not far from there, or anywhere.
    fn near(&mut self, key: SessionKey) -> u64 {
        let stands = self.bed.intake.positions(key).map_or(0, |(received, _)| received.get());
        match self.r.below(8) {
            0 => self.number(),
            1 => stands.saturating_add(self.r.below(5)),
            2 | 3 => stands.saturating_sub(self.r.below(5)),
            _ => stands,
        }
    }

    fn send(&mut self, key: SessionKey) -> Send {
        let counts = self.counts.get(&key).copied().unwrap_or(Sequences::Dense);
        let mut payload = BytesMut::new();
        let records = if self.r.one_in(30) { 0 } else { self.r.within(1, 6) };
        for _ in 0..records {
            let most = if self.r.one_in(30) { 1200 } else { 20 };
            let length = self.r.below(most);
            let claimed = if self.r.one_in(80) { self.number() as u32 } else { length as u32 };
            payload.put_u32_le(claimed);
            if counts == Sequences::Sparse {
                let step = if self.r.one_in(40) { self.number() } else { self.r.within(1, 9) };
                payload.put_u32_le(step as u32);
            }
            payload.put_bytes(if self.r.one_in(6) { b'x' } else { b'h' }, length as usize);
        }
        let records = if self.r.one_in(60) { self.number() as u32 } else { records as u32 };
        Send { previous: seq(self.near(key)), records, payload: payload.freeze().into() }
    }

    fn step(&mut self) {
        match self.r.below(30) {
            0 | 1 => match self.bed.intake.connect(self.bed.now) {
                Ok(key) => {
                    self.keys.push(key);
                    if !self.r.one_in(5) {
                        let sequences = self.r.of(&[Sequences::Dense, Sequences::Sparse, Sequences::None]);
                        let wait_for = self.r.of(&[WaitFor::Received, WaitFor::Durable]);
                        let name = self.r.of(&NAMES);
                        self.counts.insert(key, sequences);
                        let hello = Hello { sequences, wait_for, ..hello(name, 0) };
                        self.bed.intake.handle(self.bed.now, key, Message::Hello(hello));
                    }
                }
                Err(refusal) => assert_eq!(refusal.0.code, Code::TooMany),
            },
            2 if !self.keys.is_empty() => {
                let key = self.keys.swap_remove(self.r.below(self.keys.len() as u64) as usize);
                self.bed.intake.disconnect(self.bed.now, key);
                // A transport that is late.
                self.bed.intake.handle(self.bed.now, key, Message::Bye);
                assert_eq!(self.bed.intake.poll_output(key), None);
            }
            3 => self.bed.append(),
            4 => self.bed.settle(),
            7 => self.bed.flush(),
            5 => {
                let time = self.r.millis(0, 40_000);
                self.honest();
                self.bed.pass(time / 8);
                for key in self.keys.clone() {
                    self.bed.intake.tick(self.bed.now, key);
                }
            }
            6 => self.honest(),
            _ if !self.keys.is_empty() => {
                let key = self.r.of(&self.keys);
                self.say(key);
            }
            _ => {}
        }
        self.most_charged = self.most_charged.max(self.bed.intake.stats().charged_bytes);
    }

    /// Something comes by this connection.
    fn say(&mut self, key: SessionKey) {
        let now = self.bed.now;
        if !self.bed.intake.is_granted(key) {
            return;
        }
        if !self.bed.intake.is_open(key) && self.r.one_in(4) {
            self.keys.retain(|other| *other != key);
            return self.bed.intake.disconnect(now, key);
        }
        match self.r.below(60).min(12) {
            0 => self.bed.intake.garbled(now, key, &WireError::Checksum),
            1 => {
                // A claim of up to 4 GiB, of which some bytes come.
                let cost = Oversized::COST_BYTES;
                if self.bed.intake.reserve(now, key, cost) == Reservation::Granted {
                    let head = Preview { previous: seq(self.near(key)), records: self.r.of(&[0, 1, 1, 1, 2]) };
                    let payload = self.r.of(&[5000, u64::from(u32::MAX), 99_000]);
                    if let Some(mut oversized) = self.bed.intake.begin_oversized(key, head, payload) {
                        let bytes = self.r.below(9000) as usize;
                        let mut piece = ((bytes as u32).saturating_sub(4)).to_le_bytes().to_vec();
                        piece.resize(bytes, b'o');
                        oversized.update(&piece);
                        self.bed.intake.end_oversized(key, oversized);
                    }
                }
            }
            2 => drop(self.bed.intake.reserve(now, key, Intake::cost_bytes(self.r.below(3000) as u32))),
            _ => {
                let message = self.message(key);
                let needed = match &message {
                    Message::Send(send) => Some(send.payload.len() as u32 + 16),
                    Message::Hello(_) | Message::Skip { .. } => Some(300),
                    _ => None,
                };
                let intake = &mut self.bed.intake;
                let is_granted = |bytes| intake.reserve(now, key, Intake::cost_bytes(bytes)) == Reservation::Granted;
                if needed.is_none_or(is_granted) {
                    self.bed.intake.handle(now, key, message);
                }
            }
        }
        if self.r.one_in(3) {
            while let Some(SessionOutput::Message(_)) = self.bed.intake.poll_output(key) {}
        }
    }

    /// The victim sends its next record, if there is room, and is where it was.
    fn honest(&mut self) {
        assert_eq!(self.bed.intake.positions(self.victim).unwrap().0, seq(self.sent), "nobody else moves it");
        let now = self.bed.now;
        let mut heard = Vec::new();
        while let Some(SessionOutput::Message(message)) = self.bed.intake.poll_output(self.victim) {
            heard.push(message);
        }
        assert!(!heard.iter().any(|message| matches!(message, Message::Nack(_))), "{heard:?}");
        if self.bed.intake.is_granted(self.victim)
            && self.bed.intake.reserve(now, self.victim, Intake::cost_bytes(30)) == Reservation::Granted
        {
            self.bed.intake.handle(now, self.victim, Message::Send(dense(self.sent, &[b"honest"])));
            self.sent += 1;
        }
    }
}

#[test]
fn hostile_sources_move_nobody_else_and_hold_no_more_than_they_may() {
    let (mut charged, mut refused, mut sent, mut taken, mut rejected, mut gaps) = (0, 0, 0, 0, 0, 0);
    for seed in 0..1200 {
        let mut hostile = Hostile::new(seed);
        (0..400).for_each(|_| hostile.step());
        let Hostile { mut bed, keys, victim, most_charged, sent: honest, .. } = hostile;
        let stats = bed.intake.stats();
        (charged, refused, sent) = (most_charged.max(charged), refused + stats.refused, sent + honest);
        (taken, rejected, gaps) = (taken + stats.records - honest, rejected + stats.rejected, gaps + stats.gaps);
        // One message more than the limit, and what its records cost besides.
        let config = bed.intake.config();
        let besides = u64::from(config.frame_records_max) * (256 + 42 + 64) + config.payload_bytes_max();
        let most = config.in_flight_bytes_max + Oversized::COST_BYTES + besides;
        assert!(most_charged <= most, "seed {seed}: {most_charged} of {most}");
        assert!(stats.sources <= 4 && stats.sessions <= 12, "seed {seed}: {stats:?}");
        for key in keys.into_iter().chain([victim]) {
            bed.intake.disconnect(bed.now, key);
        }
        bed.settle();
        assert_eq!(bed.intake.stats().charged_bytes, 0, "seed {seed}");
        assert_eq!(bed.intake.source(&id("victim")).unwrap().durable, seq(honest), "seed {seed}");
        let memory: Vec<_> = bed.intake.sources().map(|s| (s.id, s.durable, s.epoch, s.rejects_unseen)).collect();
        let bed = bed.restart();
        let replayed: Vec<_> = bed.intake.sources().map(|s| (s.id, s.durable, s.epoch, s.rejects_unseen)).collect();
        let sorted = |mut all: Vec<_>| {
            all.sort();
            all
        };
        assert_eq!(sorted(replayed), sorted(memory), "seed {seed}");
    }
    println!("at most {charged} bytes charged, {refused} sessions refused, {gaps} gaps, {sent} honest records");
    println!("{taken} hostile records taken, {rejected} rejected");
    assert!(refused > 1000 && sent > 1000 && charged > 64 << 10, "{charged} {refused} {sent}");
    assert!(taken > 10_000 && rejected > 150 && gaps > 300, "{taken} {rejected} {gaps}");
}

/// Bytes from anywhere are a header, a message, or an error.
#[test]
fn garbage_is_an_error() {
    let mut r = Random::new(7);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..r.below(60)).map(|_| r.next() as u8).collect();
        if r.one_in(2) && bytes.len() >= 12 {
            let body = bytes.len() as u32 - 12;
            bytes[..4].copy_from_slice(&body.to_le_bytes());
            bytes[4] %= 13;
            bytes[5..8].fill(0);
        }
        if let Some(head) = bytes.first_chunk::<HEADER_BYTES>() {
            taken += usize::from(FrameHeader::read(*head).is_ok());
        }
        assert!(decode(Bytes::from(bytes)).is_err(), "no checksum is right by chance");
    }
    assert!(taken > 1000, "{taken} headers");
}

/// The same name from two places is told to both, and to nobody else.
#[test]
fn a_stolen_name_is_visible() {
    let mut bed = Bed::new(small());
    let (victim, _) = bed.open(hello("victim", 5));
    let (thief, _) = bed.open(hello("victim", 0));
    assert_eq!(bed.nacks(victim), [(Code::OldEpoch, 0)]);
    assert_eq!(bed.intake.stats().replaced, 1);
    assert!(bed.intake.is_open(thief));
    assert_eq!(bed.intake.source(&id("victim")).map(|source| source.durable), Some(Seq::ZERO));
}
