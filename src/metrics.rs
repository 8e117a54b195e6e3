//! Counters and distributions of one log. Atomic, never a lock, never an allocation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per power of two.
const STEPS: usize = 4;
const BUCKETS: usize = 40 * STEPS;

/// A distribution of whole numbers (microseconds, bytes, frames): buckets a quarter of a power of two wide, so that a
/// percentile is at most 25 % above the truth.
#[derive(Debug)]
pub(crate) struct Distribution {
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.max(1);
    let power = value.ilog2() as usize;
    let step = if power >= 2 { (value >> (power - 2)) as usize & (STEPS - 1) } else { 0 };
    (power * STEPS + step).min(BUCKETS - 1)
}

fn bucket_top(bucket: usize) -> u64 {
    let (power, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    if power < 2 { (2u64 << power) - 1 } else { ((4 + step + 1) << (power - 2)) - 1 }
}

impl Distribution {
    pub(crate) fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Relaxed);
        self.count.fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
        self.max.fetch_max(value, Relaxed);
    }

    pub(crate) fn record_micros(&self, time: Duration) {
        self.record(time.as_micros() as u64);
    }

    pub(crate) fn summary(&self) -> Summary {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let count: u64 = buckets.iter().sum();
        let max = self.max.load(Relaxed);
        let percentile = |share: f64| {
            let rank = (count as f64 * share).ceil() as u64;
            let mut seen = 0;
            buckets
                .iter()
                .position(|n| {
                    seen += n;
                    seen >= rank && rank > 0
                })
                .map_or(0, |bucket| bucket_top(bucket).min(max))
        };
        Summary { count, sum: self.sum.load(Relaxed), p50: percentile(0.50), p99: percentile(0.99), max }
    }
}

/// What a distribution says. Percentiles are upper bounds, at most 25 % above the truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// All but one in a hundred are at most this.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frame_bytes: AtomicU64,
    pub(crate) device_bytes: AtomicU64,
    pub(crate) write_micros: Distribution,
    pub(crate) flush_micros: Distribution,
    pub(crate) group_frames: Distribution,
    pub(crate) group_bytes: Distribution,
    pub(crate) queue_wait_micros: Distribution,
    pub(crate) groups_led: AtomicU64,
    pub(crate) groups_by_pool: AtomicU64,
    pub(crate) groups_driven: AtomicU64,
    pub(crate) segments_prepared: AtomicU64,
    pub(crate) segments_recycled: AtomicU64,
    pub(crate) segments_removed: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) prepared_bytes: AtomicU64,
    pub(crate) dropped_frames: AtomicU64,
    pub(crate) faulty_ranges: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bound_the_truth_from_above_and_closely() {
        for value in (0..2000).chain([1 << 20, (1 << 33) + 12345]) {
            let top = bucket_top(bucket_of(value));
            assert!(top >= value && top <= value.max(1) + value / 4 + 1, "{value} -> {top}");
        }
        let d = Distribution::default();
        for value in 1..=1000 {
            d.record(value);
        }
        let s = d.summary();
        assert_eq!((s.count, s.sum, s.max), (1000, 500_500, 1000));
        assert!((500..=600).contains(&s.p50) && (990..=1000).contains(&s.p99), "{s:?}");
    }
}
