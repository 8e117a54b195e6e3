//! Reading back what sources have sent: which blocks are needed, and what follows from those that cannot be read. Pure: it
//! says what to read, and is told what was found.
//!
//! ```text
//! pointer: the newest block that can be read says where a replay begins
//! blocks:  from there to the end
//! all:     from the stream's first block, when damage is accepted: see `Replay::become_all`
//! ```

use super::block::Block;
use super::sources::Sources;
use crate::types::{Lsn, LsnRange};

/// Why nobody can tell how far the sources have come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayError {
    /// The blocks that tell it are gone, or none can be read.
    Lost {
        /// The first one that is needed.
        needed: Lsn,
        /// The first one there is.
        first: Lsn,
    },
    /// Blocks that tell it cannot be read. What comes behind them would say that a source's records are durable up to there.
    Damaged {
        /// The first of them.
        lsns: LsnRange,
    },
}

/// A replay under way: [`Replay::wanted`] says what to read, [`Replay::block`] and [`Replay::unreadable`] hear what is there.
#[derive(Debug)]
pub struct Replay {
    first: Lsn,
    end: Lsn,
    accept_damage: bool,
    phase: Phase,
    sources: Sources,
    /// From where the blocks are read; [`Lsn::ZERO`]: all of them.
    from: Lsn,
    damaged: Vec<LsnRange>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Pointer(Lsn),
    PointerFound,
    Blocks,
    All,
    Done,
}

/// What a replay found.
#[derive(Debug)]
pub struct ReplayEnd {
    /// How far each source has come.
    pub sources: Sources,
    /// From where the same state would be replayed again; [`Lsn::ZERO`]: from the stream's start.
    pub from: Lsn,
    /// Blocks that cannot be read and were needed: only with `accept_damage`.
    pub damaged: Vec<LsnRange>,
}

impl Replay {
    /// Of a stream whose blocks are `first` to `end`; `end` is [`Lsn::ZERO`] when it never had one.
    #[must_use]
    pub fn new(first: Lsn, end: Lsn, accept_damage: bool) -> Replay {
        let phase = if end == Lsn::ZERO { Phase::Done } else { Phase::Pointer(end) };
        Replay { first, end, accept_damage, phase, sources: Sources::default(), from: Lsn::ZERO, damaged: Vec::new() }
    }

    /// The blocks to read now, in their order; `None`: no more. What was asked for before has been told by then.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn wanted(&mut self) -> Result<Option<LsnRange>, ReplayError> {
        let is_damaged = !self.damaged.is_empty();
        match self.phase {
            Phase::Pointer(at) if at >= self.first && at > Lsn::ZERO => Ok(Some(LsnRange::inclusive(at, at))),
            Phase::PointerFound if self.from.max(Lsn::FIRST) >= self.first => {
                self.phase = Phase::Blocks;
                Ok(Some(LsnRange::inclusive(self.from.max(Lsn::FIRST), self.end)))
            }
            Phase::Done => Ok(None),
            _ if is_damaged && !self.accept_damage => Err(ReplayError::Damaged { lsns: self.damaged[0] }),
            // The stream was trimmed because of a block that cannot be read now, or none can be.
            Phase::Pointer(_) | Phase::PointerFound if is_damaged => Ok(Some(self.become_all())),
            // Only a stream that was never trimmed can be replayed from its start.
            Phase::Pointer(_) => Err(ReplayError::Lost { needed: self.end, first: self.first }),
            Phase::PointerFound => Err(ReplayError::Lost { needed: self.from, first: self.first }),
            Phase::Blocks if is_damaged && self.from.max(Lsn::FIRST) > self.first => Ok(Some(self.become_all())),
            Phase::Blocks | Phase::All => {
                self.phase = Phase::Done;
                Ok(None)
            }
        }
    }

    /// A block that cannot be read may have been part of the snapshot that the replay began with: it told of sources that have sent nothing
    /// since, and they would be taken for new ones and asked for everything again. The blocks before the snapshot tell of
    /// them too, as far as they were not trimmed.
    fn become_all(&mut self) -> LsnRange {
        self.phase = Phase::All;
        // From the start, or what a source has taken note of before would be told to it again.
        self.sources = Sources::default();
        // What is written from now on still needs them: they are not to be trimmed before the next snapshot.
        self.from = self.first;
        LsnRange::inclusive(self.first, self.end)
    }

    /// The next block of those that were asked for.
    pub fn block(&mut self, block: &Block) {
        match self.phase {
            Phase::Pointer(_) => {
                self.from = block.replay_from;
                self.phase = Phase::PointerFound;
            }
            _ => block.ranges.iter().for_each(|(range, _)| self.sources.apply(range)),
        }
    }

    /// The next of those that were asked for cannot be read, nor can the rest of these.
    pub fn unreadable(&mut self, lsns: LsnRange) {
        if !self.damaged.contains(&lsns) {
            self.damaged.push(lsns);
        }
        if let Phase::Pointer(at) = self.phase {
            self.phase = Phase::Pointer(lsns.start.min(at).previous());
        }
    }

    /// What was found, once there is no more to read.
    #[must_use]
    pub fn end(self) -> ReplayEnd {
        debug_assert_eq!(self.phase, Phase::Done, "a replay that ends before its end");
        let Replay { sources, from, mut damaged, .. } = self;
        damaged.sort_by_key(|lsns| lsns.start);
        ReplayEnd { sources, from, damaged }
    }
}
