//! `seawall inspect`: what a log is and how far it has come, at a glance. Reads the control file and the unsealed tail;
//! `--frames` reads everything.

use std::path::Path;

use seawall::{Log, LsnRange, Recovery, Report};
use serde::Serialize;

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::open::{self, LogDir};
use crate::output::{self, Format, Out, grouped, size};
use crate::progress::Meter;

/// Show what a log is, how far it has come and which files it has
///
/// Nothing is written, and a log whose writer is at work can be looked at: positions are then those that the writer has
/// proven.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// Also which frames each segment holds; reads the whole log.
    #[arg(long)]
    frames: bool,
}

/// A file of the log's directory.
#[derive(Serialize)]
struct File {
    name: String,
    bytes: u64,
    role: &'static str,
    /// With `--frames`: what it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<Holds>,
}

#[derive(Serialize)]
struct Holds {
    first_lsn: u64,
    end_lsn: u64,
    frames: u64,
    payload_bytes: u64,
    active: bool,
}

/// The object of `--format json`.
#[derive(Serialize)]
struct Inspected {
    dir: String,
    log: String,
    incarnation: String,
    stream: u64,
    backend: String,
    direct_io: bool,
    past_caches: bool,
    device_block_bytes: u32,
    first_lsn: u64,
    last_lsn: u64,
    chain: String,
    trimmed_lsn: u64,
    open_count: u64,
    closed_cleanly: bool,
    torn_at: Option<u64>,
    ambiguous_tail: Option<(u64, u64)>,
    dropped: Option<(u64, u64)>,
    quarantined: Vec<(u64, u64)>,
    missing_segments: Vec<u64>,
    damage: Vec<String>,
    control_rebuilt: bool,
    control_slot_lost: bool,
    #[serde(skip)]
    acknowledged: &'static str,
    opened_in_micros: u64,
    scanned_bytes: u64,
    files: Vec<File>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let dir = &args.log.dir;
    let (log, recovery) = open::read_only(dir, global)?;
    let report = match args.frames {
        true => {
            let mut meter = Meter::new("reading every segment,", None, global);
            Some(log.verify(|done, total| meter.show_of(done, total)).in_log(dir)?)
        }
        false => None,
    };
    let files = files(dir, report.as_ref()).map_err(|e| Failure::file("list", dir, e))?;
    let damaged = open::is_damaged(&recovery) || report.as_ref().is_some_and(|report| !report.is_readable());
    let inspected = inspected(dir, &log, &recovery, files);
    output::report(|out| {
        if global.format == Format::Json {
            return out.json(&inspected);
        }
        text(&inspected, out)?;
        let mut findings = report.iter().flat_map(|report| &report.findings);
        findings.try_for_each(|finding| out.line(crate::verify::finding_line(finding)))
    })?;
    Ok(if damaged { Ending::Damage } else { Ending::Done })
}

fn inspected(dir: &Path, log: &Log, recovery: &Recovery, files: Vec<File>) -> Inspected {
    let range = |lsns: LsnRange| (lsns.start.get(), lsns.end.get());
    let medium = &recovery.medium;
    Inspected {
        dir: dir.display().to_string(),
        log: log.id().to_string(),
        incarnation: log.incarnation().to_string(),
        stream: log.stream_id().0,
        backend: format!("{:?}", medium.backend),
        direct_io: medium.direct,
        past_caches: medium.past_caches,
        device_block_bytes: medium.device_block_bytes,
        first_lsn: log.first().get(),
        last_lsn: log.flushed().get(),
        chain: chain(log, recovery),
        trimmed_lsn: log.watermarks().trimmed.get(),
        open_count: recovery.open_count,
        closed_cleanly: recovery.clean,
        torn_at: recovery.torn_at,
        ambiguous_tail: recovery.ambiguous_tail.map(range),
        dropped: recovery.dropped.map(range),
        quarantined: recovery.quarantined.iter().copied().map(range).collect(),
        missing_segments: recovery.missing_segments.iter().map(|number| number.get()).collect(),
        damage: recovery.damage.iter().map(ToString::to_string).collect(),
        control_rebuilt: recovery.control_rebuilt,
        control_slot_lost: recovery.control_slot_lost,
        acknowledged: open::never_acknowledged(recovery),
        opened_in_micros: recovery.took.as_micros() as u64,
        scanned_bytes: recovery.bytes_scanned,
        files,
    }
}

