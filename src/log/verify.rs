//! Checks every byte that counts, and tells exactly which frames are affected.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::End;
use super::recovery::{read_header, scan_segment};
use super::shared::Shared;
use super::source::Window;
use crate::codec::{Chain, crc32c};
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::segment::{
    ByteSource, FileName, FrameHeader, HEADER_BYTES, Kind, QUARANTINED_MAX, Quarantined, Seal, SegmentHeader,
    TrimPoint, frame_bytes, is_zero, round_up, was_index,
};
use crate::types::{Lsn, LsnRange, SegmentNumber};

/// So often in a row a check goes back behind a truncation without having come further.
const LOOKS_IN_VAIN_MAX: u32 = 16;

/// Something that is not as it was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The segment.
    pub segment: SegmentNumber,
    /// Where it begins.
    pub offset: u64,
    /// The frames that cannot be read because of it; empty when none is: a header, an index, padding.
    pub lsns: LsnRange,
    /// What is wrong.
    pub what: String,
    /// An operator has set these frames aside already.
    pub quarantined: bool,
    /// Nothing says that bytes have changed: the segment could not be read this time. It may be the next time, so these
    /// frames are not to be set aside for it.
    pub unread: bool,
}

/// One segment's share of the check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The segment.
    pub number: SegmentNumber,
    /// Its file's length.
    pub file_bytes: u64,
    /// The first and the last frame found, as a range.
    pub lsns: LsnRange,
    /// Frames found.
    pub frames: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// True for the one appends go to.
    pub active: bool,
}

/// What a check of the whole log found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Every segment, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Everything that is not as it was written.
    pub findings: Vec<Finding>,
    /// The last frame that was checked.
    pub end: Lsn,
    /// The chain there, computed over all frames checked.
    pub chain: Chain,
    /// Frames checked.
    pub frames: u64,
    /// The log was truncated so often that the check did not come to its end, last to here: what is told is of the segments up
    /// to `end`, and nothing is known of others.
    pub cut: Option<Lsn>,
}

impl Report {
    /// True when nothing is wrong but what was set aside before: every byte is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.cut.is_none() && self.findings.iter().all(|finding| finding.quarantined)
    }

    /// True when every frame that was not set aside can be read. Bytes that no frame needs may have changed: the medium
    /// is then not to be trusted, and nothing is lost yet.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.cut.is_none() && self.findings.iter().all(|finding| finding.quarantined || finding.lsns.is_empty())
    }
}

/// A check under way.
struct Walk {
    report: Report,
    /// What the segment before ended with; `None` before the first and behind a missing one.
    before: Option<(Lsn, Chain)>,
    /// Sealed segments that were checked, oldest first: where to go on behind a truncation that leaves them as they are.
    milestones: Vec<Milestone>,
}

/// The walk as it was behind a segment.
#[derive(Clone, Copy)]
struct Milestone {
    number: SegmentNumber,
    segments: usize,
    findings: usize,
    end: Lsn,
    chain: Chain,
    frames: u64,
    before: Option<(Lsn, Chain)>,
}

impl Walk {
    fn new(trimmed: Lsn) -> Walk {
        let (segments, findings) = (Vec::new(), Vec::new());
        let report = Report { segments, findings, end: trimmed, chain: Chain::default(), frames: 0, cut: None };
        Walk { report, before: None, milestones: Vec::new() }
    }

    /// Behind a segment that was checked.
    fn note(&mut self) {
        let report = &self.report;
        let Some(segment) = report.segments.last().filter(|segment| !segment.active) else { return };
        self.milestones.push(Milestone {
            number: segment.number,
            segments: report.segments.len(),
            findings: report.findings.len(),
            end: report.end,
            chain: report.chain,
            frames: report.frames,
            before: self.before,
        });
    }

    /// Goes back to what ends at `cut` or before it: a truncation to there has changed nothing of that.
    fn go_back(&mut self, cut: Lsn, trimmed: Lsn) {
        // One that holds no frame ends where the one before it does, and goes with what is behind that.
        let segments = &self.report.segments;
        let may_be_gone = |milestone: &mut Milestone| {
            milestone.end > cut || (milestone.end == cut && segments[milestone.segments - 1].frames == 0)
        };
        while self.milestones.pop_if(may_be_gone).is_some() {}
        let Some(to) = self.milestones.last() else {
            *self = Walk::new(trimmed);
            return;
        };
        let report = &mut self.report;
        report.segments.truncate(to.segments);
        report.findings.truncate(to.findings);
        (report.end, report.chain, report.frames) = (to.end, to.chain, to.frames);
        self.before = to.before;
    }
}

