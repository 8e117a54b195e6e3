//! Crash states that were found to break the log, each made again in the smallest way.

use std::time::Duration;

use seawall::storage::{Buffer, Storage};
use seawall::{Error, Log, Lsn, LsnRange};

use super::sim::{
    CrashChoice, CrashOptions, CrashStates, DiskOptions, Effect, Fault, KillChoice, Landed, OpKind, errno,
};
use super::story::{SimLog, Story};

/// A spare that was being enlarged is left by a crash at any length. When an open that carried a tail into it ended, too,
/// the next one wipes it: it wrote zeros up to that length, and O_DIRECT refuses what is not whole blocks.
#[test]
fn a_spare_of_an_odd_length_is_wiped() {
    let mut story = Story::new(DiskOptions::DIRECT);
    let log = story.open();
    story.append(&log, &[100]);
    story.append(&log, &[200]);
    story.kill(log);
    let spare = "00000000000000000002.seg";
    story.disk.truncate(spare, (64 << 10) + 512);
    // The copy is there, its seal is not.
    story.disk.fail(Fault::new(OpKind::WriteFlushed, 1, errno::EIO).on(spare));
    assert!(Log::open_on(story.disk.open(), story.config.clone()).is_err());
    story.disk.kill(&KillChoice::Landed);
    let log = story.open();
    story.append(&log, &[300]);
}

/// A segment of which nothing counts but its seal, which the marker behind it proves, and behind that a write that did
/// not end. Through a page cache the open wrote seal and marker over themselves, and a disk that leaves garbage where a
/// write was cut took the seal.
#[test]
fn a_proven_seal_is_not_written_again() {
    let mut story = Story::new(DiskOptions::BUFFERED);
    story.garbage = true;
    let log = story.open();
    story.append(&log, &[100]);
    story.close(log);
    story.config.sweep_interval = Duration::from_micros(50);
    let log = story.open();
    story.disk.set_manual(true);
    drop(story.submit(&log, &[9000]));
    std::thread::sleep(Duration::from_millis(1));
    story.disk.tick();
    let token = story.disk.pending()[0];
    story.disk.kill(&KillChoice::Each(vec![(token, Landed::Prefix(4096))]));
    drop(log);
    story.disk.set_manual(false);
    story.disk.cut_journal();
    let log = story.reopen().unwrap();
    story.append(&log, &[300]);
    story.crash_everywhere("a proven seal", Duration::from_secs(2)).assert_clean();
}

/// A sync of the directory failed once while a segment was prepared, the next one went well, and so the segment after
/// that was used. No flush that goes well after a failed one says anything of what was to be flushed before it: a crash
/// took the name, and with it what was acknowledged.
#[test]
fn a_directory_that_could_not_be_synced_once_gets_no_more_segments() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        story.append(&log, &[100]);
        story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
        assert_eq!(filled(&mut story, &log), 1);
        let tally = story.crash_everywhere("an unsynced directory", Duration::from_secs(2));
        // That what was perhaps never made is cleared away is no breach.
        let breaches = tally.failures.iter().filter(|what| !what.contains("MissingName")).count();
        assert_eq!((breaches, tally.failed), (0, 1), "{:#?}", tally.failures);
    }
}

/// How many segments are still filled, of five; none after one that was not.
fn filled(story: &mut Story, log: &SimLog) -> usize {
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(story.try_append(log, &[60_000]).is_ok());
        std::thread::sleep(Duration::from_millis(25));
        story.disk.pump();
    }
    assert!(told.is_sorted_by(|earlier, later| earlier >= later), "{told:?}");
    told.iter().filter(|ok| **ok).count()
}

/// The same where the sync was one of removals, those of a truncation: a later segment would make the removed ones, back
/// after a power loss, look like segments in use.
#[test]
fn a_truncation_whose_removals_could_not_be_synced_ends_the_log() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        for _ in 0..3 {
            story.append(&log, &[60_000]);
        }
        story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
        assert!(matches!(story.try_truncate(&log, 1), Err(Error::Io { .. })));
        assert_eq!(filled(&mut story, &log), 0);
        story.kill(log);
        goes_on_after_its_removals_are_synced(story);
    }
}

