//! Schedules of the log's threads, explored: `tests/shuttle`, which is the log built with its locks, atomics and clock
//! replaced. A build of its own, so it is a program of its own, and this only starts it and reads what it says.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::layer::{CannotRun, FAILURES_TOLD_MAX, Found, Goals, Layer, Plan, Run};

pub(crate) struct Concurrency;

/// Schedules in which every seeded fault must be noticed.
const CONTROL_SCHEDULES: u64 = 5_000;

impl Layer for Concurrency {
    fn name(&self) -> &'static str {
        "concurrency"
    }

    fn about(&self) -> &'static str {
        "the log's threads under a scheduler that decides at every lock and atomic who goes on"
    }

    fn unit(&self) -> &'static str {
        "schedules"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 200_000, long: 10_000_000, share: Duration::from_secs(240) }
    }

    /// A write that is told before it is flushed, and a kick that gets lost.
    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        // Where this program could be built, that one can: else it is broken, not skipped.
        let mut explorer = match start(plan, CONTROL_SCHEDULES, plan.time, &["--control"]) {
            Ok(explorer) => explorer,
            Err(CannotRun(why)) => {
                eprintln!("{why}");
                return Ok(false);
            }
        };
        let lines = lines(&mut explorer)?;
        let caught = lines.filter(|line| line["caught"].is_string()).count();
        let ended = explorer.wait().map_err(|error| CannotRun(error.to_string()))?;
        Ok(ended.success() && caught > 0)
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let plan = run.plan;
        let mut explorer = start(plan, plan.goal, plan.time, &[])?;
        let mut found = Found::default();
        for line in lines(&mut explorer)? {
            run.done(line["done"].as_u64().unwrap_or(0));
            if let Some(what) = line["failure"].as_str() {
                let (scenario, replay) = (text(&line["scenario"]), text(&line["replay"]));
                let program = Path::new("target/shuttle/release/seawall-shuttle");
                found.failures.push(format!("{scenario}: {what}\n    replay: {} {replay}", program.display()));
            }
        }
        let ended = explorer.wait().map_err(|error| CannotRun(error.to_string()))?;
        if !ended.success() && found.failures.is_empty() {
            found.failures.push(format!("the explorer ended with {ended}, seed {}", plan.seed));
        }
        Ok(found)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Builds the explorer, if it is not built, and starts it.
fn start(plan: &Plan, count: u64, time: Duration, more: &[&str]) -> Result<Child, CannotRun> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let program = build(&workspace, &target).map_err(CannotRun)?;
    let failures = plan.failures_max.min(FAILURES_TOLD_MAX);
    let mut command = Command::new(&program);
    for (name, value) in [
        ("--seed", plan.seed),
        ("--count", count),
        ("--seconds", time.as_secs()),
        ("--lanes", plan.lanes as u64),
        ("--failures", failures as u64),
    ] {
        command.args([name, &value.to_string()]);
    }
    let started = command.args(more).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    started.map_err(|error| CannotRun(format!("{}: {error}", program.display())))
}

fn lines(explorer: &mut Child) -> Result<impl Iterator<Item = Value>, CannotRun> {
    let out = explorer.stdout.take().ok_or_else(|| CannotRun("nothing to read".into()))?;
    Ok(BufReader::new(out).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()))
}

/// Every crate of it is built with `--cfg shuttle`, beside the ordinary build.
pub(crate) fn build(workspace: &Path, target: &Path) -> Result<PathBuf, String> {
    let target = std::path::absolute(target.join("shuttle")).map_err(|error| error.to_string())?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet", "-p", "seawall-shuttle", "--manifest-path"]);
    cargo.arg(workspace.join("Cargo.toml")).arg("--target-dir").arg(&target).env("RUSTFLAGS", "--cfg shuttle");
    let built = cargo.stdout(Stdio::null()).status().map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err("the explorer cannot be built".into());
    }
    Ok(target.join("release/seawall-shuttle"))
}
