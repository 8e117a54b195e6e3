//! The commit pipeline's state: everything that the lock which orders appends protects. No I/O happens here: groups go
//! out through [`Pipe::turn`] and [`Pipe::take_for_driver`], their ends come back through [`Pipe::complete`].
//!
//! ```text
//! append ─▶ open chunk ─▶ ready chunks ─▶ group in flight ─▶ flushed
//!           (being filled)  (closed)        (one device write)   (over a gap-free prefix only)
//! ```
//!
//! Invariants
//! - Lsns, the chain and file offsets are assigned together, under one lock, in one order.
//! - A chunk that starts a segment is a barrier: it is not written before everything before it is flushed, because its
//!   first record states where the segment before it ends.
//! - Groups may complete in any order; `flushed` moves over the gap-free prefix of completed groups.
//! - After a failure was heard of nothing is ever flushed: `poison` is set once and never cleared, and a group of which it is heard
//!   later that it ended well does not count, wherever it stands in the log: a device that reported once what it lost says yes
//!   to the next flush.
mod append;
mod chunk;
mod ending;
mod flight;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{DepthController, Gather, MemoryTail, TailChunk};
use crate::codec::Chain;
use crate::error::Error;
use crate::io::{Buffer, BufferPool};
use crate::segment::{Control, FileName, Seal, SparseIndex, TrimPoint};
use crate::types::{Incarnation, LogId, Lsn, SegmentNumber, StreamId, Watermarks};

use chunk::Chunk;
pub(crate) use chunk::{Body, Encoded, Part, Spare, Writer, segment_bytes_for};
use flight::Flight;
pub(crate) use flight::{Group, Released, Rotation};

/// Groups from this size on cost less in segments that are reserved and not written ahead.
const LARGE_GROUP_BYTES: u64 = 256 * 1024;
/// The driver writes without being asked when so many closed chunks wait: one alone is its own waiter's.
const BACKLOG_CHUNKS: usize = 2;

pub(crate) struct PipeConfig {
    pub(crate) log: LogId,
    pub(crate) incarnation: Incarnation,
    pub(crate) stream: StreamId,
    pub(crate) block_bytes: u32,
    pub(crate) group_bytes_max: u64,
    pub(crate) flush_depth_max: usize,
    pub(crate) flush_depth_min: usize,
    pub(crate) gather: bool,
    pub(crate) index_stride_bytes: u64,
    pub(crate) memory_tail_bytes: u64,
    pub(crate) sweep_interval: Duration,
}

/// Where a record was put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) lsn: Lsn,
    pub(crate) chunk: u64,
    /// Suffix truncations before it: a later one may remove it.
    pub(crate) era: u64,
    /// The driver should be kicked.
    pub(crate) kick: bool,
}

/// Why a record was not put anywhere. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// A prepared segment with room for so many bytes of group data is needed first.
    NeedSegment { bytes: u64 },
}

/// What a waiting thread does next.
pub(crate) enum Turn<F> {
    /// Write this group.
    Lead(Group<F>),
    /// Sleep; with a time: the sleeper looks after the group then.
    Sleep(Option<Duration>),
}

/// What the driver does next.
pub(crate) enum DriverTurn<F> {
    Submit(Group<F>),
    /// Nothing to write; look again then.
    At(Option<Instant>),
}

