//! A process killed at any moment, again and again, over one log. Nothing of the kernel's is lost, everything of the
//! process is: what it had not written, what it was writing, what it was about to remove or rename.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::lives::{Life, Place, lane, look};
use crate::control::until_caught;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::victim::{self, Victim};

pub(crate) struct Kill;

/// The control lies from its first record: this many lives are plenty to see it.
const CONTROL_LIVES: u64 = 40;

impl Layer for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn about(&self) -> &'static str {
        "kill -9 of a process that appends, trims, truncates, opens and closes"
    }

    fn unit(&self) -> &'static str {
        "kills"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 1_500, long: 100_000, share: Duration::from_secs(120) }
    }

    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        until_caught(plan, CONTROL_LIVES, |run| lane(run, 0, true, Dir::new()?))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        run.gather(|number| lane(run, number, false, Dir::new()?))
    }
}

/// A directory.
struct Dir(TempDir);

impl Dir {
    fn new() -> Result<Dir, CannotRun> {
        tempfile::tempdir().map(Dir).map_err(|error| CannotRun(error.to_string()))
    }
}

impl Place for Dir {
    fn crash(&mut self, life: &mut Life<'_>) -> Result<Result<(), String>, CannotRun> {
        Ok(kill_once(self.0.path(), life))
    }

    fn renew(&mut self, keep: bool) -> Result<Option<PathBuf>, CannotRun> {
        let old = std::mem::replace(self, Dir::new()?);
        Ok(keep.then(|| old.0.keep()))
    }
}

fn kill_once(dir: &Path, life: &mut Life<'_>) -> Result<(), String> {
    let args = victim::Args {
        dir: dir.to_owned(),
        seed: life.rng.next(),
        life: life.number,
        lies: life.lies,
        buffered: false,
        past_caches: false,
    };
    let victim = Victim::start(&args).map_err(|error| format!("no process: {error}"))?;
    // A third of them die while they open.
    let patience_micros = if life.rng.percent(33) { life.rng.below(12_000) } else { life.rng.below(60_000) };
    std::thread::sleep(Duration::from_micros(patience_micros));
    let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
    if let Some(code) = ended.status.code().filter(|code| *code != 0) {
        return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
    }
    ended.told.into_iter().for_each(|told| life.oracle.hear(told));
    if life.rng.percent(30) { Ok(()) } else { look(dir, life) }
}
