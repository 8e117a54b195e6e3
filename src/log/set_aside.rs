//! Which frames are set aside, as readers ask: for every frame they give, and so mostly without a lock.
//!
//! The control file's list is locked while the file is written. Readers have a copy of it, which changes when the
//! file has, and each knows a stretch of frames of which none is set aside: it asks at the end of that, and when the
//! copy has changed.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{Lsn, LsnRange};

/// What readers know of the ranges that the control file records.
pub(super) struct SetAside {
    /// Changes, under the lock, with the ranges. 0: there has never been one.
    version: AtomicU64,
    /// Rising; none meets another. Locked for a look, never while a device is waited for.
    ranges: Mutex<Vec<LsnRange>>,
}

/// A stretch of frames of which none was set aside, by one version of the ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Clear {
    version: u64,
    lsns: LsnRange,
}

impl Clear {
    /// What is so where nothing was ever set aside, and found out at the first look elsewhere.
    pub(super) const EVERYTHING: Clear = Clear { version: 0, lsns: LsnRange { start: Lsn::ZERO, end: Lsn::MAX } };
}

impl SetAside {
    /// As the log was opened.
    pub(super) fn new(recorded: impl IntoIterator<Item = LsnRange>) -> SetAside {
        let set_aside = SetAside { version: AtomicU64::new(0), ranges: Mutex::default() };
        set_aside.replace(recorded);
        set_aside
    }

    /// The control file says something else now. Whoever asks from now on is told so.
    pub(super) fn replace(&self, recorded: impl IntoIterator<Item = LsnRange>) {
        let recorded = united(recorded);
        let mut ranges = self.ranges.lock();
        if *ranges != recorded {
            *ranges = recorded;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// The range that holds a frame, asked by a reader that knows so much.
    #[inline]
    pub(super) fn at(&self, lsn: Lsn, known: &mut Clear) -> Option<LsnRange> {
        if known.version == self.version.load(Ordering::Acquire) && known.lsns.contains(lsn) {
            return None;
        }
        self.look(lsn, known)
    }

    fn look(&self, lsn: Lsn, known: &mut Clear) -> Option<LsnRange> {
        let ranges = self.ranges.lock();
        let behind = ranges.partition_point(|range| range.start <= lsn);
        let end = ranges.get(behind).map_or(Lsn::MAX, |range| range.start);
        let before = behind.checked_sub(1).map(|at| ranges[at]);
        let found = before.filter(|range| range.contains(lsn));
        let start = before.map_or(Lsn::ZERO, |range| range.end);
        *known = Clear { version: self.version.load(Ordering::Relaxed), lsns: LsnRange::new(start, end) };
        found
    }
}

/// Ranges by their starts; those that overlap become one, so that what follows one can be read.
fn united(recorded: impl IntoIterator<Item = LsnRange>) -> Vec<LsnRange> {
    let mut recorded: Vec<LsnRange> = recorded.into_iter().collect();
    recorded.sort_by_key(|range| range.start);
    let mut ranges: Vec<LsnRange> = Vec::new();
    for range in recorded {
        match ranges.last_mut() {
            Some(last) if range.start < last.end => *last = last.spanning(range),
            _ => ranges.push(range),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> LsnRange {
        LsnRange::new(Lsn::new(start), Lsn::new(end))
    }

    #[test]
    fn a_reader_looks_once_for_each_range() {
        const RANGES: u64 = 850;
        let set_aside = SetAside::new((1..=RANGES).map(|i| range(100 * i, 100 * i + 3)));
        let mut known = Clear::EVERYTHING;
        let (mut looks, mut told, mut lsn) = (0, 0, Lsn::FIRST);
        while lsn.get() < 100 * (RANGES + 1) {
            let before = known;
            let found = set_aside.at(lsn, &mut known);
            // A look tells of another stretch than the one that is known.
            looks += u64::from(known != before);
            told += u64::from(found.is_some());
            lsn = found.map_or(lsn.next(), |range| range.end);
        }
        assert_eq!((told, looks), (RANGES, RANGES + 1));
    }

    /// Against the plain definition, over every place and all that may be known before.
    #[test]
    fn what_is_known_never_hides_a_range() {
        let lists = [vec![], vec![range(1, 2)], vec![range(2, 4), range(4, 5), range(7, 9)], vec![range(6, 20)]];
        let set_aside = SetAside::new(lists[0].clone());
        let mut known = vec![Clear::EVERYTHING];
        for list in lists.iter().chain(lists.iter().rev()) {
            set_aside.replace(list.clone());
            for mut known_before in known.clone() {
                for lsn in (1..25).map(Lsn::new) {
                    let found = set_aside.at(lsn, &mut known_before);
                    assert_eq!(found, list.iter().copied().find(|range| range.contains(lsn)), "{lsn} in {list:?}");
                    known.push(known_before);
                }
            }
            known.dedup();
            known.truncate(500);
        }
    }

    #[test]
    fn ranges_that_meet_in_a_frame_are_one() {
        let overlapping = [range(12, 13), range(1, 2), range(1, 9), range(3, 4), range(8, 12)];
        assert_eq!(united(overlapping), [range(1, 12), range(12, 13)]);
    }
}
