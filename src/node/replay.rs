//! What sources have sent, read back from the stream.

use super::error::ReceiverError;
use crate::error::Error;
use crate::io::Storage;
use crate::log::Log;
use crate::receiver::{Block, BlockError, Replay, ReplayError, Sources};
use crate::types::{Lsn, LsnRange};

/// What opening a receiver found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Replayed {
    /// Sources known.
    pub sources: usize,
    /// The frames that were read to know them.
    pub lsns: LsnRange,
    /// Their bytes.
    pub bytes: u64,
    /// Frames among them that cannot be read, with [`ReceiverConfig::accept_damage`](crate::receiver::ReceiverConfig): what
    /// sources sent in these is lost, and where it is not what a source sent last, the source is not told.
    pub damaged: Vec<LsnRange>,
}

/// Sources, and from where their state would be replayed the next time.
pub(super) struct State {
    pub(super) sources: Sources,
    pub(super) replay_from: Lsn,
    pub(super) replayed: Replayed,
}

/// Frames that cannot be read, with known numbers: those behind them can.
pub(super) fn is_passed_over(error: &Error) -> bool {
    error.lsns().is_some() && (error.is_damage() || matches!(error, Error::Quarantined { .. }))
}

/// Reads the stream's newest part; where `Replay` asks for it, all of it.
pub(super) fn replay<S: Storage>(
    log: &Log<S>,
    accept_damage: bool,
    watch: &dyn Fn(u64, u64),
) -> Result<State, ReceiverError> {
    // What a receiver before this one left on its way is told by nobody else: its sources would send it again.
    let end = log.flush()?;
    let first = log.first();
    let mut replay = Replay::new(first, end, accept_damage);
    let (mut lsns, mut bytes) = (LsnRange::NONE, 0);
    while let Some(wanted) = replay.wanted().map_err(|error| told(log, error))? {
        lsns = wanted;
        bytes = 0;
        for frame in log.range(wanted) {
            match frame {
                Ok(frame) => {
                    replay.block(&read_block(log, frame.lsn, &frame.payload)?);
                    bytes += frame.payload.len() as u64;
                    // The one that says where to begin is not progress.
                    if wanted.frames() > 1 {
                        watch(frame.lsn.since(wanted.start.previous()), wanted.frames());
                    }
                }
                Err(error) => match error.lsns() {
                    Some(lsns) if is_passed_over(&error) => replay.unreadable(lsns),
                    _ => return Err(error.into()),
                },
            }
        }
    }
    let found = replay.end();
    let replayed = Replayed { sources: found.sources.len(), lsns, bytes, damaged: found.damaged };
    Ok(State { sources: found.sources, replay_from: found.from, replayed })
}

fn told<S: Storage>(log: &Log<S>, error: ReplayError) -> ReceiverError {
    match error {
        ReplayError::Lost { needed, first } => ReceiverError::StateLost { needed, first },
        ReplayError::Damaged { lsns } => ReceiverError::StateDamaged { lsns, log: log.describe() },
    }
}

pub(super) fn read_block<S: Storage>(log: &Log<S>, lsn: Lsn, payload: &bytes::Bytes) -> Result<Block, ReceiverError> {
    Block::read(payload).map_err(|source: BlockError| ReceiverError::NotABlock { lsn, log: log.describe(), source })
}
