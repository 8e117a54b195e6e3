//! What the tests share: running the command, and making files worth ingesting.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing in these tests takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of one test, on the disk that cargo builds on.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.arg(name)
    }
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// The lines of `--format json`.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Panics unless the exit code is this one; nothing may ever have panicked.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ended {
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(
            self.code,
            code,
            "\n--- stdout\n{}\n--- stderr\n{}",
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }
}

pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the command to its end.
pub(crate) fn seawall<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Ended {
    ended(command(args).output().unwrap())
}

/// Runs the command with nobody at the other end of its standard output.
pub(crate) fn seawall_unread<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    ended(command(args).stdout(writer).output().unwrap())
}

/// Runs the command with these bytes as its standard input.
pub(crate) fn seawall_with_input<A: AsRef<std::ffi::OsStr>>(args: &[A], input: &[u8]) -> Ended {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || stdin.write_all(input).ok());
        ended(child.wait_with_output().unwrap())
    })
}

pub(crate) fn ended(output: std::process::Output) -> Ended {
    Ended {
        code: code(output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The exit code; that of a process that was killed is what a shell would say.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// A run whose standard output is read while it goes on. Killed when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// The next line without its newline; `None` at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line).unwrap();
        (bytes > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Lines up to and including the first for which this is true.
    pub(crate) fn lines_until(&mut self, found: impl Fn(&str) -> bool) -> Vec<String> {
        let began = Instant::now();
        let mut lines = Vec::new();
        while began.elapsed() < PATIENCE {
            let Some(line) = self.line() else { panic!("ended after {lines:?}") };
            lines.push(line);
            if found(&lines[lines.len() - 1]) {
                return lines;
            }
        }
        panic!("not within {PATIENCE:?}: {lines:?}");
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small generator; the same seed gives the same numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// About `bytes` of text: lines of very different length, empty ones, a few with bytes that are no text, and a last one
/// without a newline. Every line names its number, so that no two runs of it look the same.
pub(crate) fn text_file(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut file = Vec::with_capacity(bytes + 4096);
    let mut number = 0;
    while file.len() < bytes {
        number += 1;
        let length = match random.below(100) {
            0..10 => 0,
            10..95 => random.below(200),
            95..99 => random.below(4_000),
            _ => random.below(40_000),
        };
        if length > 0 {
            file.extend_from_slice(format!("line {number} ").as_bytes());
            file.extend((0..length).map(|i| b' ' + ((number + i * 7) % 94) as u8));
        }
        if random.below(50) == 0 {
            file.extend_from_slice(&[0xFF, 0, 0x1B, b'\r']);
        }
        file.push(b'\n');
    }
    file.extend_from_slice(b"the last line has no newline");
    file
}

/// The segment files of a log, oldest first.
pub(crate) fn segments(log: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    files
}

/// Flips a bit of the first byte of `marker`, wherever a segment of the log holds it.
pub(crate) fn flip_bit_at(log: &Path, marker: &[u8]) {
    for path in segments(log) {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker) {
            bytes[at] ^= 1;
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
            file.sync_all().unwrap();
            return;
        }
    }
    panic!("no segment holds {:?}", String::from_utf8_lossy(marker));
}
