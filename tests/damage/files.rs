//! Files that are missing, doubled, foreign or from the future.

use seawall::{Error, Log, Lsn, LsnRange, Recovery, RecoveryMode};
use tempfile::TempDir;

use super::bed::{Files, append_each, in_mode, open, record, settle, shown, sized, try_open};
use super::bytes::{BLOCK, data_frames, segment_name, set_version};
use super::oracle::{holds, lsns};
use super::shelf::{Shelf, on_shelves};

const STRICT: RecoveryMode = RecoveryMode::Strict;

/// A sealed segment cannot be read: each reader is told, appends go on, and it stays so.
fn costs_a_sealed_segment(shelf: &Shelf, dir: &TempDir, number: u64, case: &str) -> Recovery {
    let lost = [shelf.held[&number]];
    let mut expected = shelf.records.clone();
    let mut first_recovery = None;
    for round in 0..3 {
        let (log, recovery) = shelf.open(dir, STRICT);
        assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
        holds(&log, &expected, &lost).unwrap_or_else(|what| panic!("{case}, round {round}: {what}"));
        assert!(log.stats().faulty_ranges.contains(&lost[0]), "{case}: {:?}", log.stats().faulty_ranges);
        let report = log.verify(|_, _| {}).unwrap();
        let named: Vec<LsnRange> = report.findings.iter().map(|f| f.lsns).filter(|l| !l.is_empty()).collect();
        assert_eq!(named, lost, "{case}: {:?}", report.findings);
        append_each(&log, &[record(100 + round)]);
        expected.push(record(100 + round));
        holds(&log, &expected, &lost).unwrap_or_else(|what| panic!("{case}, appended: {what}"));
        first_recovery.get_or_insert(recovery);
    }
    first_recovery.unwrap()
}

