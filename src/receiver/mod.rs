//! The receiver's decisions, pure: `now` and messages in, messages and blocks out. No sockets, no files, no clock.
//!
//! | file | what it owns |
//! |---|---|
//! | `message` | what the two ends say to each other, and why something is refused |
//! | `wire` | the same as bytes |
//! | `payload` | records inside a SEND and inside a block |
//! | `block` | the drawn format of what goes into the log |
//! | `sources` | who has sent how much: the one transition for live and replay |
//! | `replay` | which blocks an open reads to know that, and what follows from damage |
//! | `builder` | records grouped into blocks |
//! | `budget` | bytes promised to sources |
//! | `rate` | how fast the engine can take records |
//! | `reject` | records that are refused and kept |
//! | `config` | names and limits |
//! | `intake` | the receiving end: sessions, dedup, credit, acknowledgments |
//! | `outbox` | the sending end: what is not yet acknowledged, and from where to resume |

mod block;
mod budget;
mod builder;
mod config;
mod intake;
mod message;
mod outbox;
mod payload;
mod rate;
mod reject;
mod replay;
mod sources;
mod wire;

#[doc = include_str!("PROTOCOL.md")]
pub mod protocol {}

pub use crate::codec::Checksummed;
pub use block::{Block, BlockError, BlockRecords, Gist, Range, RangeKind, Sequenced};
#[cfg(feature = "ledger")]
pub(crate) use block::{Found, RecordCursor};
pub use config::{Poison, ReceiverConfig};
pub use intake::{
    Intake, IntakeStats, Oversized, RecordCheck, Refusal, Reservation, SessionKey, SessionOutput, SourceStatus,
};
pub use message::{Ack, Code, Hello, Message, Nack, Reject, RejectReason, Send, Sequences, WaitFor, Welcome};
pub use outbox::{Lost, Outbox, OutboxConfig, OutboxError, OutboxOutput, Positions};
pub use payload::{PayloadBuilder, PayloadError};
pub use rate::{PidConfig, PidController, RateLimit};
pub use replay::{Replay, ReplayEnd, ReplayError};
pub use sources::Sources;
#[cfg(feature = "net")]
pub(crate) use wire::encode_send_head;
pub use wire::{FRAME_OVERHEAD_BYTES, FrameHeader, HEADER_BYTES, Preview, WireError, decode, encode, preview};
