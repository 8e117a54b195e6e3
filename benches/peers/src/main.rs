//! The same durable appends on several logs and on the bare device.
//!
//! A cell is a number of client threads and a record size. In each round every contender runs
//! once, in an order that rotates from round to round, so that what disturbs the machine disturbs
//! all of them alike; figures are compared within a round and the medians over the rounds are
//! reported. A contender stays open from the first round of a cell to the last: after the first
//! rounds it is in its steady state.

mod arguments;
mod contenders;
mod machine;
mod report;
mod run;
mod scratch;

use std::process::ExitCode;

use clap::Parser;
use seawall_limit::{Limit, Load, Options, Ticks};

use arguments::{Arguments, Format};
use contenders::{Contender, Failure, Kind};
use report::{CellReport, Entrant, Report};
use run::Run;
use scratch::Scratch;

/// The file that the device limit writes over. Holds twice 8 writes of 64 MiB.
const LIMIT_FILE_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match compare(&arguments) {
        Ok(report) => {
            match arguments.format {
                Format::Text => print!("{report}"),
                Format::Json => println!("{}", report.to_json()),
            }
            if report.has_failures() {
                eprintln!("\nSome contenders FAILED, see above: their rows are not results.");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<Report, Failure> {
    let scratch = Scratch::create(&arguments.dir)?;
    let options = Options { dir: scratch.path().into(), file_bytes: LIMIT_FILE_BYTES, files: 1 };
    let mut limit = Limit::prepare(&options)?;
    let mut report = Report::new(arguments, &limit);
    for &record_bytes in &arguments.records {
        for &clients in &arguments.threads {
            let load = Load { record_bytes: record_bytes.get(), outstanding: clients.get() };
            eprintln!("{clients} threads x {record_bytes} bytes ...");
            report.cells.push(compare_cell(arguments, &scratch, &mut limit, load)?);
        }
    }
    Ok(report)
}

/// A contender while a cell is measured.
struct Open {
    kind: Kind,
    contender: Box<dyn Contender>,
}

fn compare_cell(
    arguments: &Arguments,
    scratch: &Scratch,
    limit: &mut Limit,
    load: Load,
) -> Result<CellReport, Failure> {
    let winner = limit.best(load, arguments.limit_seconds)?;
    let mut cell = CellReport::new(load, &winner, &arguments.only);
    let mut open = Vec::new();
    for &kind in &arguments.only {
        let dir = scratch.subdirectory(kind.name())?;
        match kind.open(&dir, load) {
            Ok(contender) => open.push(Open { kind, contender }),
            Err(error) => cell.fail(Entrant::Log(kind), format!("open: {error}")),
        }
    }
    // What opening left in the page cache is nobody's cost.
    scratch.flush()?;

    let before = Ticks::now();
    let entrants = open.len() + 1;
    // Round 0 is not counted: in it files are made that later rounds use again.
    for round in 0..=arguments.rounds.get() {
        for turn in 0..entrants {
            match (round + turn) % entrants {
                0 => {
                    let seconds = arguments.seconds;
                    let measured = limit.measure_one(load, winner.method, winner.depth, seconds)?;
                    cell.add(round, Entrant::Limit, Run::of_limit(&measured));
                }
                number => {
                    let Open { kind, contender } = &open[number - 1];
                    let entrant = Entrant::Log(*kind);
                    if cell.has_failed(entrant) {
                        continue;
                    }
                    let measured = run::run(contender.as_ref(), load, arguments.seconds)
                        .and_then(|run| contender.trim().map(|()| run));
                    match measured {
                        Ok(run) => cell.add(round, entrant, run),
                        Err(error) => cell.fail(entrant, error.to_string()),
                    }
                    scratch.flush()?;
                }
            }
        }
    }
    cell.summarize();
    // Zeros where the kernel does not tell.
    cell.noise = before.and_then(Ticks::noise_until_now).unwrap_or_default();
    drop(open);
    scratch.empty()?;
    Ok(cell)
}
