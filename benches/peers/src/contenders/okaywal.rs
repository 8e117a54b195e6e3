//! okaywal: `commit` returns after `fdatasync`; one caller syncs for all who have written by
//! then. Files are filled with zeros when made and used again after a checkpoint, which here has
//! nothing to save.

use std::io;
use std::path::Path;

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use seawall_limit::Load;

use super::{Contender, Failure};

#[derive(Debug)]
pub(crate) struct Okaywal {
    log: WriteAheadLog,
}

impl Okaywal {
    pub(crate) fn open(dir: &Path, load: Load) -> Result<Okaywal, Failure> {
        let log = configuration(dir, load).open(NothingToSave)?;
        Ok(Okaywal { log })
    }
}

/// Its defaults, but for the size of its files: 1 MiB, or room for several groups if those are large. At 1 MiB a record,
/// 4 to 16 MiB looked best in a few noisy runs; files of 64 MiB are not used again soon enough, nor did a buffer larger than 16 KiB help.
fn configuration(dir: &Path, load: Load) -> Configuration {
    let file_bytes = (8 * load.record_bytes * load.outstanding).clamp(1 << 20, 64 << 20);
    Configuration::default_for(dir)
        .preallocate_bytes(file_bytes as u32)
        .checkpoint_after_bytes(file_bytes as u64 / 4 * 3)
}

impl Contender for Okaywal {
    fn append_durable(&self, _client: usize, payload: &[u8]) -> Result<(), Failure> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }
}

impl Drop for Okaywal {
    fn drop(&mut self) {
        // Ends its checkpoint thread, which otherwise keeps the files.
        let _ = self.log.clone().shutdown();
    }
}

/// The storage behind the log; records are complete the moment they are logged.
#[derive(Debug)]
struct NothingToSave;

impl LogManager for NothingToSave {
    fn recover(&mut self, _entry: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last_checkpointed_id: EntryId,
        _checkpointed_entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}
