//! Crash states that were found to break the log, each made again in the smallest way.

use std::time::Duration;

use seawall::Log;

use super::sim::{DiskOptions, Fault, KillChoice, Landed, OpKind, errno};
use super::story::Story;

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
    story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on(spare));
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
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(story.try_append(&log, &[60_000]).is_ok());
            std::thread::sleep(Duration::from_millis(25));
            story.disk.pump();
        }
        assert_eq!(told, [true, false, false, false, false]);
        let tally = story.crash_everywhere("an unsynced directory", Duration::from_secs(2));
        // That what was perhaps never made is cleared away is no breach.
        let breaches = tally.failures.iter().filter(|what| !what.contains("MissingName")).count();
        assert_eq!((breaches, tally.failed), (0, 1), "{:#?}", tally.failures);
    }
}

/// A segment's seal sat in a cache when an open carried its tail into the next one; power was lost, the lower segment
/// with it, and the copy, which has no seal, stood above a segment that looked blank.
#[test]
fn a_copy_without_a_seal_is_found_above_a_segment_that_was_lost() {
    assert_eq!(super::states::replay(8_254_852_103_965_544_432).failed, 0);
}
