//! 64 logs in one process, each with one record on its way: what they write together against what the device takes at
//! the same depth. One thread plays all clients, so that it is the logs that are measured and not 64 threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use seawall::storage::Backend;
use seawall::{Config, Log};
use seawall_limit::{Limit, Load, Method, Options, Usage};
use serde::Serialize;

use super::Bench;
use super::cells::MANY_RATIO_MIN;
use super::drive::noise;
use super::figures::{Figure, Target};
use super::loads::LIMIT_FILE_BYTES;
use crate::exit::{Failure, InLog};

const LOGS: usize = 64;
const RECORD_BYTES: usize = 1024;
/// Large enough that rotations, which write the control file, are not what is measured.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Threads that the positional-write backend may have.
const POOL_THREADS: usize = 16;

#[derive(Serialize)]
pub(super) struct ManyFigures {
    pub(super) backend: String,
    pub(super) depth: usize,
    pub(super) writes_per_second: Figure,
    /// Of as many files as there are logs: what the file system gives to any 64 logs.
    pub(super) limit_writes_per_second: Figure,
    pub(super) ratio: Figure,
    /// The same depth on a single file, which a file system may be better at.
    pub(super) one_file_limit_writes_per_second: Figure,
    pub(super) one_file_ratio: Figure,
    /// Acks of the log that got fewest, as a share of the mean.
    pub(super) slowest_share: Figure,
    /// CPU of the whole process, the client's included.
    pub(super) cpu_micros_per_write: Figure,
    pub(super) targets: Vec<Target>,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<ManyFigures, Failure> {
    bench.say("64 logs: opening them");
    let config = Config {
        segment_bytes_min: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
        retain_bytes: Some(2 * SEGMENT_BYTES),
        byte_limit: None,
        ..bench.config.clone()
    };
    let dir = bench.scratch.fresh("many")?;
    std::fs::create_dir(&dir).map_err(|e| Failure::file("create", &dir, e))?;
    let driver = config.driver().in_log(&dir)?;
    let logs: Vec<Log> = (0..LOGS)
        .map(|n| Log::open_with(dir.join(n.to_string()), config.clone(), &driver).map(|(log, _)| log))
        .collect::<Result<_, _>>()
        .in_log(&dir)?;
    let medium = logs[0].medium();
    let (method, depth) = match medium.backend {
        Backend::IoUring => (Method::UringDsync, LOGS),
        _ => (Method::PwriteDsync, POOL_THREADS),
    };
    let one_file = Options { dir: bench.scratch.path().to_owned(), file_bytes: LIMIT_FILE_BYTES, files: 1 };
    let many_files = Options { file_bytes: LIMIT_FILE_BYTES / LOGS as u64, files: LOGS, ..one_file.clone() };
    let mut one_file = Limit::prepare(&one_file)?;
    let mut many_files = Limit::prepare(&many_files)?;
    // One record per write, as in a log that has one on its way.
    let load = Load { record_bytes: RECORD_BYTES, outstanding: depth };
    await_prepared(&logs);
    let mut rounds = Vec::new();
    for round in 1..=bench.rounds {
        bench.check_interrupt()?;
        bench.say(format_args!("64 logs: round {round} of {}", bench.rounds));
        let one = one_file.measure_one(load, method, depth, bench.seconds)?.records_per_second;
        let many = many_files.measure_one(load, method, depth, bench.seconds)?.records_per_second;
        rounds.push(((one, many), drive(&logs, bench.seconds).in_log(&dir)?));
    }
    for log in logs {
        log.close(Duration::from_secs(30)).in_log(&dir)?;
    }
    bench.scratch.fresh("many")?;
    let against = |given: fn(&(f64, f64)) -> f64| {
        Figure::of(rounds.iter().map(|(limits, driven)| driven.writes_per_second / given(limits).max(1e-9)))
    };
    let (one_file_ratio, ratio) = (against(|(one, _)| *one), against(|(_, many)| *many));
    Ok(ManyFigures {
        backend: format!("{:?}", medium.backend),
        depth,
        writes_per_second: Figure::of(rounds.iter().map(|(_, driven)| driven.writes_per_second)),
        limit_writes_per_second: Figure::of(rounds.iter().map(|((_, many), _)| *many)),
        ratio,
        one_file_limit_writes_per_second: Figure::of(rounds.iter().map(|((one, _), _)| *one)),
        one_file_ratio,
        slowest_share: Figure::of(rounds.iter().map(|(_, driven)| driven.slowest_share)),
        cpu_micros_per_write: Figure::of(rounds.iter().map(|(_, driven)| driven.cpu_micros_per_write)),
        targets: vec![Target::at_least("ratio", ratio.median, MANY_RATIO_MIN)],
    })
}

/// Waits until no log prepares segments any more: that is not what is measured.
fn await_prepared(logs: &[Log]) {
    const QUIET: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(30);
    let prepared = || logs.iter().map(|log| log.stats().prepared_bytes).sum::<u64>();
    let (began, mut before) = (Instant::now(), None);
    while before != Some(prepared()) && began.elapsed() < PATIENCE {
        before = Some(prepared());
        std::thread::sleep(QUIET);
    }
}

/// What all logs together did.
struct Driven {
    writes_per_second: f64,
    slowest_share: f64,
    cpu_micros_per_write: f64,
}

/// Keeps one record of each log on its way.
fn drive(logs: &[Log], run_time: Duration) -> seawall::Result<Driven> {
    let record = noise(RECORD_BYTES);
    let ready = Arc::new(Ready { logs: Mutex::default(), thread: std::thread::current() });
    let wakers: Vec<Waker> =
        (0..logs.len()).map(|log| Waker::from(Arc::new(WakeLog { log, ready: ready.clone() }))).collect();
    let writes_before: Vec<u64> = logs.iter().map(|log| log.stats().group_bytes.count).collect();
    let mut pendings = logs.iter().map(|log| log.append(&record)).collect::<Result<Vec<_>, _>>()?;
    let (began, usage) = (Instant::now(), Usage::of_process());
    let mut acks = vec![0_u64; logs.len()];
    let mut runnable: Vec<usize> = (0..logs.len()).collect();
    while began.elapsed() < run_time {
        for at in runnable.drain(..) {
            let mut context = Context::from_waker(&wakers[at]);
            // Polled until it waits: an ack that is there already wakes nobody.
            while let Poll::Ready(acked) = Pin::new(&mut pendings[at]).poll(&mut context) {
                acked?;
                acks[at] += 1;
                pendings[at] = logs[at].append(&record)?;
            }
        }
        std::mem::swap(&mut runnable, &mut ready.logs.lock().expect("nobody panics with it"));
        if runnable.is_empty() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    let (seconds, usage) = (began.elapsed().as_secs_f64(), Usage::of_process() - usage);
    let writes: u64 = logs.iter().zip(&writes_before).map(|(log, before)| log.stats().group_bytes.count - before).sum();
    pendings.into_iter().try_for_each(|pending| pending.wait().map(drop))?;
    let mean = acks.iter().sum::<u64>() as f64 / logs.len() as f64;
    let slowest = acks.iter().min().copied().unwrap_or(0) as f64;
    Ok(Driven {
        writes_per_second: writes as f64 / seconds,
        slowest_share: slowest / mean.max(1e-9),
        cpu_micros_per_write: usage.cpu.as_secs_f64() * 1e6 / (writes as f64).max(1.0),
    })
}

/// Logs whose record was settled, for the one thread that looks after them.
struct Ready {
    logs: Mutex<Vec<usize>>,
    thread: Thread,
}

struct WakeLog {
    log: usize,
    ready: Arc<Ready>,
}

impl Wake for WakeLog {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.logs.lock().expect("nobody panics with it").push(self.log);
        self.ready.thread.unpark();
    }
}
