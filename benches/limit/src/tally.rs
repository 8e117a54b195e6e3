//! What is counted during one measurement, and when counting starts and ends.

use std::time::{Duration, Instant};

use crate::clients::Group;
use crate::{Cell, Histogram, Method, Usage};

#[derive(Debug)]
pub(crate) struct Tally {
    counting_from: Instant,
    deadline: Instant,
    /// Set by the first acknowledgement after the warm-up: counting starts on a completion and
    /// ends on one, so no fraction of a write is counted.
    started: Option<Started>,
    last_ack: Instant,
    last_usage: Usage,
    records: u64,
    bytes: u64,
    writes: u64,
    latencies: Histogram,
}

#[derive(Debug)]
struct Started {
    at: Instant,
    usage: Usage,
}

impl Tally {
    pub(crate) fn new(run_time: Duration) -> Tally {
        let now = Instant::now();
        let counting_from = now + run_time / 10;
        Tally {
            counting_from,
            deadline: counting_from + run_time,
            started: None,
            last_ack: now,
            last_usage: Usage::default(),
            records: 0,
            bytes: 0,
            writes: 0,
            latencies: Histogram::default(),
        }
    }

    pub(crate) fn acknowledge(&mut self, group: &Group, bytes: usize, now: Instant) {
        if self.started.is_none() {
            if now >= self.counting_from {
                self.started = Some(Started { at: now, usage: Usage::of_process() });
            }
            return;
        }
        if self.is_over() {
            return;
        }
        self.records += group.records() as u64;
        self.bytes += bytes as u64;
        self.writes += 1;
        for batch in group.batches() {
            self.latencies.add(now.saturating_duration_since(batch.since), batch.records);
        }
        self.last_ack = now;
        if self.is_over() {
            self.last_usage = Usage::of_process();
        }
    }

    /// Whether to stop: time is up and at least one write was counted, however slow the device.
    pub(crate) fn is_over(&self) -> bool {
        self.writes > 0 && self.last_ack >= self.deadline
    }

    pub(crate) fn into_cell(self, method: Method, depth: usize) -> Cell {
        let (seconds, usage) = match self.started {
            Some(started) => ((self.last_ack - started.at).as_secs_f64(), self.last_usage - started.usage),
            None => (0.0, Usage::default()),
        };
        let records = self.records.max(1) as f64;
        let per_second = |count: u64| {
            if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
        };
        Cell {
            method,
            depth,
            records_per_second: per_second(self.records),
            p50_us: self.latencies.quantile_us(0.50),
            p99_us: self.latencies.quantile_us(0.99),
            bytes_per_second: per_second(self.bytes),
            writes: self.writes,
            cpu_us_per_record: usage.cpu.as_secs_f64() * 1e6 / records,
            context_switches_per_record: usage.context_switches as f64 / records,
        }
    }
}
