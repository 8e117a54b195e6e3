//! Looks at a directory and says what is there. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Verdict, judge};
use super::scan::{Gap, Run, SegmentScan, scan_segment};
use crate::config::{Config, RecoveryMode};
use crate::error::{Error, Result};
use crate::io::{Buffer, Hold, Storage};
use crate::log::commit::Spare;
use crate::log::source::Window;
use crate::segment::{
    CONTROL_FILE_BYTES, CleanClose, Control, ControlError, FORMAT_VERSION, FileName, FlushMarker, Found, HEADER_BYTES,
    HeaderError, Kind, Salt, Scanner, Seal, SegmentHeader, TrimPoint,
};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber};

/// No segment is prepared with less: a shorter file was cut, and may have held anything. A seal tells its own file's
/// length exactly.
const SEGMENT_BYTES_LEAST: u64 = 64 * 1024;

/// How often to look again beside a writer.
const LOOKS_MAX: u32 = 20;

/// A segment file's header, seen against the log it should belong to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HeaderState {
    Valid,
    Damaged,
    Foreign(String),
}

/// One of the newest segments, looked at closely.
#[derive(Debug)]
pub(crate) struct SegmentState<F> {
    pub(crate) number: SegmentNumber,
    pub(crate) file: Arc<F>,
    pub(crate) bytes: u64,
    pub(crate) header: HeaderState,
    pub(crate) scan: SegmentScan,
}

/// What is in the directory.
#[derive(Debug)]
pub(crate) struct Findings<F> {
    pub(crate) control: Control,
    /// The control file was lost and its content rebuilt from the segments.
    pub(crate) control_rebuilt: bool,
    /// Segments in use and their file lengths, oldest first, the active one included.
    pub(crate) segments: BTreeMap<SegmentNumber, u64>,
    /// Sealed segments that ought to be there.
    pub(crate) missing: BTreeSet<SegmentNumber>,
    /// The newest segment with anything in it, and what it is judged to be.
    pub(crate) active: Option<(SegmentState<F>, Verdict)>,
    /// The log was closed cleanly and nothing came after.
    pub(crate) clean: bool,
    pub(crate) spares: Vec<Spare<F>>,
    /// Segments that do not count any more: removed once the next segment's seal is flushed.
    pub(crate) debris: Vec<SegmentNumber>,
    /// Files of unfinished or finished work: removed at once.
    pub(crate) leftovers: Vec<String>,
    /// Numbers taken by files that are not ours.
    pub(crate) taken: BTreeSet<SegmentNumber>,
    /// Why appends must be refused until someone decides.
    pub(crate) damage: Vec<Error>,
    pub(crate) bytes_scanned: u64,
}

/// Looks. `None`: no log is here, nor anything of one.
pub(crate) fn look<S: Storage>(storage: &S, config: &Config) -> Result<Option<Findings<S::File>>> {
    let mut files = BTreeMap::new();
    let mut leftovers = Vec::new();
    let mut control_there = false;
    for (name, bytes) in storage.list().map_err(|e| Error::io("list", storage.describe(), e))? {
        match FileName::parse(&name) {
            Some(FileName::Segment(number)) => {
                files.insert(number, bytes);
            }
            Some(FileName::Control) => control_there = true,
            Some(FileName::ControlNew | FileName::SegmentNew(_)) => leftovers.push(name),
            Some(FileName::Lock | FileName::SegmentQuarantined(_)) | None => {}
        }
    }
    if !control_there && files.is_empty() {
        return Ok(None);
    }
    let (control, control_rebuilt) = match read_control(storage, control_there)? {
        Some(control) => (control, false),
        None if config.recovery == RecoveryMode::Quarantine => (rebuild_control(storage, &files)?, true),
        None => {
            return Err(Error::Control {
                dir: storage.describe(),
                what: "is missing or damaged in both slots, but there are segments; open with Quarantine (or `seawall \
                       repair --quarantine`) to rebuild it from them",
            });
        }
    };
    let look = Look { storage, config, block: control.block_bytes, control, held: BTreeMap::new() };
    look.run(files, leftovers, control_rebuilt).map(Some)
}

