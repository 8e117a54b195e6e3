//! A receiver, its sources, and what happens to them.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::ends::{PATIENCE, Process};
use crate::proxy::Proxy;
use crate::rng::Rng;

const SOURCES: u64 = 5;
const SOURCE_BYTES: u64 = 1_000_000;
/// Many segments, blocks and snapshots of small files.
const CONFIG: &str = "[receiver]\nblock_bytes_max = \"64 KiB\"\nsnapshot_interval_bytes = \"128 KiB\"\n\
    [log]\nsegment_bytes_min = \"128 KiB\"\nsegment_bytes_max = \"1 MiB\"\n";

/// What was done, to see that something was.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    receiver_kills: u64,
    receiver_ends: u64,
    source_kills: u64,
    source_ends: u64,
    cuts: u64,
    connections: u64,
    bytes: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.receiver_kills += other.receiver_kills;
        self.receiver_ends += other.receiver_ends;
        self.source_kills += other.source_kills;
        self.source_ends += other.source_ends;
        self.cuts += other.cuts;
        self.connections += other.connections;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { receiver_kills, receiver_ends, source_kills, source_ends, cuts, connections, bytes } = self;
        write!(
            f,
            "receivers: {receiver_kills} killed, {receiver_ends} ended; sources: {source_kills} killed, {source_ends} ended, \
             {cuts} cut off; {connections} connections, {bytes} bytes compared"
        )
    }
}

pub(super) struct Round<'a> {
    program: &'a Path,
    dir: &'a Path,
    receiver: Option<Process>,
    sources: Vec<Source>,
    counts: Counts,
    /// A control: the receiver's disk is one day what it was before.
    lies: bool,
}

struct Source {
    name: String,
    file: PathBuf,
    length: u64,
    proxy: Proxy,
    life: Option<Process>,
    /// How far it was ever told to be durable.
    told: u64,
    is_done: bool,
}

