//! The control file: an old copy, bad slots, gone.

use std::time::Duration;

use seawall::{Config, Error, Log, Lsn, RecoveryMode};
use tempfile::TempDir;

use super::bed::{Files, append_each, buffered, close, direct, empty, in_mode, open, record, settle, sized, try_open};
use super::bytes::u64_at;
use super::oracle::{holds, lsns};
use super::shelf::{Shelf, on_shelves};
use super::sim::{DiskOptions, Fault, KillChoice, OpKind, SimDisk, errno};

const STRICT: RecoveryMode = RecoveryMode::Strict;
const SLOT: usize = 32 * 1024;

fn control(files: &mut Files) -> &mut Vec<u8> {
    files.0.get_mut("control").unwrap()
}

/// The slot that counts.
fn newest_slot(control: &[u8]) -> usize {
    (0..2).max_by_key(|slot| u64_at(control, slot * SLOT + 16)).unwrap()
}

fn refused(dir: &TempDir, config: &Config, mode: RecoveryMode, case: &str) {
    let before = Files::of(dir.path());
    let opened = try_open(dir, &in_mode(config, mode));
    assert!(matches!(&opened, Err(Error::Control { .. })), "{case}: {opened:?}");
    assert!(Files::of(dir.path()) == before, "{case}: files changed");
}