/// Looks without being the writer: one may be at work, who takes segments away, uses them again and writes on behind the
/// place that is being read. What such a look finds wrong is believed when the next one finds the same.
pub(crate) fn look_beside_a_writer<S: Storage>(storage: &S, config: &Config) -> Result<Option<Findings<S::File>>> {
    let complaint = |looked: &Result<Option<Findings<S::File>>>| match looked {
        Ok(Some(found)) if found.damage.is_empty() && found.missing.is_empty() => None,
        Ok(Some(found)) => Some(format!("{:?} {:?}", found.damage, found.missing)),
        Ok(None) => None,
        Err(error) => Some(error.to_string()),
    };
    let mut looked = look(storage, config);
    for _ in 0..LOOKS_MAX {
        let Some(before) = complaint(&looked) else { break };
        looked = look(storage, config);
        if complaint(&looked).as_ref() == Some(&before) {
            break;
        }
    }
    looked
}

/// The control file, if there is one that can be read.
pub(crate) fn read_control<S: Storage>(storage: &S, there: bool) -> Result<Option<Control>> {
    if !there {
        return Ok(None);
    }
    let file = storage.open("control").map_err(|e| Error::io("open", "control", e))?;
    let mut bytes = Buffer::new(CONTROL_FILE_BYTES);
    storage.read_at(&file, 0, CONTROL_FILE_BYTES, &mut bytes).map_err(|e| Error::io("read", "control", e))?;
    match Control::decode(&bytes) {
        Ok(control) => Ok(Some(control)),
        Err(ControlError::Invalid) => Ok(None),
        Err(ControlError::Future { version }) => {
            Err(Error::FutureVersion { file: "control".into(), found: version, known: FORMAT_VERSION })
        }
    }
}

/// A control for a log whose own was lost: identity from the segment headers, trim point from the newest seal.
fn rebuild_control<S: Storage>(storage: &S, files: &BTreeMap<SegmentNumber, u64>) -> Result<Control> {
    let mut rebuilt: Option<Control> = None;
    for (&number, &bytes) in files.iter().rev() {
        let file = open_segment(storage, number)?;
        let Ok(header) = read_header(storage, &file, number)? else { continue };
        if header.number != number {
            continue;
        }
        let control = rebuilt.get_or_insert_with(|| Control {
            generation: 1,
            log: header.log,
            incarnation: header.incarnation,
            stream: header.stream,
            block_bytes: header.block_bytes,
            open_count: 0,
            highest_segment: number,
            truncation_count: 0,
            trim: TrimPoint {
                lsn: Lsn::ZERO,
                chain: Default::default(),
                first_segment: *files.keys().next().expect("not empty"),
            },
            clean_close: None,
            quarantined: Vec::new(),
            passed_over: Vec::new(),
            extension: Vec::new(),
        });
        if header.log != control.log {
            continue;
        }
        let salt = Salt::new(control.log, control.incarnation, number);
        if let Some(seal) = read_seal(storage, &file, number, bytes, salt, control.block_bytes)? {
            control.generation = seal.control_generation + 2;
            control.open_count = seal.control_generation;
            control.truncation_count = seal.truncation_count;
            control.trim = seal.trim;
            break;
        }
    }
    rebuilt.ok_or_else(|| Error::Control {
        dir: storage.describe(),
        what: "is lost, and no segment has a valid header to rebuild it from",
    })
}

pub(crate) fn open_segment<S: Storage>(storage: &S, number: SegmentNumber) -> Result<Arc<S::File>> {
    let name = FileName::Segment(number).to_string();
    storage.open(&name).map(Arc::new).map_err(|e| Error::io("open", name, e))
}

pub(crate) fn read_header<S: Storage>(
    storage: &S,
    file: &S::File,
    number: SegmentNumber,
) -> Result<Result<SegmentHeader, HeaderError>> {
    let name = FileName::Segment(number).to_string();
    let block = storage.medium().device_block_bytes as usize;
    let mut bytes = Buffer::new(block);
    storage.read_at(file, 0, block, &mut bytes).map_err(|e| Error::io_at("read", &name, 0, e))?;
    match SegmentHeader::decode(&bytes) {
        Err(HeaderError::Future { version }) => {
            Err(Error::FutureVersion { file: name, found: version, known: FORMAT_VERSION })
        }
        other => Ok(other),
    }
}

