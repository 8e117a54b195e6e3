//! raft-engine: `write(sync = true)` returns after `fdatasync`; the first writer to come leads a
//! group and syncs for it. Set up with files written ahead and recycled (`prefill_for_recycle`),
//! which it calls its fast path, and without compression, because the payload is noise.
//!
//! Each client is a region of its own, as its users have many. Every batch that crosses a limit
//! also carries the command that gives up what came before, and a thread then purges: without
//! both nothing would ever be recycled.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize};
use seawall_limit::Load;

use super::{Contender, Failure};

const FILE_MIB: u64 = 32;
const KEPT_MIB: u64 = 128;
const PREFILLED_MIB: u64 = 384;

/// Bytes that all clients together append between two purges.
const PURGE_INTERVAL_BYTES: u64 = 32 << 20;

pub(crate) struct RaftEngine {
    engine: Arc<Engine>,
    regions: Vec<Mutex<Region>>,
    /// A region gives up its past after this many records.
    compact_interval_records: u64,
    appended_bytes: AtomicU64,
    stop: Arc<AtomicBool>,
    purger: Option<JoinHandle<()>>,
}

/// What a client keeps from append to append; its lock is never contended.
struct Region {
    batch: LogBatch,
    entry: UninterpretedOption,
}

/// An entry is a protobuf message with an index and bytes. This one, which comes with the
/// library, has a `uint64` and a `bytes` field; any other would do.
struct IndexAndBytes;

impl MessageExt for IndexAndBytes {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

impl RaftEngine {
    pub(crate) fn open(dir: &Path, load: Load) -> Result<RaftEngine, Failure> {
        let engine = Arc::new(Engine::open(Config {
            dir: dir.to_str().ok_or("the directory is not UTF-8")?.to_owned(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(FILE_MIB),
            purge_threshold: ReadableSize::mb(KEPT_MIB),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize::mb(PREFILLED_MIB)),
            ..Config::default()
        })?);
        let stop = Arc::new(AtomicBool::new(false));
        let purger = {
            let (engine, stop) = (engine.clone(), stop.clone());
            thread::Builder::new().name("purger".into()).spawn(move || purge_when_woken(&engine, &stop))?
        };
        let all_bytes = load.record_bytes as u64 * load.outstanding as u64;
        let region = || Region { batch: LogBatch::with_capacity(1), entry: UninterpretedOption::new() };
        Ok(RaftEngine {
            engine,
            regions: (0..load.outstanding).map(|_| Mutex::new(region())).collect(),
            compact_interval_records: (PURGE_INTERVAL_BYTES / all_bytes).max(1),
            appended_bytes: AtomicU64::new(0),
            stop,
            purger: Some(purger),
        })
    }

    fn wake_purger(&self) {
        if let Some(purger) = &self.purger {
            purger.thread().unpark();
        }
    }
}

fn purge_when_woken(engine: &Engine, stop: &AtomicBool) {
    loop {
        thread::park();
        if stop.load(Ordering::Acquire) {
            return;
        }
        // A failure shows as files that grow; appends report their own.
        let _ = engine.purge_expired_files();
    }
}

impl Contender for RaftEngine {
    fn append_durable(&self, client: usize, payload: &[u8]) -> Result<(), Failure> {
        let region_id = client as u64 + 1;
        let mut region = self.regions[client].lock().unwrap_or_else(PoisonError::into_inner);
        let Region { batch, entry } = &mut *region;
        let index = entry.get_positive_int_value() + 1;
        entry.set_positive_int_value(index);
        let bytes = entry.mut_string_value();
        bytes.clear();
        bytes.extend_from_slice(payload);
        batch.add_entries::<IndexAndBytes>(region_id, std::slice::from_ref(entry))?;
        if index.is_multiple_of(self.compact_interval_records) {
            batch.add_command(region_id, Command::Compact { index });
        }
        self.engine.write(batch, true)?;

        let len = payload.len() as u64;
        let before = self.appended_bytes.fetch_add(len, Ordering::Relaxed);
        if before / PURGE_INTERVAL_BYTES != (before + len) / PURGE_INTERVAL_BYTES {
            self.wake_purger();
        }
        Ok(())
    }
}

impl Drop for RaftEngine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake_purger();
        if let Some(purger) = self.purger.take() {
            let _ = purger.join();
        }
    }
}
