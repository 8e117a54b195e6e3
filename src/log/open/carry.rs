//! The tail that nothing proves, copied into the segment that an open begins.
//!
//! What was never flushed is not believed: it may sit in a cache that still answers for it, or in pages that a failed
//! write-back left marked clean. It is written anew behind the place of the next segment's seal, and flushed; then the
//! seal says that the old segment ends where its proof ends, and that everything in the new one is flushed. A crash
//! before the seal leaves the old segment as it was: its bytes are never touched.
//!
//! A segment of which nothing is proven may lose its own seal in the same way. It is replaced as a whole: the new seal
//! reaches back to the segment before it, whose end was flushed before any other seal could be written.

use super::super::catalog::End;
use super::super::commit::Writer;
use super::super::recovery::{Run, SegmentState, Verdict};
use super::super::shared::Shared;
use super::super::source::Window;
use crate::codec::Chain;
use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{
    FileName, Found, FrameHeader, HEADER_BYTES, IndexEntry, Kind, Scanner, Seal, frame_bytes, round_up,
};
use crate::types::{Lsn, LsnRange, SegmentNumber};

/// Bytes gathered before they are written; a larger frame is written alone.
const PIECE_BYTES: u64 = 1024 * 1024;

/// What is to be copied, and what the new segment then continues.
pub(super) struct Carry {
    /// The segment that is continued, …
    pub(super) segment: SegmentNumber,
    /// … where it ends, …
    pub(super) offset: u64,
    /// … and the last frame of it: the last that is proven.
    from: Run,
    /// The last frame that is copied; `from` itself when no frame is in doubt.
    to: Run,
    /// No more group data than this.
    pub(super) bytes: u64,
}

impl Carry {
    /// `None` when everything is proven; also when it cannot be done, because what is proven last cannot be read or is
    /// followed by damage.
    pub(super) fn plan<S: Storage>(
        shared: &Shared<S>,
        state: &SegmentState<S::File>,
        verdict: &Verdict,
    ) -> Result<Option<Carry>> {
        let Some(seal) = state.scan.seal else { return Ok(None) };
        let replaces = !state.scan.is_seal_proven();
        if !replaces && verdict.ambiguous().is_none() {
            return Ok(None);
        }
        let block = u64::from(shared.catalog.block_bytes);
        let from = match replaces || verdict.proven <= seal.end {
            true => Some(behind_seal(&seal, block)),
            false => last_proven(shared, state, verdict)?,
        };
        let Some(from) = from else { return Ok(None) };
        if verdict.damage.iter().any(|gap| gap.lsns.end > from.last.next()) {
            return Ok(None);
        }
        let (segment, offset) = match replaces {
            true => (seal.sealed_segment, seal.sealed_end_offset),
            false => (state.number, from.end_offset),
        };
        let to = if verdict.end.last > from.last { verdict.end } else { from };
        // Groups stay groups, but where a piece would be overfull: any two pieces hold more than one, a block more each.
        let span = round_up(to.end_offset, block) - from.frames_end / block * block;
        Ok(Some(Carry { segment, offset, from, to, bytes: span + 2 * span / PIECE_BYTES * block }))
    }

    /// True when there are frames to copy.
    pub(super) fn copies_frames(&self) -> bool {
        self.to.last > self.from.last
    }

    /// True when the old segment is not continued but replaced.
    pub(super) fn replaces(&self, number: SegmentNumber) -> bool {
        self.segment != number
    }

    /// The seal of the segment that is copied to, which otherwise says `seal`.
    pub(super) fn seal(&self, seal: Seal) -> Seal {
        Seal {
            sealed_segment: self.segment,
            sealed_end_offset: self.offset,
            end: self.from.last,
            end_chain: self.from.chain,
            end_time_micros: self.from.time_micros,
            ..seal
        }
    }

    /// The end of the segment that is continued.
    pub(super) fn end(&self) -> End {
        End { last: self.from.last, offset: self.offset, time_micros: self.from.time_micros }
    }

    /// Copies the frames to where `writer` stands, flushes them, and leaves the writer behind them.
    pub(super) fn copy<S: Storage>(
        &self,
        shared: &Shared<S>,
        state: &SegmentState<S::File>,
        writer: &mut Writer<S::File>,
    ) -> Result<()> {
        let block = u64::from(shared.catalog.block_bytes);
        let mut window = window(shared, state);
        let salt = shared.catalog.salt(state.number);
        let mut scanner =
            Scanner::new(&mut window, salt, shared.catalog.block_bytes, self.from.frames_end, self.to.end_offset);
        // Mostly a few blocks: what is allocated is also zeroed.
        let buffer = Buffer::new(PIECE_BYTES.min(round_up(self.bytes, block)) as usize);
        let mut out = Out { shared, writer, buffer, group: 0 };
        let (mut last, mut chain) = (self.from.last, self.from.chain);
        while last < self.to.last
            && let Some(found) = scanner.next()?
        {
            let Found::Frame { offset, header } = found else { continue };
            if !follows(&header, last, chain) {
                continue;
            }
            (last, chain) = (header.lsn, header.chain);
            // True here as well, and no more is known before the copy is flushed.
            let header = FrameHeader { flushed_through: self.from.last, ..header };
            out.put(&header, scanner.payload(offset, &header)?, offset % block == 0)?;
        }
        if last != self.to.last {
            let lsns = LsnRange::inclusive(last.next(), self.to.last);
            let what = "a frame that was there when the tail was scanned is not there any more";
            return Err(Error::Corrupt { segment: state.number, offset: self.from.frames_end, lsns, what });
        }
        out.write()?;
        let name = FileName::Segment(writer.number);
        shared.storage.flush(&writer.file).map_err(|e| Error::io("flush", name, e))
    }
}

