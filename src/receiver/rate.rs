//! How fast the engine can take records: a limit on what is let in, and the controller that finds it from batch times.

use std::time::{Duration, Instant};

/// A token bucket in bytes. It may be overdrawn by one message; the next one then waits longer. What was taken and is given
/// back has been worked off meanwhile: for as long as claims are held, as much as they were may come at once afterwards.
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: f64,
    tokens: f64,
    at: Instant,
}

/// As much as this long's worth may come at once.
const BURST: Duration = Duration::from_millis(100);

impl RateLimit {
    /// A bucket that is full at `now`.
    #[must_use]
    pub fn new(now: Instant, bytes_per_second: f64) -> RateLimit {
        let mut limit = RateLimit { bytes_per_second: 0.0, tokens: 0.0, at: now };
        limit.set(now, bytes_per_second);
        limit.tokens = limit.burst();
        limit
    }

    /// Changes the rate from `now` on; at least a byte a second, also where it is no number.
    pub fn set(&mut self, now: Instant, bytes_per_second: f64) {
        self.refill(now);
        self.bytes_per_second = if bytes_per_second > 1.0 { bytes_per_second.min(f64::MAX) } else { 1.0 };
        self.tokens = self.tokens.min(self.burst());
    }

    /// Whether something may come now.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens > 0.0
    }

    /// Takes what has come.
    pub fn take(&mut self, bytes: u64) {
        self.tokens -= bytes as f64;
    }

    /// Of what was taken, so much has not come after all.
    pub fn refund(&mut self, bytes: u64) {
        self.tokens = (self.tokens + bytes as f64).min(self.burst());
    }

    /// When something may come again; `None`: already.
    #[must_use]
    pub fn opens_at(&self) -> Option<Instant> {
        if self.tokens > 0.0 {
            return None;
        }
        // A little more than exactly: a wait that ends at zero tokens would have to wait again.
        let wait = (1.0 - self.tokens) / self.bytes_per_second;
        Some(self.at + Duration::from_secs_f64(wait.clamp(0.000_1, 3600.0)))
    }

    fn burst(&self) -> f64 {
        self.bytes_per_second * BURST.as_secs_f64()
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.bytes_per_second).min(self.burst());
    }
}

/// Weights of the controller; the defaults are those that have served micro-batch engines for years.
#[derive(Clone, Copy, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct PidConfig {
    /// Of the error: the rate that is, less the rate that was processed. Default 1.
    pub proportional: f64,
    /// Of what has piled up. Default 0.2.
    pub integral: f64,
    /// Of the error's change. Default 0.
    pub derivative: f64,
    /// Never below this many records a second, from 1 on: without any, no batch would raise the rate again. Default 100.
    pub records_per_second_min: f64,
    /// The rate before the first batch has been processed. Default 10 000.
    pub records_per_second_first: f64,
}

impl Default for PidConfig {
    fn default() -> PidConfig {
        PidConfig {
            proportional: 1.0,
            integral: 0.2,
            derivative: 0.0,
            records_per_second_min: 100.0,
            records_per_second_first: 10_000.0,
        }
    }
}

/// Finds the rate at which batches take as long to process as they take to arrive.
#[derive(Debug)]
pub struct PidController {
    config: PidConfig,
    interval: Duration,
    rate: f64,
    last: Option<(Duration, f64)>,
}

impl PidController {
    /// For batches that begin every `interval`. There is a rate from the first moment on.
    #[must_use]
    pub fn new(config: PidConfig, interval: Duration) -> PidController {
        let rate = config.records_per_second_first.max(config.records_per_second_min);
        PidController { config, interval: interval.max(Duration::from_millis(1)), rate, last: None }
    }

    /// Records a second that may come.
    #[must_use]
    pub fn records_per_second(&self) -> f64 {
        self.rate
    }

    /// A batch of `records` ended at `at` (since any fixed moment), took `processing`, and had waited `scheduling`
    /// before it began. Batches without records, and those that end before an earlier one, say nothing.
    pub fn completed(&mut self, at: Duration, records: u64, processing: Duration, scheduling: Duration) -> f64 {
        let seconds = processing.as_secs_f64();
        let since = self.last.map_or(self.interval, |(last, _)| at.saturating_sub(last)).as_secs_f64();
        if records == 0 || seconds <= 0.0 || since <= 0.0 {
            return self.rate;
        }
        let processed = records as f64 / seconds;
        let error = self.rate - processed;
        let piled_up = scheduling.as_secs_f64() * processed / self.interval.as_secs_f64();
        let change = self.last.map_or(0.0, |(_, before)| (error - before) / since);
        let PidConfig { proportional, integral, derivative, records_per_second_min, .. } = self.config;
        self.rate = match self.last {
            None => processed.min(self.rate),
            Some(_) => self.rate - proportional * error - integral * piled_up - derivative * change,
        };
        self.rate = self.rate.max(records_per_second_min);
        self.last = Some((at, if self.last.is_none() { 0.0 } else { error }));
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is no number was no limit.
    #[test]
    fn there_is_a_limit_whatever_the_rate_is() {
        let now = Instant::now();
        for (rate, opens) in
            [(f64::NAN, false), (f64::NEG_INFINITY, false), (-1.0, false), (0.0, false), (f64::INFINITY, true)]
        {
            let mut limit = RateLimit::new(now, rate);
            limit.take(1000);
            assert_eq!(limit.is_open(now + SECOND), opens, "{rate}");
        }
    }

    #[test]
    fn there_is_a_bound_before_the_first_batch_and_it_never_rises_by_it() {
        let mut pid = PidController::new(PidConfig::default(), SECOND);
        assert_eq!(pid.records_per_second(), 10_000.0);
        assert_eq!(pid.completed(SECOND, 1_000_000, SECOND, Duration::ZERO), 10_000.0);
        let mut slow = PidController::new(PidConfig::default(), SECOND);
        assert_eq!(slow.completed(SECOND, 10_000, 5 * SECOND, Duration::ZERO), 2_000.0);
    }

    #[test]
    fn it_settles_at_what_the_engine_can_do() {
        let mut pid = PidController::new(PidConfig::default(), SECOND);
        let (mut at, mut behind) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..50 {
            let records = pid.records_per_second();
            let processing = Duration::from_secs_f64(records / 3_000.0);
            at += processing.max(SECOND);
            pid.completed(at, records as u64, processing, behind);
            behind = (behind + processing).saturating_sub(SECOND);
        }
        let rate = pid.records_per_second();
        assert!((2_700.0..=3_001.0).contains(&rate), "{rate}");
        assert!(behind < SECOND, "{behind:?}");
    }

    #[test]
    fn nothing_said_changes_nothing_and_the_floor_holds() {
        let mut pid = PidController::new(PidConfig::default(), SECOND);
        pid.completed(SECOND, 1_000, SECOND, Duration::ZERO);
        assert_eq!(pid.completed(2 * SECOND, 0, SECOND, Duration::ZERO), 1_000.0);
        assert_eq!(pid.completed(SECOND / 2, 5, SECOND, Duration::ZERO), 1_000.0, "it ended before the last one");
        assert_eq!(pid.completed(3 * SECOND, 1, 100 * SECOND, 100 * SECOND), 100.0);
    }
}
