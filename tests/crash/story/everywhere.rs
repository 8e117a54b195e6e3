//! Every crash of a story, judged.
//!
//! Different choices often leave the same bytes: the last write lost is the moment before it. Each distinct image is
//! opened for appending and read to its end once; what was found is then held against what each state with that image
//! allows, which costs nothing. A sample of the distinct images goes on: an append, a second open, and, of a smaller
//! sample, crashes of the recovery itself.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::super::sim::{CrashOptions, CrashState, CrashStates, OpNumber, Rng, SimDisk, mix};
use super::Story;
use super::verdict::{Allowed, Found};

/// How far to go with how many of the distinct images.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// An append and a second open.
    pub deep_one_in: u64,
    /// The recovery crashes, at up to `again_states` states of it.
    pub again_one_in: u64,
    pub again_states: usize,
    /// Only every so-maniest state, and one of each moment: 1 for all.
    pub step: usize,
    /// Failures that are enough.
    pub stop_after: u64,
}

impl Depth {
    pub const SAMPLED: Depth =
        Depth { deep_one_in: 8, again_one_in: 40, again_states: 40, step: 1, stop_after: u64::MAX };
}

/// What was done and found.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// States that were made, those of crashed recoveries included, each held against what it allows.
    pub enumerated: u64,
    /// Distinct images among them, each opened and read.
    pub distinct: u64,
    /// Of these, appended to and opened again.
    pub deep: u64,
    /// Of the states, those of crashed recoveries.
    pub again: u64,
    pub moments: u64,
    /// The sum of all states' fingerprints: which they were, and what was found.
    pub trace: u64,
    /// What is wrong, and in which state: the first few.
    pub failures: Vec<String>,
    pub failed: u64,
    /// Time ran out.
    pub cut_short: bool,
}

/// More failures of one story are only counted.
const FAILURES_TOLD: usize = 10;

/// The judgment of one story's crashes, under way.
pub struct Everywhere<'a> {
    story: &'a Story,
    depth: Depth,
    options: CrashOptions,
    seed: u64,
    /// By the image's fingerprint.
    found: HashMap<u64, Result<Found, String>>,
    allowed: Allowed,
    /// How many of the story's events are in `allowed`.
    events: usize,
    pub tally: Tally,
}

