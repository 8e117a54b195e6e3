//! Log directories of real files, taken apart and put together again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use seawall::storage::Driver;
use seawall::{BackendChoice, Config, DirectIo, Error, Log, Recovery, RecoveryMode};
use tempfile::TempDir;

use super::bytes::segment_name;
use super::skip::skipped;

pub const HOUR: Duration = Duration::from_secs(3600);

/// The files of a directory.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    /// What stands in `dir`, but for the lock, which says only who came last.
    pub fn of(dir: &Path) -> Files {
        let read =
            |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap());
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        Files(entries.filter(|path| !path.ends_with("lock")).map(read).collect())
    }

    /// A directory that holds them: in memory where `config` does not want direct I/O.
    pub fn lay_out(&self, config: &Config) -> TempDir {
        let dir = empty(config);
        for (name, bytes) in &self.0 {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    pub fn segment(&mut self, number: u64) -> &mut Vec<u8> {
        self.0.get_mut(&segment_name(number)).unwrap_or_else(|| panic!("no segment {number}"))
    }

    pub fn segments(&self) -> Vec<u64> {
        self.0.keys().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect()
    }

    /// The numbers of segments in use, whatever their payloads are.
    pub fn holding_raw(&self) -> Vec<u64> {
        let used = |number: &u64| self.0[&segment_name(*number)][super::bytes::BLOCK] == super::bytes::SEAL;
        self.segments().into_iter().filter(used).collect()
    }

    /// The numbers of segments that hold a frame of the kind.
    pub fn holding(&self, kind: u8) -> Vec<u64> {
        let holds =
            |number: &u64| super::bytes::frames(&self.0[&segment_name(*number)]).iter().any(|frame| frame.kind == kind);
        self.segments().into_iter().filter(holds).collect()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, bytes)| (name, bytes.len()))).finish()
    }
}

pub fn empty(config: &Config) -> TempDir {
    let memory = Path::new("/dev/shm");
    match config.direct_io {
        DirectIo::Never if memory.is_dir() => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Small segments, no proof but what is asked for, no page cache in between.
pub fn direct() -> Config {
    Config {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        idle_proof_after: HOUR,
        backend: BackendChoice::Pwrite,
        ..Config::default()
    }
}

/// The same through the page cache.
pub fn buffered() -> Config {
    Config { direct_io: DirectIo::Never, ..direct() }
}

pub fn in_mode(config: &Config, recovery: RecoveryMode) -> Config {
    Config { recovery, ..config.clone() }
}

pub fn open(dir: &TempDir, config: &Config) -> (Log, Recovery) {
    try_open(dir, config).unwrap_or_else(|error| panic!("{error:?}"))
}

pub fn try_open(dir: &TempDir, config: &Config) -> Result<(Log, Recovery), Error> {
    // One for all: a driver per directory would be threads per case.
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    let opened = Log::open_with(dir.path(), config.clone(), DRIVER.get_or_init(|| direct().driver().unwrap()));
    if let Ok((log, _)) = &opened
        && config.direct_io != DirectIo::Never
        && !log.medium().past_caches
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| skipped("O_DIRECT is refused here, or may go through a cache: one write at a time"));
    }
    opened
}

/// How many of the log's frames a log shows that takes no appends: what may have been read through a cache and is not proven
/// is told instead.
pub fn shown(log: &Log, recovery: &Recovery) -> usize {
    let in_doubt = recovery.ambiguous_tail.filter(|_| !log.medium().past_caches);
    let flushed = log.flushed();
    assert_eq!(flushed, in_doubt.map_or(recovery.end, |lsns| lsns.start.previous()), "{recovery:?}");
    flushed.get() as usize
}

/// Record number `i`, of a length of its own.
pub fn record(i: u64) -> Vec<u8> {
    sized(i, 20 + (i as usize * 37) % 200)
}

pub fn sized(i: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|k| (k * 7 + i * 13 + 1) as u8 | 1).collect()
}

/// Appends and waits, each record a group of its own.
pub fn append_each(log: &Log, records: &[Vec<u8>]) {
    for record in records {
        log.append(record).unwrap().wait().unwrap();
    }
}

/// Waits until two segments are prepared, so that a copy of the directory is not one of a directory in motion.
pub fn settle(log: &Log) {
    while log.stats().spare_segments < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn close(log: Log) {
    log.close(Duration::from_secs(10)).unwrap();
}