/// A log that lives through opens, rotations and trims; its control file as it was after each step.
struct Life {
    config: Config,
    files: Files,
    records: Vec<Vec<u8>>,
    /// What was done, the control file afterwards, whether a frame or a trim came after it.
    controls: Vec<(&'static str, Vec<u8>)>,
    trimmed: u64,
}

impl Life {
    fn new(config: &Config) -> Life {
        let dir = empty(config);
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mut controls = Vec::new();
        let mut keep = |what| controls.push((what, std::fs::read(dir.path().join("control")).unwrap()));
        for round in 0..3u64 {
            let (log, _) = open(&dir, config);
            settle(&log);
            keep("opened");
            for i in 0..4 {
                records.push(sized(round * 10 + i, 25_000));
                append_each(&log, &records[records.len() - 1..]);
                settle(&log);
            }
            keep("rotated");
            if round == 1 {
                log.trim(Lsn::new(3)).unwrap();
                settle(&log);
                keep("trimmed");
            }
            if round < 2 {
                close(log);
                keep("closed");
            }
        }
        Life { config: config.clone(), files: Files::of(dir.path()), records, controls, trimmed: 3 }
    }
}

#[test]
fn an_older_control_file_is_noticed_or_harmless() {
    for config in [buffered(), direct()] {
        let life = Life::new(&config);
        let newest = life.controls.len() - 1;
        let mut noticed = 0;
        for (i, (what, control)) in life.controls[..newest].iter().enumerate() {
            let case = format!("control {i}, {what}");
            let mut files = life.files.clone();
            files.0.insert("control".into(), control.clone());
            let dir = files.lay_out(&config);
            let before = Files::of(dir.path());
            match try_open(&dir, &config) {
                // Every open writes a seal that states the control it stands on: whatever is older than that shows.
                Err(Error::Control { .. }) => {
                    noticed += 1;
                    assert!(Files::of(dir.path()) == before, "{case}: files changed");
                    refused(&dir, &config, RecoveryMode::Quarantine, &case);
                }
                // What it does not know is only that spares were prepared.
                opened => {
                    let (log, recovery) = opened.unwrap();
                    assert!(i + 2 >= newest && recovery.damage.is_empty(), "{case}: {recovery:?}");
                    assert_eq!(log.first(), Lsn::new(life.trimmed + 1), "{case}");
                    holds(&log, &life.records, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                    continue;
                }
            }
            // The way out: the control goes, and is rebuilt.
            std::fs::remove_file(dir.path().join("control")).unwrap();
            rebuilds(&dir, &life, &case);
        }
        assert!(noticed > newest / 2, "{noticed} of {newest} noticed");
    }
}

fn rebuilds(dir: &TempDir, life: &Life, case: &str) {
    refused(dir, &life.config, STRICT, case);
    let mut expected = life.records.clone();
    for (round, mode) in [RecoveryMode::Quarantine, STRICT, STRICT].into_iter().enumerate() {
        let (log, recovery) = open(dir, &in_mode(&life.config, mode));
        assert_eq!(recovery.control_rebuilt, round == 0, "{case}: {recovery:?}");
        assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
        assert_eq!(log.first(), Lsn::new(life.trimmed + 1), "{case}");
        holds(&log, &expected, &[]).unwrap_or_else(|what| panic!("{case}, round {round}: {what}"));
        expected.push(record(round as u64));
        append_each(&log, &expected[expected.len() - 1..]);
        assert!(log.verify(|_, _| {}).unwrap().is_sound(), "{case}");
    }
}

#[test]
fn an_old_closed_control_over_a_segment_that_was_resumed_is_noticed() {
    for config in [buffered(), direct()] {
        let dir = empty(&config);
        let (log, _) = open(&dir, &config);
        settle(&log);
        close(log);
        let old = std::fs::read(dir.path().join("control")).unwrap();
        // The next open goes on in the same, empty segment: no new seal tells.
        let (log, _) = open(&dir, &config);
        // The first one is longer than a block.
        let records = [vec![7; 10_000], record(2)];
        append_each(&log, &records);
        drop(log);
        let mut files = Files::of(dir.path());
        *control(&mut files) = old;
        let dir = files.lay_out(&config);
        match try_open(&dir, &config) {
            Err(Error::Control { .. }) => {}
            Ok((log, recovery)) => {
                assert_eq!(recovery.end, Lsn::new(2), "acknowledged frames were given up: {recovery:?}");
                holds(&log, &records, &[]).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Bug: a control file from before the first segment, over segments whose seals had rotted, opened as an empty log: they
/// passed for preparations that did not end, and were removed.
#[test]
fn the_first_control_file_over_segments_without_seals_is_noticed() {
    let (disk, config) = (SimDisk::new(DiskOptions::DIRECT), direct());
    disk.fail(Fault::new(OpKind::Create, 0, errno::EIO).on("00000000000000000001.seg.new"));
    drop(Log::open_on(disk.open(), config.clone()));
    disk.kill(&KillChoice::Landed);
    let first = disk.read_file("control");
    disk.heal();
    let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
    disk.pump();
    for i in 0..3 {
        log.append(&record(i)).unwrap().wait().unwrap();
    }
    disk.kill(&KillChoice::Landed);
    drop(log);
    assert_ne!(disk.read_file("control"), first);
    disk.write_file("control", &first);
    disk.flip_bit("00000000000000000001.seg", (4096 + 70) * 8);
    for mode in [RecoveryMode::ReadOnly, STRICT, RecoveryMode::Quarantine] {
        let opened = Log::open_on(disk.fork().open(), in_mode(&config, mode)).map(|(_, recovery)| recovery);
        assert!(matches!(&opened, Err(Error::Control { .. })), "{mode:?}: {opened:?}");
    }
}

#[test]
fn one_bad_slot_is_made_up_for_by_the_other_or_told() {
    for closed in [false, true] {
        on_shelves(closed, |shelf| {
            let newest = newest_slot(&shelf.files.0["control"]);
            for slot in 0..2 {
                for fill in [0, 0xFF] {
                    let dir = shelf.lay_out(|files| control(files)[slot * SLOT..(slot + 1) * SLOT].fill(fill));
                    let case = format!("slot {slot}, newest {newest}, closed {closed}");
                    // The last thing the newest slot said was that a spare is there, or that the log was closed.
                    let (log, recovery) = shelf.open(&dir, STRICT);
                    assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
                    assert_eq!(recovery.control_slot_lost, fill != 0, "{case}: zeros are nothing that was written");
                    holds(&log, &shelf.records, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                    append_each(&log, &[record(1)]);
                    drop(log);
                    let (log, recovery) = shelf.open(&dir, STRICT);
                    assert!(!recovery.control_slot_lost, "{case}: {recovery:?}");
                    assert_eq!(log.flushed(), Lsn::new(shelf.end() + 1), "{case}");
                }
            }
        });
    }
}

#[test]
fn both_slots_bad_or_no_control_at_all() {
    for closed in [false, true] {
        on_shelves(closed, |shelf| {
            type Spoil<'a> = &'a dyn Fn(&mut Files);
            let cases: [(&str, Spoil<'_>); 4] = [
                ("bits", &|files| control(files).chunks_mut(SLOT).for_each(|slot| slot[70] ^= 1)),
                ("zeros", &|files| control(files).fill(0)),
                ("short", &|files| control(files).truncate(10)),
                ("gone", &|files| drop(files.0.remove("control"))),
            ];
            for (case, spoil) in cases {
                let dir = shelf.lay_out(|files| spoil(files));
                refused(&dir, &shelf.config, STRICT, case);
                refused(&dir, &shelf.config, RecoveryMode::ReadOnly, case);
                let mut expected = shelf.records.clone();
                for mode in [RecoveryMode::Quarantine, STRICT, STRICT] {
                    let (log, recovery) = shelf.open(&dir, mode);
                    assert_eq!(recovery.control_rebuilt, mode != STRICT, "{case}: {recovery:?}");
                    assert!(recovery.damage.is_empty() && recovery.quarantined.is_empty(), "{case}: {recovery:?}");
                    holds(&log, &expected, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                    expected.push(record(7));
                    append_each(&log, &expected[expected.len() - 1..]);
                }
            }
        });
    }
}

/// Bug: with the control file and every spare gone, a newest segment of which nothing could be read any more was nobody's,
/// and what it had held was given up without a word.
#[test]
fn an_unreadable_newest_segment_is_told_also_when_the_control_is_rebuilt() {
    on_shelves(false, |shelf| {
        let dir = shelf.lay_out(|files| {
            files.0.remove("control");
            shelf.spares.iter().for_each(|spare| drop(files.0.remove(&super::bytes::segment_name(*spare))));
            files.segment(shelf.active).fill(0x5A);
        });
        let (_, recovery) = shelf.open(&dir, RecoveryMode::Quarantine);
        assert!(recovery.control_rebuilt && !recovery.damage.is_empty(), "{recovery:?}");
    });
}

#[test]
fn a_rebuilt_control_keeps_the_gap_of_an_earlier_quarantine() {
    let config = buffered();
    let shelf = Shelf::new(&config, false);
    let frame = super::bytes::data_frames(&shelf.files.0[&super::bytes::segment_name(shelf.active)])[0];
    let lost = [lsns(frame.lsn, frame.lsn)];
    let dir = shelf.lay_out(|files| files.segment(shelf.active)[frame.offset + 65] ^= 1);
    let (log, _) = shelf.open(&dir, RecoveryMode::Quarantine);
    append_each(&log, &[record(1)]);
    drop(log);
    std::fs::remove_file(dir.path().join("control")).unwrap();
    let (log, _) = shelf.open(&dir, RecoveryMode::Quarantine);
    let mut expected = shelf.records.clone();
    expected.push(record(1));
    // Who set it aside is forgotten with the control; that it cannot be read is not.
    holds(&log, &expected, &lost).unwrap();
    log.close(Duration::from_secs(1)).unwrap();
}

/// A copy of the control file that was lost turns up when the log has gone on with one that was rebuilt. It had been written many
/// more times than the seals tell.
#[test]
fn a_copy_from_before_a_rebuild_is_noticed() {
    let config = buffered();
    let shelf = Shelf::new(&config, false);
    let dir = shelf.lay_out(|_| {});
    let (log, _) = shelf.open(&dir, STRICT);
    append_each(&log, &[record(1), record(2)]);
    (1..=log.flushed().get()).for_each(|lsn| log.trim(seawall::Lsn::new(lsn)).unwrap());
    log.close(Duration::from_secs(1)).unwrap();
    let control = dir.path().join("control");
    let copy = std::fs::read(&control).unwrap();
    std::fs::remove_file(&control).unwrap();
    let (log, recovery) = shelf.open(&dir, RecoveryMode::Quarantine);
    assert!(recovery.control_rebuilt, "{recovery:?}");
    append_each(&log, &[record(3)]);
    log.close(Duration::from_secs(1)).unwrap();
    std::fs::write(&control, copy).unwrap();
    for mode in [RecoveryMode::ReadOnly, STRICT, RecoveryMode::Quarantine] {
        refused(&dir, &config, mode, "a copy from before the rebuild");
    }
}

/// Bytes with a checksum to match that no log has written: a refusal, whatever they count up to.
#[test]
fn a_control_file_that_was_made_up_is_refused() {
    // Where each number stands, see `segment/control.rs`.
    const FIELDS: [(&str, usize); 8] = [
        ("generation", 16),
        ("block", 56),
        ("opens", 64),
        ("highest", 72),
        ("truncations", 80),
        ("trim lsn", 88),
        ("first segment", 104),
        ("close lsn", 136),
    ];
    on_shelves(true, |shelf| {
        for (field, at) in FIELDS {
            let words: &[u64] = match field {
                "block" => &[0, 1, 4095, 1 << 20],
                "highest" => &[u64::MAX, u64::MAX - 1, 1 << 40],
                "first segment" => &[u64::MAX],
                _ => &[u64::MAX, u64::MAX - 1],
            };
            for word in words {
                let dir = shelf.lay_out(|files| {
                    let control = control(files);
                    let slot = newest_slot(control);
                    let bytes = &mut control[slot * SLOT..(slot + 1) * SLOT];
                    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                    let length = super::bytes::u32_at(bytes, 12) as usize;
                    super::bytes::set_version(bytes, 1, length);
                    // The other slot tells of an earlier time.
                    control[(1 - slot) * SLOT..(2 - slot) * SLOT].fill(0);
                });
                for mode in [RecoveryMode::ReadOnly, STRICT] {
                    refused(&dir, &shelf.config, mode, &format!("{field} {word}"));
                }
            }
        }
    });
}

/// The highest segment named the log: a stranger's, restored into the wrong directory, made the log another one, and
/// all of its own frames went out of sight without a word.
#[test]
fn a_control_is_not_rebuilt_from_the_segments_of_two_logs() {
    on_shelves(false, |shelf| {
        let other = Shelf::new(&shelf.config, false);
        let name = super::bytes::segment_name(other.active);
        let dir = shelf.lay_out(|files| {
            files.0.remove("control");
            files.0.retain(|file, _| *file < name);
            files.0.insert(name.clone(), other.files.0[&name].clone());
        });
        let before = Files::of(dir.path());
        match try_open(&dir, &in_mode(&shelf.config, RecoveryMode::Quarantine)) {
            Err(Error::Control { what, .. }) => {
                let own = super::bytes::segment_name(shelf.sealed[0]);
                assert!(what.contains(&name) && what.contains(&own), "{what}");
            }
            other => panic!("{other:?}"),
        }
        assert!(Files::of(dir.path()) == before);
    });
}

/// A segment whose header cannot be read tells of no other log; that it could not be read kept the control file from being
/// rebuilt from all the others.
#[test]
fn a_control_is_rebuilt_beside_a_header_that_cannot_be_read() {
    let (disk, config) = (SimDisk::new(DiskOptions::DIRECT), direct());
    let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
    let records: Vec<Vec<u8>> = (0..8).map(|i| sized(i, 25_000)).collect();
    for record in &records {
        // Segments are prepared by the pump.
        disk.pump();
        log.try_append(record).unwrap().wait().unwrap();
    }
    assert!(log.stats().segments > 2, "{:?}", log.stats());
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.remove_file("control");
    disk.make_unreadable("00000000000000000001.seg", 0..4096);
    let rebuilding = in_mode(&config, RecoveryMode::Quarantine);
    let (log, recovery) = Log::open_on(disk.open(), rebuilding).unwrap();
    assert!(recovery.control_rebuilt && recovery.damage.is_empty(), "{recovery:?}");
    assert_eq!(recovery.end, Lsn::new(8));
    for (i, record) in records.iter().enumerate() {
        match log.read(Lsn::new(i as u64 + 1)) {
            Ok(frame) => assert!(frame.payload == record[..], "record {i}"),
            told => assert!(i < 2 && matches!(told, Err(Error::Io { .. })), "record {i}: {told:?}"),
        }
    }
}

/// A number far above the first, with everything between them missing: each was counted, and there was no end of them.
#[test]
fn a_file_with_a_made_up_number_is_refused() {
    on_shelves(false, |shelf| {
        // The checksums of a segment's frames know the lower half of its number.
        let (from, to) = (shelf.active, shelf.active + (1 << 32));
        let dir = shelf.lay_out(|files| {
            let mut segment = files.segment(from).clone();
            // Its seal would say what it continues.
            segment[super::bytes::BLOCK + 70] ^= 1;
            segment[40..48].copy_from_slice(&to.to_le_bytes());
            super::bytes::set_version(&mut segment, 1, 60);
            files.0.insert(super::bytes::segment_name(to), segment);
            let control = control(files);
            let slot = newest_slot(control);
            let bytes = &mut control[slot * SLOT..(slot + 1) * SLOT];
            bytes[72..80].copy_from_slice(&to.to_le_bytes());
            let length = super::bytes::u32_at(bytes, 12) as usize;
            super::bytes::set_version(bytes, 1, length);
        });
        for mode in [RecoveryMode::ReadOnly, STRICT] {
            refused(&dir, &shelf.config, mode, "a number made up");
        }
    });
}
