//! The tail that nothing proves: what an open makes of it, and what a power loss then leaves.

use std::time::Duration;

use seawall::{Config, Log, Lsn, RecoveryMode};

use super::rows::{both, started};
use super::sim::{CrashChoice, DiskOptions, Effect, Fault, KillChoice, OpKind, errno};
use super::story::Story;

/// Bugs this guards against: a recovery that believes what a kill left in a cache, or what the page cache shows after a
/// flush that failed.
#[test]
fn what_only_sits_in_a_cache_is_durable_once_it_was_reported() {
    both(|options| survives_its_report(options, false));
    survives_its_report(DiskOptions::BUFFERED, true);
}

/// A device may drop from its cache what it failed to flush, and read it from there all the same.
#[test]
fn what_a_device_failed_to_flush_is_durable_once_it_was_reported() {
    survives_its_report(DiskOptions::DIRECT, true);
}

/// A frame is written and never acknowledged; the next open reports it, a reader sees it, power is lost.
fn survives_its_report(options: DiskOptions, failed_flush: bool) {
    let (mut story, log) = started(options);
    if failed_flush {
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).effect(Effect::AfterFull));
        assert!(story.try_append(&log, &[300]).is_err());
    } else {
        story.disk.set_manual(true);
        drop(story.submit(&log, &[300]));
        while story.disk.pending().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            story.disk.tick();
        }
        story.disk.set_manual(false);
    }
    story.kill(log);
    let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
    story.disk.pump();
    assert!(recovery.damage.is_empty() && recovery.end == Lsn::new(3), "{recovery:?}");
    assert_eq!(recovery.ambiguous_tail.map(|lsns| lsns.end), Some(Lsn::new(4)), "{recovery:?}");
    let seen = log.read(Lsn::new(3)).unwrap().payload;
    story.append(&log, &[400]);
    let disk = story.disk.crash(&CrashChoice::lost());
    let (log, recovery) = Log::open_on(disk.open(), story.config.clone()).unwrap();
    assert!(recovery.damage.is_empty() && recovery.end == Lsn::new(4), "{recovery:?}");
    assert_eq!(log.read(Lsn::new(3)).unwrap().payload, seen, "what a reader has seen is gone");
}

/// Frames 1 to 3, the last of them larger than any prepared segment, and proven by nothing; then a kill.
fn left_with_a_large_tail(options: DiskOptions, failed_flush: bool) -> Story {
    let (mut story, log) = started(options);
    if failed_flush {
        let fault = Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on("00000000000000000002.seg");
        story.disk.fail(fault.effect(Effect::AfterFull));
    }
    assert_eq!(story.try_append(&log, &[200_000]).is_err(), failed_flush);
    story.kill(log);
    story
}

#[test]
fn a_tail_larger_than_the_reserve_is_carried_where_there_is_room() {
    both(|options| {
        let mut story = left_with_a_large_tail(options, false);
        let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
        assert!(!recovery.tail_in_place && recovery.end == Lsn::new(3), "{recovery:?}");
        story.disk.pump();
        story.append(&log, &[500]);
        story.survives(&story.disk.crash(&CrashChoice::lost()), &story.allowed(u64::MAX)).unwrap();
    });
}

/// On a full disk, where the reserve is too small for it.
#[test]
fn a_tail_that_finds_no_room_is_durable_where_it_stands() {
    for (options, failed_flush) in
        [(DiskOptions::DIRECT, false), (DiskOptions::BUFFERED, false), (DiskOptions::BUFFERED, true)]
    {
        let story = left_with_a_large_tail(options, failed_flush);
        story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
        let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
        assert!(recovery.tail_in_place && recovery.damage.is_empty(), "{recovery:?}");
        assert_eq!(recovery.end, Lsn::new(3), "{recovery:?}");
        let seen = log.read(Lsn::new(3)).unwrap().payload;
        let disk = story.disk.crash(&CrashChoice::lost());
        let (log, recovery) = Log::open_on(disk.open(), story.config.clone()).unwrap();
        assert!(recovery.damage.is_empty() && recovery.end == Lsn::new(3), "{recovery:?}");
        assert!(log.read(Lsn::new(3)).unwrap().payload == seen, "what a reader has seen is gone");
    }
}