/// The next open syncs them, also where it finds none of their names any more.
fn goes_on_after_its_removals_are_synced(mut story: Story) {
    story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
    for _ in 0..2 {
        let opened = Log::open_on(story.disk.open(), story.config.clone());
        if let Ok((log, recovery)) = &opened {
            panic!("{log:?} {recovery:?}");
        }
        story.disk.pump();
        story.disk.kill(&KillChoice::Landed);
        drop(opened);
        story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
    }
    story.disk.heal();
    let log = story.reopen().unwrap();
    assert_eq!(filled(&mut story, &log), 5);
    story.kill(log);
    drop(story.reopen().unwrap());
}

/// The same when those removals are left to the next open.
#[test]
fn an_open_whose_debris_could_not_be_synced_away_ends() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        for _ in 0..3 {
            story.append(&log, &[60_000]);
        }
        story.disk.fail(Fault::new(OpKind::Remove, 0, errno::EIO).forever());
        assert!(matches!(story.try_truncate(&log, 1), Err(Error::Io { .. })));
        story.disk.heal();
        assert_eq!(filled(&mut story, &log), 0);
        story.kill(log);
        assert!(story.disk.names().iter().any(|(name, _)| name == "00000000000000000003.seg"));
        goes_on_after_its_removals_are_synced(story);
    }
}

/// And those of an open that replaces a segment of which nothing is proven.
#[test]
fn an_open_whose_removals_could_not_be_synced_ends() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        // The second is alone with the seal that it came with.
        story.append(&log, &[100]);
        story.append(&log, &[60_000]);
        story.kill(log);
        assert!(story.disk.names().iter().any(|(name, _)| name == "00000000000000000002.seg"));
        goes_on_after_its_removals_are_synced(story);
    }
}

/// An open that copies a tail into a segment takes its word that it is blank away before, and for good: there is no moment
/// at which a power loss leaves that word over a piece of the copy.
#[test]
fn no_segment_says_blank_over_a_piece_of_a_copy() {
    const BLOCK: usize = 4096;
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        story.append(&log, &[40_000]);
        let (tail, next) = ("00000000000000000002.seg", "00000000000000000003.seg");
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on(tail).effect(Effect::AfterFull));
        assert!(story.try_append(&log, &[30_000]).is_err());
        story.kill(log);
        story.disk.cut_journal();
        let prepared = story.disk.read_file(next)[BLOCK..BLOCK + 64].to_vec();
        drop(story.open());
        let (mut blank, mut begun) = (0, 0);
        for state in CrashStates::all(&story.disk.journal(), CrashOptions::default()) {
            let bytes = state.disk.read_file(next);
            let has_copy = bytes[2 * BLOCK..].iter().any(|byte| *byte != 0);
            let says_blank = bytes[BLOCK..BLOCK + 64] == prepared;
            assert!(!(says_blank && has_copy), "{state}");
            blank += usize::from(says_blank);
            begun += usize::from(has_copy && bytes[BLOCK] == 0);
        }
        assert!(blank > 0 && begun > 0, "{blank} {begun}");
    }
}

/// A truncation that failed leaves a seal that was perhaps never flushed. The open that finds it does not count it for good before it
/// is, or one that takes its place: a power loss in between would leave a count that no seal explains.
#[test]
fn a_truncation_that_was_only_found_is_not_missed_when_it_is_gone() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = story.open();
        for _ in 0..8 {
            story.append(&log, &[100]);
        }
        let cut = "00000000000000000002.seg";
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on(cut).effect(Effect::AfterFull));
        assert!(log.truncate(Lsn::new(5)).is_err());
        story.kill(log);
        story.disk.cut_journal();
        let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
        assert!(recovery.damage.is_empty() && recovery.end == Lsn::new(5), "{recovery:?}");
        story.disk.pump();
        drop(log);
        let (mut before, mut after) = (0, 0);
        for state in CrashStates::all(&story.disk.journal(), CrashOptions::default()) {
            let (_log, recovery) = Log::open_on(state.disk.open(), story.config.clone()).unwrap();
            assert!(recovery.damage.is_empty(), "{state}: {recovery:?}");
            match recovery.end.get() {
                8 => before += 1,
                5 => after += 1,
                other => panic!("{state}: ends at {other}"),
            }
        }
        assert!(after > 0 && (before > 0 || options == DiskOptions::DIRECT), "{before} {after}");
    }
}

