//! What sources have sent, read back from the stream.

use super::error::ReceiverError;
use crate::error::Error;
use crate::io::Storage;
use crate::log::Log;
use crate::receiver::{Block, BlockError, Sources};
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

fn note(damaged: &mut Vec<LsnRange>, lsns: Option<LsnRange>) {
    damaged.extend(lsns.filter(|lsns| !damaged.contains(lsns)));
}

/// Reads the stream's newest part. Where frames of it cannot be read, nobody can tell whose records they held: what comes
/// behind them would say that a source's records are durable up to there. So that is refused unless `accept_damage`.
pub(super) fn replay<S: Storage>(
    log: &Log<S>,
    accept_damage: bool,
    watch: &dyn Fn(u64, u64),
) -> Result<State, ReceiverError> {
    let (first, end) = (log.first(), log.flushed());
    let mut replayed = Replayed { sources: 0, lsns: LsnRange::NONE, bytes: 0, damaged: Vec::new() };
    let mut sources = Sources::default();
    if end == Lsn::ZERO {
        return Ok(State { sources, replay_from: Lsn::ZERO, replayed });
    }
    let replay_from = newest_pointer(log, first, end, &mut replayed.damaged)?;
    let from = replay_from.max(Lsn::FIRST);
    if from < first {
        return Err(ReceiverError::StateLost { needed: from, first });
    }
    replayed.lsns = LsnRange::inclusive(from, end);
    let total = end.since(from.previous());
    for frame in log.range(replayed.lsns) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if is_passed_over(&error) => {
                note(&mut replayed.damaged, error.lsns());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let block = read_block(log, frame.lsn, &frame.payload)?;
        block.ranges.iter().for_each(|(range, _)| sources.apply(range));
        replayed.bytes += frame.payload.len() as u64;
        watch(frame.lsn.since(from.previous()), total);
    }
    if let Some(lsns) = replayed.damaged.first().filter(|_| !accept_damage) {
        return Err(ReceiverError::StateDamaged { lsns: *lsns, log: format!("{log:?}") });
    }
    replayed.sources = sources.len();
    Ok(State { sources, replay_from, replayed })
}

/// Where the newest block that can be read says that a replay begins.
fn newest_pointer<S: Storage>(
    log: &Log<S>,
    first: Lsn,
    end: Lsn,
    damaged: &mut Vec<LsnRange>,
) -> Result<Lsn, ReceiverError> {
    let mut at = end;
    while at >= first && at > Lsn::ZERO {
        match log.read(at) {
            Ok(frame) => return Ok(read_block(log, at, &frame.payload)?.replay_from),
            Err(error) => match error.lsns() {
                Some(lsns) if lsns.start <= at && is_passed_over(&error) => {
                    note(damaged, Some(lsns));
                    at = lsns.start.previous();
                }
                _ => return Err(error.into()),
            },
        }
    }
    // Nothing can be read, or nothing is there: only a stream that was never trimmed can be replayed from its start.
    Err(ReceiverError::StateLost { needed: end, first })
}

pub(super) fn read_block<S: Storage>(log: &Log<S>, lsn: Lsn, payload: &bytes::Bytes) -> Result<Block, ReceiverError> {
    Block::read(payload).map_err(|source: BlockError| ReceiverError::NotABlock { lsn, log: format!("{log:?}"), source })
}
