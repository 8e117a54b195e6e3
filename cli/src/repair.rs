//! `seawall repair`: sets damage aside, so that the log goes on and readers get a typed gap instead of an error they
//! do not expect. Nothing is deleted: the bytes stay where they are.

use std::time::Duration;

use seawall::{Config, Finding, Log, Lsn, LsnRange, Recovery, RecoveryMode, Report};
use serde::Serialize;

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::open::{self, LogDir};
use crate::output::{self, Format, Out};
use crate::progress::Meter;
use crate::verify::finding_line;
use crate::walk::{Met, Walk, everything};

/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// Set damaged frames aside, or say what would be
///
/// A quarantined range is recorded in the control file: readers meet it as a gap with a name and go on behind it,
/// appends work again. The damaged bytes stay on disk.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::exit::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    #[command(flatten)]
    what: What,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Check everything and say what would be set aside. Writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Check everything and set aside what is damaged. The log must have no other writer.
    #[arg(long)]
    quarantine: bool,
}

/// The object of `--format json`.
#[derive(Serialize)]
struct Json<'a> {
    dry_run: bool,
    /// The control file was lost, and was rebuilt from the segments. What had been set aside before is forgotten with it.
    control_rebuilt: bool,
    /// Ranges of frames set aside now (or that would be), half-open.
    set_aside: Vec<(u64, u64)>,
    /// Ranges that were set aside before.
    set_aside_before: Vec<(u64, u64)>,
    /// Damage at the log's end. Setting it aside takes the numbers of all frames that may have been there.
    end: &'a [String],
    /// Damage that affects no frame: nothing can be done about it, and nothing has to.
    left: &'a [String],
}

/// What is to be done about a log.
struct Repair {
    control_rebuilt: bool,
    set_aside: Vec<LsnRange>,
    set_aside_before: Vec<LsnRange>,
    end: Vec<String>,
    left: Vec<String>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let repair = if args.what.dry_run { look(args, global)? } else { quarantine(args, global)? };
    output::report(|out| print(args, global, &repair, out))?;
    let undone = args.what.dry_run && !(repair.set_aside.is_empty() && repair.end.is_empty());
    Ok(if undone { Ending::Damage } else { Ending::Done })
}

fn look(args: &Args, global: &Global) -> Result<Repair, Failure> {
    let dir = &args.log.dir;
    let (log, recovery) = open::read_only(dir, global)?;
    let walk = Walk::read_only(&log, dir, everything(&log), global);
    let damage = damage(&log, walk, args, global)?;
    let tail: Vec<LsnRange> = recovery.damage.iter().filter_map(seawall::Error::lsns).filter(is_bounded).collect();
    Ok(plan(damage, tail, recovery.quarantined.clone(), &recovery))
}

