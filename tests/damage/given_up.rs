//! What was given up: a trim point says that frames were flushed, and neither damage below it nor a trim beside a reader
//! costs a frame above it.

use seawall::{Config, Error, Log, Lsn, RecoveryMode};

use super::bed::{direct, in_mode, record};
use super::bytes::data_frames;
use super::oracle::holds;
use super::sim::{DiskOptions, KillChoice, OpKind, SimDisk, SimStorage};

pub const STRICT: RecoveryMode = RecoveryMode::Strict;
const MEDIA: [DiskOptions; 2] = [DiskOptions::DIRECT, DiskOptions::BUFFERED];

/// Nothing is read from memory.
fn config() -> Config {
    Config { memory_tail_bytes: 0, ..direct() }
}

pub fn open(disk: &SimDisk, mode: RecoveryMode) -> (Log<SimStorage>, seawall::Recovery) {
    let opened = Log::open_on(disk.open(), in_mode(&config(), mode)).unwrap();
    disk.pump();
    opened
}

pub fn append(disk: &SimDisk, log: &Log<SimStorage>, record: &[u8]) -> Lsn {
    let lsn = log.append(record).unwrap().wait().unwrap();
    disk.pump();
    lsn
}

pub fn kill(disk: &SimDisk, log: Log<SimStorage>) {
    disk.kill(&KillChoice::Landed);
    drop(log);
}

/// The segment that holds the frame, and a bit of its payload.
pub fn payload_bit(disk: &SimDisk, lsn: u64) -> (String, u64) {
    let segments = disk.names().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg"));
    let mut found = segments.filter_map(|name| {
        let frame = data_frames(&disk.read_file(&name)).into_iter().find(|frame| frame.lsn == lsn)?;
        Some((name, (frame.end() as u64 - 1) * 8))
    });
    found.next_back().unwrap_or_else(|| panic!("no frame {lsn}"))
}

/// `frames` records, everything up to `upto` given up before anything else proved it.
fn trimmed(options: DiskOptions, frames: u64, upto: u64) -> (SimDisk, Log<SimStorage>, Vec<Vec<u8>>) {
    let disk = SimDisk::new(options);
    let (log, _) = open(&disk, STRICT);
    let records: Vec<Vec<u8>> = (0..frames).map(record).collect();
    for record in &records {
        append(&disk, &log, record);
    }
    log.trim(Lsn::new(upto)).unwrap();
    disk.pump();
    (disk, log, records)
}

#[test]
fn a_log_that_is_trimmed_to_its_end_can_be_looked_at() {
    for options in MEDIA {
        let (disk, log, _) = trimmed(options, 3, 3);
        let (looking, recovery) = open(&disk, RecoveryMode::ReadOnly);
        assert!(recovery.damage.is_empty(), "{recovery:?}");
        let marks = looking.watermarks();
        assert_eq!((marks.flushed, marks.trimmed), (Lsn::new(3), Lsn::new(3)));
        assert_eq!(looking.stats().watermarks, marks);
        drop((looking, log));
    }
}

#[test]
fn no_frame_is_acknowledged_under_a_number_that_was_given_up() {
    for options in MEDIA {
        // The first frame behind a seal, and later ones.
        for frames in [1, 3] {
            let (disk, log, mut records) = trimmed(options, frames, frames);
            kill(&disk, log);
            let (name, bit) = payload_bit(&disk, frames);
            disk.flip_bit(&name, bit);
            for round in 0..3 {
                let (log, recovery) = open(&disk, STRICT);
                assert!(recovery.damage.is_empty(), "{frames}, {round}: {recovery:?}");
                assert_eq!(recovery.end, Lsn::new(frames + round), "{frames}, {round}: {recovery:?}");
                let lsn = append(&disk, &log, b"behind it");
                records.push(b"behind it".to_vec());
                assert_eq!(&log.read(lsn).unwrap().payload[..], b"behind it");
                holds(&log, &records, &[]).unwrap_or_else(|what| panic!("{frames}, {round}: {what}"));
                kill(&disk, log);
            }
        }
    }
}

