//! Frames of the ledger's stream, folded into a state.
//!
//! The stream begins with the ledger's creation, or with the checkpoint it was trimmed to. A checkpoint further on changes
//! nothing: it must say what the events before it have made, and whether it does is looked at every time.

use bytes::{Bytes, BytesMut};

use super::checkpoint::CheckpointError;
use super::event::{Envelope, Event, EventError};
use super::state::{Broken, State};
use crate::types::{Ballot, Lsn, LsnRange};

/// A state in the making.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    state: State,
    /// Pieces of a checkpoint so far, by whom, and how many there are to be.
    pieces: Option<Pieces>,
    events: u64,
    fenced: u64,
    /// The first frame of the newest whole checkpoint.
    checkpoint: Option<Lsn>,
    /// Frames behind it, and the bytes of their payloads.
    since: (u64, u64),
}

#[derive(Clone, Debug)]
struct Pieces {
    ballot: Ballot,
    first: Lsn,
    count: u32,
    next: u32,
    bytes: BytesMut,
}

/// Why frames are no ledger.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The frame is no event.
    #[error("frame {lsn}: {source}")]
    Event {
        /// The frame.
        lsn: Lsn,
        /// What is wrong.
        source: EventError,
    },
    /// The event contradicts those before it.
    #[error("frame {lsn}: {source}")]
    Broken {
        /// The frame.
        lsn: Lsn,
        /// What is wrong.
        source: Broken,
    },
    /// The checkpoint cannot be read.
    #[error("the checkpoint that ends at frame {lsn}: {source}")]
    Checkpoint {
        /// Its last frame.
        lsn: Lsn,
        /// What is wrong.
        source: CheckpointError,
    },
    /// The checkpoint is not what the events before it have made.
    #[error("the checkpoint that ends at frame {lsn} is not what the events before it say")]
    Differs {
        /// Its last frame.
        lsn: Lsn,
    },
    /// Frames are damaged, or were set aside.
    #[error("frames {lsns} cannot be read ({what})")]
    Unreadable {
        /// The frames.
        lsns: LsnRange,
        /// Why.
        what: String,
    },
    /// The stream begins in the middle.
    #[error("frame {lsn}: the ledger's stream begins neither with its creation nor with a whole checkpoint")]
    NoBeginning {
        /// The frame.
        lsn: Lsn,
    },
}

impl Replay {
    /// Takes the next frame.
    ///
    /// # Errors
    /// [`ReplayError`]: the stream is damaged, or was written by something else.
    pub fn frame(&mut self, lsn: Lsn, payload: &Bytes) -> Result<(), ReplayError> {
        let envelope = Envelope::decode(payload).map_err(|source| ReplayError::Event { lsn, source })?;
        self.events += 1;
        self.since = (self.since.0 + 1, self.since.1 + payload.len() as u64);
        // Whoever writes a checkpoint has taken over from those below, although the state that says so is in its pieces.
        let newest = self.pieces.as_ref().map_or(Ballot::ZERO, |pieces| pieces.ballot).max(self.state.ballot());
        if envelope.ballot < newest {
            self.fenced += 1;
            return Ok(());
        }
        match &envelope.event {
            Event::Checkpoint { index, count, piece } => self.piece(lsn, envelope.ballot, *index, *count, piece),
            Event::LedgerCreated { .. } => self.apply(lsn, &envelope),
            _ if self.state.ledger().is_none() => Err(ReplayError::NoBeginning { lsn }),
            _ => self.apply(lsn, &envelope),
        }
    }

    fn apply(&mut self, lsn: Lsn, envelope: &Envelope) -> Result<(), ReplayError> {
        self.state.apply(envelope).map_err(|source| ReplayError::Broken { lsn, source })?;
        // Whoever began it did not end it.
        self.pieces = None;
        Ok(())
    }

    fn piece(&mut self, lsn: Lsn, ballot: Ballot, index: u32, count: u32, piece: &Bytes) -> Result<(), ReplayError> {
        if index == 0 {
            self.pieces = Some(Pieces { ballot, first: lsn, count, next: 0, bytes: BytesMut::new() });
        }
        let no_beginning = ReplayError::NoBeginning { lsn };
        let continues = |p: &&mut Pieces| p.ballot == ballot && p.next == index && p.count == count;
        let pieces = self.pieces.as_mut().filter(continues).ok_or(no_beginning)?;
        pieces.bytes.extend_from_slice(piece);
        pieces.next += 1;
        if pieces.next < count {
            return Ok(());
        }
        let whole = self.pieces.take().expect("just looked at");
        if self.state.ledger().is_none() {
            self.state = State::decode(&whole.bytes).map_err(|source| ReplayError::Checkpoint { lsn, source })?;
        } else if self.state.encode() != whole.bytes {
            return Err(ReplayError::Differs { lsn });
        }
        (self.checkpoint, self.since) = (Some(whole.first), (0, 0));
        Ok(())
    }

    /// The state so far.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Frames so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Frames among them that do not count: of drivers that a later one had taken over from.
    #[must_use]
    pub fn fenced(&self) -> u64 {
        self.fenced
    }

    /// Where the newest whole checkpoint begins: nothing before it is needed.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Lsn> {
        self.checkpoint
    }

    /// Frames behind the newest whole checkpoint, or all where there is none, and the bytes of their payloads.
    #[must_use]
    pub fn since_checkpoint(&self) -> (u64, u64) {
        self.since
    }

    /// The state, for the driver who goes on.
    #[must_use]
    pub fn into_state(self) -> State {
        self.state
    }
}