impl<'a> Everywhere<'a> {
    pub fn new(story: &'a Story, options: CrashOptions, depth: Depth, seed: u64) -> Everywhere<'a> {
        let (found, tally) = (HashMap::new(), Tally::default());
        Everywhere { story, depth, options, seed, found, allowed: Allowed::at_first(), events: 0, tally }
    }

    /// Judges until all is done or `until` has come.
    pub fn run(mut self, until: Instant) -> Tally {
        let violations = self.story.disk.violations();
        if !violations.is_empty() {
            self.fail(format!("{violations:?}"), "before any crash");
        }
        let mut last_moment = None;
        for (index, state) in CrashStates::all(&self.story.journal(), self.options).enumerate() {
            let is_new_moment = last_moment.replace(state.at) != Some(state.at);
            if is_new_moment {
                self.tally.moments += 1;
                self.go_on_to(state.at);
            } else if !index.is_multiple_of(self.depth.step) {
                continue;
            }
            if !is_new_moment && index % 64 == 0 && Instant::now() >= until {
                self.tally.cut_short = true;
                break;
            }
            self.judge(&state);
            if self.tally.failed >= self.depth.stop_after {
                break;
            }
        }
        self.tally
    }

    /// What happened in the story until then counts.
    fn go_on_to(&mut self, at: OpNumber) {
        while let Some((_, event)) = self.story.events.get(self.events).filter(|(number, _)| *number < at) {
            self.allowed.goes_on(event);
            self.events += 1;
        }
    }

    fn judge(&mut self, state: &CrashState) {
        let distinct = self.tally.distinct;
        self.judge_image(state, mix(state.at, hash_of(&state.choice)), &|| state.to_string());
        if self.tally.distinct > distinct && Rng::nth(!self.seed, distinct).one_in(self.depth.again_one_in) {
            // The image as it was before it was opened.
            self.crash_again(&state.again(), state);
        }
    }

    /// `number` tells the state from others in the trace, `told` in words.
    fn judge_image(&mut self, state: &CrashState, number: u64, told: &dyn Fn() -> String) {
        let image = state.disk.fingerprint();
        if !self.found.contains_key(&image) {
            self.open(&state.disk, image, told);
        }
        let judged = match &self.found[&image] {
            Ok(found) => self.story.judge(found, &self.allowed).map(|()| found.fingerprint()),
            Err(what) => Err(what.clone()),
        };
        self.tally.enumerated += 1;
        let found = judged.unwrap_or_else(|what| {
            self.fail(what, &told());
            0
        });
        self.tally.trace = self.tally.trace.wrapping_add(mix(number, found));
    }

    /// Opens an image that was not seen before.
    fn open(&mut self, disk: &SimDisk, image: u64, told: &dyn Fn() -> String) {
        self.tally.distinct += 1;
        let is_deep = Rng::nth(self.seed, self.tally.distinct).one_in(self.depth.deep_one_in);
        let untouched = is_deep.then(|| disk.fork());
        let found = self.story.look(disk);
        let is_good = found.as_ref().is_ok_and(|found| self.story.judge(found, &self.allowed).is_ok());
        self.found.insert(image, found);
        // What is wrong already is told by the state itself.
        if let (Some(disk), true) = (untouched, is_good) {
            self.tally.deep += 1;
            if let Err(what) = self.story.survives(&disk, &self.allowed) {
                self.fail(what, &told());
            }
        }
    }

    /// The recovery itself crashes, at some of its states, evenly chosen.
    fn crash_again(&mut self, disk: &SimDisk, state: &CrashState) {
        let Ok(_) = self.story.look(disk) else { return };
        disk.pump();
        let journal = disk.journal();
        let all = CrashStates::all(&journal, self.options).count();
        for second in CrashStates::all(&journal, self.options).step_by((all / self.depth.again_states).max(1)) {
            self.tally.again += 1;
            let again = self.tally.again;
            self.judge_image(&second, again, &|| format!("{state}\n    then {second}"));
        }
    }

    fn fail(&mut self, what: String, state: &str) {
        self.tally.failed += 1;
        if self.tally.failures.len() < FAILURES_TOLD {
            self.tally.failures.push(format!("{what}\n    {state}"));
        }
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Story {
    /// How the tests crash a story whose states are many.
    pub fn crash_options(&self) -> CrashOptions {
        CrashOptions {
            exhaustive_up_to: 4,
            random_subsets: 4,
            cuts_per_write: 4,
            scatters_per_write: 1,
            garbage_per_write: if self.journal().options().direct || self.garbage { 2 } else { 0 },
            torn_writes: 3,
            misdirected: self.misdirected,
            ..CrashOptions::default()
        }
    }

    /// Crashes everywhere, within about this time: every distinct state where that is enough, else evenly thinned out,
    /// but never to nothing: of the states after each operation one is always judged.
    pub fn crash_everywhere(&self, name: &str, budget: Duration) -> Tally {
        let began = Instant::now();
        let options = self.crash_options();
        let total = CrashStates::all(&self.journal(), options).count();
        // Most states are another's image, and a distinct one takes about a millisecond in a test build.
        let step = (total / (budget.as_millis() as usize * 8).max(1)).max(1);
        let depth = Depth { step, ..Depth::SAMPLED };
        let tally = Everywhere::new(self, options, depth, 0).run(began + budget * 3);
        println!(
            "{name}: {} of {total} states at {} moments; {} distinct, {} of them appended to, {} of crashed recoveries, \
             in {:?}",
            tally.enumerated,
            tally.moments,
            tally.distinct,
            tally.deep,
            tally.again,
            began.elapsed()
        );
        tally
    }
}

impl Tally {
    pub fn assert_clean(&self) {
        let some: Vec<String> = self.failures.iter().take(3).map(|what| format!("- {what}\n")).collect();
        assert!(self.failed == 0, "{} of {} states failed:\n{}", self.failed, self.enumerated, some.concat());
        assert!(self.enumerated > 100, "only {} states", self.enumerated);
    }
}
