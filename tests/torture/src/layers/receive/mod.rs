//! `seawall receive` and `seawall send` as processes: many sources at once, each of which is killed, ended, or cut off at any
//! moment, and their receiver killed too. Every byte must be in the stream once, in its order; nobody is told less than
//! before.

mod ends;
mod round;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::control::until_caught;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;
use round::{Counts, Round};

pub(crate) struct Receive;

/// So many faults, then everything is sent in peace and looked at.
const ROUND_FAULTS: u64 = 40;
/// The control's disk is rolled back when the receiver was killed a few times.
const CONTROL_FAULTS: u64 = 2 * ROUND_FAULTS;

impl Layer for Receive {
    fn name(&self) -> &'static str {
        "receive"
    }

    fn about(&self) -> &'static str {
        "`seawall receive` killed, and many `seawall send` killed, ended and cut off, at any moment"
    }

    fn unit(&self) -> &'static str {
        "faults"
    }

    /// Half of them are the receiver's.
    fn goals(&self) -> Goals {
        Goals { ci: 250, long: 2_000, share: Duration::from_secs(60) }
    }

    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        // Where this program could be built, that one can: else it is broken, not skipped.
        let program = match command() {
            Ok(program) => program,
            Err(why) => {
                eprintln!("{why}");
                return Ok(false);
            }
        };
        until_caught(plan, CONTROL_FAULTS, |run| lane(run, 0, &program, true).map(|(found, _)| found))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let program = command().map_err(CannotRun)?;
        let (mut found, mut counts) = (Found::default(), Counts::default());
        for lane in run.on_lanes(|number| lane(run, number, &program, false)) {
            let (lane, counted) = lane?;
            found.merge(lane);
            counts.add(counted);
        }
        found.notes.push(counts.to_string());
        Ok(found)
    }
}

/// The command as its tests build it, which is done by building one: after the tests, nothing of it is built anew.
fn command() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--no-run", "--quiet", "--workspace", "--all-features", "--test", "network"]);
    cargo.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    let built = cargo.stdout(Stdio::null()).status().map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err("the command cannot be built".into());
    }
    std::path::absolute(target.join("debug/seawall")).map_err(|error| error.to_string())
}

/// One receiver and its sources after the other.
fn lane(run: &Run<'_>, number: u64, program: &Path, lies: bool) -> Result<(Found, Counts), CannotRun> {
    let (mut found, mut counts) = (Found::default(), Counts::default());
    let mut rounds = 0;
    while let Some(first) = run.next() {
        // Its first fault names it: no two lanes have the same.
        let seed = run.plan.seed ^ first.rotate_left(32);
        let cannot = |error: std::io::Error| CannotRun(error.to_string());
        let place = tempfile::Builder::new().prefix("seawall-receive-").tempdir().map_err(cannot)?;
        let mut rng = Rng::new(seed, number);
        let mut faults = 0;
        let told = (|| {
            let mut round = Round::start(program, place.path(), &mut rng, lies)?;
            loop {
                faults += 1;
                round.fault(&mut rng)?;
                let is_enough = faults >= ROUND_FAULTS || round.is_done();
                if is_enough || run.next().is_none() {
                    break;
                }
            }
            counts.add(round.finish()?);
            Ok::<_, String>(())
        })();
        rounds += 1;
        if let Err(what) = told {
            let kept = if lies { PathBuf::new() } else { place.keep() };
            found
                .failures
                .push(format!("seed {seed}, round {rounds} of lane {number}: {what}\n    kept: {}", kept.display()));
            if found.failures.len() >= run.plan.failures_max {
                run.stop();
            }
        }
        run.done(faults);
    }
    Ok((found, counts))
}
