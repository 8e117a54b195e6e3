//! A log that has no segment for an event now has refused it: nothing of it is unknown, and the ledger goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seawall::ledger::BatchLimits;
use seawall::node::{Ledger, LedgerConfig, LedgerError};
use seawall::{Config, Error, Log};

use super::sim::{DiskOptions, Fault, OpKind, SimDisk, SimStorage, errno};

/// A ledger whose segments are prepared beside whoever waits for one.
struct Bed {
    disk: SimDisk,
    ledger: Ledger<SimStorage>,
    is_over: Arc<AtomicBool>,
    pumps: Option<JoinHandle<()>>,
}

impl Bed {
    fn new() -> Bed {
        let disk = SimDisk::new(DiskOptions::DIRECT);
        let config = Config { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10, ..Config::default() };
        let (log, _) = Log::open_on(disk.open(), config).expect("the log opens");
        disk.pump();
        let (ledger, _) = Ledger::open(log, LedgerConfig::default()).expect("the ledger opens");
        let (beside, is_over) = (disk.clone(), Arc::new(AtomicBool::new(false)));
        let ended = is_over.clone();
        let pumps = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                beside.pump();
                std::thread::yield_now();
            }
        });
        Bed { disk, ledger, is_over, pumps: Some(pumps) }
    }

    fn next(&self) -> Result<(), Box<LedgerError>> {
        let empty = BatchLimits { allow_empty: true, ..BatchLimits::default() };
        let batch = self.ledger.allocate(&empty)?.expect("an empty one");
        Ok(self.ledger.commit(batch.id(), "")?)
    }

    fn refused(&self) -> LedgerError {
        *(0..1000).find_map(|_| self.next().err()).expect("the segments there are do not last")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.pumps.take().map(JoinHandle::join);
    }
}

#[test]
fn a_ledger_goes_on_when_segments_can_be_prepared_again() {
    let bed = Bed::new();
    bed.disk.fail(Fault::new(OpKind::Create, 0, errno::EIO).forever().on(".seg"));
    for error in [bed.refused(), *bed.next().unwrap_err()] {
        assert!(matches!(error, LedgerError::Log(Error::Io { .. })), "{error}");
    }
    bed.disk.heal();
    // It is tried again after a while; who asks before is told of the last time.
    let goes_on = || {
        let settled = bed.ledger.pending().iter().all(|batch| bed.ledger.commit(batch.id(), "").is_ok());
        settled && bed.next().is_ok()
    };
    let began = Instant::now();
    while !goes_on() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", bed.next());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Otherwise whoever waits for segments would wait for ever.
#[test]
fn a_ledger_ends_when_no_segment_is_prepared_any_more() {
    let bed = Bed::new();
    bed.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
    let first = bed.refused();
    bed.disk.heal();
    let began = Instant::now();
    let last = loop {
        // While one is tried, it may still pass.
        match bed.next() {
            Err(error) if matches!(*error, LedgerError::Failed(_)) => break error,
            told => assert!(began.elapsed() < Duration::from_secs(30), "{told:?}, after {first}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(last.to_string().contains("open it again"), "{last}");
    assert!(matches!(*bed.next().unwrap_err(), LedgerError::Failed(_)));
}