/// Frames 3 and 4 share a group: nothing but the trim point says that the first of them was flushed, nor then the other.
#[test]
fn damage_below_the_trim_point_costs_no_frame_behind_it() {
    for options in MEDIA {
        for rotten in [2, 3] {
            let disk = SimDisk::new(options);
            let (log, _) = open(&disk, STRICT);
            let mut records: Vec<Vec<u8>> = (0..4).map(record).collect();
            for record in &records[..2] {
                append(&disk, &log, record);
            }
            log.append_many(&records[2..]).unwrap().wait().unwrap();
            log.trim(Lsn::new(3)).unwrap();
            kill(&disk, log);
            let (name, bit) = payload_bit(&disk, rotten);
            disk.flip_bit(&name, bit);
            for round in 0..3 {
                let (log, recovery) = open(&disk, STRICT);
                let case = format!("{rotten}, {round}: {recovery:?}");
                assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{case}");
                assert_eq!(recovery.end, Lsn::new(4 + round), "{case}");
                holds(&log, &records, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                append(&disk, &log, &record(40 + round));
                records.push(record(40 + round));
                holds(&log, &records, &[]).unwrap_or_else(|what| panic!("{case}: {what}"));
                kill(&disk, log);
            }
        }
    }
}

/// The one who looks learns of the trim when something it reads is not there any more.
#[test]
fn a_log_that_is_looked_at_survives_that_it_is_trimmed_beyond_what_it_saw() {
    for options in MEDIA {
        let disk = SimDisk::new(options);
        let (log, _) = open(&disk, STRICT);
        (0..4).for_each(|i| _ = append(&disk, &log, &vec![i + 1; 30_000]));
        let (looking, _) = open(&disk, RecoveryMode::ReadOnly);
        let seen = looking.flushed();
        (4..20).for_each(|i| _ = append(&disk, &log, &vec![i + 1; 30_000]));
        log.trim(Lsn::new(15)).unwrap();
        disk.pump();
        looking.verify(|_, _| {}).unwrap();
        let marks = looking.watermarks();
        assert!(marks.flushed >= seen && marks.trimmed == Lsn::new(15), "{marks:?}");
        assert_eq!(looking.stats().watermarks, marks);
        assert!(!format!("{looking:?}").is_empty());
        assert!(matches!(looking.read(Lsn::new(2)), Err(Error::Trimmed { first, .. }) if first == Lsn::new(16)));
        assert!(matches!(looking.read(Lsn::new(16)), Err(Error::BeyondEnd { .. })));
        assert_eq!(looking.reader(Lsn::new(1)).filter_map(Result::ok).count(), 0);
    }
}

/// Nine segments of two frames each, of which the log, opened again, knows nothing yet but their names.
pub fn nine_segments() -> (SimDisk, Log<SimStorage>) {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = open(&disk, STRICT);
    (0..18).for_each(|i| _ = append(&disk, &log, &vec![i + 1; 25_000]));
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    let (log, _) = open(&disk, STRICT);
    (disk, log)
}

pub fn segment_of(disk: &SimDisk, lsn: u64) -> String {
    payload_bit(disk, lsn).0
}

#[test]
fn a_reader_goes_on_when_segments_before_it_are_given_up_while_it_looks_for_its_own() {
    // Whatever is looked at first, and second, on the way to frame 7.
    for probed in 1..=18 {
        let (disk, log) = nine_segments();
        let trimming = log.clone();
        disk.before(OpKind::Read, &segment_of(&disk, probed), move || trimming.trim(Lsn::new(6)).unwrap());
        let read: Vec<_> = log.reader(Lsn::new(7)).map(|frame| frame.map(|frame| frame.lsn.get())).collect();
        let read: Result<Vec<u64>, _> = read.into_iter().collect();
        assert_eq!(read.unwrap_or_else(|error| panic!("{probed}: {error:?}")), (7..=18).collect::<Vec<_>>());
    }
}

#[test]
fn a_reader_goes_on_when_segments_behind_it_are_truncated_while_it_looks_for_its_own() {
    for probed in 1..=18 {
        let (disk, log) = nine_segments();
        let truncating = log.clone();
        disk.before(OpKind::Read, &segment_of(&disk, probed), move || _ = truncating.truncate(Lsn::new(4)).unwrap());
        let mut reader = log.reader(Lsn::new(3));
        for lsn in [3, 4] {
            let read = reader.next().expect("it is there").map(|frame| frame.lsn.get());
            assert!(matches!(read, Ok(at) if at == lsn), "{probed}: {read:?}");
        }
    }
}

/// The trim point is the last frame of a segment that is gone.
#[test]
fn a_truncation_to_a_trim_point_between_two_segments_leaves_a_sound_log() {
    for options in MEDIA {
        let disk = SimDisk::new(options);
        let (log, _) = open(&disk, STRICT);
        let last = (1..).find(|i| {
            append(&disk, &log, &vec![*i; 25_000]);
            log.stats().rotations == 1
        });
        let border = Lsn::new(u64::from(last.unwrap()) - 1);
        append(&disk, &log, &[9; 100]);
        let chain = log.chain_at(border).unwrap();
        log.trim(border).unwrap();
        disk.pump();
        kill(&disk, log);
        let (log, _) = open(&disk, STRICT);
        log.truncate(border).unwrap();
        disk.pump();
        let lsn = append(&disk, &log, b"instead");
        assert_eq!((lsn, log.chain_at(border).unwrap()), (border.next(), chain));
        for round in 0..2 {
            let report = log.verify(|_, _| {}).unwrap();
            assert!(report.is_sound() && report.frames == 1, "{round}: {report:?}");
            assert!(log.stats().faulty_ranges.is_empty(), "{round}: {:?}", log.stats().faulty_ranges);
        }
        kill(&disk, log);
        let (log, recovery) = open(&disk, STRICT);
        assert!(recovery.end == lsn && recovery.missing_segments.is_empty(), "{recovery:?}");
        assert_eq!(&log.read(lsn).unwrap().payload[..], b"instead");
        assert!(log.verify(|_, _| {}).unwrap().is_sound());
        drop(log);
    }
}

/// The frame at the trim point has rotted: the chain goes on from what the trim wrote down.
#[test]
fn a_truncation_to_a_damaged_trim_point_keeps_the_chain() {
    for options in MEDIA {
        let (disk, log, _) = trimmed(options, 5, 3);
        let chain = log.chain_at(Lsn::new(3)).unwrap();
        let (name, bit) = payload_bit(&disk, 3);
        disk.flip_bit(&name, bit);
        disk.drop_caches(false);
        log.truncate(Lsn::new(3)).unwrap();
        disk.pump();
        kill(&disk, log);
        let (log, recovery) = open(&disk, STRICT);
        assert_eq!((recovery.end, recovery.chain), (Lsn::new(3), chain), "{recovery:?}");
        assert_eq!(append(&disk, &log, b"instead"), Lsn::new(4));
        assert_eq!(&log.read(Lsn::new(4)).unwrap().payload[..], b"instead");
        assert!(log.verify(|_, _| {}).unwrap().is_readable());
        drop(log);
    }
}

#[test]
fn nothing_is_left_of_a_log_that_is_truncated_to_nothing() {
    for options in MEDIA {
        let disk = SimDisk::new(options);
        let (log, recovery) = open(&disk, STRICT);
        let start = recovery.chain;
        (0..3).for_each(|i| _ = append(&disk, &log, &record(i)));
        log.truncate(Lsn::ZERO).unwrap();
        disk.pump();
        assert_eq!(log.chain_at(Lsn::ZERO).unwrap(), start);
        kill(&disk, log);
        let (log, recovery) = open(&disk, STRICT);
        assert_eq!((recovery.end, recovery.chain), (Lsn::ZERO, start));
        append(&disk, &log, &record(7));
        let report = log.verify(|_, _| {}).unwrap();
        assert!(report.is_sound() && report.frames == 1, "{report:?}");
        holds(&log, &[record(7)], &[]).unwrap();
        drop(log);
    }
}
