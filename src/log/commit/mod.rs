//! From `append` to the device: frames gather in chunks, chunks make groups, a group is one durable device write.

mod depth;
mod gather;
mod pipe;
mod tail;
mod waiters;

pub(super) use depth::DepthController;
pub(super) use gather::{Gather, Readiness};
pub(super) use pipe::{
    Body, ControlFacts, DriverTurn, Encoded, Group, Part, Pipe, PipeConfig, Placed, Refused, Released, Rotation, Spare,
    Start, Turn, Writer, seal_after, segment_bytes_for,
};
pub(super) use tail::{MemoryTail, TailChunk};
pub(super) use waiters::{Waiters, wake_each};
