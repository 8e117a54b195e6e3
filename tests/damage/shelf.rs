//! A log of several segments to damage, and what each of them holds.

use std::collections::BTreeMap;

use seawall::{Config, Log, LsnRange, Recovery, RecoveryMode};
use tempfile::TempDir;

use super::bed::{Files, append_each, buffered, close, direct, empty, in_mode, open, record, settle, sized};
use super::bytes::{DATA, SEAL, data_frames};
use super::oracle::lsns;

/// Sealed segments, an active one, spares.
pub struct Shelf {
    pub config: Config,
    pub files: Files,
    pub records: Vec<Vec<u8>>,
    pub sealed: Vec<u64>,
    pub active: u64,
    pub spares: Vec<u64>,
    pub held: BTreeMap<u64, LsnRange>,
}

impl Shelf {
    /// Twelve records in four sealed segments and more; the last frames are small, so each claims the one before it.
    pub fn new(config: &Config, closed: bool) -> Shelf {
        let dir = empty(config);
        let (log, _) = open(&dir, config);
        let mut records = Vec::new();
        for i in 0..9 {
            records.push(sized(i, 18_000 + i as usize));
            append_each(&log, &records[i as usize..]);
            settle(&log);
        }
        for i in 9..12 {
            records.push(record(i));
            append_each(&log, &records[i as usize..]);
        }
        settle(&log);
        if closed {
            close(log)
        } else {
            drop(log)
        }
        let mut files = Files::of(dir.path());
        let mut sealed = files.holding(DATA);
        let held = sealed.iter().map(|number| {
            let frames = data_frames(files.segment(*number));
            (*number, lsns(frames[0].lsn, frames[frames.len() - 1].lsn))
        });
        let held = held.collect();
        let active = sealed.pop().unwrap();
        let used = files.holding(SEAL);
        let spares = files.segments().into_iter().filter(|number| !used.contains(number)).collect();
        let shelf = Shelf { config: config.clone(), files, records, sealed, active, spares, held };
        assert!(shelf.sealed.len() >= 3 && shelf.spares.len() >= 2, "{:?} {:?}", shelf.held, shelf.spares);
        shelf
    }

    pub fn lay_out(&self, change: impl FnOnce(&mut Files)) -> TempDir {
        let mut files = self.files.clone();
        change(&mut files);
        files.lay_out(&self.config)
    }

    pub fn open(&self, dir: &TempDir, mode: RecoveryMode) -> (Log, Recovery) {
        open(dir, &in_mode(&self.config, mode))
    }

    pub fn end(&self) -> u64 {
        self.records.len() as u64
    }
}

/// On both media.
pub fn on_shelves(closed: bool, test: impl Fn(Shelf)) {
    for config in [buffered(), direct()] {
        test(Shelf::new(&config, closed));
    }
}
