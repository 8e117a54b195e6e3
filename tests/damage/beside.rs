//! Readers and checks beside a cut, a rotation or an append: what they met of before says nothing of the log as it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use seawall::{Config, Error, Log, Lsn, RecoveryMode, Report, SegmentNumber};

use super::bed::{direct, record};
use super::given_up::{STRICT, append, kill, nine_segments, open, payload_bit, segment_of};
use super::oracle::lsns;
use super::sim::{DiskOptions, Fault, OpKind, SimDisk, SimStorage, errno};

/// The other side's turn: before the read of the file that comes behind `skipped` others.
fn before_read(disk: &SimDisk, file: &str, skipped: u32, act: impl FnOnce() + Send + 'static) {
    if skipped == 0 {
        return disk.before(OpKind::Read, file, act);
    }
    let (again, same) = (disk.clone(), file.to_owned());
    disk.before(OpKind::Read, file, move || before_read(&again, &same, skipped - 1, act));
}

/// Nine segments, a truncation to `end` at every moment of a look at them, and what is appended at once behind it.
fn cut_meanwhile(end: u64, record: Option<&'static [u8]>, look: impl Fn(&SimDisk, &Log<SimStorage>, &str)) {
    for (probed, skipped) in (1..=17).step_by(2).flat_map(|probed| (0..4).map(move |skipped| (probed, skipped))) {
        let (disk, log) = nine_segments();
        let cutting = log.clone();
        let cut = move || {
            cutting.truncate(Lsn::new(end)).unwrap();
            record.map(|record| cutting.append(record).unwrap().wait().unwrap());
        };
        before_read(&disk, &segment_of(&disk, probed), skipped, cut);
        // Nothing looks so often: what goes on for ever ends here.
        disk.fail(Fault::new(OpKind::Read, 1000, errno::EIO));
        look(&disk, &log, &format!("frame {probed}'s segment, read {skipped}"));
    }
}

/// Where a segment ends is learnt from the one behind it, at its own time.
#[test]
fn a_segment_that_is_cut_while_its_end_is_looked_up_ends_at_the_cut() {
    let (disk, log) = nine_segments();
    let cutting = log.clone();
    disk.before(OpKind::Read, &segment_of(&disk, 5), move || _ = cutting.truncate(Lsn::new(3)).unwrap());
    log.verify(|_, _| {}).unwrap();
    append(&disk, &log, b"new");
    let read: Vec<_> = log.reader(Lsn::new(3)).map(|frame| frame.map(|frame| frame.payload)).collect();
    assert!(matches!(&read[..], [Ok(_), Ok(second)] if second == &b"new"[..]), "{read:?}");
    let report = log.verify(|_, _| {}).unwrap();
    assert!(report.is_sound() && report.frames == 4, "{report:?}");
}

#[test]
fn a_reader_before_a_cut_reads_on_through_it() {
    cut_meanwhile(4, None, |_, log, case| {
        let mut reader = log.reader(Lsn::new(3));
        for lsn in [3, 4] {
            let read = reader.next().expect("it is there").map(|frame| frame.lsn.get());
            assert!(matches!(read, Ok(at) if at == lsn), "{case}: {read:?}");
        }
        assert!(log.stats().faulty_ranges.is_empty(), "{case}");
    });
}

#[test]
fn a_follower_that_stands_at_a_cut_waits_for_what_comes_next() {
    cut_meanwhile(4, None, |disk, log, case| {
        let mut tail = log.tail(Lsn::new(5));
        let read = tail.next_within(Duration::ZERO);
        if log.flushed() > Lsn::new(4) {
            assert!(matches!(read, Ok(Some(_))), "{case}: not cut yet, {read:?}");
            return;
        }
        assert!(matches!(read, Ok(None)), "{case}: {read:?}");
        append(disk, log, b"instead");
        let read = tail.next_within(Duration::ZERO).unwrap().expect("it is flushed");
        assert_eq!((read.lsn, &read.payload[..]), (Lsn::new(5), &b"instead"[..]), "{case}");
        assert!(log.stats().faulty_ranges.is_empty(), "{case}");
    });
}

#[test]
fn a_check_beside_a_truncation_tells_of_the_log_as_it_is() {
    for record in [None, Some(&b"instead"[..])] {
        cut_meanwhile(4, record, |_, log, case| {
            let report = log.verify(|_, _| {}).unwrap();
            assert!(report.is_sound(), "{case}: {report:?}");
            let end = log.flushed();
            assert_eq!((report.end, report.frames), (end, end.get()), "{case}: {report:?}");
            assert_eq!(report.chain, log.chain_at(end).unwrap(), "{case}: {report:?}");
        });
    }
}

