//! What is given up unasked: sealed segments that are too old or too many, and the oldest ones where a full log makes room so.
//! How old a segment is, is decided without a clock of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::catalog::End;
use super::shared::{Shared, clock_micros};
use crate::events::{self, event};
use crate::io::Storage;
use crate::metrics::add;
use crate::sync::now;
use crate::types::{Lsn, SegmentNumber};

/// What is known of how old segments are.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// When the log was opened, by both clocks.
    opened: Option<(Instant, u64)>,
    /// When segments were sealed since, where anybody asks how old they are.
    sealed: BTreeMap<SegmentNumber, Instant>,
}

impl Ages {
    /// Of a log that is opened; `clock`: microseconds since the epoch.
    pub(super) fn new(now: Instant, clock: u64) -> Ages {
        Ages { opened: Some((now, clock)), sealed: BTreeMap::new() }
    }

    fn note_sealed(&mut self, number: SegmentNumber, now: Instant) {
        self.sealed.insert(number, now);
    }

    /// How old a sealed segment's newest frame is, at least.
    fn of(&mut self, number: SegmentNumber, stamp: u64, now: Instant, clock: u64) -> Duration {
        let opened = self.opened.unwrap_or((now, clock));
        // Sealed since the open: known from then on. Others were found by it.
        let known = match self.sealed.get(&number) {
            Some(sealed) => (*sealed, stamp),
            None => opened,
        };
        // Nobody asks for what was given up before it.
        self.sealed = self.sealed.split_off(&number);
        age(stamp, clock, known.1, now.saturating_duration_since(known.0))
    }
}

impl<S: Storage> Shared<S> {
    /// Nothing is written to the segment any more: from now on its age is known.
    pub(super) fn note_sealed(&self, number: SegmentNumber) {
        if self.config.retain_for.is_some() {
            self.space.lock().ages.note_sealed(number, now());
        }
    }

    /// Trims what the configuration says may go.
    pub(super) fn apply_retention(&self) {
        let (age, bytes) = (self.config.retain_for, self.config.retain_bytes);
        if age.is_some() || bytes.is_some() {
            self.trim_if_free(|| self.no_longer_retained(age, bytes));
        }
    }

    /// The last frame that need not be kept.
    fn no_longer_retained(&self, age: Option<Duration>, bytes: Option<u64>) -> Option<Lsn> {
        let numbers = self.catalog.numbers();
        let mut total = self.sealed_bytes();
        let clock = clock_micros();
        let age_of = |number, stamp| self.space.lock().ages.of(number, stamp, now(), clock);
        let is_too_old = |number, stamp| age.is_some_and(|most| age_of(number, stamp) > most);
        let mut upto = None;
        for (number, segment_bytes) in numbers.iter().take(numbers.len().saturating_sub(1)) {
            let Some(end) = self.goes_with(*number) else { break };
            let too_much = bytes.is_some_and(|most| total > most);
            if !is_too_old(*number, end.time_micros) && !too_much {
                break;
            }
            total -= segment_bytes;
            upto = Some(end.last);
        }
        upto.filter(|upto| *upto > Lsn::ZERO)
    }

    /// Where a segment ends, with what is missing between it and the next: of that nothing is left, but the segment is looked at for
    /// it, and is needed as long as it is not given up. Only a seal tells how much that is: a start that was made up could be behind
    /// frames that stand there.
    fn goes_with(&self, number: SegmentNumber) -> Option<End> {
        let end = self.catalog.end_of(&self.storage, number).ok()??;
        let next = self.catalog.next_after(number).map(|next| self.catalog.seal_of(&self.storage, next));
        let missing_to = match next {
            Some(seal) => seal.ok()?.map_or(Lsn::ZERO, |seal| seal.end),
            None => Lsn::ZERO,
        };
        Some(End { last: end.last.max(missing_to), ..end })
    }

    /// Gives up the oldest sealed segment to make room; false when there is none, or it stays.
    pub(super) fn drop_oldest(&self) -> bool {
        let numbers = self.catalog.numbers();
        if numbers.len() < 2 {
            return false;
        }
        let (mut before, mut upto) = (Lsn::ZERO, Lsn::ZERO);
        let is_trimmed = self.trim_if_free(|| {
            let end = self.goes_with(numbers[0].0)?;
            before = self.trimmed();
            // Of one that was in use when all of it was given up, nothing is left to drop.
            upto = end.last.max(before);
            Some(upto)
        });
        if !is_trimmed {
            return false;
        }
        let dropped = upto.since(before);
        if dropped > 0 {
            add(&self.counters.dropped_frames, dropped);
            events::happened("frame dropped", dropped);
            event!(warn, frames = dropped, through = upto.get(), "dropped the oldest frames: no room");
        }
        self.catalog.numbers().first() != numbers.first()
    }
}

/// How old a frame with this stamp is, at least; times are microseconds since the epoch: `clock` says what time it is, `then` said
/// so `since` ago, when the frame was there already. A clock that is set tells nothing of age: forward, it made frames of
/// minutes old, and one that had been ahead once kept what it had stamped for ever.
fn age(stamp: u64, clock: u64, then: u64, since: Duration) -> Duration {
    let by_time_passed = Duration::from_micros(then.saturating_sub(stamp)).saturating_add(since);
    match clock.checked_sub(stamp) {
        Some(by_clock) => by_time_passed.min(Duration::from_micros(by_clock)),
        None => by_time_passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const DAY: u64 = 24 * 3600 * SECOND;
    /// Some day of our time.
    const NOW: u64 = 20_000 * DAY;

    fn days(micros: u64, then: u64, clock: u64, since_days: u64) -> u64 {
        age(micros, clock, then, Duration::from_micros(since_days * DAY)).as_micros() as u64 / DAY
    }

    #[test]
    fn a_clock_that_is_set_makes_no_frame_older_or_younger() {
        // It goes right.
        assert_eq!(days(NOW - 8 * DAY, NOW - 8 * DAY, NOW, 8), 8);
        assert_eq!(days(NOW - 30 * DAY, NOW - 2 * DAY, NOW, 2), 30, "what an open has found");
        // Sealed a moment ago, at the epoch, before anybody told the time.
        assert_eq!(days(300 * SECOND, 300 * SECOND, NOW, 0), 0);
        // Stamped in the future once.
        assert_eq!(days(2 * NOW, 2 * NOW, NOW, 8), 8);
        assert_eq!(days(2 * NOW, NOW - 8 * DAY, NOW, 8), 8);
        // Set back: what is behind it by its stamp is only so old.
        assert_eq!(days(NOW - 8 * DAY, NOW - 8 * DAY, NOW - 7 * DAY, 8), 1);
        assert_eq!(age(0, u64::MAX, u64::MAX, Duration::MAX), Duration::from_micros(u64::MAX));
    }

    /// Taken for one that an open has found, it would be as old as the log has been open, once the clock is set.
    #[test]
    fn the_age_of_a_segment_that_a_truncation_ends_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let retained = crate::Config { retain_for: Some(Duration::from_secs(3600)), ..crate::Config::default() };
        let (log, _) = crate::Log::open(dir.path(), retained).unwrap();
        let first = log.append(b"kept").unwrap().wait().unwrap();
        log.append(b"cut off").unwrap().wait().unwrap();
        log.truncate(first).unwrap();
        assert!(log.shared_for_tests().space.lock().ages.sealed.contains_key(&SegmentNumber::FIRST));
    }
}
