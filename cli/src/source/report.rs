//! What `ingest` and `send` say: on standard output, what is durable (a promise, for programs and for comparing after a crash);
//! on standard error, how it goes.

use std::time::{Duration, Instant};

use seawall::Lsn;
use serde::Serialize;

use crate::Global;
use crate::exit::Failure;
use crate::output::{Format, Out, grouped, is_terminal, micros, size, tell};
use crate::progress::Meter;

/// Everything of the source up to here survived a flush of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Durable {
    /// The offset of the first byte that did not.
    pub(crate) offset: u64,
    /// A frame up to which the log is durable, and that holds the last byte that did.
    pub(crate) lsn: Lsn,
    /// Records of this run.
    pub(crate) records: u64,
    /// Bytes of this run.
    pub(crate) bytes: u64,
}

/// What is reported on; asked only when there is something to say.
pub(crate) trait Run {
    fn durable(&self) -> Durable;
    /// A percentile of the time from a record's start to its acknowledgment, µs.
    fn latency_micros(&self, quantile: f64) -> u64;
}

/// One line of `--format json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// Where this run begins. Everything of the source before `offset` is durable, but for what an earlier run has told to
    /// be lost.
    Start { source: &'a str, offset: u64, lsn: u64 },
    /// Everything of the source before `offset` is durable.
    Durable { offset: u64, lsn: u64, records: u64 },
    /// The source from `from` to `to` was in the receiver's memory only when the connection was lost. It is not sent again;
    /// no `offset` is told beyond `from` from here on.
    Lost { from: u64, to: u64 },
    /// How it went.
    End {
        outcome: &'a str,
        offset: u64,
        lsn: u64,
        records: u64,
        bytes: u64,
        seconds: f64,
        records_per_second: f64,
        p50_micros: u64,
        p99_micros: u64,
    },
}

pub(crate) struct Report {
    out: Out,
    json: bool,
    /// Somebody reads standard output, and not with eyes that look at the bar.
    periodic: bool,
    every: Duration,
    began: Instant,
    told: Instant,
    told_offset: u64,
    meter: Meter,
    /// Where the meter looked last: records and when.
    shown: (u64, Instant),
}

impl Report {
    pub(crate) fn new(label: &'static str, total: Option<u64>, every: Duration, global: &Global) -> Report {
        let now = Instant::now();
        let json = global.format == Format::Json;
        Report {
            out: Out::new(),
            json,
            periodic: json || !is_terminal(),
            every,
            began: now,
            told: now,
            told_offset: 0,
            meter: Meter::new(label, total, global),
            shown: (0, now),
        }
    }

    /// The run begins.
    pub(crate) fn start(&mut self, source: &str, durable: Durable, is_new: bool) {
        let Durable { offset, lsn, .. } = durable;
        self.began = Instant::now();
        self.shown.1 = self.began;
        self.told_offset = offset;
        let text = match is_new {
            true => format!("source {source:?} is new there, beginning at offset {offset}"),
            false => format!("source {source:?} is durable through offset {offset} (frame {lsn}), going on there"),
        };
        self.say(text, Event::Start { source, offset, lsn: lsn.get() });
    }

    /// Called often: says something when it is time to.
    pub(crate) fn tick(&mut self, run: &impl Run, now: Instant) {
        if self.periodic && now.saturating_duration_since(self.told) >= self.every {
            self.told = now;
            self.durable(run.durable());
        }
        if self.meter.is_due(now) {
            let Durable { offset, records, .. } = run.durable();
            let seconds = now.saturating_duration_since(self.shown.1).as_secs_f64().max(1e-3);
            let rate = (records - self.shown.0) as f64 / seconds;
            self.shown = (records, now);
            let (p50, p99) = (run.latency_micros(0.50) as f64, run.latency_micros(0.99) as f64);
            let mean = run.durable().bytes as f64 / now.duration_since(self.began).as_secs_f64().max(1e-3) / 1e6;
            let message =
                format!("{} records/s, {mean:.1} MB/s, p50 {}, p99 {}", grouped(rate as u64), micros(p50), micros(p99));
            self.meter.show(offset, &message);
        }
    }

    /// The run is over, in good order or not: what is durable is said in any case.
    pub(crate) fn end(&mut self, outcome: &str, run: &impl Run) {
        self.meter.finish();
        let durable = run.durable();
        self.durable(durable);
        let Durable { offset, lsn, records, bytes } = durable;
        let seconds = self.began.elapsed().as_secs_f64();
        let records_per_second = records as f64 / seconds.max(1e-6);
        let (p50_micros, p99_micros) = (run.latency_micros(0.50), run.latency_micros(0.99));
        let text = format!(
            "{outcome}: {} records, {} in {seconds:.2} s: {} records/s, {:.1} MB/s, p50 {}, p99 {}",
            grouped(records),
            size(bytes),
            grouped(records_per_second as u64),
            bytes as f64 / seconds.max(1e-6) / 1e6,
            micros(p50_micros as f64),
            micros(p99_micros as f64),
        );
        let lsn = lsn.get();
        let event =
            Event::End { outcome, offset, lsn, records, bytes, seconds, records_per_second, p50_micros, p99_micros };
        self.say(text, event);
    }

    /// A passage of the source was lost at most once, as was asked for.
    pub(crate) fn lost(&mut self, from: u64, to: u64) {
        tell(format_args!(
            "offsets {from} to {to} were only in the receiver's memory when the connection was lost: they are not known to \
             be durable, and not sent again"
        ));
        if self.json {
            self.say(String::new(), Event::Lost { from, to });
        }
    }

    fn durable(&mut self, Durable { offset, lsn, records, .. }: Durable) {
        if offset != self.told_offset {
            self.told_offset = offset;
            let text = format!("durable through offset {offset} (frame {lsn})");
            self.say(text, Event::Durable { offset, lsn: lsn.get(), records });
        }
    }

    /// Whoever read standard output may be gone: the records are worth more than the report.
    fn say(&mut self, text: String, event: Event<'_>) {
        let said = if self.json { self.out.json(&event) } else { self.out.line(text) };
        if let Err(Failure::Output(_) | Failure::OutputClosed) = said.and_then(|()| self.out.flush()) {
            self.periodic = false;
        }
    }
}
