//! seawall, with its defaults: `wait` returns when the device has flushed the record.

use std::path::Path;

use seawall::{Config, Log};

use super::{Contender, Failure};

/// Trimmed beyond this at rotation, so that its files are used again.
const RETAINED_BYTES: u64 = 128 << 20;

pub(crate) struct Seawall {
    log: Log,
}

impl Seawall {
    pub(crate) fn open(dir: &Path) -> Result<Seawall, Failure> {
        let config = Config { retain_bytes: Some(RETAINED_BYTES), ..Config::default() };
        let (log, _recovery) = Log::open(dir, config)?;
        Ok(Seawall { log })
    }
}

impl Contender for Seawall {
    fn append_durable(&self, _client: usize, payload: &[u8]) -> Result<(), Failure> {
        self.log.append(payload)?.wait()?;
        Ok(())
    }
}
