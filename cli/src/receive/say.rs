//! What `receive` says on standard output. That nobody may read it is no reason to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc::{self, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use seawall::Lsn;
use seawall::node::{Receiver, ServerWatch};
use serde::Serialize;

use super::doors::Doors;
use crate::Global;
use crate::output::{Format, Out, grouped, size, tell};

/// Lines that wait for whoever reads them. What comes then is left out.
const LINES_MAX: usize = 8;
/// How long the last line may take.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// One line of `--format json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// Sources can connect.
    Listening {
        stream: &'a str,
        addresses: &'a [String],
        /// Other ways in: "http", "lines", "admin", and where.
        doors: &'a BTreeMap<&'static str, String>,
        sources: usize,
        durable_lsn: u64,
    },
    /// How it goes.
    Status {
        connections: u64,
        sessions: u64,
        sources: u64,
        records: u64,
        duplicates: u64,
        charged_bytes: u64,
        durable_lsn: u64,
    },
    /// How it went.
    End { outcome: &'a str, records: u64, duplicates: u64, durable_lsn: u64 },
}

pub(super) struct Say {
    /// To a thread of its own: a reader that stops reading holds up nobody else.
    lines: Option<SyncSender<String>>,
    /// Closed when everything is written.
    written: mpsc::Receiver<()>,
    left_out: u64,
    json: bool,
    every: Option<Duration>,
    told: Instant,
}

impl Say {
    pub(super) fn new(global: &Global, every: Option<Duration>) -> Say {
        let (lines, to_write) = sync_channel::<String>(LINES_MAX);
        let (writes, written) = mpsc::channel::<()>();
        let write = move || {
            let _until_then = writes;
            let mut out = Out::new();
            for line in to_write {
                let _ = out.line(line).and_then(|()| out.flush());
            }
        };
        // Without a thread for it everything is left out, and that is told.
        let _ = std::thread::Builder::new().name("say".into()).spawn(write);
        let json = global.format == Format::Json;
        Say { lines: Some(lines), written, left_out: 0, json, every, told: Instant::now() }
    }

    pub(super) fn listening(
        &mut self,
        stream: &str,
        addresses: &[SocketAddr],
        doors: &Doors,
        sources: usize,
        end: Lsn,
    ) {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let doors = doors.addresses();
        let others: String = doors.iter().map(|(name, address)| format!(", {name} on {address}")).collect();
        let (places, known) = (addresses.join(", "), grouped(sources as u64));
        self.event(
            format_args!(
                "stream {stream:?} listens on {places}{others}; {known} sources known, durable up to frame {end}"
            ),
            &Event::Listening { stream, addresses: &addresses, doors: &doors, sources, durable_lsn: end.get() },
        );
    }

    pub(super) fn tick(&mut self, receiver: &Receiver, watch: &ServerWatch) {
        if self.every.is_none_or(|every| self.told.elapsed() < every) {
            return;
        }
        self.told = Instant::now();
        let stats = receiver.stats();
        let (intake, durable_lsn, connections) = (stats.intake, stats.durable.get(), watch.stats().connections);
        let (sources, records, repeated) =
            (grouped(intake.sources), grouped(intake.records), grouped(intake.duplicates));
        self.event(
            format_args!(
                "{connections} connections, {sources} sources, {records} records, {repeated} repeated, {} on their way, \
                 durable up to frame {durable_lsn}",
                size(intake.charged_bytes)
            ),
            &Event::Status {
                connections,
                sessions: intake.sessions,
                sources: intake.sources,
                records: intake.records,
                duplicates: intake.duplicates,
                charged_bytes: intake.charged_bytes,
                durable_lsn,
            },
        );
    }

    pub(super) fn end(&mut self, receiver: &Receiver, in_order: bool) {
        let stats = receiver.stats();
        let outcome = if in_order { "interrupted" } else { "failed" };
        let (records, duplicates, durable_lsn) = (stats.intake.records, stats.intake.duplicates, stats.durable.get());
        let (taken, repeated) = (grouped(records), grouped(duplicates));
        self.event(
            format_args!("{outcome}: {taken} records, {repeated} repeated; durable up to frame {durable_lsn}"),
            &Event::End { outcome, records, duplicates, durable_lsn },
        );
        self.lines = None;
        // Or it ends with the process.
        let _ = self.written.recv_timeout(LAST_WITHIN);
        if self.left_out > 0 {
            tell(format_args!("{} lines were left out: nobody read standard output", grouped(self.left_out)));
        }
    }

    fn event(&mut self, text: fmt::Arguments<'_>, event: &Event<'_>) {
        let line = if self.json { serde_json::to_string(event).expect("it has text keys") } else { text.to_string() };
        let is_taken = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        self.left_out += u64::from(!is_taken);
    }
}
