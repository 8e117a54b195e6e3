//! What stands behind a segment's end is never read as its frames, also when the seal that says where the end is has
//! rotted.

use seawall::{Log, Lsn, RecoveryMode};

use super::bed::{direct, in_mode, record};
use super::oracle::holds;
use super::sim::{DiskOptions, Fault, KillChoice, OpKind, SimDisk, errno};

pub(super) const BLOCK: u64 = 4096;

/// The newest segment with a seal.
pub(super) fn newest(disk: &SimDisk) -> String {
    let is_sealed =
        |name: &String| name.ends_with(".seg") && disk.read_file(name)[BLOCK as usize] == super::bytes::SEAL;
    disk.names().into_iter().map(|(name, _)| name).filter(is_sealed).max().unwrap()
}

/// Twenty frames in two segments, cut back to five in the next.
fn cut_back() -> (SimDisk, Log<super::sim::SimStorage>) {
    cut_back_from(20)
}

pub(super) fn cut_back_from(frames: u64) -> (SimDisk, Log<super::sim::SimStorage>) {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..frames {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    log.truncate(Lsn::new(5)).unwrap();
    disk.pump();
    (disk, log)
}

/// Four frames, one by one.
pub(super) fn append_new(disk: &SimDisk, log: &Log<super::sim::SimStorage>) -> Vec<Vec<u8>> {
    let new: Vec<Vec<u8>> = (50..54).map(record).collect();
    for record in &new {
        log.append(record).unwrap().wait().unwrap();
        disk.pump();
    }
    new
}

fn first_five() -> Vec<Vec<u8>> {
    (0..5).map(record).collect()
}

/// Nothing was appended behind the seal that rots: only the marker behind it tells where the log ends.
#[test]
fn truncated_frames_stay_away_when_the_newest_seal_rots() {
    let (disk, log) = cut_back();
    disk.kill(&KillChoice::Landed);
    drop(log);
    let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
    assert_eq!(recovery.end, Lsn::new(5));
    disk.pump();
    disk.kill(&KillChoice::Landed);
    drop(log);
    // The truncation's own segment was replaced: nothing proved its seal.
    disk.flip_bit(&newest(&disk), (BLOCK + 10) * 8);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        assert_eq!(recovery.end, Lsn::new(5), "{mode:?}: {recovery:?}");
        assert!(!recovery.damage.is_empty(), "{mode:?}: {recovery:?}");
        holds(&log, &first_five(), &[]).unwrap_or_else(|what| panic!("{mode:?}: {what}"));
        if mode == RecoveryMode::Quarantine {
            disk.pump();
            assert_eq!(log.append(b"new").unwrap().wait().unwrap(), Lsn::new(6));
            disk.pump();
            holds(&log, &[first_five(), vec![b"new".to_vec()]].concat(), &[]).unwrap();
        }
        disk.kill(&KillChoice::Landed);
        drop(log);
    }
}

#[test]
fn truncated_frames_stay_away_when_a_sealed_segments_seal_rots() {
    let (disk, log) = cut_back();
    let cut = newest(&disk);
    let new: Vec<Vec<u8>> = (50..53).map(record).collect();
    for record in &new {
        log.append(record).unwrap().wait().unwrap();
        disk.pump();
    }
    drop(log);
    disk.kill(&KillChoice::Landed);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    log.append(&record(60)).unwrap().wait().unwrap();
    disk.pump();
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.flip_bit(&cut, (BLOCK + 10) * 8);
    let (log, _) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::ReadOnly)).unwrap();
    let expected = [first_five(), new, vec![record(60)]].concat();
    holds(&log, &expected, &[]).unwrap();
    for (lsn, record) in (1..).zip(&expected) {
        assert!(log.read(Lsn::new(lsn)).unwrap().payload[..] == record[..], "frame {lsn}");
    }
    assert!(!log.verify(|_, _| {}).unwrap().is_sound());
}

