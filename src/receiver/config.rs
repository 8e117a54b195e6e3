//! What can be chosen about a receiver, with its limits.

use std::time::Duration;

use crate::config::{Config, Unusable, WhenFull, spans, within};
use crate::error::{Error, Result};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// With what a block says besides, it is the longest record of a log: 1 GiB.
const BYTES_MAX: u64 = 1024 * MIB - 4 * KIB;

/// How a receiver behaves. Every field has a default; [`ReceiverConfig::validate`] says what is not usable.
///
/// With the `serde` feature, sizes read and write as `"64 MiB"` and times as `"100ms"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct ReceiverConfig {
    /// A record may be this long: 1 byte to 4 KiB less than 1 GiB. Default 4 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub record_bytes_max: u64,
    /// A SEND's payload may be this long, or one record: 1 KiB to 4 KiB less than 1 GiB. Default 4 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub frame_bytes_max: u64,
    /// A SEND may carry this many records: 1 to 1 million. Default 10 000.
    pub frame_records_max: u32,
    /// A HELLO may be this long: 1 KiB to 1 MiB. Default 64 KiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub hello_bytes_max: u64,
    /// A record too long to be taken is still read to its end, to be recorded as a reject, up to this length; beyond it
    /// the session ends: up to 4 GiB. Default 64 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub oversized_bytes_max: u64,
    /// Bytes held for all sessions until they are durable: 64 KiB to 64 GiB. Beyond it there may be: one message that is
    /// longer by itself, what is kept of the records of one SEND that are refused, HELLOs of up to 1 KiB, each
    /// connection's 16 KiB that are read ahead, and what messages stand in besides: up to three times their own length for
    /// those that come over the wire, a quarter of it for others. Default 64 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub in_flight_bytes_max: u64,
    /// Bytes a session may have sent that are not durable yet: 1 KiB to 64 GiB, at least one SEND. Default 8 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub session_window_bytes: u64,
    /// Sessions at once: 1 to 1 million. Default 10 000.
    pub sessions_max: u32,
    /// Sources in the stream's memory: 1 to 100 million. Default 1 million.
    pub sources_max: u32,
    /// A block is full at this length, or with one SEND: 4 KiB to 64 MiB. Default 1 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub block_bytes_max: u64,
    /// Blocks on their way to the device at once: 1 to 1024. With few, records wait that the device could have taken; with many,
    /// blocks stay small. Default 8.
    pub blocks_in_flight_max: u32,
    /// All sources are written down anew behind so many bytes, which bounds what an open has to read: 1 KiB to 64 GiB.
    /// Default 64 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub snapshot_interval_bytes: u64,
    /// What becomes of records that are too long or that the receiver's check refuses. Default stop.
    pub poison: Poison,
    /// Open although frames cannot be read that tell what sources have sent. Their records are given up; sources that do not
    /// remember what they were told may repeat what was trimmed since. Default no.
    pub accept_damage: bool,
    /// Rejects a source may leave unseen: 1 to 10 000. Default 256.
    pub rejects_unseen_max: u32,
    /// How often a silent end asks the other one: 10 ms to 1 h. A session silent for three times this is closed. Default
    /// 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat: Duration,
    /// A connection says HELLO within this, and a new epoch is durable within this: 1 ms to 1 h. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub hello_timeout: Duration,
    /// A message that has begun is complete within this: 1 ms to 1 h. While others wait for room, 64 KiB a second are
    /// asked besides. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub message_timeout: Duration,
    /// A WELCOME waits this long for what the source's last session left on its way: 0 to 1 h. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub welcome_wait: Duration,
}

/// What becomes of a record that cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Poison {
    /// The session ends with an error; the source stands still until somebody acts.
    #[default]
    Stop,
    /// It is kept in the stream as a reject, outside the data, and the source is told until it has taken note.
    DeadLetter,
    /// It is counted and gone. Only for sources that wait for `received`; others stop.
    Drop,
}

impl Default for ReceiverConfig {
    fn default() -> ReceiverConfig {
        ReceiverConfig {
            record_bytes_max: 4 * MIB,
            frame_bytes_max: 4 * MIB,
            frame_records_max: 10_000,
            hello_bytes_max: 64 * KIB,
            oversized_bytes_max: 64 * MIB,
            in_flight_bytes_max: 64 * MIB,
            session_window_bytes: 8 * MIB,
            sessions_max: 10_000,
            sources_max: 1_000_000,
            block_bytes_max: MIB,
            blocks_in_flight_max: 8,
            snapshot_interval_bytes: 64 * MIB,
            poison: Poison::Stop,
            accept_damage: false,
            rejects_unseen_max: 256,
            heartbeat: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(30),
            welcome_wait: Duration::from_secs(5),
        }
    }
}

