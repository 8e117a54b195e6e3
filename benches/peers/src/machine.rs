//! How quiet the machine was, without which a figure says little.

use std::fs;

use std::time::Duration;

use seawall_limit::Usage;
use serde::Serialize;

/// What the kernel's clock ticks were spent on since boot, all CPUs together, and what this process used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ticks {
    stolen: u64,
    busy: u64,
    all: u64,
    own: Duration,
}

/// What disturbed a measurement, in percent of all CPU time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Noise {
    /// The hypervisor gave it to others.
    pub(crate) stolen_percent: f64,
    /// Other processes used it, or the kernel's own threads.
    pub(crate) elsewhere_percent: f64,
}

impl Noise {
    /// Beyond this the figures of a cell say more about the machine than about the contenders.
    pub(crate) const LIMIT_PERCENT: f64 = 30.0;

    pub(crate) fn is_too_much(self) -> bool {
        self.stolen_percent + self.elsewhere_percent > Noise::LIMIT_PERCENT
    }
}

impl Ticks {
    /// Zeros where the kernel does not tell.
    pub(crate) fn now() -> Ticks {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let ticks = first.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok());
        // Guest time, which follows, is part of user time.
        let [user, nice, system, idle, iowait, irq, softirq, stolen] = first_eight(ticks);
        let busy = user + nice + system + irq + softirq;
        Ticks { stolen, busy, all: busy + idle + iowait + stolen, own: Usage::of_process().cpu }
    }

    pub(crate) fn noise_since(self, earlier: Ticks) -> Noise {
        let all = self.all.saturating_sub(earlier.all).max(1) as f64;
        let own = (self.own - earlier.own).as_secs_f64() * TICKS_PER_SECOND;
        let elsewhere = (self.busy.saturating_sub(earlier.busy) as f64 - own).max(0.0);
        Noise {
            stolen_percent: 100.0 * self.stolen.saturating_sub(earlier.stolen) as f64 / all,
            elsewhere_percent: 100.0 * elsewhere / all,
        }
    }
}

/// `USER_HZ`, which is 100 on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

fn first_eight(mut ticks: impl Iterator<Item = u64>) -> [u64; 8] {
    std::array::from_fn(|_| ticks.next().unwrap_or(0))
}

/// Kernel release and number of CPUs.
pub(crate) fn description() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs", release.trim())
}