/// The chain of the last frame that is shown. What recovery found may reach behind it: a tail that nothing proves.
fn chain(log: &Log, recovery: &Recovery) -> String {
    let last = log.flushed();
    let chain = if last == recovery.end { Ok(recovery.chain) } else { log.chain_at(last) };
    chain.map_or_else(|error| format!("unknown: {error}"), |chain| chain.to_string())
}

fn files(dir: &Path, report: Option<&Report>) -> std::io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A writer at work may have taken it away meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = number_before(&name, ".seg");
        let holds = report.zip(number).and_then(|(report, number)| holds(report, number));
        files.push(File { bytes: metadata.len(), role: role(&name), name, holds });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn holds(report: &Report, number: u64) -> Option<Holds> {
    let segment = report.segments.iter().find(|segment| segment.number.get() == number)?;
    Some(Holds {
        first_lsn: segment.lsns.start.get(),
        end_lsn: segment.lsns.end.get(),
        frames: segment.frames,
        payload_bytes: segment.payload_bytes,
        active: segment.active,
    })
}

fn role(name: &str) -> &'static str {
    match name {
        "control" => "control file",
        "lock" => "the writer's lock",
        "control.new" => "control file being made",
        _ if number_before(name, ".seg").is_some() => "segment",
        _ if number_before(name, ".seg.new").is_some() => "segment being prepared",
        _ => "not of the log",
    }
}

/// The number of a segment's file: twenty digits and the suffix.
fn number_before(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// How writes get past the caches, and what follows from it.
pub(crate) fn caches(direct: bool, past_caches: bool) -> &'static str {
    match (direct, past_caches) {
        (true, true) => "O_DIRECT",
        (true, false) => "O_DIRECT, perhaps through a cache: one write at a time",
        (false, _) => "through the page cache: one write at a time",
    }
}

fn text(it: &Inspected, out: &mut Out) -> Result<(), Failure> {
    let range = |(start, end): &(u64, u64)| format!("{start}..{end}");
    out.line(format_args!("log          {}", it.dir))?;
    out.line(format_args!("identity     {}, disk {}, stream {}", it.log, it.incarnation, it.stream))?;
    let direct = caches(it.direct_io, it.past_caches);
    out.line(format_args!("medium       {}, {direct}, blocks of {} bytes", it.backend, it.device_block_bytes))?;
    let frames = (it.last_lsn + 1).saturating_sub(it.first_lsn);
    out.line(format_args!("frames       {}..={} ({})", it.first_lsn, it.last_lsn, grouped(frames)))?;
    if it.trimmed_lsn > 0 {
        out.line(format_args!("trimmed      everything up to frame {}", it.trimmed_lsn))?;
    }
    out.line(format_args!("chain        {}", it.chain))?;
    let closed = if it.closed_cleanly { "closed cleanly" } else { "not closed: a writer is at work, or died" };
    out.line(format_args!("opened       {} times for appending, {closed}", it.open_count))?;
    let scan = crate::output::micros(it.opened_in_micros as f64);
    out.line(format_args!("this look    took {scan} and scanned {}", size(it.scanned_bytes)))?;
    if let Some(lsns) = &it.ambiguous_tail {
        out.line(format_args!("tail         frames {} are there but not proven durable", range(lsns)))?;
    }
    if let Some(at) = it.torn_at {
        out.line(format_args!("torn         a write that did not end begins at byte {at} of the newest segment"))?;
    }
    if let Some(lsns) = &it.dropped {
        let acknowledged = it.acknowledged;
        out.line(format_args!("dropped      frames {} stand behind a hole and were {acknowledged}", range(lsns)))?;
    }
    if it.control_slot_lost {
        out.line(format_args!("control      {}", open::CONTROL_SLOT_LOST))?;
    }
    for lsns in &it.quarantined {
        out.line(format_args!("quarantined  frames {}", range(lsns)))?;
    }
    for number in &it.missing_segments {
        out.line(format_args!("MISSING      segment {number}"))?;
    }
    for damage in &it.damage {
        out.line(format_args!("DAMAGE       {damage}"))?;
    }
    for file in &it.files {
        let holds = file.holds.as_ref().map(|holds| {
            let active = if holds.active { ", active" } else { "" };
            let (frames, bytes) = (grouped(holds.frames), size(holds.payload_bytes));
            format!("  frames {}..{} ({frames}, {bytes}{active})", holds.first_lsn, holds.end_lsn)
        });
        out.line(format_args!(
            "{:>12} {:<28} {}{}",
            size(file.bytes),
            file.name,
            file.role,
            holds.unwrap_or_default()
        ))?;
    }
    Ok(())
}
