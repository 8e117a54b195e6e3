//! Where a log was closed is remembered through opens that fail, and through one without room, until a seal tells the same.

use seawall::{Log, Lsn, RecoveryMode};

use super::bed::{direct, in_mode, record};
use super::behind::{BLOCK, append_new, cut_back_from, newest};
use super::sim::{DiskOptions, Fault, KillChoice, Landed, OpKind, SimDisk, errno};

/// An open that sets things aside ends between any two of its writes, and so does the next. What the control file told the
/// first, that the log was closed and where, the last one knows as well.
#[test]
fn a_close_is_not_forgotten_by_opens_that_failed() {
    let all =
        [closed_single, closed_behind_a_truncation, closed_behind_a_hole, closed_and_all_gone_behind_a_truncation];
    for (story, call) in all.into_iter().flat_map(|story| [(story, OpKind::WriteFlushed), (story, OpKind::Create)]) {
        let uninterrupted = judged(&story());
        let mut failed = 0;
        for (first, second) in (0..5).flat_map(|first| (0..5).map(move |second| (first, second))) {
            let disk = story();
            for nth in [first, second] {
                disk.fail(Fault::new(call, nth, errno::EIO));
                let opened = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine));
                failed += u64::from(opened.is_err());
                disk.kill(&KillChoice::Landed);
                disk.heal();
            }
            assert_eq!(judged(&disk), uninterrupted, "{call:?} failed, {first} and {second}");
        }
        assert!(failed >= 20 || call == OpKind::Create, "{failed} opens failed");
    }
}

/// The seal is there by which the close is history, and another damage keeps the next open from entering that.
#[test]
fn a_close_that_is_history_is_no_older_control() {
    let (shown, ..) = judged(&closed_single());
    let mut sealed = 0;
    for write in 0..5 {
        let disk = closed_single();
        let before = newest(&disk);
        disk.fail(Fault::new(OpKind::WriteFlushed, write, errno::EIO));
        drop(Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)));
        disk.kill(&KillChoice::Landed);
        disk.heal();
        sealed += u64::from(newest(&disk) != before);
        disk.remove_file(
            &disk.names().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg")).max().unwrap(),
        );
        for write in 0..2 {
            disk.fail(Fault::new(OpKind::WriteFlushed, write, errno::EIO));
            drop(Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)));
            disk.kill(&KillChoice::Landed);
            disk.heal();
        }
        assert_eq!(judged(&disk).0, shown, "failed at write {write}");
    }
    assert!(sealed > 0);
}

/// There is no room for a segment, so no seal tells yet what the close told.
#[test]
fn a_close_is_not_forgotten_by_an_open_without_room() {
    for story in [closed_behind_a_truncation, closed_behind_a_hole, closed_and_all_gone_behind_a_truncation] {
        let uninterrupted = judged(&story());
        let disk = story();
        let spares = disk
            .names()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name.ends_with(".seg") && *name > newest(&disk));
        spares.for_each(|name| disk.remove_file(&name));
        let without = judged_without_room(&disk);
        assert_eq!(without, uninterrupted.0);
        assert_eq!(judged(&disk).0, uninterrupted.0);
    }
}

/// A frame in front of a hole has rotted as well, and the frame behind both claims that the first was flushed: by the close it is
/// none of the log's.
#[test]
fn what_was_dropped_does_not_come_back_behind_rot_and_a_hole() {
    let disk = closed_behind_a_hole();
    let first = "00000000000000000001.seg";
    let frame = super::bytes::data_frames(&disk.read_file(first))[1];
    assert_eq!(frame.lsn, 2);
    disk.flip_bit(first, (frame.offset as u64 + 70) * 8);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.pump();
        let read: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
        assert_eq!(read, [1], "{mode:?}: {recovery:?}");
        disk.kill(&KillChoice::Landed);
    }
}

/// There was no room until the log was open. What was acknowledged then is lost with its whole segment: that the log was closed
/// before is no reason to give its numbers again.
#[test]
fn a_close_does_not_vouch_for_what_came_behind_it() {
    let (disk, log, lsn) = outlived();
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.remove_file(&newest(&disk));
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.pump();
    let next = log.append(b"new").unwrap().wait().unwrap();
    assert!(next > lsn, "{next} was given again: {recovery:?}");
}

