//! Records on their way to the device: at most N at a time, settled oldest first, so that "durable through" is true of
//! every byte before it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;

use hdrhistogram::Histogram;
use seawall::{Log, Lsn, Pending};

use crate::source::{Durable, Run};

/// Ack latencies above this count as this, µs.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

struct Flight {
    pending: Pending,
    /// The source's offset behind this record's data.
    end: u64,
    bytes: u64,
    since: Instant,
}

/// The records in flight of one source.
pub(super) struct Flights<'a> {
    log: &'a Log,
    limit: usize,
    queue: VecDeque<Flight>,
    durable: Durable,
    latency: Histogram<u64>,
}

impl<'a> Flights<'a> {
    pub(super) fn new(log: &'a Log, limit: usize, offset: u64, lsn: Lsn) -> Flights<'a> {
        let latency = Histogram::new_with_max(LATENCY_MICROS_MAX, 3).expect("the bounds are valid constants");
        let durable = Durable { offset, lsn, ..Durable::default() };
        Flights { log, limit, queue: VecDeque::with_capacity(limit), durable, latency }
    }

    /// Appends a record that ends at `end` of the source; waits for the oldest ones when too many are in flight.
    pub(super) fn append(&mut self, head: &[u8], data: &[u8], end: u64) -> seawall::Result<()> {
        if self.queue.len() >= self.limit {
            self.settle()?;
        }
        let since = Instant::now();
        let pending = self.log.append_vectored(&[IoSlice::new(head), IoSlice::new(data)])?;
        self.queue.push_back(Flight { pending, end, bytes: data.len() as u64, since });
        Ok(())
    }

    /// Waits for the oldest record, and takes along all that its group made durable with it.
    pub(super) fn settle(&mut self) -> seawall::Result<()> {
        let mut now = None;
        while let Some(flight) = self.queue.pop_front() {
            let lsn = flight.pending.wait()?;
            let now = *now.get_or_insert_with(Instant::now);
            let micros = now.saturating_duration_since(flight.since).as_micros() as u64;
            self.latency.saturating_record(micros);
            self.durable.offset = flight.end;
            self.durable.lsn = lsn;
            self.durable.records += 1;
            self.durable.bytes += flight.bytes;
            if self.queue.front().is_some_and(|next| !next.pending.is_settled()) {
                break;
            }
        }
        Ok(())
    }

    /// Waits for all.
    pub(super) fn settle_all(&mut self) -> seawall::Result<()> {
        while !self.queue.is_empty() {
            self.settle()?;
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Run for Flights<'_> {
    fn durable(&self) -> Durable {
        self.durable
    }

    fn latency_micros(&self, quantile: f64) -> u64 {
        self.latency.value_at_quantile(quantile)
    }
}
