//! What is shown of a ledger: the object of `--format json`.

use std::time::SystemTime;

use seawall::ledger::{Batch, BatchStatus, Input, InputKind, Settled};
use seawall::{BatchId, InputId};
use serde::Serialize;

use super::lag::StreamLag;
use super::open::Opened;

#[derive(Serialize)]
pub(super) struct View {
    pub(super) dir: String,
    pub(super) ledger: String,
    /// Of the newest driver.
    pub(super) ballot: String,
    pub(super) events: u64,
    /// Of these, written by drivers that had been taken over from.
    pub(super) fenced_events: u64,
    pub(super) checkpoint_lsn: Option<u64>,
    /// Events that are there but not proven durable: not shown.
    pub(super) ambiguous_tail: Option<(u64, u64)>,
    pub(super) damage: Vec<String>,
    pub(super) last_allocated: u64,
    pub(super) last_settled: u64,
    /// Oldest first, as everywhere here.
    pub(super) pending: Vec<Row>,
    /// Committed or abandoned while an older one is pending.
    pub(super) out_of_order: Vec<Row>,
    pub(super) settled: Vec<Row>,
    pub(super) inputs: Vec<InputRow>,
    pub(super) streams: Vec<StreamLag>,
}

/// A batch.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) batch: u64,
    #[serde(flatten)]
    pub(super) status: Status,
    /// RFC 3339.
    pub(super) allocated: String,
    pub(super) allocated_micros: u64,
    /// Since its allocation.
    pub(super) age_micros: u64,
    /// From its allocation to its end.
    pub(super) took_micros: Option<u64>,
    pub(super) ranges: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// How a batch is. A token is in `token` when it is text, otherwise in `token_hex`.
#[derive(Serialize)]
pub(super) struct Status {
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl Status {
    pub(super) fn of(status: &BatchStatus) -> Status {
        let is = |status| Status { status, token: None, token_hex: None, reason: None };
        match status {
            BatchStatus::Pending => is("pending"),
            BatchStatus::Committed { token, .. } => match std::str::from_utf8(token) {
                Ok(text) => Status { token: Some(text.to_owned()), ..is("committed") },
                Err(_) => Status { token_hex: Some(format!("{token:x}")), ..is("committed") },
            },
            BatchStatus::Abandoned { reason, .. } => {
                Status { reason: Some(String::from_utf8_lossy(reason).into_owned()), ..is("abandoned") }
            }
        }
    }
}

#[derive(Serialize)]
pub(super) struct InputRow {
    pub(super) input: u32,
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) identity: String,
    pub(super) records_allocated: u64,
    pub(super) records_settled: u64,
    pub(super) records_lost: u64,
    pub(super) parts: usize,
    /// Everything up to this position may be gone.
    pub(super) trimmed: u64,
    /// Of a stream, the frame that the next batch begins with.
    pub(super) next_lsn: Option<u64>,
    /// Of a stream, the last frame in the settled prefix of batches.
    pub(super) committed_lsn: Option<u64>,
}

/// Everything about a ledger, and what was measured of its streams.
pub(super) fn of(ledger: &Opened, streams: Vec<StreamLag>, last: usize) -> View {
    let Opened { dir, recovery, view, .. } = ledger;
    let state = &view.state;
    let now = now_micros();
    let behind = |is_pending: bool| -> Vec<Row> {
        let wanted = state.batches().filter(|(_, batch)| (batch.status == BatchStatus::Pending) == is_pending);
        wanted.map(|(id, batch)| row(id, batch, now)).collect()
    };
    let mut settled: Vec<Row> = state.recent().rev().take(last).map(|batch| settled_row(batch, now)).collect();
    settled.reverse();
    View {
        dir: dir.display().to_string(),
        ledger: state.ledger().map(|id| id.to_string()).unwrap_or_default(),
        ballot: state.ballot().to_string(),
        events: view.events,
        fenced_events: view.fenced_events,
        checkpoint_lsn: view.checkpoint.map(|lsn| lsn.get()),
        ambiguous_tail: recovery.ambiguous_tail.map(|lsns| (lsns.start.get(), lsns.end.get())),
        damage: recovery.damage.iter().map(ToString::to_string).collect(),
        last_allocated: state.allocated().get(),
        last_settled: state.settled().get(),
        pending: behind(true),
        out_of_order: behind(false),
        settled,
        inputs: state.inputs().map(|(id, input)| input_row(id, input)).collect(),
        streams,
    }
}

fn row(id: BatchId, batch: &Batch, now: u64) -> Row {
    let (records, bytes) = (batch.records(), batch.bytes());
    row_of(id, &batch.status, batch.allocated_micros, (batch.ranges.len() as u64, records, bytes), now)
}

fn settled_row(batch: &Settled, now: u64) -> Row {
    let sums = (batch.ranges, batch.records, batch.bytes);
    row_of(batch.batch, &batch.status, batch.allocated_micros, sums, now)
}

/// A batch's row, from its ranges, records and bytes.
pub(super) fn row_of(id: BatchId, status: &BatchStatus, allocated: u64, sums: (u64, u64, u64), now: u64) -> Row {
    let ended = match status {
        BatchStatus::Pending => None,
        BatchStatus::Committed { micros, .. } | BatchStatus::Abandoned { micros, .. } => Some(*micros),
    };
    let (ranges, records, bytes) = sums;
    Row {
        batch: id.get(),
        status: Status::of(status),
        allocated: time(allocated),
        allocated_micros: allocated,
        age_micros: now.saturating_sub(allocated),
        took_micros: ended.map(|ended| ended.saturating_sub(allocated)),
        ranges,
        records,
        bytes,
    }
}

fn input_row(id: InputId, input: &Input) -> InputRow {
    InputRow {
        input: id.get(),
        name: name_of(input),
        kind: match input.kind {
            InputKind::Stream => "stream",
            InputKind::Replayable => "replayable",
        },
        identity: input.identity.to_string(),
        records_allocated: input.records_allocated,
        records_settled: input.records_settled,
        records_lost: input.records_lost,
        parts: input.parts.len(),
        trimmed: input.trimmed,
        next_lsn: input.stream().map(|part| part.allocated),
        committed_lsn: input.stream().map(|part| part.committed.saturating_sub(1)),
    }
}

pub(super) fn name_of(input: &Input) -> String {
    String::from_utf8_lossy(&input.name).into_owned()
}

pub(super) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn time(micros: u64) -> String {
    // A clock that is out of every range is shown as the latest time that can be written.
    const MICROS_MAX: u64 = 253_402_300_799_999_999;
    let since = std::time::Duration::from_micros(micros.min(MICROS_MAX));
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since).to_string()
}
