//! What can be chosen about a log, with its limits.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::types::StreamId;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// How a log behaves. Every field has a default that is safe and fast; [`Config::validate`] says what is not usable.
///
/// With the `serde` feature, sizes read and write as `"64 MiB"` and times as `"100ms"`.
///
/// ```
/// let config = seawall::Config { record_bytes_max: 4 << 20, ..Default::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Config {
    /// The stream this log holds; fixed when the log is created.
    pub stream: StreamId,
    /// What `open` does about damage.
    pub recovery: RecoveryMode,
    /// Create the log when the directory holds none.
    pub create: bool,

    /// How writes are carried; logs that share a driver share its choice. Default io_uring where it works and is the quicker way.
    pub backend: BackendChoice,
    /// Whether files bypass the page cache. Default where the file system does it.
    pub direct_io: DirectIo,

    /// A record may be at most this long: 1 byte to 1 GiB. Default 16 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub record_bytes_max: u64,
    /// Bytes appended and not yet flushed; beyond it `try_append` is `Busy` and `append` waits: 64 KiB to 64 GiB, at
    /// least `record_bytes_max`. Large records are copied before they wait: one per thread comes on top. Default 64 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub in_flight_bytes_max: u64,
    /// A device write carries at most this much, or one record: 64 KiB to 64 MiB. Default 4 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub group_bytes_max: u64,
    /// At most so many device writes in flight, 1 to 64; the log finds the best number up to it by measuring. Default 8.
    /// Where it is not known that writes go past all caches ([`Medium::past_caches`](crate::storage::Medium::past_caches)) it is
    /// always one: a failed flush can take the pages of other writes with it, whose own flush would then succeed.
    pub flush_depth_max: usize,
    /// At least so many may be in flight, also before anything is measured: for a device of which more is known. Default
    /// 1. As `flush_depth_max`, without effect where writes may go through a cache.
    pub flush_depth_min: usize,
    /// Let waiters of the last group rejoin before the next one is written. Default true.
    pub gather: bool,
    /// A frame nobody waits for is on its way to the device after at most this long: 50 µs to 1 s.
    /// Shorter wakes a thread more often while others write for themselves. Default 5 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub sweep_interval: Duration,
    /// After this long without work a marker proves everything flushed: 1 ms to 1 h. Default 100 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub idle_proof_after: Duration,

    /// The first segments are this long, later ones grow with the log: 64 KiB to 16 GiB, in steps of 64 KiB. Default
    /// 1 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub segment_bytes_min: u64,
    /// Segments grow up to this length, or that of one record: up to 16 GiB, in steps of 64 KiB. Default 64 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub segment_bytes_max: u64,
    /// One index entry per so many bytes of a segment: 4 KiB to 64 MiB. Default 64 KiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub index_stride_bytes: u64,

    /// All segment files together take at most this much, prepared ones included: at least four times
    /// `segment_bytes_min`. Default none.
    #[cfg_attr(feature = "serde", serde(with = "size::option"))]
    pub byte_limit: Option<u64>,
    /// What an append does when the byte limit is reached or the disk is full. Default `Reject`.
    pub when_full: WhenFull,
    /// Sealed segments whose newest frame is older than this are trimmed at rotation. By the writer's clock, as far as it was
    /// not set meanwhile: no older than the time that has passed since the segment was sealed, or, for one that an open
    /// found, than its age then and the time since. Default never.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde::option"))]
    pub retain_for: Option<Duration>,
    /// Sealed segments are trimmed, oldest first, at rotation, while their files take more bytes than this. Default never.
    #[cfg_attr(feature = "serde", serde(with = "size::option"))]
    pub retain_bytes: Option<u64>,

    /// Readers at the head are served from memory within this bound: 0 to 16 GiB. Default 8 MiB.
    #[cfg_attr(feature = "serde", serde(with = "size"))]
    pub memory_tail_bytes: u64,
    /// Compress payloads of at least 256 bytes when it makes them smaller. Default `None`.
    pub compression: Compression,
    /// How long `open` waits for writes of a dead process that are still in flight: up to 24 h. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub in_flight_wait: Duration,
}

