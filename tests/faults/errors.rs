//! The n-th call of every kind fails, in every way, once or from then on: no false acknowledgment, a typed error, and
//! after the fault is gone everything acknowledged is there.
//!
//! Both media, so both ways a group becomes durable; within each, groups that a waiting thread writes (`WriteFlushed`)
//! and groups that the driver hands over (`Submit`). Behind the single faults come pairs of them, chosen by the seed,
//! for as long as there is time and a goal.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use seawall::{Error, Log, Lsn};

use super::report::{Ask, Failure, Report, in_parts};
use super::sim::{
    CrashChoice, DiskOptions, Effect, Fault, FaultError, KillChoice, OpKind, Rng, Target, ViolationKind, errno, mix,
};
use super::story::{SimLog, Story};

const MEDIA: [DiskOptions; 2] = [DiskOptions::DIRECT, DiskOptions::BUFFERED];

/// A way to fail. An error that is told although everything happened is the one that invites a false retry.
type Way = (&'static str, FaultError, Effect);

const WAYS: [Way; 9] = [
    ("EIO", FaultError::Errno(errno::EIO), Effect::Before),
    ("EIO, half done", FaultError::Errno(errno::EIO), Effect::AfterPartial),
    ("EIO, done all the same", FaultError::Errno(errno::EIO), Effect::AfterFull),
    ("ENOSPC", FaultError::Errno(errno::ENOSPC), Effect::Before),
    ("ENOSPC, half done", FaultError::Errno(errno::ENOSPC), Effect::AfterPartial),
    ("EDQUOT", FaultError::Errno(errno::EDQUOT), Effect::Before),
    ("EDQUOT, half done", FaultError::Errno(errno::EDQUOT), Effect::AfterPartial),
    ("EROFS", FaultError::Errno(errno::EROFS), Effect::Before),
    ("short", FaultError::Kind(ErrorKind::WriteZero), Effect::AfterPartial),
];

/// Pairs in one part of the work.
const PART_PAIRS: u64 = 64;

/// Which calls fail; each target is counted by itself.
fn targets() -> Vec<Target> {
    // Each kind alone; everything that changes the disk, as when a file system goes read-only; everything.
    OpKind::ALL.into_iter().map(Target::Kind).chain([Target::Mutations, Target::Any]).collect()
}

/// Every single fault, and then pairs of them until there are as many in all as are asked for.
pub fn run(ask: Ask<'_>) -> Report {
    run_with(&|_| true, ask)
}

/// The same for those calls of each target, by their number, that are to fail.
pub fn run_with(which: &(dyn Fn(u64) -> bool + Sync), ask: Ask<'_>) -> Report {
    let (singles, calls) = singles(which);
    let Ask { seed, goal, .. } = ask;
    in_parts(&Ask { goal: goal.max(singles.len() as u64), ..ask }, &|part, until| {
        let first = part * PART_PAIRS;
        let cases: Vec<Case> = match singles.get(first as usize..) {
            Some(rest) if !rest.is_empty() => rest.iter().take(PART_PAIRS as usize).cloned().collect(),
            _ if goal <= singles.len() as u64 => return None,
            _ => (first..first + PART_PAIRS).map(|pair| pair_of(&calls, seed, pair)).collect(),
        };
        Some(suffer_each(&cases, seed, until))
    })
}

fn failure(seed: u64, what: String) -> Failure {
    Failure { seed, what, replay: format!("SEAWALL_SEED={seed} cargo test --release --test faults nth_call") }
}

#[derive(Clone)]
struct Case {
    disk: DiskOptions,
    faults: Vec<Fault>,
    told: String,
}

/// How often each target is called when nothing fails.
type Calls = Vec<(DiskOptions, Target, u64)>;

fn singles(which: &dyn Fn(u64) -> bool) -> (Vec<Case>, Calls) {
    let (mut cases, mut all_calls) = (Vec::new(), Vec::new());
    for disk in MEDIA {
        let mut plain = Story::new(disk);
        live(&mut plain).unwrap();
        for target in targets() {
            let calls = plain.disk.count(target);
            all_calls.push((disk, target, calls));
            for n in (0..calls).filter(|n| which(*n)) {
                let ways = WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]);
                cases.extend(ways.map(|(way, once)| case(disk, &[(target, n, way, once)])));
            }
        }
    }
    (cases, all_calls)
}

