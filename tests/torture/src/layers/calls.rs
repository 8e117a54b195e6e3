//! Every call of the file system failing, below the log's own way to it: system calls by waiting threads, and groups by
//! the pool or through the ring. First each call of one run alone, in every way, once and from then on; then pairs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use seawall::storage::Backend;
use seawall::{BackendChoice, Config, DirectIo, Error, Log, Lsn, Pending};
use seawall_faultfs::machine::{Need, require};
use seawall_faultfs::{Choice, Fault, FaultFs, Op, Options};

use crate::control::until_caught;
use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;
use crate::tasks::block_on;
use crate::victim::{Identity, Told};

pub(crate) struct Calls {
    name: &'static str,
    choice: BackendChoice,
    backend: Backend,
}

const OPS: [Op; 10] = [
    Op::Write,
    Op::Fsync,
    Op::SyncDir,
    Op::Create,
    Op::Open,
    Op::Rename,
    Op::Unlink,
    Op::Fallocate,
    Op::SetLen,
    Op::Read,
];
const ERRNOS: [(&str, Errno); 4] =
    [("EIO", Errno::IO), ("ENOSPC", Errno::NOSPC), ("EDQUOT", Errno::DQUOT), ("EROFS", Errno::ROFS)];
/// No call, and no life with a failing one, takes as long as this.
const PATIENCE: Duration = Duration::from_secs(60);
const CONTROL_CASES: u64 = 200;

impl Calls {
    pub(crate) const RING: Calls =
        Calls { name: "calls-ring", choice: BackendChoice::IoUring, backend: Backend::IoUring };
    pub(crate) const PWRITE: Calls =
        Calls { name: "calls-pwrite", choice: BackendChoice::Pwrite, backend: Backend::Pwrite };
}

impl Layer for Calls {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        "every call of a file system fails, once and for ever, below the log's own way to it; then pairs of failures"
    }

    fn unit(&self) -> &'static str {
        "failures"
    }

    fn goals(&self) -> Goals {
        Goals { ci: 6_000, long: 500_000, share: Duration::from_secs(150) }
    }

    /// A log whose records are told to be durable as soon as they have a position.
    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        until_caught(plan, CONTROL_CASES, |run| self.suffer_all(run, true))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        self.suffer_all(run, false)
    }
}

/// How the log works, apart from what fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Setting {
    is_direct: bool,
    /// Nobody waits: groups are handed over to the pool or the ring.
    is_driven: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting { is_direct: true, is_driven: true },
    Setting { is_direct: false, is_driven: true },
    Setting { is_direct: true, is_driven: false },
    Setting { is_direct: false, is_driven: false },
];

/// How often each call is made when nothing fails.
type Counts = BTreeMap<Setting, Vec<(Op, u64)>>;

/// What is to fail, and what that is called in the table.
#[derive(Clone)]
struct Case {
    setting: Setting,
    faults: Vec<Fault>,
    kind: &'static str,
}

/// How often what has failed.
#[derive(Default)]
struct Tally {
    failed: BTreeMap<(&'static str, &'static str), u64>,
    groups_led: u64,
    groups_driven: u64,
    acknowledged: u64,
    missed: u64,
}

impl Calls {
    fn suffer_all(&self, run: &Run<'_>, lies: bool) -> Result<Found, CannotRun> {
        require(&[Need::Root, Need::Fuse]).map_err(|why| CannotRun(why.to_string()))?;
        let counts = self.count()?;
        let singles = singles(&counts, run.plan.seed);
        let mut found = Found::default();
        let mut tally = Tally::default();
        for lane in run.on_lanes(|number| self.lane(run, number, &singles, &counts, lies)) {
            let (more, own) = lane?;
            found.merge(more);
            own.failed.into_iter().for_each(|(kind, count)| *tally.failed.entry(kind).or_default() += count);
            tally.groups_led += own.groups_led;
            tally.groups_driven += own.groups_driven;
            tally.acknowledged += own.acknowledged;
            tally.missed += own.missed;
        }
        let kinds: Vec<String> =
            tally.failed.iter().map(|((kind, how_long), count)| format!("{kind} {how_long} {count}")).collect();
        let Tally { groups_led, groups_driven, acknowledged, missed, .. } = tally;
        found.notes.push(format!("{} failures alone, then pairs; {}", singles.len(), kinds.join(", ")));
        found.notes.push(format!(
            "{acknowledged} acknowledgments; groups written by waiting threads {groups_led}, by the backend \
             {groups_driven}; single failures whose call was not made {missed}"
        ));
        for setting in SETTINGS.into_iter().filter(|setting| !self.sees_cut_writes(*setting)) {
            found.notes.push(format!("SKIPPED: short writes, {setting:?}: the kernel hides them from the ring"));
        }
        Ok(found)
    }

