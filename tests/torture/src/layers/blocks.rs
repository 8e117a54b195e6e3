//! A real file system on a recorded device: every write, discard and flush that it made under a process that was writing
//! is remembered, and what a power loss at any of these moments would leave is mounted, by the kernel, and judged.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_faultfs::machine::{FsKind, LoopDevice, Mount, Need, require};
use seawall_faultfs::{Choice, Recorder};

use super::lives::{self, look};
use crate::control::until_caught;
use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::rng::Rng;
use crate::victim::{self, Told, UNHEARD_MAX, Victim};

pub(crate) struct Blocks {
    name: &'static str,
    kind: FsKind,
    goal: u64,
    share: Duration,
}

/// Images cut from one recording.
const IMAGES: usize = 60;
/// Processes in it, one after the other.
const LIVES: u64 = 3;
/// Bytes written that are remembered; a recording has some ten MiB.
const RECORDED_BYTES_MAX: u64 = 128 << 20;
const CONTROL_IMAGES: u64 = 60;
/// Images of a lane that may be beyond repair, next to one in ten recordings.
const UNMOUNTABLE_MAX: u64 = 1;

impl Blocks {
    pub(crate) const EXT4: Blocks =
        Blocks { name: "blocks", kind: FsKind::Ext4, goal: 1_500, share: Duration::from_secs(120) };
    pub(crate) const XFS: Blocks =
        Blocks { name: "blocks-xfs", kind: FsKind::Xfs, goal: 300, share: Duration::from_secs(60) };
    pub(crate) const BTRFS: Blocks =
        Blocks { name: "blocks-btrfs", kind: FsKind::Btrfs, goal: 300, share: Duration::from_secs(60) };
}

impl Layer for Blocks {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        "writes and flushes of a file system are recorded; crash images are cut from them and mounted"
    }

    fn unit(&self) -> &'static str {
        "images"
    }

    fn goals(&self) -> Goals {
        Goals { ci: self.goal, long: self.goal * 50, share: self.share }
    }

    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        until_caught(plan, CONTROL_IMAGES, |run| self.lane(run, 0, true))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        run.gather(|number| self.lane(run, number, false))
    }
}

/// One process.
struct Life {
    /// What it told, and the device's position when that was heard.
    told: Vec<(u64, Told)>,
    /// The position when it was no more.
    ended: u64,
}

impl Blocks {
    fn lane(&self, run: &Run<'_>, number: u64, lies: bool) -> Result<Found, CannotRun> {
        require(&[Need::Root, Need::Fuse, Need::Loop, Need::Fs(self.kind)])
            .map_err(|why| CannotRun(why.to_string()))?;
        let mut found = Found::default();
        let (mut recordings, mut acknowledged, mut repaired, mut unmountable) = (0, 0, 0, 0);
        let mut next = run.next();
        while let Some(first) = next {
            let mut rng = Rng::new(run.plan.seed, first);
            let recording = Recording::make(self.kind, &mut rng, lies).map_err(|e| CannotRun(e.to_string()))?;
            let recording = match recording {
                Ok(recording) => recording,
                Err(what) => {
                    found.failures.push(format!("lane {number}, seed {}: {what}", run.plan.seed));
                    if found.failures.len() >= run.plan.failures_max {
                        run.stop();
                    }
                    run.done(1);
                    next = run.next();
                    continue;
                }
            };
            recordings += 1;
            for _ in 0..IMAGES {
                let Some(image) = next else { break };
                let mut rng = Rng::new(run.plan.seed, image);
                // An image beyond repair says nothing about the log, and is not counted as one: another is cut instead.
                let judged = loop {
                    let judged = recording.judge_one(&mut rng, !lies).map_err(|e| CannotRun(e.to_string()))?;
                    match judged {
                        None if recording.unmountable.load(Ordering::Relaxed) <= UNMOUNTABLE_MAX => {}
                        judged => break judged,
                    }
                };
                match judged {
                    Some(Ok(there)) => acknowledged += there,
                    None => break,
                    Some(Err(what)) => {
                        found.failures.push(format!("lane {number}, image {image}, seed {}: {what}", run.plan.seed));
                    }
                }
                if found.failures.len() >= run.plan.failures_max {
                    run.stop();
                }
                run.done(1);
                next = run.next();
            }
            repaired += recording.repaired.into_inner();
            unmountable += recording.unmountable.into_inner();
            if unmountable > UNMOUNTABLE_MAX + recordings / 10 {
                break;
            }
        }
        found.notes.push(format!(
            "lane {number}: {recordings} recordings; {acknowledged} acknowledgments looked for; images repaired {repaired}, beyond \
             repair {unmountable}"
        ));
        if unmountable > UNMOUNTABLE_MAX + recordings / 10 {
            found.failures.push(format!("lane {number}: {unmountable} images do not mount, even when repaired"));
        }
        Ok(found)
    }
}

/// A device's past, and what the processes that wrote to it had told by when.
struct Recording {
    kind: FsKind,
    recorder: Recorder,
    lives: Vec<Life>,
    /// Images that had to be repaired to be mounted.
    repaired: AtomicU64,
    /// And those where that was no help: every copy of a superblock was torn.
    unmountable: AtomicU64,
    home: tempfile::TempDir,
}

