//! What a source and a receiver say to each other. `wire` draws the bytes.

use crate::codec::Checksummed;
use crate::types::{Lsn, Seq, SourceEpoch};

/// The protocol's version that this code speaks.
pub(crate) const VERSION: u16 = 1;

/// One message of the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Message {
    /// Source: who I am and where I think we are.
    Hello(Hello),
    /// Receiver: where we really are, and what you may do.
    Welcome(Welcome),
    /// Receiver: another one owns your stream or you.
    Redirect {
        /// Where to go, `host:port`.
        address: String,
        /// How long to wait before.
        retry_after_millis: u32,
    },
    /// Source: records.
    Send(Send),
    /// Source: the sequences behind `previous`, through `to`, will never come.
    Skip {
        /// The last sequence before those skipped.
        previous: Seq,
        /// The last one skipped.
        to: Seq,
    },
    /// Receiver: how far your records have come.
    Ack(Ack),
    /// Receiver: something was not taken.
    Nack(Nack),
    /// Either: are you there?
    Ping {
        /// Comes back in the PONG.
        nonce: u64,
        /// The source has taken note of rejects up to here.
        rejects_seen: Seq,
    },
    /// Either: I am.
    Pong {
        /// The PING's.
        nonce: u64,
    },
    /// Receiver: I am about to go; finish within the time.
    GoAway {
        /// Why.
        code: Code,
        /// Sessions are closed after this.
        deadline_millis: u32,
        /// For people.
        text: String,
    },
    /// Source: nothing more will come. Receiver: everything you sent is as you wanted it.
    Bye,
}

/// How a source numbers its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum Sequences {
    /// 1, 2, 3 …
    #[default]
    Dense = 0,
    /// Growing numbers with gaps.
    Sparse = 1,
    /// Not at all: the receiver counts the session's records. At least once: a resend is a new record.
    None = 2,
}

/// The watermark a source waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum WaitFor {
    /// In the receiver's memory: at most once.
    Received = 0,
    /// On the stream's devices.
    #[default]
    Durable = 1,
    /// In a batch whose output is committed, or given up by an operator, on the record.
    Committed = 2,
}

/// HELLO.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The oldest protocol version the source speaks.
    pub version_min: u16,
    /// The newest one.
    pub version_max: u16,
    /// Optional abilities, a bit each; none is defined in version 1.
    pub features: u64,
    /// How records are numbered.
    pub sequences: Sequences,
    /// What the source waits for.
    pub wait_for: WaitFor,
    /// The source's life; 0: take the next.
    pub epoch: SourceEpoch,
    /// The highest sequence it was ever told to be durable.
    pub told_durable: Seq,
    /// Proof of the right to send; may be empty.
    pub token: Vec<u8>,
    /// The stream's name; may be empty where a receiver has one stream.
    pub stream: String,
    /// The source's name, 1 to 128 bytes; may be empty without sequences.
    pub source: Vec<u8>,
}

impl std::fmt::Debug for Hello {
    /// The token is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &(self.version_min..=self.version_max))
            .field("features", &self.features)
            .field("sequences", &self.sequences)
            .field("wait_for", &self.wait_for)
            .field("epoch", &self.epoch)
            .field("told_durable", &self.told_durable)
            .field("token", &if self.token.is_empty() { "none" } else { "given" })
            .field("stream", &self.stream)
            .field("source", &self.source.escape_ascii().to_string())
            .finish()
    }
}

