//! The newest flushed chunks, kept in memory within a bound: readers at the head need no disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::io::Buffer;
use crate::types::{Lsn, SegmentNumber};

/// A flushed chunk as it stands in its segment.
#[derive(Clone, Debug)]
pub(crate) struct TailChunk {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: u64,
    pub(crate) buffer: Arc<Buffer>,
}

#[derive(Debug)]
pub(crate) struct MemoryTail {
    chunks: VecDeque<TailChunk>,
    bytes: u64,
    bytes_max: u64,
}

impl MemoryTail {
    pub(crate) fn new(bytes_max: u64) -> MemoryTail {
        MemoryTail { chunks: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds a flushed chunk; chunks come in order. Counted by capacity: that is what it costs.
    pub(crate) fn push(&mut self, chunk: TailChunk) {
        self.bytes += chunk.buffer.capacity() as u64;
        self.chunks.push_back(chunk);
        while self.bytes > self.bytes_max {
            let Some(old) = self.chunks.pop_front() else { break };
            self.bytes -= old.buffer.capacity() as u64;
        }
    }

    /// The chunk that holds a frame, if it is still here.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<TailChunk> {
        let at = self.chunks.partition_point(|chunk| chunk.last < lsn);
        self.chunks.get(at).filter(|chunk| chunk.first <= lsn).cloned()
    }

    /// Forgets everything (a suffix truncation).
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }
}