/// What could not be done here, and around it what should not have happened.
type Judged<T> = std::io::Result<Result<T, String>>;

impl Recording {
    fn make(kind: FsKind, rng: &mut Rng, lies: bool) -> Judged<Recording> {
        let home = tempfile::tempdir()?;
        for dir in ["device", "live", "crashed"] {
            std::fs::create_dir(home.path().join(dir))?;
        }
        let recorder = Recorder::mount(&home.path().join("device"), kind.device_bytes(), RECORDED_BYTES_MAX)?;
        let device = LoopDevice::attach(&recorder.device(), true)?;
        kind.make(device.path())?;
        let mount = Mount::new(device.path(), &home.path().join("live"), kind, kind.options())?;
        recorder.forget();
        let mut lives = Vec::new();
        for life in 1..=LIVES {
            match live(&recorder, mount.path(), rng, life, lies)? {
                Ok(life) => lives.push(life),
                Err(what) => return Ok(Err(what)),
            }
        }
        // Not next to its own images: btrfs would take them for the same file system.
        mount.unmount()?;
        Ok(Ok(Recording { kind, recorder, lives, repaired: AtomicU64::new(0), unmountable: AtomicU64::new(0), home }))
    }

    /// Power is lost somewhere in it. Says how many acknowledgments had been heard by then; nothing when the file system
    /// itself is lost, and with it what can be said about the log: counted, and rare, or a failure.
    fn judge_one(&self, rng: &mut Rng, keep: bool) -> std::io::Result<Option<Result<u64, String>>> {
        let (first, now) = (self.recorder.first(), self.recorder.position());
        let position = first + rng.below(now - first + 1);
        let choice = match rng.below(10) {
            0..3 => Choice::AllLost,
            3 => Choice::AllKept,
            _ => Choice::Seeded(rng.next()),
        };
        let (mut oracle, life) = self.known_at(position);
        let image = self.recorder.image(position, choice);
        let device = LoopDevice::attach(image.path(), true)?;
        let at = self.home.path().join("crashed");
        let judged = match self.mount(device.path(), &at) {
            Err(_) => {
                self.unmountable.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            Ok(mount) => {
                let mut next = lives::Life { number: life, lies: false, rng, oracle: &mut oracle };
                let judged = look(&mount.path().join("log"), &mut next);
                mount.unmount()?;
                judged
            }
        };
        let Err(what) = judged else { return Ok(Some(Ok(oracle.acknowledged))) };
        // What a control did is of no use to anybody.
        if !keep {
            return Ok(Some(Err(what)));
        }
        // Cut once more: what was judged has been written to.
        let kept = tempfile::tempdir()?.keep().join("device.img");
        self.recorder.image(position, choice).save(&kept)?;
        Ok(Some(Err(format!(
            "{what}\n    power lost at step {position} of {first} to {now}, {choice:?}; the image is {}",
            kept.display()
        ))))
    }

    /// As a machine does that boots: what does not mount is repaired first, where that loses nothing of what was synced.
    fn mount(&self, device: &Path, at: &Path) -> std::io::Result<Mount> {
        let mount = || Mount::new(device, at, self.kind, self.kind.options());
        mount().or_else(|error| {
            self.kind.repair(device).map_err(|why| std::io::Error::other(format!("{error}; {why}")))?;
            self.repaired.fetch_add(1, Ordering::Relaxed);
            mount()
        })
    }

    /// What was certain, and what perhaps, when power was lost; and the number of the next life.
    fn known_at(&self, position: u64) -> (Oracle, u64) {
        let mut oracle = Oracle::default();
        for (nth, life) in self.lives.iter().enumerate() {
            let certain = life.told.partition_point(|(time, _)| *time <= position);
            let (heard, later) = life.told.split_at(certain);
            heard.iter().for_each(|(_, told)| oracle.hear(*told));
            // A life may end without a word; the next begins after it.
            if position < life.ended {
                // What was heard next may have been told before. What was not in the pipe yet was not.
                later.iter().take(UNHEARD_MAX).for_each(|(_, told)| oracle.hear_perhaps(*told));
                return (oracle, nth as u64 + 2);
            }
        }
        (oracle, LIVES + 1)
    }
}

fn live(recorder: &Recorder, at: &Path, rng: &mut Rng, life: u64, lies: bool) -> Judged<Life> {
    let args = victim::Args { dir: at.join("log"), seed: rng.next(), life, lies, buffered: lies, past_caches: false };
    let clock = recorder.clock();
    let victim = Victim::start_with(&args, move || clock.position())?;
    std::thread::sleep(Duration::from_millis(20 + rng.below(100)));
    let ended = victim.kill()?;
    if let Some(code) = ended.status.code().filter(|code| *code != 0) {
        return Ok(Err(format!("the process ended with {code}: {}", ended.complaint.trim())));
    }
    Ok(Ok(Life { told: ended.times.into_iter().zip(ended.told).collect(), ended: recorder.position() }))
}
