//! The bytes a receiver holds for all its sessions: from before a message is read until its records are durable.
//!
//! Sessions that find no room wait in line; a session that is gone leaves its bytes charged until they are durable. The
//! engine's rate is a second gate in the same line.

use std::collections::VecDeque;
use std::time::Instant;

use super::intake::SessionKey;
use super::rate::RateLimit;

/// What is charged, and who waits.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    charged_bytes: u64,
    rate: Option<RateLimit>,
    line: VecDeque<(SessionKey, u64)>,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Budget {
        Budget { limit_bytes, charged_bytes: 0, rate: None, line: VecDeque::new() }
    }

    pub(crate) fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_contended(&self) -> bool {
        !self.line.is_empty()
    }

    /// Whether this session is the next one to be let in.
    pub(crate) fn is_first(&self, session: SessionKey) -> bool {
        self.line.front().is_some_and(|(first, _)| *first == session)
    }

    /// Limits how many bytes a second are let in; `None`: as many as there is room for.
    pub(crate) fn set_rate(&mut self, now: Instant, bytes_per_second: Option<f64>) {
        match (&mut self.rate, bytes_per_second) {
            (Some(limit), Some(rate)) => limit.set(now, rate),
            (limit, Some(rate)) => *limit = Some(RateLimit::new(now, rate)),
            (limit, None) => *limit = None,
        }
    }

    /// Charges `bytes` now, or puts the session in line.
    pub(crate) fn reserve(&mut self, now: Instant, session: SessionKey, bytes: u64) -> bool {
        if self.line.is_empty() && self.has_room(now, bytes) {
            self.charge(bytes);
            return true;
        }
        self.line.push_back((session, bytes));
        false
    }

    /// Gives back what was taken: it is durable.
    pub(crate) fn release(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.charged_bytes, "released more than was charged");
        self.charged_bytes = self.charged_bytes.saturating_sub(bytes);
    }

    /// Gives back what was charged and not taken in: it is no work for the engine, and does not count against its rate.
    pub(crate) fn refund(&mut self, bytes: u64) {
        self.release(bytes);
        if let Some(rate) = &mut self.rate {
            rate.refund(bytes);
        }
    }

    /// Whether more is held than may be without the `own` bytes of somebody who would hold more besides. Nobody is let in
    /// then: it passes.
    pub(crate) fn is_beyond_without(&self, own: u64) -> bool {
        self.charged_bytes.saturating_sub(own) > self.limit_bytes
    }

    /// Charges what is held besides what was read: it is there already, and cannot wait.
    pub(crate) fn charge_besides(&mut self, bytes: u64) {
        self.charged_bytes += bytes;
    }

    /// The first in line, if there is room for it now.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<(SessionKey, u64)> {
        let (session, bytes) = *self.line.front()?;
        if !self.has_room(now, bytes) {
            return None;
        }
        self.line.pop_front();
        self.charge(bytes);
        Some((session, bytes))
    }

    /// A session that is gone does not wait any more.
    pub(crate) fn leave(&mut self, session: SessionKey) {
        self.line.retain(|(waiting, _)| *waiting != session);
    }

    /// When the rate lets the first in line in, if nothing else keeps it out.
    pub(crate) fn next_admission(&self) -> Option<Instant> {
        let (_, bytes) = self.line.front()?;
        self.rate.as_ref().filter(|_| self.fits(*bytes)).and_then(RateLimit::opens_at)
    }

    /// A message longer than the whole budget passes when nothing else is charged: it would wait for ever.
    fn has_room(&mut self, now: Instant, bytes: u64) -> bool {
        self.fits(bytes) && self.rate.as_mut().is_none_or(|rate| rate.is_open(now))
    }

    fn fits(&self, bytes: u64) -> bool {
        self.charged_bytes + bytes <= self.limit_bytes || self.charged_bytes == 0
    }

    fn charge(&mut self, bytes: u64) {
        self.charged_bytes += bytes;
        if let Some(rate) = &mut self.rate {
            rate.take(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: u32) -> SessionKey {
        SessionKey::for_tests(number)
    }

    #[test]
    fn those_who_wait_are_let_in_in_their_order() {
        let now = Instant::now();
        let mut budget = Budget::new(100);
        assert!(budget.reserve(now, key(1), 80));
        assert!(!budget.reserve(now, key(2), 30));
        assert!(!budget.reserve(now, key(3), 1), "the small one does not overtake the large one");
        assert_eq!(budget.admit(now), None);
        budget.release(80);
        assert_eq!(budget.admit(now), Some((key(2), 30)));
        assert_eq!(budget.admit(now), Some((key(3), 1)));
        assert_eq!((budget.charged_bytes(), budget.is_contended()), (31, false));
    }

    #[test]
    fn one_that_leaves_holds_nobody_up_and_the_largest_passes_alone() {
        let now = Instant::now();
        let mut budget = Budget::new(100);
        assert!(budget.reserve(now, key(1), 100));
        assert!(!budget.reserve(now, key(2), 1000));
        assert!(!budget.reserve(now, key(3), 10));
        budget.release(50);
        assert_eq!(budget.admit(now), None, "the one in front does not fit");
        budget.leave(key(2));
        assert_eq!(budget.admit(now), Some((key(3), 10)));
        budget.release(60);
        assert!(budget.reserve(now, key(4), 1000));
    }

    #[test]
    fn the_rate_holds_back_and_says_until_when() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 30);
        budget.set_rate(now, Some(1000.0));
        let mut let_in = 0;
        while budget.reserve(now, key(let_in), 100) {
            let_in += 1;
        }
        assert!((1..=11).contains(&let_in), "{let_in}: at most a burst of a second, bounded from the first moment");
        let at = budget.next_admission().unwrap();
        assert!(at > now && at < now + Duration::from_secs(1));
        assert_eq!(budget.admit(now), None);
        assert!(budget.admit(at).is_some());
        budget.set_rate(at, None);
        assert!(budget.reserve(at, key(99), 1 << 20));
    }

    /// What was claimed and did not come held up those behind it for as long as if it had.
    #[test]
    fn what_was_not_taken_in_leaves_the_rate_to_others() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 30);
        budget.set_rate(now, Some(1000.0));
        assert!(budget.reserve(now, key(1), 100_000));
        assert!(!budget.reserve(now, key(2), 100));
        budget.refund(99_990);
        assert_eq!(budget.admit(now), Some((key(2), 100)));
        budget.release(10);
        assert_eq!(budget.charged_bytes(), 100);
        assert!(!budget.reserve(now, key(3), 1), "what is durable was taken");
    }

    /// The time at which the rate would let in somebody for whom there is no room was told again and again.
    #[test]
    fn who_has_no_room_is_not_let_in_at_any_time() {
        let now = Instant::now();
        let mut budget = Budget::new(100);
        budget.set_rate(now, Some(1000.0));
        assert!(budget.reserve(now, key(1), 100));
        assert!(!budget.reserve(now, key(2), 100));
        assert_eq!(budget.next_admission(), None);
        budget.release(100);
        assert!(budget.next_admission().is_some());
    }
}
