//! When to try again: doubling spans, of each a random part ("full jitter"), so that many ends do not come back at once.
//! Pure.

use std::time::{Duration, Instant};

/// How long to wait between attempts: at most a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackoffConfig {
    /// The first wait is at most this long. Default 100 ms.
    pub min: Duration,
    /// No wait is longer. Default 30 s.
    pub max: Duration,
    /// A session that lasted this long begins the doubling anew. Default 5 s.
    pub healthy_after: Duration,
}

impl Default for BackoffConfig {
    fn default() -> BackoffConfig {
        BackoffConfig {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            healthy_after: Duration::from_secs(5),
        }
    }
}

/// The waits of one end.
#[derive(Debug)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    span: Duration,
    healthy_since: Option<Instant>,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(config: BackoffConfig, seed: u64) -> Backoff {
        Backoff { span: config.min, config, healthy_since: None, random: seed }
    }

    /// A session is open.
    pub(crate) fn opened(&mut self, now: Instant) {
        self.healthy_since = Some(now);
    }

    /// An attempt or a session has ended: how long to wait.
    pub(crate) fn ended(&mut self, now: Instant) -> Duration {
        if self.healthy_since.take().is_some_and(|since| now >= since + self.config.healthy_after) {
            self.span = self.config.min;
        }
        let wait = self.span.mul_f64(self.draw());
        self.span = (2 * self.span).min(self.config.max);
        wait
    }

    /// Uniform in 0 .. 1 (splitmix64).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread_over_their_span() {
        let now = Instant::now();
        let mut longest = [Duration::ZERO; 14];
        let mut shortest = [Duration::MAX; 14];
        for seed in 0..400 {
            let mut backoff = Backoff::new(BackoffConfig::default(), seed);
            for (longest, shortest) in longest.iter_mut().zip(&mut shortest) {
                let wait = backoff.ended(now);
                *longest = (*longest).max(wait);
                *shortest = (*shortest).min(wait);
            }
        }
        for (attempt, (longest, shortest)) in longest.into_iter().zip(shortest).enumerate() {
            let span = (Duration::from_millis(100) * (1 << attempt)).min(Duration::from_secs(30));
            assert!(longest <= span && longest > span * 9 / 10, "{attempt}: {longest:?} of {span:?}");
            assert!(shortest < span / 10, "{attempt}: {shortest:?} of {span:?}");
        }
    }

    #[test]
    fn only_a_session_that_lasted_begins_anew() {
        let config = BackoffConfig::default();
        let now = Instant::now();
        let grown = |lasted| {
            let mut backoff = Backoff::new(config, 7);
            (0..12).for_each(|_| _ = backoff.ended(now));
            backoff.opened(now);
            backoff.ended(now + lasted);
            backoff.span
        };
        assert_eq!(grown(config.healthy_after), 2 * config.min);
        assert_eq!(grown(config.healthy_after / 2), config.max, "welcomed and dropped, over and over");
    }

    #[test]
    fn a_seed_draws_the_same_waits() {
        let draw = |seed| {
            let mut backoff = Backoff::new(BackoffConfig::default(), seed);
            (0..9).map(|_| backoff.ended(Instant::now())).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
