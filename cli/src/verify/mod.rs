//! `seawall verify`: every byte of the log is checked, then every source, ingested or received: is each of its
//! bytes there exactly once? Nothing is written; a log whose writer is at work can be checked too.

mod against;
mod report;

use std::path::PathBuf;

use seawall::{Log, Recovery, Report, SegmentNumber};

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::open::{self, LogDir};
use crate::output::tell;
use crate::progress::Meter;
use crate::sequence::Sequences;
use crate::walk::{Met, Walk, everything};
use against::{Against, Comparison};
pub(crate) use report::finding_line;

/// How often to check at most when the log is written meanwhile.
const LOOKS: u32 = 5;

/// Check every byte, and that each source is there exactly once
///
/// Reads headers, seals, checksums and the chain of the whole log, then walks the records that were ingested or received:
/// per source, offsets (or sequences) must follow each other without a gap or a repetition. What a source skipped, or the
/// receiver rejected, is no gap, and is shown. With --against also the bytes are compared with the
/// original. What the last writer did not prove durable before it died is not judged here: the next open for
/// appending settles it.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::exit::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// The source to compare; needed with --against only when the log holds several.
    #[arg(long, value_name = "NAME", requires = "against")]
    source: Option<String>,
    /// Compare a source's bytes with this file.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Also end with the code for damage when bytes have changed that no frame needs (a header, an index, padding):
    /// nothing is lost, but the medium forgets.
    #[arg(long)]
    strict: bool,
}

/// Everything a check found.
pub(crate) struct Checked {
    pub(crate) recovery: Recovery,
    pub(crate) report: Report,
    pub(crate) sequences: Sequences,
    pub(crate) comparison: Option<Comparison>,
    /// Frames that the walk could not read; findings of the report, as far as it saw the same bytes.
    pub(crate) unreadable_frames: u64,
}

impl Checked {
    /// True when frames are damaged that nobody has set aside.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.report.is_readable()
            || self.unreadable_frames > 0
            || !self.recovery.damage.is_empty()
            || !self.recovery.missing_segments.iter().all(|number| self.is_set_aside(*number))
    }

    /// True when the frames of a missing segment were set aside: the segment behind it does not continue what is before
    /// it, and that is known.
    fn is_set_aside(&self, missing: SegmentNumber) -> bool {
        let behind = self.report.segments.iter().map(|segment| segment.number).find(|number| *number > missing);
        self.report.findings.iter().any(|finding| Some(finding.segment) == behind && finding.quarantined)
    }

    /// True when bytes have changed that no frame needs: headers, indexes, padding, a slot of the control file.
    pub(crate) fn is_changed(&self) -> bool {
        !self.report.is_sound() || self.recovery.control_slot_lost
    }

    /// True when every source is whole, and equal to its original where that was asked.
    pub(crate) fn is_whole(&self) -> bool {
        self.sequences.sources().all(|source| source.is_whole())
            && self.comparison.as_ref().is_none_or(|comparison| comparison.difference.is_none())
    }

    fn ending(&self, strict: bool) -> Ending {
        match (self.is_damaged() || (strict && self.is_changed()), self.is_whole()) {
            (true, _) => Ending::Damage,
            (false, false) => Ending::BrokenSequence,
            (false, true) => Ending::Done,
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let mut before: Vec<(SegmentNumber, u64)> = Vec::new();
    for look in 1.. {
        let (log, recovery) = open::read_only(&args.log.dir, global)?;
        let against = args.against.as_ref().map(|file| Against::open(file, args.source.clone())).transpose()?;
        let checked = check(&log, recovery, &args.log, against, global);
        let suspects = suspects(&checked);
        let is_new = !suspects.iter().any(|suspect| before.contains(suspect));
        if checked.as_ref().map_or(true, Checked::is_damaged) && is_new && look < LOOKS && has_moved(&log, args, global)
        {
            tell("the log was written while it was being checked, and something is not right; looking again");
            before = suspects;
            continue;
        }
        let checked = checked?;
        report::print(&log, &args.log, &checked, global)?;
        return Ok(checked.ending(args.strict));
    }
    unreachable!("the last look is believed")
}

/// Where the damage is that a check found.
fn suspects(checked: &Result<Checked, Failure>) -> Vec<(SegmentNumber, u64)> {
    let findings = checked.as_ref().map_or(&[][..], |checked| &checked.report.findings);
    findings.iter().filter(|finding| !finding.quarantined).map(|finding| (finding.segment, finding.offset)).collect()
}

/// True when a writer is at work. It takes segments away, uses them again and completes them under the check: what is
/// found then is true only if it is still there at a second look.
fn has_moved(log: &Log, args: &Args, global: &Global) -> bool {
    open::read_only(&args.log.dir, global)
        .is_ok_and(|(fresh, _)| fresh.first() > log.first() || fresh.flushed() > log.flushed())
}

fn check(
    log: &Log,
    recovery: Recovery,
    dir: &LogDir,
    mut against: Option<Against>,
    global: &Global,
) -> Result<Checked, Failure> {
    let mut meter = Meter::new("checking every byte,", None, global);
    let report = log.verify(|done, total| meter.show_of(done, total)).in_log(&dir.dir)?;
    meter.finish();

    let payload_bytes = report.segments.iter().map(|segment| segment.payload_bytes).sum();
    let mut meter = Meter::new("checking every source,", Some(payload_bytes), global);
    let mut sequences = Sequences::default();
    let (mut seen_bytes, mut unreadable_frames) = (0, 0);
    for met in Walk::read_only(log, &dir.dir, everything(log), global) {
        match met? {
            Met::Frame(frame) => {
                sequences.frame(frame.lsn, &frame.payload);
                if let Some(against) = &mut against {
                    against.frame(&frame)?;
                }
                seen_bytes += frame.payload.len() as u64;
                if frame.lsn.get().is_multiple_of(4096) {
                    meter.show(seen_bytes, "");
                }
            }
            Met::Damage(lsns, _) => unreadable_frames += lsns.frames(),
            Met::SetAside(lsns) => sequences.set_aside(lsns),
            Met::Trimmed(_) => {}
        }
    }
    let comparison = against.map(|against| against.finish(&sequences)).transpose()?;
    Ok(Checked { recovery, report, sequences, comparison, unreadable_frames })
}
