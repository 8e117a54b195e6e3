//! `seawall bench`: how close the log comes to what the device gives, both measured in the same run, in turns.
//!
//! The limit comes from `seawall-limit`, which shares no code with the log. A ratio is taken within each round,
//! between two measurements that are seconds apart, because a device's speed changes from minute to minute; what is
//! printed is the median of the ratios and their spread.

mod cells;
mod drive;
mod figures;
mod loads;
mod many;
mod opening;
mod others;
mod reading;
mod rotation;
mod scratch;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use seawall::{BackendChoice, Config};
use seawall_limit::Ticks;

use crate::Global;
use crate::exit::{Ending, Failure};
use crate::interrupt::Interrupt;
use crate::open;
use crate::output::tell;
use cells::{CellName, LoadCell};
use scratch::Scratch;
use table::Table;

/// Measure the log against the device limit, in the same run
///
/// Each round measures both, in turns. By default in a steady state: segments are written over again, as they are in a
/// log that is trimmed. Scratch files go into --dir and are removed; up to 5 GiB are needed there. With the defaults it
/// takes about four minutes: --rounds 3 --seconds 0.5 gives a first idea in one. What other programs used of the CPUs
/// meanwhile is said last.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A directory on the device to measure.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long each measurement takes, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Rounds; medians are taken over them.
    #[arg(long, value_name = "R", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What to measure; the first six unless said otherwise.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CELL,…", default_values_t = CellName::LOADS)]
    cells: Vec<CellName>,
    /// How the log's writes are carried.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// A new log for each measurement, so that segments are being prepared meanwhile, instead of the steady state.
    #[arg(long)]
    cold: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Backend {
    /// io_uring where it works.
    Auto,
    /// io_uring or nothing.
    #[value(name = "io_uring")]
    IoUring,
    /// Positional writes.
    Pwrite,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.01 and 3600 seconds".into()),
    }
}

/// What every cell needs.
struct Bench<'a> {
    scratch: Scratch,
    /// The base of every log's configuration.
    config: Config,
    seconds: Duration,
    rounds: u32,
    cold: bool,
    interrupt: Interrupt,
    global: &'a Global,
}

impl Bench<'_> {
    /// Asked between measurements: a bench that is interrupted leaves no files behind.
    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.interrupt.is_asked() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    fn say(&self, what: impl std::fmt::Display) {
        if !self.global.quiet {
            tell(what);
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let interrupt = Interrupt::watch().map_err(|e| Failure::Usage(format!("signals cannot be watched: {e}")))?;
    let mut config = open::config(global)?;
    match args.backend {
        Backend::Auto => {}
        Backend::IoUring => config.backend = BackendChoice::IoUring,
        Backend::Pwrite => config.backend = BackendChoice::Pwrite,
    }
    let bench = Bench {
        scratch: Scratch::create(&args.dir)?,
        config,
        seconds: Duration::from_secs_f64(args.seconds),
        rounds: args.rounds,
        cold: args.cold,
        interrupt,
        global,
    };
    let mut table = Table::new(&bench, args);
    let loads: Vec<&LoadCell> = args.cells.iter().filter_map(|name| name.load()).collect();
    if !loads.is_empty() {
        loads::measure(&bench, &loads, &mut table)?;
    }
    for name in &args.cells {
        let before = Ticks::now();
        match name {
            CellName::Rotation => table.rotation(rotation::measure(&bench)?),
            CellName::Open => table.opening(opening::measure(&bench)?),
            CellName::Read => table.reading(reading::measure(&bench)?),
            CellName::Logs64 => table.many(many::measure(&bench)?),
            _ => continue,
        }
        table.beside(before.and_then(Ticks::noise_until_now));
    }
    table.print(global)?;
    Ok(Ending::Done)
}
