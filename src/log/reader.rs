//! Reading frames back: in order, verified, without a copy where a sealed segment is mapped.
//!
//! A reader holds a *window*: bytes of one segment in which groups stand as they do on disk. It comes from the memory
//! tail (no I/O), from a direct read of the active segment, or from a map of a sealed one. Frames are slices of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::catalog::Located;
use super::set_aside::Clear;
use super::shared::Shared;
use super::window::{self, Mapped, Window};
use crate::codec::{Chain, crc32c};
use crate::error::{Error, Result};
use crate::events::{self, event};
use crate::io::{Storage, is_forked_child};
use crate::metrics::add;
use crate::segment::{FLAG_LZ4, FRAME_ALIGN, FileName, FrameHeader, HEADER_BYTES, Kind, round_up};
use crate::types::{Lsn, LsnRange, SegmentNumber};

/// Bytes of the active segment read at a time.
const READ_BYTES: u64 = 1024 * 1024;

/// A record as it was appended, with its place.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// Its position.
    pub lsn: Lsn,
    /// The writer's clock when it was appended, µs since the Unix epoch; never decreasing from frame to frame.
    pub time_micros: u64,
    /// Its bytes. They never change and stay valid as long as this is kept, whatever happens to the log.
    pub payload: Bytes,
    /// The chain up to and including this frame.
    pub chain: Chain,
}

impl Frame {
    /// The writer's clock when the frame was appended.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.time_micros)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame(lsn {}, {} bytes, chain {})", self.lsn, self.payload.len(), self.chain)
    }
}

/// A frame's header and where it stands.
pub(super) struct FoundFrame {
    pub(super) header: FrameHeader,
    pub(super) segment: SegmentNumber,
    pub(super) offset: u64,
}

/// Reads frames in order; made by [`crate::Log::reader`] and its kin.
pub(super) struct Cursor<S: Storage> {
    pub(super) shared: Arc<Shared<S>>,
    /// The next frame to read.
    pub(super) next: Lsn,
    /// The chain before it, when known.
    chain: Option<Chain>,
    window: Option<Window>,
    truncations: u64,
    /// Suffix truncations whose ends it has been told, or that came before it.
    era: u64,
    /// Where no frame is set aside, as far as it has looked.
    clear: Clear,
    /// What the last [`Step::Frame`] has found, and where. Kept here: handed on from result to result it was moved three
    /// times, and that took as long as the checksum of a header.
    found: Option<(FrameHeader, u64)>,
    /// One frame is looked for: a read of some blocks is cheaper than a map.
    one: bool,
}

