//! A ledger looked at without driving it: beside a driver, or of one that is not running.

use super::error::LedgerError;
use super::open::fold;
use crate::io::Storage;
use crate::ledger::{Replay, State};
use crate::log::Log;
use crate::types::Lsn;

/// What the ledger in a log says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LedgerView {
    /// Its state at the end.
    pub state: State,
    /// Events that were read.
    pub events: u64,
    /// Of these, written by drivers that had been taken over from, and without effect.
    pub fenced_events: u64,
    /// Where the newest checkpoint begins.
    pub checkpoint: Option<Lsn>,
}

/// Reads the ledger in `log`, which may be open read-only beside its driver: then it sees what the driver's log has proven to
/// readers; while the driver trims, a look may fail with [`crate::Error::Trimmed`], or find nothing: open the log again, and look once more.
///
/// # Errors
/// [`LedgerError::Replay`] when the log holds something else or is damaged, and the log's.
pub fn read_ledger<S: Storage>(log: &Log<S>) -> Result<LedgerView, LedgerError> {
    let mut replay = Replay::default();
    fold(log, &mut replay, log.first(), log.flushed(), &|_, _| {})?;
    let (events, fenced_events, checkpoint) = (replay.events(), replay.fenced(), replay.checkpoint());
    Ok(LedgerView { state: replay.into_state(), events, fenced_events, checkpoint })
}
