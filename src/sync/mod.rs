//! Where the log takes its locks, atomics and clock from: ordinarily the obvious places, and nothing in between.
//!
//! Built with `--cfg shuttle` they come from [`model`] instead, in which a scheduler decides at each of them which
//! thread goes on: `tests/shuttle` explores the log's schedules with it. The driver of real disks keeps its own: it is
//! not explored.

#[cfg(shuttle)]
pub mod model;

#[cfg(shuttle)]
pub(crate) use model::{Condvar, Mutex, MutexGuard, atomic, now, sleep};
#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::{sync::atomic, thread::sleep};

/// The time by the monotonic clock.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
