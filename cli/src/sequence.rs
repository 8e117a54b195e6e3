//! Whether each byte of each source is in the log exactly once. Pure: frames in, a verdict per source out.

use std::collections::BTreeMap;

use bytes::Bytes;
use seawall::{Lsn, LsnRange};
use serde::Serialize;

use crate::record::{Content, Passed, Record, Step};

/// So many breaks of a source, and passages without records, are kept one by one; beyond that they are only counted.
const BREAKS_KEPT: usize = 100;

/// Something that is not as it ought to be in a source's sequence of records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Break {
    /// Bytes `from..to` are in no readable record.
    Gap {
        from: u64,
        to: u64,
        /// The source's frames before and after it.
        between: (u64, u64),
        /// Frames that an operator set aside lie there: the loss is known.
        quarantined: bool,
    },
    /// Bytes `from..to` are there again.
    Repeated { from: u64, to: u64, lsn: u64 },
    /// A record behind the end of the source.
    AfterEnd { lsn: u64 },
}

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Break::Gap { from, to, between: (before, after), quarantined } => {
                let known = if *quarantined { ", where frames are quarantined" } else { "" };
                write!(f, "bytes {from}..{to} are missing between frames {before} and {after}{known}")
            }
            Break::Repeated { from, to, lsn } => write!(f, "bytes {from}..{to} are there again in frame {lsn}"),
            Break::AfterEnd { lsn } => write!(f, "frame {lsn} follows the end of the source"),
        }
    }
}

/// One source, as far as it was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sequence {
    pub(crate) source: String,
    /// The first byte that is in the log: 0, unless the beginning was trimmed or left out on purpose.
    pub(crate) from: u64,
    /// The first byte that is not in the log yet.
    pub(crate) to: u64,
    pub(crate) records: u64,
    pub(crate) last_lsn: u64,
    /// The source was closed: nothing follows.
    pub(crate) closed: bool,
    pub(crate) breaks: Vec<Break>,
    pub(crate) breaks_in_all: u64,
    /// Bytes missing in gaps that quarantined ranges explain.
    pub(crate) set_aside_bytes: u64,
    /// Times that the source said to leave something out: on purpose, or because it was lost at most once.
    pub(crate) skipped: u64,
    /// Records that the receiver refused.
    pub(crate) rejected: u64,
    /// Both, the first hundred one by one.
    pub(crate) passages: Vec<Passage>,
    /// Breaks that nothing explains.
    unexplained: u64,
}

/// Where a source goes on without records, and says why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Passage {
    why: Passed,
    from: u64,
    to: u64,
    lsn: u64,
}

impl std::fmt::Display for Passage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Passage { why, from, to, lsn } = self;
        match why {
            Passed::Skipped => {
                write!(f, "bytes {from}..{to} never come: skipped by the source, or lost, in frame {lsn}")
            }
            Passed::Rejected => write!(f, "bytes {from}..{to} were rejected, and are outside the data, in frame {lsn}"),
        }
    }
}

impl Sequence {
    /// True when each byte of `from..to` is there exactly once, but for what was set aside, skipped or rejected.
    pub(crate) fn is_whole(&self) -> bool {
        self.unexplained == 0
    }

    fn passed(&mut self, passage: Passage) {
        match passage.why {
            Passed::Skipped => self.skipped += 1,
            Passed::Rejected => self.rejected += 1,
        }
        if self.passages.len() < BREAKS_KEPT {
            self.passages.push(passage);
        }
    }

    fn tell(&mut self, found: Break, explained: bool) {
        self.breaks_in_all += 1;
        self.unexplained += u64::from(!explained);
        if self.breaks.len() < BREAKS_KEPT {
            self.breaks.push(found);
        }
    }
}

/// All sources of a log.
#[derive(Default)]
pub(crate) struct Sequences {
    by_source: BTreeMap<String, Sequence>,
    /// Ranges of frames that were set aside, in order.
    set_aside: Vec<LsnRange>,
    /// Records of other programs.
    pub(crate) foreign_records: u64,
}

impl Sequences {
    /// The next readable frame.
    pub(crate) fn frame(&mut self, lsn: Lsn, payload: &Bytes) {
        match Content::of(payload) {
            Content::Steps(steps) => steps.iter().for_each(|step| self.step(lsn, step)),
            Content::Foreign => self.foreign_records += 1,
        }
    }

    /// The next step of a source in a readable frame.
    fn step(&mut self, lsn: Lsn, step: &Step) {
        let (source, from, to) = match step {
            Step::Record(Record { source, from, to, .. }) | Step::Passed { source, from, to, .. } => {
                (source, *from, *to)
            }
        };
        let sequence = self.by_source.entry(source.clone()).or_insert_with(|| beginning(source, from));
        let is_sequenced = !matches!(step, Step::Record(record) if !record.is_sequenced);
        if sequence.closed {
            sequence.tell(Break::AfterEnd { lsn: lsn.get() }, false);
        }
        if is_sequenced && from > sequence.to {
            let known = self.set_aside.iter().any(|lsns| lsns.end.get() > sequence.last_lsn && lsns.start < lsn);
            let gap =
                Break::Gap { from: sequence.to, to: from, between: (sequence.last_lsn, lsn.get()), quarantined: known };
            sequence.set_aside_bytes += if known { from - sequence.to } else { 0 };
            sequence.tell(gap, known);
        } else if is_sequenced && from < sequence.to {
            let again = Break::Repeated { from, to: to.min(sequence.to), lsn: lsn.get() };
            sequence.tell(again, false);
        }
        if is_sequenced || sequence.records == 0 {
            sequence.to = sequence.to.max(to);
        }
        match step {
            Step::Record(record) => {
                sequence.records += u64::from(!record.is_end());
                sequence.closed |= record.is_end();
            }
            Step::Passed { why, .. } => sequence.passed(Passage { why: *why, from, to, lsn: lsn.get() }),
        }
        sequence.last_lsn = lsn.get();
    }

