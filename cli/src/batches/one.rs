//! The ranges of one batch: of a pending one as the ledger has them, of a settled one as long as the event that
//! allocated it is there.

use seawall::ledger::{Batch, BatchStatus, Envelope, Event, Range, Replay};
use seawall::{BatchId, Error, LsnRange};
use serde::Serialize;

use super::open::Opened;
use super::view::{Row, name_of, now_micros, row_of};
use crate::exit::{Failure, InLog};

/// The object of `--range BATCH --format json`.
#[derive(Serialize)]
pub(super) struct OneBatch {
    pub(super) dir: String,
    pub(super) ledger: String,
    #[serde(flatten)]
    pub(super) row: Row,
    pub(super) content: Vec<RangeRow>,
}

/// A range of a batch: `from` up to, not including, `to`.
#[derive(Serialize)]
pub(super) struct RangeRow {
    /// `None`: the input has been removed.
    pub(super) input: Option<String>,
    pub(super) input_id: u32,
    /// The part's key; of a stream empty.
    pub(super) part: String,
    /// What people call it.
    pub(super) label: Option<String>,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Of a stream, the chain at its last frame.
    pub(super) digest: String,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Looks a batch up.
pub(super) fn batch(ledger: &Opened, number: u64) -> Result<OneBatch, Failure> {
    let state = &ledger.view.state;
    let id = BatchId::new(number);
    let dir = ledger.dir.display();
    if id == BatchId::ZERO || id > state.allocated() {
        let last = state.allocated();
        return Err(Failure::Usage(format!(
            "batch {id} of the ledger in {dir} is not allocated: the last one is {last}"
        )));
    }
    let known = match state.batch(id) {
        Some(batch) => Some(batch.clone()),
        None => settled(ledger, id)?,
    };
    let Some(batch) = known else {
        let checkpoint = ledger.log.first();
        return Err(Failure::Usage(format!(
            "batch {id} of the ledger in {dir} is settled, and what it held is not written down any more: the events \
             before the checkpoint at frame {checkpoint} are gone"
        )));
    };
    let sums = (batch.ranges.len() as u64, batch.records(), batch.bytes());
    Ok(OneBatch {
        dir: dir.to_string(),
        ledger: state.ledger().map(|id| id.to_string()).unwrap_or_default(),
        row: row_of(id, &batch.status, batch.allocated_micros, sums, now_micros()),
        content: batch.ranges.iter().map(|range| range_row(ledger, range)).collect(),
    })
}

/// Reads the events again: the batch as it was when it was settled.
fn settled(ledger: &Opened, id: BatchId) -> Result<Option<Batch>, Failure> {
    let Opened { dir, log, .. } = ledger;
    let mut replay = Replay::default();
    let mut found: Option<Batch> = None;
    for frame in log.range(LsnRange::inclusive(log.first(), log.flushed())) {
        let frame = match frame {
            // A driver at work gave the events up meanwhile.
            Err(Error::Trimmed { .. }) => return Ok(None),
            frame => frame.in_log(dir)?,
        };
        let broken = |what: String| Failure::Ledger(format!("the ledger in {}: {what}", dir.display()));
        let fenced = replay.fenced();
        replay.frame(frame.lsn, &frame.payload).map_err(|e| broken(e.to_string()))?;
        if replay.fenced() > fenced {
            continue;
        }
        let Some(batch) = &mut found else {
            found = replay.state().batch(id).cloned();
            continue;
        };
        let envelope = Envelope::decode(&frame.payload).map_err(|e| broken(e.to_string()))?;
        let micros = envelope.time_micros;
        match envelope.event {
            Event::BatchCommitted { batch: of, token } if of == id => {
                batch.status = BatchStatus::Committed { token, micros };
                break;
            }
            Event::BatchAbandoned { batch: of, reason } if of == id => {
                batch.status = BatchStatus::Abandoned { reason, micros };
                break;
            }
            _ => {}
        }
    }
    Ok(found)
}

fn range_row(ledger: &Opened, range: &Range) -> RangeRow {
    let input = ledger.view.state.input(range.input);
    let part = input.and_then(|input| input.parts.get(&range.part));
    let label = part.map(|part| &part.label).or(range.opens.as_ref()).filter(|label| !label.is_empty());
    RangeRow {
        input: input.map(name_of),
        input_id: range.input.get(),
        part: range.part.to_string(),
        label: label.map(|label| String::from_utf8_lossy(label).into_owned()),
        from: range.from,
        to: range.to,
        digest: format!("{:016x}", range.digest),
        records: range.records,
        bytes: range.bytes,
    }
}