/// Which way writes are to be carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum BackendChoice {
    /// io_uring where it works, and threads now and then, or always while their writes are the quicker ones (on a busy machine
    /// they may be); without it positional writes, with the reason reported.
    #[default]
    Auto,
    /// io_uring for all that it can carry, or an error. Not by it, and without a word: groups that a waiting thread writes
    /// itself, and those of more than 1024 parts or 2 GiB, which no one request carries.
    IoUring,
    /// Positional writes by a pool of threads.
    Pwrite,
}

/// Whether files are written and read past the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum DirectIo {
    /// Where the file system does it.
    #[default]
    Auto,
    /// Not.
    Never,
    /// Or the directory is not opened.
    Require,
    /// As `Require`; and the file system is trusted not to write through a cache all the same, so that several groups are on their
    /// way at once. Otherwise they are where that is known ([`Medium::past_caches`](crate::storage::Medium::past_caches)), and
    /// btrfs, FUSE and network file systems get one group at a time. Where the trust is misplaced, a write that fails may take
    /// with it another group that was acknowledged.
    Trust,
}

/// What `open` does about damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum RecoveryMode {
    /// Damage in the unsealed tail refuses appends until it is repaired or quarantined; reading goes on. Damage in a
    /// sealed segment is an error to the reader who meets it.
    #[default]
    Strict,
    /// Damaged ranges are recorded, kept on disk, and reported to readers as typed gaps; appends go on behind them.
    Quarantine,
    /// Nothing is written, nothing locked; the proven part of the log can be read, also while another process writes it.
    ReadOnly,
}

/// What an append does when there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum WhenFull {
    /// `append` waits until a trim or the file system makes room. [`Error::Full`] when none can: [`Config::byte_limit`] must
    /// hold the record's segment beside the one in use and the prepared ones, two of `segment_bytes_min` at least.
    Block,
    /// `append` answers [`Error::Full`].
    #[default]
    Reject,
    /// The oldest sealed segment is trimmed, each time as an event in the statistics; none for a record that has no room
    /// without all of them either. Otherwise as `Block`. Such a log cannot promise exactly once to its readers.
    DropOldest,
}

/// How payloads are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4 blocks; needs the `lz4` feature.
    Lz4,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            stream: StreamId(0),
            recovery: RecoveryMode::Strict,
            create: true,
            backend: BackendChoice::Auto,
            direct_io: DirectIo::Auto,
            record_bytes_max: 16 * MIB,
            in_flight_bytes_max: 64 * MIB,
            group_bytes_max: 4 * MIB,
            flush_depth_max: 8,
            flush_depth_min: 1,
            gather: true,
            sweep_interval: Duration::from_millis(5),
            idle_proof_after: Duration::from_millis(100),
            segment_bytes_min: MIB,
            segment_bytes_max: 64 * MIB,
            index_stride_bytes: 64 * KIB,
            byte_limit: None,
            when_full: WhenFull::Reject,
            retain_for: None,
            retain_bytes: None,
            memory_tail_bytes: 8 * MIB,
            compression: Compression::None,
            in_flight_wait: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`Error::Config`], naming the first such field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|Unusable { field, problem }| Error::Config { field, problem })
    }

    fn check(&self) -> Result<(), Unusable> {
        let wrong = |field, problem: String| Err(Unusable { field, problem });
        within("record_bytes_max", self.record_bytes_max, 1, 1024 * MIB)?;
        within("in_flight_bytes_max", self.in_flight_bytes_max, 64 * KIB, 64 * 1024 * MIB)?;
        within("group_bytes_max", self.group_bytes_max, 64 * KIB, 64 * MIB)?;
        within("flush_depth_max", self.flush_depth_max as u64, 1, 64)?;
        within("flush_depth_min", self.flush_depth_min as u64, 1, self.flush_depth_max as u64)?;
        spans("sweep_interval", self.sweep_interval, Duration::from_micros(50), Duration::from_secs(1))?;
        spans("idle_proof_after", self.idle_proof_after, Duration::from_millis(1), Duration::from_secs(3600))?;
        spans("in_flight_wait", self.in_flight_wait, Duration::ZERO, Duration::from_secs(24 * 3600))?;
        within("segment_bytes_min", self.segment_bytes_min, 64 * KIB, 16 * 1024 * MIB)?;
        within("segment_bytes_max", self.segment_bytes_max, self.segment_bytes_min, 16 * 1024 * MIB)?;
        within("index_stride_bytes", self.index_stride_bytes, 4 * KIB, 64 * MIB)?;
        within("memory_tail_bytes", self.memory_tail_bytes, 0, 16 * 1024 * MIB)?;
        for (field, value) in
            [("segment_bytes_min", self.segment_bytes_min), ("segment_bytes_max", self.segment_bytes_max)]
        {
            if value % (64 * KIB) != 0 {
                return wrong(field, format!("is {value}, must be a multiple of 64 KiB"));
            }
        }
        if let Some(limit) = self.byte_limit
            && limit < 4 * self.segment_bytes_min
        {
            return wrong("byte_limit", format!("is {limit}, must hold four segments of segment_bytes_min"));
        }
        if self.in_flight_bytes_max < self.record_bytes_max {
            return wrong(
                "in_flight_bytes_max",
                "is below record_bytes_max: such a record could never be appended".into(),
            );
        }
        if self.compression == Compression::Lz4 && !cfg!(feature = "lz4") {
            return wrong("compression", "is lz4, but this build lacks the `lz4` feature".into());
        }
        Ok(())
    }
}