enum Step {
    /// The next frame: it is in `found`.
    Frame,
    /// The window is used up.
    EndOfWindow,
    /// Frames before `resume` cannot be read.
    Damage { offset: u64, resume: Option<(Lsn, u64)>, what: &'static str },
}

impl<S: Storage> Cursor<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, next: Lsn) -> Cursor<S> {
        // In this order: one that comes in between is looked for once more, and found to be known.
        let truncations = shared.truncations.load(Ordering::Acquire);
        // A child must not wait for a lock that nobody there gives back; it reads nothing.
        let era = if is_forked_child() { 0 } else { shared.cuts_since(0).0 };
        let (next, clear) = (next.max(Lsn::FIRST), Clear::EVERYTHING);
        Cursor { shared, next, chain: None, window: None, truncations, era, clear, found: None, one: false }
    }

    /// The next frame that is flushed; `None`: there is none yet. After an error that names frames, the cursor stands
    /// behind them.
    pub(super) fn read(&mut self) -> Result<Option<Frame>> {
        if is_forked_child() {
            return Err(Error::Forked);
        }
        loop {
            self.check_place()?;
            if self.next > self.shared.flushed() {
                return Ok(None);
            }
            let before = self.next;
            let found = self.find_here();
            // Truncated meanwhile: it may be of before or of after, an error as well as a frame.
            if self.is_cut() {
                found.err().iter().for_each(|error| self.shared.forget_fault(error));
                self.next = before;
                continue;
            }
            let error = match found.and_then(|()| self.take()) {
                Err(error) => error,
                Ok(frame) => return Ok(Some(frame)),
            };
            // The segment may have been trimmed, and its file used again, under our eyes: then what was read there
            // says nothing about the log.
            let after = std::mem::replace(&mut self.next, before);
            if self.shared.look_for_trim() {
                self.shared.forget_fault(&error);
                (self.window, self.chain) = (None, None);
                continue;
            }
            let truncations = self.truncations;
            let place = self.check_place();
            if place.is_err() || self.truncations != truncations {
                self.shared.forget_fault(&error);
                place?;
                continue;
            }
            self.next = after;
            return Err(error);
        }
    }

    /// True when the log was truncated since the cursor last looked where it stands.
    fn is_cut(&self) -> bool {
        self.shared.truncations.load(Ordering::Acquire) != self.truncations
    }

    /// Is the next frame one that this log still has?
    fn check_place(&mut self) -> Result<()> {
        let truncations = self.shared.truncations.load(Ordering::Acquire);
        if truncations != self.truncations {
            self.truncations = truncations;
            self.window = None;
            self.chain = None;
            // Where the log ends now tells nothing: it may have grown again beyond this place.
            let (era, end) = self.shared.cuts_since(self.era);
            self.era = era;
            if let Some(end) = end
                && self.next > end.next()
            {
                let requested = std::mem::replace(&mut self.next, end.next());
                return Err(Error::Truncated { requested, end });
            }
        }
        let trimmed = self.shared.trimmed();
        if self.next <= trimmed {
            let requested = std::mem::replace(&mut self.next, trimmed.next());
            self.window = None;
            self.chain = None;
            return Err(Error::Trimmed { requested, first: trimmed.next() });
        }
        Ok(())
    }

    /// Finds the next frame; without one, where the log was truncated meanwhile.
    fn find_here(&mut self) -> Result<()> {
        if let Some(lsns) = self.shared.set_aside.at(self.next, &mut self.clear) {
            self.window = None;
            self.chain = None;
            self.next = lsns.end;
            return Err(Error::Quarantined { lsns });
        }
        // A trim takes ranges away with their frames: then they are not set aside any more, and not there.
        let first = self.shared.trimmed().next();
        if self.next < first {
            return Err(Error::Trimmed { requested: self.next, first });
        }
        loop {
            if self.window.is_none() {
                self.open_window()?;
            }
            match self.step()? {
                Step::Frame => return Ok(()),
                // The segment that has to hold the frame by now may be one that nothing was appended to yet.
                Step::EndOfWindow if self.is_cut() => return Ok(()),
                Step::EndOfWindow => self.window = None,
                Step::Damage { offset, resume, what } => return Err(self.damaged(offset, resume, what)),
            }
        }
    }

    /// Finds bytes that hold the next frame.
    fn open_window(&mut self) -> Result<()> {
        let shared = &self.shared;
        let flushed = shared.flushed();
        if let Some(chunk) = shared.pipe.lock().tail.find(self.next) {
            self.window = Some(Window {
                bytes: window::shared(chunk.buffer),
                base: chunk.offset,
                at: chunk.offset,
                segment: chunk.segment,
                salt: shared.catalog.salt(chunk.segment),
                trusted: true,
                map: None,
                whole: false,
                short: false,
                last: Lsn::MAX,
                flushed,
            });
            return Ok(());
        }
        let located = match shared.catalog.locate(&shared.storage, self.next) {
            Ok(located) => located,
            Err(error) => {
                if let Error::Missing { lsns, .. } = &error {
                    let lsns = LsnRange::new(self.next, lsns.end.min(shared.flushed().next()));
                    let Error::Missing { segment, .. } = error else { unreachable!("matched above") };
                    shared.note_fault(lsns);
                    self.next = lsns.end;
                    self.chain = None;
                    return Err(Error::Missing { segment, lsns });
                }
                return Err(error);
            }
        };
        if self.chain.is_none() && located.start == self.next {
            self.chain = located.chain_before;
        }
        let map = if located.settled && located.end.is_some() && !self.one {
            match shared.catalog.map(&shared.storage, &located) {
                Err(Error::Foreign { .. }) => return Err(self.not_ours(&located)),
                other => other?,
            }
        } else {
            None
        };
        let window = if let Some(map) = map {
            let index = shared.catalog.index(&shared.storage, &located)?;
            let at = index.at_or_before(self.next).map_or(self.first_group(), |entry| entry.offset);
            Window {
                bytes: map.bytes().clone(),
                base: 0,
                at,
                segment: located.number,
                salt: located.salt,
                trusted: false,
                map: Some(Mapped::new(map, at as usize)),
                whole: true,
                short: false,
                last: located.end.map_or(Lsn::MAX, |end| end.last),
                flushed,
            }
        } else {
            let at = shared.active_index(&located, self.next).unwrap_or(self.first_group());
            let bytes = if self.one { 2 * shared.config.index_stride_bytes } else { READ_BYTES };
            self.read_window(&located, at, bytes.min(READ_BYTES))?
        };
        self.window = Some(window);
        Ok(())
    }

    /// Steps behind a segment whose file is another one.
    fn not_ours(&mut self, located: &Located<S::File>) -> Error {
        let end = located.end.map_or(self.next, |end| end.last).next();
        let lsns = LsnRange::new(self.next, end.max(self.next.next()));
        self.shared.note_fault(lsns);
        self.next = lsns.end;
        self.chain = None;
        let what = "the file under this segment's name belongs to another segment or log";
        Error::Corrupt { segment: located.number, offset: 0, lsns, what }
    }

    fn first_group(&self) -> u64 {
        u64::from(self.shared.catalog.block_bytes)
    }

    /// Reads part of a segment that is not mapped.
    fn read_window(&self, located: &Located<S::File>, at: u64, bytes: u64) -> Result<Window> {
        let shared = &self.shared;
        let block = u64::from(shared.catalog.block_bytes);
        let base = at / block * block;
        // Before the offset is asked for: up to there the window holds what there is.
        let flushed = shared.flushed();
        let end = match located.end {
            Some(end) => end.offset,
            None => shared.flushed_offset(located.number).unwrap_or(located.bytes),
        };
        let end = end.min(located.bytes);
        let wanted = round_up(end.saturating_sub(base), block).min(round_up(bytes, block)).max(block);
        let mut buffer = shared.pool.get(wanted as usize);
        shared
            .storage
            .read_at(&located.file, base, wanted as usize, &mut buffer)
            .map_err(|e| Error::io_at("read", FileName::Segment(located.number), base, e))?;
        let wanted = wanted.min(end.saturating_sub(base)) as usize;
        let valid = wanted.min(buffer.len());
        buffer.set_len(valid);
        let short = valid < wanted;
        let whole = short || base + valid as u64 >= end;
        Ok(Window {
            bytes: window::shared(Arc::new(buffer)),
            base,
            at,
            segment: located.number,
            salt: located.salt,
            trusted: false,
            map: None,
            whole,
            short,
            last: located.end.map_or(Lsn::MAX, |end| end.last),
            flushed,
        })
    }

    /// Looks at what stands at the window's position.
    fn step(&mut self) -> Result<Step> {
        let block = u64::from(self.shared.catalog.block_bytes);
        // Where, since the last frame, bytes began that are none: padding mostly, damage when a frame is found missing.
        let mut none_from: Option<u64> = None;
        let mut tried_behind_seal = false;
        loop {
            let window = self.window.as_mut().expect("opened by the caller");
            let at = window.at;
            window.make_safe(&self.shared.storage, at + HEADER_BYTES as u64)?;
            if self.next > window.last {
                return Ok(Step::EndOfWindow);
            }
            let Some(head) = window.slice(at, HEADER_BYTES) else {
                if window.trusted {
                    return Ok(Step::EndOfWindow);
                }
                if !window.whole {
                    none_from = none_from.map(|from| self.damage_at(from));
                    if self.slide(at)? {
                        continue;
                    }
                    return Ok(Step::EndOfWindow);
                }
                // A frame that ought to be in this segment is not.
                if window.short && self.next <= window.flushed {
                    let offset = window.end();
                    return Ok(Step::Damage { offset, resume: None, what: "the file ends before its frames do" });
                }
                if self.segment_should_hold_next() {
                    let offset = self.damage_at(none_from.unwrap_or(at));
                    return Ok(Step::Damage { offset, resume: None, what: "no valid frame stands there" });
                }
                return Ok(Step::EndOfWindow);
            };
            let Some(header) = FrameHeader::decode(window.salt.at(at), head) else {
                if at == block && !tried_behind_seal && !window.trusted {
                    // A damaged seal costs no frames: those behind it are found by its fixed length.
                    tried_behind_seal = true;
                    let behind = at + crate::segment::frame_bytes(crate::segment::Seal::PAYLOAD_BYTES);
                    let found = window
                        .slice(behind, HEADER_BYTES)
                        .is_some_and(|head| FrameHeader::decode(window.salt.at(behind), head).is_some());
                    if found {
                        window.at = behind;
                        continue;
                    }
                }
                none_from.get_or_insert(at);
                window.at = (at / block + 1) * block;
                continue;
            };
            let frame_end = at + HEADER_BYTES as u64 + u64::from(header.payload_bytes);
            if frame_end > window.end() {
                if window.whole {
                    // Its length is true, so the segment is shorter than it was.
                    return Ok(Step::Damage {
                        offset: at,
                        resume: None,
                        what: "the frame reaches beyond the segment's end",
                    });
                }
                return if self.widen(at, frame_end)? { self.step() } else { Ok(Step::EndOfWindow) };
            }
            window.make_safe(&self.shared.storage, frame_end)?;
            let after = round_up(frame_end, FRAME_ALIGN);
            if header.kind != Kind::Data || header.lsn < self.next {
                window.at = after;
                none_from = None;
                continue;
            }
            if header.lsn > self.next {
                let offset = self.damage_at(none_from.unwrap_or(at));
                let what = "no valid frame stands where it ought to";
                return Ok(Step::Damage { offset, resume: Some((header.lsn, at)), what });
            }
            window.at = after;
            if !window.trusted {
                let payload = window.slice(at + HEADER_BYTES as u64, header.payload_bytes as usize);
                if payload.is_none_or(|payload| crc32c(payload) != header.payload_crc) {
                    return Ok(Step::Damage {
                        offset: at,
                        resume: Some((header.lsn.next(), after)),
                        what: "a payload does not match its checksum",
                    });
                }
                if self.chain.is_some_and(|chain| header.chain_after(chain) != header.chain) {
                    return Ok(Step::Damage {
                        offset: at,
                        resume: Some((header.lsn.next(), after)),
                        what: "the frame does not continue the chain",
                    });
                }
            }
            self.found = Some((header, at));
            return Ok(Step::Frame);
        }
    }

    /// True when the window's segment ought to hold the next frame: then its absence is damage, not the window's end.
    fn segment_should_hold_next(&self) -> bool {
        let Some(window) = &self.window else { return false };
        match self.shared.catalog.end_of(&self.shared.storage, window.segment) {
            // A window that was opened before the segment ended does not reach as far as it does now: look again.
            Ok(Some(end)) => window.last < Lsn::MAX && self.next <= end.last,
            Ok(None) => {
                self.next <= self.shared.flushed()
                    && self.shared.flushed_offset(window.segment).is_some_and(|offset| offset <= window.end())
            }
            Err(_) => false,
        }
    }

    /// Where damage begins, given where bytes began that are no frame: zeros up to the next group are padding.
    fn damage_at(&self, none_from: u64) -> u64 {
        let group = round_up(none_from, u64::from(self.shared.catalog.block_bytes));
        let padding = self.window.as_ref().and_then(|window| window.slice(none_from, (group - none_from) as usize));
        if padding.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)) { group } else { none_from }
    }

    /// Nothing in the window is the next frame, and the segment goes on behind it. False: the frame is in another one by
    /// now.
    fn slide(&mut self, at: u64) -> Result<bool> {
        self.read_on(at, READ_BYTES)
    }

    /// The next frame is larger than the window: reads again, from its start to its end. As [`Self::slide`].
    fn widen(&mut self, at: u64, frame_end: u64) -> Result<bool> {
        let block = u64::from(self.shared.catalog.block_bytes);
        self.read_on(at, round_up(frame_end - at / block * block, block).max(READ_BYTES))
    }

    /// Reads more of the window's segment. False: the next frame is in another one by now.
    fn read_on(&mut self, at: u64, bytes: u64) -> Result<bool> {
        let located = self.shared.catalog.locate(&self.shared.storage, self.next)?;
        if self.window.as_ref().is_none_or(|window| window.segment != located.number) {
            return Ok(false);
        }
        self.window = Some(self.read_window(&located, at, bytes)?);
        Ok(true)
    }

    /// Takes the frame that was found.
    fn take(&mut self) -> Result<Frame> {
        let (header, offset) = self.found.as_ref().expect("a frame was found");
        let window = self.window.as_ref().expect("the frame was found in it");
        let start = (offset - window.base) as usize + HEADER_BYTES;
        let stored = window.bytes.slice(start..start + header.payload_bytes as usize);
        self.chain = Some(header.chain);
        self.next = header.lsn.next();
        let payload = if header.flags & FLAG_LZ4 != 0 {
            // What this reader cannot or will not unpack is no damage.
            if cfg!(not(feature = "lz4")) {
                let what = format!("frame {} is compressed, and this build lacks the `lz4` feature", header.lsn);
                return Err(Error::Invalid { what });
            }
            let (bytes, limit_bytes) = (u64::from(header.raw_bytes), self.shared.config.record_bytes_max);
            if bytes > limit_bytes {
                return Err(Error::RecordTooLarge { bytes, limit_bytes });
            }
            decompress(&stored, header.raw_bytes).ok_or(Error::Corrupt {
                segment: window.segment,
                offset: *offset,
                lsns: LsnRange::inclusive(header.lsn, header.lsn),
                what: "the compressed payload does not decompress",
            })?
        } else {
            stored
        };
        Ok(Frame { lsn: header.lsn, time_micros: header.time_micros, payload, chain: header.chain })
    }

    /// Tells damage and steps behind it.
    fn damaged(&mut self, offset: u64, resume: Option<(Lsn, u64)>, what: &'static str) -> Error {
        let window = self.window.take().expect("damage is found in a window");
        let end = match resume {
            Some((lsn, _)) => lsn,
            None => match self.shared.catalog.end_of(&self.shared.storage, window.segment) {
                Ok(Some(end)) => end.last.min(window.flushed).next(),
                _ => window.flushed.next(),
            },
        };
        let lsns = LsnRange::new(self.next, end.max(self.next.next()));
        self.next = lsns.end;
        self.chain = None;
        self.shared.note_fault(lsns);
        let segment = window.segment;
        if let Some((_, at)) = resume {
            self.window = Some(Window { at, ..window });
        }
        Error::Corrupt { segment, offset, lsns, what }
    }
}

