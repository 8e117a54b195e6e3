//! One contender, one cell, one round: client threads in a closed loop.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use seawall_limit::{Cell, Histogram, Load, Usage};
use serde::Serialize;

use crate::contenders::{Contender, Failure};

/// After this long without an answer a contender hangs, and the process with it.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What one run gave.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Run {
    pub(crate) records_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of the whole process, as are the context switches: the other contenders are idle.
    pub(crate) cpu_us_per_record: f64,
    pub(crate) context_switches_per_record: f64,
}

impl Run {
    pub(crate) fn of_limit(cell: &Cell) -> Run {
        Run {
            records_per_second: cell.records_per_second,
            p50_us: cell.p50_us,
            p99_us: cell.p99_us,
            cpu_us_per_record: cell.cpu_us_per_record,
            context_switches_per_record: cell.context_switches_per_record,
        }
    }
}

/// When records count: from the end of the warm-up to the end of the run.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

pub(crate) fn run(contender: &dyn Contender, load: Load, run_time: Duration) -> Result<Run, Failure> {
    let clients = load.outstanding;
    let barrier = Barrier::new(clients + 1);
    let window = OnceLock::new();
    let (sender, answers) = mpsc::channel();

    thread::scope(|scope| {
        for client in 0..clients {
            let (barrier, window, sender) = (&barrier, &window, sender.clone());
            scope.spawn(move || {
                let payload = noise(load.record_bytes, client);
                barrier.wait();
                let window = window.wait();
                let answer = closed_loop(contender, client, payload, *window);
                // Nobody listens any more once another client has failed.
                let _ = sender.send(answer);
            });
        }
        // So that a client that panics without an answer is noticed when the last one ends.
        drop(sender);

        barrier.wait();
        let start = Instant::now();
        let from = start + run_time / 10;
        let Window { from, to } = *window.get_or_init(|| Window { from, to: from + run_time });
        sleep_until(from);
        let used_before = Usage::of_process();
        sleep_until(to);
        let used = Usage::of_process() - used_before;

        let mut latencies = Histogram::default();
        for _ in 0..clients {
            match answers.recv_timeout(ANSWER_LIMIT) {
                Ok(answer) => latencies.merge(&answer?),
                Err(RecvTimeoutError::Disconnected) => return Err("a client panicked".into()),
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("error: a contender hangs: no answer in {ANSWER_LIMIT:?}");
                    std::process::exit(2);
                }
            }
        }
        let records = latencies.total();
        if records == 0 {
            return Err("no append was acknowledged in time".into());
        }
        Ok(Run {
            records_per_second: records as f64 / run_time.as_secs_f64(),
            p50_us: latencies.quantile_us(0.50),
            p99_us: latencies.quantile_us(0.99),
            cpu_us_per_record: used.cpu.as_secs_f64() * 1e6 / records as f64,
            context_switches_per_record: used.context_switches as f64 / records as f64,
        })
    })
}

fn closed_loop(
    contender: &dyn Contender,
    client: usize,
    mut payload: Vec<u8>,
    window: Window,
) -> Result<Histogram, Failure> {
    let mut latencies = Histogram::default();
    let mut begin = Instant::now();
    for number in 0_u64.. {
        let counter = number.to_le_bytes();
        let changed = payload.len().min(counter.len());
        payload[..changed].copy_from_slice(&counter[..changed]);
        contender.append_durable(client, &payload)?;
        let end = Instant::now();
        if end >= window.to {
            break;
        }
        if end >= window.from {
            latencies.add(end - begin, 1);
        }
        begin = end;
    }
    Ok(latencies)
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

/// Bytes that do not compress, different for each client.
fn noise(len: usize, client: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(client as u64);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}
