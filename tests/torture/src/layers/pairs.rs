//! Sources and a receiver in virtual time, by their seeds: `tests/receiver/pair`, with more of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::pair::stories::{self, Done};

pub(crate) struct Pairs;

/// Every lie is told within so many stories, of which the first to find it out is enough.
const CONTROL_STORIES: u64 = 400;

impl Layer for Pairs {
    fn name(&self) -> &'static str {
        "pairs"
    }

    fn about(&self) -> &'static str {
        "sources, network, receiver and its log in virtual time: cuts, crashes, second lives, full disks, rot"
    }

    fn unit(&self) -> &'static str {
        "stories"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 20_000, long: 10_000_000, share: Duration::from_secs(60) }
    }

    /// Each error a receiver could have, told by the harness.
    fn control(&self, _: &Plan) -> Result<bool, CannotRun> {
        Ok(stories::lies_that_pass(CONTROL_STORIES).is_empty())
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let sum = Mutex::new((Done::default(), 0_u64));
        let mut found = run.gather(|_| Ok(lane(run, &sum)))?;
        let (done, trace) = *sum.lock().unwrap();
        let Done { receiver_crashes, source_crashes, cuts, zombies, rotten, accepted, records, .. } = done;
        found.notes.push(format!(
            "{records} records; {receiver_crashes} crashes of receivers, {source_crashes} of sources, {cuts} cuts, \
             {zombies} second lives, {rotten} rotten blocks, accepted {accepted} times"
        ));
        found.notes.push(format!("trace {trace:016x}, the same for the same seed and goal"));
        Ok(found)
    }
}

fn lane(run: &Run<'_>, sum: &Mutex<(Done, u64)>) -> Found {
    let mut found = Found::default();
    while let Some(number) = run.next() {
        // Seed 1 goes on from where the tests begin.
        let seed = (run.plan.seed.wrapping_sub(1) << 32).wrapping_add(number);
        let told = catch_unwind(AssertUnwindSafe(|| stories::tell(seed)));
        match told.unwrap_or_else(|_| Err(format!("seed {seed}: it panics"))) {
            Ok(done) => {
                let mut sum = sum.lock().unwrap();
                sum.0 += done;
                sum.1 = sum.1.wrapping_add(done.trace);
            }
            Err(what) => {
                found.failures.push(format!("{what}\n    replay: {}", stories::replay(seed)));
                if found.failures.len() >= run.plan.failures_max {
                    run.stop();
                }
            }
        }
        run.done(1);
    }
    found
}
