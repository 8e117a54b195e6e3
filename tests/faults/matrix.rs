//! The n-th call of every kind fails, in every way, once or from then on: no false acknowledgment, a typed error, and
//! after the fault is gone everything acknowledged is there.

use std::io::ErrorKind;

use seawall::{Error, Log, Lsn};

use super::sim::{
    CrashChoice, DiskOptions, Effect, Fault, FaultError, KillChoice, OpKind, SimDisk, ViolationKind, errno,
};
use super::story::{SimLog, Story};

const ERRORS: [(&str, FaultError, Effect); 6] = [
    ("EIO", FaultError::Errno(errno::EIO), Effect::Before),
    ("EIO, half done", FaultError::Errno(errno::EIO), Effect::AfterPartial),
    ("ENOSPC", FaultError::Errno(errno::ENOSPC), Effect::Before),
    ("EDQUOT", FaultError::Errno(errno::EDQUOT), Effect::Before),
    ("EROFS", FaultError::Errno(errno::EROFS), Effect::Before),
    ("short", FaultError::Kind(ErrorKind::WriteZero), Effect::AfterPartial),
];

/// Everything once: appends of a thread that waits and of nobody, a rotation, a trim, a truncation, a close, an open.
fn live(story: &mut Story) -> Result<(), Error> {
    let log = open(story)?;
    story.try_append(&log, &[100])?;
    story.try_append(&log, &[30_000, 20_000])?;
    story.try_append(&log, &[30_000])?;
    drop(story.try_submit(&log, &[500])?);
    std::thread::sleep(std::time::Duration::from_millis(2));
    story.disk.tick();
    story.try_append(&log, &[30_000, 20_000])?;
    story.try_trim(&log, 3)?;
    let _ = log.read(Lsn::new(4))?;
    story.try_append(&log, &[10, 20])?;
    if log.stats().spare_segments > 0 {
        story.try_truncate(&log, 8)?;
    }
    story.try_append(&log, &[300])?;
    log.close(std::time::Duration::from_secs(1))?;
    story.disk.pump();
    let log = open(story)?;
    story.try_append(&log, &[200])
}

fn open(story: &mut Story) -> Result<SimLog, Error> {
    let (log, _) = Log::open_on(story.disk.open(), story.config.clone())?;
    story.disk.pump();
    Ok(log)
}

#[test]
fn the_nth_call_of_every_kind_fails() {
    let mut cases = 0;
    let mut failed = Vec::new();
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut plain = Story::new(options);
        live(&mut plain).unwrap();
        for kind in OpKind::ALL {
            let calls = plain.disk.count(kind);
            // All of the first ones, then thinned out.
            let which: Vec<u64> = (0..calls).filter(|n| *n < 12 || n % 7 == 0).collect();
            for (n, (name, error, effect), once) in which
                .iter()
                .flat_map(|n| ERRORS.iter().flat_map(move |error| [(*n, *error, true), (*n, *error, false)]))
            {
                let fault = Fault { once, ..Fault::new(kind, n, error).effect(effect) };
                cases += 1;
                if let Err(what) = one(options, fault) {
                    let often = if once { "once" } else { "for ever" };
                    failed.push(format!("{kind:?} {n} of {calls}, {name}, {often}, direct {}: {what}", options.direct));
                }
            }
        }
    }
    println!("{cases} faults");
    let shown: Vec<&String> = failed.iter().step_by(failed.len() / 12 + 1).collect();
    assert!(failed.is_empty(), "{} of {cases}: {shown:#?}", failed.len());
}

fn one(options: DiskOptions, fault: Fault) -> Result<(), String> {
    let mut story = Story::new(options);
    story.disk.fail(fault);
    let lived = live(&mut story);
    if let Err(error) = &lived {
        let typed = matches!(
            error,
            Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. } | Error::Busy { .. } | Error::Closed
        );
        if !typed {
            return Err(format!("told {error:?}"));
        }
    }
    story.disk.heal();
    story.disk.kill(&KillChoice::Landed);
    story.disk.pump();
    // A page cache that lied is emptied: what counts is what the device has.
    story.disk.drop_caches(false);
    let at = story.disk.note(0u64) + 1;
    story.survives(&story.disk, at, &story.config).map(drop).map_err(|what| format!("{what}; lived {lived:?}"))?;
    // To clear away what was perhaps never made is no breach.
    match story.disk.violations().iter().find(|violation| violation.kind != ViolationKind::MissingName) {
        Some(violation) => Err(violation.to_string()),
        None => Ok(()),
    }
}

/// The control: a storage that says yes and does nothing is noticed by the same judgment.
#[test]
fn a_lie_is_noticed() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let mut story = Story::new(options);
        let log = open(&mut story).unwrap();
        story.append(&log, &[100]);
        story.disk.set_flushes_lie(true);
        story.append(&log, &[100]);
        story.disk.set_flushes_lie(false);
        let at = story.disk.note(0u64) + 1;
        let lost = story.disk.crash(&CrashChoice::lost());
        assert!(story.survives(&lost, at, &story.config).is_err(), "direct {}", options.direct);
    }
}
