//! The recovery table: what the tail of a log is judged to be. Pure; a test walks every row.
//!
//! | row | behind the last frame in order | claimed flushed beyond it | judged | then |
//! |---|---|---|---|---|
//! | A | nothing | no | `Clean` | the log ends there |
//! | B | bytes that are no frame | no | `TornTail` | the log ends there |
//! | C | a gap, then valid frames | no | `Hole` | never acknowledged: dropped, for ever |
//! | D | a gap, then valid frames | yes, into the gap or beyond | `Damage` | the gap is named; frames behind it count |
//! | E | a gap, frames, a gap, frames | into the first gap only | `Damage` | the second gap is a hole: dropped |
//! | H | a gap, then valid frames | into the gap, not to its end, and the log may have gone on in a segment that is lost | `Damage` | what is claimed is named; the frames behind may have been dropped before, and are again |
//! | F | anything or nothing | yes, and no frame follows | `Damage` | everything up to the claim is named |
//! | G | as D or F, nothing of it above the trim point | yes | `GivenUp` | nothing is named; the log goes on behind it |
//!
//! "Claimed flushed" is the highest `flushed_through` that any valid record of the segment states: the writer wrote it
//! only after the device had answered, so it is true whatever became of the frames. So is the trim point: only flushed
//! frames are given up.

use super::scan::{Gap, Run, SegmentScan};
use crate::codec::Chain;
use crate::segment::TrimPoint;
use crate::types::{Lsn, LsnRange};

/// What the tail is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Clean,
    TornTail,
    Hole,
    Damage,
    /// What is damaged was trimmed.
    GivenUp,
}

/// The judgment on a scanned tail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// Where the log ends.
    pub(crate) end: Run,
    /// Durable frames that cannot be read.
    pub(crate) damage: Vec<Gap>,
    /// Frames that were found and are dropped: never acknowledged.
    pub(crate) dropped: Option<LsnRange>,
    /// Where bytes begin that are no frame, behind the end.
    pub(crate) torn_at: Option<u64>,
    /// Everything up to here was proven flushed before the crash.
    pub(crate) proven: Lsn,
}

impl Verdict {
    /// Nothing is lost, and nothing is in doubt.
    pub(crate) fn clean(end: Run) -> Verdict {
        Verdict { outcome: Outcome::Clean, end, damage: Vec::new(), dropped: None, torn_at: None, proven: end.last }
    }

    /// Frames that are there but were never proven flushed before now.
    pub(crate) fn ambiguous(&self) -> Option<LsnRange> {
        // What was given up at the end is not there.
        let given_up = self.damage.last().filter(|gap| gap.lsns.end == self.end.last.next());
        let last = given_up.map_or(self.end.last, |gap| gap.lsns.start.previous());
        Some(LsnRange::inclusive(self.proven.next(), last.max(self.proven))).filter(|range| !range.is_empty())
    }
}