/// A truncation to `end` that takes a record away.
fn append_and_cut(disk: &SimDisk, log: &Log<SimStorage>, end: Lsn) {
    append(disk, log, b"not for long");
    log.truncate(end).unwrap();
    disk.pump();
}

fn numbers(report: &Report) -> Vec<SegmentNumber> {
    report.segments.iter().map(|segment| segment.number).collect()
}

/// Every look began again at the first segment: beside a writer that truncates all the time none came to its end.
#[test]
fn a_check_goes_on_beside_truncations_behind_what_it_has_checked() {
    let (disk, log) = nine_segments();
    let end = log.flushed();
    let mut told = 0;
    let report = log.verify(|_, _| {
        told += 1;
        assert!(told < 1000, "it begins again for ever");
        append_and_cut(&disk, &log, end);
    });
    let report = report.unwrap();
    assert!(report.is_sound() && report.cut.is_none(), "{report:?}");
    assert_eq!((report.end, report.frames, report.chain), (end, end.get(), log.chain_at(end).unwrap()), "{report:?}");
    let numbers = numbers(&report);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[test]
fn damage_that_is_met_again_behind_a_truncation_is_told_once() {
    let (disk, log) = nine_segments();
    let (name, bit) = payload_bit(&disk, 9);
    disk.flip_bit(&name, bit);
    let report = log.verify(|_, _| append_and_cut(&disk, &log, Lsn::new(18))).unwrap();
    let told: Vec<_> = report.findings.iter().map(|finding| finding.lsns).collect();
    assert_eq!((told, report.end, report.frames), (vec![lsns(9, 9)], Lsn::new(18), 17), "{report:?}");
}

/// What was checked is given up before the next look, and more behind it.
#[test]
fn a_check_beside_a_trim_and_a_truncation_does_not_miss_what_was_given_up() {
    let (disk, log) = nine_segments();
    let (end, mut told) = (log.flushed(), 0);
    let report = log.verify(|_, _| {
        told += 1;
        if told == 4 {
            log.trim(Lsn::new(12)).unwrap();
        }
        if [1, 4].contains(&told) {
            append_and_cut(&disk, &log, end);
        }
    });
    let report = report.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.end, report.chain), (end, log.chain_at(end).unwrap()), "{report:?}");
}

/// Frames that took the numbers of others are not set aside with those.
#[test]
fn a_check_knows_what_is_set_aside_of_the_log_as_it_is() {
    let (disk, log) = nine_segments();
    log.quarantine(lsns(5, 7)).unwrap();
    let mut told = 0;
    let report = log.verify(|_, _| {
        told += 1;
        if told == 1 {
            log.truncate(Lsn::new(4)).unwrap();
            disk.pump();
            (5..=7).for_each(|i| _ = append(&disk, &log, &record(i)));
            let (name, bit) = payload_bit(&disk, 5);
            disk.flip_bit(&name, bit);
        }
    });
    let report = report.unwrap();
    assert!(matches!(log.read(Lsn::new(5)), Err(Error::Corrupt { .. })));
    assert!(!report.is_readable() && report.findings.len() == 1, "{report:?}");
}

/// It ends where the one before it does, which stays.
#[test]
fn a_segment_without_frames_that_a_truncation_takes_is_not_in_the_report() {
    let (disk, log) = nine_segments();
    log.truncate(Lsn::new(10)).unwrap();
    disk.pump();
    // Has to wait for a segment of its own.
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| log.append(&[1; 59_000]).unwrap().wait().unwrap());
        while !appending.is_finished() {
            disk.pump();
        }
    });
    let before = log.verify(|_, _| {}).unwrap();
    let empty = before.segments.iter().position(|segment| segment.frames == 0).expect("there is one");
    assert!(before.is_sound() && !before.segments[empty].active, "{before:?}");
    let mut told = 0;
    let report = log.verify(|_, _| {
        told += 1;
        if told == 1 {
            append_and_cut(&disk, &log, before.end);
        }
        // The first look came to one segment, the second to the one without frames.
        if told == 2 + empty {
            append_and_cut(&disk, &log, Lsn::new(10));
        }
    });
    let report = report.unwrap();
    let after = log.verify(|_, _| {}).unwrap();
    assert!(!numbers(&after).contains(&before.segments[empty].number), "{after:?}");
    assert_eq!(numbers(&report), numbers(&after));
}