/// A segment's seal, read alone.
pub(crate) fn read_seal<S: Storage>(
    storage: &S,
    file: &Arc<S::File>,
    number: SegmentNumber,
    bytes: u64,
    salt: Salt,
    block_bytes: u32,
) -> Result<Option<Seal>> {
    let block = u64::from(block_bytes);
    if bytes < 2 * block {
        return Ok(None);
    }
    let name = FileName::Segment(number).to_string();
    let mut page = Buffer::new(block as usize);
    let got =
        storage.read_at(file, block, block as usize, &mut page).map_err(|e| Error::io_at("read", &name, block, e))?;
    let mut scanner = Scanner::new(At { bytes: &page[..got], start: block }, salt, block_bytes, block, 2 * block);
    match scanner.next() {
        Ok(Some(Found::Frame { offset, header })) if header.kind == Kind::Seal => {
            let Ok(payload) = scanner.payload(offset, &header);
            Ok(Seal::decode(payload).ok())
        }
        _ => Ok(None),
    }
}

/// A slice that stands at some offset of a file.
struct At<'a> {
    bytes: &'a [u8],
    start: u64,
}

impl crate::segment::ByteSource for At<'_> {
    type Error = std::convert::Infallible;

    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Self::Error> {
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + count])
    }
}

struct Look<'a, S: Storage> {
    storage: &'a S,
    config: &'a Config,
    block: u32,
    control: Control,
    /// Files that a dead writer may still have had writes in flight to: claimed, so that none is any more.
    held: BTreeMap<SegmentNumber, Arc<S::File>>,
}

