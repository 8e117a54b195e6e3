//! Which segment holds which frames. Learnt as it is needed: memory and open time do not depend on the backlog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::recovery::{SegmentScan, Told, believed_end, open_segment, read_header, read_seal, run_upto, scan_segment};
use super::source::Window;
use crate::codec::Chain;
use crate::error::{Error, Result};
use crate::io::{Buffer, Hold, MapWatch, Mapping, Storage};
use crate::segment::{Control, FileName, FrameHeader, HEADER_BYTES, Kind, Salt, Seal, SparseIndex, round_up};
use crate::sync::Mutex;
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber};

/// Sealed segments whose file, map or index is kept at hand.
const OPEN_MAX: usize = 32;

/// Where a sealed segment's frames end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub(super) last: Lsn,
    pub(super) offset: u64,
    pub(super) time_micros: u64,
}

/// What is known of one segment.
struct Entry<F> {
    bytes: u64,
    file: Option<Arc<F>>,
    /// What its own seal says; outer `None`: not read yet, inner: not readable.
    seal: Option<Option<Seal>>,
    /// What it tells of the frames before it, where its own seal does not; outer `None`: not looked for yet.
    told: Option<Option<Told>>,
    /// The first frame it may hold, where its own seal does not tell: made up for once, by scans.
    start: Option<Lsn>,
    /// `None` for the active segment, and until the successor's seal is read.
    end: Option<End>,
    index: Option<Arc<SparseIndex>>,
    map: Option<Arc<Mapping>>,
    /// Every map made of it: `Bytes` of one may live on when it is no longer kept at hand.
    watches: Vec<MapWatch>,
    /// Nothing of it is written any more: it may enter the page cache.
    settled: bool,
}

/// A segment that holds a frame, with what a reader needs.
#[derive(Clone, Debug)]
pub(super) struct Located<F> {
    pub(super) number: SegmentNumber,
    pub(super) file: Arc<F>,
    pub(super) salt: Salt,
    /// The first frame it may hold.
    pub(super) start: Lsn,
    /// The chain before its first frame, if its seal tells.
    pub(super) chain_before: Option<Chain>,
    /// `None`: the active segment.
    pub(super) end: Option<End>,
    pub(super) settled: bool,
    pub(super) bytes: u64,
}

pub(super) struct Catalog<S: Storage> {
    log: LogId,
    incarnation: Incarnation,
    pub(super) block_bytes: u32,
    index_stride_bytes: u64,
    /// How often the log had been truncated when it was opened, by its control file.
    truncation_count: u64,
    state: Mutex<State<S::File>>,
}

struct State<F> {
    segments: BTreeMap<SegmentNumber, Entry<F>>,
    /// Least recently opened first.
    opened: VecDeque<SegmentNumber>,
}

/// A segment that was given up.
pub(super) struct Removed<F> {
    pub(super) number: SegmentNumber,
    pub(super) file: Option<Arc<F>>,
    pub(super) bytes: u64,
    /// Bytes of it may still be in somebody's hands, or its index is still being written: never to be used again.
    pub(super) in_use: bool,
}

impl<S: Storage> Catalog<S> {
    pub(super) fn new(
        control: &Control,
        index_stride_bytes: u64,
        segments: &BTreeMap<SegmentNumber, u64>,
    ) -> Catalog<S> {
        let segments = segments
            .iter()
            .map(|(number, bytes)| {
                let entry = Entry {
                    bytes: *bytes,
                    file: None,
                    seal: None,
                    told: None,
                    start: None,
                    end: None,
                    index: None,
                    map: None,
                    watches: Vec::new(),
                    settled: true,
                };
                (*number, entry)
            })
            .collect();
        let state = Mutex::new(State { segments, opened: VecDeque::new() });
        let &Control { log, incarnation, block_bytes, truncation_count, .. } = control;
        Catalog { log, incarnation, block_bytes, index_stride_bytes, truncation_count, state }
    }

    pub(super) fn salt(&self, number: SegmentNumber) -> Salt {
        Salt::new(self.log, self.incarnation, number)
    }

    /// Adds the segment that appends go to from now on.
    pub(super) fn add_active(&self, number: SegmentNumber, file: Arc<S::File>, bytes: u64, seal: Seal) {
        let entry = Entry {
            bytes,
            file: Some(file),
            seal: Some(Some(seal)),
            told: None,
            start: None,
            end: None,
            index: None,
            map: None,
            watches: Vec::new(),
            settled: false,
        };
        self.state.lock().segments.insert(number, entry);
    }

