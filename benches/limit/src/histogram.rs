use std::time::Duration;

const STEP_BITS: u32 = 8;
const STEPS: usize = 1 << STEP_BITS;

/// Latencies in bounded memory: 256 linear steps per power of two, so within 0.4 % of the truth.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// By slot, see [`slot`].
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; slot(u64::MAX) + 1], total: 0 }
    }
}

impl Histogram {
    /// Counts `records` that all took `latency`.
    pub fn add(&mut self, latency: Duration, records: usize) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[slot(nanos)] += records as u64;
        self.total += records as u64;
    }

    /// Counts everything that `other` counted, too.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// Records counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency that `quantile` of the records do not exceed, in microseconds; 0 if empty.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return middle_nanos(slot) / 1_000.0;
            }
        }
        0.0
    }
}

fn slot(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEP_BITS + 1);
    shift as usize * STEPS + (nanos >> shift) as usize
}

fn middle_nanos(slot: usize) -> f64 {
    let shift = (slot / STEPS).saturating_sub(1);
    let first = (slot - shift * STEPS) as f64;
    (first + 0.5) * (1u64 << shift) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_in_order_and_close() {
        let mut last = 0;
        for nanos in (0..4_000u64).chain((12..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            assert!(slot(nanos) >= last, "{nanos}");
            last = slot(nanos);
            let error = (middle_nanos(last) - nanos as f64).abs();
            assert!(error <= 0.5 + nanos as f64 / STEPS as f64, "{nanos} {error}");
        }
    }

    #[test]
    fn quantiles_weigh_by_records() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_micros(100), 98);
        histogram.add(Duration::from_micros(9_000), 2);
        assert!((histogram.quantile_us(0.5) - 100.0).abs() < 0.5);
        assert!((histogram.quantile_us(0.99) - 9_000.0).abs() < 40.0);
        assert_eq!(Histogram::default().quantile_us(0.5), 0.0);
    }
}