impl<S: Storage> Look<'_, S> {
    fn salt(&self, number: SegmentNumber) -> Salt {
        Salt::new(self.control.log, self.control.incarnation, number)
    }

    fn run(
        mut self,
        files: BTreeMap<SegmentNumber, u64>,
        mut leftovers: Vec<String>,
        control_rebuilt: bool,
    ) -> Result<Findings<S::File>> {
        let mut damage = Vec::new();
        let mut taken = BTreeSet::new();
        let mut segments = BTreeMap::new();
        let first = self.control.trim.first_segment;
        for (&number, &bytes) in &files {
            let ours = number >= first && number <= self.control.highest_segment;
            if self.control.passed_over.contains(&number) {
                taken.insert(number);
                continue;
            }
            if ours {
                segments.insert(number, bytes);
                continue;
            }
            let file = open_segment(self.storage, number)?;
            let header = read_header(self.storage, &file, number)?;
            let is_ours = |h: &SegmentHeader| h.log == self.control.log && h.incarnation == self.control.incarnation;
            let belongs = header.is_ok_and(|h| is_ours(&h));
            if number < first {
                // Trimmed, or recycled and not yet renamed. What is not ours is left alone.
                if belongs {
                    leftovers.push(FileName::Segment(number).to_string());
                }
                continue;
            }
            // Above the highest segment that was ever made usable: a preparation that did not end, or an old control.
            // A copy of one of our segments is somebody's backup.
            let belongs = belongs && header.is_ok_and(|h| h.number == number);
            if belongs && read_seal(self.storage, &file, number, bytes, self.salt(number), self.block)?.is_some() {
                return Err(self.stale_control());
            }
            if belongs {
                leftovers.push(FileName::Segment(number).to_string());
            } else {
                taken.insert(number);
            }
        }

        // The newest segment in use: from the top, the first with a valid seal; then look one further up, for a
        // segment whose seal is damaged.
        let (mut spares, mut debris, mut bytes_scanned) = (Vec::new(), Vec::new(), 0);
        self.settle_in_flight(&segments)?;
        let candidate = self.newest_sealed(&segments)?;
        if let Some((_, seal)) = &candidate
            && seal.control_generation > self.control.generation
        {
            return Err(self.stale_control());
        }
        let closed = self.control.clean_close;
        let clean = match (closed, &candidate) {
            // Cut below the place of the close, its frames are looked for one by one.
            (Some(at), Some((number, _))) => at.segment == *number && segments[number] >= at.end_offset,
            _ => false,
        };
        // Where the log was closed, something must stand; what is newer was written after this control was copied.
        if let (Some(at), Some((number, _))) = (closed, &candidate)
            && at.segment < *number
        {
            return Err(self.stale_control());
        }
        let above: Vec<(SegmentNumber, u64)> = segments
            .iter()
            .rev()
            .take_while(|(number, _)| candidate.is_none_or(|(at, _)| **number > at))
            .map(|(n, b)| (*n, *b))
            .collect();
        let mut active: Option<SegmentState<S::File>> = None;
        let mut past_candidate = false;
        let mut is_used_above = false;
        // Segments above the active one of which nobody can tell any more what they held.
        let mut unaccounted = BTreeSet::new();
        for (i, &(number, bytes)) in above.iter().enumerate() {
            // The pipeline starts a segment only when the one before it is full: only the lowest can hold anything.
            let may_hold = !clean && (candidate.is_none() || i + 1 == above.len());
            let state = self.examine(number, bytes, may_hold, &mut bytes_scanned)?;
            segments.remove(&number);
            let unsealed_claims = state.scan.first_data.is_some_and(|lsn| state.scan.claims >= lsn)
                || state.scan.marker.is_some()
                || self.claims_beyond(candidate.map(|(at, _)| at), &segments, &state.scan, &mut bytes_scanned)?;
            match state.header {
                HeaderState::Foreign(what) => {
                    damage.push(Error::Foreign {
                        file: FileName::Segment(number).to_string(),
                        what,
                        log: self.control.log,
                    });
                    taken.insert(number);
                    unaccounted.insert(number);
                }
                HeaderState::Valid if bytes < SEGMENT_BYTES_LEAST && !unsealed_claims => {
                    damage.push(Error::Corrupt {
                        segment: number,
                        offset: bytes,
                        lsns: LsnRange::new(Lsn::ZERO, Lsn::ZERO),
                        what: "the file is shorter than any that was prepared",
                    });
                    debris.push(number);
                    unaccounted.insert(number);
                }
                // Numbers are used in their order: what is blank below one that was used has lost what it held, and
                // would now come after it.
                HeaderState::Valid if state.scan.is_blank() && is_used_above => debris.push(number),
                HeaderState::Valid if state.scan.is_blank() => {
                    spares.push(Spare { number, file: state.file, bytes, written: true });
                    continue;
                }
                HeaderState::Valid if !unsealed_claims => debris.push(number),
                HeaderState::Damaged if state.scan.is_blank() => {
                    damage.push(Error::Corrupt {
                        segment: number,
                        offset: 0,
                        lsns: LsnRange::new(Lsn::ZERO, Lsn::ZERO),
                        what: "the header of a prepared segment is damaged",
                    });
                    debris.push(number);
                    unaccounted.insert(number);
                }
                HeaderState::Valid | HeaderState::Damaged if active.is_none() => {
                    segments.insert(number, bytes);
                    active = Some(state);
                    past_candidate = true;
                }
                HeaderState::Valid | HeaderState::Damaged => {
                    segments.insert(number, bytes);
                }
            }
            is_used_above = true;
        }
        spares.reverse();
        let mut verdict = None;
        let mut lost_with_seal = None;
        let mut cut_bytes = 0;
        if let (Some((number, _)), false) = (candidate, past_candidate) {
            let bytes = segments[&number];
            let state = match closed.filter(|_| clean) {
                // What stands right behind a clean end was written after it: then this control is an old copy.
                Some(at) if self.anything_at(number, bytes, at.end_offset)? => return Err(self.stale_control()),
                Some(at) => self.believe(&at, bytes)?,
                None => self.examine(number, bytes, true, &mut bytes_scanned)?,
            };
            active = Some(state);
        }
        // A close proved everything, also what its segment's damaged seal does not let us find.
        if let (Some(at), Some(state), false) = (closed, &mut active, clean)
            && at.segment == state.number
        {
            state.scan.claims = state.scan.claims.max(at.lsn);
            if state.scan.marker.is_none_or(|marker| marker.flushed_through < at.lsn) {
                state.scan.marker = Some(FlushMarker { flushed_through: at.lsn, chain: at.chain });
            }
        }
        if let Some(state) = &mut active {
            if state.scan.seal.is_none() && state.scan.first_data.is_none() {
                // Nothing here says where it begins: where the segment before it ends.
                let before = match candidate {
                    Some((number, _)) => {
                        self.examine(number, segments[&number], true, &mut bytes_scanned)?.scan.last_run()
                    }
                    None => empty_run(&self.control),
                };
                let Run { end_offset, frames_end, .. } = state.scan.prefix;
                state.scan.prefix = Run { end_offset, frames_end, ..before };
            }
            let mut judged = judge(&state.scan);
            let number = state.number;
            if let HeaderState::Foreign(what) = &state.header {
                let file = FileName::Segment(number).to_string();
                damage.push(Error::Foreign { file, what: what.clone(), log: self.control.log });
            }
            if state.header == HeaderState::Damaged {
                damage.push(Error::Corrupt {
                    segment: number,
                    offset: 0,
                    lsns: LsnRange::new(Lsn::ZERO, Lsn::ZERO),
                    what: "the segment header is damaged, its frames are not",
                });
            }
            cut_bytes = if clean { 0 } else { self.cut_bytes(state)? };
            if cut_bytes > 0 {
                damage.push(Error::Corrupt {
                    segment: number,
                    offset: state.bytes,
                    lsns: LsnRange::new(judged.end.last.next(), Lsn::MAX),
                    what: "the file is shorter than it was when it was prepared",
                });
            }
            if state.scan.seal.is_none() {
                let lost = self.lost_with_seal(state, &candidate, &segments, &mut bytes_scanned)?;
                damage.push(Error::Corrupt {
                    segment: number,
                    offset: u64::from(self.block),
                    lsns: lost,
                    what: "the seal is damaged",
                });
                if !lost.is_empty() {
                    let what = "the frames behind the seal are damaged with it";
                    lost_with_seal = Some(Gap { offset: u64::from(self.block), lsns: lost, what, next: judged.end });
                }
            }
            for gap in &judged.damage {
                damage.push(Error::Corrupt { segment: number, offset: gap.offset, lsns: gap.lsns, what: gap.what });
            }
            for (offset, what) in &state.scan.scuffs {
                let lsns = LsnRange::new(Lsn::ZERO, Lsn::ZERO);
                damage.push(Error::Corrupt { segment: number, offset: *offset, lsns, what });
            }
            judged.damage.splice(0..0, lost_with_seal);
            verdict = Some(judged);
        }

        // Numbers below the active one: what a suffix truncation left is debris; a gap no seal explains is damage.
        let mut missing = BTreeSet::new();
        if let Some(state) = &active {
            let top = state.number;
            if let Some(seal) = &state.scan.seal {
                let below: Vec<SegmentNumber> =
                    segments.range(seal.sealed_segment.next()..top).map(|(number, _)| *number).collect();
                for number in below {
                    segments.remove(&number);
                    debris.push(number);
                }
            }
            let present: Vec<SegmentNumber> = segments.range(..=top).map(|(number, _)| *number).collect();
            let mut before = None;
            for &number in &present {
                let expected = before.map_or(first, SegmentNumber::next);
                before = Some(number);
                if number == expected {
                    continue;
                }
                let explained = {
                    let file = open_segment(self.storage, number)?;
                    let seal =
                        read_seal(self.storage, &file, number, segments[&number], self.salt(number), self.block)?;
                    seal.map(|seal| seal.sealed_segment.next())
                };
                // The seal names its predecessor: what lies between them was truncated, what lies before is missing.
                let until = explained.unwrap_or(number).max(expected).min(number);
                missing.extend((expected.get()..until.get()).map(SegmentNumber::new));
            }
            let spare_numbers: BTreeSet<SegmentNumber> = spares.iter().map(|spare| spare.number).collect();
            for n in top.get() + 1..=self.control.highest_segment.get() {
                let number = SegmentNumber::new(n);
                let passed_over = self.control.passed_over.contains(&number);
                if !passed_over
                    && !spare_numbers.contains(&number)
                    && !debris.contains(&number)
                    && !taken.contains(&number)
                {
                    let lsns = LsnRange::new(verdict.as_ref().map_or(Lsn::FIRST, |v| v.end.last.next()), Lsn::MAX);
                    damage.push(Error::Missing { segment: number, lsns });
                    unaccounted.insert(number);
                }
            }
            if let (Some(verdict), RecoveryMode::Quarantine) = (&mut verdict, self.config.recovery) {
                self.give_up(&unaccounted, cut_bytes, verdict, &spares);
            }
        } else if self.control.highest_segment >= first {
            for n in first.get()..=self.control.highest_segment.get() {
                let number = SegmentNumber::new(n);
                if !files.contains_key(&number) {
                    let lsns = LsnRange::new(self.control.trim.lsn.next(), Lsn::MAX);
                    damage.push(Error::Missing { segment: number, lsns });
                }
            }
        }
        Ok(Findings {
            control: self.control,
            control_rebuilt,
            segments,
            missing,
            active: active.zip(verdict),
            clean,
            spares,
            debris,
            leftovers,
            taken,
            damage,
            bytes_scanned,
        })
    }

    /// Bytes that somebody cut from the end of the newest segment's file: what they held is unknown.
    fn cut_bytes(&self, state: &SegmentState<S::File>) -> Result<u64> {
        let prepared = state.scan.seal.map_or(SEGMENT_BYTES_LEAST, |seal| seal.file_bytes);
        if state.bytes >= prepared {
            return Ok(0);
        }
        // A live writer may have made it longer since the directory was listed, before it began to use it.
        let name = FileName::Segment(state.number);
        let bytes = self.storage.len(&state.file).map_err(|e| Error::io("get the length of", name, e))?;
        Ok(prepared.saturating_sub(bytes))
    }

    /// Quarantine's answer to segments that are gone from the log's end, and to the end of one that is: their numbers
    /// are passed over, and so are as many Lsns as they can have held, so that no frame that may have been acknowledged
    /// is ever followed by another one of its name.
    fn give_up(
        &mut self,
        unaccounted: &BTreeSet<SegmentNumber>,
        cut_bytes: u64,
        verdict: &mut Verdict,
        spares: &[Spare<S::File>],
    ) {
        // A segment is begun only when the one before it is flushed: behind a blank one there was nothing.
        let blank = spares.first().map_or(SegmentNumber::new(u64::MAX), |spare| spare.number);
        let may_have_held = unaccounted.range(..blank).count() as u64;
        self.control.pass_over(unaccounted.iter().copied());
        if may_have_held == 0 && cut_bytes == 0 {
            return;
        }
        let end = verdict.end;
        let largest = self.config.segment_bytes_max.max(self.config.record_bytes_max);
        let lost_bytes = may_have_held * largest + cut_bytes;
        let guess = end.last.advance(lost_bytes.div_ceil(HEADER_BYTES as u64));
        let upto = self.control.clean_close.map(|at| at.lsn).filter(|lsn| *lsn > end.last).unwrap_or(guess);
        verdict.end = Run { last: upto, ..end };
        verdict.damage.push(Gap {
            offset: end.end_offset,
            lsns: LsnRange::inclusive(end.last.next(), upto),
            what: "what the log held behind this place is gone",
            next: verdict.end,
        });
    }

    /// The frames that stood between the end of the segment before and the first one that is found behind a damaged seal.
    fn lost_with_seal(
        &self,
        state: &SegmentState<S::File>,
        before: &Option<(SegmentNumber, Seal)>,
        segments: &BTreeMap<SegmentNumber, u64>,
        scanned: &mut u64,
    ) -> Result<LsnRange> {
        let nowhere = LsnRange::new(Lsn::ZERO, Lsn::ZERO);
        let end = match before {
            Some((number, _)) => self.examine(*number, segments[number], true, scanned)?.scan.last_run().last,
            None => self.control.trim.lsn,
        };
        Ok(state.scan.first_data.map_or(nowhere, |first| LsnRange::new(end.next(), first.max(end.next()))))
            .map(|range| if range.is_empty() { nowhere } else { range })
    }

    fn file(&self, number: SegmentNumber) -> Result<Arc<S::File>> {
        match self.held.get(&number) {
            Some(file) => Ok(file.clone()),
            None => open_segment(self.storage, number),
        }
    }

    /// The highest segment with a valid seal.
    fn newest_sealed(&self, segments: &BTreeMap<SegmentNumber, u64>) -> Result<Option<(SegmentNumber, Seal)>> {
        for (&number, &bytes) in segments.iter().rev() {
            let file = self.file(number)?;
            if let Some(seal) = read_seal(self.storage, &file, number, bytes, self.salt(number), self.block)? {
                return Ok(Some((number, seal)));
            }
        }
        Ok(None)
    }

    /// Writes that a killed process had in flight may still reach the device after it is gone. Each holds its file's
    /// claim until it ends: with the claims of the unsealed files in our hands, what we scan is what stays.
    fn settle_in_flight(&mut self, segments: &BTreeMap<SegmentNumber, u64>) -> Result<()> {
        if self.config.recovery == RecoveryMode::ReadOnly {
            return Ok(());
        }
        let from = self.newest_sealed(segments)?.map_or(SegmentNumber::NONE, |(number, _)| number);
        let give_up = Instant::now() + self.config.in_flight_wait;
        for (&number, _) in segments.range(from..) {
            let file = open_segment(self.storage, number)?;
            let name = FileName::Segment(number);
            while !self.storage.hold(&file, Hold::Exclusive).map_err(|e| Error::io("claim", name, e))? {
                if Instant::now() >= give_up {
                    return Err(Error::TimedOut { what: "a dead writer's last write to an unsealed segment" });
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            self.held.insert(number, file);
        }
        Ok(())
    }

    /// True when what stands in a segment without a seal proves frames flushed that the segment before it does not
    /// hold: they stood here, and were lost with the seal.
    fn claims_beyond(
        &self,
        before: Option<SegmentNumber>,
        segments: &BTreeMap<SegmentNumber, u64>,
        scan: &SegmentScan,
        scanned: &mut u64,
    ) -> Result<bool> {
        if scan.seal.is_some() || scan.claims <= self.control.trim.lsn {
            return Ok(false);
        }
        let Some(before) = before else { return Ok(true) };
        let end = self.examine(before, segments[&before], true, scanned)?.scan.last_run().last;
        Ok(scan.claims > end)
    }

    fn stale_control(&self) -> Error {
        Error::Control {
            dir: self.storage.describe(),
            what: "is older than the segments beside it (restored from a copy?); restore the whole directory from one \
                   point in time, or remove the control file and repair with --quarantine to rebuild it",
        }
    }

    /// A clean close flushed everything and wrote down where it ends: the tail is as good as sealed, and is not read.
    fn believe(&self, at: &CleanClose, bytes: u64) -> Result<SegmentState<S::File>> {
        let mut scanned = 0;
        let mut state = self.examine(at.segment, bytes, false, &mut scanned)?;
        let seal_end = state.scan.seal.map_or(Lsn::ZERO, |seal| seal.end);
        let run = Run {
            last: at.lsn,
            chain: at.chain,
            time_micros: at.time_micros,
            end_offset: at.end_offset,
            frames_end: at.end_offset,
        };
        state.scan.prefix = run;
        state.scan.gaps.clear();
        state.scan.scuffs.clear();
        state.scan.dirty_padding.clear();
        state.scan.unreadable = None;
        state.scan.strays = 0;
        state.scan.frames = at.lsn.since(seal_end);
        state.scan.first_data = (at.lsn > seal_end).then(|| seal_end.next());
        state.scan.claims = at.lsn;
        Ok(state)
    }

    fn examine(
        &self,
        number: SegmentNumber,
        bytes: u64,
        whole: bool,
        scanned: &mut u64,
    ) -> Result<SegmentState<S::File>> {
        let limit = if whole { bytes } else { 2 * u64::from(self.block) };
        let file = self.file(number)?;
        let header = match read_header(self.storage, &file, number)? {
            Ok(header) => self.compare(&header, number),
            Err(_) => HeaderState::Damaged,
        };
        let name = FileName::Segment(number).to_string();
        let mut window = Window::new(self.storage, file.clone(), name, bytes);
        let end = limit.min(bytes);
        let scan = scan_segment(&mut window, self.salt(number), self.block, end, self.config.index_stride_bytes)?;
        *scanned += window.bytes_read;
        Ok(SegmentState { number, file, bytes, header, scan })
    }

    fn compare(&self, header: &SegmentHeader, number: SegmentNumber) -> HeaderState {
        let (log, incarnation): (LogId, Incarnation) = (header.log, header.incarnation);
        if log != self.control.log {
            HeaderState::Foreign(format!("belongs to log {log}"))
        } else if incarnation != self.control.incarnation {
            HeaderState::Foreign(format!("belongs to another disk's copy of this log ({incarnation})"))
        } else if header.number != number {
            HeaderState::Foreign(format!("is a copy of segment {}", header.number))
        } else {
            HeaderState::Valid
        }
    }

    fn anything_at(&self, number: SegmentNumber, bytes: u64, offset: u64) -> Result<bool> {
        if offset >= bytes {
            return Ok(false);
        }
        let file = self.file(number)?;
        let mut window = Window::new(self.storage, file, FileName::Segment(number).to_string(), bytes);
        let end = (offset + u64::from(self.block)).min(bytes);
        let mut scanner = Scanner::new(&mut window, self.salt(number), self.block, offset, end);
        Ok(matches!(scanner.next()?, Some(Found::Frame { .. } | Found::BadPayload { .. })))
    }
}

/// Where a log without any segment in use starts.
pub(crate) fn empty_run(control: &Control) -> Run {
    Run { last: control.trim.lsn, chain: control.trim.chain, time_micros: 0, end_offset: 0, frames_end: 0 }
}