/// Blocks, not bits: with the seal go the frames that stand right behind it, and nothing tells any more where the segment
/// before it ends. What was cut there is as valid as ever, and has the numbers of those that are lost.
#[test]
fn truncated_frames_do_not_take_the_place_of_lost_ones() {
    // Up to all of them.
    for (lost_frames, before) in [(1, 20), (2, 20), (4, 20), (1, 8), (2, 8), (4, 8)] {
        let (disk, log) = cut_back_from(before);
        let cut = newest(&disk);
        let new = append_new(&disk, &log);
        log.close(std::time::Duration::from_secs(1)).unwrap();
        disk.pump();
        let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
        disk.pump();
        log.append(&record(60)).unwrap().wait().unwrap();
        disk.pump();
        log.close(std::time::Duration::from_secs(1)).unwrap();
        disk.pump();
        let expected = [first_five(), new, vec![record(60)]].concat();
        disk.write_at(&cut, BLOCK, &vec![0xa5; ((1 + lost_frames) * BLOCK) as usize]);
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict] {
            let (log, _) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            only_of(&log, &expected, &(6 + lost_frames..=10).collect::<Vec<u64>>());
            drop(log);
        }
    }
}

/// The same in the newest segment: it is told at the open, and what it may have cut is set aside with what it lost.
#[test]
fn what_may_have_been_truncated_is_named_with_what_was_lost() {
    let (disk, log) = cut_back_from(8);
    let cut = newest(&disk);
    let new = append_new(&disk, &log);
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.write_at(&cut, BLOCK, &vec![0xa5; 2 * BLOCK as usize]);
    let expected = [first_five(), new].concat();
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.pump();
        let named = recovery.damage.iter().filter_map(seawall::Error::lsns);
        assert!(named.clone().any(|lsns| (1..7).all(|lsn| lsns.contains(Lsn::new(lsn)))), "{mode:?}: {recovery:?}");
        // Nothing proves the last one to who only looks.
        let shown = if mode == RecoveryMode::ReadOnly { 8 } else { 9 };
        only_of(&log, &expected[..shown], &(7..=shown as u64).collect::<Vec<u64>>());
        disk.kill(&KillChoice::Landed);
        drop(log);
    }
    let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    assert_eq!(recovery.end, Lsn::new(9), "{recovery:?}");
    assert_eq!(log.append(b"new").unwrap().wait().unwrap(), Lsn::new(10));
}

/// The device lost the truncation's seal although it had flushed it: its segment is as it was prepared.
#[test]
fn numbers_that_a_lost_truncation_may_have_kept_are_not_given_again() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..8 {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    log.trim(Lsn::new(3)).unwrap();
    disk.pump();
    let spare = "00000000000000000002.seg";
    let blank = disk.read_file(spare);
    log.truncate(Lsn::new(5)).unwrap();
    disk.pump();
    assert_eq!(newest(&disk), spare);
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.write_file(spare, &blank);
    let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
    assert!(!recovery.damage.is_empty(), "{recovery:?}");
    // What was trimmed was there.
    assert_eq!((recovery.end, log.flushed(), log.first()), (Lsn::new(3), Lsn::new(3), Lsn::new(4)));
    drop(log);
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.pump();
    // As many as the segment can have held, too.
    let config = direct();
    let may_have_held = config.record_bytes_max.max(config.segment_bytes_max) / 64;
    let given_up = seawall::LsnRange::inclusive(Lsn::new(4), Lsn::new(8 + may_have_held));
    assert_eq!(recovery.quarantined, [given_up], "{recovery:?}");
    assert_eq!(log.append(b"new").unwrap().wait().unwrap(), given_up.end);
    disk.pump();
    let payloads: Vec<_> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.payload).collect();
    assert_eq!(payloads, [&b"new"[..]]);
}

