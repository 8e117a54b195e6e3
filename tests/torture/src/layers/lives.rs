//! Processes over one log, each crashed, one after the other: what the layers that do so have in common.

use std::path::PathBuf;

use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Run};
use crate::rng::Rng;
use crate::victim;

/// One of them.
pub(super) struct Life<'a> {
    /// Ascending, over all lanes.
    pub(super) number: u64,
    /// It tells what is not true: a control.
    pub(super) lies: bool,
    pub(super) rng: &'a mut Rng,
    pub(super) oracle: &'a mut Oracle,
}

/// Where a log is, and how its processes are crashed.
pub(super) trait Place {
    /// A life and its end; then, mostly, a look at what is left. What is wrong is inside.
    fn crash(&mut self, life: &mut Life<'_>) -> Result<Result<(), String>, CannotRun>;

    /// Goes on with another log; the old one is left where it says, if it is to be kept.
    fn renew(&mut self, keep: bool) -> Result<Option<PathBuf>, CannotRun>;

    /// What else was counted.
    fn note(&self) -> String {
        String::new()
    }
}

/// Crashes processes in one place until the run is over.
pub(super) fn lane(run: &Run<'_>, number: u64, lies: bool, mut place: impl Place) -> Result<Found, CannotRun> {
    let mut found = Found::default();
    let (mut oracle, mut acknowledged) = (Oracle::default(), 0);
    while let Some(cycle) = run.next() {
        let mut rng = Rng::new(run.plan.seed, cycle);
        let mut life = Life { number: cycle + 1, lies, rng: &mut rng, oracle: &mut oracle };
        if let Err(what) = place.crash(&mut life)? {
            // What a control did is of no use to anybody.
            let kept = place.renew(!lies)?.map_or(String::new(), |at| format!("\n    it is kept in {}", at.display()));
            found.failures.push(format!("lane {number}, cycle {cycle}, seed {}: {what}{kept}", run.plan.seed));
            if found.failures.len() >= run.plan.failures_max {
                run.stop();
            }
            acknowledged += std::mem::take(&mut oracle).acknowledged;
        }
        run.done(1);
    }
    acknowledged += oracle.acknowledged;
    found.notes.push(format!("lane {number}: {acknowledged} acknowledgments{}", place.note()));
    Ok(found)
}

/// Opens what is left, in this process, and judges it.
pub(super) fn look(dir: &std::path::Path, life: &mut Life<'_>) -> Result<(), String> {
    let config = victim::config(life.rng, false, false);
    let (log, recovery) = seawall::Log::open(dir, config).map_err(|error| format!("open: {error}"))?;
    life.oracle.judge(&log, &recovery, life.number)?;
    if life.rng.percent(20) {
        log.close(std::time::Duration::from_secs(10)).map_err(|error| format!("close: {error}"))?;
    }
    Ok(())
}
