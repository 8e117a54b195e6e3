//! Negative controls: a layer that does not notice a fault that was put there has nothing to say.

use std::time::Duration;

use indicatif::ProgressBar;

use super::layer::{CannotRun, Found, Plan, Run};

/// A control gets this long.
const CONTROL_TIME: Duration = Duration::from_secs(60);

/// True when a run of at most `count` crashes, with a fault built in, found anything.
pub(crate) fn until_caught(
    plan: &Plan,
    count: u64,
    run: impl FnOnce(&Run<'_>) -> Result<Found, CannotRun>,
) -> Result<bool, CannotRun> {
    let plan = Plan { goal: count, time: CONTROL_TIME.min(plan.time), lanes: 1, failures_max: 1, ..*plan };
    let bar = ProgressBar::hidden();
    let found = run(&Run::new(&plan, &bar))?;
    Ok(!found.failures.is_empty())
}