/// Nor does it look for ever at a segment that is cut under each look.
#[test]
fn a_check_that_is_cut_short_again_and_again_says_how_far_it_came() {
    fn cut_at_each_read(disk: SimDisk, log: Log<SimStorage>, end: Lsn, cuts: usize) {
        assert!(cuts < 1000, "it begins again for ever");
        let (again, name) = (disk.clone(), segment_of(&disk, 7));
        disk.before(OpKind::Read, &name, move || {
            append_and_cut(&again, &log, end);
            cut_at_each_read(again, log, end, cuts + 1);
        });
    }
    let (disk, log) = nine_segments();
    cut_at_each_read(disk, log.clone(), Lsn::new(7), 0);
    let report = log.verify(|_, _| {}).unwrap();
    assert_eq!((report.cut, report.end, report.frames), (Some(Lsn::new(7)), Lsn::new(6), 6), "{report:?}");
    assert_eq!(report.chain, log.chain_at(report.end).unwrap());
    assert!(report.findings.is_empty() && !report.is_sound() && !report.is_readable(), "{report:?}");
}

/// How far damage reaches is asked of the log as it was when that was read.
#[test]
fn what_is_appended_behind_damage_is_not_counted_with_it() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    append(&disk, &log, b"good");
    append(&disk, &log, &[7; 25_000]);
    let (name, bit) = payload_bit(&disk, 2);
    disk.truncate(&name, bit / 8 - 1000);
    let mut reader = log.reader(Lsn::FIRST);
    assert_eq!(reader.next().unwrap().unwrap().lsn, Lsn::FIRST);
    append(&disk, &log, b"behind it");
    let read = reader.next().unwrap();
    assert!(matches!(read, Err(Error::Corrupt { lsns: damaged, .. }) if damaged == lsns(2, 2)), "{read:?}");
    assert_eq!(&reader.next().unwrap().unwrap().payload[..], b"behind it");
}

/// A tail that nothing proves is there, and is not shown: nor is its chain.
#[test]
fn a_check_of_a_log_that_is_looked_at_ends_with_the_frames_that_are_shown() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    (0..3).for_each(|i| _ = append(&disk, &log, &record(i)));
    kill(&disk, log);
    let (looking, recovery) = open(&disk, RecoveryMode::ReadOnly);
    assert!(recovery.ambiguous_tail.is_some() && looking.flushed() < recovery.end, "{recovery:?}");
    let report = looking.verify(|_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.end, report.frames), (looking.flushed(), looking.flushed().get()), "{report:?}");
    assert_eq!(report.chain, looking.chain_at(report.end).unwrap());
}

/// Two that come at once, where one more can be recorded.
#[test]
fn no_more_ranges_are_set_aside_than_can_be_recorded() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    log.append_many(&vec![b"record"; 60]).unwrap().wait().unwrap();
    let mut ranges = (1..=60).flat_map(|first| (first..=60).map(move |last| lsns(first, last)));
    ranges.by_ref().take(799).for_each(|range| log.quarantine(range).unwrap());
    let last_two: Vec<_> = ranges.take(2).collect();
    for _ in 0..1000 {
        let (log, _) = open(&disk.fork(), STRICT);
        let ready = AtomicUsize::new(0);
        let set_aside = |range| {
            ready.fetch_add(1, Ordering::Relaxed);
            while ready.load(Ordering::Relaxed) < 2 {
                std::hint::spin_loop();
            }
            log.quarantine(range)
        };
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = last_two.iter().map(|range| scope.spawn(|| set_aside(*range))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        });
        let refused = results.iter().filter(|result| matches!(result, Err(Error::Invalid { .. }))).count();
        assert!(refused == 1 && results.iter().any(Result::is_ok), "{results:?}");
    }
}