/// The seal is what an open leaves behind when nothing is appended: it must be durable before anything follows it, and
/// with frames in doubt nothing but itself states that everything is flushed.
#[test]
fn a_seal_whose_flush_failed_is_not_built_upon() {
    both(|options| {
        for closed in [true, false] {
            let (mut story, log) = started(options);
            if closed {
                story.close(log);
            } else {
                story.kill(log);
            }
            let fault = Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on("00000000000000000002.seg");
            story.disk.fail(fault.effect(Effect::AfterFull));
            Log::open_on(story.disk.open(), story.config.clone()).unwrap_err();
            story.disk.kill(&KillChoice::Landed);
            let log = story.open();
            story.append(&log, &[400]);
            let disk = story.disk.crash(&CrashChoice::lost());
            let read_only = Config { recovery: RecoveryMode::ReadOnly, ..story.config.clone() };
            let (log, _) = Log::open_on(disk.open(), read_only).unwrap();
            let report = log.verify(|_, _| {}).unwrap();
            assert!(report.is_sound(), "closed {closed}: {report:?}");
            drop(log);
            story.survives(&story.disk.crash(&CrashChoice::lost()), &story.allowed(u64::MAX)).unwrap();
        }
    });
}

/// An open that ends while it carries the tail on leaves it where it was, twice: nothing is dropped.
#[test]
fn a_copy_that_did_not_end_is_not_told_as_a_loss() {
    both(|options| {
        let (mut story, log) = started(options);
        story.kill(log);
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 1, errno::EIO).on("00000000000000000002.seg"));
        Log::open_on(story.disk.open(), story.config.clone()).unwrap_err();
        story.disk.kill(&KillChoice::Landed);
        let (_, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
        assert_eq!((recovery.end, recovery.dropped), (Lsn::new(2), None), "{recovery:?}");
        assert_eq!(recovery.ambiguous_tail.map(|lsns| lsns.start), Some(Lsn::new(2)), "{recovery:?}");
    });
}

/// A frame that only a page cache holds, which marked it clean when the write failed.
#[test]
fn what_was_set_aside_behind_a_frame_does_not_prove_it() {
    let (mut story, log) = started(DiskOptions::BUFFERED);
    story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).effect(Effect::AfterFull));
    assert!(story.try_append(&log, &[300]).is_err());
    story.kill(log);
    survives_a_lost_successor(&mut story, 1, 3, true);
}

/// A seal of which the same is true, over frames that an open has copied and flushed.
#[test]
fn what_was_set_aside_behind_a_seal_does_not_prove_it() {
    let (mut story, log) = started(DiskOptions::BUFFERED);
    story.kill(log);
    let fault = Fault::new(OpKind::WriteFlushed, 1, errno::EIO).on("00000000000000000002.seg");
    story.disk.fail(fault.effect(Effect::AfterFull));
    Log::open_on(story.disk.open(), story.config.clone()).unwrap_err();
    story.disk.kill(&KillChoice::Landed);
    // The seal states that the copy is flushed, and it is: what is in doubt is the seal.
    survives_a_lost_successor(&mut story, 2, 2, false);
}

/// The segment behind `active` is removed. An open sets aside what it may have held, and ends before the tail is durable;
/// for the next one it is the control file that claims the most, of what is not there. Then power is lost.
fn survives_a_lost_successor(story: &mut Story, active: u64, last: u64, in_doubt: bool) {
    let name = |number: u64| format!("{number:020}.seg");
    story.disk.remove_file(&name(active + 1));
    story.config.recovery = RecoveryMode::Quarantine;
    story.disk.fail(Fault::new(OpKind::Write, 0, errno::EIO).on(&name(active)));
    Log::open_on(story.disk.open(), story.config.clone()).unwrap_err();
    story.disk.kill(&KillChoice::Landed);
    let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
    let last = Lsn::new(last);
    assert!(recovery.tail_in_place == in_doubt && recovery.end > last, "{recovery:?}");
    assert_eq!(recovery.ambiguous_tail.map(|lsns| lsns.end), in_doubt.then_some(last.next()), "{recovery:?}");
    let seen = log.read(last).unwrap().payload;
    let disk = story.disk.crash(&CrashChoice::lost());
    let (log, recovery) = Log::open_on(disk.open(), story.config.clone()).unwrap();
    assert!(recovery.damage.is_empty(), "{recovery:?}");
    assert!(log.read(last).unwrap().payload == seen, "what a reader has seen is gone");
    let report = log.verify(|_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// A frame that fills the copy's buffer but for less than a block, and a small one in the next group.
#[test]
fn a_group_whose_padding_fills_the_buffer_is_carried() {
    both(|options| {
        let mut story = Story::new(options);
        story.config.segment_bytes_min = 4 << 20;
        story.config.segment_bytes_max = 4 << 20;
        let log = story.open();
        story.append(&log, &[(1 << 20) - 168, 10]);
        story.append(&log, &[(1 << 20) - 168, 10, 3000, 10]);
        story.kill(log);
        let log = story.open();
        story.append(&log, &[400]);
        story.survives(&story.disk.crash(&CrashChoice::lost()), &story.allowed(u64::MAX)).unwrap();
    });
}
