//! What a layer of the evidence is: a way to crash the log, a goal, and a control.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// More failures than this are counted and not told.
pub(crate) const FAILURES_TOLD_MAX: usize = 5;

/// How many crashes a layer wants.
#[derive(Clone, Copy)]
pub(crate) struct Goals {
    /// In a gate.
    pub(crate) ci: u64,
    /// In a long run.
    pub(crate) long: u64,
    /// Time it may take in a gate.
    pub(crate) share: Duration,
}

/// One run of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) goal: u64,
    pub(crate) time: Duration,
    /// How many at a time.
    pub(crate) lanes: usize,
    /// A lane that has found so many things ends the run.
    pub(crate) failures_max: usize,
    pub(crate) with_control: bool,
}

/// A run under way, as all its lanes see it.
pub(crate) struct Run<'a> {
    pub(crate) plan: &'a Plan,
    began: Instant,
    taken: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    bar: &'a ProgressBar,
}

impl<'a> Run<'a> {
    pub(crate) fn new(plan: &'a Plan, bar: &'a ProgressBar) -> Run<'a> {
        let (taken, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Run { plan, began: Instant::now(), taken, done, stop, bar }
    }

    /// The number of the next crash, while there is one to do and time for it.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.stop.load(Ordering::Relaxed) || self.began.elapsed() >= self.plan.time {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.plan.goal).then_some(number)
    }

    /// So many crashes more are judged.
    pub(crate) fn done(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        self.bar.set_position(done);
    }

    /// Enough was found.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn reached(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Runs `lane` once per lane, at the same time, and puts together what they found.
    pub(crate) fn gather(&self, lane: impl Fn(u64) -> Result<Found, CannotRun> + Sync) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        for lane in self.on_lanes(lane) {
            found.merge(lane?);
        }
        Ok(found)
    }

    /// Runs `lane` once per lane, at the same time.
    pub(crate) fn on_lanes<T: Send>(&self, lane: impl Fn(u64) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..self.plan.lanes as u64)
                .map(|number| {
                    scope.spawn({
                        let lane = &lane;
                        move || lane(number)
                    })
                })
                .collect();
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// What a layer found.
#[derive(Default)]
pub(crate) struct Found {
    /// Violations of the contract, each with what replays it.
    pub(crate) failures: Vec<String>,
    /// Facts for the table: what else was counted.
    pub(crate) notes: Vec<String>,
}

impl Found {
    pub(crate) fn merge(&mut self, other: Found) {
        self.failures.extend(other.failures);
        self.notes.extend(other.notes);
    }
}

/// Why a layer cannot run on this machine.
pub(crate) struct CannotRun(pub(crate) String);

/// A way to crash the log.
pub(crate) trait Layer: Sync {
    fn name(&self) -> &'static str;
    /// What it does, in a line.
    fn about(&self) -> &'static str;
    /// What is counted.
    fn unit(&self) -> &'static str;
    fn goals(&self) -> Goals;
    /// A fault that must be caught. `Ok(true)`: it was.
    fn control(&self, plan: &Plan) -> Result<bool, CannotRun>;
    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun>;
}
