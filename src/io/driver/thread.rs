//! The driver's own thread.

use std::num::NonZeroU64;

use super::super::slice::shorten_time_slice;
use super::AbortOnPanic;
use super::carrier::Carrier;

/// Returns when nobody is left who could want anything.
pub(super) fn run(mut carrier: Carrier) {
    let _guard = AbortOnPanic::new();
    // Deadlines here are fractions of a millisecond; the default slack of 50 µs would be felt. Best effort.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let _ = shorten_time_slice();
    while carrier.work() {
        carrier.sleep();
    }
    carrier.end();
}
