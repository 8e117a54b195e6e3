//! Records driven into a log for a while: closed loops, one per thread.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use seawall::{Log, Pending};
use seawall_limit::Usage;

use super::cells::LoadCell;

/// Latencies above this count as this, µs.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// What one measurement of the log gave. Warm-up not counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Driven {
    pub(super) records_per_second: f64,
    pub(super) p50_micros: f64,
    pub(super) p99_micros: f64,
    pub(super) cpu_micros_per_record: f64,
    pub(super) context_switches_per_record: f64,
    /// Written to the device per byte of payload: by groups, and by preparing segments.
    pub(super) device_bytes_per_payload_byte: f64,
    pub(super) prepared_bytes_per_payload_byte: f64,
    pub(super) records_per_group: f64,
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MICROS_MAX, 3).expect("the bounds are valid constants")
}

/// Bytes that do not compress and differ from record to record in nothing that matters.
pub(super) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// When counting begins and ends.
#[derive(Clone, Copy)]
struct Times {
    from: Instant,
    until: Instant,
}

/// Runs a cell's load for `run_time`, after a tenth of that as a warm-up.
pub(super) fn drive(log: &Log, cell: &LoadCell, run_time: Duration) -> seawall::Result<Driven> {
    let from = Instant::now() + run_time / 10;
    let times = Times { from, until: from + run_time };
    let record = noise(cell.record_bytes);
    let (latency, usage, before, after) = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..cell.threads).map(|_| scope.spawn(|| client(log, &record, cell.outstanding, times))).collect();
        sleep_until(times.from);
        let (usage, before) = (Usage::of_process(), log.stats());
        sleep_until(times.until);
        let (usage, after) = (Usage::of_process() - usage, log.stats());
        let mut latency = histogram();
        for client in clients {
            latency += client.join().expect("a client does not panic")?;
        }
        seawall::Result::Ok((latency, usage, before, after))
    })?;
    let records = (latency.len() as f64).max(1.0);
    let payload_bytes = records * cell.record_bytes as f64;
    let groups = (after.group_bytes.count - before.group_bytes.count).max(1);
    Ok(Driven {
        records_per_second: latency.len() as f64 / run_time.as_secs_f64(),
        p50_micros: latency.value_at_quantile(0.50) as f64,
        p99_micros: latency.value_at_quantile(0.99) as f64,
        cpu_micros_per_record: usage.cpu.as_secs_f64() * 1e6 / records,
        context_switches_per_record: usage.context_switches as f64 / records,
        device_bytes_per_payload_byte: (after.device_bytes - before.device_bytes) as f64 / payload_bytes,
        prepared_bytes_per_payload_byte: (after.prepared_bytes - before.prepared_bytes) as f64 / payload_bytes,
        records_per_group: records / groups as f64,
    })
}

/// Appends and waits for the oldest when `outstanding` are on their way, until the time is over.
fn client(log: &Log, record: &[u8], outstanding: usize, times: Times) -> seawall::Result<Histogram<u64>> {
    let mut latency = histogram();
    let mut queue: VecDeque<(Instant, Pending)> = VecDeque::with_capacity(outstanding);
    let mut now = Instant::now();
    while now < times.until {
        // The clock is read once per record: more would be a tenth of what a record costs.
        queue.push_back((now, log.append(record)?));
        if queue.len() < outstanding {
            continue;
        }
        let Some((since, pending)) = queue.pop_front() else { break };
        pending.wait()?;
        now = Instant::now();
        if times.from <= now && now < times.until {
            latency.saturating_record((now - since).as_micros() as u64);
        }
    }
    for (_, pending) in queue {
        pending.wait()?;
    }
    Ok(latency)
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

/// Appends so many bytes of large records, and waits for them.
pub(super) fn fill(log: &Log, bytes: u64, record_bytes: usize) -> seawall::Result<()> {
    const OUTSTANDING_BYTES: usize = 8 << 20;
    let record = noise(record_bytes);
    let outstanding = (OUTSTANDING_BYTES / record_bytes).max(1);
    let mut queue = VecDeque::with_capacity(outstanding);
    for _ in 0..bytes.div_ceil(record_bytes as u64) {
        if queue.len() == outstanding {
            queue.pop_front().map(Pending::wait).transpose()?;
        }
        queue.push_back(log.append(&record)?);
    }
    queue.into_iter().try_for_each(|pending| pending.wait().map(drop))
}
