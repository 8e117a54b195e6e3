//! `seawall rescue`: a log copied off a device that cannot read all of it any more.

use std::path::PathBuf;

use seawall::{Rescue, Unread, rescue};
use serde::Serialize;

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::open::LogDir;
use crate::output::{self, Format, Out, grouped, size};
use crate::progress::Meter;

/// Copy a log off a device that fails to read some of it
///
/// Block by block where the device reports an error; zeros take the place of what cannot be read, and each such range is named. In
/// the copy it is damage: `verify` tells which frames it cost, `repair --quarantine` sets them aside. Of the newest segment an
/// unread block may also have held the last group, which nothing claims yet: whether something is missing there, only this
/// command's output tells. Nothing is written into the old directory, which is not to be written any more.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::exit::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// The directory to make, on another device. It grows as INTO.partial, and is there when it is whole.
    #[arg(value_name = "INTO")]
    into: PathBuf,
}

/// The object of `--format json`.
#[derive(Serialize)]
struct Json<'a> {
    into: String,
    files: u64,
    bytes: u64,
    unread_bytes: u64,
    unread: Vec<Range<'a>>,
}

/// A range of a file that could not be read.
#[derive(Serialize)]
struct Range<'a> {
    file: &'a str,
    offset: u64,
    bytes: u64,
}

impl Range<'_> {
    fn of(unread: &Unread) -> Range<'_> {
        Range { file: &unread.file, offset: unread.offset, bytes: unread.bytes }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let mut meter = Meter::new("copying,", None, global);
    let rescued = rescue(&args.log.dir, &args.into, |done, total| meter.show_of(done, total)).in_log(&args.log.dir)?;
    meter.finish();
    output::report(|out| print(args, global, &rescued, out))?;
    Ok(if rescued.unread.is_empty() { Ending::Done } else { Ending::Damage })
}

fn print(args: &Args, global: &Global, rescued: &Rescue, out: &mut Out) -> Result<(), Failure> {
    let unread_bytes: u64 = rescued.unread.iter().map(|range| range.bytes).sum();
    let into = args.into.display().to_string();
    if global.format == Format::Json {
        let unread = rescued.unread.iter().map(Range::of).collect();
        return out.json(&Json { into, files: rescued.files, bytes: rescued.bytes, unread_bytes, unread });
    }
    out.line(format_args!("{} files, {} copied to {into}", rescued.files, size(rescued.bytes)))?;
    for Unread { file, offset, bytes, .. } in &rescued.unread {
        out.line(format_args!("{file}: {} bytes at {} could not be read", grouped(*bytes), grouped(*offset)))?;
    }
    if !rescued.unread.is_empty() {
        out.line(format_args!(
            "{} could not be read; see `seawall repair --log {into} --dry-run`",
            size(unread_bytes)
        ))?;
    }
    Ok(())
}