    /// Fixes a segment's end. One that was written until now (`file`) is not settled before [`Catalog::settle`]; one that was
    /// settled stays so: a cut writes nothing there, and frames of it may be in somebody's hands.
    pub(super) fn seal(
        &self,
        number: SegmentNumber,
        file: Option<Arc<S::File>>,
        end: End,
        index: Option<Arc<SparseIndex>>,
    ) {
        let mut state = self.state.lock();
        if let Some(entry) = state.segments.get_mut(&number) {
            entry.end = Some(end);
            entry.settled &= file.is_none();
            entry.map = None;
            entry.index = index;
            if file.is_some() {
                entry.file = file;
            }
        }
    }

    /// Nothing of the segment is written any more.
    pub(super) fn settle(&self, storage: &S, number: SegmentNumber) {
        let mut state = self.state.lock();
        if let Some(entry) = state.segments.get_mut(&number) {
            entry.settled = true;
            if let Some(file) = &entry.file {
                // From writing to reading: other processes may now map it. A refusal only means that it stays ours.
                let _ = storage.hold(file, Hold::Shared);
            }
        }
        Self::opened(&mut state, number);
    }

    /// Whether nothing of the segment is written any more, its index included.
    pub(super) fn is_settled(&self, number: SegmentNumber) -> bool {
        self.state.lock().segments.get(&number).is_some_and(|entry| entry.settled)
    }

    /// The log goes away: claims on what it was writing end, whoever still holds its files.
    pub(super) fn release(&self, storage: &S) {
        for entry in self.state.lock().segments.values().filter(|entry| !entry.settled) {
            if let Some(file) = &entry.file {
                let _ = storage.hold(file, Hold::Released);
            }
        }
    }