/// With its seal goes all that stood in the segment that cut the log back: then nothing tells which of the frames before it are
/// left, and none is shown as if it were.
#[test]
fn a_truncation_is_not_undone_when_its_seal_rots() {
    // With the segments between, and with none: then nothing is missing.
    for (closed, before) in [(false, 20), (true, 20), (false, 8), (true, 8)] {
        let (disk, log) = cut_back_from(before);
        let cut = newest(&disk);
        if closed {
            log.close(std::time::Duration::from_secs(1)).unwrap();
        } else {
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
        disk.flip_bit(&cut, (BLOCK + 10) * 8);
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
            let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            disk.pump();
            let case = format!("{mode:?}, closed {closed}, {before} before: {recovery:?}");
            assert!(!recovery.damage.is_empty(), "{case}");
            let mut read = Vec::new();
            for frame in log.reader(Lsn::FIRST).flatten() {
                assert_eq!(frame.payload, record(frame.lsn.get() - 1), "{case}");
                read.push(frame.lsn.get());
            }
            // A close wrote down where the log ended.
            assert_eq!(read, if closed { vec![1, 2, 3, 4, 5] } else { vec![] }, "{case}");
            if mode == RecoveryMode::Quarantine {
                let lsn = log.append(b"new").unwrap().wait().unwrap();
                disk.pump();
                assert!(if closed { lsn == Lsn::new(6) } else { lsn > Lsn::new(before) }, "{case}: {lsn}");
                assert_eq!(&log.read(lsn).unwrap().payload[..], b"new");
            } else {
                log.append(b"new").unwrap_err();
            }
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
        let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
        assert!(recovery.damage.is_empty(), "{recovery:?}");
        let payloads: Vec<_> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.payload).collect();
        assert_eq!(payloads.len(), if closed { 6 } else { 1 });
    }
}

/// The seal of the segment that was cut has rotted as well: nothing but the control file tells that the log was cut back.
#[test]
fn a_truncation_is_not_undone_when_the_seal_before_it_rots_too() {
    // In the log's first segment, and in a later one; or the segment that cut it is no more.
    for (before, end, is_gone) in [(8, 5, false), (20, 17, false), (8, 5, true), (20, 17, true)] {
        let disk = SimDisk::new(DiskOptions::DIRECT);
        let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
        disk.pump();
        for i in 0..before {
            log.append(&record(i)).unwrap().wait().unwrap();
            disk.pump();
        }
        let cut = newest(&disk);
        log.truncate(Lsn::new(end)).unwrap();
        disk.pump();
        let cutting = newest(&disk);
        assert_ne!(cut, cutting);
        disk.kill(&KillChoice::Landed);
        drop(log);
        disk.flip_bit(&cut, (BLOCK + 10) * 8);
        if is_gone {
            disk.remove_file(&cutting);
        } else {
            disk.flip_bit(&cutting, (BLOCK + 10) * 8);
        }
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
            let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            disk.pump();
            let case = format!("{mode:?}, {before} before: {recovery:?}");
            for frame in log.reader(Lsn::FIRST).flatten() {
                assert!(frame.lsn <= Lsn::new(end), "frame {} was read: {case}", frame.lsn);
                assert_eq!(frame.payload, record(frame.lsn.get() - 1), "{case}");
            }
            let is_named = |lsn| recovery.damage.iter().filter_map(seawall::Error::lsns).any(|lsns| lsns.contains(lsn));
            assert!(is_named(Lsn::new(end)), "{case}");
            if mode == RecoveryMode::Quarantine {
                assert!(log.append(b"new").unwrap().wait().unwrap() > Lsn::new(before), "{case}");
            }
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
    }
}

/// An open copied the tail of a log into its next segment, where the log went on and was then cut back to before what was copied.
/// With both seals the copies are lost, but not a frame behind them, which was cut: it continues what the first segment holds.
#[test]
fn a_truncation_is_not_undone_behind_lost_copies() {
    let disk = SimDisk::new(DiskOptions { direct: true, block_bytes: 512 });
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    let all = [820, 1_589, 28, 15_423].map(|bytes| vec![7; bytes]);
    log.append_many(&all).unwrap().wait().unwrap();
    disk.kill(&KillChoice::Landed);
    drop(log);
    let (log, recovery) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    assert_eq!(recovery.ambiguous_tail, Some(seawall::LsnRange::inclusive(Lsn::FIRST, Lsn::new(4))), "{recovery:?}");
    log.truncate(Lsn::FIRST).unwrap();
    disk.pump();
    let [copied_into, cutting] = ["00000000000000000002.seg", "00000000000000000003.seg"];
    let seals = [copied_into, cutting].map(|file| disk.read_file(file)[512]);
    assert_eq!(seals, [super::bytes::SEAL; 2]);
    disk.kill(&KillChoice::Landed);
    drop(log);
    for file in [copied_into, cutting] {
        disk.write_at(file, 0, &[0; 4096]);
    }
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.pump();
        let read: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
        assert!(read.iter().all(|lsn| *lsn <= 1), "{mode:?}: {read:?}, {recovery:?}");
    }
}

