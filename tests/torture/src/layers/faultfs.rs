//! Power cut under a process that writes to a file system which loses whatever was not flushed, sector by sector and name
//! by name; now and then an operation fails first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use seawall_faultfs::machine::{Need, require};
use seawall_faultfs::{Choice, Fault, FaultFs, Op, Options};

use tempfile::TempDir;

use super::lives::{Life, Place, lane, look};
use crate::control::until_caught;
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
        until_caught(plan, CONTROL_LIVES, |run| lane(run, 0, true, Powered::new(run.plan.seed, 0)?))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        run.gather(|number| lane(run, number, false, Powered::new(run.plan.seed, number)?))
    }
}

/// A file system that loses its power.
struct Powered {
    fs: FaultFs,
    home: TempDir,
    rng: Rng,
    sectors_lost: u64,
    names_lost: u64,
    faults: u64,
}

fn cannot(error: std::io::Error) -> CannotRun {
    CannotRun(error.to_string())
}

impl Powered {
    fn new(seed: u64, lane: u64) -> Result<Powered, CannotRun> {
        require(&[Need::Root, Need::Fuse]).map_err(|why| CannotRun(why.to_string()))?;
        let (home, mut rng) = (tempfile::tempdir().map_err(cannot)?, Rng::new(seed, lane));
        let fs = mount(home.path(), &mut rng).map_err(cannot)?;
        Ok(Powered { fs, home, rng, sectors_lost: 0, names_lost: 0, faults: 0 })
    }

    fn crash_once(&mut self, life: &mut Life<'_>) -> Result<(), String> {
        let dir = self.fs.path().join("log");
        let fails = life.rng.percent(15);
        if fails {
            let op = OPS[life.rng.below(OPS.len() as u64) as usize];
            let errno = ERRNOS[life.rng.below(ERRNOS.len() as u64) as usize];
            self.fs.fail(Fault { forever: life.rng.percent(30), ..Fault::once(op, 1 + life.rng.below(40), errno) });
        }
        // A process that ends before the power does leaves what it had not flushed, or could not, for the next to believe.
        let ends_first = life.rng.percent(if fails { 60 } else { 10 });
        let args = victim::Args {
            dir: dir.clone(),
            seed: life.rng.next(),
            life: life.number,
            lies: life.lies,
            buffered: false,
            past_caches: true,
        };
        let (before, victim) =
            (self.fs.faults_fired(), Victim::start(&args).map_err(|error| format!("no process: {error}"))?);
        let patience_micros = if life.rng.percent(33) { life.rng.below(15_000) } else { life.rng.below(50_000) };
        std::thread::sleep(Duration::from_micros(patience_micros));
        if !ends_first {
            self.fs.cut_power();
        }
        let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
        self.faults += self.fs.faults_fired() - before;
        // That power was lost, or that something failed, it may well have noticed.
        if let Some(code) = ended.status.code().filter(|code| *code != 0 && *code != i32::from(EXIT_POISONED)) {
            return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
        }
        // After the cut nothing succeeds: whatever was told, even later, had succeeded before it.
        ended.told.into_iter().for_each(|told| life.oracle.hear(told));
        if ends_first {
            self.fs.clear_faults();
            look(&dir, life).map_err(|what| format!("{what}\n    with the power on"))?;
        }
        let choice = match life.rng.below(10) {
            0..3 => Choice::AllLost,
            3 => Choice::AllKept,
            _ => Choice::Seeded(life.rng.next()),
        };
        let survived = self.fs.reboot(choice);
        self.sectors_lost += survived.sectors_lost;
        self.names_lost += survived.names_lost;
        if life.rng.percent(25) {
            return Ok(());
        }
        look(&dir, life).map_err(|what| format!("{what}\n    after {choice:?}: {survived:?}"))
    }
}

impl Place for Powered {
    fn crash(&mut self, life: &mut Life<'_>) -> Result<Result<(), String>, CannotRun> {
        Ok(self.crash_once(life))
    }

    fn renew(&mut self, is_kept: bool) -> Result<Option<PathBuf>, CannotRun> {
        let kept = if is_kept { Some(keep(&self.fs).map_err(cannot)?) } else { None };
        // Beside the old one, which goes when it is replaced.
        let home = tempfile::tempdir().map_err(cannot)?;
        self.fs = mount(home.path(), &mut self.rng).map_err(cannot)?;
        self.home = home;
        Ok(kept)
    }

    fn note(&self) -> String {
        let Powered { sectors_lost, names_lost, faults, .. } = self;
        format!("; lost {sectors_lost} sectors and {names_lost} names; {faults} errors")
    }
}

fn mount(at: &Path, rng: &mut Rng) -> std::io::Result<FaultFs> {
    let sector_bytes = if rng.percent(50) { 512 } else { 4096 };
    FaultFs::mount(at, Options { sector_bytes, ..Options::default() })
}

/// A copy of the log as the judge left it.
fn keep(fs: &FaultFs) -> std::io::Result<PathBuf> {
    let kept = tempfile::tempdir()?.keep();
    // A log whose directory was not durable is not there.
    for entry in std::fs::read_dir(fs.path().join("log")).into_iter().flatten() {
        let entry = entry?;
        std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Ok(kept)
}
