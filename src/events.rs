//! What the log tells the `tracing` and `metrics` facades, when those features are on. Once per group or rarer: never
//! per record.

/// An event for `tracing`; nothing without the feature.
macro_rules! event {
    ($level:ident, $($field:tt)*) => {
        #[cfg(feature = "tracing")]
        ::tracing::$level!($($field)*);
    };
}
pub(crate) use event;

/// A group was flushed: times in µs.
#[allow(unused_variables, reason = "without the feature there is nobody to tell")]
pub(crate) fn group_flushed(frames: u64, bytes: u64, write_micros: u64, flush_micros: u64) {
    #[cfg(feature = "metrics")]
    {
        ::metrics::counter!("seawall_frames_flushed_total").increment(frames);
        ::metrics::counter!("seawall_device_bytes_total").increment(bytes);
        ::metrics::counter!("seawall_groups_flushed_total").increment(1);
        ::metrics::histogram!("seawall_group_frames").record(frames as f64);
        ::metrics::histogram!("seawall_write_microseconds").record(write_micros as f64);
        ::metrics::histogram!("seawall_flush_microseconds").record(flush_micros as f64);
    }
}

/// How long a group's oldest frame waited to be written.
#[allow(unused_variables, reason = "without the feature there is nobody to tell")]
pub(crate) fn queue_waited(micros: u64) {
    #[cfg(feature = "metrics")]
    ::metrics::histogram!("seawall_queue_wait_microseconds").record(micros as f64);
}

/// How far the scan of the unsealed tail has come.
#[allow(unused_variables, reason = "without the feature there is nobody to tell")]
pub(crate) fn recovery_progress(scanned_bytes: u64, file_bytes: u64) {
    #[cfg(feature = "metrics")]
    {
        ::metrics::gauge!("seawall_recovery_scanned_bytes").set(scanned_bytes as f64);
        ::metrics::gauge!("seawall_recovery_bytes").set(file_bytes as f64);
    }
    event!(debug, scanned_bytes, file_bytes, "recovering");
}

/// Something rare happened: a rotation, a segment prepared, recycled or removed, damage met, a log poisoned.
#[allow(unused_variables, reason = "without the feature there is nobody to tell")]
pub(crate) fn happened(what: &'static str, count: u64) {
    #[cfg(feature = "metrics")]
    ::metrics::counter!("seawall_events_total", "event" => what).increment(count);
}
