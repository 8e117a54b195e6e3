//! The process that is crashed: it opens a log, appends from several threads, trims, truncates and closes, and tells its
//! parent through a pipe what the log has answered. Told is only what was answered.

mod payload;
mod process;
mod told;

pub(crate) use payload::Identity;
pub(crate) use process::{UNHEARD_MAX, Victim};
pub(crate) use told::Told;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall::{BackendChoice, Compression, Config, DirectIo, Error, Log, Lsn, Pending};

use super::rng::Rng;

/// The log failed without a fault that explains it.
pub(crate) const EXIT_FAILED: u8 = 3;
/// The log told of a failed write or flush, as it must.
pub(crate) const EXIT_POISONED: u8 = 4;

const THREADS_MAX: usize = 4;

/// How the process behaves.
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) seed: u64,
    /// Which of all the processes that ever opened this log: ascending.
    #[arg(long)]
    pub(crate) life: u64,
    /// Tells that a record is durable as soon as it has a position: what must be noticed.
    #[arg(long)]
    pub(crate) lies: bool,
    /// Through the page cache, whatever the file system offers.
    #[arg(long)]
    pub(crate) buffered: bool,
    /// Direct writes go past all caches here, although the file system does not say so.
    #[arg(long)]
    pub(crate) past_caches: bool,
}

/// A log that rotates, proves and recycles often. The segments' sizes are the same for every life.
pub(crate) fn config(rng: &mut Rng, buffered: bool, past_caches: bool) -> Config {
    let direct = if past_caches && rng.percent(75) { DirectIo::Trust } else { DirectIo::Auto };
    Config {
        backend: if rng.percent(50) { BackendChoice::Pwrite } else { BackendChoice::Auto },
        direct_io: if buffered || rng.percent(25) { DirectIo::Never } else { direct },
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 512 << 10,
        idle_proof_after: Duration::from_millis(1 + rng.below(20)),
        sweep_interval: Duration::from_millis(1 + rng.below(5)),
        compression: if rng.percent(20) { Compression::Lz4 } else { Compression::None },
        memory_tail_bytes: if rng.percent(50) { 0 } else { 1 << 20 },
        // No life here lasts long enough to find out by measuring.
        flush_depth_min: 1 + rng.below(4) as usize,
        ..Config::default()
    }
}

/// Runs until it is killed, or until it has done enough.
pub(crate) fn main(args: &Args) -> ExitCode {
    match live(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let told = matches!(error, Error::Io { .. } | Error::Poisoned { .. } | Error::Full { .. });
            ExitCode::from(if told { EXIT_POISONED } else { EXIT_FAILED })
        }
    }
}

fn live(args: &Args) -> Result<(), Error> {
    let mut rng = Rng::new(args.seed, args.life);
    let (log, recovery) = Log::open(&args.dir, config(&mut rng, args.buffered, args.past_caches))?;
    Told::Opened(recovery.end.get()).tell();
    let mut era = 0;
    let mut counters: [AtomicU64; THREADS_MAX] = Default::default();
    for _ in 0..rng.below(400) {
        let threads = 1 + rng.below(THREADS_MAX as u64) as usize;
        let seed = rng.next();
        let work = |thread: usize| {
            let mut rng = Rng::new(seed, thread as u64);
            let from = Identity { life: args.life, era, thread: thread as u32, counter: 0 };
            append(&log, &mut rng, from, &counters[thread], args.lies)
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            all.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
        })?;
        if rng.percent(20) {
            trim(&log, &mut rng)?;
        }
        if rng.percent(6) && truncate(&log, &mut rng)? {
            era += 1;
            counters = Default::default();
        }
        if rng.percent(10) {
            std::thread::sleep(Duration::from_millis(rng.below(25)));
        }
    }
    if rng.percent(50) {
        log.close(Duration::from_secs(10))?;
    }
    Ok(())
}

/// Some records of one thread: each waited for, many held, or together.
fn append(log: &Log, rng: &mut Rng, from: Identity, counter: &AtomicU64, lies: bool) -> Result<(), Error> {
    let next = || Identity { counter: counter.fetch_add(1, Ordering::Relaxed), ..from };
    let acknowledge = |pending: Pending, first: Identity| {
        let lsns = pending.lsns();
        let all = (lsns.start.get()..lsns.end.get()).zip(first.counter..);
        if !lies {
            pending.wait()?;
        }
        all.for_each(|(lsn, counter)| Told::Acknowledged(lsn, Identity { counter, ..first }).tell());
        Ok(())
    };
    match rng.below(3) {
        0 => {
            for _ in 0..1 + rng.below(8) {
                let identity = next();
                acknowledge(log.append(&identity.payload())?, identity)?;
            }
        }
        1 => {
            let mut held = Vec::new();
            for _ in 0..1 + rng.below(40) {
                let identity = next();
                held.push((log.append(&identity.payload())?, identity));
            }
            held.into_iter().try_for_each(|(pending, identity)| acknowledge(pending, identity))?;
        }
        _ => {
            let many: Vec<Identity> = (0..1 + rng.below(12)).map(|_| next()).collect();
            let payloads: Vec<Vec<u8>> = many.iter().map(Identity::payload).collect();
            acknowledge(log.append_many(&payloads)?, many[0])?;
        }
    }
    Ok(())
}

/// Gives up the older part; some thousand frames at most stay.
fn trim(log: &Log, rng: &mut Rng) -> Result<(), Error> {
    let (first, flushed) = (log.first().get(), log.flushed().get());
    let held = flushed.saturating_sub(first);
    let upto = first + if held > 2000 { held - 500 } else { rng.below(held / 2 + 1) };
    if upto > flushed || flushed == 0 {
        return Ok(());
    }
    Told::Trimming(upto).tell();
    log.trim(Lsn::new(upto))?;
    Told::Trimmed(upto).tell();
    Ok(())
}

/// Takes back the newest frames. False when there was nothing to take back.
fn truncate(log: &Log, rng: &mut Rng) -> Result<bool, Error> {
    // Everything that was appended has been waited for, but by a liar.
    let (first, flushed) = (log.first().get(), log.flush()?.get());
    let end = flushed.saturating_sub(1 + rng.below(40)).max(first.saturating_sub(1));
    if end >= flushed {
        return Ok(false);
    }
    Told::Truncating(end).tell();
    log.truncate(Lsn::new(end))?;
    Told::Truncated(end).tell();
    Ok(true)
}