/// Where ranges are set aside a reader asks about them; a device that takes its time over another one is not waited for.
#[test]
fn a_range_that_is_being_recorded_holds_up_no_reader_and_counts_when_that_is_told() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    (0..9).for_each(|i| _ = append(&disk, &log, &record(i)));
    log.quarantine(lsns(2, 2)).unwrap();
    // It stands between the two ranges and knows that nothing up to the end is set aside.
    let mut standing = log.reader(Lsn::new(3));
    assert_eq!(standing.next().unwrap().unwrap().lsn, Lsn::new(3));
    let (reading, (tell, told)) = (log.clone(), std::sync::mpsc::channel());
    disk.before(OpKind::WriteFlushed, "control", move || {
        let (tell_count, count) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell_count.send(reading.reader(Lsn::FIRST).filter(Result::is_ok).count()));
        tell.send(count.recv_timeout(Duration::from_secs(20))).unwrap();
    });
    log.quarantine(lsns(4, 6)).unwrap();
    assert_eq!(told.recv().unwrap(), Ok(8), "a reader waits for the device that records a range");
    let gap = standing.next().unwrap();
    assert!(matches!(gap, Err(Error::Quarantined { lsns: gap }) if gap == lsns(4, 6)), "{gap:?}");
    assert_eq!(standing.next().unwrap().unwrap().lsn, Lsn::new(7));
    assert_eq!(log.reader(Lsn::FIRST).filter(Result::is_ok).count(), 5);
    // A trim and a truncation leave what is still there set aside.
    log.truncate(Lsn::new(5)).unwrap();
    append(&disk, &log, b"another 6");
    log.trim(Lsn::new(2)).unwrap();
    let read: Vec<_> = log.reader(Lsn::new(3)).map(|read| read.map(|frame| frame.lsn).map_err(|e| e.lsns())).collect();
    assert_eq!(read, [Ok(Lsn::new(3)), Err(Some(lsns(4, 5))), Ok(Lsn::new(6))]);
}

#[test]
fn ranges_that_overlap_are_told_as_one() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    (0..9).for_each(|i| _ = append(&disk, &log, &record(i)));
    [lsns(2, 4), lsns(3, 7), lsns(5, 5)].into_iter().for_each(|range| log.quarantine(range).unwrap());
    let read = |lsn| log.read(Lsn::new(lsn)).map(|frame| frame.lsn).map_err(|error| error.to_string());
    let told = Err("frames 2..8 are quarantined; the next readable frame is 8".to_owned());
    assert_eq!([read(2), read(5), read(7)], [told.clone(), told.clone(), told]);
    assert_eq!((read(1), read(8)), (Ok(Lsn::new(1)), Ok(Lsn::new(8))));
}

#[test]
fn a_time_behind_the_last_frame_is_found_without_a_walk() {
    let (disk, log) = nine_segments();
    drop(log);
    let (looking, _) = open(&disk, RecoveryMode::ReadOnly);
    let maps = disk.count(OpKind::Map);
    assert_eq!(looking.first_at(u64::MAX).unwrap(), Lsn::new(19));
    assert!(disk.count(OpKind::Map) <= maps + 1, "the whole log was read");
}

/// Nobody there would ever tell them of more.
#[test]
fn who_follows_a_log_without_a_writer_comes_to_its_end() {
    let (disk, log) = nine_segments();
    let (looking, _) = open(&disk, RecoveryMode::ReadOnly);
    let follow = looking.clone();
    let following = std::thread::spawn(move || follow.tail(Lsn::FIRST).map(Result::unwrap).count());
    let began = Instant::now();
    while !following.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(20), "it follows for ever");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(following.join().unwrap() as u64, looking.flushed().get());
    assert!(matches!(looking.tail(Lsn::new(19)).next_within(Duration::MAX), Ok(None)));
    drop(log);
}

/// What is to be given up is asked for when nobody else cuts: the numbers may stand for other frames by then.
#[test]
fn nothing_new_is_given_up_for_what_was_old_before_a_truncation() {
    let (disk, log) = nine_segments();
    append(&disk, &log, b"so that the next open begins a segment");
    log.close(Duration::from_secs(1)).unwrap();
    disk.pump();
    let config = Config { retain_bytes: Some(256 << 10), memory_tail_bytes: 0, ..direct() };
    let (log, _) = Log::open_on(disk.open(), config).unwrap();
    let (cutting, pumping, (tell, told)) = (log.clone(), disk.clone(), std::sync::mpsc::channel());
    let pump_and_rest = |disk: &SimDisk| {
        disk.pump();
        std::thread::sleep(Duration::from_millis(1));
    };
    disk.before(OpKind::Read, &segment_of(&disk, 3), move || {
        std::thread::spawn(move || {
            let is_cut = cutting.truncate(Lsn::new(1)).is_ok();
            (1..18).filter(|_| is_cut).for_each(|i| _ = cutting.append(&[i]).unwrap().wait().unwrap());
            tell.send(is_cut).unwrap();
        });
        // Now, or when its turn comes.
        (0..200).for_each(|_| pump_and_rest(&pumping));
    });
    let is_cut = (0..20_000).find_map(|_| {
        pump_and_rest(&disk);
        told.try_recv().ok()
    });
    let is_cut = is_cut.expect("the truncation ends");
    if is_cut {
        assert_eq!(&log.read(Lsn::new(2)).unwrap().payload[..], [1], "first is {}", log.first());
    }
}
