//! A log that has no segment for an event now has refused it: nothing of it is unknown, and the ledger goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall::ledger::BatchLimits;
use seawall::node::{Ledger, LedgerConfig, LedgerError};
use seawall::{Config, Error, Log};

use super::sim::{DiskOptions, Fault, OpKind, SimDisk, errno};

#[test]
fn a_ledger_goes_on_when_segments_can_be_prepared_again() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let config = Config { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10, ..Config::default() };
    let (log, _) = Log::open_on(disk.open(), config).expect("the log opens");
    disk.pump();
    let (ledger, _) = Ledger::open(log, LedgerConfig::default()).expect("the ledger opens");
    // Segments are prepared beside whoever waits for one.
    let (beside, ended) = (disk.clone(), Arc::new(AtomicBool::new(false)));
    let is_over = Ended(ended.clone());
    let pumps = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            beside.pump();
            std::thread::yield_now();
        }
    });
    let empty = BatchLimits { allow_empty: true, ..BatchLimits::default() };
    let next = || -> Result<(), Box<LedgerError>> {
        let batch = ledger.allocate(&empty)?.expect("an empty one");
        Ok(ledger.commit(batch.id(), "")?)
    };
    disk.fail(Fault::new(OpKind::Create, 0, errno::EIO).forever().on(".seg"));
    let refused = (0..1000).find_map(|_| next().err()).expect("the segments there are do not last");
    for error in [refused, next().unwrap_err()] {
        assert!(matches!(*error, LedgerError::Log(Error::Io { .. })), "{error}");
    }
    disk.heal();
    // It is tried again after a while; who asks before is told of the last time.
    let goes_on = || {
        let settled = ledger.pending().iter().all(|batch| ledger.commit(batch.id(), "").is_ok());
        settled && next().is_ok()
    };
    let began = Instant::now();
    while !goes_on() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", next());
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(is_over);
    pumps.join().unwrap();
}

/// Ends the thread beside, also when the test fails.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