/// A segment is lost up to frames that were cut from it, and the seal that cut them has rotted. That they have higher numbers is no
/// reason to look for the frames behind the cut among them.
#[test]
fn what_was_cut_does_not_hide_what_came_in_its_place() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..8 {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    let cut = newest(&disk);
    log.truncate(Lsn::new(3)).unwrap();
    disk.pump();
    let cutting = newest(&disk);
    let new = append_new(&disk, &log);
    log.truncate(Lsn::new(6)).unwrap();
    disk.pump();
    assert!(cut < cutting && cutting < newest(&disk));
    disk.kill(&KillChoice::Landed);
    drop(log);
    // The seal and frames up to the sixth.
    disk.write_at(&cut, BLOCK, &[0; 7 * BLOCK as usize]);
    disk.flip_bit(&cutting, (BLOCK + 10) * 8);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.pump();
        let read: Vec<(u64, Vec<u8>)> = log
            .reader(Lsn::FIRST)
            .flatten()
            .map(|frame| (frame.lsn.get(), frame.payload.to_vec()))
            .filter(|(lsn, _)| *lsn <= 6)
            .collect();
        let expected: Vec<(u64, Vec<u8>)> = (4..).zip(new[..3].iter().cloned()).collect();
        assert_eq!(read, expected, "{mode:?}: {recovery:?}");
        disk.kill(&KillChoice::Landed);
    }
}

/// The truncation's seal has rotted with nothing behind it, and so has a prepared segment. What stands before it in segments whose
/// seals are whole is not in doubt.
#[test]
fn what_seals_tell_is_not_in_doubt_behind_a_lost_truncation() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..20 {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    let below = super::bytes::data_frames(&disk.read_file(&newest(&disk)))[0].lsn - 1;
    log.truncate(Lsn::new(17)).unwrap();
    disk.pump();
    assert!(below > 5 && below < 17, "{below}");
    let cutting = newest(&disk);
    disk.kill(&KillChoice::Landed);
    drop(log);
    let spare = disk.names().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg") && *name > cutting);
    disk.flip_bit(&spare.min().unwrap(), 10 * 8);
    // Its payload: that something stood there can be seen.
    disk.flip_bit(&cutting, (BLOCK + 70) * 8);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
        let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.pump();
        assert!(!recovery.damage.is_empty(), "{mode:?}: {recovery:?}");
        let read: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
        assert!(read.starts_with(&(1..=below).collect::<Vec<u64>>()), "{mode:?}: {read:?} {recovery:?}");
        assert!(read.iter().all(|lsn| *lsn <= 17), "{mode:?}: {read:?} {recovery:?}");
        disk.kill(&KillChoice::Landed);
        drop(log);
    }
}

/// The index of the segment was written over the first of the frames that were set aside.
#[test]
fn what_is_set_aside_stays_where_it_is() {
    let (disk, log) = cut_back_from(8);
    let cut = newest(&disk);
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.flip_bit(&cut, (BLOCK + 10) * 8);
    let before = disk.read_file("00000000000000000001.seg");
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.pump();
    assert!(!recovery.quarantined.is_empty(), "{recovery:?}");
    assert!(disk.read_file("00000000000000000001.seg") == before);
    drop(log);
}

/// Both segments' seals have rotted, and with the second one all that it held: what it held was in neither.
#[test]
fn frames_lost_between_two_rotten_seals_are_found_by_a_check() {
    let (disk, log) = cut_back_from(8);
    let cut = newest(&disk);
    append_new(&disk, &log);
    log.truncate(Lsn::new(6)).unwrap();
    disk.pump();
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.flip_bit("00000000000000000001.seg", (BLOCK + 10) * 8);
    disk.write_at(&cut, BLOCK, &vec![0xa5; 6 * BLOCK as usize]);
    let (log, _) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::ReadOnly)).unwrap();
    let read: Vec<u64> = log.reader(Lsn::FIRST).flatten().map(|frame| frame.lsn.get()).collect();
    let report = log.verify(|_, _| {}).unwrap();
    for lsn in (1..=6).filter(|lsn| !read.contains(lsn)).map(Lsn::new) {
        assert!(report.findings.iter().any(|finding| finding.lsns.contains(lsn)), "{lsn}, read {read:?}: {report:?}");
    }
    assert!(read.len() < 6);
}