/// A value that is not usable; what reads a configuration makes its own error of it.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) field: &'static str,
    pub(crate) problem: String,
}

pub(crate) fn within(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), Unusable> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(Unusable { field, problem: format!("is {value}, must be within {low} and {high}") }),
    }
}

pub(crate) fn spans(field: &'static str, value: Duration, low: Duration, high: Duration) -> Result<(), Unusable> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(Unusable { field, problem: format!("is {value:?}, must be within {low:?} and {high:?}") }),
    }
}

/// Byte sizes as "64 MiB" or plain numbers.
#[cfg(feature = "serde")]
pub(crate) mod size {
    use bytesize::ByteSize;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// The largest unit that says it exactly: what is read back is what was written.
    fn exact(bytes: u64) -> String {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let exact = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
        exact.map_or_else(|| format!("{bytes} B"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
        exact(*bytes).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        ByteSize::deserialize(from).map(|size| size.0)
    }

    pub(crate) mod option {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
            bytes.map(exact).serialize(to)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
            Ok(Option::<ByteSize>::deserialize(from)?.map(|size| size.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usable_is_named() {
        assert!(Config::default().validate().is_ok());
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 10] = [
            ("record_bytes_max", |c| c.record_bytes_max = 0),
            ("in_flight_bytes_max", |c| c.in_flight_bytes_max = 1),
            ("in_flight_bytes_max", |c| c.in_flight_bytes_max = c.record_bytes_max - 1),
            ("segment_bytes_max", |c| c.segment_bytes_max = c.segment_bytes_min - 1),
            ("segment_bytes_min", |c| c.segment_bytes_min += 1),
            ("flush_depth_max", |c| c.flush_depth_max = 0),
            ("flush_depth_min", |c| c.flush_depth_min = c.flush_depth_max + 1),
            ("byte_limit", |c| c.byte_limit = Some(1)),
            ("sweep_interval", |c| c.sweep_interval = Duration::ZERO),
            ("in_flight_wait", |c| c.in_flight_wait = Duration::MAX),
        ];
        for (expected, spoil) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            match config.validate() {
                Err(Error::Config { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn what_is_written_is_what_is_read() {
        for bytes in [1, 4096, 65_535, 1_114_112, 64 << 20, (64 << 20) + 4096, 3 << 40] {
            let config = Config { record_bytes_max: bytes, byte_limit: Some(bytes), ..Config::default() };
            let written = serde_json::to_string(&config).unwrap();
            let read: Config = serde_json::from_str(&written).unwrap();
            assert_eq!(read, config, "{written}");
        }
        let default: Config = serde_json::from_str("{\"segment_bytes_min\": \"8 MiB\"}").unwrap();
        assert_eq!(default, Config { segment_bytes_min: 8 << 20, ..Config::default() });
    }
}
