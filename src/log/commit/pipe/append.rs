//! The way in: positions are assigned, frames take their place in a chunk, segments change.

use std::sync::Arc;
use std::time::Instant;

use super::chunk::data_limit;
use super::{BACKLOG_CHUNKS, Body, Chunk, Encoded, Part, Pipe, Placed, Refused, Rotation, Spare, Writer};
use crate::codec::Chain;
use crate::io::Buffer;
use crate::segment::{
    FlushMarker, FrameHeader, HEADER_BYTES, Kind, Seal, SparseIndex, encode_local, frame_bytes, round_up,
};
use crate::types::Lsn;

/// Chunks for small records hold between this …
const CHUNK_BYTES_MIN: u64 = 16 * 1024;
/// … and this much, following the size of recent groups.
const CHUNK_BYTES_MAX: u64 = 256 * 1024;
/// Groups below this are small: what their flush costs depends on whether their blocks were written before.
const SMALL_GROUP_BYTES: u64 = 64 * 1024;

impl<F> Pipe<F> {
    /// Goes on in a segment that holds no frames yet.
    pub(crate) fn resume_in(&mut self, writer: Writer<F>) {
        debug_assert!(self.writer.is_none() && self.is_idle());
        self.flushed_at = (writer.number, writer.offset);
        self.newest = writer.number;
        self.writer = Some(writer);
    }

    /// Starts a segment with its seal. The seal's group still has to be written.
    pub(crate) fn begin_segment(&mut self, spare: Spare<F>, seal: Seal, now: Instant) {
        self.close_open();
        let number = spare.number;
        // Recovery finds its way by this: the highest number is the newest segment.
        assert!(number > self.newest.max(self.predecessor.0), "segment {number} after {}", self.newest);
        self.newest = number;
        let (new_file, new_file_bytes) = (spare.file.clone(), spare.bytes);
        let writer = Writer::new(&self.config, spare, u64::from(self.config.block_bytes));
        if let Some(mut old) = self.writer.replace(writer) {
            let index = Arc::new(std::mem::replace(&mut old.index, SparseIndex::new(self.config.index_stride_bytes)));
            let old_end = seal.end;
            self.rotations.push_back(Rotation { old, index, old_end, new: number, new_file, new_file_bytes, seal });
        }
        self.open_chunk(frame_bytes(Seal::PAYLOAD_BYTES), true, now);
        self.put_local(Kind::Seal, &seal.encode());
    }

    /// Prepares for a suffix truncation: the next frame follows `end`, in a new segment. The pipeline must be idle.
    pub(crate) fn cut_back(
        &mut self,
        end: Lsn,
        chain: Chain,
        time_micros: u64,
        spare: Spare<F>,
        seal: Seal,
        now: Instant,
    ) -> Option<Writer<F>> {
        assert!(self.is_idle(), "a truncation waits for the pipeline");
        self.era += 1;
        let old = self.writer.take();
        self.next = end.next();
        self.chain = chain;
        self.time_micros = time_micros;
        self.written = end;
        self.flushed = end;
        self.flushed_chain = chain;
        self.proven = self.proven.min(end);
        self.tail.clear();
        self.begin_segment(spare, seal, now);
        old
    }

