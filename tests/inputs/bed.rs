//! A directory, its source, and a ledger's state that real events move.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use seawall::ledger::{
    BatchLimits, Envelope, Event, Identity, InputError, InputKind, Part, PartKey, Parts, Plan, Range, Replayable,
    Share, State,
};
use seawall::node::{DirectoryError, DirectorySource, DirectorySourceConfig};
use seawall::{Ballot, BatchId, InputId, LedgerId};
use tempfile::TempDir;

/// Two ticks of a file system's clock, and some.
pub const TICKS: Duration = Duration::from_millis(45);

pub struct Ledger {
    state: State,
    pub input: InputId,
}

/// What the ledger knows of one input, as an input is shown it.
pub struct Known<'a>(&'a State, InputId);

impl Parts for Known<'_> {
    fn get(&self, key: &PartKey) -> Option<Part> {
        let part = self.0.input(self.1)?.parts.get(key)?;
        Some(Part { allocated: part.allocated, digest: part.digest, committed: part.committed })
    }

    fn label(&self, key: &PartKey) -> Option<Bytes> {
        Some(self.0.input(self.1)?.parts.get(key)?.label.clone())
    }

    fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
        for (key, part) in &self.0.input(self.1).expect("added").parts {
            take(key, &Part { allocated: part.allocated, digest: part.digest, committed: part.committed });
        }
    }
}

impl Ledger {
    pub fn new(identity: Identity) -> Ledger {
        let input = InputId::new(1);
        let mut ledger = Ledger { state: State::default(), input };
        ledger.apply(Event::LedgerCreated { ledger: LedgerId::new(1) });
        let (kind, name) = (InputKind::Replayable, Bytes::from_static(b"input"));
        ledger.apply(Event::InputAdded { input, kind, identity, name, start: 0, digest: 0 });
        ledger
    }

    /// As it stands in the ledger's stream: what cannot be written down does not count.
    pub fn apply(&mut self, event: Event) {
        let written = Envelope { ballot: Ballot { round: 1, proposer: 1 }, time_micros: 0, event }.encode();
        let event = Envelope::decode(&written).expect("what was written is read");
        assert!(self.state.apply(&event).unwrap_or_else(|e| panic!("{e}: {event:?}")));
    }

    pub fn known(&self) -> Known<'_> {
        Known(&self.state, self.input)
    }

    pub fn parts(&self) -> usize {
        self.state.input(self.input).expect("added").parts.len()
    }

    /// Writes a plan down.
    pub fn allocate(&mut self, mut plan: Plan) -> Option<BatchId> {
        if !plan.gone.is_empty() {
            self.apply(Event::PartsForgotten { input: self.input, parts: plan.gone });
        }
        if plan.ranges.is_empty() {
            return None;
        }
        plan.ranges.iter_mut().for_each(|range| range.input = self.input);
        let batch = self.state.allocated().next();
        self.apply(Event::BatchAllocated { batch, ranges: plan.ranges });
        Some(batch)
    }

    pub fn pending(&self) -> Vec<BatchId> {
        self.state.batches().map(|(id, _)| id).collect()
    }

    pub fn ranges(&self, batch: BatchId) -> Vec<Range> {
        self.state.batch(batch).expect("pending").ranges.clone()
    }

    pub fn commit(&mut self, batch: BatchId) {
        self.apply(Event::BatchCommitted { batch, token: Bytes::new() });
    }
}

pub struct Bed {
    pub dir: TempDir,
    pub source: DirectorySource,
    pub ledger: Ledger,
}

impl Bed {
    pub fn new(config: DirectorySourceConfig) -> Bed {
        Bed::on(tempfile::tempdir().unwrap(), config)
    }

    /// Where there is a file system in memory: a flush takes no time there.
    pub fn in_memory(config: DirectorySourceConfig) -> Bed {
        match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) => Bed::on(dir, config),
            Err(_) => Bed::new(config),
        }
    }

    fn on(dir: TempDir, config: DirectorySourceConfig) -> Bed {
        let source = DirectorySource::open(dir.path(), config).unwrap();
        let ledger = Ledger::new(source.identity().unwrap());
        Bed { dir, source, ledger }
    }

    /// Files that are gone are forgotten at once.
    pub fn prompt() -> Bed {
        Bed::new(prompt())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        append(&self.path(name), bytes.as_ref());
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub fn plan(&self) -> Plan {
        self.try_plan(all()).unwrap()
    }

    pub fn try_plan(&self, share: Share) -> Result<Plan, InputError> {
        self.source.plan(&self.ledger.known(), share)
    }

    /// A process that begins anew knows what the ledger knows.
    pub fn restart(&mut self, config: DirectorySourceConfig) {
        self.source = DirectorySource::open(self.dir.path(), config).unwrap();
        assert_eq!(
            self.source.identity().unwrap(),
            DirectorySource::open(self.dir.path(), prompt()).unwrap().identity().unwrap()
        );
    }

    /// The next batch, not committed.
    pub fn allocate(&mut self) -> Option<BatchId> {
        let plan = self.plan();
        self.ledger.allocate(plan)
    }

    pub fn read(&self, batch: BatchId) -> Result<Vec<String>, InputError> {
        let mut lines = Vec::new();
        for range in self.ledger.ranges(batch) {
            lines.extend(read(&self.source, &range)?);
        }
        Ok(lines)
    }

    /// The next batch's records, committed.
    pub fn take(&mut self) -> Vec<String> {
        let Some(batch) = self.allocate() else { return Vec::new() };
        let records = self.read(batch).unwrap();
        assert_eq!(self.read(batch).unwrap(), records, "the same each time");
        self.ledger.commit(batch);
        records
    }
}

/// A range's records, with all that is said of them checked.
pub fn read(source: &dyn Replayable, range: &Range) -> Result<Vec<String>, InputError> {
    let records: Vec<_> = source.read(range)?.collect::<Result<_, _>>()?;
    assert_eq!(records.len() as u64, range.records);
    assert_eq!(records.iter().map(|record| record.bytes.len() as u64).sum::<u64>(), range.bytes);
    assert!(records.is_sorted_by(|a, b| a.at < b.at));
    assert!(records.iter().all(|record| (range.from..range.to).contains(&record.at)));
    Ok(records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect())
}

pub fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

pub fn prompt() -> DirectorySourceConfig {
    DirectorySourceConfig { gone_after: Duration::ZERO, ..DirectorySourceConfig::default() }
}

pub fn all() -> Share {
    Share::of(&BatchLimits::default())
}

pub fn share(records: u64, bytes: u64, ranges: usize) -> Share {
    Share { records, bytes, ranges, takes_one: true }
}

pub fn tick() {
    std::thread::sleep(TICKS);
}

#[track_caller]
pub fn is_changed<T>(result: Result<T, InputError>) -> String {
    match result.map(drop) {
        Err(e @ InputError::Changed { .. }) => e.to_string(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn is_lost<T>(result: Result<T, InputError>) -> String {
    match result.map(drop) {
        Err(e @ InputError::Lost { .. }) => e.to_string(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn is_directory<T>(result: Result<T, InputError>) -> String {
    match result.map(drop) {
        Err(InputError::Other(e)) => e.downcast_ref::<DirectoryError>().expect("ours").to_string(),
        other => panic!("{other:?}"),
    }
}