/// Judges the tail of a log that was trimmed so far; `may_go_on`: this segment's own end, which a lost one told, may be before the end
/// of what stands in it.
pub(crate) fn judge(scan: &SegmentScan, trim: &TrimPoint, may_go_on: bool) -> Verdict {
    let claims = scan.claims.max(trim.lsn);
    let mut end = scan.prefix;
    let mut damage = Vec::new();
    let mut dropped = None;
    for gap in &scan.gaps {
        let needed = if may_go_on { gap.lsns.end.previous() } else { gap.lsns.start };
        if needed <= claims {
            damage.push(*gap);
            end = gap.next;
        } else {
            dropped = Some(LsnRange::inclusive(gap.lsns.end, scan.last_run().last));
            break;
        }
    }
    if claims > end.last {
        // A claim comes from a frame behind the end (then its gap was counted above), or from a marker or the trim point,
        // which tell the chain to go on with.
        let told = scan.marker.map(|marker| (marker.flushed_through, marker.chain));
        let told = [told, Some((trim.lsn, trim.chain))].into_iter().flatten().find(|(lsn, _)| *lsn == claims);
        let next = Run { last: claims, chain: told.map_or(Chain::default(), |(_, chain)| chain), ..end };
        damage.push(Gap {
            offset: scan.unreadable.unwrap_or(end.end_offset),
            lsns: LsnRange::inclusive(end.last.next(), claims),
            what: "frames that were proven durable are not there",
            next,
        });
        end = next;
    }
    let torn_at = scan.unreadable.filter(|_| dropped.is_none());
    let was_damaged = !damage.is_empty();
    damage.iter_mut().for_each(|gap| gap.lsns.start = gap.lsns.start.max(trim.lsn.next()));
    damage.retain(|gap| !gap.lsns.is_empty());
    let outcome = match (damage.is_empty(), was_damaged, dropped.is_some(), torn_at.is_some()) {
        (false, ..) => Outcome::Damage,
        (true, true, ..) => Outcome::GivenUp,
        (true, false, true, _) => Outcome::Hole,
        (true, false, false, true) => Outcome::TornTail,
        (true, false, false, false) => Outcome::Clean,
    };
    Verdict { outcome, end, damage, dropped, torn_at, proven: claims.min(end.last) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{FlushMarker, SparseIndex};
    use crate::types::SegmentNumber;

    fn run(last: u64) -> Run {
        Run {
            last: Lsn::new(last),
            chain: Chain::new(last),
            time_micros: 0,
            end_offset: 4096 * (last + 1),
            frames_end: 4096 * last + 100,
        }
    }

    fn scan(
        prefix: u64,
        gaps: &[(u64, u64)],
        claims: u64,
        marker: Option<u64>,
        unreadable: Option<u64>,
    ) -> SegmentScan {
        let mut runs = vec![run(prefix)];
        let gaps: Vec<Gap> = gaps
            .iter()
            .map(|&(resumes, last)| {
                let start = runs.last().unwrap().last.next();
                runs.push(run(last));
                let lsns = LsnRange::new(start, Lsn::new(resumes));
                Gap { offset: start.get() * 4096, lsns, what: "test", next: run(last) }
            })
            .collect();
        SegmentScan {
            seal: None,
            says_blank: false,
            prefix: run(prefix),
            gaps,
            first_header: None,
            first_at: None,
            first_data: None,
            frames: 0,
            payload_bytes: 0,
            claims: Lsn::new(claims),
            claims_behind_seal: Lsn::new(claims),
            valid_end: 0,
            marker: marker.map(|m| FlushMarker { flushed_through: Lsn::new(m), chain: Chain::new(777) }),
            first_marker: None,
            strays: 0,
            unreadable,
            dirty_padding: Vec::new(),
            scuffs: Vec::new(),
            index: SparseIndex::new(1),
        }
    }

    fn judge(scan: &SegmentScan) -> Verdict {
        judge_trimmed(scan, 0)
    }

    fn judge_trimmed(scan: &SegmentScan, lsn: u64) -> Verdict {
        let trim = TrimPoint { lsn: Lsn::new(lsn), chain: Chain::new(888), first_segment: SegmentNumber::FIRST };
        super::judge(scan, &trim, false)
    }

    fn range(start: u64, end: u64) -> LsnRange {
        LsnRange::new(Lsn::new(start), Lsn::new(end))
    }

    #[test]
    fn every_row_of_the_table() {
        let a = judge(&scan(10, &[], 8, None, None));
        assert_eq!((a.outcome, a.end.last.get(), a.ambiguous()), (Outcome::Clean, 10, Some(range(9, 11))));

        let b = judge(&scan(10, &[], 10, None, Some(50_000)));
        assert_eq!((b.outcome, b.torn_at, b.ambiguous()), (Outcome::TornTail, Some(50_000), None));

        let c = judge(&scan(10, &[(13, 15)], 10, None, Some(1)));
        assert_eq!((c.outcome, c.end.last.get(), c.dropped), (Outcome::Hole, 10, Some(range(13, 16))));

        let d = judge(&scan(10, &[(13, 15)], 11, None, None));
        assert_eq!((d.outcome, d.end.last.get(), d.damage[0].lsns), (Outcome::Damage, 15, range(11, 13)));

        let e = judge(&scan(10, &[(13, 15), (17, 20)], 12, None, None));
        assert_eq!((e.outcome, e.end.last.get()), (Outcome::Damage, 15));
        assert_eq!((e.damage.len(), e.dropped), (1, Some(range(17, 21))));

        let trim = TrimPoint { lsn: Lsn::ZERO, chain: Chain::new(888), first_segment: SegmentNumber::FIRST };
        let h = super::judge(&scan(10, &[(13, 15)], 11, None, None), &trim, true);
        assert_eq!((h.outcome, h.end.last.get(), h.dropped), (Outcome::Damage, 11, Some(range(13, 16))));
        assert_eq!((h.damage.len(), h.damage[0].lsns), (1, range(11, 12)));
        let h = super::judge(&scan(10, &[(13, 15)], 12, None, None), &trim, true);
        assert_eq!(
            (h.outcome, h.end.last.get(), h.dropped, h.damage[0].lsns),
            (Outcome::Damage, 15, None, range(11, 13))
        );

        let f = judge(&scan(10, &[], 14, Some(14), Some(9)));
        assert_eq!((f.outcome, f.end.last.get(), f.end.chain), (Outcome::Damage, 14, Chain::new(777)));
        assert_eq!(f.damage[0].lsns, range(11, 15));

        let g = judge_trimmed(&scan(10, &[], 9, Some(9), Some(9)), 14);
        assert_eq!((g.outcome, g.end.last.get(), g.end.chain), (Outcome::GivenUp, 14, Chain::new(888)));
        assert_eq!((g.proven.get(), g.damage.len(), g.ambiguous()), (14, 0, None));
        let g = judge_trimmed(&scan(10, &[(13, 15)], 9, None, None), 12);
        assert_eq!((g.outcome, g.end.last.get(), g.ambiguous()), (Outcome::GivenUp, 15, Some(range(13, 16))));
        let d = judge_trimmed(&scan(10, &[(13, 15)], 9, None, None), 11);
        assert_eq!((d.outcome, d.end.last.get(), d.damage[0].lsns), (Outcome::Damage, 15, range(12, 13)));
    }

    #[test]
    fn nothing_claimed_is_ever_dropped() {
        // Exhaustive over small shapes: whatever is claimed flushed is either before the end or named as damage.
        for prefix in 0..4 {
            for (gap, more) in [(0, 0), (1, 1), (2, 1), (1, 3)] {
                for claims in 0..12 {
                    let first = prefix + gap + 1;
                    let gaps = if gap == 0 { vec![] } else { vec![(first, first + more)] };
                    for trim in 0..12 {
                        let verdict = judge_trimmed(&scan(prefix, &gaps, claims, Some(claims), None), trim);
                        let case = format!("{prefix} {gaps:?} {claims} {trim}: {verdict:?}");
                        let claims = claims.max(trim);
                        assert!((1..=claims).all(|lsn| lsn <= verdict.end.last.get()), "{case}");
                        assert!(verdict.proven.get() >= claims, "{case}");
                        if claims > prefix && gap > 0 {
                            assert!(matches!(verdict.outcome, Outcome::Damage | Outcome::GivenUp), "{case}");
                        }
                        let named = |lsn| verdict.damage.iter().any(|gap| gap.lsns.contains(Lsn::new(lsn)));
                        let is_there = |lsn| lsn <= prefix || (gap > 0 && first <= lsn && lsn <= first + more);
                        let fair = |lsn| named(lsn) == (lsn > trim && !is_there(lsn));
                        assert!((1..=claims).all(fair), "{case}");
                    }
                }
            }
        }
    }
}
