//! By which way a directory's writes go to the device: through the ring, or by a thread of the pool. Pure.
//!
//! The ring costs no change of threads, and is the quicker one where nothing else runs. But where a durable write has something left
//! to do when the device is done with its bytes (a flush, on a device without FUA; reserved blocks to be marked as written), Linux
//! leaves that to a thread of its own that is bound to the CPU which the device interrupted. If another program keeps that CPU busy,
//! the write ends when that program's time slice does: 4 ms instead of 100 µs, every time. A thread that waits in `pwritev2` does what is left by
//! itself, on whichever CPU is free.
//!
//! No property of the device or of the machine says which it will be, so both are tried now and then, in turns.

use std::time::Duration;

/// How a write gets to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Ring,
    Pool,
}

impl Way {
    fn other(self) -> Way {
        match self {
            Way::Ring => Way::Pool,
            Way::Pool => Way::Ring,
        }
    }
}

/// The way one write takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// Of which trial it is a part.
    trial: Option<u32>,
}

/// Writes of each way in a trial, which alternate: the device itself may be twice as slow the next second.
const WRITES_PER_TRIAL: usize = 8;
/// So many of each are enough where the difference is plain: a trial must not cost much itself.
const PLAIN_AFTER: usize = 4;
/// Where the slower one's best is so many times the quicker one's worst.
const PLAIN_FACTOR: u32 = 2;
/// Writes before the first trial.
const FIRST_AFTER: u32 = 16;
/// Writes between two trials: twice as many after each one, so that two ways which are each the quicker one while the other is used
/// are not changed for ever; the fewest again after a change that lateness was the reason of.
const BETWEEN_MIN: u32 = 128;
const BETWEEN_MAX: u32 = 8192;
/// So many writes in a row that took [`LATE_FACTOR`] times the usual are a reason for a trial, though not before [`BETWEEN_MIN`] / 2.
const LATE_IN_A_ROW: u32 = 8;
const LATE_FACTOR: u32 = 3;

/// Chooses for one directory.
#[derive(Debug)]
pub(super) struct Ways {
    chosen: Way,
    /// Writes that are with the pool, and how many it works on at a time.
    in_pool: usize,
    in_pool_max: usize,
    since_trial: u32,
    between: u32,
    /// What the chosen way took in the last trial, or less since.
    usual: Option<Duration>,
    late_in_a_row: u32,
    trial: Option<Trial>,
    trials: u32,
}

#[derive(Debug)]
struct Trial {
    number: u32,
    is_late: bool,
    given: usize,
    chosen: Vec<Duration>,
    other: Vec<Duration>,
}

impl Ways {
    /// Of a directory whose writes occupy at most so many of the pool's threads.
    pub(super) fn new(in_pool_max: usize) -> Ways {
        Ways {
            chosen: Way::Ring,
            in_pool: 0,
            in_pool_max,
            since_trial: 0,
            between: FIRST_AFTER,
            usual: None,
            late_in_a_row: 0,
            trial: None,
            trials: 0,
        }
    }

    /// The way of the next write.
    pub(super) fn choose(&mut self) -> Choice {
        let is_late = self.late_in_a_row >= LATE_IN_A_ROW && self.since_trial >= BETWEEN_MIN / 2;
        if self.trial.is_none() && (self.since_trial >= self.between || is_late) {
            self.trials = self.trials.wrapping_add(1);
            self.trial = Some(Trial { number: self.trials, is_late, given: 0, chosen: Vec::new(), other: Vec::new() });
        }
        self.since_trial = self.since_trial.saturating_add(1);
        let trial = self.trial.as_mut().filter(|trial| trial.given < 2 * WRITES_PER_TRIAL);
        let way = match &trial {
            // a b b a a b b a …: short and long groups may alternate as well.
            Some(trial) if matches!(trial.given % 4, 1 | 2) => self.chosen.other(),
            _ => self.chosen,
        };
        if way == Way::Pool && self.in_pool >= self.in_pool_max {
            // It would wait there for a thread.
            return Choice { way: Way::Ring, trial: None };
        }
        self.in_pool += usize::from(way == Way::Pool);
        let trial = trial.map(|trial| {
            trial.given += 1;
            trial.number
        });
        Choice { way, trial }
    }

    /// The pool, which was chosen, cannot be had: the write took the ring.
    pub(super) fn refused(&mut self) {
        self.in_pool -= 1;
        self.end_trial(false);
    }

    /// A write failed, from which nothing is learnt.
    pub(super) fn failed(&mut self, choice: Choice) {
        self.in_pool -= usize::from(choice.way == Way::Pool);
    }