fn quarantine(args: &Args, global: &Global) -> Result<Repair, Failure> {
    let dir = &args.log.dir;
    let before = match open::read_only(dir, global) {
        Ok((_, recovery)) => recovery.quarantined,
        // Lost with the control file, which the open below rebuilds.
        Err(Failure::Log { source: seawall::Error::Control { .. }, .. }) => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let config = Config { recovery: RecoveryMode::Quarantine, create: false, ..open::config(global)? };
    let config = open::for_any_record(config);
    let (log, recovery) = open::writable(dir, config)?;
    let damage = damage(&log, Walk::own(&log, dir, everything(&log)), args, global)?;
    // Opening this way has set the tail's damage aside already.
    let tail = recovery.quarantined.iter().copied().filter(|lsns| !before.contains(lsns)).collect();
    let repair = plan(damage, tail, before, &recovery);
    for lsns in repair.set_aside.iter().filter(|lsns| !recovery.quarantined.contains(lsns)) {
        log.quarantine(*lsns).in_log(dir)?;
    }
    log.close(CLOSE_WITHIN).in_log(dir)?;
    Ok(repair)
}

/// Frames without an end are those that cannot be named: nothing is known of them but that they were there.
fn is_bounded(lsns: &LsnRange) -> bool {
    !lsns.is_empty() && lsns.end != Lsn::MAX
}

/// What a check found that nobody has set aside: in the files, and on the way from frame to frame.
struct Damage {
    report: Report,
    unreadable: Vec<LsnRange>,
}

fn damage(log: &Log, walk: Walk<'_>, args: &Args, global: &Global) -> Result<Damage, Failure> {
    let mut meter = Meter::new("checking every byte,", None, global);
    let report = log.verify(|done, total| meter.show_of(done, total)).in_log(&args.log.dir)?;
    meter.finish();
    let mut unreadable = Vec::new();
    for met in walk {
        if let Met::Damage(lsns, _) = met? {
            unreadable.push(lsns);
        }
    }
    Ok(Damage { report, unreadable })
}

/// What is to be set aside: every damaged range that is not, joined where they overlap.
fn plan(damage: Damage, tail: Vec<LsnRange>, before: Vec<LsnRange>, recovery: &Recovery) -> Repair {
    let Damage { report, unreadable } = damage;
    let findings = report.findings.iter().filter(|finding| !finding.quarantined);
    // What could not be read may be the next time, and what is set aside is set aside for good.
    let (named, unnamed): (Vec<&Finding>, Vec<&Finding>) =
        findings.partition(|finding| !finding.lsns.is_empty() && !finding.unread);
    let mut ranges: Vec<LsnRange> = named.iter().map(|finding| finding.lsns).chain(unreadable).chain(tail).collect();
    ranges.retain(is_bounded);
    ranges.sort_by_key(|lsns| lsns.start);
    let mut set_aside: Vec<LsnRange> = Vec::new();
    for lsns in ranges {
        match set_aside.last_mut() {
            Some(last) if lsns.start <= last.end => last.end = last.end.max(lsns.end),
            _ => set_aside.push(lsns),
        }
    }
    let is_named = |error: &seawall::Error| error.lsns().is_some_and(|lsns| is_bounded(&lsns));
    Repair {
        control_rebuilt: recovery.control_rebuilt,
        set_aside,
        set_aside_before: before,
        end: recovery.damage.iter().filter(|error| !is_named(error)).map(ToString::to_string).collect(),
        left: unnamed.into_iter().map(finding_line).collect(),
    }
}

fn print(args: &Args, global: &Global, repair: &Repair, out: &mut Out) -> Result<(), Failure> {
    let Repair { control_rebuilt, set_aside, set_aside_before, end, left } = repair;
    let pairs = |ranges: &[LsnRange]| ranges.iter().map(|lsns| (lsns.start.get(), lsns.end.get())).collect();
    if global.format == Format::Json {
        return out.json(&Json {
            dry_run: args.what.dry_run,
            control_rebuilt: *control_rebuilt,
            set_aside: pairs(set_aside),
            set_aside_before: pairs(set_aside_before),
            end,
            left,
        });
    }
    if *control_rebuilt {
        out.line("the control file was lost and was rebuilt from the segments")?;
    }
    for lsns in set_aside_before {
        out.line(format_args!("frames {lsns} were set aside before"))?;
    }
    let verb = if args.what.dry_run { "would be set aside" } else { "are set aside now" };
    for lsns in set_aside {
        out.line(format_args!("frames {lsns} ({}) {verb}", lsns.frames()))?;
    }
    for what in end {
        out.line(format_args!("at the log's end: {what}"))?;
    }
    for what in left {
        out.line(format_args!("left as it is: {what}"))?;
    }
    if set_aside.is_empty() && end.is_empty() && left.is_empty() && !control_rebuilt {
        out.line("nothing is damaged")
    } else if args.what.dry_run {
        out.line("nothing was written")
    } else {
        out.line("nothing was deleted")
    }
}
