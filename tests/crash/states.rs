//! Crash states by the million: tales from a seed, each crashed everywhere.

use std::time::{Duration, Instant};

use super::report::{Ask, Failure, Report, in_parts};
use super::sim::{DiskOptions, Rng, mix};
use super::story::{Depth, Everywhere, Story, Tale, Tally};

/// Judges crash states until `goal` of them are done or the time is up; the same ones for the same seed. `enumerated`
/// counts states, those of crashed recoveries included; `distinct` the images among them, each opened for appending and
/// read to its end; `judged_deep` those that were also appended to and opened again.
pub fn run(ask: Ask<'_>) -> Report {
    let (seed, is_first_enough) = (ask.seed, ask.failures_max == 1);
    in_parts(&ask, &|number, until| Some(part(story_seed(seed, number), until, is_first_enough)))
}

fn story_seed(seed: u64, number: u64) -> u64 {
    Rng::nth(seed, number).next()
}

fn part(seed: u64, until: Instant, is_first_enough: bool) -> Report {
    let tale = Tale::of(seed);
    let tally = crash(&tale, until, if is_first_enough { 1 } else { u64::MAX });
    let mut report = Report {
        enumerated: tally.enumerated,
        distinct: tally.distinct,
        judged_deep: tally.deep,
        trace_hash: mix(seed, tally.trace),
        ..Report::default()
    };
    if tally.failed > 0 {
        let small = if is_first_enough { tale } else { shrink(tale, Instant::now() + SHRINK_FOR) };
        let again = (!is_first_enough).then(|| crash(&small, Instant::now() + SHRINK_FOR, 1));
        let what = again.and_then(|tally| tally.failures.into_iter().next());
        let what = what.unwrap_or_else(|| tally.failures[0].clone());
        let what = format!("{} of {} states: {what}\n    in {small:?}", tally.failed, tally.enumerated);
        report.failures.push(Failure { seed, what, replay: replay_command(seed) });
    }
    report
}

fn replay_command(seed: u64) -> String {
    format!("SEAWALL_TALE={seed} cargo test --release --test crash tale_from_the_environment -- --nocapture")
}

/// Tells the tale of this seed and crashes it everywhere, aloud.
pub fn replay(seed: u64) -> Tally {
    let tale = Tale::of(seed);
    println!("{tale:#?}");
    let tally = crash(&tale, Instant::now() + Duration::from_secs(3600), u64::MAX);
    println!("{tally:#?}");
    tally
}

fn crash(tale: &Tale, until: Instant, stop_after: u64) -> Tally {
    match tale.tell() {
        Ok(story) => {
            let options = tale.crash_options(&story);
            Everywhere::new(&story, options, Depth { stop_after, ..Depth::SAMPLED }, tale.seed).run(until)
        }
        Err(what) => Tally { failed: 1, failures: vec![what], ..Tally::default() },
    }
}

/// For making a failing tale smaller.
const SHRINK_FOR: Duration = Duration::from_secs(20);

/// Leaves out what the failure does not need.
fn shrink(mut tale: Tale, until: Instant) -> Tale {
    let mut at = tale.steps.len();
    while at > 0 && Instant::now() < until {
        at -= 1;
        let mut smaller = tale.clone();
        smaller.steps.remove(at);
        if crash(&smaller, until, 1).failed > 0 {
            tale = smaller;
        }
    }
    tale
}

/// The control: a disk whose flushes lie is noticed.
pub fn control() -> bool {
    let mut story = Story::new(DiskOptions::DIRECT);
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.set_flushes_lie(true);
    story.append(&log, &[200]);
    let until = Instant::now() + Duration::from_secs(60);
    let depth = Depth { stop_after: 1, ..Depth::SAMPLED };
    Everywhere::new(&story, story.crash_options(), depth, 0).run(until).failed > 0
}
