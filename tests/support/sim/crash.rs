//! The states a power loss can leave, one after another.

use std::fmt;
use std::sync::Arc;
use std::vec;

use super::choice::{CrashChoice, Sizes};
use super::disk::SimDisk;
use super::journal::Journal;
use super::op::OpNumber;
use super::plan;
use super::platter::{Platter, Volatile, What};
use super::rng::Rng;

/// How far to go at each moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashOptions {
    /// Up to so many volatile writes, every subset of them; beyond, the families of
    /// [`Writes`](super::choice::Writes) and `random_subsets` others. At most 63.
    pub exhaustive_up_to: usize,
    /// Random states when there are more.
    pub random_subsets: usize,
    /// Cuts per write and unit for prefixes, and as many for suffixes: all when there are fewer.
    pub cuts_per_write: usize,
    /// Random choices of units per write and unit.
    pub scatters_per_write: usize,
    /// Units per write and unit that hold garbage, each with every [`Fill`](super::choice::Fill).
    pub garbage_per_write: usize,
    /// At most so many writes of one moment are torn: the newest ones, and those still in flight.
    pub torn_writes: usize,
    /// Renames that leave both names.
    pub half_done_renames: bool,
    /// Lengths lost although the bytes were written, and kept although they were not.
    pub sizes: bool,
    /// Writes that land where another one belongs.
    pub misdirected: bool,
    /// Seed of whatever is random here.
    pub seed: u64,
}

impl Default for CrashOptions {
    fn default() -> CrashOptions {
        CrashOptions {
            exhaustive_up_to: 8,
            random_subsets: 16,
            cuts_per_write: 16,
            scatters_per_write: 2,
            garbage_per_write: 2,
            torn_writes: 8,
            half_done_renames: true,
            sizes: true,
            misdirected: false,
            seed: 0,
        }
    }
}

/// A disk after a power loss, and what happened to it. `Display` says it in words; `at` and `choice` make it again
/// through [`Journal::crash`].
pub struct CrashState {
    pub at: OpNumber,
    pub choice: CrashChoice,
    pub disk: SimDisk,
    platter: Arc<Platter>,
}

/// An iterator over crash states, moment by moment.
pub struct CrashStates {
    journal: Journal,
    moments: vec::IntoIter<Moment>,
    /// The state of the disk before operation `at`.
    at: OpNumber,
    platter: Arc<Platter>,
    choices: vec::IntoIter<CrashChoice>,
    options: CrashOptions,
}

enum Moment {
    Every(OpNumber),
    One(OpNumber, CrashChoice),
}

impl CrashStates {
    /// The states of a power loss when the operations before `at` had happened.
    pub fn new(journal: &Journal, at: OpNumber, options: CrashOptions) -> CrashStates {
        Self::over(journal, vec![Moment::Every(at)], options)
    }

    /// The states of every moment there is, in order.
    pub fn all(journal: &Journal, options: CrashOptions) -> CrashStates {
        Self::over(journal, journal.crash_points().into_iter().map(Moment::Every).collect(), options)
    }

    /// `count` states at random moments, in their order; the same for the same seed.
    pub fn random(journal: &Journal, seed: u64, count: usize) -> CrashStates {
        let points = journal.crash_points();
        let mut rng = Rng::new(seed);
        let point = |rng: &mut Rng| points[rng.below(points.len() as u64) as usize];
        let mut moments: Vec<(OpNumber, u64)> = (0..count).map(|_| (point(&mut rng), rng.next())).collect();
        moments.sort_unstable();
        let moments = moments.into_iter().map(|(at, seed)| Moment::One(at, CrashChoice::random(seed))).collect();
        Self::over(journal, moments, CrashOptions::default())
    }

    fn over(journal: &Journal, moments: Vec<Moment>, options: CrashOptions) -> CrashStates {
        CrashStates {
            journal: journal.clone(),
            moments: moments.into_iter(),
            at: journal.first(),
            platter: Arc::new(journal.base().clone()),
            choices: Vec::new().into_iter(),
            options,
        }
    }

    /// Moments come in order, so the journal is gone through once.
    fn go_on_to(&mut self, at: OpNumber) {
        while self.at < at {
            let Some(op) = self.journal.op(self.at) else { break };
            Arc::make_mut(&mut self.platter).apply(self.at, op);
            self.at += 1;
        }
    }
}

impl Iterator for CrashStates {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        let choice = loop {
            if let Some(choice) = self.choices.next() {
                break choice;
            }
            match self.moments.next()? {
                Moment::Every(at) => {
                    self.go_on_to(at);
                    self.choices = plan::choices(&self.platter, &self.options).into_iter();
                }
                Moment::One(at, choice) => {
                    self.go_on_to(at);
                    break choice;
                }
            }
        };
        let disk = SimDisk::from_image(self.journal.options(), choice.image(&self.platter));
        Some(CrashState { at: self.at, choice, disk, platter: self.platter.clone() })
    }
}

impl CrashState {
    /// The same state once more, whatever became of its disk meanwhile.
    pub fn again(&self) -> SimDisk {
        SimDisk::from_image(self.disk.journal().options(), self.choice.image(&self.platter))
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrashState { at, choice, platter, .. } = self;
        write!(f, "power lost before operation {at}")?;
        if !platter.names.is_empty() {
            let (kept, half) = choice.names_kept(platter);
            let half = if half { ", the next rename half done" } else { "" };
            write!(f, "; {kept} of {} name changes kept{half}", platter.names.len())?;
        }
        match choice.sizes {
            Sizes::AsWritten => {}
            Sizes::Lost => write!(f, "; unflushed lengths lost")?,
            Sizes::Kept => write!(f, "; unflushed lengths kept")?,
        }
        for (index, write) in platter.writes.iter().enumerate() {
            write!(f, "; {write}: {:?}", choice.fate(index))?;
        }
        write!(f, " — journal.crash({at}, &{choice:?})")
    }
}

impl fmt::Debug for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Volatile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Bytes(data) => write!(f, "#{} {}@{data:?}", self.number, self.name),
            What::Size(bytes) => write!(f, "#{} {} to {bytes} bytes", self.number, self.name),
        }
    }
}