    fn opened(state: &mut State<S::File>, number: SegmentNumber) {
        state.opened.retain(|n| *n != number);
        state.opened.push_back(number);
        while state.opened.len() > OPEN_MAX {
            let Some(old) = state.opened.pop_front() else { break };
            if let Some(entry) = state.segments.get_mut(&old).filter(|entry| entry.settled) {
                entry.map = None;
                entry.file = None;
                entry.index = None;
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.state.lock().segments.len()
    }

    pub(super) fn numbers(&self) -> Vec<(SegmentNumber, u64)> {
        self.state.lock().segments.iter().map(|(number, entry)| (*number, entry.bytes)).collect()
    }

    pub(super) fn file(&self, storage: &S, number: SegmentNumber) -> Result<Arc<S::File>> {
        if let Some(file) = self.state.lock().segments.get(&number).and_then(|entry| entry.file.clone()) {
            return Ok(file);
        }
        let file = open_segment(storage, number)?;
        let _ = storage.hold(&file, Hold::Shared);
        let mut state = self.state.lock();
        if let Some(entry) = state.segments.get_mut(&number) {
            entry.file = Some(file.clone());
        }
        Self::opened(&mut state, number);
        Ok(file)
    }

    /// A segment's seal; `None` when it cannot be read or is damaged.
    pub(super) fn seal_of(&self, storage: &S, number: SegmentNumber) -> Result<Option<Seal>> {
        let bytes = {
            let state = self.state.lock();
            let Some(entry) = state.segments.get(&number) else { return Ok(None) };
            if let Some(seal) = entry.seal {
                return Ok(seal);
            }
            entry.bytes
        };
        let file = self.file(storage, number)?;
        let seal = read_seal(storage, &file, number, bytes, self.salt(number), self.block_bytes)?;
        if let Some(entry) = self.state.lock().segments.get_mut(&number) {
            entry.seal = Some(seal);
        }
        Ok(seal)
    }

    /// The first frame a segment may hold; never less than the start of the segment before it, whatever is damaged, so
    /// that a search over starts finds its way around a segment of which nothing can be read.
    pub(super) fn start_of(&self, storage: &S, number: SegmentNumber) -> Result<(Lsn, Option<Chain>)> {
        if let Some(seal) = self.seal_of(storage, number)? {
            return Ok((seal.end.next(), Some(seal.end_chain)));
        }
        // A damaged seal is made up for by what stands before it and behind it.
        let before = {
            let state = self.state.lock();
            if let Some(start) = state.segments.get(&number).and_then(|entry| entry.start) {
                return Ok((start, None));
            }
            state.segments.range(..number).next_back().map(|(number, entry)| (*number, entry.bytes))
        };
        let told = self.told_from(storage, number)?.0.map(|told| told.last.next());
        let Some((before, bytes)) = before else { return Ok((Lsn::FIRST, None)) };
        let least = self.start_of(storage, before)?.0;
        let after = self.scan(storage, before, bytes)?.last_run().last.next();
        let start = after.min(told.unwrap_or(after)).max(least);
        // What stands before it never changes while it is there: nothing is written below the newest segment.
        if let Some(entry) = self.state.lock().segments.get_mut(&number) {
            entry.start = Some(start);
        }
        Ok((start, None))
    }

    fn scan(&self, storage: &S, number: SegmentNumber, bytes: u64) -> Result<SegmentScan> {
        let mut window = self.window(storage, number, bytes)?;
        scan_segment(&mut window, self.salt(number), self.block_bytes, bytes, self.index_stride_bytes)
    }

    pub(super) fn next_after(&self, number: SegmentNumber) -> Option<SegmentNumber> {
        self.state.lock().segments.range(number.next()..).next().map(|(number, _)| *number)
    }

    /// Where a segment ends: from the seal that names it, or, when that is gone, from its own frames.
    pub(super) fn end_of(&self, storage: &S, number: SegmentNumber) -> Result<Option<End>> {
        let (known, bytes, settled) = {
            let state = self.state.lock();
            let Some(entry) = state.segments.get(&number) else { return Ok(None) };
            (entry.end, entry.bytes, entry.settled)
        };
        if known.is_some() {
            return Ok(known);
        }
        let Some(next) = self.next_after(number) else {
            if !settled {
                return Ok(None);
            }
            return self.scanned_end(storage, number, bytes, Lsn::MAX).map(Some);
        };
        let end = match self.seal_of(storage, next)? {
            Some(seal) if seal.sealed_segment == number => {
                End { last: seal.end, offset: seal.sealed_end_offset, time_micros: seal.end_time_micros }
            }
            // Behind its end there may stand what was dropped, truncated or carried on.
            _ => self.believed_end(storage, number, bytes)?,
        };
        // Cut meanwhile, it ends there.
        let mut state = self.state.lock();
        Ok(Some(state.segments.get_mut(&number).map_or(end, |entry| *entry.end.get_or_insert(end))))
    }

    /// The end of a segment that no seal tells.
    fn believed_end(&self, storage: &S, number: SegmentNumber, bytes: u64) -> Result<End> {
        let (told, count_behind) = match self.next_after(number) {
            Some(next) => self.told_from(storage, next)?,
            None => (None, None),
        };
        let was_truncated = count_behind.unwrap_or(self.truncation_count) != self.truncations_at(storage, number)?;
        let scan = self.scan(storage, number, bytes)?;
        let mut window = self.window(storage, number, bytes)?;
        let run = believed_end(&mut window, (self.salt(number), self.block_bytes), &scan, told, was_truncated)?;
        Ok(End { last: run.last, offset: run.frames_end, time_micros: run.time_micros })
    }

    /// What a segment, or else one behind it, tells of the frames before it; and how often the log had been truncated when the first
    /// of them was begun whose seal can be read.
    fn told_from(&self, storage: &S, number: SegmentNumber) -> Result<(Option<Told>, Option<u64>)> {
        let (mut told, mut at) = (None, Some(number));
        while let Some(behind) = at {
            let seal = self.seal_of(storage, behind)?;
            if told.is_none() {
                told = match seal {
                    Some(seal) => Some(Told::by_seal(&seal)),
                    None => self.told_by(storage, behind)?,
                };
            }
            if let Some(seal) = seal {
                return Ok((told, Some(seal.truncation_count)));
            }
            at = self.next_after(behind);
        }
        Ok((told, None))
    }

    /// What a segment without a seal that can be read tells of the frames before it.
    fn told_by(&self, storage: &S, number: SegmentNumber) -> Result<Option<Told>> {
        if let Some(told) = self.state.lock().segments.get(&number).and_then(|entry| entry.told) {
            return Ok(told);
        }
        // Behind its own end stands what was cut there or dropped: that tells of other frames than those before it.
        let own_end = self.next_after(number).map(|_| self.end_of(storage, number)).transpose()?.flatten();
        let end = own_end.map_or(u64::MAX, |end| end.offset);
        let told = self.scan(storage, number, self.bytes_of(number).min(end))?.told();
        if let Some(entry) = self.state.lock().segments.get_mut(&number) {
            entry.told = Some(told);
        }
        Ok(told)
    }

    /// How often the log had been truncated when the segment was begun; less where its own seal does not tell.
    fn truncations_at(&self, storage: &S, number: SegmentNumber) -> Result<u64> {
        let upto: Vec<SegmentNumber> = self.state.lock().segments.range(..=number).rev().map(|(at, _)| *at).collect();
        for number in upto {
            if let Some(seal) = self.seal_of(storage, number)? {
                return Ok(seal.truncation_count);
            }
        }
        Ok(0)
    }

    fn bytes_of(&self, number: SegmentNumber) -> u64 {
        self.state.lock().segments.get(&number).map_or(0, |entry| entry.bytes)
    }

    fn window<'a>(&self, storage: &'a S, number: SegmentNumber, bytes: u64) -> Result<Window<'a, S>> {
        Ok(Window::new(storage, self.file(storage, number)?, FileName::Segment(number).to_string(), bytes))
    }

