//! A file system shut down under a log that is being written: what the kernel had not brought to the device is gone, and
//! the file system's own journal is replayed at the next mount.

use std::time::Duration;

use super::kill::look;
use crate::control::until_caught;
use crate::judge::Oracle;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::mounts::Image;
use crate::rng::Rng;
use crate::victim::{self, EXIT_POISONED, Victim};

pub(crate) struct Shutdown {
    name: &'static str,
    file_system: &'static str,
    goal: u64,
    share: Duration,
}

const IMAGE_BYTES: u64 = 320 << 20;
const CONTROL_LIVES: u64 = 20;

impl Shutdown {
    pub(crate) const EXT4: Shutdown =
        Shutdown { name: "ext4", file_system: "ext4", goal: 600, share: Duration::from_secs(90) };
    pub(crate) const XFS: Shutdown =
        Shutdown { name: "xfs", file_system: "xfs", goal: 300, share: Duration::from_secs(60) };
}

impl Layer for Shutdown {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        "the file system under a writer is shut down by ioctl, and mounted again"
    }

    fn unit(&self) -> &'static str {
        "shutdowns"
    }

    fn goals(&self) -> Goals {
        Goals { ci: self.goal, long: self.goal * 80, share: self.share }
    }

    fn control(&self, plan: &Plan) -> Result<bool, CannotRun> {
        until_caught(plan, CONTROL_LIVES, |run| self.lane(run, 0, true))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        for lane in run.on_lanes(|number| self.lane(run, number, false)) {
            found.merge(lane?);
        }
        Ok(found)
    }
}

impl Shutdown {
    fn lane(&self, run: &Run<'_>, number: u64, lies: bool) -> Result<Found, CannotRun> {
        let mut found = Found::default();
        let mut image = Image::new(self.file_system, IMAGE_BYTES)?;
        let (mut oracle, mut acknowledged) = (Oracle::default(), 0);
        image.mount()?;
        while let Some(cycle) = run.next() {
            let mut rng = Rng::new(run.plan.seed, cycle);
            let life = cycle + 1;
            let crashed = crash(&image, &mut rng, life, lies, &mut oracle);
            image.unmount()?;
            image.mount()?;
            let judged = crashed.and_then(|()| match rng.percent(25) {
                true => Ok(()),
                false => look(&log_in(&image), &mut rng, life, &mut oracle),
            });
            if let Err(what) = judged {
                let seed = run.plan.seed;
                let kept = image.keep();
                found.failures.push(format!(
                    "lane {number}, cycle {cycle}, seed {seed}: {what}\n    the image is kept in {}",
                    kept.display()
                ));
                if found.failures.len() >= run.plan.failures_max {
                    run.stop();
                }
                acknowledged += oracle.acknowledged;
                oracle = Oracle::default();
                image = Image::new(self.file_system, IMAGE_BYTES)?;
                image.mount()?;
            }
            run.done(1);
        }
        acknowledged += oracle.acknowledged;
        found.notes.push(format!("lane {number}: {acknowledged} acknowledgments"));
        Ok(found)
    }
}

fn log_in(image: &Image) -> std::path::PathBuf {
    image.at().join("log")
}

/// One life. What was heard before the plug was pulled counts; what was heard later may or may not have happened.
fn crash(image: &Image, rng: &mut Rng, life: u64, lies: bool, oracle: &mut Oracle) -> Result<(), String> {
    let args = victim::Args { dir: log_in(image), seed: rng.next(), life, lies, buffered: lies };
    let victim = Victim::start(&args).map_err(|error| format!("no process: {error}"))?;
    let patience_micros = if rng.percent(25) { rng.below(15_000) } else { rng.below(80_000) };
    std::thread::sleep(Duration::from_micros(patience_micros));
    let heard = victim.heard();
    image.shut_down().map_err(|error| format!("shutdown: {error}"))?;
    let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
    // That the plug was pulled it may well have noticed.
    if let Some(code) = ended.status.code().filter(|code| *code != 0 && *code != i32::from(EXIT_POISONED)) {
        return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
    }
    let doubtful = ended.told[heard.len()..].iter();
    heard.into_iter().for_each(|told| oracle.hear(told));
    doubtful.for_each(|told| oracle.hear_perhaps(*told));
    Ok(())
}