/// Behind the rotten seal only a header is whole: the log goes on from the chain before it, or nobody reads on.
#[test]
fn what_is_appended_behind_a_rotten_seal_and_payload_is_read() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    for round in 0..2 {
        let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
        disk.pump();
        log.append(&record(round)).unwrap().wait().unwrap();
        if round == 0 {
            log.close(std::time::Duration::from_secs(1)).unwrap();
        }
        disk.pump();
        disk.kill(&KillChoice::Landed);
    }
    let rotten = newest(&disk);
    let frame = super::bytes::data_frames(&disk.read_file(&rotten))[0];
    disk.flip_bit(&rotten, (BLOCK + 10) * 8);
    disk.flip_bit(&rotten, (frame.offset as u64 + 70) * 8);
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    disk.pump();
    let lsn = log.append(b"new").unwrap().wait().unwrap();
    disk.pump();
    disk.kill(&KillChoice::Landed);
    drop(log);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    let read: Vec<_> = log.reader(Lsn::FIRST).flatten().map(|frame| (frame.lsn, frame.payload)).collect();
    assert_eq!(read.last().map(|(lsn, payload)| (*lsn, &payload[..])), Some((lsn, &b"new"[..])), "{recovery:?}");
}

/// What a segment holds behind its own end tells nothing of the frames before it: the marker of an open whose tail was cut
/// proved the cut frame in the segment that it was carried from.
#[test]
fn what_was_cut_behind_a_rotten_seal_does_not_tell_of_the_segment_before() {
    let disk = SimDisk::new(DiskOptions::DIRECT_512);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    log.append(&record(0)).unwrap().wait().unwrap();
    disk.pump();
    log.truncate(Lsn::ZERO).unwrap();
    disk.pump();
    log.append(&[7; 15_000]).unwrap().wait().unwrap();
    disk.pump();
    disk.kill(&KillChoice::Landed);
    drop(log);
    // Carries it, and writes a marker behind it.
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    let sealed = |name: &String| name.ends_with(".seg") && disk.read_file(name)[512] == super::bytes::SEAL;
    let carried_to = disk.names().into_iter().map(|(name, _)| name).filter(sealed).max().unwrap();
    log.truncate(Lsn::ZERO).unwrap();
    disk.pump();
    log.append(&record(1)).unwrap().wait().unwrap();
    disk.pump();
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.write_at(&carried_to, 0, &[0; 4096]);
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::ReadOnly)).unwrap();
    let read: Vec<_> = log.reader(Lsn::FIRST).map(|read| read.map(|frame| frame.payload)).collect();
    assert!(matches!(&read[..], [Ok(payload)] if *payload == record(1)), "{recovery:?}: {read:?}");
}

/// Of the only segment nothing is left that tells what it is: the close tells what it held.
#[test]
fn what_was_closed_is_named_where_no_segment_is_left() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    log.append(&record(0)).unwrap().wait().unwrap();
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.write_at(&newest(&disk), 0, &[0; 8 * BLOCK as usize]);
    for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict] {
        let (_, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
        disk.kill(&KillChoice::Landed);
        let named = recovery.damage.iter().filter_map(seawall::Error::lsns).any(|lsns| lsns.contains(Lsn::FIRST));
        assert!(named, "{mode:?}: {recovery:?}");
    }
}

/// A segment that is gone had cut the one before it: what was cut there does not come back with its number.
#[test]
fn truncated_frames_stay_away_when_the_segment_that_cut_them_is_gone() {
    let (disk, log) = cut_back();
    let cut = newest(&disk);
    let new = append_new(&disk, &log);
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    log.append(&record(60)).unwrap().wait().unwrap();
    disk.pump();
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.remove_file(&cut);
    let expected = [first_five(), new, vec![record(60)]].concat();
    let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::ReadOnly)).unwrap();
    assert!(!recovery.missing_segments.is_empty(), "{recovery:?}");
    only_of(&log, &expected, &[10]);
}

