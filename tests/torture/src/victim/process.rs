//! A victim, seen from its parent.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::Args;
use super::told::{TOLD_BYTES, Told};

/// A victim at work. It does not outlive this.
pub(crate) struct Victim {
    child: Child,
    told: Arc<Mutex<Vec<Told>>>,
    listener: Option<JoinHandle<()>>,
    complaint: Option<JoinHandle<String>>,
}

/// A victim that is no more.
pub(crate) struct Ended {
    pub(crate) told: Vec<Told>,
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard error.
    pub(crate) complaint: String,
}

impl Victim {
    pub(crate) fn start(args: &Args) -> std::io::Result<Victim> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("victim").arg("--dir").arg(&args.dir);
        command.arg("--seed").arg(args.seed.to_string()).arg("--life").arg(args.life.to_string());
        command.args(args.lies.then_some("--lies")).args(args.buffered.then_some("--buffered"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut pipe = child.stdout.take().expect("piped");
        let mut errors = child.stderr.take().expect("piped");
        let listener = std::thread::spawn({
            let told = told.clone();
            move || {
                let mut bytes = [0; TOLD_BYTES];
                while pipe.read_exact(&mut bytes).is_ok() {
                    let word = Told::decode(&bytes).expect("a victim tells nothing else");
                    told.lock().expect("nobody panics here").push(word);
                }
            }
        });
        let complaint = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Ok(Victim { child, told, listener: Some(listener), complaint: Some(complaint) })
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
        Ok(Ended { told: self.heard(), status, complaint })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
