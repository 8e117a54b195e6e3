//! What stands behind a segment's end is never read as its frames, also when the seal that says where the end is has
//! rotted.

use seawall::{Log, Lsn, RecoveryMode};

use super::bed::{direct, in_mode, record};
use super::oracle::holds;
use super::sim::{DiskOptions, Fault, KillChoice, OpKind, SimDisk, errno};

const BLOCK: u64 = 4096;

/// The newest segment with a seal.
fn newest(disk: &SimDisk) -> String {
    let is_sealed =
        |name: &String| name.ends_with(".seg") && disk.read_file(name)[BLOCK as usize] == super::bytes::SEAL;
    disk.names().into_iter().map(|(name, _)| name).filter(is_sealed).max().unwrap()
}

/// Twenty frames in segment 1, cut back to five in the next.
fn cut_back() -> (SimDisk, Log<super::sim::SimStorage>) {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (log, _) = Log::open_on(disk.open(), direct()).unwrap();
    disk.pump();
    for i in 0..20 {
        log.append(&record(i)).unwrap().wait().unwrap();
        disk.pump();
    }
    log.truncate(Lsn::new(5)).unwrap();
    disk.pump();
    (disk, log)
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
