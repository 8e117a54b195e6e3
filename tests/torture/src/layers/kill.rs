//! A process killed at any moment, again and again, over one log. Nothing of the kernel's is lost, everything of the
//! process is: what it had not written, what it was writing, what it was about to remove or rename.

use std::path::Path;
use std::time::Duration;

use crate::control::until_caught;
use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;
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
        until_caught(plan, CONTROL_LIVES, |run| lane(run, 0, true))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        for lane in run.on_lanes(|number| lane(run, number, false)) {
            found.merge(lane?);
        }
        Ok(found)
    }
}

fn lane(run: &Run<'_>, number: u64, lies: bool) -> Result<Found, CannotRun> {
    let cannot = |error: std::io::Error| CannotRun(error.to_string());
    let mut found = Found::default();
    let mut dir = tempfile::tempdir().map_err(cannot)?;
    let (mut oracle, mut acknowledged) = (Oracle::default(), 0);
    while let Some(cycle) = run.next() {
        let mut rng = Rng::new(run.plan.seed, cycle);
        if let Err(what) = kill_once(dir.path(), &mut rng, cycle + 1, lies, &mut oracle) {
            let kept = dir.keep();
            let seed = run.plan.seed;
            found.failures.push(format!(
                "lane {number}, cycle {cycle}, seed {seed}: {what}\n    the log is kept in {}",
                kept.display()
            ));
            if found.failures.len() >= run.plan.failures_max {
                run.stop();
            }
            dir = tempfile::tempdir().map_err(cannot)?;
            acknowledged += oracle.acknowledged;
            oracle = Oracle::default();
        }
        run.done(1);
    }
    acknowledged += oracle.acknowledged;
    found.notes.push(format!("lane {number}: {acknowledged} acknowledgments"));
    Ok(found)
}

/// One life and its end; then, mostly, a look at what is left.
fn kill_once(dir: &Path, rng: &mut Rng, life: u64, lies: bool, oracle: &mut Oracle) -> Result<(), String> {
    let args = victim::Args { dir: dir.to_owned(), seed: rng.next(), life, lies, buffered: false };
    let victim = Victim::start(&args).map_err(|error| format!("no process: {error}"))?;
    // A third of them die while they open.
    let patience_micros = if rng.percent(33) { rng.below(12_000) } else { rng.below(60_000) };
    std::thread::sleep(Duration::from_micros(patience_micros));
    let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
    if let Some(code) = ended.status.code().filter(|code| *code != 0) {
        return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
    }
    ended.told.into_iter().for_each(|told| oracle.hear(told));
    if rng.percent(30) {
        return Ok(());
    }
    look(dir, rng, life, oracle)
}

/// Opens what is left, in this process, and judges it.
pub(crate) fn look(dir: &Path, rng: &mut Rng, life: u64, oracle: &mut Oracle) -> Result<(), String> {
    let config = victim::config(rng, false);
    let (log, recovery) = seawall::Log::open(dir, config).map_err(|error| format!("open: {error}"))?;
    oracle.judge(&log, &recovery, life)?;
    if rng.percent(20) {
        log.close(Duration::from_secs(10)).map_err(|error| format!("close: {error}"))?;
    }
    Ok(())
}
