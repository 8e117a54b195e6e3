//! What the figures were measured on.

use std::fs;

/// Kernel release and number of CPUs.
pub(crate) fn description() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs", release.trim())
}