pub(crate) struct Pipe<F> {
    config: PipeConfig,
    pool: Arc<BufferPool>,
    next: Lsn,
    chain: Chain,
    time_micros: u64,
    writer: Option<Writer<F>>,
    /// The newest segment that was begun.
    newest: SegmentNumber,
    /// The segment to continue, and its end, when there was no space to start one at open.
    pub(crate) predecessor: (SegmentNumber, u64),
    pub(crate) spares: VecDeque<Spare<F>>,
    rotations: VecDeque<Rotation<F>>,
    open: Option<Chunk<F>>,
    ready: VecDeque<Chunk<F>>,
    next_chunk: u64,
    queued_waiters: u32,
    flights: VecDeque<Flight>,
    next_token: u64,
    /// Groups handed out and not yet ended.
    pub(crate) writes_in_flight: usize,
    pub(crate) in_flight_bytes: u64,
    written: Lsn,
    flushed: Lsn,
    flushed_chain: Chain,
    /// The segment being read at the head, and how far its groups are flushed.
    flushed_at: (SegmentNumber, u64),
    /// Everything up to here is proven flushed by a record that is itself flushed.
    proven: Lsn,
    pub(crate) poison: Option<(Lsn, Error)>,
    /// A write or a flush has failed: what the flushes of others say from now on is not worth as much. Not by a mere end.
    has_failed: bool,
    /// A suffix truncation is under way: nothing may be appended.
    pub(crate) paused: bool,
    /// A batch is being placed, whose Lsns follow each other: nobody else may append.
    pub(crate) batching: bool,
    /// Suffix truncations since open.
    pub(crate) era: u64,
    pub(crate) tail: MemoryTail,
    gather: Gather,
    depth: DepthController,
    flush_time: Duration,
    recent_group_bytes: u64,
    deputy: bool,
    /// The driver will look in by itself within a sweep interval.
    pub(crate) driver_armed: bool,
    /// Emptied lists, for the next group.
    parts_pool: Vec<Vec<Arc<Buffer>>>,
    tail_pool: Vec<Vec<TailChunk>>,
}

/// Where a pipe starts: what recovery found.
pub(crate) struct Start {
    pub(crate) end: Lsn,
    pub(crate) chain: Chain,
    pub(crate) time_micros: u64,
    pub(crate) proven: Lsn,
}

impl<F> Pipe<F> {
    pub(crate) fn new(config: PipeConfig, pool: Arc<BufferPool>, start: Start) -> Pipe<F> {
        Pipe {
            pool,
            next: start.end.next(),
            chain: start.chain,
            time_micros: start.time_micros,
            writer: None,
            newest: SegmentNumber::NONE,
            predecessor: (SegmentNumber::NONE, 0),
            spares: VecDeque::new(),
            rotations: VecDeque::new(),
            open: None,
            ready: VecDeque::new(),
            next_chunk: 1,
            queued_waiters: 0,
            flights: VecDeque::new(),
            next_token: 1,
            writes_in_flight: 0,
            in_flight_bytes: 0,
            written: start.end,
            flushed: start.end,
            flushed_chain: start.chain,
            flushed_at: (SegmentNumber::NONE, 0),
            proven: start.proven,
            poison: None,
            has_failed: false,
            paused: false,
            batching: false,
            era: 0,
            tail: MemoryTail::new(config.memory_tail_bytes),
            gather: Gather::new(config.gather),
            depth: DepthController::new(config.flush_depth_min, config.flush_depth_max),
            flush_time: Duration::from_micros(300),
            recent_group_bytes: 0,
            deputy: false,
            driver_armed: false,
            parts_pool: Vec::new(),
            tail_pool: Vec::new(),
            config,
        }
    }

    pub(crate) fn config(&self) -> &PipeConfig {
        &self.config
    }

    pub(crate) fn watermarks(&self, trimmed: Lsn) -> Watermarks {
        let marks =
            Watermarks { appended: self.next.previous(), written: self.written, flushed: self.flushed, trimmed };
        marks.assert_ordered();
        marks
    }

    /// For a log without a writer: somebody else's has flushed, and trimmed, more than was there when it was opened.
    pub(crate) fn pass_to(&mut self, trim: &TrimPoint) {
        if trim.lsn > self.flushed {
            (self.next, self.chain) = (trim.lsn.next(), trim.chain);
            (self.written, self.flushed, self.flushed_chain) = (trim.lsn, trim.lsn, trim.chain);
        }
    }

    pub(crate) fn end(&self) -> (Lsn, Chain, u64) {
        (self.next.previous(), self.chain, self.time_micros)
    }

    pub(crate) fn flushed(&self) -> (Lsn, Chain) {
        (self.flushed, self.flushed_chain)
    }

