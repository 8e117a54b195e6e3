//! A program that is waited for, but not for ever.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard output.
    pub(crate) output: Vec<u8>,
}

/// Runs it. Nothing if it had to be ended, with all that it started.
pub(crate) fn end(command: &mut Command, patience: Duration) -> std::io::Result<Option<Ended>> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn()?;
    let mut pipe = child.stdout.take().expect("piped");
    // What is told may be longer than a pipe.
    let output = std::thread::spawn(move || {
        let mut output = Vec::new();
        pipe.read_to_end(&mut output).map(|_| output)
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > patience {
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok(Some(Ended { status, output: output.join().expect("it does not panic")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_ended_with_all_that_it_started() {
        let mut shell = Command::new("sh");
        // Its child holds the pipe as well: if it lived on, so would whoever reads it.
        shell.args(["-c", "sleep 1000 & echo $!; wait"]);
        let began = Instant::now();
        assert!(end(&mut shell, Duration::from_millis(300)).unwrap().is_none());
        assert!(began.elapsed() < Duration::from_secs(100));
        let mut told = Command::new("sh");
        let ended = end(told.args(["-c", "head -c 200000 /dev/zero; exit 3"]), Duration::from_secs(60)).unwrap();
        let ended = ended.expect("it ends");
        assert_eq!((ended.status.code(), ended.output.len()), (Some(3), 200_000));
    }
}
