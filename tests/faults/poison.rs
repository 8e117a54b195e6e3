//! After a failure nothing is acknowledged, of the control file and of the directory neither.

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use seawall::{Ballot, Error, LedgerId, Log, Lsn, LsnRange, Promise};

use super::rows::{both, started};
use super::sim::{CrashChoice, DiskOptions, Fault, KillChoice, OpKind, SimStorage, errno};
use super::story::Story;

fn promise(round: u64) -> Promise {
    Promise { ledger: LedgerId::new(7), ballot: Ballot { round, proposer: 1 } }
}

/// Every call that changes a log, after its end: what it asks for is not done, and is said to be only where it was before.
#[test]
fn what_is_asked_of_a_log_that_has_ended_is_done_already_or_refused() {
    type Ask = fn(&Log<SimStorage>) -> Result<(), Error>;
    type End = fn(&mut Story, &Log<SimStorage>);
    const NEW: bool = false;
    const SO_ALREADY: bool = true;
    let asks: [(&str, bool, Ask); 15] = [
        ("append", NEW, |log| log.append(b"x").map(drop)),
        ("try_append", NEW, |log| log.try_append(b"x").map(drop)),
        ("append_many", NEW, |log| log.append_many(&[b"x", b"y"]).map(drop)),
        ("reserve", NEW, |log| match std::pin::pin!(log.reserve(1)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(told) => told.map(drop),
            Poll::Pending => panic!("it waits"),
        }),
        ("flush", NEW, |log| log.flush().map(drop)),
        ("trim", NEW, |log| log.trim(Lsn::new(2))),
        ("trim, the same", SO_ALREADY, |log| log.trim(Lsn::new(1))),
        ("trim, less", SO_ALREADY, |log| log.trim(Lsn::ZERO)),
        ("truncate", NEW, |log| log.truncate(Lsn::new(2)).map(drop)),
        ("truncate, nothing", NEW, |log| log.truncate(log.flushed()).map(drop)),
        ("quarantine", NEW, |log| log.quarantine(LsnRange::inclusive(Lsn::new(2), Lsn::new(2)))),
        ("quarantine, the same", SO_ALREADY, |log| log.quarantine(LsnRange::inclusive(Lsn::new(3), Lsn::new(3)))),
        ("promise", NEW, |log| log.promise(promise(2))),
        ("promise, the same", SO_ALREADY, |log| log.promise(promise(1))),
        ("close", NEW, |log| log.clone().close(Duration::from_secs(1))),
    ];
    let ends: [(&str, End); 3] = [
        ("closed", |story, log| story.close(log.clone())),
        ("a group failed", |story, log| {
            story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO));
            assert!(story.try_append(log, &[300]).is_err());
        }),
        ("the control file failed", |story, log| {
            story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on("control"));
            assert!(log.promise(promise(9)).is_err());
        }),
    ];
    both(|options| {
        for (end, end_it) in ends {
            let (mut story, log) = started(options);
            story.append(&log, &[300]);
            story.trim(&log, 1);
            log.quarantine(LsnRange::inclusive(Lsn::new(3), Lsn::new(3))).unwrap();
            log.promise(promise(1)).unwrap();
            end_it(&mut story, &log);
            let (control, marks) = (story.disk.read_file("control"), log.watermarks());
            for (what, so_already, ask) in asks {
                match ask(&log) {
                    Err(Error::Closed) => assert_eq!(end, "closed", "{what}"),
                    Err(Error::Poisoned { .. }) => assert_ne!(end, "closed", "{what}"),
                    told => assert!(told.is_ok() && so_already, "{end}, {what}: {told:?}"),
                }
            }
            story.disk.tick();
            assert!(story.disk.read_file("control") == control && log.watermarks() == marks, "{end}");
            assert!(log.read(Lsn::new(2)).is_ok(), "{end}: {:?}", log.read(Lsn::new(2)));
        }
    });
}

/// It may be there when the log is opened again; whoever asked is not told that it is.
#[test]
fn what_was_on_its_way_to_the_control_file_at_a_close_is_not_acknowledged() {
    type Ask = fn(&Log<SimStorage>) -> Result<(), Error>;
    let asks: [Ask; 3] = [
        |log| log.promise(promise(1)),
        |log| log.trim(Lsn::new(1)),
        |log| log.quarantine(LsnRange::inclusive(Lsn::new(1), Lsn::new(1))),
    ];
    for ask in asks {
        let (story, log) = started(DiskOptions::DIRECT);
        let other = log.clone();
        story.disk.before(OpKind::WriteFlushed, "control", move || {
            drop(other.append(b"queued").unwrap());
            let told = other.close(Duration::ZERO);
            assert!(matches!(told, Err(Error::TimedOut { .. })), "{told:?}");
        });
        let told = ask(&log);
        assert!(matches!(told, Err(Error::Closed)), "{told:?}");
    }
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
