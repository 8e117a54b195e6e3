//! Where the benches put their logs, and how they say what they measure.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::time::Duration;

use criterion::Throughput;
use seawall::storage::Driver;
use seawall::{BackendChoice, Config, Log};
use tempfile::TempDir;

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// A directory on the disk that holds the build, removed when dropped.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written")
}

/// `cargo bench -- --test`: everything runs once, on little.
pub(crate) fn is_trial() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The full amount, or what is enough to see that it works.
pub(crate) fn amount(full: usize, trial: usize) -> usize {
    if is_trial() { trial } else { full }
}

/// Records per second first, bytes per second beside it.
pub(crate) fn records_of(bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: 1, bytes: bytes as u64 }
}

/// Both backends that work here, with the name they go by.
pub(crate) fn backends() -> Vec<(&'static str, Driver, Config)> {
    let named = [("io_uring", BackendChoice::IoUring), ("pwrite", BackendChoice::Pwrite)];
    let started = named.map(|(name, backend)| {
        let config = Config { backend, ..Config::default() };
        match config.driver() {
            Ok(driver) => Some((name, driver, config)),
            Err(error) => {
                eprintln!("SKIP {name}: {error}");
                None
            }
        }
    });
    started.into_iter().flatten().collect()
}

/// A record that does not compress.
pub(crate) fn record(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ bytes as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Appends so many records of one size and waits for the last.
pub(crate) fn fill(log: &Log, records: usize, bytes: usize) {
    let record = record(bytes);
    let mut last = None;
    for _ in 0..records {
        last = Some(log.append(&record).expect("room on the disk"));
    }
    if let Some(last) = last {
        last.wait().expect("a disk that works");
    }
    log.flush().expect("a disk that works");
}

pub(crate) fn close(log: Log) {
    log.close(Duration::from_secs(60)).expect("a disk that works");
}