    /// One life in each setting, in which nothing fails.
    fn count(&self) -> Result<Counts, CannotRun> {
        let cannot = |error: std::io::Error| CannotRun(error.to_string());
        let home = tempfile::tempdir().map_err(cannot)?;
        let fs = FaultFs::mount(home.path(), Options::default()).map_err(cannot)?;
        let mut counts = Counts::new();
        for (nth, setting) in SETTINGS.into_iter().enumerate() {
            let config = self.config(setting);
            let probe = Log::open(home.path().join(format!("probe-{nth}")), config.clone());
            let (probe, _) = probe.map_err(|error| CannotRun(format!("{:?}: {error}", self.choice)))?;
            if probe.medium().backend != self.backend {
                return Err(CannotRun(format!("the log took {:?}", probe.medium())));
            }
            drop(probe);
            let cut = self.sees_cut_writes(setting).then_some(Op::CutWrite);
            let ops = OPS.into_iter().chain(cut);
            let before: Vec<u64> = ops.clone().map(|op| fs.count(op)).collect();
            let mut life = Life::new(home.path().join(format!("log-{nth}")), config, setting, false);
            life.live().map_err(|error| CannotRun(format!("with no fault at all: {error}")))?;
            counts.insert(setting, ops.zip(before).map(|(op, before)| (op, fs.count(op) - before)).collect());
        }
        Ok(counts)
    }

    /// A direct write of a ring that ends short the kernel continues by itself, at the wrong place where the file system is
    /// in user space: seen on 6.18, shown by a test of `tests/faultfs`. No log can know.
    fn sees_cut_writes(&self, setting: Setting) -> bool {
        !(self.backend == Backend::IoUring && setting.is_direct && setting.is_driven)
    }

    fn config(&self, setting: Setting) -> Config {
        Config {
            backend: self.choice,
            direct_io: if setting.is_direct { DirectIo::Trust } else { DirectIo::Never },
            segment_bytes_min: 64 << 10,
            segment_bytes_max: 128 << 10,
            sweep_interval: Duration::from_micros(200),
            idle_proof_after: Duration::from_secs(3600),
            memory_tail_bytes: 0,
            flush_depth_min: 3,
            gather: false,
            ..Config::default()
        }
    }

    fn lane(
        &self,
        run: &Run<'_>,
        number: u64,
        singles: &[Case],
        counts: &Counts,
        lies: bool,
    ) -> Result<(Found, Tally), CannotRun> {
        let cannot = |error: std::io::Error| CannotRun(error.to_string());
        let (mut found, mut tally) = (Found::default(), Tally::default());
        let home = tempfile::tempdir().map_err(cannot)?;
        let mut fs = FaultFs::mount(home.path(), Options::default()).map_err(cannot)?;
        while let Some(cycle) = run.next() {
            let mut rng = Rng::new(run.plan.seed, cycle);
            let mut case = singles.get(cycle as usize).cloned().unwrap_or_else(|| pair(counts, &mut rng));
            let mut tries = 0..;
            let judged = loop {
                // A name of its own: a power loss brings back what was removed.
                let dir = fs.path().join(format!("log-{cycle}-{}", tries.next().unwrap_or(0)));
                let fired = fs.faults_fired();
                let judged = self.suffer(&fs, &dir, &case, &mut rng, lies, &mut tally);
                if judged.is_err() {
                    break judged;
                }
                clear(&fs, &dir).map_err(cannot)?;
                if fs.faults_fired() > fired {
                    break judged;
                }
                // Threads run as they like: the call was not made this time. Another one then.
                tally.missed += u64::from(case.faults.len() == 1);
                case = pair(counts, &mut rng);
            };
            let how_long = if case.faults[0].forever { "for ever" } else { "once" };
            *tally.failed.entry((case.kind, how_long)).or_default() += 1;
            if let Err(what) = judged {
                let seed = run.plan.seed;
                found.failures.push(format!("lane {number}, case {cycle}, seed {seed}: {what}\n    with {case}"));
                if found.failures.len() >= run.plan.failures_max {
                    run.stop();
                }
                // Whatever it left behind is left behind.
                drop(fs);
                fs = FaultFs::mount(home.path(), Options::default()).map_err(cannot)?;
            }
            run.done(1);
        }
        Ok((found, tally))
    }

