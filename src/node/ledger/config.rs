//! A ledger's limits.

use std::time::Duration;

use super::error::LedgerError;
use crate::receiver::PidConfig;

/// How a driver behaves.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct LedgerConfig {
    /// Batches that may wait for their commit. Default 1000.
    pub pending_batches_max: usize,
    /// The state is written down anew when so many bytes of events have been written since the last time, or as many as
    /// the state itself takes. Default 4 MiB.
    pub checkpoint_interval_bytes: u64,
    /// Streams give up what is committed. Default yes; without it whoever else reads them decides.
    pub trim_streams: bool,
    /// Limits what sources may send to what the engine gets done, from batch times. Default: no limit.
    pub rate: Option<PidConfig>,
    /// How often batches begin: what the rate control compares their time with. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub batch_interval: Duration,
    /// Bytes of a record, for the rate before the first batch has been measured. Default 1 KiB.
    pub record_bytes_first: u64,
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig {
            pending_batches_max: 1000,
            checkpoint_interval_bytes: 4 << 20,
            trim_streams: true,
            rate: None,
            batch_interval: Duration::from_secs(1),
            record_bytes_first: 1024,
        }
    }
}

impl LedgerConfig {
    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// [`LedgerError::Config`] names the field.
    pub fn validate(&self) -> Result<(), LedgerError> {
        let wrong = |field, problem: &str| Err(LedgerError::Config { field, problem: problem.to_owned() });
        if self.pending_batches_max == 0 {
            return wrong("pending_batches_max", "is 0: no batch could ever run; at least 1");
        }
        if self.checkpoint_interval_bytes < 4096 {
            return wrong("checkpoint_interval_bytes", "is below 4096: each event would write the state down anew");
        }
        if self.batch_interval.is_zero() {
            return wrong("batch_interval", "is zero; at least a millisecond");
        }
        if self.record_bytes_first == 0 {
            return wrong("record_bytes_first", "is 0; at least 1");
        }
        Ok(())
    }
}
