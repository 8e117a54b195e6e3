//! The ledger: which records are in which batch. Pure: events in, state out; no I/O, no clock.
//!
//! The ledger is the driver's own stream. What happens is first an event in that stream, durable, and only then a change of
//! [`State`]: [`State::apply`] is the one transition, live and at replay. Batches are made of *ranges*: half-open intervals
//! of an input's positions. What is not allocated is what lies above the last range, so no crash can lose a record between
//! two lists: there is one number.
//!
//! | file | what it owns |
//! |---|---|
//! | `range` | a part of an input, an interval of it, and what makes it recognizable |
//! | `event` | what happens, and its bytes |
//! | `state` | what follows from it: the one transition, and its invariants |
//! | `checkpoint` | the state as bytes, so that the events before it can go |
//! | `replay` | frames of the ledger's stream, folded into a state; who is fenced |
//! | `limits` | how much one batch takes, and of whom |
//! | `input` | what an input is asked: the face of replayable sources |
//! | `sink` | what an output is asked |

mod checkpoint;
mod event;
mod input;
mod limits;
mod range;
mod replay;
mod sink;
mod state;

pub use checkpoint::CheckpointError;
pub(crate) use event::ranges_max;
pub use event::{Envelope, Event, EventError};
pub use input::{InputError, Latest, Part, Parts, Plan, Replayable, ReplayedRecord, ReplayedRecords};
pub use limits::{BatchLimits, Share};
pub use range::{Identity, InputKind, PartKey, Range};
pub use replay::{Replay, ReplayError};
pub use sink::{BatchKey, Sink, SinkError, SinkKind, Stored};
pub use state::{Batch, BatchStatus, Broken, Input, PartState, Settled, State};