    /// Assigns the next Lsn to a record and puts it where it will stand in the file.
    pub(crate) fn append<'a>(
        &mut self,
        record: Encoded<'a>,
        clock_micros: u64,
        now: impl Fn() -> Instant,
        seal: impl FnOnce(&Self, &Spare<F>) -> Seal,
    ) -> Result<Placed, (Refused, Encoded<'a>)> {
        let bytes = frame_bytes(record.payload_bytes as usize);
        let solo = matches!(record.body, Body::Solo(_));
        let fits_open = !solo && self.open.as_ref().is_some_and(|chunk| chunk.room() as u64 >= bytes);
        // A segment in reserve before any frame: whatever happens, the next open has one to start in.
        if self.spares.is_empty() {
            return Err((Refused::NeedSegment { bytes: 0 }, record));
        }
        if !fits_open && let Err(refused) = self.make_room(bytes, solo, &now, seal) {
            return Err((refused, record));
        }
        let time_micros = clock_micros.max(self.time_micros);
        let lsn = self.next;
        let mut header = FrameHeader {
            kind: Kind::Data,
            flags: record.flags,
            payload_bytes: record.payload_bytes,
            stream: self.config.stream.0,
            lsn,
            time_micros,
            payload_crc: record.payload_crc,
            raw_bytes: record.raw_bytes,
            chain: Chain::default(),
            flushed_through: self.flushed,
        };
        header.chain = header.chain_after(self.chain);
        self.next = lsn.next();
        self.chain = header.chain;
        self.time_micros = time_micros;
        self.in_flight_bytes += bytes;
        let chunk = match record.body {
            Body::Parts(parts) => self.put_parts(&header, parts),
            Body::Solo(buffer) => self.put_solo(&header, buffer, now()),
        };
        let backlog = self.ready.len() >= BACKLOG_CHUNKS;
        let unarmed = !std::mem::replace(&mut self.driver_armed, true);
        let kick = unarmed || (backlog && self.flights.len() < self.depth.depth());
        Ok(Placed { lsn, chunk, era: self.era, kick })
    }

    /// True when a record of `bytes` would find a place without waiting for a segment.
    pub(crate) fn has_place_for(&self, bytes: u64) -> bool {
        if self.spares.is_empty() {
            return false;
        }
        let needed = round_up(frame_bytes(bytes as usize), u64::from(self.config.block_bytes));
        let open_bytes =
            self.open.as_ref().map_or(0, |chunk| round_up(chunk.filled as u64, u64::from(self.config.block_bytes)));
        self.writer.as_ref().is_some_and(|w| w.room().saturating_sub(open_bytes) >= needed)
            || (self.spares.len() >= 2 && self.spare_room() >= needed)
    }

    /// Room for group data in the next spare.
    pub(crate) fn spare_room(&self) -> u64 {
        self.next_spare().map_or(0, |spare| {
            data_limit(spare.bytes, self.config.block_bytes, self.config.index_stride_bytes)
                .saturating_sub(2 * u64::from(self.config.block_bytes))
        })
    }

    /// Opens a chunk with room for a frame of `bytes`, in the next segment if need be.
    fn make_room(
        &mut self,
        bytes: u64,
        solo: bool,
        now: impl Fn() -> Instant,
        seal: impl FnOnce(&Self, &Spare<F>) -> Seal,
    ) -> Result<(), Refused> {
        let block = u64::from(self.config.block_bytes);
        let needed = round_up(bytes, block);
        let open_bytes = self.open.as_ref().map_or(0, |chunk| round_up(chunk.filled as u64, block));
        let room = self.writer.as_ref().map_or(0, |w| w.room().saturating_sub(open_bytes));
        // Small groups in a segment that was only reserved cost three times the flush: on to one that was written.
        let misfit = !self.writer.as_ref().is_none_or(|w| w.written)
            && self.recent_group_bytes < SMALL_GROUP_BYTES
            && self.spares.len() >= 2
            && self.next_spare().is_some_and(|spare| spare.written)
            && self.spare_room() >= needed;
        if room < needed || misfit {
            // One spare stays, but for a truncation's seal: the next open needs it, even with a full disk.
            if self.spares.len() < 2 || self.spare_room() < needed {
                return Err(Refused::NeedSegment { bytes: needed });
            }
            self.close_open();
            let spare = self.take_spare().expect("it has room");
            let seal = seal(self, &spare);
            self.begin_segment(spare, seal, now());
            if !solo && self.open.as_ref().is_some_and(|chunk| chunk.room() as u64 >= bytes) {
                return Ok(());
            }
        }
        self.close_open();
        if !solo {
            self.open_chunk(bytes, false, now());
        }
        Ok(())
    }

    fn open_chunk(&mut self, bytes: u64, barrier: bool, now: Instant) {
        let wish = (self.recent_group_bytes * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).next_power_of_two();
        let writer = self.writer.as_mut().expect("a chunk is opened in a segment");
        let capacity = round_up(wish.max(bytes), u64::from(self.config.block_bytes)).min(writer.room());
        let buffer = self.pool.get(capacity as usize);
        let chunk = Chunk::new(self.next_chunk, writer, buffer, capacity as usize, self.next, self.chain, barrier, now);
        self.next_chunk += 1;
        self.open = Some(chunk);
    }

    /// Closes the chunk being filled: its padding is zeroed, its place in the file is final.
    pub(super) fn close_open(&mut self) {
        let Some(mut chunk) = self.open.take() else { return };
        chunk.seal_padding(self.config.block_bytes);
        let writer = self.writer.as_mut().expect("an open chunk has a segment");
        writer.offset = chunk.offset + chunk.buffer.len() as u64;
        self.ready.push_back(chunk);
    }

    fn put_parts(&mut self, header: &FrameHeader, parts: &[Part<'_>]) -> u64 {
        let writer = self.writer.as_mut().expect("an open chunk has a segment");
        let chunk = self.open.as_mut().expect("room was made");
        chunk.note_data(header, &mut writer.index);
        let seed = writer.salt.at(chunk.offset + chunk.filled as u64);
        let into = &mut chunk.buffer.whole_mut()[chunk.filled..chunk.filled + header.frame_bytes() as usize];
        header.encode(seed, into);
        let mut at = HEADER_BYTES;
        for part in parts {
            into[at..at + part.bytes.len()].copy_from_slice(part.bytes);
            at += part.bytes.len();
        }
        into[at..].fill(0);
        chunk.filled += into.len();
        chunk.seq
    }

    fn put_solo(&mut self, header: &FrameHeader, buffer: Buffer, now: Instant) -> u64 {
        debug_assert!(self.open.is_none());
        let writer = self.writer.as_mut().expect("room was made");
        let capacity = buffer.capacity();
        let mut chunk = Chunk::new(self.next_chunk, writer, buffer, capacity, header.lsn, header.chain, false, now);
        self.next_chunk += 1;
        chunk.note_data(header, &mut writer.index);
        header.encode(writer.salt.at(chunk.offset), chunk.buffer.whole_mut());
        chunk.filled = HEADER_BYTES + header.payload_bytes as usize;
        let seq = chunk.seq;
        self.open = Some(chunk);
        self.close_open();
        seq
    }

    fn put_local(&mut self, kind: Kind, payload: &[u8]) {
        let flushed = self.flushed;
        let writer = self.writer.as_ref().expect("an open chunk has a segment");
        let chunk = self.open.as_mut().expect("room was made");
        let seed = writer.salt.at(chunk.offset + chunk.filled as u64);
        let into = &mut chunk.buffer.whole_mut()[chunk.filled..];
        into[..frame_bytes(payload.len()) as usize].fill(0);
        let bytes = encode_local(kind, payload, self.config.stream.0, self.time_micros, flushed, seed, into);
        chunk.filled += bytes as usize;
        chunk.claims = chunk.claims.max(flushed);
    }

    /// Queues a marker that proves everything flushed so far, if that is not proven yet and there is room. The
    /// pipeline must be idle.
    pub(crate) fn put_marker(&mut self, now: Instant) -> bool {
        if self.proven >= self.flushed || !self.is_idle() || self.poison.is_some() || self.paused {
            return false;
        }
        if self.writer.as_ref().is_none_or(|w| w.room() < u64::from(self.config.block_bytes)) {
            return false;
        }
        let marker = FlushMarker { flushed_through: self.flushed, chain: self.flushed_chain };
        self.open_chunk(frame_bytes(FlushMarker::PAYLOAD_BYTES), false, now);
        self.put_local(Kind::FlushMarker, &marker.encode());
        true
    }
}
