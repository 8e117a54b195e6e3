//! Runs batches of schedules, and says what they came to: lines of JSON for the layer that started this.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::scenarios::{ALL, CONTROLS, Scenario};
use crate::world;

/// Schedules in a batch.
const BATCH: u64 = 50;
/// A schedule with more steps than this is taken for one that never ends.
const STEPS_MAX: usize = 100_000;
const STACK_BYTES: usize = 256 << 10;

/// What was asked for.
struct Args {
    seed: u64,
    count: u64,
    lanes: u64,
    time: Duration,
    /// Only this batch: a replay.
    batch: Option<u64>,
    scenario: Option<String>,
    failures_max: u64,
    control: bool,
}

impl Args {
    fn parse() -> Result<Args, String> {
        let mut args = Args {
            seed: 1,
            count: 10_000,
            lanes: 1,
            time: Duration::MAX,
            batch: None,
            scenario: None,
            failures_max: 5,
            control: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            if name == "--control" {
                args.control = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--seed" => args.seed = number()?,
                "--count" => args.count = number()?,
                "--lanes" => args.lanes = number()?.max(1),
                "--seconds" => args.time = Duration::from_secs(number()?),
                "--batch" => args.batch = Some(number()?),
                "--scenario" => args.scenario = Some(value),
                "--failures" => args.failures_max = number()?.max(1),
                _ => return Err(format!("{name} is not known")),
            }
        }
        Ok(args)
    }
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let all: &[Scenario] = if args.control { &CONTROLS } else { &ALL };
    let wanted = |it: &&Scenario| args.scenario.as_ref().is_none_or(|name| it.name == name);
    let scenarios: Vec<&Scenario> = all.iter().filter(wanted).collect();
    if scenarios.is_empty() {
        eprintln!("there is no such scenario");
        return ExitCode::from(2);
    }
    if args.batch.is_none() {
        // What panics is told as a failure.
        std::panic::set_hook(Box::new(|_| {}));
    }
    Runner::new(RandomScheduler::new_from_seed(1, 1), config()).run(world::prepare);
    let failures = if args.control { controls(&args, &scenarios) } else { explore(&args, &scenarios) };
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    config
}

fn explore(args: &Args, scenarios: &[&Scenario]) -> u64 {
    let began = Instant::now();
    let batches = args.count.div_ceil(BATCH);
    let next = AtomicU64::new(args.batch.unwrap_or(0));
    let end = args.batch.map_or(batches, |batch| batch + 1);
    let (failures, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..args.lanes {
            scope.spawn(|| {
                while began.elapsed() < args.time && !stop.load(Ordering::Relaxed) {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    if batch >= end {
                        return;
                    }
                    let scenario = scenarios[(batch % scenarios.len() as u64) as usize];
                    match run(args.seed, batch, scenario) {
                        Ok(()) => tell(&json!({ "done": BATCH, "scenario": scenario.name })),
                        Err(what) => {
                            let only =
                                args.scenario.as_ref().map_or(String::new(), |name| format!(" --scenario {name}"));
                            let replay = format!("--seed {} --batch {batch}{only}", args.seed);
                            tell(&json!({ "failure": what, "scenario": scenario.name, "replay": replay }));
                            if failures.fetch_add(1, Ordering::Relaxed) + 1 >= args.failures_max {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    failures.into_inner()
}

/// Every control must be caught within the count.
fn controls(args: &Args, scenarios: &[&Scenario]) -> u64 {
    let mut missed = 0;
    for scenario in scenarios {
        let caught = (0..args.count.div_ceil(BATCH)).find_map(|batch| run(args.seed, batch, scenario).err());
        missed += u64::from(caught.is_none());
        tell(&json!({ "control": scenario.name, "caught": caught }));
    }
    missed
}

/// Half of the batches choose at random at every step, half by priorities that change at a few of them.
fn run(seed: u64, batch: u64, scenario: &Scenario) -> Result<(), String> {
    let mixed = (seed ^ batch.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let (count, run) = (BATCH as usize, scenario.run);
    // By the round, not by the batch: every scenario meets every scheduler.
    let result = catch_unwind(AssertUnwindSafe(|| match mixed >> 62 {
        0 | 1 => Runner::new(RandomScheduler::new_from_seed(mixed, count), config()).run(run),
        depth => Runner::new(PctScheduler::new_from_seed(mixed, depth as usize + 1, count), config()).run(run),
    }));
    result.map(drop).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "a panic".into())
    })
}

fn tell(line: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
