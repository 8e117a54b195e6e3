//! A ledger for people.

use super::lag::{SourceLag, StreamLag};
use super::one::OneBatch;
use super::view::{InputRow, Row, Status, View};
use crate::exit::Failure;
use crate::output::{Out, grouped, printable, size, span};
use crate::table::Align::{Left, Right};
use crate::table::Table;

/// Rows of a table whose length nobody limits.
const ROWS_MAX: usize = 20;
/// Characters of a token or a reason.
const NOTE_CHARS_MAX: usize = 60;

pub(super) fn all(view: &View, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!("ledger       {}", view.dir))?;
    out.line(format_args!("identity     {}, newest driver {}", view.ledger, view.ballot))?;
    let fenced = match view.fenced_events {
        0 => String::new(),
        fenced => format!(", {} of them of drivers that were taken over from, without effect", grouped(fenced)),
    };
    let checkpoint = view.checkpoint_lsn.map(|lsn| format!(", newest checkpoint at frame {lsn}")).unwrap_or_default();
    out.line(format_args!("events       {}{fenced}{checkpoint}", grouped(view.events)))?;
    if let Some((start, end)) = view.ambiguous_tail {
        out.line(format_args!("tail         frames {start}..{end} are there but not proven durable: not shown"))?;
    }
    for damage in &view.damage {
        out.line(format_args!("DAMAGE       {damage}"))?;
    }
    out.line(format_args!(
        "batches      last allocated {}, last settled {}, {} pending{}",
        view.last_allocated,
        view.last_settled,
        grouped(view.pending.len() as u64),
        match view.out_of_order.len() {
            0 => String::new(),
            done => format!(", {} done before an older one", grouped(done as u64)),
        }
    ))?;
    section(out, "inputs", !view.inputs.is_empty(), |out| inputs(&view.inputs, out))?;
    section(out, "pending", !view.pending.is_empty(), |out| pending(&view.pending, out))?;
    let early = "done, and waiting for an older one";
    section(out, early, !view.out_of_order.is_empty(), |out| ended(&view.out_of_order, ROWS_MAX, out))?;
    let settled = format!("settled, the last {} of {}", view.settled.len(), grouped(view.last_settled));
    section(out, &settled, !view.settled.is_empty(), |out| ended(&view.settled, usize::MAX, out))?;
    view.streams.iter().try_for_each(|lag| {
        out.line("")?;
        stream(lag, out)
    })
}

fn section(
    out: &mut Out,
    title: &str,
    is_shown: bool,
    write: impl FnOnce(&mut Out) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if !is_shown {
        return Ok(());
    }
    out.line("")?;
    out.line(title)?;
    write(out)
}

fn inputs(rows: &[InputRow], out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(&[
        ("name", Left),
        ("kind", Left),
        ("parts", Right),
        ("records allocated", Right),
        ("settled", Right),
        ("lost", Right),
        ("trimmed up to", Right),
    ]);
    for row in rows {
        table.row(vec![
            printable(row.name.as_bytes()).into_owned(),
            row.kind.to_owned(),
            grouped(row.parts as u64),
            grouped(row.records_allocated),
            grouped(row.records_settled),
            grouped(row.records_lost),
            if row.trimmed == 0 { "-".to_owned() } else { row.trimmed.to_string() },
        ]);
    }
    table.write(out)
}

fn pending(rows: &[Row], out: &mut Out) -> Result<(), Failure> {
    let mut table =
        Table::new(&[("batch", Right), ("age", Right), ("ranges", Right), ("records", Right), ("bytes", Right)]);
    for row in rows.iter().take(ROWS_MAX) {
        let [ranges, records, bytes] = sums(row);
        table.row(vec![row.batch.to_string(), span(row.age_micros), ranges, records, bytes]);
    }
    table.write(out)?;
    and_more(rows.len(), ROWS_MAX, out)
}

/// Batches that are committed or abandoned.
fn ended(rows: &[Row], max: usize, out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(&[
        ("batch", Right),
        ("status", Left),
        ("took", Right),
        ("ranges", Right),
        ("records", Right),
        ("bytes", Right),
        ("token", Left),
    ]);
    for row in rows.iter().take(max) {
        let [ranges, records, bytes] = sums(row);
        let took = row.took_micros.map(span).unwrap_or_default();
        let status = row.status.status.to_owned();
        table.row(vec![row.batch.to_string(), status, took, ranges, records, bytes, note(&row.status)]);
    }
    table.write(out)?;
    and_more(rows.len(), max, out)
}

fn and_more(rows: usize, max: usize, out: &mut Out) -> Result<(), Failure> {
    match rows.saturating_sub(max) {
        0 => Ok(()),
        more => out.line(format_args!("  and {} more (all with --format json)", grouped(more as u64))),
    }
}

