//! How quiet the machine was, without which a figure says little.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::Usage;

/// What the kernel's clock ticks were spent on since boot, all CPUs together, and what this process used of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    stolen: u64,
    busy: u64,
    all: u64,
    own: Duration,
}

/// What disturbed a measurement, in percent of all CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Noise {
    /// The hypervisor gave it to others.
    pub stolen_percent: f64,
    /// Other processes used it, or the kernel's own threads and interrupts, some of which work for this process.
    pub elsewhere_percent: f64,
}

impl Noise {
    /// Both together.
    pub fn percent(self) -> f64 {
        self.stolen_percent + self.elsewhere_percent
    }
}

impl Ticks {
    /// Until now; `None` where the kernel does not tell.
    pub fn now() -> Option<Ticks> {
        Ticks::of(&fs::read_to_string("/proc/stat").ok()?, Usage::of_process().cpu)
    }

    /// From the text of `/proc/stat`.
    fn of(stat: &str, own: Duration) -> Option<Ticks> {
        let words = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let ticks: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        // Guest time, which follows, is part of user time.
        let &[user, nice, system, idle, iowait, irq, softirq, stolen] = ticks.first_chunk()?;
        let busy = user + nice + system + irq + softirq;
        Some(Ticks { stolen, busy, all: busy + idle + iowait + stolen, own })
    }

    /// What has disturbed this process since then; `None` where the kernel does not tell.
    pub fn noise_until_now(self) -> Option<Noise> {
        Some(Ticks::now()?.noise_since(self))
    }

    fn noise_since(self, earlier: Ticks) -> Noise {
        let all = self.all.saturating_sub(earlier.all).max(1) as f64;
        let own = self.own.saturating_sub(earlier.own).as_secs_f64() * TICKS_PER_SECOND;
        let elsewhere = (self.busy.saturating_sub(earlier.busy) as f64 - own).max(0.0);
        Noise {
            stolen_percent: 100.0 * self.stolen.saturating_sub(earlier.stolen) as f64 / all,
            elsewhere_percent: 100.0 * elsewhere / all,
        }
    }
}

/// `USER_HZ`, which is 100 on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  1000 100 500 9000 300 20 30 40 7 7\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1 2 3\n";
    const AFTER: &str = "cpu  1080 110 520 9060 310 24 26 50 99 99\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1 2 3\n";

    fn noise(own_millis: u64) -> Noise {
        let ticks = |stat, millis| Ticks::of(stat, Duration::from_millis(millis)).unwrap();
        ticks(AFTER, 5000 + own_millis).noise_since(ticks(BEFORE, 5000))
    }

    #[test]
    fn what_others_used_is_what_was_used_and_not_by_this_process() {
        // 80 + 10 + 20 + 4 - 4 busy, 60 + 10 idle, 10 stolen.
        let all = 110.0 + 70.0 + 10.0;
        assert_eq!(noise(0), Noise { stolen_percent: 1000.0 / all, elsewhere_percent: 11000.0 / all });
        assert_eq!(noise(600).elsewhere_percent, 5000.0 / all);
        assert_eq!(noise(600).percent(), 6000.0 / all);
        // Both counts are rounded to ticks.
        assert_eq!(noise(1110).elsewhere_percent, 0.0);
    }

    #[test]
    fn no_time_between_is_no_noise() {
        let ticks = Ticks::of(BEFORE, Duration::ZERO).unwrap();
        assert_eq!(ticks.noise_since(ticks), Noise::default());
    }

    #[test]
    fn what_is_not_told_is_not_guessed() {
        for stat in ["", "cpu", "cpu  1 2 3 4 5 6 7\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu  1 2 3 x 5 6 7 8\n"] {
            assert_eq!(Ticks::of(stat, Duration::ZERO), None, "{stat}");
        }
        assert!(Ticks::of("cpu  1 2 3 4 5 6 7 8\n", Duration::ZERO).is_some());
    }
}
