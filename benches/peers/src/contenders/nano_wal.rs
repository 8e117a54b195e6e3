//! nano-wal: `append(durable = true)` returns after `fdatasync`, called with the file's lock
//! held. It has no group commit: its `append_batch` is for callers that have several records.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nano_wal::{Wal, WalOptions};

use super::{Contender, Failure};

/// The log takes a file per span of the time it is told, so time stands still during a run.
const SPAN: Duration = Duration::from_secs(1);

pub(crate) struct NanoWal {
    log: Wal,
    dir: PathBuf,
    time_ms: AtomicI64,
}

impl NanoWal {
    pub(crate) fn open(dir: &Path) -> Result<NanoWal, Failure> {
        let options = WalOptions { retention: SPAN, segment_duration: SPAN };
        let log = Wal::new(dir, "log", options)?;
        log.ensure_segment(0)?;
        Ok(NanoWal { log, dir: dir.into(), time_ms: AtomicI64::new(0) })
    }
}

impl Contender for NanoWal {
    fn append_durable(&self, _client: usize, payload: &[u8]) -> Result<(), Failure> {
        let time_ms = self.time_ms.load(Ordering::Relaxed);
        self.log.append(None, payload, time_ms, true)?;
        Ok(())
    }

    fn trim(&self) -> Result<(), Failure> {
        let span_ms = SPAN.as_millis() as i64;
        let time_ms = self.time_ms.fetch_add(span_ms, Ordering::Relaxed) + span_ms;
        let active = self.log.ensure_segment(time_ms)?;
        // Its own `cleanup` goes by the system's clock and would remove the active file as well.
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path != active.path() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}
