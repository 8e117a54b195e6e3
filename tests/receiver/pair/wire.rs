//! A connection: two streams of bytes in their order, late, in pieces, and cut at any byte.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use seawall::receiver::{Message, Oversized, SessionKey, encode};

use super::story::Random;

/// Virtual time since the beginning.
pub type Time = Duration;

#[derive(Default)]
pub struct Pipe {
    /// What is on its way, and when it arrives; empty: the end.
    pieces: VecDeque<(Time, Vec<u8>)>,
    /// What has arrived and was not read.
    pub arrived: BytesMut,
    pub ended: bool,
}

impl Pipe {
    pub fn send(&mut self, r: &mut Random, now: Time, delay_millis: u64, message: &Message) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = if r.one_in(3) { r.within(1, rest.len() as u64) as usize } else { rest.len() };
            let late = if r.one_in(200) { r.millis(100, 2000) } else { r.millis(0, delay_millis) };
            self.put(now + late, rest[..piece].to_vec());
            rest = &rest[piece..];
        }
        bytes.to_vec()
    }

    pub fn end(&mut self, now: Time) {
        self.put(now, Vec::new());
    }

    fn put(&mut self, at: Time, piece: Vec<u8>) {
        let at = self.pieces.back().map_or(at, |(last, _)| at.max(*last));
        self.pieces.push_back((at, piece));
    }

    pub fn next_at(&self) -> Option<Time> {
        self.pieces.front().map(|(at, _)| *at)
    }

    pub fn deliver(&mut self, now: Time) {
        while self.pieces.front().is_some_and(|(at, _)| *at <= now) {
            let (_, piece) = self.pieces.pop_front().unwrap();
            self.ended |= piece.is_empty();
            self.arrived.extend_from_slice(&piece);
        }
    }

    /// Some bytes still arrive, the rest never does.
    pub fn cut(&mut self, r: &mut Random, now: Time) {
        let pieces = r.below(self.pieces.len() as u64 + 1) as usize;
        self.pieces.truncate(pieces);
        if let Some((_, last)) = self.pieces.back_mut() {
            let kept = r.below(last.len() as u64 + 1) as usize;
            last.truncate(kept.max(1));
        }
        self.pieces.retain(|(_, piece)| !piece.is_empty());
        self.put(now + r.millis(0, 300), Vec::new());
    }
}

/// What the receiver's end is doing with what arrives.
pub enum Reading {
    Head,
    Waiting,
    Body,
    Passing { oversized: Box<Oversized>, missing: usize, whole: BytesMut },
}

pub struct Connection {
    pub up: Pipe,
    pub down: Pipe,
    /// The receiver's session, until it has heard of the end.
    pub key: Option<SessionKey>,
    /// The source's end is still there.
    pub source_listens: bool,
    pub reading: Reading,
    pub is_cut: bool,
}
