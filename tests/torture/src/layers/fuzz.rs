//! Inputs nobody would write, for everything that reads bytes: the fuzzers' corpus, and variations of it. Without the
//! coverage that leads a fuzzer, so it is no substitute for one: it needs no instrumentation, and runs anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::bodies;
use crate::control::until_caught;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;

pub(crate) struct Fuzz;

type Body = fn(&[u8]);

const TARGETS: &[(&str, Body)] = &[
    ("frame", bodies::frame::run),
    ("scanner", bodies::scanner::run),
    ("recovery", bodies::recovery::run),
    #[cfg(feature = "receiver")]
    ("wire", bodies::wire::run),
    #[cfg(feature = "receiver")]
    ("block", bodies::block::run),
    #[cfg(feature = "receiver")]
    ("sessions", bodies::sessions::run),
    #[cfg(feature = "ledger")]
    ("ledger", bodies::ledger::run),
];
const CONTROL_INPUTS: u64 = 2_000;

/// What the inputs are made of.
struct Corpus {
    inputs: Vec<(usize, Vec<u8>)>,
}

impl Layer for Fuzz {
    fn name(&self) -> &'static str {
        "fuzz"
    }

    fn about(&self) -> &'static str {
        "formats, recovery, messages, sessions and ledgers on the fuzzers' corpus and variations of it"
    }

    fn unit(&self) -> &'static str {
        "inputs"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 20_000, long: 1_000_000_000, share: Duration::from_secs(60) }
    }

    /// A body that cannot bear one byte.
    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        let frail: Body = |input| assert!(!input.contains(&0x5A), "the control");
        // It is part of the source: without it this is broken, not skipped.
        let corpus = match Corpus::read() {
            Ok(corpus) => corpus,
            Err(CannotRun(why)) => {
                eprintln!("{why}");
                return Ok(false);
            }
        };
        until_caught(plan, CONTROL_INPUTS, |run| Ok(lane(run, &corpus, &[("control", frail); TARGETS.len()])))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let corpus = Corpus::read()?;
        let mut found = Found::default();
        run.on_lanes(|_| lane(run, &corpus, TARGETS)).into_iter().for_each(|lane| found.merge(lane));
        found.notes.push(format!("{} inputs of the corpus first", corpus.inputs.len()));
        Ok(found)
    }
}

impl Corpus {
    fn read() -> Result<Corpus, CannotRun> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let mut inputs = Vec::new();
        for (target, (name, _)) in TARGETS.iter().enumerate() {
            let dir = root.join(name);
            let told = |error| CannotRun(format!("{}: {error}", dir.display()));
            let mut paths = Vec::new();
            for entry in std::fs::read_dir(&dir).map_err(told)? {
                paths.push(entry.map_err(told)?.path());
            }
            paths.sort();
            for path in paths {
                inputs.push((target, std::fs::read(path).map_err(told)?));
            }
        }
        Ok(Corpus { inputs })
    }

    /// The corpus itself, then variations, each of which follows from the seed and its number.
    fn input(&self, seed: u64, number: u64) -> (usize, Vec<u8>) {
        if let Some((target, input)) = self.inputs.get(number as usize) {
            return (*target, input.clone());
        }
        let mut rng = Rng::new(seed, number);
        let (target, mut input) = self.inputs[rng.below(self.inputs.len() as u64) as usize].clone();
        for _ in 0..1 + rng.below(6) {
            self.vary(&mut input, &mut rng);
        }
        (target, input)
    }

    fn vary(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        let at = rng.below(input.len() as u64 + 1) as usize;
        match rng.below(6) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.next() as u8),
            2 => {
                let (_, other) = &self.inputs[rng.below(self.inputs.len() as u64) as usize];
                let from = rng.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            3 => (0..rng.below(16)).for_each(|_| input.push(rng.next() as u8)),
            _ if at < input.len() && rng.percent(50) => input[at] = rng.next() as u8,
            _ if at < input.len() => input[at] ^= 1 << rng.below(8),
            _ => {}
        }
        input.truncate(1 << 16);
    }
}

fn lane(run: &Run<'_>, corpus: &Corpus, targets: &[(&str, Body)]) -> Found {
    let mut found = Found::default();
    while let Some(number) = run.next() {
        let (target, input) = corpus.input(run.plan.seed, number);
        let (name, body) = targets[target];
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&input))) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            found.failures.push(format!("{name}, seed {}, input {number} ({hex}): {text}", run.plan.seed));
            if found.failures.len() >= run.plan.failures_max {
                run.stop();
            }
        }
        run.done(1);
    }
    found
}