#[cfg(feature = "lz4")]
fn decompress(stored: &[u8], raw: u32) -> Option<Bytes> {
    let bytes = lz4_flex::block::decompress(stored, raw as usize).ok()?;
    (bytes.len() == raw as usize).then(|| Bytes::from(bytes))
}

#[cfg(not(feature = "lz4"))]
fn decompress(_: &[u8], _: u32) -> Option<Bytes> {
    None
}

impl<S: Storage> Shared<S> {
    /// How far the groups of a segment are flushed, if it is the one at the head.
    fn flushed_offset(&self, segment: SegmentNumber) -> Option<u64> {
        let (at, offset) = self.pipe.lock().flushed_at();
        (at == segment).then_some(offset)
    }

    /// A group's offset at or before the frame in a segment that has no index on disk yet.
    fn active_index(&self, located: &Located<S::File>, lsn: Lsn) -> Option<u64> {
        let of_writer = {
            let pipe = self.pipe.lock();
            pipe.index_of(located.number).and_then(|index| index.at_or_before(lsn))
        };
        of_writer
            .or_else(|| located.end.and_then(|_| self.catalog.index(&self.storage, located).ok()?.at_or_before(lsn)))
            .map(|entry| entry.offset)
    }

    /// Remembers damage that a reader met.
    pub(super) fn note_fault(&self, lsns: LsnRange) {
        let mut faults = self.faults.lock();
        if !faults.contains(&lsns) && faults.len() < 1024 {
            faults.push(lsns);
            events::happened("damage met", 1);
            event!(error, frames = %lsns, "a reader met damage");
            add(&self.counters.faulty_ranges, 1);
        }
    }

