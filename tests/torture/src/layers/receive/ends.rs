//! The two ends as processes, and what they say.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver as Heard, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes longer, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose standard output is read while it runs. It does not outlive this.
pub(super) struct Process {
    child: Child,
    lines: Heard<Value>,
    reader: Option<JoinHandle<()>>,
    complaints: PathBuf,
}

impl Process {
    /// What it complains about goes behind what is in `complaints`.
    pub(super) fn start(command: &mut Command, complaints: &Path) -> Result<Process, String> {
        let told = |error: std::io::Error| format!("no process: {error}");
        let file = File::options().create(true).append(true).open(complaints).map_err(told)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().map_err(told)?;
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (told, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in out.split(b'\n').map_while(Result::ok) {
                // One that was killed may have ended in the middle of a line.
                if let Ok(line) = serde_json::from_slice(&line)
                    && told.send(line).is_err()
                {
                    return;
                }
            }
        });
        Ok(Process { child, lines, reader: Some(reader), complaints: complaints.to_owned() })
    }

    /// What it says next, if it says something in time.
    pub(super) fn line(&self) -> Option<Value> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// What it has said by now.
    pub(super) fn lines(&self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| error.to_string())
    }

    /// Ends it with a signal, and hears what it still said.
    pub(super) fn end(mut self, signal: Signal) -> Result<(ExitStatus, Vec<Value>), String> {
        // It may be gone already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
        self.wait()
    }

    /// Waits for its end, and hears what it still said.
    pub(super) fn wait(&mut self) -> Result<(ExitStatus, Vec<Value>), String> {
        let began = Instant::now();
        let status = loop {
            match self.ended()? {
                Some(status) => break status,
                None if began.elapsed() > PATIENCE => return Err(format!("it does not end: {}", self.complaints())),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it does not panic");
        }
        Ok((status, self.lines()))
    }

    /// The last of what it complained about.
    pub(super) fn complaints(&self) -> String {
        let text = std::fs::read(&self.complaints).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let from = text.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
        text[from..].to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
