//! When to write the next group: at once, or when the waiters of the last one have rejoined.
//!
//! In a closed loop every waiter that a group releases comes back with its next record. A log that writes as soon as
//! the first of them is back gets half of the possible group, for ever. So after a group ends, the next one waits until
//! as many waiters have come as were released (times the share that was seen to come back), but never longer than one
//! flush takes. Where waiters do not come back, the share falls and the gathering stops; now and then it is tried again.
//!
//! Tried and dropped: a window of twice the measured rejoin time. Too short a window looks exactly like waiters that
//! stay away, the share fell to what had come by then, and groups stayed at half: 31 of 64, 5.2 of 8.

use std::time::{Duration, Instant};

const REJOIN_MIN: f64 = 0.5;
const PROBE_EVERY: u32 = 32;
/// How much the expected share rises each time it was met in time.
const AIM_HIGHER: f64 = 0.02;
const WINDOW_MIN: Duration = Duration::from_micros(50);
const WINDOW_MAX: Duration = Duration::from_millis(2);

/// Whether the waiting frames should be written now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    /// Now.
    Ready,
    /// When more waiters have come, at the latest then.
    At(Instant),
}

/// Pure: time and counts come in with each event.
#[derive(Debug)]
pub(crate) struct Gather {
    enabled: bool,
    /// Share of released waiters that came back within the window, averaged.
    rejoin_share: f64,
    window: Option<Window>,
    releases: u32,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    deadline: Instant,
    /// Waiters that were queued already when it opened.
    queued: u32,
    released: u32,
    /// Write when so many wait.
    target: u32,
}

impl Gather {
    pub(crate) fn new(enabled: bool) -> Gather {
        Gather { enabled, rejoin_share: 1.0, window: None, releases: 0 }
    }

    /// A group ended: `released` waiters go, `queued` already wait for the next.
    pub(crate) fn released(&mut self, now: Instant, released: u32, queued: u32, flush: Duration) {
        self.window = None;
        self.releases = self.releases.wrapping_add(1);
        // One released waiter and nobody queued is the lone writer: whatever it does next is the whole group.
        if !self.enabled || released == 0 || released + queued < 2 {
            return;
        }
        let probing = self.rejoin_share < REJOIN_MIN && self.releases.is_multiple_of(PROBE_EVERY);
        if self.rejoin_share < REJOIN_MIN && !probing {
            return;
        }
        let share = if probing { 1.0 } else { self.rejoin_share };
        let back = (f64::from(released) * share).round() as u32;
        self.window = Some(Window {
            deadline: now + flush.clamp(WINDOW_MIN, WINDOW_MAX),
            queued,
            released,
            target: queued + back.max(1),
        });
    }

    /// Whether a group with `waiting` waiters should be written.
    pub(crate) fn readiness(&self, now: Instant, waiting: u32) -> Readiness {
        match self.window {
            Some(window) if waiting < window.target && now < window.deadline => Readiness::At(window.deadline),
            _ => Readiness::Ready,
        }
    }

    /// A group with `waiting` waiters is being written: learn from how the window went.
    pub(crate) fn taken(&mut self, now: Instant, waiting: u32) {
        let Some(window) = self.window.take() else { return };
        let back = waiting.saturating_sub(window.queued).min(window.released);
        let share = f64::from(back) / f64::from(window.released);
        self.rejoin_share = if now >= window.deadline {
            0.8 * self.rejoin_share + 0.2 * share
        } else {
            // The target was met before the time was over. More might have come: aim a little higher, or the share
            // could only ever fall.
            (self.rejoin_share.max(share) + AIM_HIGHER).min(1.0)
        };
    }

    /// The share of released waiters that came back in time, averaged; for the statistics.
    pub(crate) fn rejoin_share(&self) -> f64 {
        self.rejoin_share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: Duration = Duration::from_micros(300);

    #[test]
    fn a_lone_writer_never_waits() {
        let mut gather = Gather::new(true);
        let now = Instant::now();
        for _ in 0..100 {
            gather.released(now, 1, 0, FLUSH);
            assert_eq!(gather.readiness(now, 1), Readiness::Ready);
            gather.taken(now, 1);
        }
    }

    #[test]
    fn waiters_that_come_back_are_waited_for() {
        let mut gather = Gather::new(true);
        let now = Instant::now();
        gather.released(now, 8, 0, FLUSH);
        assert!(matches!(gather.readiness(now, 7), Readiness::At(_)));
        assert_eq!(gather.readiness(now, 8), Readiness::Ready);
        assert_eq!(gather.readiness(now + FLUSH, 1), Readiness::Ready, "never longer than a flush");
    }

    #[test]
    fn waiters_that_stay_away_are_not_waited_for_again_and_again() {
        let mut gather = Gather::new(true);
        let mut now = Instant::now();
        let mut waited = 0;
        for _ in 0..320 {
            gather.released(now, 8, 1, FLUSH);
            waited += u32::from(gather.readiness(now, 1) != Readiness::Ready);
            now += FLUSH;
            gather.taken(now, 1);
        }
        assert!(waited < 32, "waited {waited} times of 320");
        for _ in 0..320 {
            gather.released(now, 8, 0, FLUSH);
            gather.taken(now, 8);
        }
        gather.released(now, 8, 0, FLUSH);
        assert!(matches!(gather.readiness(now, 7), Readiness::At(_)), "a closed loop is noticed again");
    }

    #[test]
    fn the_target_follows_the_share_that_comes_back_in_both_directions() {
        for comes_back in [6u32, 8, 5, 8] {
            let mut gather = Gather::new(true);
            gather.rejoin_share = 0.55;
            let mut now = Instant::now();
            let mut full = 0;
            for i in 0..1000 {
                gather.released(now, 8, 0, FLUSH);
                // They come one by one; the group is taken as soon as it is ready, or at the end of the window.
                let taken = (1..=comes_back).find(|n| gather.readiness(now, *n) == Readiness::Ready);
                if taken.is_none() {
                    now += FLUSH;
                }
                let taken = taken.unwrap_or(comes_back);
                gather.taken(now, taken);
                full += u32::from(i >= 500 && taken == comes_back);
            }
            assert!(full >= 400, "{comes_back} of 8 come back, and {full} of 500 groups had them all");
        }
    }
}