/// WELCOME.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Welcome {
    /// The version spoken from here on.
    pub version: u16,
    /// The abilities both have.
    pub features: u64,
    /// This session's number, for the two ends' diagnostics.
    pub session: u64,
    /// The source's life, as durably recorded.
    pub epoch: SourceEpoch,
    /// Everything up to here is durable; the next SEND's `previous`.
    pub durable: Seq,
    /// Everything up to here is in a committed batch, or was given up by an operator, on the record.
    pub committed: Seq,
    /// How far the stream itself is durable.
    pub durable_lsn: Lsn,
    /// SEND payloads may add up to this many bytes since the session began.
    pub credit_bytes: u64,
    /// A record may be this long.
    pub record_bytes_max: u32,
    /// A SEND's payload may be this long.
    pub frame_bytes_max: u32,
    /// A SEND may carry this many records.
    pub frame_records_max: u32,
    /// A session that is silent for three times this long is closed.
    pub heartbeat_millis: u32,
    /// Rejects the source has not taken note of yet.
    pub rejects: Vec<Reject>,
}

/// SEND.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Send {
    /// The sequence before the first record; without sequences 0.
    pub previous: Seq,
    /// How many records.
    pub records: u32,
    /// The records, as `payload` lays them out.
    pub payload: Checksummed,
}

/// ACK. All positions are cumulative; `durable` and `committed` never go back, `received` not within a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// In the receiver's memory.
    pub received: Seq,
    /// Durable by the stream's policy.
    pub durable: Seq,
    /// In a committed batch, or given up by an operator, on the record.
    pub committed: Seq,
    /// How far the stream is durable.
    pub durable_lsn: Lsn,
    /// SEND payloads may add up to this many bytes since the session began.
    pub credit_bytes: u64,
    /// Records of this session that had been received before.
    pub duplicates: u64,
    /// Rejects the source has not taken note of yet.
    pub rejects: Vec<Reject>,
}

/// A record that was refused and is not in the stream's data, though the watermarks pass it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Its sequence.
    pub seq: Seq,
    /// Why.
    pub reason: RejectReason,
    /// Its length.
    pub bytes: u64,
}

/// Why a record was rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RejectReason {
    /// Longer than the limit.
    Oversized = 1,
    /// The receiver's check refused it.
    Poison = 2,
}

/// NACK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nack {
    /// What is wrong.
    pub code: Code,
    /// Where: the sequence concerned, or 0.
    pub at: Seq,
    /// What the next SEND's `previous` must be.
    pub expected: Seq,
    /// When to try again; 0: at once, or never if fatal.
    pub retry_after_millis: u32,
    /// The session is closed behind this message.
    pub fatal: bool,
    /// For people.
    pub text: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Why something is refused. Numbers are part of the protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
            /// A number this version does not know.
            Other = 0xFFFF,
        }

        impl Code {
            /// Every code this version knows.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Code {
                match number {
                    $($number => Code::$name,)*
                    _ => Code::Other,
                }
            }
        }
    };
}

codes! {
    /// The bytes are no message of this protocol, or one that does not belong here.
    Protocol = 1,
    /// No version in common.
    Version = 2,
    /// The token or certificate does not allow this.
    Unauthorized = 3,
    /// No such stream here.
    UnknownStream = 4,
    /// The epoch is older than the source's.
    OldEpoch = 5,
    /// A newer session of the same source has taken over.
    Replaced = 6,
    /// The source was retired by an operator.
    Retired = 7,
    /// Sequences are missing before this SEND.
    Gap = 8,
    /// Sequences do not meet the ones already received: the source does not repeat what it sent before.
    Mismatch = 9,
    /// The receiver has less than the source was told to be durable: acknowledged records are lost.
    AckedLoss = 10,
    /// A record is longer than the limit.
    Oversized = 11,
    /// The receiver's check refuses a record.
    Poison = 12,
    /// More was sent than the credit allows.
    Credit = 13,
    /// Too many sessions or sources.
    TooMany = 14,
    /// Rejects must be taken note of before more can be recorded.
    RejectsUnseen = 15,
    /// No space on the receiver's disk.
    Full = 16,
    /// The receiver goes away.
    Draining = 17,
    /// Nothing was heard, or a message not finished, in time.
    Timeout = 18,
    /// The receiver's log failed: whether what is not acknowledged is durable is unknown.
    Unavailable = 19,
    /// A limit named in the text was exceeded.
    Limit = 20,
}