/// A segment's seal sat in a cache when an open carried its tail into the next one; power was lost, the lower segment
/// with it, and the copy, which has no seal, stood above a segment that looked blank.
#[test]
fn a_copy_without_a_seal_is_found_above_a_segment_that_was_lost() {
    assert_eq!(super::states::replay(8_254_852_103_965_544_432).failed, 0);
}

/// What an open reads of the control file may be in a cache alone, after a kill between a write and its flush. It is
/// flushed before the other slot is written: that one was the last on the device, and a write that is torn takes it.
#[test]
fn the_slot_that_counts_on_the_device_is_not_written_over() {
    let mut story = Story::new(DiskOptions::BUFFERED);
    let log = story.open();
    for _ in 0..30 {
        story.append(&log, &[100]);
    }
    // More than a sector of control file: a write of it can be torn.
    for lsn in 11..=25 {
        log.quarantine(LsnRange::inclusive(Lsn::new(lsn), Lsn::new(lsn))).unwrap();
    }
    log.trim(Lsn::new(5)).unwrap();
    let acknowledged = story.disk.read_file("control");
    log.trim(Lsn::new(6)).unwrap();
    let newer = story.disk.read_file("control");
    story.kill(log);
    story.disk.write_file("control", &acknowledged);
    let storage = story.disk.open();
    let file = storage.open("control").unwrap();
    let slot =
        (0..2).map(|slot| slot * (32 << 10)).find(|at| newer[*at..][..512] != acknowledged[*at..][..512]).unwrap();
    let mut bytes = Buffer::new(32 << 10);
    bytes.set_len(32 << 10);
    bytes.copy_from_slice(&newer[slot..][..32 << 10]);
    storage.write(&file, slot as u64, &bytes).unwrap();
    drop((storage, file));
    story.disk.kill(&KillChoice::Landed);
    story.disk.cut_journal();
    drop(Log::open_on(story.disk.open(), story.config.clone()).unwrap());
    let options = CrashOptions::default();
    for state in CrashStates::all(&story.disk.journal(), options) {
        let opened = Log::open_on(state.disk.open(), story.config.clone());
        let (log, _) = opened.unwrap_or_else(|error| panic!("{state}: {error}"));
        assert!(log.first() >= Lsn::new(6), "{state}: {}", log.first());
    }
}

/// The control file was rebuilt, and the open that did it ended before its name was durable: the next open builds on it
/// without a word of a rebuild, and what it writes there must not go with the name.
#[test]
fn a_control_file_s_name_is_durable_before_anything_is_written_into_it() {
    let mut story = Story::new(DiskOptions::DIRECT);
    let log = story.open();
    story.append(&log, &[100, 100, 100]);
    story.kill(log);
    let rebuilt = story.disk.read_file("control");
    story.disk.remove_file("control");
    let storage = story.disk.open();
    let file = storage.create("control.new").unwrap();
    let mut bytes = Buffer::new(rebuilt.len());
    bytes.set_len(rebuilt.len());
    bytes.copy_from_slice(&rebuilt);
    storage.write(&file, 0, &bytes).unwrap();
    storage.flush(&file).unwrap();
    storage.rename("control.new", "control").unwrap();
    drop((storage, file));
    story.disk.kill(&KillChoice::Landed);
    let (log, _) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
    log.quarantine(LsnRange::inclusive(Lsn::new(2), Lsn::new(2))).unwrap();
    let disk = story.disk.crash(&CrashChoice::lost());
    let (log, _) = Log::open_on(disk.open(), story.config.clone()).unwrap();
    assert!(matches!(log.read(Lsn::new(2)), Err(Error::Quarantined { .. })));
}