    /// A write took so long, from when its way was chosen.
    pub(super) fn ended(&mut self, choice: Choice, took: Duration) {
        self.in_pool -= usize::from(choice.way == Way::Pool);
        if choice.trial.is_none()
            && choice.way == self.chosen
            && let Some(usual) = &mut self.usual
        {
            let is_late = took > *usual * LATE_FACTOR;
            self.late_in_a_row = if is_late { self.late_in_a_row + 1 } else { 0 };
            // Also after a trial in a slow moment lateness is to be noticed.
            *usual -= usual.saturating_sub(took) / 16;
        }
        let Some(trial) = self.trial.as_mut().filter(|trial| choice.trial == Some(trial.number)) else { return };
        let times = if choice.way == self.chosen { &mut trial.chosen } else { &mut trial.other };
        times.push(took);
        if let Some(is_better) = trial.verdict(self.chosen) {
            self.end_trial(is_better);
        }
    }

    fn end_trial(&mut self, is_better: bool) {
        let Some(mut trial) = self.trial.take() else { return };
        let mut times = if is_better { std::mem::take(&mut trial.other) } else { std::mem::take(&mut trial.chosen) };
        if is_better {
            self.chosen = self.chosen.other();
        }
        let was_late = is_better && trial.is_late;
        self.between = if was_late { BETWEEN_MIN } else { (self.between * 2).clamp(BETWEEN_MIN, BETWEEN_MAX) };
        self.usual = median(&mut times).or(self.usual);
        self.since_trial = 0;
        self.late_in_a_row = 0;
    }
}

impl Trial {
    /// Whether the other way is better, once that is known.
    fn verdict(&mut self, chosen: Way) -> Option<bool> {
        let least = self.chosen.len().min(self.other.len());
        if least < PLAIN_AFTER {
            return None;
        }
        let (best, worst) = (self.chosen.iter().min()?, self.chosen.iter().max()?);
        let (other_best, other_worst) = (self.other.iter().min()?, self.other.iter().max()?);
        if *other_best > *worst * PLAIN_FACTOR {
            return Some(false);
        }
        if *best > *other_worst * PLAIN_FACTOR {
            return Some(true);
        }
        if least < WRITES_PER_TRIAL {
            return None;
        }
        let (now, then) = (median(&mut self.chosen)?, median(&mut self.other)?);
        // The pool by a third, or every other trial would change something; the ring as soon as it is as quick, because it costs less.
        Some(match chosen {
            Way::Ring => then * 3 <= now * 2,
            Way::Pool => then <= now,
        })
    }
}