#[test]
fn a_missing_sealed_segment_is_told_with_its_frames() {
    on_shelves(false, |shelf| {
        for &number in &shelf.sealed {
            let dir = shelf.lay_out(|files| drop(files.0.remove(&segment_name(number))));
            let recovery = costs_a_sealed_segment(&shelf, &dir, number, &format!("segment {number} is missing"));
            assert_eq!(recovery.missing_segments.iter().map(|n| n.get()).collect::<Vec<_>>(), [number]);
            let (log, _) = shelf.open(&dir, STRICT);
            match log.read(shelf.held[&number].start) {
                Err(Error::Missing { segment, lsns }) => {
                    assert_eq!((segment.get(), lsns), (number, shelf.held[&number]));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// What the tail needs is not there: appends are refused, everything else is read.
fn refuses_appends(shelf: &Shelf, dir: &TempDir, lost: &[LsnRange], case: &str) -> (Log, Recovery) {
    let before = Files::of(dir.path());
    let (log, recovery) = shelf.open(dir, STRICT);
    assert!(!recovery.damage.is_empty(), "{case}: {recovery:?}");
    assert!(matches!(log.append(b"x").map(drop), Err(Error::Damaged { .. })), "{case}");
    holds(&log, &shelf.records[..shown(&log, &recovery)], lost).unwrap_or_else(|what| panic!("{case}: {what}"));
    assert!(Files::of(dir.path()) == before, "{case}: files changed");
    (log, recovery)
}

#[test]
fn a_missing_active_segment_or_spare_refuses_appends() {
    on_shelves(false, |shelf| {
        let dir = shelf.lay_out(|files| drop(files.0.remove(&segment_name(shelf.active))));
        let (_, recovery) = refuses_appends(&shelf, &dir, &[], "no active segment");
        let gone = shelf.held[&shelf.active];
        assert_eq!(recovery.end, gone.start.previous());
        let told = &recovery.damage[0];
        assert!(matches!(told, Error::Missing { segment, .. } if segment.get() == shelf.active), "{told:?}");
        assert_eq!(told.lsns().map(|lsns| lsns.start), Some(gone.start));
        for &spare in &shelf.spares {
            let dir = shelf.lay_out(|files| drop(files.0.remove(&segment_name(spare))));
            let (log, recovery) = refuses_appends(&shelf, &dir, &[], "a spare is missing");
            assert!(matches!(&recovery.damage[..], [Error::Missing { segment, .. }] if segment.get() == spare));
            drop(log);
            // Nothing tells the lowest one from a segment in use: as many frames as it can have held are given up.
            let mut expected = shelf.records.clone();
            for mode in [RecoveryMode::Quarantine, STRICT, STRICT] {
                let (log, recovery) = shelf.open(&dir, mode);
                assert_eq!(recovery.damage.is_empty(), mode == STRICT, "{recovery:?}");
                assert_eq!(recovery.quarantined.is_empty(), spare != shelf.spares[0], "{recovery:?}");
                append_each(&log, &[record(70)]);
                if recovery.quarantined.is_empty() {
                    expected.push(record(70));
                    holds(&log, &expected, &[]).unwrap();
                }
            }
        }
    });
}

/// The newest segment holds nothing but its seal and the marker behind it, and something else is damaged: what goes on in
/// quarantine goes on in another segment.
#[test]
fn an_empty_segment_is_not_gone_on_with_when_something_is_set_aside() {
    on_shelves(false, |shelf| {
        let dir = shelf.lay_out(|_| {});
        // The first open carries a frame over.
        for _ in 0..2 {
            let (log, _) = shelf.open(&dir, STRICT);
            settle(&log);
        }
        let mut files = Files::of(dir.path());
        let active = *files.holding(super::bytes::SEAL).last().unwrap();
        assert!(data_frames(files.segment(active)).is_empty());
        let spare = files.segments().into_iter().find(|number| *number > active).unwrap();
        let lose_spare = |files: &mut Files| drop(files.0.remove(&segment_name(spare)));
        let rot_header = |files: &mut Files| files.segment(active)[20] ^= 4;
        type Damage<'a> = (&'a str, &'a dyn Fn(&mut Files));
        let damages: [Damage<'_>; 2] =
            [("the lowest spare is lost", &lose_spare), ("the header has rotted", &rot_header)];
        for (case, damage) in damages {
            let mut files = files.clone();
            damage(&mut files);
            let dir = files.lay_out(&shelf.config);
            drop(refuses_appends(&shelf, &dir, &[], case));
            let mut appended = Vec::new();
            for mode in [RecoveryMode::Quarantine, STRICT, STRICT] {
                let (log, recovery) = shelf.open(&dir, mode);
                assert!(mode != STRICT || recovery.damage.is_empty(), "{case}: {recovery:?}");
                appended.push(log.append(&record(70)).unwrap().wait().unwrap());
                for lsn in &appended {
                    assert!(log.read(*lsn).unwrap().payload[..] == record(70)[..], "{case}: frame {lsn}");
                }
            }
        }
    });
}

#[test]
fn frames_of_a_lost_active_segment_are_never_given_to_others() {
    on_shelves(false, |shelf| {
        let dir = shelf.lay_out(|files| drop(files.0.remove(&segment_name(shelf.active))));
        let (log, _) = shelf.open(&dir, RecoveryMode::Quarantine);
        let lsn = log.append(b"after the loss").unwrap().wait().unwrap();
        let gone = shelf.held[&shelf.active];
        assert!(lsn >= gone.end, "frame {lsn} was acknowledged before the loss, {gone} was lost");
        assert!(matches!(log.read(gone.start), Err(Error::Quarantined { .. })), "{:?}", log.read(gone.start));
    });
}

#[test]
fn frames_of_a_log_without_any_segment_left_are_never_given_to_others() {
    on_shelves(false, |shelf| {
        let used: Vec<u64> = shelf.sealed.iter().copied().chain([shelf.active]).collect();
        let dir = shelf.lay_out(|files| used.iter().for_each(|number| drop(files.0.remove(&segment_name(*number)))));
        let (log, recovery) = refuses_appends(&shelf, &dir, &[], "nothing is left");
        assert_eq!(recovery.damage.len(), used.len(), "{recovery:?}");
        drop(log);
        let before = Files::of(dir.path());
        let (log, _) = shelf.open(&dir, RecoveryMode::Quarantine);
        let given = log.append(b"after the loss").unwrap().wait().unwrap();
        assert!(given > Lsn::new(shelf.end()), "frame {given} was acknowledged before the loss");
        assert!(matches!(log.read(Lsn::new(1)), Err(Error::Quarantined { .. })));
        drop(log);
        // The same of an open of which nothing but the control file remained.
        let mut files = before;
        files.0.insert("control".to_owned(), Files::of(dir.path()).0["control"].clone());
        for (dir, mode) in [(dir, STRICT), (files.lay_out(&shelf.config), RecoveryMode::Quarantine)] {
            let (log, recovery) = shelf.open(&dir, mode);
            assert!(recovery.end >= given.previous(), "{recovery:?}");
            assert!(matches!(log.read(Lsn::new(1)), Err(Error::Quarantined { .. })), "{:?}", log.read(Lsn::new(1)));
            assert!(log.append(b"later").unwrap().wait().unwrap() > recovery.end);
        }
    });
}

#[test]
fn a_doubled_segment_is_not_the_one_whose_name_it_has() {
    on_shelves(false, |shelf| {
        for &number in &shelf.sealed {
            let other = *shelf.sealed.iter().chain([&shelf.active]).find(|other| **other != number).unwrap();
            let dir = shelf.lay_out(|files| {
                let copy = files.segment(other).clone();
                *files.segment(number) = copy;
            });
            let recovery = costs_a_sealed_segment(&shelf, &dir, number, &format!("{other} stands for {number}"));
            assert!(recovery.missing_segments.is_empty());
        }
        for &source in &[shelf.sealed[0], shelf.active] {
            let dir = shelf.lay_out(|files| {
                let copy = files.segment(source).clone();
                *files.segment(shelf.spares[0]) = copy;
            });
            let (_, recovery) = refuses_appends(&shelf, &dir, &[], "in place of a spare");
            assert!(
                matches!(&recovery.damage[..], [Error::Foreign { file, .. }] if *file == segment_name(shelf.spares[0]))
            );
            stays_untouched(&shelf, source, "above the highest");
        }
    });
}

/// A copy above the highest number costs nothing, and is nobody's to delete.
fn stays_untouched(shelf: &Shelf, source: u64, case: &str) {
    let above = segment_name(shelf.spares.last().unwrap() + 1);
    let copy = shelf.files.0[&segment_name(source)].clone();
    let dir = shelf.lay_out(|files| drop(files.0.insert(above.clone(), copy.clone())));
    let mut expected = shelf.records.clone();
    for round in 0..3 {
        let (log, recovery) = shelf.open(&dir, STRICT);
        assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
        for i in 0..4 {
            expected.push(sized(round * 10 + i, 30_000));
            append_each(&log, &expected[expected.len() - 1..]);
        }
        holds(&log, &expected, &[]).unwrap();
    }
    assert!(Files::of(dir.path()).0.get(&above) == Some(&copy), "{case}: the copy was touched");
}

#[test]
fn foreign_files_are_told_under_our_names_and_ignored_under_others() {
    on_shelves(false, |shelf| {
        let stranger = Shelf::new(&shelf.config, false);
        for &number in &shelf.sealed {
            let dir = shelf.lay_out(|files| {
                *files.segment(number) = stranger.files.0[&segment_name(stranger.active)].clone();
            });
            costs_a_sealed_segment(&shelf, &dir, number, &format!("a stranger's file for {number}"));
        }
        for number in [shelf.active, shelf.spares[0]] {
            let dir = shelf.lay_out(|files| *files.segment(number) = stranger.files.0[&segment_name(1)].clone());
            let (_, recovery) = refuses_appends(&shelf, &dir, &[], "a stranger's file");
            let told = |error: &Error| matches!(error, Error::Foreign { file, .. } if *file == segment_name(number));
            assert!(recovery.damage.iter().any(told), "{recovery:?}");
        }
        let names =
            ["notes.txt", "17.seg", "00000000000000000003.seg~", "control.bak", ".hidden", "00000000000000000000.seg"];
        let dir =
            shelf.lay_out(|files| names.iter().for_each(|name| drop(files.0.insert((*name).into(), b"mine".to_vec()))));
        let above = segment_name(shelf.spares.last().unwrap() + 1);
        let theirs = stranger.files.0[&segment_name(1)].clone();
        std::fs::write(dir.path().join(&above), &theirs).unwrap();
        for _ in 0..6 {
            let (log, recovery) = shelf.open(&dir, STRICT);
            assert!(recovery.damage.is_empty(), "{recovery:?}");
            for i in 0..2 {
                append_each(&log, &[sized(i, 30_000)]);
            }
            log.trim(log.flushed()).unwrap();
        }
        let after = Files::of(dir.path()).0;
        assert!(names.iter().all(|name| after.get(*name).is_some_and(|bytes| bytes == b"mine")));
        assert!(after[&above] == theirs);
    });
}

#[test]
fn a_later_version_is_refused_and_left_as_it_is() {
    on_shelves(false, |shelf| {
        let future_segment = |number| shelf.lay_out(|files| set_version(files.segment(number), 2, 60));
        let slot = 32 * 1024;
        let future_control = |both: bool| {
            shelf.lay_out(|files| {
                let control = files.0.get_mut("control").unwrap();
                for slot in control.chunks_mut(slot).skip(usize::from(!both)) {
                    let length = super::bytes::u32_at(slot, 12) as usize;
                    set_version(slot, 2, length);
                }
            })
        };
        let cases = [
            (future_segment(shelf.active), segment_name(shelf.active)),
            (future_segment(shelf.spares[0]), segment_name(shelf.spares[0])),
            (future_control(true), "control".into()),
            (future_control(false), "control".into()),
        ];
        for (dir, name) in cases {
            let before = Files::of(dir.path());
            for mode in [STRICT, RecoveryMode::Quarantine, RecoveryMode::ReadOnly] {
                match try_open(&dir, &in_mode(&shelf.config, mode)) {
                    Err(Error::FutureVersion { file, found: 2, known: 1 }) => assert_eq!(file, name),
                    other => panic!("{name}: {other:?}"),
                }
                assert!(Files::of(dir.path()) == before, "{name}: touched in {mode:?}");
            }
        }
        // In a sealed segment: an error to the reader who meets it.
        let number = shelf.sealed[1];
        let dir = future_segment(number);
        let (log, _) = open(&dir, &shelf.config);
        assert!(matches!(log.read(shelf.held[&number].start), Err(Error::FutureVersion { .. })));
        assert_eq!(log.read(Lsn::FIRST).unwrap().payload, shelf.records[0]);
        assert_eq!(lsns(1, shelf.end()).frames(), log.flushed().get());
    });
}

#[test]
fn a_shortened_tail_refuses_appends_wherever_it_was_cut() {
    for closed in [false, true] {
        on_shelves(closed, |shelf| {
            let whole = shelf.files.0[&segment_name(shelf.active)].len();
            let frames = data_frames(&shelf.files.0[&segment_name(shelf.active)]);
            let end = frames.last().unwrap().offset;
            let cuts = (0..=2 * BLOCK).step_by(1024).chain((end - 2 * BLOCK..end + 3 * BLOCK).step_by(512));
            for bytes in cuts.chain([whole - BLOCK, whole - 1]) {
                let case = format!("{bytes} of {whole} bytes are left, closed {closed}");
                let dir = shelf.lay_out(|files| files.segment(shelf.active).truncate(bytes));
                // A close wrote down where the log ends: what is cut behind that held nothing.
                if closed && bytes >= end + BLOCK {
                    let (log, recovery) = shelf.open(&dir, STRICT);
                    assert!(recovery.damage.is_empty() && recovery.clean, "{case}: {recovery:?}");
                    let mut expected = shelf.records.clone();
                    expected.push(record(7));
                    append_each(&log, &expected[expected.len() - 1..]);
                    drop(log);
                    let (log, recovery) = shelf.open(&dir, STRICT);
                    assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
                    holds(&log, &expected, &[]).unwrap();
                    continue;
                }
                let (log, recovery) = shelf.open(&dir, STRICT);
                assert!(!recovery.damage.is_empty(), "{case}: {recovery:?}");
                assert!(matches!(log.append(b"x").map(drop), Err(Error::Damaged { .. })), "{case}");
                drop(log);
                assert!(!shelf.open(&dir, RecoveryMode::ReadOnly).1.damage.is_empty(), "{case}");
                let (log, recovery) = shelf.open(&dir, RecoveryMode::Quarantine);
                // Of a log that was closed it is known when every frame is there.
                if recovery.quarantined.is_empty() {
                    assert!(closed, "{case}: {recovery:?}");
                    holds(&log, &shelf.records, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                }
                let lsn = log.append(b"after the loss").unwrap().wait().unwrap();
                assert!(lsn.get() > shelf.end(), "{case}: frame {lsn} was acknowledged before the loss");
                drop(log);
                let (log, recovery) = shelf.open(&dir, STRICT);
                assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
                assert_eq!(log.read(lsn).unwrap().payload, &b"after the loss"[..], "{case}");
            }
        });
    }
}