fn window<'a, S: Storage>(shared: &'a Shared<S>, state: &SegmentState<S::File>) -> Window<'a, S> {
    Window::new(&shared.storage, state.file.clone(), FileName::Segment(state.number).to_string(), state.bytes)
}

fn follows(header: &FrameHeader, last: Lsn, chain: Chain) -> bool {
    header.kind == Kind::Data && header.lsn == last.next() && header.chain_after(chain) == header.chain
}

/// The state behind a segment's seal.
fn behind_seal(seal: &Seal, block: u64) -> Run {
    let frames_end = block + frame_bytes(Seal::PAYLOAD_BYTES);
    Run { last: seal.end, chain: seal.end_chain, time_micros: seal.end_time_micros, end_offset: 2 * block, frames_end }
}

/// The state after the last proven frame of a segment.
fn last_proven<S: Storage>(
    shared: &Shared<S>,
    state: &SegmentState<S::File>,
    verdict: &Verdict,
) -> Result<Option<Run>> {
    let block = u64::from(shared.catalog.block_bytes);
    let near = state.scan.index.at_or_before(verdict.proven).map_or(block, |entry| entry.offset);
    let mut window = window(shared, state);
    let salt = shared.catalog.salt(state.number);
    let mut scanner = Scanner::new(&mut window, salt, shared.catalog.block_bytes, near, verdict.end.end_offset);
    while let Some(found) = scanner.next()? {
        if let Found::Frame { offset, header } = found
            && header.kind == Kind::Data
            && header.lsn == verdict.proven
        {
            let frames_end = offset + header.frame_bytes();
            // The padding behind it is its group's, unless what is in doubt begins there.
            let padded = round_up(frames_end, block);
            let is_padded = match scanner.next()? {
                None | Some(Found::Nothing { zero: true, .. }) => true,
                Some(
                    Found::Nothing { offset, .. } | Found::Frame { offset, .. } | Found::BadPayload { offset, .. },
                ) => offset >= padded,
            };
            return Ok(Some(Run {
                last: header.lsn,
                chain: header.chain,
                time_micros: header.time_micros,
                end_offset: if is_padded { padded } else { frames_end },
                frames_end,
            }));
        }
    }
    Ok(None)
}

/// Frames on their way into the new segment.
struct Out<'a, S: Storage> {
    shared: &'a Shared<S>,
    writer: &'a mut Writer<S::File>,
    /// What belongs at the writer's offset.
    buffer: Buffer,
    /// Where in the buffer the group starts that is being filled.
    group: usize,
}

impl<S: Storage> Out<'_, S> {
    fn put(&mut self, header: &FrameHeader, payload: &[u8], starts_group: bool) -> Result<()> {
        let bytes = header.frame_bytes() as usize;
        if starts_group {
            self.end_group();
        }
        // Looked at behind the padding, which takes room as well.
        if self.buffer.len() + bytes > self.buffer.capacity() {
            self.write()?;
            if bytes > self.buffer.capacity() {
                self.buffer = Buffer::new(round_up(bytes as u64, u64::from(self.shared.catalog.block_bytes)) as usize);
            }
        }
        let at = self.buffer.len();
        let offset = self.writer.offset + at as u64;
        if at == self.group {
            self.writer.index.note(IndexEntry { lsn: header.lsn, time_micros: header.time_micros, offset });
        }
        self.buffer.set_len(at + bytes);
        let into = &mut self.buffer[at..];
        header.encode(self.shared.catalog.salt(self.writer.number).at(offset), into);
        into[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        into[HEADER_BYTES + payload.len()..].fill(0);
        Ok(())
    }

    fn end_group(&mut self) {
        let filled = self.buffer.len();
        let padded = round_up(filled as u64, u64::from(self.shared.catalog.block_bytes)) as usize;
        self.buffer.set_len(padded);
        self.buffer[filled..].fill(0);
        self.group = padded;
    }

    fn write(&mut self) -> Result<()> {
        self.end_group();
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (at, name) = (self.writer.offset, FileName::Segment(self.writer.number));
        self.shared
            .storage
            .write(&self.writer.file, at, &self.buffer)
            .map_err(|e| Error::io_at("write", name, at, e))?;
        self.writer.offset += self.buffer.len() as u64;
        self.buffer.set_len(0);
        self.group = 0;
        Ok(())
    }
}
