//! A log copied off a device that cannot read all of it.

use seawall::storage::Storage;
use seawall::{Config, Error, Log, Lsn, RecoveryMode, rescue, rescue_on};

use super::bed::{append_each, close, direct, in_mode, open, record};
use super::oracle::holds;
use super::sim::{CrashChoice, DiskOptions, Fault, KillChoice, Names, OpKind, SimDisk, Sizes, Writes, errno};

const BLOCK: u64 = 4096;
const FRAMES: u64 = 40;
/// The first segment, and the block of it that is lost: the third of the groups.
const FIRST: &str = "00000000000000000001.seg";
const LOST: u64 = 4 * BLOCK;

/// A closed log of a few segments, each frame a group of its own.
fn written() -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    let records: Vec<Vec<u8>> = (0..FRAMES).map(record).collect();
    for record in &records {
        log.append(record).unwrap().wait().unwrap();
        disk.pump();
    }
    log.close(std::time::Duration::from_secs(1)).unwrap();
    disk.pump();
    disk.kill(&KillChoice::Landed);
    (disk, records)
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = disk.names().into_iter().map(|(name, _)| (disk.read_file(&name), name)).collect();
    files.sort_by(|(_, a), (_, b)| a.cmp(b));
    files.into_iter().map(|(bytes, name)| (name, bytes)).collect()
}

/// Every byte, also behind what no power loss takes; and the copy is a log.
#[test]
fn a_log_that_can_be_read_is_copied_to_the_byte() {
    let (disk, records) = written();
    let into = SimDisk::new(DiskOptions::DIRECT);
    let mut last = (0, 0);
    let rescued = rescue_on(&disk.open(), &into.open(), |done, of| {
        assert!(done >= last.0 && done <= of, "{done} of {of} behind {last:?}");
        last = (done, of);
    })
    .unwrap();
    assert_eq!((rescued.bytes, rescued.bytes, &rescued.unread[..]), (last.0, last.1, &[][..]));
    assert_eq!(files(&into), files(&disk));
    assert_eq!(rescued.files, files(&disk).len() as u64);
    // With the power, nothing goes.
    let into = into.crash(&CrashChoice { names: Names::First(0), sizes: Sizes::Lost, writes: Writes::First(0) });
    assert_eq!(files(&into), files(&disk));
    let (log, recovery) = Log::open_on(into.open(), direct()).unwrap();
    assert!(recovery.clean && recovery.damage.is_empty(), "{recovery:?}");
    holds(&log, &records, &[]).unwrap();
}

/// What cannot be read is named, to the block, and is nothing but damage in the copy.
#[test]
fn a_block_that_cannot_be_read_is_named_and_everything_else_is_there() {
    let (disk, records) = written();
    let lost = super::bytes::data_frames(&disk.read_file(FIRST));
    let lost: Vec<u64> =
        lost.iter().filter(|frame| frame.offset as u64 / BLOCK == LOST / BLOCK).map(|frame| frame.lsn).collect();
    assert_eq!(lost.len(), 1, "one frame stands in that block");
    let whole = files(&disk);
    let session = disk.open();
    // The window, and of its blocks the one.
    disk.fail(Fault::new(OpKind::Read, 0, errno::EIO).on(FIRST));
    disk.fail(Fault::new(OpKind::Read, 1 + LOST / BLOCK, errno::EIO).on(FIRST));
    let into = SimDisk::new(DiskOptions::DIRECT);
    let rescued = rescue_on(&session, &into.open(), |_, _| {}).unwrap();
    let [unread] = &rescued.unread[..] else { panic!("{rescued:?}") };
    assert_eq!((&unread.file[..], unread.offset, unread.bytes), (FIRST, LOST, BLOCK));
    for ((name, copied), (_, bytes)) in files(&into).into_iter().zip(whole) {
        let is_in = |at: usize| name == FIRST && (LOST..LOST + BLOCK).contains(&(at as u64));
        let differs = (0..bytes.len()).find(|at| copied[*at] != if is_in(*at) { 0 } else { bytes[*at] });
        assert_eq!((copied.len(), differs), (bytes.len(), None), "{name}");
    }
    let range = seawall::LsnRange::inclusive(Lsn::new(lost[0]), Lsn::new(lost[0]));
    let (log, _) = Log::open_on(into.open(), in_mode(&direct(), RecoveryMode::Quarantine)).unwrap();
    holds(&log, &records, &[range]).unwrap();
}

/// Neighbours are told as one range; another error than that of the medium is no rescue's business.
#[test]
fn what_nobody_can_read_is_an_error() {
    let (disk, _) = written();
    let into = SimDisk::new(DiskOptions::DIRECT);
    let session = disk.open();
    disk.fail(Fault::new(OpKind::Read, 0, errno::EIO).forever().on(FIRST));
    let rescued = rescue_on(&session, &into.open(), |_, _| {}).unwrap();
    let bytes = disk.read_file(FIRST).len() as u64;
    assert_eq!(rescued.unread.len(), 1, "{rescued:?}");
    assert_eq!((rescued.unread[0].offset, rescued.unread[0].bytes), (0, bytes));
    // Not one byte of it.
    disk.fail(Fault::new(OpKind::Read, 0, errno::EIO).forever());
    let nothing = rescue_on(&session, &SimDisk::new(DiskOptions::DIRECT).open(), |_, _| {});
    assert!(matches!(nothing, Err(Error::Io { .. })), "{nothing:?}");
    disk.heal();
    disk.fail(Fault::new(OpKind::Read, 0, errno::ENOSPC).on(FIRST));
    let into = SimDisk::new(DiskOptions::DIRECT);
    let other = rescue_on(&session, &into.open(), |_, _| {}).unwrap_err();
    assert!(matches!(&other, Error::Io { op: "read", file, .. } if file.contains(FIRST)), "{other}");
    // Nor has it become a log by then.
    assert!(into.names().iter().all(|(name, _)| name != "control"));
}

/// The copy has its name when it is whole, and takes nobody's place.
#[test]
fn a_rescue_makes_a_directory_or_says_why_not() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, into) = (tmp.path().join("log"), tmp.path().join("rescued"));
    let nothing = |error: &Error| matches!(error, Error::NotALog { .. });
    assert!(nothing(&rescue(&dir, &into, |_, _| {}).unwrap_err()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("something else"), "").unwrap();
    assert!(nothing(&rescue(&dir, &into, |_, _| {}).unwrap_err()));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing was made there");
    let records: Vec<Vec<u8>> = (0..FRAMES).map(record).collect();
    let (log, _) = Log::open(&dir, Config::default()).unwrap();
    append_each(&log, &records);
    assert!(matches!(rescue(&dir, &into, |_, _| {}), Err(Error::Locked { .. })));
    close(log);
    for taken in [&into, &tmp.path().join("rescued.partial")] {
        std::fs::create_dir(taken).unwrap();
        let error = rescue(&dir, &into, |_, _| {}).unwrap_err();
        assert!(matches!(&error, Error::Invalid { what } if what.contains(taken.to_str().unwrap())), "{error}");
        std::fs::remove_dir(taken).unwrap();
    }
    assert!(matches!(rescue(&dir, "/", |_, _| {}), Err(Error::Invalid { .. })));
    let rescued = rescue(&dir, &into, |_, _| {}).unwrap();
    assert!(rescued.unread.is_empty() && rescued.files >= 2, "{rescued:?}");
    assert!(!tmp.path().join("rescued.partial").exists());
    let (log, recovery) = Log::open(&into, Config::default()).unwrap();
    assert!(recovery.clean, "{recovery:?}");
    holds(&log, &records, &[]).unwrap();
}
