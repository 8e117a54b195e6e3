//! Power cut under a process that writes to a file system which loses whatever was not flushed, sector by sector and name
//! by name; now and then an operation fails first.

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use seawall_faultfs::machine::{Need, require};
use seawall_faultfs::{Choice, Fault, FaultFs, Op, Options};

use super::kill::look;
use crate::control::until_caught;
use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;
use crate::victim::{self, EXIT_POISONED, Victim};

pub(crate) struct Power;

const CONTROL_LIVES: u64 = 40;

/// What may fail, and how.
const OPS: [Op; 8] = [Op::Write, Op::Write, Op::Fsync, Op::Fsync, Op::SyncDir, Op::Create, Op::Rename, Op::Fallocate];
const ERRNOS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::DQUOT];

impl Layer for Power {
    fn name(&self) -> &'static str {
        "faultfs"
    }

    fn about(&self) -> &'static str {
        "power cut under a file system that loses what was not flushed, and fails now and then"
    }

    fn unit(&self) -> &'static str {
        "power cuts"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 1_500, long: 100_000, share: Duration::from_secs(120) }
    }

    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        until_caught(plan, CONTROL_LIVES, |run| lane(run, 0, true))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        for lane in run.on_lanes(|number| lane(run, number, false)) {
            found.merge(lane?);
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Tally {
    acknowledged: u64,
    sectors_lost: u64,
    names_lost: u64,
    faults: u64,
}

fn lane(run: &Run<'_>, number: u64, lies: bool) -> Result<Found, CannotRun> {
    require(&[Need::Root, Need::Fuse]).map_err(|why| CannotRun(why.to_string()))?;
    let cannot = |error: std::io::Error| CannotRun(error.to_string());
    let (mut found, mut tally) = (Found::default(), Tally::default());
    let home = tempfile::tempdir().map_err(cannot)?;
    let mut fs = mount(home.path(), &mut Rng::new(run.plan.seed, number)).map_err(cannot)?;
    let mut oracle = Oracle::default();
    while let Some(cycle) = run.next() {
        let mut rng = Rng::new(run.plan.seed, cycle);
        if let Err(what) = crash_once(&fs, &mut rng, cycle + 1, lies, &mut oracle, &mut tally) {
            let kept = keep(&fs).map_err(cannot)?;
            let seed = run.plan.seed;
            found.failures.push(format!(
                "lane {number}, cycle {cycle}, seed {seed}: {what}\n    the log is kept in {}",
                kept.display()
            ));
            if found.failures.len() >= run.plan.failures_max {
                run.stop();
            }
            tally.acknowledged += oracle.acknowledged;
            oracle = Oracle::default();
            drop(fs);
            fs = mount(home.path(), &mut rng).map_err(cannot)?;
        }
        run.done(1);
    }
    let Tally { acknowledged, sectors_lost, names_lost, faults } = tally;
    let acknowledged = acknowledged + oracle.acknowledged;
    found.notes.push(format!(
        "lane {number}: {acknowledged} acknowledgments; lost {sectors_lost} sectors and {names_lost} names; {faults} errors"
    ));
    Ok(found)
}

fn mount(at: &Path, rng: &mut Rng) -> std::io::Result<FaultFs> {
    let sector_bytes = if rng.percent(50) { 512 } else { 4096 };
    FaultFs::mount(at, Options { sector_bytes, ..Options::default() })
}

/// One life and its end; then, mostly, a look at what is left.
fn crash_once(
    fs: &FaultFs,
    rng: &mut Rng,
    life: u64,
    lies: bool,
    oracle: &mut Oracle,
    tally: &mut Tally,
) -> Result<(), String> {
    let dir = fs.path().join("log");
    let fails = rng.percent(15);
    if fails {
        let op = OPS[rng.below(OPS.len() as u64) as usize];
        let errno = ERRNOS[rng.below(ERRNOS.len() as u64) as usize];
        fs.fail(Fault { forever: rng.percent(30), ..Fault::once(op, 1 + rng.below(40), errno) });
    }
    // A process that ends before the power does leaves what it had not flushed, or could not, for the next to believe.
    let ends_first = rng.percent(if fails { 60 } else { 10 });
    let args = victim::Args { dir: dir.clone(), seed: rng.next(), life, lies, buffered: false };
    let (before, victim) = (fs.faults_fired(), Victim::start(&args).map_err(|error| format!("no process: {error}"))?);
    let patience_micros = if rng.percent(33) { rng.below(15_000) } else { rng.below(50_000) };
    std::thread::sleep(Duration::from_micros(patience_micros));
    if !ends_first {
        fs.cut_power();
    }
    let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
    tally.faults += fs.faults_fired() - before;
    // That power was lost, or that something failed, it may well have noticed.
    if let Some(code) = ended.status.code().filter(|code| *code != 0 && *code != i32::from(EXIT_POISONED)) {
        return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
    }
    // After the cut nothing succeeds: whatever was told, even later, had succeeded before it.
    ended.told.into_iter().for_each(|told| oracle.hear(told));
    if ends_first {
        fs.clear_faults();
        look(&dir, rng, life, oracle).map_err(|what| format!("{what}\n    with the power on"))?;
    }
    let choice = match rng.below(10) {
        0..3 => Choice::AllLost,
        3 => Choice::AllKept,
        _ => Choice::Seeded(rng.next()),
    };
    let survived = fs.reboot(choice);
    tally.sectors_lost += survived.sectors_lost;
    tally.names_lost += survived.names_lost;
    if rng.percent(25) {
        return Ok(());
    }
    look(&dir, rng, life, oracle).map_err(|what| format!("{what}\n    after {choice:?}: {survived:?}"))
}

/// A copy of the log as the judge left it.
fn keep(fs: &FaultFs) -> std::io::Result<std::path::PathBuf> {
    let kept = tempfile::tempdir()?.keep();
    // A log whose directory was not durable is not there.
    for entry in std::fs::read_dir(fs.path().join("log")).into_iter().flatten() {
        let entry = entry?;
        std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Ok(kept)
}
