//! `seawall dump`: records back out, all or some. What cannot be read is told on standard error and in the exit code,
//! never passed over.

use std::time::{Duration, SystemTime};

use seawall::{Lsn, LsnRange};

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::open::{self, LogDir};
use crate::output::{Out, tell};
use crate::show::{Columns, Show};
use crate::walk::{Met, Walk};

/// Print records
///
/// Text shows a record per line: its position, time, source and offset, and its bytes. `--format raw` writes the
/// bytes alone: of a source that was ingested or sent as a file they are that file. Works while another process writes the log, up to
/// what that process has proven durable.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// The first frame; by default the first there is.
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    from: Option<Lsn>,
    /// The last frame; by default the last there is.
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    to: Option<Lsn>,
    /// Begin at the first frame not older than this: "2h", or "2025-01-31 10:00:00".
    #[arg(long, value_name = "TIME", conflicts_with = "from", value_parser = parse_time)]
    since: Option<SystemTime>,
    /// Records of this source only, ingested or received.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

/// A position given as a number.
pub(crate) fn parse_lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map(Lsn::new).map_err(|_| "a frame's number, from 1".into())
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "a time ago (\"2h\") or a time (\"2025-01-31 10:00:00\", UTC)".into())
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let dir = &args.log.dir;
    let (log, recovery) = open::read_only(dir, global)?;
    let first = match args.since {
        Some(time) => {
            let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
            log.first_at(micros as u64).in_log(dir)?
        }
        None => args.from.unwrap_or(log.first()),
    };
    let last = args.to.unwrap_or(log.flushed()).min(log.flushed());
    let show = Show { format: global.format, columns: Columns::Place, source: args.source.as_deref() };
    let mut out = Out::new();
    let mut ending = Ending::Done;
    for met in Walk::read_only(&log, dir, LsnRange::inclusive(first, last), global) {
        match met? {
            Met::Frame(frame) => {
                show.frame(&frame, &mut out)?;
            }
            Met::Damage(lsns, error) => {
                // In order with what went before it, where both go to one terminal.
                out.flush()?;
                tell(format_args!("frames {lsns} cannot be read: {error}"));
                ending = Ending::Damage;
            }
            Met::SetAside(lsns) => {
                out.flush()?;
                tell(format_args!("frames {lsns} are quarantined and left out"));
            }
            Met::Trimmed(lsns) => tell(format_args!("frames {lsns} were trimmed")),
        }
    }
    out.flush()?;
    if last == log.flushed() && open::tell_damaged_end(&recovery) {
        ending = Ending::Damage;
    }
    Ok(ending)
}