fn median(times: &mut [Duration]) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes one after another; what each way takes is asked for. Writes by way, and the time all of it took.
    fn run(ways: &mut Ways, writes: u32, mut takes: impl FnMut(Way) -> u64) -> ([u32; 2], u64) {
        let (mut count, mut all) = ([0; 2], 0);
        for _ in 0..writes {
            let choice = ways.choose();
            let micros = takes(choice.way);
            ways.ended(choice, Duration::from_micros(micros));
            count[usize::from(choice.way == Way::Pool)] += 1;
            all += micros;
        }
        (count, all)
    }

    fn noisy(seed: &mut u64, micros: u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        micros * (70 + (*seed >> 33) % 60) / 100
    }

    #[test]
    fn where_the_ring_is_quicker_it_stays_and_the_trials_are_few() {
        let (mut ways, mut seed) = (Ways::new(8), 1);
        let (count, _) = run(&mut ways, 200_000, |way| noisy(&mut seed, if way == Way::Ring { 100 } else { 140 }));
        assert_eq!(ways.chosen, Way::Ring);
        assert!((1..400).contains(&count[1]), "{count:?}");
    }

    #[test]
    fn where_the_ring_s_ends_come_late_the_pool_takes_over_and_gives_back() {
        let (mut ways, mut seed) = (Ways::new(8), 2);
        run(&mut ways, 100_000, |way| noisy(&mut seed, if way == Way::Ring { 100 } else { 140 }));
        // Another program has come.
        let (count, _) = run(&mut ways, 200, |way| noisy(&mut seed, if way == Way::Ring { 4000 } else { 190 }));
        assert!(ways.chosen == Way::Pool && count[0] < 100, "{count:?}");
        let (count, took) = run(&mut ways, 100_000, |way| noisy(&mut seed, if way == Way::Ring { 4000 } else { 190 }));
        assert!(ways.chosen == Way::Pool && count[0] < 100, "{count:?}");
        assert!(took < 100_000 * 195, "the trials cost {} of {took} us", took - 100_000 * 190);
        // It has gone: there is no hurry.
        run(&mut ways, 20_000, |way| noisy(&mut seed, if way == Way::Ring { 100 } else { 190 }));
        assert_eq!(ways.chosen, Way::Ring);
    }

    #[test]
    fn a_pool_that_was_much_quicker_and_is_a_little_slower_gives_back() {
        let mut ways = Ways::new(8);
        run(&mut ways, 1000, |way| if way == Way::Ring { 4000 } else { 1000 });
        assert_eq!(ways.chosen, Way::Pool);
        run(&mut ways, 20_000, |way| if way == Way::Ring { 155 } else { 190 });
        assert_eq!(ways.chosen, Way::Ring);
    }

    #[test]
    fn a_slower_device_is_no_reason_to_change() {
        let (mut ways, mut seed) = (Ways::new(8), 3);
        for micros in [100, 1000, 100, 10_000, 50, 3000] {
            let (count, _) =
                run(&mut ways, 10_000, |way| noisy(&mut seed, if way == Way::Ring { micros } else { micros + 40 }));
            assert!(ways.chosen == Way::Ring && count[1] < 200, "{micros} us: {count:?}");
        }
    }

    #[test]
    fn lateness_is_noticed_after_a_trial_in_a_slow_moment() {
        let (mut ways, mut seed) = (Ways::new(8), 6);
        run(&mut ways, 20_000, |way| noisy(&mut seed, if way == Way::Ring { 10_000 } else { 10_040 }));
        run(&mut ways, 1000, |way| noisy(&mut seed, if way == Way::Ring { 100 } else { 140 }));
        let (count, _) = run(&mut ways, 200, |way| noisy(&mut seed, if way == Way::Ring { 4000 } else { 190 }));
        assert!(ways.chosen == Way::Pool && count[0] < 100, "{count:?}");
    }

    #[test]
    fn short_and_long_groups_that_alternate_are_no_reason_to_change() {
        let (mut ways, mut seed, mut turn) = (Ways::new(8), 7, 0u64);
        for _ in 0..100_000 {
            turn += 1;
            let choice = ways.choose();
            let micros = if turn.is_multiple_of(2) { 100 } else { 1000 } + if choice.way == Way::Ring { 0 } else { 20 };
            ways.ended(choice, Duration::from_micros(noisy(&mut seed, micros)));
            assert_eq!(ways.chosen, Way::Ring, "write {turn}");
        }
    }

    /// The pool is quick for a few, and slow for all.
    #[test]
    fn ways_that_are_slow_only_while_they_are_used_are_changed_ever_less_often() {
        let (mut ways, mut changes, mut before) = (Ways::new(8), 0, Way::Ring);
        for _ in 0..100_000 {
            let choice = ways.choose();
            let micros = if choice.way == ways.chosen { 250 } else { 100 };
            ways.ended(choice, Duration::from_micros(micros));
            changes += u32::from(ways.chosen != before);
            before = ways.chosen;
        }
        assert!((2..30).contains(&changes), "{changes}");
    }

    #[test]
    fn the_pool_gets_no_more_than_it_works_on_at_a_time() {
        let mut ways = Ways::new(8);
        run(&mut ways, 1000, |way| if way == Way::Ring { 4000 } else { 200 });
        assert_eq!(ways.chosen, Way::Pool);
        let flying: Vec<_> = (0..100).map(|_| ways.choose()).collect();
        assert_eq!(flying.iter().filter(|choice| choice.way == Way::Pool).count(), 8);
        flying.into_iter().for_each(|choice| ways.failed(choice));
        assert_eq!(ways.in_pool, 0);
        // Nor in a trial, which goes on when there is room again.
        let flying: Vec<_> = (0..20_000).map(|_| ways.choose()).collect();
        assert!(ways.trial.as_ref().is_some_and(|trial| trial.given < 2 * WRITES_PER_TRIAL));
        flying.into_iter().for_each(|choice| ways.ended(choice, Duration::from_micros(200)));
        run(&mut ways, 20_000, |way| if way == Way::Ring { 100 } else { 200 });
        assert_eq!(ways.chosen, Way::Ring);
    }

    #[test]
    fn what_cannot_be_had_is_asked_for_ever_less() {
        let mut ways = Ways::new(8);
        let mut asked = 0;
        for _ in 0..100_000 {
            let choice = ways.choose();
            if choice.way == Way::Pool {
                ways.refused();
                asked += 1;
            } else {
                ways.ended(choice, Duration::from_millis(4));
            }
        }
        assert!(ways.chosen == Way::Ring && asked < 30, "{asked}");
    }

    #[test]
    fn ends_in_any_order_and_of_trials_long_over_change_nothing() {
        let mut ways = Ways::new(8);
        let mut in_flight = Vec::new();
        let mut seed = 4;
        for turn in 0..100_000u64 {
            in_flight.push(ways.choose());
            if in_flight.len() > 40 {
                let at = (noisy(&mut seed, 1000) % 41) as usize;
                let choice = in_flight.swap_remove(at);
                let micros = if choice.way == Way::Ring { 4000 } else { 200 };
                ways.ended(choice, Duration::from_micros(micros + turn % 7));
            }
            assert!(ways.trial.as_ref().is_none_or(|trial| trial.given <= 2 * WRITES_PER_TRIAL));
        }
        assert_eq!(ways.chosen, Way::Pool);
    }
}
