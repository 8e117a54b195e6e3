//! A ledger's limits.

use std::time::Duration;

use super::error::LedgerError;
use crate::config::{Unusable, spans, within};
use crate::receiver::PidConfig;

/// How a driver behaves. With the `serde` feature, sizes read and write as `"4 MiB"` and times as `"1s"`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct LedgerConfig {
    /// Batches that may wait for their commit: 1 to 1 000 000. Default 1000.
    pub pending_batches_max: usize,
    /// The state is written down anew when the log has taken so many bytes for events since the last time, or as many as
    /// for the state itself: 4 KiB to 1 TiB. An event takes 4 KiB or more. Default 4 MiB. In a log with a byte limit, an
    /// eighth of that if it is less: the limit should hold the state four times.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub checkpoint_interval_bytes: u64,
    /// Streams give up what is committed. Default yes; without it whoever else reads them decides.
    pub trim_streams: bool,
    /// Limits what sources may send to what the engine gets done, from batch times, for as long as the ledger and its batches are
    /// held. Default: no limit.
    pub rate: Option<PidConfig>,
    /// How often batches begin: what the rate control compares their time with: 1 ms to a day. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub batch_interval: Duration,
    /// Bytes of a record, for the rate before the first batch has been measured: up to 1 GiB. Default 1 KiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
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
        self.check().map_err(|Unusable { field, problem }| LedgerError::Config { field, problem })
    }

    fn check(&self) -> Result<(), Unusable> {
        within("pending_batches_max", self.pending_batches_max as u64, 1, 1_000_000)?;
        // An event takes no less.
        within("checkpoint_interval_bytes", self.checkpoint_interval_bytes, 4096, 1 << 40)?;
        within("record_bytes_first", self.record_bytes_first, 1, 1 << 30)?;
        self.rate.as_ref().map_or(Ok(()), check_rate)?;
        spans("batch_interval", self.batch_interval, Duration::from_millis(1), Duration::from_secs(24 * 3600))
    }
}

/// Weights and rates that can be counted with.
fn check_rate(rate: &PidConfig) -> Result<(), Unusable> {
    let PidConfig { proportional, integral, derivative, records_per_second_min, records_per_second_first } = *rate;
    let fields = [
        ("rate.proportional", proportional),
        ("rate.integral", integral),
        ("rate.derivative", derivative),
        ("rate.records_per_second_min", records_per_second_min),
        ("rate.records_per_second_first", records_per_second_first),
    ];
    if let Some((field, value)) = fields.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
        return Err(Unusable { field, problem: format!("is {value}, must be a number from 0 on") });
    }
    // Only a batch raises the rate again, and where nothing comes there is none.
    if records_per_second_min < 1.0 {
        let (field, value) = ("rate.records_per_second_min", records_per_second_min);
        return Err(Unusable { field, problem: format!("is {value}, must be a number from 1 on") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_is_no_number_is_named() {
        let with = |rate| LedgerConfig { rate: Some(rate), ..LedgerConfig::default() }.validate();
        assert!(with(PidConfig::default()).is_ok());
        // At 0, what is limited ends no batch that would say more.
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.0, 0.5] {
            let error = with(PidConfig { records_per_second_min: wrong, ..PidConfig::default() }).unwrap_err();
            assert!(matches!(error, LedgerError::Config { field: "rate.records_per_second_min", .. }), "{error}");
        }
    }
}
