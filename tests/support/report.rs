//! What a search reached, and the work of it shared among threads.
//!
//! A search is cut into numbered parts, each fixed by its number and a seed. Threads take them in order; what counts is
//! the parts from 0 on without a gap, up to the one that reaches the goal. So a seed and a goal fix the result, however
//! many threads there are, unless time runs out first.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is asked of a search.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub seed: u64,
    /// How many cases.
    pub goal: u64,
    /// How long it may take.
    pub budget: Duration,
    pub threads: usize,
    /// So many failures end it. Where one does, no time is spent on making it smaller.
    pub failures_max: usize,
    /// Told, on the thread that asks, how many cases are counted.
    pub progress: &'a dyn Fn(u64),
}

impl Ask<'_> {
    /// As the tests ask: two threads, as much time as there is.
    pub fn new(seed: u64, goal: u64) -> Ask<'static> {
        // What follows some failures would mostly be the same.
        Ask { seed, goal, budget: Duration::MAX, threads: 2, failures_max: 3, progress: &|_| {} }
    }

    /// Until when it may take.
    fn until(&self) -> Instant {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        Instant::now() + self.budget.min(century)
    }
}

/// What a search reached.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Cases that were made and judged.
    pub enumerated: u64,
    /// Of these, so many needed a look of their own; the others were equal to one that had had it.
    pub distinct: u64,
    /// Of these, so many were looked at more closely.
    pub judged_deep: u64,
    pub failures: Vec<Failure>,
    /// Equal for equal searches that found the same.
    pub trace_hash: u64,
    pub took: Duration,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// The command that shows it again.
    pub replay: String,
}

/// More failures than this are not kept.
const FAILURES_KEPT_MAX: usize = 100;

impl Report {
    fn add(&mut self, part: Report) {
        self.enumerated += part.enumerated;
        self.distinct += part.distinct;
        self.judged_deep += part.judged_deep;
        self.trace_hash = self.trace_hash.wrapping_add(part.trace_hash);
        self.fail(part.failures);
    }

    fn fail(&mut self, failures: Vec<Failure>) {
        self.failures.extend(failures);
        self.failures.truncate(FAILURES_KEPT_MAX);
    }

    /// # Panics
    /// With the first failures, if there are any.
    pub fn assert_clean(&self) {
        let some: Vec<String> = self.failures.iter().take(3).map(Failure::to_string).collect();
        assert!(self.failures.is_empty(), "{} failures in {self}:\n{}", self.failures.len(), some.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { enumerated, distinct, judged_deep, trace_hash, took, .. } = self;
        let rate = *enumerated as f64 / took.as_secs_f64().max(1e-9);
        write!(f, "{enumerated} cases, {distinct} distinct, {judged_deep} of them judged deeper, ")?;
        write!(f, "in {took:.1?} ({rate:.0}/s), trace {trace_hash:016x}")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {:#x}: {}\n    again: {}", self.seed, self.what, self.replay)
    }
}

/// Parts as they are done.
#[derive(Default)]
struct Done {
    report: Report,
    /// Those behind one that is still being done.
    ahead: BTreeMap<u64, Report>,
    /// The first part that is not counted yet.
    next: u64,
}

/// Does parts 0, 1, … until enough cases are counted, `part` has no more, enough has failed, or the time is up. `part` is
/// told until when it may take.
pub fn in_parts(ask: &Ask<'_>, part: &(dyn Fn(u64, Instant) -> Option<Report> + Sync)) -> Report {
    let (began, until) = (Instant::now(), ask.until());
    let Ask { goal, threads, failures_max, .. } = *ask;
    let (taken, is_over, running) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(threads as u64));
    let done = Mutex::new(Done::default());
    let work = || {
        while !is_over.load(Ordering::Relaxed) && Instant::now() < until {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            let Some(report) = guarded(|| part(number, until)) else { break };
            let mut done = locked(&done);
            let is_enough = report.failures.len() + done.report.failures.len() >= failures_max;
            done.ahead.insert(number, report);
            while done.report.enumerated < goal
                && let Some(report) = {
                    let next = done.next;
                    done.ahead.remove(&next)
                }
            {
                done.report.add(report);
                done.next += 1;
            }
            if is_enough || done.report.enumerated >= goal {
                is_over.store(true, Ordering::Relaxed);
            }
        }
        running.fetch_sub(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
        while running.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(20));
            (ask.progress)(locked(&done).report.enumerated);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // What failed failed, whether its part counts or not.
    let ahead = std::mem::take(&mut done.ahead);
    ahead.into_values().for_each(|part| done.report.fail(part.failures));
    Report { took: began.elapsed(), ..done.report }
}

fn locked(done: &Mutex<Done>) -> MutexGuard<'_, Done> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part that panics is a failure, not the end.
fn guarded(part: impl FnOnce() -> Option<Report>) -> Option<Report> {
    catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| {
        let failure = Failure { seed: 0, what: format!("panicked: {}", said(&*panic)), replay: "see above".into() };
        Some(Report { failures: vec![failure], ..Report::default() })
    })
}

/// What a panic said.
pub fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".into())
}
