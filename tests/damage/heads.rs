//! Segment headers and seals that rot over good frames: what they said is learnt from elsewhere, or told as lost.

use seawall::{Error, Log, Lsn, RecoveryMode};

use super::bed::{Files, append_each, buffered, direct, empty, in_mode, open, record, settle, shown, sized};
use super::bytes::{BLANK, BLOCK, data_frames, segment_name};
use super::oracle::{holds, lsns};
use super::shelf::{Shelf, on_shelves};

const STRICT: RecoveryMode = RecoveryMode::Strict;

#[derive(Clone, Copy, Debug)]
enum Rot {
    Header,
    Seal,
    Both,
    /// The whole block of the seal, with the frames of its group.
    SealBlock,
}

impl Rot {
    const ALL: [Rot; 4] = [Rot::Header, Rot::Seal, Rot::Both, Rot::SealBlock];

    fn apply(self, segment: &mut [u8]) {
        match self {
            Rot::Header => segment[20] ^= 4,
            Rot::Seal => segment[BLOCK + 70] ^= 4,
            Rot::Both => {
                segment[20] ^= 4;
                segment[BLOCK + 30] ^= 4;
            }
            Rot::SealBlock => segment[BLOCK..2 * BLOCK].fill(0x5A),
        }
    }

    /// The frames that are lost with it.
    fn cost(self, segment: &[u8]) -> Vec<seawall::LsnRange> {
        let in_block = |frame: &&super::bytes::FrameAt| frame.offset < 2 * BLOCK;
        match self {
            Rot::SealBlock => {
                data_frames(segment).iter().filter(in_block).map(|frame| lsns(frame.lsn, frame.lsn)).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[test]
fn over_a_sealed_segment_it_costs_at_most_the_frames_of_its_block() {
    on_shelves(false, |shelf| {
        for (&number, rot) in shelf.sealed.iter().flat_map(|number| Rot::ALL.map(|rot| (number, rot))) {
            let case = format!("{rot:?} of segment {number}");
            let lost = rot.cost(&shelf.files.0[&segment_name(number)]);
            let dir = shelf.lay_out(|files| rot.apply(files.segment(number)));
            let mut expected = shelf.records.clone();
            for i in 0..3 {
                let (log, recovery) = shelf.open(&dir, STRICT);
                assert!(recovery.damage.is_empty() && recovery.missing_segments.is_empty(), "{case}: {recovery:?}");
                holds(&log, &expected, &lost).unwrap_or_else(|what| panic!("{case}: {what}"));
                let report = log.verify(|_, _| {}).unwrap();
                assert!(!report.is_sound(), "{case}");
                assert!(report.findings.iter().all(|finding| finding.segment.get() == number), "{case}: {report:?}");
                let named: u64 = report.findings.iter().map(|finding| finding.lsns.frames()).sum();
                assert_eq!(named, lost.len() as u64, "{case}: {report:?}");
                expected.push(record(50 + i));
                append_each(&log, &expected[expected.len() - 1..]);
            }
        }
    });
}

#[test]
fn over_the_active_segment_it_refuses_appends_and_nothing_is_cut() {
    for closed in [false, true] {
        on_shelves(closed, |shelf| {
            for rot in Rot::ALL {
                // After a clean close the tail is not read: a header alone is the readers' to tell.
                let unnoticed = closed && matches!(rot, Rot::Header);
                let case = format!("{rot:?}, closed {closed}");
                let lost = rot.cost(&shelf.files.0[&segment_name(shelf.active)]);
                let dir = shelf.lay_out(|files| rot.apply(files.segment(shelf.active)));
                let before = Files::of(dir.path());
                let (log, recovery) = shelf.open(&dir, STRICT);
                assert_eq!(recovery.end, Lsn::new(shelf.end()), "{case}: {recovery:?}");
                let shown = shown(&log, &recovery);
                holds(&log, &shelf.records[..shown], &lost).unwrap_or_else(|what| panic!("{case}: {what}"));
                if !unnoticed {
                    let refused = log.append(b"x").map(drop);
                    assert!(matches!(&refused, Err(Error::Damaged { .. })), "{case}: {refused:?}");
                    let here = |error: &Error| matches!(error, Error::Corrupt { segment, .. } if segment.get() == shelf.active);
                    assert!(recovery.damage.iter().all(here), "{case}: {:?}", recovery.damage);
                    let told = recovery.damage.iter().filter_map(Error::lsns).filter(|lsns| !lsns.is_empty());
                    assert_eq!(told.map(|lsns| lsns.frames()).sum::<u64>(), lost.len() as u64, "{case}: {recovery:?}");
                    assert!(Files::of(dir.path()) == before, "{case}: files changed");
                }
                drop(log);
                goes_on_in_quarantine(&shelf, &dir, &lost, &case);
            }
        });
    }
}

fn goes_on_in_quarantine(shelf: &Shelf, dir: &tempfile::TempDir, lost: &[seawall::LsnRange], case: &str) {
    let mut expected = shelf.records.clone();
    for mode in [RecoveryMode::Quarantine, STRICT, STRICT] {
        let (log, recovery) = open(dir, &in_mode(&shelf.config, mode));
        assert!(mode != STRICT || recovery.damage.is_empty(), "{case}: {recovery:?}");
        expected.push(b"behind".to_vec());
        append_each(&log, &expected[expected.len() - 1..]);
        holds(&log, &expected, lost).unwrap_or_else(|what| panic!("{case}, {mode:?}: {what}"));
        for range in lost {
            let read: Result<_, _> = Log::read(&log, range.start);
            assert!(matches!(read, Err(Error::Quarantined { .. })), "{case}: {read:?}");
        }
    }
}

#[test]
fn over_a_spare_it_could_have_been_the_tail() {
    on_shelves(false, |shelf| {
        for &spare in &shelf.spares {
            let dir = shelf.lay_out(|files| files.segment(spare)[20] ^= 4);
            let (log, recovery) = shelf.open(&dir, STRICT);
            let [Error::Corrupt { segment, offset: 0, .. }] = &recovery.damage[..] else { panic!("{recovery:?}") };
            assert_eq!(segment.get(), spare);
            assert!(matches!(log.append(b"x").map(drop), Err(Error::Damaged { .. })));
            holds(&log, &shelf.records[..shown(&log, &recovery)], &[]).unwrap();
            drop(log);
            let mut expected = shelf.records.clone();
            for mode in [RecoveryMode::Quarantine, STRICT, STRICT] {
                let (log, recovery) = shelf.open(&dir, mode);
                assert_eq!(recovery.damage.is_empty(), mode == STRICT, "{recovery:?}");
                append_each(&log, &[record(3)]);
                if recovery.quarantined.is_empty() {
                    expected.push(record(3));
                    holds(&log, &expected, &[]).unwrap();
                }
            }
        }
    });
}

/// Of the segments that are prepared, an unclean open reads the lowest to its end, and above it those that do not say
/// that they are blank; whatever became of that, nothing is lost with it.
#[test]
fn a_spare_is_read_to_its_end_unless_it_says_that_it_is_blank() {
    for config in [buffered(), direct()] {
        let dir = empty(&config);
        let (log, _) = open(&dir, &config);
        let records: Vec<Vec<u8>> = (0..12).map(|i| sized(i, 40_000)).collect();
        for record in &records {
            append_each(&log, std::slice::from_ref(record));
            settle(&log);
        }
        // Two of the four hold what they held as segments of other numbers.
        log.trim(Lsn::new(10)).unwrap();
        assert!(log.stats().segments_recycled >= 2 && log.stats().spare_segments == 4, "{:?}", log.stats());
        drop(log);
        let files = Files::of(dir.path());
        let spares: Vec<u64> = files.segments().into_iter().rev().take(4).collect();
        let scanned = |files: &Files| {
            let dir = files.lay_out(&config);
            let (log, recovery) = open(&dir, &config);
            assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
            assert_eq!(recovery.end, Lsn::new(12));
            assert!(log.read(Lsn::new(12)).unwrap().payload == records[11]);
            recovery.bytes_scanned
        };
        // The header is not scanned.
        let (whole, head) = ((64 << 10) - BLOCK as u64, BLOCK as u64);
        assert_eq!(scanned(&files), 2 * whole + 3 * head);
        // The one that does not say so is read, and the one above it: those further up are vouched for again.
        for ((wholes, heads), &spare) in [(3, 2), (4, 2), (4, 2), (3, 3)].into_iter().zip(spares.iter().rev()) {
            for fill in [0, 0x5A] {
                let mut files = files.clone();
                assert_eq!(files.segment(spare)[BLOCK], BLANK);
                files.segment(spare)[BLOCK..2 * BLOCK].fill(fill);
                assert_eq!(scanned(&files), wholes * whole + heads * head, "segment {spare}, {fill}");
            }
        }
    }
}

#[test]
fn frames_that_were_never_claimed_behind_a_rotten_seal_are_dropped_by_name() {
    on_shelves(false, |shelf| {
        // One more rotation, and one frame behind it that nothing later claims.
        let dir = shelf.lay_out(|_| {});
        let (log, _) = shelf.open(&dir, STRICT);
        let mut appended = Vec::new();
        let newest = |dir: &tempfile::TempDir| *Files::of(dir.path()).holding(super::bytes::DATA).last().unwrap();
        while log.stats().rotations == 0 {
            appended.push(super::bed::sized(appended.len() as u64, 20_000));
            append_each(&log, &appended[appended.len() - 1..]);
        }
        let last = log.flushed();
        drop(log);
        let mut files = Files::of(dir.path());
        let number = newest(&dir);
        Rot::Seal.apply(files.segment(number));
        let dir = files.lay_out(&shelf.config);
        let (log, recovery) = shelf.open(&dir, STRICT);
        assert_eq!(recovery.dropped, Some(lsns(last.get(), last.get())), "{recovery:?}");
        assert!(recovery.damage.is_empty() && recovery.end == last.previous(), "{recovery:?}");
        assert_eq!(log.append(b"x").unwrap().lsn(), last);
    });
}