fn sums(row: &Row) -> [String; 3] {
    [grouped(row.ranges), grouped(row.records), size(row.bytes)]
}

/// A token, or why a batch was given up.
fn note(status: &Status) -> String {
    let text = match (&status.token, &status.token_hex, &status.reason) {
        (Some(token), ..) => printable(token.as_bytes()).into_owned(),
        (_, Some(hex), _) => format!("0x{hex}"),
        (.., Some(reason)) => format!("because: {}", printable(reason.as_bytes())),
        _ => String::new(),
    };
    match text.char_indices().nth(NOTE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn stream(it: &StreamLag, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!("stream       {} in {}", printable(it.name.as_bytes()), it.dir))?;
    let (first, last, next, committed) = (it.first_lsn, it.last_lsn, it.next_lsn, it.committed_lsn);
    let next = next.saturating_sub(1);
    out.line(format_args!("frames       {first}..={last}, allocated up to {next}, settled up to {committed}"))?;
    let oldest = it.oldest_age_micros.map(|age| format!(", the oldest for {}", span(age))).unwrap_or_default();
    let lag = [grouped(it.lag.blocks), grouped(it.lag.records), size(it.lag.bytes)];
    out.line(format_args!("lag          {} blocks with {} records, {}, in no batch{oldest}", lag[0], lag[1], lag[2]))?;
    let pending = [grouped(it.pending.blocks), grouped(it.pending.records), size(it.pending.bytes)];
    out.line(format_args!(
        "pending      {} blocks with {} records, {}, in batches that are not committed",
        pending[0], pending[1], pending[2]
    ))?;
    let told = [
        ("NOT READ    ", it.unreadable_frames, "frames cannot be read: their records are not counted here"),
        (
            "set aside   ",
            it.set_aside_frames,
            "frames were set aside: a driver goes on behind them when they are dropped",
        ),
        ("trimmed     ", it.trimmed_frames, "frames were trimmed while they were looked for: committed meanwhile"),
        ("not seen    ", it.unseen_frames, "frames that were allocated are not proven to readers yet"),
    ];
    for (title, frames, what) in told.iter().filter(|(_, frames, _)| *frames > 0) {
        out.line(format_args!("{title} {} {what}", grouped(*frames)))?;
    }
    for damage in &it.damage {
        out.line(format_args!("DAMAGE       {damage}"))?;
    }
    if it.sources.is_empty() { Ok(()) } else { sources(&it.sources, out) }
}

fn sources(rows: &[SourceLag], out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(&[("source", Left), ("in no batch", Right), ("not committed", Right)]);
    for row in rows.iter().take(ROWS_MAX) {
        let name = row.source.clone().unwrap_or_else(|| "(without a name)".to_owned());
        table.row(vec![name, grouped(row.unallocated_records), grouped(row.pending_records)]);
    }
    table.write(out)?;
    and_more(rows.len(), ROWS_MAX, out)
}

pub(super) fn one(it: &OneBatch, out: &mut Out) -> Result<(), Failure> {
    let row = &it.row;
    let [ranges, records, bytes] = sums(row);
    out.line(format_args!("ledger       {} ({})", it.dir, it.ledger))?;
    let took = row.took_micros.map(|took| format!(" after {}", span(took))).unwrap_or_default();
    out.line(format_args!("batch        {}, {}{took}", row.batch, row.status.status))?;
    out.line(format_args!("allocated    {}, {} ago", row.allocated, span(row.age_micros)))?;
    let note = note(&row.status);
    if !note.is_empty() {
        let title = if row.status.reason.is_some() { "abandoned" } else { "token" };
        out.line(format_args!("{title:<12} {note}"))?;
    }
    out.line(format_args!("content      {ranges} ranges, {records} records, {bytes}"))?;
    if it.content.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&[
        ("input", Left),
        ("part", Left),
        ("from", Right),
        ("to", Right),
        ("digest", Left),
        ("records", Right),
        ("bytes", Right),
    ]);
    for range in &it.content {
        let input = range.input.clone().unwrap_or_else(|| format!("{} (removed)", range.input_id));
        let part = match (&range.label, range.part.as_str()) {
            // A stream has one part, which is called as it is.
            (_, "") => "-",
            (Some(label), _) => label,
            (None, key) => key,
        };
        table.row(vec![
            printable(input.as_bytes()).into_owned(),
            printable(part.as_bytes()).into_owned(),
            range.from.to_string(),
            range.to.to_string(),
            range.digest.clone(),
            grouped(range.records),
            size(range.bytes),
        ]);
    }
    table.write(out)
}