fn case(disk: DiskOptions, faults: &[(Target, u64, Way, bool)]) -> Case {
    let mut told = format!("direct {}", disk.direct);
    for (target, n, (way, ..), once) in faults {
        told += &format!("; call {n} of {target:?}: {way}, {}", if *once { "once" } else { "for ever" });
    }
    let fault = |&(target, n, (_, error, effect), once): &(Target, u64, Way, bool)| Fault {
        once,
        ..Fault::new(target, n, error).effect(effect)
    };
    Case { disk, faults: faults.iter().map(fault).collect(), told }
}

fn pair_of(calls: &Calls, seed: u64, number: u64) -> Case {
    let mut rng = Rng::nth(seed, number);
    let (disk, ..) = calls[rng.below(calls.len() as u64) as usize];
    let own: Vec<_> = calls.iter().filter(|(of, _, calls)| *of == disk && *calls > 0).collect();
    let mut one = || {
        let (_, target, calls) = own[rng.below(own.len() as u64) as usize];
        (*target, rng.below(*calls), WAYS[rng.below(WAYS.len() as u64) as usize], !rng.one_in(4))
    };
    case(disk, &[one(), one()])
}

fn suffer_each(cases: &[Case], seed: u64, until: Instant) -> Report {
    let mut report = Report::default();
    for case in cases.iter().take_while(|_| Instant::now() < until) {
        report.enumerated += 1;
        report.distinct += 1;
        report.judged_deep += 1;
        match suffer(case) {
            Ok(found) => report.trace_hash = report.trace_hash.wrapping_add(mix(report.enumerated, found)),
            Err(what) => report.failures.push(failure(seed, format!("{}: {what}", case.told))),
        }
    }
    report
}

/// Everything once: appends of a thread that waits and of nobody, a rotation, a trim, a truncation, a close, an open.
fn live(story: &mut Story) -> Result<(), Error> {
    let log = open(story)?;
    story.try_append(&log, &[100])?;
    story.try_append(&log, &[30_000, 20_000])?;
    story.try_append(&log, &[30_000])?;
    drop(story.try_submit(&log, &[500])?);
    std::thread::sleep(Duration::from_millis(2));
    story.disk.tick();
    story.try_append(&log, &[30_000, 20_000])?;
    story.try_trim(&log, 3)?;
    let _ = log.read(Lsn::new(4))?;
    story.try_append(&log, &[10, 20])?;
    if log.stats().spare_segments > 0 {
        story.try_truncate(&log, 8)?;
    }
    story.try_append(&log, &[300])?;
    log.close(Duration::from_secs(1))?;
    story.disk.pump();
    let log = open(story)?;
    story.try_append(&log, &[200])
}

fn open(story: &mut Story) -> Result<SimLog, Error> {
    let (log, _) = Log::open_on(story.disk.open(), story.config.clone())?;
    story.disk.pump();
    Ok(log)
}

/// Lives through the faults and judges what is left when they are gone; tells what was found.
fn suffer(case: &Case) -> Result<u64, String> {
    let mut story = Story::new(case.disk);
    case.faults.iter().cloned().for_each(|fault| story.disk.fail(fault));
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
    let found = story.survives(&story.disk, &story.allowed(at)).map_err(|what| format!("{what}; lived {lived:?}"))?;
    // To clear away what was perhaps never made is no breach.
    match story.disk.violations().iter().find(|violation| violation.kind != ViolationKind::MissingName) {
        Some(violation) => Err(violation.to_string()),
        None => Ok(found.fingerprint()),
    }
}

/// The control: a storage that says yes and does nothing is noticed by the same judgment, on every medium.
pub fn control() -> bool {
    MEDIA.into_iter().all(notices_a_lie)
}

fn notices_a_lie(options: DiskOptions) -> bool {
    let mut story = Story::new(options);
    let log = open(&mut story).unwrap();
    story.append(&log, &[100]);
    story.disk.set_flushes_lie(true);
    story.append(&log, &[100]);
    story.disk.set_flushes_lie(false);
    let at = story.disk.note(0u64) + 1;
    let lost = story.disk.crash(&CrashChoice::lost());
    story.survives(&lost, &story.allowed(at)).is_err()
}