/// Whatever is read, in order or alone, is of `expected`; and what `must` names is read.
fn only_of(log: &Log<super::sim::SimStorage>, expected: &[Vec<u8>], must: &[u64]) {
    let right = |lsn: Lsn, payload: &[u8]| assert_eq!(payload, &expected[lsn.get() as usize - 1][..], "frame {lsn}");
    let (mut read, mut told) = (Vec::new(), 0);
    for next in log.reader(Lsn::FIRST) {
        match next {
            Ok(frame) => {
                right(frame.lsn, &frame.payload);
                read.push(frame.lsn.get());
            }
            Err(error) => {
                assert!(error.lsns().is_some(), "{error}");
                told += 1;
            }
        }
    }
    assert!(told > 0, "read {read:?}");
    assert!(must.iter().all(|lsn| read.contains(lsn)), "read {read:?}");
    for lsn in 1..=expected.len() as u64 {
        match log.read(Lsn::new(lsn)) {
            Ok(frame) => right(frame.lsn, &frame.payload),
            Err(error) => assert!(error.lsns().is_some_and(|lsns| lsns.contains(Lsn::new(lsn))), "{lsn}: {error}"),
        }
    }
    let report = log.verify(|_, _| {}).unwrap();
    assert!(!report.is_sound());
    for lsn in (1..=expected.len() as u64).map(Lsn::new).filter(|lsn| !read.contains(&lsn.get())) {
        assert!(report.findings.iter().any(|finding| finding.lsns.contains(lsn)), "{lsn} is not named: {report:?}");
    }
}