    /// A life with these faults, a power loss, and a look; then everything works again.
    fn suffer(
        &self,
        fs: &FaultFs,
        dir: &Path,
        case: &Case,
        rng: &mut Rng,
        lies: bool,
        tally: &mut Tally,
    ) -> Result<(), String> {
        case.faults.iter().cloned().for_each(|fault| fs.fail(fault));
        let mut life = Life::new(dir.to_owned(), self.config(case.setting), case.setting, lies);
        let (end, ended) = mpsc::channel();
        // A thread of its own: a log that hangs is found out, not waited for.
        std::thread::spawn(move || {
            let lived = life.live();
            let _ = end.send((life, lived));
        });
        let (mut life, lived) = ended.recv_timeout(PATIENCE).map_err(|_| format!("it does not end in {PATIENCE:?}"))?;
        fs.clear_faults();
        tally.groups_led += life.groups_led;
        tally.groups_driven += life.groups_driven;
        if let Err(error) = &lived
            && !matches!(error, Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. } | Error::Busy { .. })
        {
            return Err(format!("told {error:?}"));
        }
        let told = |what: String| format!("{what}\n    lived {lived:?}");
        if rng.percent(50) {
            life.look().map_err(|what| told(format!("with the power on: {what}")))?;
        }
        fs.crash(if rng.percent(50) { Choice::AllLost } else { Choice::Seeded(rng.next()) });
        life.look().map_err(|what| told(format!("after a power loss: {what}")))?;
        tally.acknowledged += life.oracle.acknowledged;
        Ok(())
    }
}

fn singles(counts: &Counts, seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (setting, calls) in counts {
        for (op, calls) in calls {
            for nth in 1..=*calls {
                let kinds: &[_] = if *op == Op::CutWrite { &[("short", Errno::IO)] } else { &ERRNOS };
                for ((kind, errno), forever) in kinds.iter().flat_map(|kind| [(kind, false), (kind, true)]) {
                    let faults = vec![Fault { forever, ..Fault::once(*op, nth, *errno) }];
                    cases.push(Case { setting: *setting, faults, kind });
                }
            }
        }
    }
    // In no order: what there is no time for is not always the same.
    let mut at = 0;
    cases.sort_by_cached_key(|_| {
        at += 1;
        Rng::new(seed, at).next()
    });
    cases
}

/// Removes a log, for good.
fn clear(fs: &FaultFs, dir: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(dir)?;
    std::fs::File::open(fs.path())?.sync_all()
}

fn pair(counts: &Counts, rng: &mut Rng) -> Case {
    let setting = SETTINGS[rng.below(SETTINGS.len() as u64) as usize];
    let calls: Vec<_> = counts[&setting].iter().filter(|(_, calls)| *calls > 0).collect();
    let mut fault = || {
        let (op, calls) = calls[rng.below(calls.len() as u64) as usize];
        let (_, errno) = ERRNOS[rng.below(ERRNOS.len() as u64) as usize];
        Fault { forever: rng.percent(25), ..Fault::once(*op, 1 + rng.below(*calls), errno) }
    };
    Case { setting, faults: vec![fault(), fault()], kind: "pairs" }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.setting)?;
        for Fault { op, nth, errno, forever, .. } in &self.faults {
            write!(f, "; call {nth} of {op:?}: {errno:?}, {}", if *forever { "for ever" } else { "once" })?;
        }
        Ok(())
    }
}

