//! When records were given to the client, and when their acknowledgment came.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use seawall::node::Client;
use seawall::receiver::{Positions, WaitFor};
use seawall::{Lsn, Seq};
use tokio::runtime::Runtime;

use crate::source::{Durable, Run};

/// Latencies above these count as this, µs.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// The records of one run that are on their way. Acknowledgments are noted where they arrive, on the runtime.
pub(super) struct Tracker {
    flights: Arc<Mutex<Flights>>,
    shown: Shown,
    task: tokio::task::JoinHandle<()>,
}

struct Flights {
    queue: VecDeque<(Seq, Instant)>,
    latency: Histogram<u64>,
    records: u64,
    durable: Seq,
    lsn: Lsn,
}

/// What the report sees: a copy, taken between records.
struct Shown {
    durable: Durable,
    begin: u64,
}

impl Tracker {
    pub(super) fn start(runtime: &Runtime, client: &Client, begin: u64, wait_for: WaitFor) -> Tracker {
        let latency = Histogram::new_with_max(LATENCY_MICROS_MAX, 3).expect("the bounds are valid constants");
        let lsn = client.positions().durable_lsn;
        let flights = Flights { queue: VecDeque::new(), latency, records: 0, durable: Seq::new(begin), lsn };
        let flights = Arc::new(Mutex::new(flights));
        let mut watch = client.watch();
        let noted = flights.clone();
        let task = runtime.spawn(async move {
            while watch.changed().await.is_ok() {
                let positions = *watch.borrow_and_update();
                lock(&noted).note(&positions, wait_for);
            }
        });
        let durable = Durable { offset: begin, lsn, ..Durable::default() };
        Tracker { flights, shown: Shown { durable, begin }, task }
    }

    /// A record that ends at `seq` is about to be given to the client.
    pub(super) fn sent(&mut self, seq: Seq) {
        lock(&self.flights).queue.push_back((seq, Instant::now()));
    }

    /// Takes note of where the client is now: the task that follows it may not have run yet when everything is over.
    pub(super) fn note(&self, positions: &Positions, wait_for: WaitFor) {
        lock(&self.flights).note(positions, wait_for);
    }

    /// Takes over what has arrived since.
    pub(super) fn catch_up(&mut self) {
        let flights = lock(&self.flights);
        let offset = flights.durable.get();
        let bytes = offset - self.shown.begin;
        self.shown.durable = Durable { offset, lsn: flights.lsn, records: flights.records, bytes };
    }
}

impl Flights {
    fn note(&mut self, positions: &Positions, wait_for: WaitFor) {
        let (now, done) = (Instant::now(), positions.of(wait_for));
        while let Some((seq, since)) = self.queue.front().copied()
            && seq <= done
        {
            self.queue.pop_front();
            self.records += 1;
            self.latency.saturating_record(now.saturating_duration_since(since).as_micros() as u64);
        }
        // What is called durable is durable, whatever counts as done: the client does not count it over what was lost.
        self.durable = self.durable.max(positions.durable);
        self.lsn = self.lsn.max(positions.durable_lsn);
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Run for Tracker {
    fn durable(&self) -> Durable {
        self.shown.durable
    }

    fn latency_micros(&self, quantile: f64) -> u64 {
        lock(&self.flights).latency.value_at_quantile(quantile)
    }
}

/// A note that panicked has changed counters only.
fn lock(flights: &Mutex<Flights>) -> std::sync::MutexGuard<'_, Flights> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}