/// The seal rots, and what stands behind it is one group, which claims nothing of itself.
#[test]
fn what_a_truncation_was_followed_by_stays_when_its_seal_rots() {
    for (closed, frames) in [(false, 1), (true, 1), (false, 25), (true, 25)] {
        let (disk, log) = cut_back_from(8);
        let cut = newest(&disk);
        let new: Vec<Vec<u8>> = (0..frames).map(|i| format!("new {i}").into_bytes()).collect();
        let appended = log.append_many(&new).unwrap();
        disk.pump();
        appended.wait().unwrap();
        if closed {
            log.close(std::time::Duration::from_secs(1)).unwrap();
            disk.pump();
        } else {
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
        disk.flip_bit(&cut, (BLOCK + 10) * 8);
        let expected = [first_five(), new].concat();
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
            let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            disk.pump();
            assert!(!recovery.damage.is_empty(), "{mode:?}: {recovery:?}");
            // Nothing proves the last group to who only looks.
            let shown = if mode == RecoveryMode::ReadOnly && !closed { 5 } else { expected.len() };
            holds(&log, &expected[..shown], &[]).unwrap_or_else(|what| panic!("{mode:?} {closed} {frames}: {what}"));
            if mode == RecoveryMode::Quarantine {
                let lsn = log.append(b"behind").unwrap().wait().unwrap();
                assert_eq!(lsn.get(), expected.len() as u64 + 1);
            }
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
    }
}

/// A close flushed what it closed, also where the only group of its segment has lost its seal, or the segment all it held.
#[test]
fn what_was_closed_is_not_dropped_with_its_seal() {
    for is_all_lost in [false, true] {
        let disk = SimDisk::new(DiskOptions::DIRECT);
        let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
        disk.pump();
        let mut records = Vec::new();
        // The last one begins a segment.
        while records.len() < 2 || newest(&disk) == "00000000000000000001.seg" {
            records.push(record(records.len() as u64));
            log.append(records.last().unwrap()).unwrap().wait().unwrap();
            disk.pump();
        }
        let last = records.len() as u64;
        log.close(std::time::Duration::from_secs(1)).unwrap();
        disk.pump();
        let rotten = newest(&disk);
        if is_all_lost {
            disk.write_at(&rotten, BLOCK, &vec![0xa5; 4 * BLOCK as usize]);
        } else {
            disk.flip_bit(&rotten, (BLOCK + 10) * 8);
        }
        for mode in [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine] {
            let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            disk.pump();
            assert!(!recovery.damage.is_empty(), "{mode:?}: {recovery:?}");
            let named =
                recovery.damage.iter().filter_map(seawall::Error::lsns).any(|lsns| lsns.contains(Lsn::new(last)));
            assert_eq!(named, is_all_lost, "{mode:?}: {recovery:?}");
            if !is_all_lost {
                holds(&log, &records, &[]).unwrap_or_else(|what| panic!("{mode:?}: {what}"));
            }
            if mode == RecoveryMode::Quarantine {
                let lsn = log.append(b"behind").unwrap().wait().unwrap();
                assert_eq!(lsn.get(), last + 1, "{recovery:?}");
            }
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
    }
}

/// The marker that an open writes behind its seal is whole, and the frames behind it are not: no other names them.
#[test]
fn frames_lost_behind_an_opens_marker_are_named() {
    // Some frames are left behind the lost ones, or none is, and a close tells of them.
    for (left, closed) in [(2, false), (0, true)] {
        let disk = SimDisk::new(DiskOptions::DIRECT);
        for round in 0..2 {
            let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
            disk.pump();
            for i in 0..if round == 0 { 5 } else { 2 + left } {
                log.append(&record(i)).unwrap().wait().unwrap();
                disk.pump();
            }
            // Or the first ones would be carried into the segment that loses its seal.
            if round == 0 || closed {
                log.close(std::time::Duration::from_secs(1)).unwrap();
                disk.pump();
            }
            disk.kill(&KillChoice::Landed);
        }
        let rotten = newest(&disk);
        disk.flip_bit(&rotten, (BLOCK + 10) * 8);
        let frames = super::bytes::data_frames(&disk.read_file(&rotten));
        let lost: Vec<u64> = frames.iter().map(|frame| frame.lsn).take(2).collect();
        assert_eq!((&lost[..], frames.len() as u64), (&[6, 7][..], 2 + left));
        for frame in &frames[..2] {
            disk.flip_bit(&rotten, (frame.offset as u64 + 10) * 8);
        }
        for mode in [RecoveryMode::Strict, RecoveryMode::Quarantine] {
            let (log, recovery) = Log::open_on(disk.open(), in_mode(&direct(), mode)).unwrap();
            disk.pump();
            for lsn in &lost {
                let is_of = |lsns: &seawall::LsnRange| lsns.contains(Lsn::new(*lsn));
                let named = recovery.damage.iter().filter_map(seawall::Error::lsns).any(|lsns| is_of(&lsns));
                assert!(named, "{lsn} {mode:?} {closed}: {recovery:?}");
                assert_eq!(recovery.quarantined.iter().any(is_of), mode == RecoveryMode::Quarantine, "{recovery:?}");
            }
            disk.kill(&KillChoice::Landed);
            drop(log);
        }
    }
}

/// Each damaged seal was made up for by scans of the segments before it, all the way down the run, at each look.
#[test]
fn a_long_run_of_damaged_seals_costs_a_few_reads_a_segment() {
    const SEGMENTS: u64 = 40;
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    while (log.stats().segments as u64) < SEGMENTS {
        log.append(&[7; 20_000]).unwrap().wait().unwrap();
        disk.pump();
    }
    let frames = log.flushed().get();
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    for number in 2..SEGMENTS {
        disk.flip_bit(&format!("{number:020}.seg"), (BLOCK + 10) * 8);
    }
    let (log, _) = Log::open_on(disk.open(), in_mode(&direct(), RecoveryMode::ReadOnly)).unwrap();
    let before = disk.count(OpKind::Read);
    assert_eq!(log.reader(Lsn::FIRST).flatten().count() as u64, frames);
    let reads = disk.count(OpKind::Read) - before;
    assert!(reads < 12 * SEGMENTS, "{reads} reads of {SEGMENTS} segments");
}

/// The open that set a lost segment's numbers aside ended before its seal was written.
#[test]
fn numbers_set_aside_by_an_open_that_failed_are_not_given_again() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..4 {
        log.append(&vec![i + 1; 30_000]).unwrap().wait().unwrap();
        disk.pump();
    }
    disk.kill(&KillChoice::Landed);
    drop(log);
    disk.remove_file(&newest(&disk));
    let quarantine = in_mode(&direct(), RecoveryMode::Quarantine);
    disk.fail(Fault::new(OpKind::WriteFlushed, 1, errno::EIO));
    Log::open_on(disk.open(), quarantine.clone()).unwrap_err();
    disk.kill(&KillChoice::Landed);
    let (log, recovery) = Log::open_on(disk.open(), quarantine).unwrap();
    disk.pump();
    let lsn = log.append(b"behind it").unwrap().wait().unwrap();
    assert!(!recovery.quarantined.is_empty(), "{recovery:?}");
    assert!(recovery.quarantined.iter().all(|lsns| !lsns.contains(lsn)), "{lsn}: {recovery:?}");
    assert_eq!(&log.read(lsn).unwrap().payload[..], b"behind it");
}