    /// The segment that holds the newest flushed group, and the offset behind that group.
    pub(crate) fn flushed_at(&self) -> (SegmentNumber, u64) {
        self.flushed_at
    }

    pub(crate) fn writer(&self) -> Option<&Writer<F>> {
        self.writer.as_ref()
    }

    /// The index of the segment being written, or of one that is sealed but whose seal is not out yet.
    pub(crate) fn index_of(&self, number: SegmentNumber) -> Option<&SparseIndex> {
        let of_writer = self.writer.as_ref().filter(|writer| writer.number == number).map(|writer| &writer.index);
        let rotation = || self.rotations.iter().find(|rotation| rotation.old.number == number);
        of_writer.or_else(|| rotation().map(|rotation| &*rotation.index))
    }

    /// The prepared segment that comes next, unless somebody is working on it.
    pub(crate) fn next_spare(&self) -> Option<&Spare<F>> {
        self.spares.front().filter(|spare| !spare.busy)
    }

    /// Takes the prepared segment that comes next.
    pub(crate) fn take_spare(&mut self) -> Option<Spare<F>> {
        self.next_spare()?;
        self.spares.pop_front()
    }

    /// A copy of the next spare to work on. It keeps its place and is not begun until it is returned: were a later one
    /// begun before it, the next open would take it for what a truncation left behind, with whatever it came to hold.
    pub(crate) fn borrow_first_spare(&mut self) -> Option<Spare<F>> {
        let spare = self.spares.front_mut().filter(|spare| !spare.busy)?;
        spare.busy = true;
        Some(Spare::new(spare.number, spare.file.clone(), spare.bytes, spare.written))
    }

    /// The work on a spare is done, well or not.
    pub(crate) fn return_spare(&mut self, spare: Spare<F>) {
        if let Some(place) = self.spares.iter_mut().find(|place| place.number == spare.number) {
            *place = spare;
        }
    }

    /// Small groups are written to blocks that were only reserved, and no written segment waits.
    pub(crate) fn wants_written_spare(&self) -> bool {
        !self.has_large_groups() && self.next_spare().is_some_and(|spare| !spare.written)
    }

    /// Groups of late are so large that segments need not be written ahead: reserving them is cheaper.
    pub(crate) fn has_large_groups(&self) -> bool {
        self.recent_group_bytes >= LARGE_GROUP_BYTES
    }

    pub(crate) fn rejoin_share(&self) -> f64 {
        self.gather.rejoin_share()
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth.depth()
    }

    /// True when nothing is queued and nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.flights.is_empty()
    }

    /// The name of the file that a write in flight goes to.
    pub(crate) fn file_of(&self, token: u64) -> FileName {
        let segment = self.flights.iter().find(|flight| flight.token == token).map(|flight| flight.ends_at.0);
        FileName::Segment(segment.unwrap_or(SegmentNumber::NONE))
    }
}

/// What a seal repeats of the control file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlFacts {
    pub(crate) truncation_count: u64,
    pub(crate) generation: u64,
    pub(crate) trim: TrimPoint,
}

impl ControlFacts {
    pub(crate) fn of(control: &Control) -> ControlFacts {
        ControlFacts { truncation_count: control.truncation_count, generation: control.generation, trim: control.trim }
    }
}

/// The first record of `next`, the segment that follows the one being written.
pub(crate) fn seal_after<F>(pipe: &Pipe<F>, facts: &ControlFacts, next: &Spare<F>) -> Seal {
    let (end, end_chain, end_time_micros) = pipe.end();
    let (sealed_segment, sealed_end_offset) =
        pipe.writer.as_ref().map_or(pipe.predecessor, |writer| (writer.number, writer.offset));
    Seal {
        sealed_segment,
        sealed_end_offset,
        end,
        end_chain,
        end_time_micros,
        truncation_count: facts.truncation_count,
        control_generation: facts.generation,
        trim: facts.trim,
        file_bytes: next.bytes,
    }
}
