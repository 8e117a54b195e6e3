//! How many device writes to keep in flight: found by measuring, never a constant.
//!
//! On a device without FUA each durable write is a write and a flush of the whole cache: with small groups a second one
//! in flight lost 20–24 %, while with an open load of 4–64 KiB groups eight in flight did four times the writes. Drives
//! with power-loss protection differ again. So: hold a depth for some groups under saturation, now and then try half
//! and double, and move when durable bytes per second rise by a tenth.

use std::time::{Duration, Instant};

/// Completions per measurement.
const GROUPS_PER_TRIAL: u32 = 16;
/// Saturated trials at the chosen depth between two excursions.
const TRIALS_BETWEEN_PROBES: u32 = 4;
/// A rival must be better by this factor.
const ADVANTAGE: f64 = 1.10;

/// Hill climbing over depths `min`, twice that, … `max`. Pure: time comes in with each event.
#[derive(Debug)]
pub(crate) struct DepthController {
    min: usize,
    max: usize,
    chosen: usize,
    trial: Trial,
    /// Durable bytes per second at the chosen depth, averaged over saturated trials.
    chosen_rate: f64,
    trials_since_probe: u32,
    probe_upwards: bool,
}

#[derive(Debug)]
struct Trial {
    depth: usize,
    began: Option<Instant>,
    groups: u32,
    saturated: u32,
    bytes: u64,
}

impl Trial {
    fn at(depth: usize) -> Trial {
        Trial { depth, began: None, groups: 0, saturated: 0, bytes: 0 }
    }
}

impl DepthController {
    pub(crate) fn new(min: usize, max: usize) -> DepthController {
        let min = min.max(1);
        DepthController {
            min,
            max: max.max(min),
            chosen: min,
            trial: Trial::at(min),
            chosen_rate: 0.0,
            trials_since_probe: 0,
            probe_upwards: true,
        }
    }

    /// Writes that may be in flight now.
    pub(crate) fn depth(&self) -> usize {
        self.trial.depth
    }

    /// A write of `bytes` ended at `now`; `saturated`: more work was waiting for its place.
    pub(crate) fn completed(&mut self, now: Instant, bytes: u64, saturated: bool) {
        let began = *self.trial.began.get_or_insert(now);
        if began == now && self.trial.groups == 0 {
            // The first completion only starts the clock: its own write began before the trial.
            self.trial.groups = 1;
            return;
        }
        self.trial.groups += 1;
        self.trial.saturated += u32::from(saturated);
        self.trial.bytes += bytes;
        if self.trial.groups > GROUPS_PER_TRIAL {
            let elapsed = now.saturating_duration_since(began).max(Duration::from_micros(1));
            let rate = self.trial.bytes as f64 / elapsed.as_secs_f64();
            let saturated = self.trial.saturated * 10 >= GROUPS_PER_TRIAL * 9;
            self.end_trial(rate, saturated);
        }
    }

    fn end_trial(&mut self, rate: f64, saturated: bool) {
        let tried = self.trial.depth;
        if !saturated {
            // Nothing to learn: without waiting work the depth does not matter. An excursion ends where it began, and a
            // depth above the least is given up, so that a light load never pays for yesterday's heavy one.
            if tried == self.chosen && self.chosen > self.min {
                self.chosen = (self.chosen / 2).max(self.min);
                self.chosen_rate = 0.0;
            }
            self.trials_since_probe = 0;
            self.trial = Trial::at(self.chosen);
            return;
        }
        if tried != self.chosen {
            if rate > self.chosen_rate * ADVANTAGE {
                self.chosen = tried;
                self.chosen_rate = rate;
            } else {
                self.probe_upwards = !self.probe_upwards;
            }
            self.trials_since_probe = 0;
            self.trial = Trial::at(self.chosen);
            return;
        }
        self.chosen_rate = if self.chosen_rate == 0.0 { rate } else { 0.7 * self.chosen_rate + 0.3 * rate };
        self.trials_since_probe += 1;
        let next = if self.trials_since_probe >= TRIALS_BETWEEN_PROBES { self.rival() } else { self.chosen };
        self.trial = Trial::at(next);
    }

    fn rival(&mut self) -> usize {
        let up = (self.chosen * 2).min(self.max);
        let down = (self.chosen / 2).max(self.min);
        let preferred = if self.probe_upwards { up } else { down };
        if preferred != self.chosen {
            return preferred;
        }
        self.probe_upwards = !self.probe_upwards;
        if self.probe_upwards { up } else { down }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    /// Runs the controller against a device whose saturated rate at a depth is `rate(depth)` groups per second.
    fn settle(depths: RangeInclusive<usize>, saturated: bool, rate: impl Fn(usize) -> f64) -> usize {
        let mut controller = DepthController::new(*depths.start(), *depths.end());
        let mut now = Instant::now();
        let mut at = [0u32; 65];
        for i in 0..200_000 {
            now += Duration::from_secs_f64(1.0 / rate(controller.depth()));
            controller.completed(now, 4096, saturated);
            if i > 100_000 {
                at[controller.depth()] += 1;
            }
        }
        (0..at.len()).max_by_key(|d| at[*d]).unwrap()
    }

    #[test]
    fn it_finds_each_device_s_depth() {
        assert_eq!(settle(1..=8, true, |d| 5000.0 * 0.9f64.powi(d as i32)), 1, "every further flush loses");
        assert_eq!(settle(1..=8, true, |d| 5000.0 * d as f64), 8, "flushes are free");
        assert_eq!(settle(1..=8, true, |d| 5000.0 * (d.min(4) as f64) - 100.0 * d as f64), 4, "saturates at four");
        assert_eq!(settle(1..=1, true, |d| 5000.0 * d as f64), 1, "the limit is kept");
        assert_eq!(settle(1..=8, false, |d| 5000.0 * d as f64), 1, "no waiting work, no depth");
        assert_eq!(settle(3..=8, true, |d| 5000.0 * 0.9f64.powi(d as i32)), 3, "but what is asked for");
        assert_eq!(settle(3..=8, false, |d| 5000.0 * d as f64), 3, "always");
    }
}