    /// It was no damage after all.
    fn forget_fault(&self, error: &Error) {
        self.faults.lock().retain(|fault| error.lsns() != Some(*fault));
    }

    /// Where a frame stands.
    pub(super) fn find_frame(self: &Shared<S>, lsn: Lsn) -> Result<FoundFrame> {
        if lsn == Lsn::ZERO {
            return Err(Error::Trimmed { requested: lsn, first: self.trimmed().next() });
        }
        let me = self.me.upgrade().ok_or(Error::Closed)?;
        let mut cursor = Cursor { one: true, ..Cursor::new(me, lsn) };
        // The trim point itself is still found while its segment is there.
        if cursor.window.is_none() {
            cursor.open_window()?;
        }
        loop {
            match cursor.step()? {
                Step::Frame => {
                    let (header, offset) = cursor.found.expect("it was found");
                    let segment = cursor.window.as_ref().expect("the frame was found in it").segment;
                    return Ok(FoundFrame { header, segment, offset });
                }
                Step::EndOfWindow => {
                    cursor.window = None;
                    if lsn > self.flushed() {
                        return Err(Error::BeyondEnd { requested: lsn, flushed: self.flushed() });
                    }
                    cursor.open_window()?;
                }
                Step::Damage { offset, resume, what } => return Err(cursor.damaged(offset, resume, what)),
            }
        }
    }

