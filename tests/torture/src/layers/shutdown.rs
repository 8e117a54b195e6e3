//! A file system shut down under a log that is being written: what the kernel had not brought to the device is gone, and
//! the file system's own journal is replayed at the next mount.

use std::path::PathBuf;
use std::time::Duration;

use super::lives::{Life, Place, lane, look};
use crate::control::until_caught;
use crate::layer::{CannotRun, Found, Goals, Layer, Plan, Run};
use crate::mounts::Image;
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
        until_caught(plan, CONTROL_LIVES, |run| lane(run, 0, true, self.place()?))
    }

    fn run(&self, run: &Run<'_>) -> Result<Found, CannotRun> {
        run.gather(|number| lane(run, number, false, self.place()?))
    }
}

impl Shutdown {
    fn place(&self) -> Result<Mounted, CannotRun> {
        let mut image = Image::new(self.file_system, IMAGE_BYTES)?;
        image.mount()?;
        Ok(Mounted { image, file_system: self.file_system })
    }
}

/// A file system of its own.
struct Mounted {
    image: Image,
    file_system: &'static str,
}

impl Place for Mounted {
    fn crash(&mut self, life: &mut Life<'_>) -> Result<Result<(), String>, CannotRun> {
        let crashed = crash(&self.image, life);
        self.image.unmount()?;
        self.image.mount()?;
        Ok(crashed.and_then(|()| if life.rng.percent(25) { Ok(()) } else { look(&log_in(&self.image), life) }))
    }

    fn renew(&mut self, keep: bool) -> Result<Option<PathBuf>, CannotRun> {
        let mut image = Image::new(self.file_system, IMAGE_BYTES)?;
        image.mount()?;
        let old = std::mem::replace(&mut self.image, image);
        Ok(keep.then(|| old.keep()))
    }
}

fn log_in(image: &Image) -> PathBuf {
    image.at().join("log")
}

/// One life. What was heard before the plug was pulled counts; what was heard later may or may not have happened.
fn crash(image: &Image, life: &mut Life<'_>) -> Result<(), String> {
    let (number, lies) = (life.number, life.lies);
    let args = victim::Args {
        dir: log_in(image),
        seed: life.rng.next(),
        life: number,
        lies,
        buffered: lies,
        past_caches: false,
    };
    let victim = Victim::start(&args).map_err(|error| format!("no process: {error}"))?;
    let patience_micros = if life.rng.percent(25) { life.rng.below(15_000) } else { life.rng.below(80_000) };
    std::thread::sleep(Duration::from_micros(patience_micros));
    let heard = victim.heard();
    image.shut_down().map_err(|error| format!("shutdown: {error}"))?;
    let ended = victim.kill().map_err(|error| format!("no end: {error}"))?;
    // That the plug was pulled it may well have noticed.
    if let Some(code) = ended.status.code().filter(|code| *code != 0 && *code != i32::from(EXIT_POISONED)) {
        return Err(format!("the process ended with {code}: {}", ended.complaint.trim()));
    }
    let doubtful = ended.told[heard.len()..].iter();
    heard.into_iter().for_each(|told| life.oracle.hear(told));
    doubtful.for_each(|told| life.oracle.hear_perhaps(*told));
    Ok(())
}