/// When a look begins.
struct Moment {
    /// Asked for first: a truncation that is in it has changed `truncations`.
    era: u64,
    truncations: u64,
}

impl<S: Storage> Shared<S> {
    pub(super) fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
        let mut walk = Walk::new(self.trimmed());
        let (mut furthest, mut in_vain) = (0, 0);
        // Before the look before: a truncation that was under way when a look began had begun since.
        let mut since = None;
        let mut moment = self.moment();
        loop {
            let total = self.look(moment.truncations, &mut walk, &mut progress);
            // Before the counter is asked: both are of the log that was looked at.
            let (trim, quarantined) = self.given_up();
            if self.truncations.load(Ordering::Acquire) == moment.truncations {
                progress(total, total);
                return Ok(judged(walk.report, &trim, &quarantined));
            }
            // Before the cut is asked for: what comes behind this is met by the next look.
            let next = self.moment();
            // The first look may have met one that had begun before it, nobody knows to where.
            let cut = since.and_then(|since| self.cuts_since(since).1).unwrap_or(Lsn::ZERO);
            since = Some(moment.era);
            moment = next;
            walk.go_back(cut, self.trimmed());
            in_vain = if walk.milestones.len() > furthest { 0 } else { in_vain + 1 };
            furthest = furthest.max(walk.milestones.len());
            if in_vain > LOOKS_IN_VAIN_MAX {
                walk.report.cut = Some(cut);
                return Ok(judged(walk.report, &trim, &quarantined));
            }
        }
    }

    fn moment(&self) -> Moment {
        let (era, _) = self.cuts_since(0);
        Moment { era, truncations: self.truncations.load(Ordering::Acquire) }
    }

    /// Until the log is truncated: what was found of the old end says nothing of the new one. Tells of each segment but the
    /// last, and returns the bytes of all.
    fn look(&self, truncations: u64, walk: &mut Walk, progress: &mut impl FnMut(u64, u64)) -> u64 {
        let numbers = self.catalog.numbers();
        let total: u64 = numbers.iter().map(|(_, bytes)| bytes).sum();
        let checked = walk.milestones.last().map(|milestone| milestone.number);
        if let (Some(checked), Some((first, _))) = (checked, numbers.first())
            && *first > checked
        {
            // Given up since, and maybe more behind it.
            walk.before = None;
        }
        let (mut done, mut told_of) = (0, None);
        for (number, bytes) in numbers {
            done += bytes;
            if checked.is_some_and(|checked| number <= checked) {
                continue;
            }
            if let Some(done) = told_of.replace(done) {
                progress(done, total);
            }
            let told = self.verify_segment(number, bytes, &mut walk.before, &mut walk.report);
            if let Err(error) = &told {
                // What cannot be read is a finding like any other: the check goes on behind it.
                let lsns = self.frames_of(number, walk.before);
                walk.report.findings.push(Finding {
                    segment: number,
                    offset: 0,
                    lsns,
                    what: error.to_string(),
                    quarantined: false,
                    unread: matches!(error, Error::Io { .. }),
                });
                walk.report.end = walk.report.end.max(lsns.end.previous());
                walk.before = None;
            }
            if self.truncations.load(Ordering::Acquire) != truncations {
                return total;
            }
            if told.is_ok() {
                walk.note();
            }
        }
        total
    }

    /// The trim point, and the frames an operator has set aside, of one moment.
    fn given_up(&self) -> (TrimPoint, Vec<LsnRange>) {
        // Segments that were given up while they were checked may be in use again.
        self.look_for_trim();
        let control = self.control.lock();
        (control.trim, control.quarantined.iter().map(|range| range.lsns).collect())
    }

    fn verify_segment(
        &self,
        number: SegmentNumber,
        bytes: u64,
        before: &mut Option<(Lsn, Chain)>,
        report: &mut Report,
    ) -> Result<()> {
        let name = FileName::Segment(number).to_string();
        let trimmed = self.trimmed();
        let told_to = report.end.max(trimmed);
        let mut tell = |offset, lsns, what: String| {
            report.findings.push(Finding { segment: number, offset, lsns, what, quarantined: false, unread: false });
        };
        let file = self.catalog.file(&self.storage, number)?;
        match read_header(&self.storage, &file, number)? {
            Err(_) => tell(0, LsnRange::NONE, "the segment header is damaged".into()),
            Ok(header) if header.number != number => {
                tell(0, LsnRange::NONE, format!("the file is a copy of segment {}", header.number));
            }
            Ok(header) if header.log != self.control.lock().log => {
                tell(0, LsnRange::NONE, format!("the file belongs to log {}", header.log));
            }
            // The checksum covers the header; the rest of its block is zero.
            Ok(_)
                if !self.is_zero(
                    &file,
                    &name,
                    SegmentHeader::BYTES as u64,
                    u64::from(self.catalog.block_bytes).min(bytes),
                )? =>
            {
                tell(
                    SegmentHeader::BYTES as u64,
                    LsnRange::NONE,
                    "the block of the segment header is not zero behind it".into(),
                );
            }
            Ok(_) => {}
        }
        // The active segment is checked as far as it was flushed when the check began: place and frame of one moment, and
        // before its end is asked for, which counts where there is one by then.
        let ((at, flushed_offset), flushed) = {
            let pipe = self.pipe.lock();
            (pipe.flushed_at(), pipe.flushed().0)
        };
        let end = self.catalog.end_of(&self.storage, number)?;
        let until = match end {
            Some(end) => end.offset,
            None if at == number => flushed_offset,
            None => bytes,
        };
        let last = end.map_or(flushed, |end| end.last);
        if until > bytes {
            tell(bytes, LsnRange::NONE, format!("the file has {bytes} bytes, its frames end at {until}"));
        }
        // Until it is settled its index may be on its way.
        if let Some(end) = end
            && self.catalog.is_settled(number)
            && let Some((offset, what)) = self.verify_index(number, &file, bytes, &end)?
        {
            tell(offset, LsnRange::NONE, what.into());
        }
        let mut window = Window::new(&self.storage, file, name, bytes);
        let block = self.catalog.block_bytes;
        let stride = self.config.index_stride_bytes;
        let mut scan = scan_segment(&mut window, self.catalog.salt(number), block, until, stride)?;
        if scan.last_run().last > last {
            // A tail that nothing proves, of a log without a writer: it is not shown, nor judged.
            let behind_seal = u64::from(block) + frame_bytes(Seal::PAYLOAD_BYTES);
            let shown = self.catalog.scanned_end(&self.storage, number, bytes, last)?.offset.max(behind_seal);
            scan = scan_segment(&mut window, self.catalog.salt(number), block, shown, stride)?;
        }
        let start = self.catalog.start_of(&self.storage, number)?.0.max(trimmed.next());
        match (&scan.seal, *before) {
            (None, _) => tell(u64::from(block), LsnRange::NONE, "the seal is damaged".into()),
            (Some(seal), Some((lsn, chain))) if seal.end != lsn || seal.end_chain != chain => {
                let lsns = LsnRange::new(lsn.next(), seal.end.next());
                tell(u64::from(block), lsns, "the seal does not continue the segment before it".into());
            }
            // Also behind one that is there, and of which nothing tells where it ends.
            (Some(seal), None) if seal.end > told_to => {
                let lsns = LsnRange::inclusive(told_to.next(), seal.end);
                tell(u64::from(block), lsns, "the frames before it are missing".into());
            }
            _ => {}
        }
        if scan.seal.is_none() {
            // Where the one before it is believed to end; of that one more may stand there than counts.
            let ended = before.map_or(report.end.min(start.previous()), |(lsn, _)| lsn);
            let begin = ended.next().max(trimmed.next());
            let first = scan.first_data.unwrap_or(start).min(last.next());
            if begin < first {
                tell(u64::from(block), LsnRange::new(begin, first), "frames behind a damaged seal are gone".into());
            }
        }
        for gap in &scan.gaps {
            tell(gap.offset, gap.lsns, gap.what.into());
        }
        for (offset, what) in &scan.scuffs {
            tell(*offset, LsnRange::NONE, (*what).into());
        }
        // What looks like padding where frames are missing is where they were.
        let missing_at: Vec<u64> = scan.gaps.iter().map(|gap| gap.offset).chain(scan.unreadable).collect();
        let tail_is_missing = scan.last_run().last < last;
        let is_missing = |at: &u64| missing_at.contains(at) && (tail_is_missing || scan.unreadable != Some(*at));
        for (offset, after) in scan.dirty_padding.iter().filter(|(at, _)| !is_missing(at)) {
            let lsns = LsnRange::new(after.next(), after.next());
            tell(*offset, lsns, format!("padding behind frame {after} is not zero (no frame is affected)"));
        }
        let run = scan.last_run();
        let found_last = if scan.first_data.is_some() { run.last } else { start.previous() };
        if found_last < last {
            let lsns = LsnRange::inclusive(found_last.next(), last);
            tell(scan.unreadable.unwrap_or(run.end_offset), lsns, "frames are not there".into());
        } else if let Some(offset) = scan.unreadable
            && !scan.dirty_padding.iter().any(|(at, _)| *at == offset)
            && scan.seal.is_some()
        {
            tell(offset, LsnRange::new(run.last.next(), run.last.next()), "a local record is damaged".into());
        }
        report.frames += scan.frames;
        report.end = last.max(report.end);
        report.chain = run.chain;
        report.segments.push(SegmentReport {
            number,
            file_bytes: bytes,
            lsns: LsnRange::inclusive(start, found_last.max(start.previous())),
            frames: scan.frames,
            payload_bytes: scan.payload_bytes,
            active: end.is_none(),
        });
        let found_any = scan.seal.is_some() || scan.first_data.is_some();
        // Of a segment that was cut at the trim point the frames before it may be gone.
        *before = (run.last == last && found_any).then_some((run.last, run.chain));
        Ok(())
    }

    /// The frames of a segment that cannot be read, as its neighbours tell.
    fn frames_of(&self, number: SegmentNumber, before: Option<(Lsn, Chain)>) -> LsnRange {
        let start = match (before, self.catalog.start_of(&self.storage, number)) {
            (Some((lsn, _)), _) => lsn.next(),
            (None, Ok((start, _))) => start.max(self.trimmed().next()),
            (None, Err(_)) => self.trimmed().next(),
        };
        let last = match self.catalog.end_of(&self.storage, number) {
            Ok(Some(end)) => end.last,
            _ => self.flushed(),
        };
        LsnRange::inclusive(start.min(last.next()), last)
    }

    fn is_zero(&self, file: &Arc<S::File>, name: &str, from: u64, to: u64) -> Result<bool> {
        let mut window = Window::new(&self.storage, file.clone(), name.into(), to);
        window.bytes(from, (to - from) as usize).map(is_zero)
    }

    /// What is wrong with a sealed segment's index, if one was written. No frame depends on it.
    fn verify_index(
        &self,
        number: SegmentNumber,
        file: &Arc<S::File>,
        bytes: u64,
        end: &End,
    ) -> Result<Option<(u64, &'static str)>> {
        let block = u64::from(self.catalog.block_bytes);
        let at = round_up(end.offset, block);
        if at + block > bytes {
            return Ok(None);
        }
        let name = FileName::Segment(number).to_string();
        let mut window = Window::new(&self.storage, file.clone(), name, bytes);
        let head = window.bytes(at, HEADER_BYTES)?;
        let Some(header) =
            FrameHeader::decode(self.catalog.salt(number).at(at), head).filter(|h| h.kind == Kind::Index)
        else {
            return Ok(was_index(head, end.last, end.time_micros).then_some((at, "the index's header is damaged")));
        };
        let payload_at = at + HEADER_BYTES as u64;
        let behind = payload_at + u64::from(header.payload_bytes);
        if behind > bytes || crc32c(window.bytes(payload_at, header.payload_bytes as usize)?) != header.payload_crc {
            return Ok(Some((at, "the index does not match its checksum")));
        }
        let padding = window.bytes(behind, (round_up(behind, block).min(bytes) - behind) as usize)?;
        Ok((!is_zero(padding)).then_some((behind, "the padding behind the index is not zero")))
    }

    /// Records frames as set aside.
    pub(super) fn quarantine(&self, lsns: LsnRange) -> Result<()> {
        self.check_usable()?;
        // Until it is recorded nobody cuts the frames away, nor records others.
        let _turn = self.cutting.lock();
        if lsns.is_empty() || lsns.end > self.flushed().next() {
            return Err(Error::Invalid { what: format!("{lsns} is not a range of flushed frames") });
        }
        let control = self.control.lock();
        if control.quarantined.iter().any(|range| range.lsns == lsns) {
            return Ok(());
        }
        if control.quarantined.len() >= QUARANTINED_MAX {
            return Err(Error::too_many_quarantined(QUARANTINED_MAX));
        }
        drop(control);
        self.update_control(|control| {
            control.quarantined.push(Quarantined { lsns, chain_after: Chain::default() });
            control.quarantined.sort_by_key(|range| range.lsns.start);
        })
    }
}

/// The findings that count, and which of them an operator knows.
fn judged(mut report: Report, trim: &TrimPoint, quarantined: &[LsnRange]) -> Report {
    report.findings.retain(|finding| finding.segment >= trim.first_segment);
    for finding in &mut report.findings {
        finding.lsns.start = finding.lsns.start.max(trim.lsn.next().min(finding.lsns.end));
        finding.quarantined = !finding.lsns.is_empty()
            && quarantined.iter().any(|q| q.start <= finding.lsns.start && finding.lsns.end <= q.end);
    }
    report
}