    /// Frames that an operator set aside stand here.
    pub(crate) fn set_aside(&mut self, lsns: LsnRange) {
        self.set_aside.push(lsns);
    }

    /// By name.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Sequence> {
        self.by_source.values()
    }

    pub(crate) fn get(&self, source: &str) -> Option<&Sequence> {
        self.by_source.get(source)
    }
}

fn beginning(source: &str, from: u64) -> Sequence {
    Sequence {
        source: source.to_owned(),
        from,
        to: from,
        records: 0,
        last_lsn: 0,
        closed: false,
        breaks: Vec::new(),
        breaks_in_all: 0,
        set_aside_bytes: 0,
        skipped: 0,
        rejected: 0,
        passages: Vec::new(),
        unexplained: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Head, Unit};
    use seawall::receiver::{Block, Range, RangeKind, RejectReason};
    use seawall::{Seq, SourceEpoch, SourceId};

    fn feed(sequences: &mut Sequences, source: &str, records: &[(u64, u64, &[u8])]) {
        let mut head = Head::new(source).unwrap();
        for (lsn, offset, data) in records {
            let unit = if data.is_empty() { Unit::End } else { Unit::Line };
            sequences.frame(Lsn::new(*lsn), &Bytes::from([head.before(unit, *offset, data), data].concat()));
        }
    }

    #[test]
    fn sources_are_judged_apart() {
        let mut all = Sequences::default();
        feed(&mut all, "a", &[(1, 0, b"one\n"), (3, 4, b"two\n"), (4, 8, b"")]);
        feed(&mut all, "b", &[(5, 100, b"x")]);
        all.frame(Lsn::new(6), &Bytes::from_static(b"not ours"));
        assert_eq!(all.foreign_records, 1);
        let sources: Vec<_> = all.sources().collect();
        assert!(sources.iter().all(|source| source.is_whole()));
        assert_eq!((sources[0].from, sources[0].to, sources[0].records, sources[0].closed), (0, 8, 2, true));
        assert_eq!((sources[1].from, sources[1].to), (100, 101));
    }

    #[test]
    fn gaps_and_repetitions_are_named() {
        let mut all = Sequences::default();
        feed(&mut all, "a", &[(1, 0, b"one\n"), (2, 8, b"gap\n"), (3, 8, b"gap\n"), (4, 10, b"p\nmore"), (5, 16, b"")]);
        feed(&mut all, "a", &[(6, 16, b"late")]);
        let a = all.get("a").unwrap();
        assert!(!a.is_whole());
        assert_eq!(
            a.breaks,
            [
                Break::Gap { from: 4, to: 8, between: (1, 2), quarantined: false },
                Break::Repeated { from: 8, to: 12, lsn: 3 },
                Break::Repeated { from: 10, to: 12, lsn: 4 },
                Break::AfterEnd { lsn: 6 },
            ]
        );
    }

    #[test]
    fn what_was_set_aside_explains_a_gap_that_holds_it_and_no_other() {
        let mut all = Sequences::default();
        feed(&mut all, "a", &[(1, 0, b"one\n")]);
        all.set_aside(LsnRange::inclusive(Lsn::new(2), Lsn::new(3)));
        feed(&mut all, "a", &[(4, 12, b"x\n")]);
        assert!(all.get("a").unwrap().is_whole());
        assert_eq!(all.get("a").unwrap().set_aside_bytes, 8);
        feed(&mut all, "a", &[(5, 20, b"y\n")]);
        assert!(!all.get("a").unwrap().is_whole());
    }

    /// A receiver's block with a record, a reject, a skip and a record: those between were taken for a gap.
    #[test]
    fn what_was_skipped_or_rejected_is_no_gap() {
        let range = |kind, previous, last| Range {
            kind,
            source: SourceId::new("a"),
            epoch: SourceEpoch::new(1),
            sequences: seawall::receiver::Sequences::Dense,
            records: u32::from(kind == RangeKind::Records),
            previous: Seq::new(previous),
            last: Seq::new(last),
        };
        let record = Bytes::from_static(b"\x01\0\0\0x");
        let reject = RangeKind::Reject { reason: RejectReason::Poison, bytes: 9 };
        let ranges = vec![
            (range(RangeKind::Session, 0, 0), Bytes::new()),
            (range(RangeKind::Records, 0, 1), record.clone()),
            (range(reject, 1, 2), Bytes::from_static(b"kept")),
            (range(RangeKind::Skipped, 2, 9), Bytes::new()),
            (range(RangeKind::Records, 9, 10), record),
        ];
        let mut all = Sequences::default();
        all.frame(Lsn::new(1), &Block { replay_from: Lsn::ZERO, ranges }.encode());
        let a = all.get("a").unwrap();
        assert!(a.is_whole(), "{:?}", a.breaks);
        assert_eq!((a.from, a.to, a.records, a.rejected, a.skipped), (0, 10, 2, 1, 1));
        assert_eq!(a.passages[1], Passage { why: Passed::Skipped, from: 2, to: 9, lsn: 1 });
    }
}