impl<'a> Round<'a> {
    pub(super) fn start(program: &'a Path, dir: &'a Path, rng: &mut Rng, lies: bool) -> Result<Round<'a>, String> {
        std::fs::write(dir.join("receive.toml"), CONFIG).map_err(|error| error.to_string())?;
        let mut round = Round { program, dir, receiver: None, sources: Vec::new(), counts: Counts::default(), lies };
        let address = round.start_receiver()?;
        for number in 0..SOURCES {
            let name = format!("source-{number}");
            let (file, bytes) = (dir.join(&name), text(rng, number));
            std::fs::write(&file, &bytes).map_err(|error| error.to_string())?;
            let proxy = Proxy::new(address).map_err(|error| error.to_string())?;
            let length = bytes.len() as u64;
            let mut source = Source { name, file, length, proxy, life: None, told: 0, is_done: false };
            source.start(program)?;
            round.sources.push(source);
        }
        Ok(round)
    }

    /// Everything was sent.
    pub(super) fn is_done(&self) -> bool {
        self.sources.iter().all(|source| source.is_done)
    }

    /// After a while, something happens to one of them.
    pub(super) fn fault(&mut self, rng: &mut Rng) -> Result<(), String> {
        std::thread::sleep(Duration::from_micros(rng.below(50_000)));
        if rng.percent(50) {
            self.end_receiver(if rng.percent(80) { Signal::KILL } else { Signal::INT })?;
            if self.lies {
                self.roll_back()?;
            }
            let address = self.start_receiver()?;
            self.sources.iter().for_each(|source| source.proxy.lead_to(address));
            return self.sources.iter_mut().try_for_each(Source::listen);
        }
        let mut sending: Vec<_> = self.sources.iter_mut().filter(|source| !source.is_done).collect();
        if sending.is_empty() {
            return Ok(());
        }
        let chosen = rng.below(sending.len() as u64) as usize;
        let source = &mut sending[chosen];
        match rng.below(10) {
            0..5 => {
                source.end(Signal::KILL)?;
                self.counts.source_kills += 1;
            }
            5..7 => {
                source.end(Signal::INT)?;
                self.counts.source_ends += 1;
            }
            _ => {
                source.proxy.cut();
                self.counts.cuts += 1;
            }
        }
        if source.life.is_none() && !source.is_done {
            source.start(self.program)?;
        }
        self.sources.iter_mut().try_for_each(Source::listen)
    }

    /// What is left to be sent is sent in peace; then everything must be there, once.
    pub(super) fn finish(mut self) -> Result<Counts, String> {
        let began = Instant::now();
        while !self.is_done() {
            self.sources.iter_mut().try_for_each(Source::listen)?;
            if let Some(status) = self.receiver.as_mut().and_then(|receiver| receiver.ended().transpose()) {
                return Err(format!("the receiver ended by itself: {:?}", status?));
            }
            if began.elapsed() > PATIENCE {
                let left: Vec<_> =
                    self.sources.iter().filter(|source| !source.is_done).map(|s| (&s.name, s.told)).collect();
                return Err(format!("after {PATIENCE:?} these have not sent everything: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.end_receiver(Signal::INT)?;
        for source in &self.sources {
            self.counts.bytes += self.verified(source)?;
            self.counts.connections += source.proxy.cut();
        }
        Ok(self.counts)
    }

    /// Compares a source's bytes in the log with its file: each once, in their order.
    fn verified(&self, source: &Source) -> Result<u64, String> {
        let mut verify = Command::new(self.program);
        verify.arg("verify").arg("--log").arg(self.dir.join("log")).arg("--against").arg(&source.file);
        let ended = verify.args(["--source", &source.name, "--format", "json"]).output();
        let ended = ended.map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
        let found = &report["comparison"];
        let is_whole = found["compared_bytes"] == source.length && found["not_in_log_bytes"] == 0;
        if !ended.status.success() || !is_whole {
            let said = String::from_utf8_lossy(&ended.stderr);
            return Err(format!("{}: verify ends with {}: {report} {said}", source.name, ended.status));
        }
        Ok(source.length)
    }

    fn start_receiver(&mut self) -> Result<SocketAddr, String> {
        let mut command = Command::new(self.program);
        command
            .arg("receive")
            .arg("--log")
            .arg(self.dir.join("log"))
            .arg("--config")
            .arg(self.dir.join("receive.toml"));
        command.args(["--listen", "127.0.0.1:0", "--format", "json"]);
        let receiver = Process::start(&mut command, &self.dir.join("receiver.err"))?;
        let line = receiver.line().unwrap_or_default();
        let address = line["addresses"][0].as_str().and_then(|address| address.parse().ok());
        let told = || format!("the receiver does not listen, it says {line}: {}", receiver.complaints());
        let address = address.ok_or_else(told)?;
        self.receiver = Some(receiver);
        Ok(address)
    }

    fn end_receiver(&mut self, signal: Signal) -> Result<(), String> {
        let receiver = self.receiver.take().expect("it runs");
        let complaints = self.dir.join("receiver.err");
        let (status, _) = receiver.end(signal)?;
        match signal {
            Signal::KILL => self.counts.receiver_kills += 1,
            _ => self.counts.receiver_ends += 1,
        }
        let said = std::fs::read(&complaints).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        if !is_ended_by(status, signal) || said.contains("panicked") {
            return Err(format!("the receiver ends with {status}: {}", said.trim()));
        }
        Ok(())
    }

    /// Puts back what the log was when the receiver was killed for the first time.
    fn roll_back(&self) -> Result<(), String> {
        let (log, copy) = (self.dir.join("log"), self.dir.join("copy"));
        let (from, to) = if copy.exists() { (&copy, &log) } else { (&log, &copy) };
        let told = |error: std::io::Error| error.to_string();
        if to.exists() {
            std::fs::remove_dir_all(to).map_err(told)?;
        }
        std::fs::create_dir(to).map_err(told)?;
        for entry in std::fs::read_dir(from).map_err(told)? {
            let name = entry.map_err(told)?.file_name();
            std::fs::copy(from.join(&name), to.join(&name)).map_err(told)?;
        }
        Ok(())
    }
}

/// By the signal, or as a command that it has asked to end.
fn is_ended_by(status: ExitStatus, signal: Signal) -> bool {
    match signal {
        Signal::KILL => status.signal() == Some(Signal::KILL.as_raw()),
        _ => status.code() == Some(130),
    }
}

impl Source {
    fn start(&mut self, program: &Path) -> Result<(), String> {
        let mut command = Command::new(program);
        command.arg("send").arg(&self.file).args(["--to", &self.proxy.address().to_string()]);
        // Slow enough that most of what happens comes in its middle.
        command.args(["--outstanding", "8 KiB", "--format", "json", "--report-every", "1ms", "--quiet"]);
        self.life = Some(Process::start(&mut command, &self.file.with_extension("err"))?);
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<(), String> {
        let Some(life) = self.life.take() else { return Ok(()) };
        let (status, lines) = life.end(signal)?;
        self.hear(&lines)?;
        // It may have been done before.
        self.is_done = status.success();
        let is_right = self.is_done || is_ended_by(status, signal) || status.signal() == Some(signal.as_raw());
        if is_right { Ok(()) } else { Err(format!("{} ends with {status}", self.name)) }
    }

    /// Takes note of what it has said, and of its end.
    fn listen(&mut self) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(status) = life.ended()? else {
            let lines = life.lines();
            return self.hear(&lines);
        };
        let complaints = life.complaints();
        let (_, lines) = life.wait()?;
        self.life = None;
        self.hear(&lines)?;
        self.is_done = status.success();
        if !self.is_done {
            return Err(format!("{} ends with {status}: {complaints}", self.name));
        }
        if self.told != self.length {
            return Err(format!("{} is done at {}, its file has {} bytes", self.name, self.told, self.length));
        }
        Ok(())
    }

    /// Each of its lines says how far it is durable, the first one of a life what the receiver has.
    fn hear(&mut self, lines: &[Value]) -> Result<(), String> {
        for line in lines {
            let Some(offset) = line["offset"].as_u64() else { continue };
            if offset < self.told {
                return Err(format!(
                    "{} was told that {} bytes are durable, later {offset}: {line}",
                    self.name, self.told
                ));
            }
            self.told = offset;
        }
        Ok(())
    }
}

/// Lines of very different length. Each names its source and its number, so that none looks like another.
fn text(rng: &mut Rng, source: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut number = 0;
    while (bytes.len() as u64) < SOURCE_BYTES {
        number += 1;
        bytes.extend_from_slice(format!("{source} {number} ").as_bytes());
        let length = if rng.percent(1) { rng.below(20_000) } else { rng.below(300) };
        bytes.extend((0..length).map(|at| b' ' + ((number + at * 7) % 94) as u8));
        bytes.push(b'\n');
    }
    bytes
}