    /// The end of a segment's frames, as far as they are not behind `upto`.
    pub(super) fn scanned_end(&self, storage: &S, number: SegmentNumber, bytes: u64, upto: Lsn) -> Result<End> {
        let run = self.scan(storage, number, bytes)?.last_run();
        if run.last <= upto {
            return Ok(End { last: run.last, offset: run.frames_end, time_micros: run.time_micros });
        }
        let run = run_upto(&mut self.window(storage, number, bytes)?, self.salt(number), self.block_bytes, upto)?;
        Ok(End { last: upto, offset: run.frames_end, time_micros: run.time_micros })
    }

    /// The segment that holds a frame. The caller knows that the frame is flushed and not trimmed.
    pub(super) fn locate(&self, storage: &S, lsn: Lsn) -> Result<Located<S::File>> {
        loop {
            let numbers: Vec<SegmentNumber> = self.state.lock().segments.keys().copied().collect();
            let located = self.locate_among(storage, &numbers, lsn);
            // A trim takes the first away, a truncation the last: what was learnt of either meanwhile tells nothing.
            let state = self.state.lock();
            let ends = [numbers.first(), numbers.last()];
            if ends.into_iter().flatten().all(|number| state.segments.contains_key(number)) {
                return located;
            }
        }
    }

    fn locate_among(&self, storage: &S, numbers: &[SegmentNumber], lsn: Lsn) -> Result<Located<S::File>> {
        // Binary search over starts that are read only where it looks.
        let (mut low, mut high) = (0, numbers.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.start_of(storage, numbers[middle])?.0 <= lsn {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let gap = |start: Lsn, end: Lsn, segment: u64| Error::Missing {
            segment: SegmentNumber::new(segment),
            lsns: LsnRange::new(start, end),
        };
        let Some(at) = low.checked_sub(1) else {
            let first = numbers.first().copied();
            let end = match first {
                Some(number) => self.start_of(storage, number)?.0,
                None => Lsn::MAX,
            };
            return Err(gap(lsn, end, first.map_or(1, |number| number.get().saturating_sub(1))));
        };
        let number = numbers[at];
        let (start, chain_before) = self.start_of(storage, number)?;
        let end = self.end_of(storage, number)?;
        if let Some(end) = end
            && lsn > end.last
        {
            let next = match numbers.get(at + 1) {
                Some(next) => self.start_of(storage, *next)?.0,
                None => Lsn::MAX,
            };
            return Err(gap(end.last.next(), next, number.get() + 1));
        }
        let file = self.file(storage, number)?;
        let state = self.state.lock();
        let entry = state.segments.get(&number).ok_or_else(|| gap(lsn, lsn.next(), number.get()))?;
        Ok(Located {
            number,
            file,
            salt: self.salt(number),
            start,
            chain_before,
            end,
            settled: entry.settled,
            bytes: entry.bytes,
        })
    }

    /// A map of a settled segment's groups, its header checked. `None`: the file cannot be claimed, because a writer is
    /// about to use it again (or has not let go of it yet); what is read of it now must be copied and checked.
    pub(super) fn map(&self, storage: &S, located: &Located<S::File>) -> Result<Option<Arc<Mapping>>> {
        let name = FileName::Segment(located.number);
        if let Some(map) = self.state.lock().segments.get(&located.number).and_then(|entry| entry.map.clone()) {
            return Ok(Some(map));
        }
        // Before the header is read: with the claim in our hands, the file stays what its header says.
        if !storage.hold(&located.file, Hold::Shared).map_err(|e| Error::io("claim", name, e))? {
            return Ok(None);
        }
        let end = located.end.map_or(located.bytes, |end| end.offset).min(located.bytes);
        let stranger = match read_header(storage, &located.file, located.number)? {
            Ok(header) if header.log != self.log => Some(format!("belongs to log {}", header.log)),
            Ok(header) if header.number != located.number => Some(format!("is a copy of segment {}", header.number)),
            // A damaged header over good frames: `verify` tells; the frames stand for themselves.
            _ => None,
        };
        if let Some(what) = stranger {
            // So they do under another's header, as a write to the wrong place leaves it: only a file that is another's
            // to its first record is one.
            let seal =
                read_seal(storage, &located.file, located.number, located.bytes, located.salt, self.block_bytes)?;
            if seal.is_none() {
                return Err(Error::Foreign { file: name.to_string(), what, log: self.log });
            }
        }
        let map = storage.map(&located.file, end).map_err(|e| Error::io("map", name, e))?;
        let map = Arc::new(map);
        let mut state = self.state.lock();
        if let Some(entry) = state.segments.get_mut(&located.number).filter(|entry| entry.settled) {
            entry.watches.retain(MapWatch::is_alive);
            entry.watches.push(map.watch());
            return Ok(Some(entry.map.get_or_insert(map).clone()));
        }
        // Given up between the look and the map: its file may be written again at any moment.
        Err(Error::Trimmed { requested: located.start, first: located.end.map_or(Lsn::MAX, |end| end.last.next()) })
    }

    /// A settled segment's index: kept, read from behind its end, or made by a scan.
    pub(super) fn index(&self, storage: &S, located: &Located<S::File>) -> Result<Arc<SparseIndex>> {
        if let Some(index) = self.state.lock().segments.get(&located.number).and_then(|entry| entry.index.clone()) {
            return Ok(index);
        }
        let end = located.end.map_or(located.bytes, |end| end.offset);
        let index = match self.read_index(storage, located, end)? {
            Some(index) => index,
            None => return self.scan_index(storage, located.number, &located.file, end.min(located.bytes)),
        };
        let index = Arc::new(index);
        let mut state = self.state.lock();
        if let Some(entry) = state.segments.get_mut(&located.number) {
            entry.index = Some(index.clone());
        }
        Ok(index)
    }

    /// Makes a sealed segment's index from its frames, and keeps it.
    pub(super) fn scan_index(
        &self,
        storage: &S,
        number: SegmentNumber,
        file: &Arc<S::File>,
        end: u64,
    ) -> Result<Arc<SparseIndex>> {
        let mut window = Window::new(storage, file.clone(), FileName::Segment(number).to_string(), end);
        let scan = scan_segment(&mut window, self.salt(number), self.block_bytes, end, self.index_stride_bytes)?;
        let index = Arc::new(scan.index);
        if let Some(entry) = self.state.lock().segments.get_mut(&number) {
            entry.index = Some(index.clone());
        }
        Ok(index)
    }

    fn read_index(&self, storage: &S, located: &Located<S::File>, end: u64) -> Result<Option<SparseIndex>> {
        let at = round_up(end, u64::from(self.block_bytes));
        let most = round_up(
            (HEADER_BYTES + SparseIndex::ENTRIES_MAX * crate::segment::INDEX_ENTRY_BYTES) as u64,
            u64::from(self.block_bytes),
        );
        let bytes = (most.min(located.bytes.saturating_sub(at)) / u64::from(self.block_bytes)
            * u64::from(self.block_bytes)) as usize;
        if bytes < self.block_bytes as usize {
            return Ok(None);
        }
        let mut buffer = Buffer::new(bytes);
        let name = FileName::Segment(located.number);
        storage.read_at(&located.file, at, bytes, &mut buffer).map_err(|e| Error::io_at("read", name, at, e))?;
        Ok(FrameHeader::decode(located.salt.at(at), &buffer)
            .filter(|header| header.kind == Kind::Index)
            .and_then(|header| {
                let payload = buffer.get(HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize)?;
                (crate::codec::crc32c(payload) == header.payload_crc).then_some(payload)
            })
            .and_then(|payload| SparseIndex::decode(payload, end)))
    }

    /// Gives up every segment below `first`.
    pub(super) fn remove_before(&self, first: SegmentNumber) -> Vec<Removed<S::File>> {
        let mut state = self.state.lock();
        let kept = state.segments.split_off(&first);
        let gone = std::mem::replace(&mut state.segments, kept);
        state.opened.retain(|number| *number >= first);
        gone.into_iter().map(Removed::from).collect()
    }

    /// Gives up every segment above `last` (a suffix truncation).
    pub(super) fn remove_after(&self, last: SegmentNumber) -> Vec<Removed<S::File>> {
        let mut state = self.state.lock();
        let gone = state.segments.split_off(&last.next());
        state.opened.retain(|number| *number <= last);
        gone.into_iter().map(Removed::from).collect()
    }
}

impl<F> From<(SegmentNumber, Entry<F>)> for Removed<F> {
    fn from((number, entry): (SegmentNumber, Entry<F>)) -> Removed<F> {
        drop(entry.map);
        let in_use = !entry.settled || entry.watches.iter().any(MapWatch::is_alive);
        Removed { number, file: entry.file, bytes: entry.bytes, in_use }
    }
}
