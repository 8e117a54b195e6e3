//! After a failure nothing is acknowledged, of the control file and of the directory neither.

use std::time::Duration;

use seawall::{Ballot, Error, LedgerId, Log, Lsn, LsnRange, Promise};

use super::rows::{both, started};
use super::sim::{CrashChoice, Fault, KillChoice, OpKind, SimStorage, errno};
use super::story::Story;

fn promise(round: u64) -> Promise {
    Promise { ledger: LedgerId::new(7), ballot: Ballot { round, proposer: 1 } }
}

#[test]
fn a_poisoned_log_writes_nothing_into_its_control_file() {
    both(|options| {
        let (mut story, log) = started(options);
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO));
        assert!(story.try_append(&log, &[300]).is_err());
        let before = story.disk.read_file("control");
        let poisoned = |told: Result<(), Error>| assert!(matches!(&told, Err(Error::Poisoned { .. })), "{told:?}");
        poisoned(log.trim(Lsn::new(1)));
        poisoned(log.quarantine(LsnRange::inclusive(Lsn::new(1), Lsn::new(1))));
        poisoned(log.promise(promise(1)));
        poisoned(log.truncate(Lsn::new(1)).map(drop));
        assert!(story.disk.read_file("control") == before);
        assert!(log.read(Lsn::new(1)).is_ok(), "{:?}", log.read(Lsn::new(1)));
    });
}

#[test]
fn a_closed_log_says_that_it_is_closed() {
    both(|options| {
        let (mut story, log) = started(options);
        story.close(log.clone());
        let before = story.disk.read_file("control");
        let closed = |told: Result<(), Error>| assert!(matches!(&told, Err(Error::Closed)), "{told:?}");
        closed(log.append(b"x").map(drop));
        closed(log.flush().map(drop));
        closed(log.trim(Lsn::new(1)));
        closed(log.quarantine(LsnRange::inclusive(Lsn::new(1), Lsn::new(1))));
        closed(log.promise(promise(1)));
        closed(log.truncate(Lsn::new(1)).map(drop));
        closed(log.close(Duration::from_secs(1)));
        assert!(story.disk.read_file("control") == before);
    });
}

/// A device may tell its loss to one of two flushes, and to the other that all is well.
#[test]
fn what_was_on_its_way_to_the_control_file_when_a_group_failed_is_not_acknowledged() {
    both(|options| {
        type Ask = fn(&Log<SimStorage>) -> Result<(), Error>;
        let asks: [Ask; 3] = [
            |log| log.promise(promise(1)),
            |log| log.trim(Lsn::new(1)),
            |log| log.quarantine(LsnRange::inclusive(Lsn::new(1), Lsn::new(1))),
        ];
        for ask in asks {
            let (story, log) = started(options);
            let (disk, other) = (story.disk.clone(), log.clone());
            story.disk.before(OpKind::WriteFlushed, "control", move || {
                disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on(".seg"));
                other.append(b"lost").unwrap().wait().unwrap_err();
            });
            let told = ask(&log);
            assert!(matches!(&told, Err(Error::Poisoned { .. })), "{told:?}");
            assert!(log.stats().poisoned);
        }
    });
}

/// Frames over several segments, and what each held.
fn over_segments(story: &mut Story) -> (Log<SimStorage>, Vec<Vec<u8>>) {
    let log = story.open();
    for _ in 0..8 {
        story.append(&log, &[20_000]);
    }
    assert!(log.stats().segments >= 3, "{:?}", log.stats());
    let held = log.reader(Lsn::FIRST).map(|frame| frame.unwrap().payload.to_vec()).collect();
    (log, held)
}