/// A log's life, and what is known of it.
struct Life {
    dir: PathBuf,
    config: Config,
    setting: Setting,
    lies: bool,
    oracle: Oracle,
    next: Identity,
    groups_led: u64,
    groups_driven: u64,
}

impl Life {
    fn new(dir: PathBuf, config: Config, setting: Setting, lies: bool) -> Life {
        let next = Identity { life: 0, era: 0, thread: 0, counter: 0 };
        Life { dir, config, setting, lies, oracle: Oracle::default(), next, groups_led: 0, groups_driven: 0 }
    }

    /// Everything once, and on, whatever fails, until the log is no more; tells the first error.
    fn live(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        for steps in [0..8, 6..9] {
            let opened = self.open();
            let lived = opened.and_then(|log| {
                let mut lived = Ok(());
                for step in steps {
                    // What comes after a failure must not be told to be durable if it is not.
                    lived = lived.and(self.step(&log, step));
                }
                let stats = log.stats();
                self.groups_led += stats.groups_led;
                self.groups_driven += stats.groups_driven;
                lived.and(log.close(Duration::from_secs(10)))
            });
            first = first.and(lived);
        }
        first
    }

    fn open(&mut self) -> Result<Log, Error> {
        let (log, recovery) = Log::open(&self.dir, self.config.clone())?;
        self.next = Identity { life: self.next.life + 1, era: 0, counter: 0, ..self.next };
        self.oracle.hear(Told::Opened(recovery.end.get()));
        Ok(log)
    }

    fn step(&mut self, log: &Log, step: u64) -> Result<(), Error> {
        match step {
            0 | 4 | 8 => self.append(log, 1),
            3 => {
                let (first, flushed) = (log.first().get(), log.flushed().get());
                let upto = first + (flushed + 1).saturating_sub(first) / 2;
                if upto > flushed {
                    return Ok(());
                }
                self.oracle.hear(Told::Trimming(upto));
                log.trim(Lsn::new(upto))?;
                self.oracle.hear(Told::Trimmed(upto));
                Ok(())
            }
            6 => {
                let end = log.flush()?.get().saturating_sub(3).max(log.first().get() - 1);
                self.oracle.hear(Told::Truncating(end));
                log.truncate(Lsn::new(end))?;
                self.oracle.hear(Told::Truncated(end));
                self.next = Identity { era: self.next.era + 1, counter: 0, ..self.next };
                Ok(())
            }
            _ => self.append(log, 3),
        }
    }

    /// Some records at once.
    fn append(&mut self, log: &Log, count: u64) -> Result<(), Error> {
        let mut held: Vec<(Pending, Identity)> = Vec::new();
        let mut appended = Ok(());
        for _ in 0..count {
            match log.append(&self.next.payload()) {
                Ok(pending) => held.push((pending, self.next)),
                Err(error) => {
                    appended = Err(error);
                    break;
                }
            }
            self.next.counter += 1;
        }
        for (pending, identity) in held {
            let lsn = pending.lsn().get();
            let waited = match (self.lies, self.setting.is_driven) {
                (true, _) => Ok(()),
                (_, true) => block_on(pending).map(drop),
                (_, false) => pending.wait().map(drop),
            };
            match waited {
                Ok(()) => self.oracle.hear(Told::Acknowledged(lsn, identity)),
                Err(error) => appended = appended.and(Err(error)),
            }
        }
        appended
    }

    /// Opens what is left and judges it; then it must work.
    fn look(&mut self) -> Result<(), String> {
        let (log, recovery) = Log::open(&self.dir, self.config.clone()).map_err(|error| format!("open: {error}"))?;
        self.oracle.judge(&log, &recovery, self.next.life)?;
        self.next = Identity { life: self.next.life + 1, era: 0, counter: 0, ..self.next };
        self.append(&log, 2).map_err(|error| format!("with nothing wrong any more: {error}"))
    }
}
