//! A victim, seen from its parent.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::Args;
use super::told::{TOLD_BYTES, Told};

/// The least that a pipe holds: so little can have been told and not been heard.
const PIPE_BYTES: usize = 4096;
pub(crate) const UNHEARD_MAX: usize = PIPE_BYTES / TOLD_BYTES + 2;

/// A victim at work. It does not outlive this.
pub(crate) struct Victim {
    child: Child,
    told: Arc<Mutex<Vec<Told>>>,
    /// What the clock said when each of them was heard.
    times: Arc<Mutex<Vec<u64>>>,
    listener: Option<JoinHandle<()>>,
    complaint: Option<JoinHandle<String>>,
}

/// A victim that is no more.
pub(crate) struct Ended {
    pub(crate) told: Vec<Told>,
    /// What the clock said when each of them was heard, at or after the moment when it was told.
    pub(crate) times: Vec<u64>,
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard error.
    pub(crate) complaint: String,
}

impl Victim {
    pub(crate) fn start(args: &Args) -> std::io::Result<Victim> {
        Victim::start_with(args, || 0)
    }

    /// With a clock, read whenever something is heard.
    pub(crate) fn start_with(args: &Args, clock: impl Fn() -> u64 + Send + 'static) -> std::io::Result<Victim> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("victim").arg("--dir").arg(&args.dir);
        command.arg("--seed").arg(args.seed.to_string()).arg("--life").arg(args.life.to_string());
        command
            .args(args.lies.then_some("--lies"))
            .args(args.buffered.then_some("--buffered"))
            .args(args.past_caches.then_some("--past-caches"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (told, times) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let mut pipe = child.stdout.take().expect("piped");
        rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES)?;
        let mut errors = child.stderr.take().expect("piped");
        let listener = std::thread::spawn({
            let (told, times) = (told.clone(), times.clone());
            move || {
                let mut bytes = [0; TOLD_BYTES];
                while pipe.read_exact(&mut bytes).is_ok() {
                    let word = Told::decode(&bytes).expect("a victim tells nothing else");
                    times.lock().expect("nobody panics here").push(clock());
                    told.lock().expect("nobody panics here").push(word);
                }
            }
        });
        let complaint = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Ok(Victim { child, told, times, listener: Some(listener), complaint: Some(complaint) })
    }

    /// Everything heard so far: what was told before now.
    pub(crate) fn heard(&self) -> Vec<Told> {
        self.told.lock().expect("nobody panics here").clone()
    }

    /// Kills it, unless it has ended by itself.
    pub(crate) fn kill(mut self) -> std::io::Result<Ended> {
        let _ = self.child.kill();
        let status = self.child.wait()?;
        self.listener.take().expect("once").join().expect("it does not panic");
        let complaint = self.complaint.take().expect("once").join().expect("it does not panic");
        let times = std::mem::take(&mut *self.times.lock().expect("nobody panics here"));
        Ok(Ended { told: self.heard(), times, status, complaint })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