impl ReceiverConfig {
    /// A SEND's payload is at most this long: the limit, or one record with its header.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u64 {
        self.frame_bytes_max.max(self.record_bytes_max + 8)
    }

    /// A block's frame is at most this long: what the log must take as one record.
    #[must_use]
    pub fn frame_of_log_bytes_max(&self) -> u64 {
        // A block is at its limit, or holds one SEND, or what is said of a record that is rejected; or it is a part of
        // a snapshot, which ends behind one source.
        let send = self.payload_bytes_max() + 2 * KIB;
        let snapshot_part = 256 * KIB + 256 * (u64::from(self.rejects_unseen_max) + 2);
        self.block_bytes_max.max(send).max(snapshot_part) + KIB
    }

    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`Error::Config`], naming the first such field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|Unusable { field, problem }| Error::Config { field, problem })
    }

    /// Says which field of the log's configuration does not go with this one: the stream is kept in a log that takes every block,
    /// and gives none up by itself.
    ///
    /// # Errors
    /// [`Error::Config`], naming the first such field.
    pub fn validate_log(&self, log: &Config) -> Result<()> {
        let needed = self.frame_of_log_bytes_max();
        let wrong = |field, problem| Err(Error::Config { field, problem });
        if log.record_bytes_max < needed {
            let problem = format!("of the log is {}, blocks may be {needed} bytes long", log.record_bytes_max);
            return wrong("record_bytes_max", problem);
        }
        if log.when_full == WhenFull::DropOldest || log.retain_for.is_some() || log.retain_bytes.is_some() {
            let problem =
                "would trim the stream behind the receiver's back, and with it what sources have sent".to_owned();
            return wrong("when_full, retain_for or retain_bytes", problem);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Unusable> {
        const GIB: u64 = 1024 * MIB;
        within("record_bytes_max", self.record_bytes_max, 1, BYTES_MAX)?;
        within("frame_bytes_max", self.frame_bytes_max, KIB, BYTES_MAX)?;
        within("frame_records_max", self.frame_records_max.into(), 1, 1_000_000)?;
        within("hello_bytes_max", self.hello_bytes_max, KIB, MIB)?;
        within("oversized_bytes_max", self.oversized_bytes_max, 0, u32::MAX.into())?;
        within("in_flight_bytes_max", self.in_flight_bytes_max, 64 * KIB, 64 * GIB)?;
        within("session_window_bytes", self.session_window_bytes, self.payload_bytes_max(), 64 * GIB)?;
        within("sessions_max", self.sessions_max.into(), 1, 1_000_000)?;
        within("sources_max", self.sources_max.into(), 1, 100_000_000)?;
        within("block_bytes_max", self.block_bytes_max, 4 * KIB, 64 * MIB)?;
        within("blocks_in_flight_max", self.blocks_in_flight_max.into(), 1, 1024)?;
        within("snapshot_interval_bytes", self.snapshot_interval_bytes, KIB, 64 * GIB)?;
        within("rejects_unseen_max", self.rejects_unseen_max.into(), 1, 10_000)?;
        let hour = Duration::from_secs(3600);
        spans("heartbeat", self.heartbeat, Duration::from_millis(10), hour)?;
        spans("hello_timeout", self.hello_timeout, Duration::from_millis(1), hour)?;
        spans("message_timeout", self.message_timeout, Duration::from_millis(1), hour)?;
        spans("welcome_wait", self.welcome_wait, Duration::ZERO, hour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usable_is_named() {
        assert!(ReceiverConfig::default().validate().is_ok());
        type Spoil = fn(&mut ReceiverConfig);
        let cases: [(&str, Spoil); 8] = [
            ("record_bytes_max", |c| c.record_bytes_max = 0),
            ("frame_records_max", |c| c.frame_records_max = 0),
            ("session_window_bytes", |c| c.session_window_bytes = c.record_bytes_max),
            ("in_flight_bytes_max", |c| c.in_flight_bytes_max = 1),
            ("heartbeat", |c| c.heartbeat = Duration::ZERO),
            ("blocks_in_flight_max", |c| c.blocks_in_flight_max = 0),
            ("record_bytes_max", |c| (c.record_bytes_max, c.session_window_bytes) = (1 << 30, 2 << 30)),
            ("frame_bytes_max", |c| (c.frame_bytes_max, c.session_window_bytes) = (1 << 30, 2 << 30)),
        ];
        for (expected, spoil) in cases {
            let mut config = ReceiverConfig::default();
            spoil(&mut config);
            match config.validate() {
                Err(Error::Config { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    /// The longest ones needed a log that takes more than any log does.
    #[test]
    fn the_longest_records_fit_a_log() {
        let config = ReceiverConfig {
            record_bytes_max: (1 << 30) - (4 << 10),
            frame_bytes_max: (1 << 30) - (4 << 10),
            session_window_bytes: 2 << 30,
            rejects_unseen_max: 10_000,
            block_bytes_max: 64 * MIB,
            ..ReceiverConfig::default()
        };
        config.validate().unwrap();
        let record_bytes_max = config.frame_of_log_bytes_max();
        let log = crate::Config { record_bytes_max, in_flight_bytes_max: record_bytes_max, ..crate::Config::default() };
        log.validate().unwrap();
    }

    #[cfg(feature = "serde")]
    #[test]
    fn human_units_are_read() {
        let text = "{\"record_bytes_max\": \"1 MiB\", \"heartbeat\": \"2s\", \"poison\": \"dead_letter\"}";
        let config: ReceiverConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.record_bytes_max, config.heartbeat), (1 << 20, Duration::from_secs(2)));
        assert_eq!(config.poison, Poison::DeadLetter);
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ReceiverConfig>(&written).unwrap(), config);
    }
}