/// Appends beyond a rotation, keeping what must be there.
fn go_on(story: &Story, log: &Log<SimStorage>, held: &mut Vec<Vec<u8>>) {
    for i in 0..8u8 {
        let record = vec![200 + i; 20_000];
        // Where the directory could not be synced nothing is prepared any more.
        match log.try_append(&record) {
            Ok(pending) => pending.wait().unwrap(),
            Err(error) => {
                assert!(i > 0, "{error:?}");
                break;
            }
        };
        story.disk.pump();
        held.push(record);
    }
}

fn read(log: &Log<SimStorage>) -> Vec<Vec<u8>> {
    log.reader(Lsn::FIRST).map(|frame| frame.unwrap().payload.to_vec()).collect()
}

#[test]
fn truncated_frames_stay_away_when_their_segments_could_not_be_removed() {
    both(|options| {
        for fault in [Fault::new(OpKind::Remove, 0, errno::EIO).on(".seg"), Fault::new(OpKind::SyncDir, 0, errno::EIO)]
        {
            for power_lost in [false, true] {
                let case = format!("{options:?}, {fault:?}, power lost: {power_lost}");
                let mut story = Story::new(options);
                let (log, mut held) = over_segments(&mut story);
                held.truncate(3);
                story.disk.fail(fault.clone());
                let told = log.truncate(Lsn::new(3));
                story.disk.pump();
                story.disk.heal();
                // Whatever was told: what is acknowledged from now on must be there, and nothing else.
                let mut log = log;
                if told.is_err() {
                    assert!(log.append(b"x").is_err(), "{case}: the log goes on after {told:?}");
                } else {
                    go_on(&story, &log, &mut held);
                }
                for _ in 0..2 {
                    story.disk.kill(&KillChoice::Landed);
                    drop(log);
                    if power_lost {
                        story.disk = story.disk.crash(&CrashChoice::lost());
                    }
                    let (again, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
                    story.disk.pump();
                    assert!(recovery.damage.is_empty(), "{case}: {recovery:?}");
                    assert!(read(&again) == held, "{case}: {recovery:?}");
                    go_on(&story, &again, &mut held);
                    log = again;
                }
            }
        }
    });
}

#[test]
fn a_segment_that_has_its_new_name_is_not_removed_under_the_old_one() {
    both(|options| {
        let mut story = Story::new(options);
        let (log, _) = over_segments(&mut story);
        // The trim point is written down; that the first segment may be used again is not.
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 1, errno::EIO).on("control"));
        story.trim(&log, 5);
        assert!(log.stats().poisoned);
        assert!(story.disk.violations().is_empty(), "{:?}", story.disk.violations());
        story.kill(log);
        let log = story.reopen().unwrap();
        story.append(&log, &[300]);
    });
}

#[test]
fn a_log_is_not_opened_for_appending_while_what_was_truncated_cannot_be_removed() {
    both(|options| {
        for fault in [Fault::new(OpKind::Remove, 0, errno::EIO).on(".seg"), Fault::new(OpKind::SyncDir, 0, errno::EIO)]
        {
            let mut story = Story::new(options);
            let (log, mut held) = over_segments(&mut story);
            held.truncate(3);
            // The truncation ends behind its seal.
            story.disk.fail(Fault::new(OpKind::Remove, 0, errno::EIO).on(".seg").forever());
            let _ = log.truncate(Lsn::new(3));
            story.disk.heal();
            story.disk.kill(&KillChoice::Landed);
            drop(log);
            story.disk.fail(fault.clone().forever());
            let opened = Log::open_on(story.disk.open(), story.config.clone());
            assert!(matches!(&opened, Err(Error::Io { .. })), "{fault:?}: {opened:?}");
            story.disk.heal();
            story.disk.kill(&KillChoice::Landed);
            drop(opened);
            for _ in 0..2 {
                let (log, recovery) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
                story.disk.pump();
                assert!(recovery.damage.is_empty(), "{recovery:?}");
                assert!(read(&log) == held, "{recovery:?}");
                go_on(&story, &log, &mut held);
                story.disk.kill(&KillChoice::Landed);
                drop(log);
            }
        }
    });
}
