//! What `verify` prints.

use seawall::{Finding, Log};
use serde::Serialize;

use super::Checked;
use super::against::Comparison;
use crate::Global;
use crate::exit::Failure;
use crate::open::LogDir;
use crate::output::{self, Format, Out, grouped, size};
use crate::sequence::Sequence;

/// The object of `--format json`.
#[derive(Serialize)]
struct Json<'a> {
    log: String,
    verdict: &'static str,
    first_lsn: u64,
    last_lsn: u64,
    chain: String,
    frames: u64,
    checked_bytes: u64,
    findings: Vec<JsonFinding<'a>>,
    missing_segments: Vec<u64>,
    tail_damage: Vec<String>,
    unreadable_frames: u64,
    /// Frames in the tail that the last writer did not prove durable; not judged.
    /// One of the control file\'s two slots is lost: a close that it told of is not known.
    control_slot_lost: bool,
    ambiguous_frames: u64,
    foreign_records: u64,
    sources: Vec<&'a Sequence>,
    comparison: Option<&'a Comparison>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    segment: u64,
    offset: u64,
    first_lsn: u64,
    end_lsn: u64,
    what: &'a str,
    quarantined: bool,
}

pub(super) fn print(log: &Log, dir: &LogDir, checked: &Checked, global: &Global) -> Result<(), Failure> {
    output::report(|out| match global.format {
        Format::Json => out.json(&json(log, checked)),
        _ => text(log, dir, checked, out),
    })
}

fn verdict(checked: &Checked) -> &'static str {
    let set_aside = checked.report.findings.iter().any(|finding| finding.quarantined)
        || checked.sequences.sources().any(|source| source.set_aside_bytes > 0)
        || !checked.recovery.quarantined.is_empty();
    match (checked.is_damaged(), checked.is_whole()) {
        (true, _) => "damaged",
        (false, false) => "broken sequence",
        (false, true) if checked.is_changed() => "every frame can be read, but bytes that no frame needs have changed",
        (false, true) if set_aside => "sound but for what was set aside",
        (false, true) => "sound",
    }
}

fn json<'a>(log: &Log, checked: &'a Checked) -> Json<'a> {
    let Checked { recovery, report, sequences, comparison, unreadable_frames } = checked;
    Json {
        log: log.id().to_string(),
        verdict: verdict(checked),
        first_lsn: log.first().get(),
        last_lsn: report.end.get(),
        chain: report.chain.to_string(),
        frames: report.frames,
        checked_bytes: report.segments.iter().map(|segment| segment.file_bytes).sum(),
        findings: report.findings.iter().map(json_finding).collect(),
        missing_segments: recovery.missing_segments.iter().map(|number| number.get()).collect(),
        tail_damage: recovery.damage.iter().map(ToString::to_string).collect(),
        unreadable_frames: *unreadable_frames,
        control_slot_lost: recovery.control_slot_lost,
        ambiguous_frames: recovery.ambiguous_tail.map_or(0, |lsns| lsns.frames()),
        foreign_records: sequences.foreign_records,
        sources: sequences.sources().collect(),
        comparison: comparison.as_ref(),
    }
}

fn json_finding(finding: &Finding) -> JsonFinding<'_> {
    JsonFinding {
        segment: finding.segment.get(),
        offset: finding.offset,
        first_lsn: finding.lsns.start.get(),
        end_lsn: finding.lsns.end.get(),
        what: &finding.what,
        quarantined: finding.quarantined,
    }
}

fn text(log: &Log, dir: &LogDir, checked: &Checked, out: &mut Out) -> Result<(), Failure> {
    let Checked { recovery, report, sequences, comparison, .. } = checked;
    let bytes = report.segments.iter().map(|segment| segment.file_bytes).sum();
    out.line(format_args!("log      {} ({})", dir.dir.display(), log.id()))?;
    out.line(format_args!(
        "frames   {} in {} segments, {} checked; {}..={}, chain {}",
        grouped(report.frames),
        report.segments.len(),
        size(bytes),
        log.first(),
        report.end,
        report.chain
    ))?;
    for finding in &report.findings {
        out.line(finding_line(finding))?;
    }
    for damage in &recovery.damage {
        out.line(format_args!("damage   {damage}"))?;
    }
    for number in &recovery.missing_segments {
        let label = if checked.is_set_aside(*number) { "set aside" } else { "damage  " };
        out.line(format_args!("{label} segment {number} is missing"))?;
    }
    if recovery.control_slot_lost {
        out.line(format_args!("control  {}", crate::open::CONTROL_SLOT_LOST))?;
    }
    if let Some(lsns) = recovery.ambiguous_tail {
        out.line(format_args!(
            "tail     frames {lsns} are there but were not proven durable; the next open for appending settles them"
        ))?;
    }
    for source in sequences.sources() {
        source_lines(source, out)?;
    }
    if sequences.foreign_records > 0 {
        out.line(format_args!(
            "others   {} frames are neither of `ingest` nor of a receiver",
            grouped(sequences.foreign_records)
        ))?;
    }
    if let Some(comparison) = comparison {
        out.line(comparison_line(comparison))?;
    }
    out.line(format_args!("verdict  {}", verdict(checked)))
}

/// One finding, as `repair` shows it too.
pub(crate) fn finding_line(finding: &Finding) -> String {
    let Finding { segment, offset, lsns, what, quarantined, .. } = finding;
    let label = match (*quarantined, lsns.is_empty()) {
        (true, _) => "set aside",
        (false, true) => "changed ",
        (false, false) => "damage  ",
    };
    let frames = if lsns.is_empty() { "no frame affected".into() } else { format!("frames {lsns}") };
    format!("{label} segment {segment} at byte {offset}, {frames}: {what}")
}

fn source_lines(sequence: &Sequence, out: &mut Out) -> Result<(), Failure> {
    let Sequence { source, from, to, records, closed, .. } = sequence;
    let whole = match (sequence.breaks_in_all, sequence.is_whole()) {
        (0, _) => "each exactly once".to_owned(),
        (_, true) => format!("each exactly once but for {} that were set aside", size(sequence.set_aside_bytes)),
        (breaks, false) => format!("NOT each exactly once ({breaks} breaks)"),
    };
    let whole = match (sequence.skipped, sequence.rejected) {
        (0, 0) => whole,
        (skipped, rejected) => format!("{whole}; {skipped} passages skipped, {rejected} records rejected"),
    };
    let end = if *closed { ", closed" } else { "" };
    out.line(format_args!("source   {source:?}: bytes {from}..{to} in {} records{end}, {whole}", grouped(*records)))?;
    for found in &sequence.breaks {
        out.line(format_args!("         {found}"))?;
    }
    for passage in &sequence.passages {
        out.line(format_args!("         {passage}"))?;
    }
    let hidden = sequence.breaks_in_all - sequence.breaks.len() as u64;
    if hidden > 0 {
        out.line(format_args!("         and {hidden} breaks more"))?;
    }
    Ok(())
}

fn comparison_line(comparison: &Comparison) -> String {
    let Comparison { file, source, compared_bytes, not_in_log_bytes, difference } = comparison;
    let rest = match not_in_log_bytes {
        0 => String::new(),
        bytes => format!("; its last {bytes} bytes are not in the log"),
    };
    match difference {
        None => format!("original {file}: {} of {source:?} compared, all equal{rest}", size(*compared_bytes)),
        Some(found) => {
            format!("original {file}: DIFFERS from {source:?} at offset {} (frame {}){rest}", found.offset, found.lsn)
        }
    }
}