/// The same, and the log was cut back to before where it was closed.
#[test]
fn a_close_does_not_vouch_for_what_was_cut_behind_it() {
    let (disk, log, lsn) = outlived();
    let behind_close = newest(&disk);
    assert_eq!(lsn, Lsn::new(10));
    log.truncate(Lsn::new(7)).unwrap();
    disk.pump();
    disk.kill(&KillChoice::Landed);
    drop(log);
    let all = disk.names().into_iter().map(|(name, _)| name);
    all.filter(|name| name.ends_with(".seg") && *name >= behind_close).for_each(|name| disk.remove_file(&name));
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        let shown: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
        assert!(shown.iter().all(|lsn| *lsn <= 7), "{mode:?}: {shown:?}: {recovery:?}");
    }
}

/// A log that was opened where its last seal had rotted and there was no room, and has acknowledged a frame since; whose number.
fn outlived() -> (SimDisk, Log<super::sim::SimStorage>, Lsn) {
    let disk = closed_behind_a_truncation();
    let spares = disk.names().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg"));
    spares.filter(|name| *name > newest(&disk)).for_each(|name| disk.remove_file(&name));
    disk.fail(Fault::new(OpKind::Create, 0, errno::ENOSPC).forever());
    let (log, _) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.heal();
    let mut tries = 0;
    let pending = loop {
        match log.try_append(b"behind the close") {
            Err(seawall::Error::Busy { .. } | seawall::Error::Full { .. }) if tries < 1000 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
                disk.pump();
            }
            other => break other.unwrap(),
        }
    };
    let lsn = pending.wait().unwrap();
    disk.pump();
    (disk, log, lsn)
}

fn judged_without_room(disk: &SimDisk) -> Vec<(u64, usize, u32)> {
    disk.fail(Fault::new(OpKind::Create, 0, errno::ENOSPC).forever());
    let shown = judged(disk).0;
    disk.heal();
    shown
}

/// What an open that sets damage aside shows, where it ends, and what it set aside.
fn judged(disk: &SimDisk) -> (Vec<(u64, usize, u32)>, u64, Vec<seawall::LsnRange>) {
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.pump();
    let told = |frame: seawall::Frame| (frame.lsn.get(), frame.payload.len(), crc32c::crc32c(&frame.payload));
    let shown = log.reader(Lsn::FIRST).flatten().map(told).collect();
    let end = recovery.end.get();
    disk.kill(&KillChoice::Landed);
    (shown, end, recovery.quarantined)
}

/// The last record begins a segment, and its seal rots.
fn closed_single() -> SimDisk {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0.. {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
        if newest(&disk) != "00000000000000000001.seg" {
            break;
        }
    }
    close_and_rot(&disk, log);
    disk
}

fn closed_behind_a_truncation() -> SimDisk {
    let (disk, log) = cut_back_from(8);
    append_new(&disk, &log);
    close_and_rot(&disk, log);
    disk
}

/// Of three groups in flight the first is lost, and the others are dropped. What is appended instead is lost with all else that
/// its segment held.
fn closed_behind_a_hole() -> SimDisk {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let sweep_interval = std::time::Duration::from_micros(50);
    let config = seawall::Config { sweep_interval, flush_depth_min: 4, ..direct() };
    let (log, _) = Log::open_on(disk.open(), config).unwrap();
    disk.pump();
    for i in 0..2 {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    disk.set_manual(true);
    while disk.pending().len() < 3 {
        drop(log.append(&record(2 + disk.pending().len() as u64)).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(1));
        disk.tick();
    }
    let landed = disk.pending()[1..].iter().map(|token| (*token, Landed::Full)).collect();
    disk.kill(&KillChoice::Each(landed));
    drop(log);
    disk.set_manual(false);
    let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    assert_eq!(recovery.dropped, Some(seawall::LsnRange::inclusive(Lsn::new(4), Lsn::new(5))), "{recovery:?}");
    assert_eq!(log.append(b"new").unwrap().wait().unwrap(), Lsn::new(3));
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.write_at(&newest(&disk), BLOCK, &vec![0xa5; 4 * BLOCK as usize]);
    disk
}

/// The segment that a truncation began is gone, and the prepared ones: only the close tells where the log ended.
fn closed_and_all_gone_behind_a_truncation() -> SimDisk {
    let (disk, log) = cut_back_from(8);
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    let first = "00000000000000000001.seg";
    let gone = disk.names().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg") && name != first);
    gone.for_each(|name| disk.remove_file(&name));
    disk
}

fn close_and_rot(disk: &SimDisk, log: Log<super::sim::SimStorage>) {
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.flip_bit(&newest(disk), (BLOCK + 10) * 8);
}