    /// The first frame at or after a time.
    pub(super) fn first_at(self: &Arc<Shared<S>>, time_micros: u64) -> Result<Lsn> {
        let mut numbers = self.catalog.numbers();
        let first = self.trimmed().next();
        // The first segment whose end is not older, or the last one: its index tells where to begin, whatever the time is.
        let (mut low, mut high) = (0, numbers.len().saturating_sub(1));
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.catalog.end_of(&self.storage, numbers[middle].0)? {
                Some(end) if end.time_micros < time_micros => low = middle + 1,
                _ => high = middle,
            }
        }
        let mut start = first;
        if low < numbers.len() {
            let number = numbers.swap_remove(low).0;
            if let Some(seal) = self.catalog.seal_of(&self.storage, number)? {
                start = start.max(seal.end.next());
            }
            if start <= self.flushed() {
                let located = self.catalog.locate(&self.storage, start)?;
                let entry = {
                    let pipe = self.pipe.lock();
                    pipe.index_of(located.number).map(|index| index.before_time(time_micros))
                };
                let entry = match entry {
                    Some(entry) => entry,
                    None if located.end.is_some() => {
                        self.catalog.index(&self.storage, &located)?.before_time(time_micros)
                    }
                    None => None,
                };
                start = entry.map_or(start, |entry| start.max(entry.lsn));
            }
        }
        let mut cursor = Cursor::new(self.clone(), start);
        loop {
            let lsn = cursor.next;
            match cursor.read() {
                Ok(Some(frame)) if frame.time_micros < time_micros => {}
                Ok(Some(frame)) => return Ok(frame.lsn),
                Ok(None) => return Ok(cursor.next),
                // Damage before the time does not matter; damage that may hide it is where reading starts.
                Err(error) if error.lsns().is_some() && cursor.next > lsn => {}
                Err(error) => return Err(error),
            }
        }
    }
}
