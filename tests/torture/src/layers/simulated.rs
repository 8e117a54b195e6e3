//! Searches on a simulated disk, by their numbers: crash states, flipped bits, failing calls.

use std::cell::Cell;
use std::time::Duration;

use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::simulated::report::{Ask, Report};
use crate::simulated::{errors, rot, states, wreck};

pub(crate) struct Simulated {
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    goals: Goals,
    search: fn(Ask<'_>) -> Report,
    control: fn() -> bool,
    /// What a look of its own, and a deeper one, are.
    looks: (&'static str, &'static str),
}

impl Simulated {
    pub(crate) const STATES: Simulated = Simulated {
        name: "states",
        about: "power lost at every step of stories from a seed, in every way a disk can lose it",
        unit: "states",
        goals: Goals { ci: 10_000_000, long: 1_000_000_000, share: Duration::from_secs(480) },
        search: states::run,
        control: states::control,
        looks: ("distinct images, each opened for appending and read", "appended to and opened again"),
    };
    pub(crate) const ROT: Simulated = Simulated {
        name: "rot",
        about: "logs at the end of stories from a seed, damaged: bits, blocks, files that are gone, two at once, older control \
                slots; short stories, in every place and every two; and every bit of a sealed segment flipped: 256 KiB of it, \
                4 MiB in a long run",
        unit: "damages",
        goals: Goals {
            ci: rot::SEGMENT_BYTES * 8 + wreck::DAMAGES_CI,
            long: rot::SEGMENT_BYTES_LONG * 8 + 10_000_000,
            share: Duration::from_secs(180),
        },
        search: |ask| {
            let is_long = ask.goal > rot::SEGMENT_BYTES * 8 + wreck::DAMAGES_CI;
            wreck::run_with_flips(if is_long { rot::SEGMENT_BYTES_LONG } else { rot::SEGMENT_BYTES }, ask)
        },
        control: || rot::control().is_ok() && wreck::control().is_ok(),
        looks: ("read around or opened in every mode", "opened anew, verified and read to the end"),
    };
    pub(crate) const ERRORS: Simulated = Simulated {
        name: "errors",
        about: "every call of the storage failing in every way, once and for ever; then pairs of failures",
        unit: "failures",
        goals: Goals { ci: 40_000, long: 10_000_000, share: Duration::from_secs(90) },
        search: errors::run,
        control: errors::control,
        looks: ("lived through", "appended to and opened again"),
    };
}

impl Layer for Simulated {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn unit(&self) -> &'static str {
        self.unit
    }

    fn goals(&self) -> Goals {
        self.goals
    }

    fn control(&self, _: &Plan) -> Result<bool, CannotRun> {
        Ok((self.control)())
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let Plan { seed, goal, time, lanes, failures_max, .. } = *run.plan;
        let told = Cell::new(0);
        let progress = |done: u64| run.done(done - told.replace(done));
        let report = (self.search)(Ask { seed, goal, budget: time, threads: lanes, failures_max, progress: &progress });
        progress(report.enumerated);
        let (look, deeper) = self.looks;
        let Report { distinct, judged_deep, trace_hash, .. } = report;
        let notes = vec![
            format!("{distinct} {look}; {judged_deep} {deeper}"),
            format!("trace {trace_hash:016x}, the same for the same seed and goal"),
        ];
        Ok(Found { failures: report.failures.iter().map(ToString::to_string).collect(), notes })
    }
}
