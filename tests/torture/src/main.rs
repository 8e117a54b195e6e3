//! Crashes the log in every way we know, and says what was found.
//!
//! Each *layer* crashes it in one way: power lost in a simulator, a process killed, a file system shut down under it.
//! All of them ask one oracle: what was acknowledged is there; what is there is a gap-free prefix of what was appended;
//! what a reader has seen never disappears; what was given up never comes back. Each layer first runs its *negative
//! control*: a fault that it must notice. A control that is not caught means that the layer is broken, whatever else it
//! says.
//!
//! ```text
//! cargo torture                       every layer, each with its share of time
//! cargo torture kill --seconds 60     one of them
//! cargo torture --long                the goals of a long run, until they are met
//! cargo torture mutants               who catches what: known bugs, built in on purpose
//! ```

#[path = "../../../fuzz/bodies/mod.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the fuzz crate")]
mod bodies;
mod child;
mod control;
mod judge;
mod layer;
mod layers;
mod mounts;
mod mutants;
#[allow(dead_code, unreachable_pub, unused_imports, missing_docs, reason = "shared with the tests")]
mod pair;
mod proxy;
mod report;
mod rng;
#[allow(dead_code, unreachable_pub, unused_imports, missing_docs, reason = "shared with the tests")]
mod simulated;
#[path = "../../support/tasks.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod tasks;
mod victim;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use layer::{Layer, Plan};
use report::Line;

/// Crashes the log in every way we know, and says what was found.
#[derive(Parser)]
#[command(name = "torture", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Other {
    /// Builds known bugs into a copy of the source, and runs every layer that claims to notice them.
    Mutants(mutants::Args),
    /// The process that is crashed: not for people.
    #[command(hide = true)]
    Victim(victim::Args),
}

#[derive(Args)]
struct Run {
    /// Layers to run; all of them when none is named.
    layers: Vec<String>,
    /// Time for each layer; otherwise its share.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Crashes (or states, or flips) for each layer; otherwise its goal.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// The goals of a long run, with no limit of time but `--time`.
    #[arg(long)]
    long: bool,
    /// Where every choice begins. What is decided by the scheduler is not decided by it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many at a time; otherwise one per CPU.
    #[arg(long)]
    lanes: Option<usize>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Ends a layer at the first thing it finds.
    #[arg(long)]
    first: bool,
    /// Without the negative control: for mutants, which are controls themselves.
    #[arg(long, hide = true)]
    without_control: bool,
    /// Lists the layers and their goals, and runs none.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// One line of JSON per layer.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.other {
        Some(Other::Victim(args)) => return victim::main(&args),
        Some(Other::Mutants(args)) => return who_catches_what(&args),
        None => {}
    }
    let run = cli.run;
    let layers = match chosen(&run.layers) {
        Ok(layers) => layers,
        Err(unknown) => {
            eprintln!("there is no layer {unknown:?}; `--list` names them");
            return ExitCode::from(2);
        }
    };
    if run.list {
        report::list(&layers);
        return ExitCode::SUCCESS;
    }
    // What panics is told by the layer it belongs to.
    std::panic::set_hook(Box::new(|_| {}));
    let lines: Vec<Line> = layers.iter().map(|layer| run_layer(layer.as_ref(), &run)).collect();
    match run.format {
        Format::Text => report::table(&lines),
        Format::Json => report::json(&lines),
    }
    if lines.iter().any(|line| line.is_failure()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn who_catches_what(args: &mutants::Args) -> ExitCode {
    match mutants::run(args, &layers::all()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Layer>>, String> {
    let all = layers::all();
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|layer| layer.name() != *name)) {
        return Err(unknown.clone());
    }
    Ok(all.into_iter().filter(|layer| names.is_empty() || names.iter().any(|name| name == layer.name())).collect())
}

fn run_layer(layer: &dyn Layer, run: &Run) -> Line {
    let goals = layer.goals();
    let plan = Plan {
        seed: run.seed,
        goal: run.count.unwrap_or(if run.long { goals.long } else { goals.ci }),
        time: run.time.unwrap_or(if run.long { Duration::MAX } else { goals.share }),
        lanes: run.lanes.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        failures_max: if run.first { 1 } else { layer::FAILURES_TOLD_MAX },
        with_control: !run.without_control,
    };
    report::line(layer, &plan)
}
