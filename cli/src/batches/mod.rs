//! `seawall batches`: what a ledger says: which batches wait, how the last ones ended, how far its inputs are; and, with
//! the streams at hand, what no batch holds yet. Nothing is written, so that it works beside a running driver.
//!
//! | file | what it owns |
//! |---|---|
//! | `open` | a ledger's log opened and read, or why it is none |
//! | `view` | what is shown of it: the object of `--format json` |
//! | `lag` | a stream's records that no batch holds, or none that is committed |
//! | `one` | the ranges of one batch |
//! | `text` | the same for people |

mod lag;
mod one;
mod open;
mod text;
mod view;

use std::path::PathBuf;

use crate::Global;
use crate::exit::{Ending, Failure};
use crate::output::{self, Format};

/// Show a ledger's batches and inputs, and how far behind its streams they are
///
/// Nothing is written, and a ledger whose driver is at work can be looked at: what is shown is what the driver has
/// proven. With --stream also that stream's frames are read which are in no committed batch. Ages are told by this
/// machine's clock, allocations by the driver's.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::exit::EXIT_CODES)]
pub(crate) struct Args {
    /// The directory of the ledger's log.
    #[arg(value_name = "LEDGER_DIR")]
    ledger: PathBuf,
    /// An input of the ledger and the directory of its log: count what is there and in no batch, by source.
    #[arg(long = "stream", value_name = "NAME=DIR", value_parser = parse_stream)]
    streams: Vec<StreamDir>,
    /// How many of the last settled batches to show; a ledger remembers 100.
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
    /// Only this batch: its ranges.
    #[arg(long, value_name = "BATCH", conflicts_with_all = ["streams", "last"])]
    range: Option<u64>,
}

/// An input's name, and where its log is.
#[derive(Clone, Debug)]
struct StreamDir {
    name: String,
    dir: PathBuf,
}

fn parse_stream(text: &str) -> Result<StreamDir, String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
            Ok(StreamDir { name: name.to_owned(), dir: dir.into() })
        }
        _ => Err("an input's name and its log's directory, as clicks=/data/clicks".into()),
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    for (i, stream) in args.streams.iter().enumerate() {
        if args.streams[..i].iter().any(|before| before.name == stream.name) {
            return Err(Failure::Usage(format!("--stream {} is given twice", stream.name)));
        }
    }
    let ledger = open::ledger(&args.ledger, global)?;
    let is_damaged = match args.range {
        Some(batch) => {
            let batch = one::batch(&ledger, batch)?;
            output::report(|out| match global.format {
                Format::Json => out.json(&batch),
                _ => text::one(&batch, out),
            })?;
            !ledger.recovery.damage.is_empty()
        }
        None => {
            // Behind the ledger: a stream that is looked at later holds everything that was allocated.
            let state = &ledger.view.state;
            let lag = |stream| lag::measure(stream, state, global);
            let streams = args.streams.iter().map(lag).collect::<Result<Vec<_>, Failure>>()?;
            let view = view::of(&ledger, streams, args.last);
            output::report(|out| match global.format {
                Format::Json => out.json(&view),
                _ => text::all(&view, out),
            })?;
            !view.damage.is_empty() || view.streams.iter().any(|stream| !stream.damage.is_empty())
        }
    };
    Ok(if is_damaged { Ending::Damage } else { Ending::Done })
}
