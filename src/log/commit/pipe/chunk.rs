//! What is being gathered: the segment it goes to, the buffer it gathers in, the record that comes.

use std::sync::Arc;
use std::time::Instant;

use super::PipeConfig;
use crate::codec::Chain;
#[cfg(feature = "receiver")]
use crate::codec::Checksummed;
use crate::io::Buffer;
use crate::segment::{FrameHeader, HEADER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, Salt, SparseIndex, round_up};
use crate::types::{Lsn, SegmentNumber};

/// A prepared segment that holds nothing yet.
#[derive(Debug)]
pub(crate) struct Spare<F> {
    pub(crate) number: SegmentNumber,
    pub(crate) file: Arc<F>,
    pub(crate) bytes: u64,
    /// Its blocks were written, not only reserved: overwriting them changes no metadata.
    pub(crate) written: bool,
    /// It is being worked on where it stands; it keeps its place, because numbers are used in their order.
    pub(crate) busy: bool,
}

impl<F> Spare<F> {
    pub(crate) fn new(number: SegmentNumber, file: Arc<F>, bytes: u64, written: bool) -> Spare<F> {
        Spare { number, file, bytes, written, busy: false }
    }
}

/// The segment that appends go to.
#[derive(Debug)]
pub(crate) struct Writer<F> {
    pub(crate) number: SegmentNumber,
    pub(crate) file: Arc<F>,
    pub(crate) file_bytes: u64,
    pub(super) written: bool,
    pub(super) salt: Salt,
    /// Where the next chunk starts.
    pub(crate) offset: u64,
    /// Group data ends here at the latest; behind it is room for the index.
    pub(super) limit: u64,
    pub(crate) index: SparseIndex,
}

impl<F> Writer<F> {
    /// A segment as the target of appends, from `offset` on.
    pub(crate) fn new(config: &PipeConfig, spare: Spare<F>, offset: u64) -> Writer<F> {
        Writer {
            number: spare.number,
            file: spare.file,
            file_bytes: spare.bytes,
            written: spare.written,
            salt: Salt::new(config.log, config.incarnation, spare.number),
            offset,
            limit: data_limit(spare.bytes, config.block_bytes, config.index_stride_bytes),
            index: SparseIndex::new(config.index_stride_bytes),
        }
    }

    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.offset)
    }
}

/// Where group data must end in a segment of this length, so that its index fits behind it.
pub(super) fn data_limit(file_bytes: u64, block_bytes: u32, stride_bytes: u64) -> u64 {
    let block = u64::from(block_bytes);
    let entries = (file_bytes / stride_bytes + 2).min(SparseIndex::ENTRIES_MAX as u64);
    let index = round_up(HEADER_BYTES as u64 + entries * INDEX_ENTRY_BYTES as u64, block);
    (file_bytes / block * block).saturating_sub(index)
}

/// The length a segment needs to hold `group_bytes` of group data besides its own records.
pub(crate) fn segment_bytes_for(group_bytes: u64, block_bytes: u32, stride_bytes: u64) -> u64 {
    let block = u64::from(block_bytes);
    let data = round_up(group_bytes, block) + 2 * block;
    let index = round_up(HEADER_BYTES as u64 + (data / stride_bytes + 3) * INDEX_ENTRY_BYTES as u64, block);
    // A little more data than counted above may cost one more entry: a block covers it.
    round_up(data + index + block, 64 * 1024)
}

/// A part of a record, and its CRC-32C where that is known.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) crc: Option<u32>,
}

impl<'a> From<&'a [u8]> for Part<'a> {
    fn from(bytes: &'a [u8]) -> Part<'a> {
        Part { bytes, crc: None }
    }
}

#[cfg(feature = "receiver")]
impl<'a> From<&'a Checksummed> for Part<'a> {
    fn from(checksummed: &'a Checksummed) -> Part<'a> {
        Part { bytes: checksummed, crc: checksummed.crc() }
    }
}

/// A record, ready to be placed: everything that can be computed before its Lsn is known.
pub(crate) struct Encoded<'a> {
    pub(crate) body: Body<'a>,
    pub(crate) payload_bytes: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) payload_crc: u32,
    pub(crate) flags: u8,
}

pub(crate) enum Body<'a> {
    /// Copied under the lock: at most 64 KiB, some microseconds.
    Parts(&'a [Part<'a>]),
    /// Copied before the lock was taken, behind room for the header; becomes a chunk of its own.
    Solo(Buffer),
}

pub(super) struct Chunk<F> {
    pub(super) seq: u64,
    pub(super) file: Arc<F>,
    pub(super) segment: SegmentNumber,
    pub(super) offset: u64,
    pub(super) buffer: Buffer,
    /// Bytes of the buffer that hold frames.
    pub(super) filled: usize,
    /// The next Lsn when the chunk was opened.
    pub(super) base: Lsn,
    /// The last data frame in it; `base.previous()` when there is none.
    pub(super) last: Lsn,
    pub(super) last_chain: Chain,
    /// The highest `flushed_through` that its frames state.
    pub(super) claims: Lsn,
    pub(super) barrier: bool,
    pub(super) data_bytes: u64,
    pub(super) waiters: u32,
    pub(super) tasks: u32,
    pub(super) opened: Instant,
}

impl<F> Chunk<F> {
    #[allow(clippy::too_many_arguments, reason = "one private constructor, every field has its own source")]
    pub(super) fn new(
        seq: u64,
        writer: &Writer<F>,
        mut buffer: Buffer,
        capacity: usize,
        base: Lsn,
        chain: Chain,
        barrier: bool,
        now: Instant,
    ) -> Chunk<F> {
        buffer.set_len(capacity.min(buffer.capacity()));
        Chunk {
            seq,
            file: writer.file.clone(),
            segment: writer.number,
            offset: writer.offset,
            buffer,
            filled: 0,
            base,
            last: base.previous(),
            last_chain: chain,
            claims: Lsn::ZERO,
            barrier,
            data_bytes: 0,
            waiters: 0,
            tasks: 0,
            opened: now,
        }
    }

    pub(super) fn room(&self) -> usize {
        self.buffer.len() - self.filled
    }

    pub(super) fn note_data(&mut self, header: &FrameHeader, index: &mut SparseIndex) {
        if self.last < self.base {
            index.note(IndexEntry { lsn: header.lsn, time_micros: header.time_micros, offset: self.offset });
        }
        self.last = header.lsn;
        self.last_chain = header.chain;
        self.data_bytes += header.frame_bytes();
        self.claims = self.claims.max(header.flushed_through);
    }

    pub(super) fn seal_padding(&mut self, block_bytes: u32) {
        let len = round_up(self.filled as u64, u64::from(block_bytes)) as usize;
        self.buffer.whole_mut()[self.filled..len].fill(0);
        self.buffer.set_len(len);
    }
}
