//! The newest segments, looked at closely: where the log ends, and what of its end is damaged or gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::believed::{Told, Witness, believed_end, nothing_of};
use super::files::{open_segment, read_header, read_seal};
use super::inspect::{Findings, Gone, HeaderState, Look, Newest, RecoveryProgress, SegmentState, empty_run};
use super::plan::{Verdict, judge};
use super::scan::{Gap, Run, SegmentScan, scan_segment};
use crate::codec::Chain;
use crate::config::RecoveryMode;
use crate::error::{Error, Result};
use crate::events;
use crate::io::{Hold, Storage};
use crate::log::commit::Spare;
use crate::log::source::Window;
use crate::segment::{
    ByteSource, CleanClose, FileName, FlushMarker, FrameHeader, HEADER_BYTES, Quarantined, Seal, SegmentHeader,
};
use crate::sync::{now, sleep};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber};

/// No segment is prepared with less: a shorter file was cut, and may have held anything. A seal tells its own file's
/// length exactly.
const SEGMENT_BYTES_LEAST: u64 = 64 * 1024;

impl<S: Storage> Look<'_, S> {
    /// The highest segment with a valid seal.
    pub(super) fn newest_sealed(&self, segments: &BTreeMap<SegmentNumber, u64>) -> Result<Newest> {
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
    pub(super) fn settle_in_flight(&mut self, segments: &BTreeMap<SegmentNumber, u64>) -> Result<()> {
        if self.config.recovery == RecoveryMode::ReadOnly {
            return Ok(());
        }
        let from = self.newest_sealed(segments)?.map_or(SegmentNumber::NONE, |(number, _)| number);
        let give_up = now() + self.config.in_flight_wait;
        for (&number, _) in segments.range(from..) {
            let file = open_segment(self.storage, number)?;
            let name = FileName::Segment(number);
            while !self.storage.hold(&file, Hold::Exclusive).map_err(|e| Error::io("claim", name, e))? {
                if now() >= give_up {
                    return Err(Error::TimedOut { what: "a dead writer's last write to an unsealed segment" });
                }
                sleep(Duration::from_millis(2));
            }
            self.held.insert(number, file);
        }
        Ok(())
    }

    /// The segments above the newest one with a seal: spares, what a crash left of a rotation, damage. Returns the one
    /// among them that holds the log's end although its own seal is gone.
    pub(super) fn look_above(
        &self,
        newest: &Newest,
        found: &mut Findings<S::File>,
        gone: &mut Gone,
    ) -> Result<Option<SegmentState<S::File>>> {
        let from = newest.map_or(SegmentNumber::NONE, |(number, _)| number.next());
        let above: Vec<(SegmentNumber, u64)> = found.segments.range(from..).map(|(n, b)| (*n, *b)).collect();
        let mut states = Vec::with_capacity(above.len());
        // What was made usable behind a close was made for a log that went on.
        let closed = self.control.clean_close.filter(|_| found.clean);
        let is_unused = |number| closed.is_some_and(|at| number <= at.highest_segment);
        let mut is_blank_below = false;
        for &(number, bytes) in &above {
            let state = self.examine_above(number, bytes, (is_blank_below, is_unused(number)), found)?;
            is_blank_below = is_unused(number) || is_blank(&state);
            states.push(state);
        }
        let was_cut = self.was_cut_behind(newest.as_ref().map(|(_, seal)| seal));
        let lowest = above.first().map_or(SegmentNumber::NONE, |(number, _)| *number);
        let mut without_seal = None;
        let mut is_used_above = false;
        for state in states.into_iter().rev() {
            let SegmentState { number, bytes, .. } = state;
            found.segments.remove(&number);
            let proven = state.scan.claims.max(self.control.trim.lsn);
            // Numbers are used in their order: where the log was closed, and where it was cut back, a seal was flushed.
            // The first segment that a trim left was in use then.
            let was_trimmed = self.control.trim.lsn > Lsn::ZERO && self.control.trim.first_segment >= number;
            let was_sealed = match self.control.clean_close {
                _ if was_trimmed => true,
                Some(at) => at.segment >= number,
                None => was_cut && (!state.scan.says_blank || number == lowest),
            };
            let unsealed_claims = (was_sealed && !state.scan.is_blank())
                || state.scan.first_data.is_some_and(|lsn| proven >= lsn)
                || state.scan.marker.is_some()
                || self.claims_beyond(newest, &state.scan, found)?;
            let corrupt = |offset, what| Error::Corrupt { segment: number, offset, lsns: LsnRange::NONE, what };
            match state.header {
                HeaderState::Foreign(what) => {
                    let file = FileName::Segment(number).to_string();
                    found.damage.push(Error::Foreign { file, what, log: self.control.log });
                    found.taken.insert(number);
                    gone.segments.insert(number);
                }
                HeaderState::Valid if bytes < SEGMENT_BYTES_LEAST && !unsealed_claims => {
                    found.damage.push(corrupt(bytes, "the file is shorter than any that was prepared"));
                    found.debris.push(number);
                    gone.segments.insert(number);
                }
                // Numbers are used in their order: what is blank below one that was used has lost what it held, and
                // would now come after it.
                HeaderState::Valid if state.scan.is_blank() && is_used_above => found.debris.push(number),
                // Nothing else needs to have stood here.
                HeaderState::Valid if state.scan.is_blank() && was_sealed => {
                    found.damage.push(corrupt(u64::from(self.block), "the seal is damaged"));
                    found.debris.push(number);
                    gone.segments.insert(number);
                }
                HeaderState::Valid if state.scan.is_blank() => {
                    // From the highest one down.
                    gone.blank_from = if state.scan.says_blank { Some(number) } else { gone.blank_from };
                    found.spares.push(Spare::new(number, state.file, bytes, true));
                    continue;
                }
                HeaderState::Valid if !unsealed_claims => {
                    // Never acknowledged as far as anything tells: a write that did not end, told by name all the same.
                    if let Some(first) = state.scan.first_data {
                        let lsns = LsnRange::inclusive(first, state.scan.last_run().last.max(first));
                        gone.dropped = Some(gone.dropped.map_or(lsns, |so_far| so_far.spanning(lsns)));
                    }
                    gone.claims = gone.claims.max(state.scan.claims);
                    if is_used_above {
                        found.debris.push(number);
                    } else {
                        found.stale = Some((Spare::new(number, state.file, bytes, true), state.scan.valid_end));
                    }
                }
                HeaderState::Damaged if state.scan.is_blank() => {
                    found.damage.push(corrupt(0, "the header of a prepared segment is damaged"));
                    found.debris.push(number);
                    gone.segments.insert(number);
                }
                HeaderState::Valid | HeaderState::Damaged => {
                    found.segments.insert(number, bytes);
                    without_seal.get_or_insert(state);
                }
            }
            is_used_above = true;
        }
        found.spares.reverse();
        Ok(without_seal)
    }

    /// Looks at a segment above the newest one with a seal: at all of it, unless it stands above a blank one and says
    /// itself that nothing was written into it, or the log was closed before it was used.
    ///
    /// A segment is begun by a rotation, when everything in the one before it is flushed, its seal included; or by an open, which
    /// copies into it the tail of one whose seal a power loss may take away. Before it does, it takes away what says
    /// blank. In the lowest segment above the newest that proves nothing: of a first group that was torn, everything but
    /// its first block may have been written.
    fn examine_above(
        &self,
        number: SegmentNumber,
        bytes: u64,
        (is_blank_below, is_unused): (bool, bool),
        found: &mut Findings<S::File>,
    ) -> Result<SegmentState<S::File>> {
        if is_blank_below || is_unused {
            let state = self.examine(number, bytes, false, &mut found.bytes_scanned)?;
            if is_unused || is_blank(&state) {
                return Ok(state);
            }
        }
        self.examine(number, bytes, true, &mut found.bytes_scanned)
    }

    /// The newest segment with a seal is the active one.
    pub(super) fn look_at_newest(
        &self,
        number: SegmentNumber,
        found: &mut Findings<S::File>,
    ) -> Result<SegmentState<S::File>> {
        let bytes = found.segments[&number];
        match self.control.clean_close.filter(|_| found.clean) {
            // What stands right behind a clean end was written after it: then this control is an old copy.
            Some(at) if self.anything_at(number, bytes, at.end_offset)? => Err(self.older_control()),
            Some(at) => self.believe(&at, bytes),
            None => self.examine(number, bytes, true, &mut found.bytes_scanned),
        }
    }

    /// Judges the log's end, and tells what is damaged there.
    pub(super) fn judge_active(
        &self,
        state: &mut SegmentState<S::File>,
        newest: &Newest,
        found: &mut Findings<S::File>,
        gone: &mut Gone,
    ) -> Result<Verdict> {
        let number = state.number;
        let closed = self.control.clean_close.filter(|at| !found.clean && at.segment >= number);
        let closed_above = closed.filter(|at| at.segment > number);
        // What a close behind this segment closed stood there, and proves nothing of what follows a hole here.
        let here = closed.filter(|at| at.segment == number).map_or(Lsn::ZERO, |at| at.lsn);
        let own = state.scan.claims.max(gone.claims).max(self.control.trim.lsn).max(here);
        // A close proved everything, also what its segment's damaged seal does not let us find.
        if let Some(at) = closed {
            state.scan.claims = state.scan.claims.max(at.lsn);
            if state.scan.marker.is_none_or(|marker| marker.flushed_through < at.lsn) {
                state.scan.marker = Some(FlushMarker { flushed_through: at.lsn, chain: at.chain });
            }
        }
        // Only what was flushed is trimmed: a frame, and the seal of the segment that it stood in.
        let trimmed = self.control.trim.lsn;
        state.scan.claims_behind_seal = state.scan.claims_behind_seal.max(trimmed);
        state.scan.claims = state.scan.claims.max(gone.claims).max(trimmed);
        // What was set aside was flushed; that says nothing of the frames before it.
        let proven = state.scan.claims;
        self.claim_quarantined(state);
        if state.scan.seal.is_none() && state.scan.first_data.is_none_or(|first| state.scan.prefix.last < first) {
            // Nothing here says where it begins, or nothing but a header: where the segment before it ends.
            let told_elsewhere = state.scan.marker.map(|marker| Told::by_marker(&marker));
            let before = self.end_before(newest, state.scan.told().or(told_elsewhere), found)?;
            let before = match (state.scan.first_data.map(Lsn::previous), state.scan.first_marker) {
                (Some(last), _) if last == before.last => before,
                (Some(last), _) => Run { last, chain: Chain::default(), ..before },
                // The first marker tells also where the segment before cannot be believed; what a later one proves stood here.
                (None, Some(marker)) => Run { last: marker.flushed_through, chain: marker.chain, ..before },
                (None, None) => before,
            };
            let Run { end_offset, frames_end, .. } = state.scan.prefix;
            state.scan.prefix = Run { end_offset, frames_end, ..before };
        }
        // Behind it another one may have been in use, which told where this one ends; also one that was given up, where no seal tells that
        // the open that did so came further.
        let given_up = |passed_over: &SegmentNumber| (number..gone.nothing_from()).contains(passed_over);
        let is_given_up = state.scan.seal.is_none() && self.control.passed_over.iter().any(given_up);
        let is_followed = gone.may_have_held() > 0 || is_given_up;
        let may_go_on = is_followed || closed_above.is_some();
        let is_begin_doubtful = may_go_on && self.gap_with_seal(state, own, newest, found)?;
        if let Some(at) = closed_above {
            // Most likely that was dropped.
            let is_hole = |gap: &Gap| gap.lsns.end.previous() > own || gap.lsns.end > at.lsn;
            let holes = state.scan.gaps.iter().position(is_hole);
            state.scan.gaps.truncate(holes.unwrap_or(state.scan.gaps.len()));
        }
        let mut verdict = judge(&state.scan, &self.control.trim, may_go_on);
        verdict.proven = verdict.proven.min(proven);
        let may_be_cut = match &state.scan.seal {
            Some(seal) => self.was_cut_behind(Some(seal)),
            // By its own seal, or by that of a segment above it of which nothing is left.
            None => may_go_on && self.was_cut_behind(newest.as_ref().map(|(_, seal)| seal)),
        };
        if may_be_cut {
            self.doubt(state, newest, &mut verdict, found, gone)?;
        }
        // What an open was copying from here when it ended is not lost: it still stands here.
        let beyond = |lsns: LsnRange| LsnRange::new(lsns.start.max(verdict.end.last.next()), lsns.end);
        if let Some(dropped) = gone.dropped.map(beyond).filter(|lsns| !lsns.is_empty()) {
            verdict.dropped = Some(verdict.dropped.map_or(dropped, |so_far| so_far.spanning(dropped)));
        }
        let corrupt = |offset, lsns, what| Error::Corrupt { segment: number, offset, lsns, what };
        match &state.header {
            HeaderState::Valid => {}
            HeaderState::Foreign(what) => {
                let file = FileName::Segment(number).to_string();
                found.damage.push(Error::Foreign { file, what: what.clone(), log: self.control.log });
            }
            HeaderState::Damaged => {
                found.damage.push(corrupt(0, LsnRange::NONE, "the segment header is damaged, its frames are not"));
            }
        }
        gone.bytes = if found.clean { 0 } else { self.cut_bytes(state)? };
        if gone.bytes > 0 {
            let lsns = LsnRange::new(verdict.end.last.next(), Lsn::MAX);
            found.damage.push(corrupt(state.bytes, lsns, "the file is shorter than it was when it was prepared"));
        }
        let mut lost_with_seal = None;
        if state.scan.seal.is_none() {
            let offset = u64::from(self.block);
            let mut lsns = self.lost_with_seal(state, newest, found)?;
            // What was cut is not lost.
            lsns.end = lsns.end.min(verdict.end.last.next());
            let lsns = if lsns.is_empty() { LsnRange::NONE } else { lsns };
            found.damage.push(corrupt(offset, lsns, "the seal is damaged"));
            if !lsns.is_empty() && !is_begin_doubtful {
                let what = "the frames behind the seal are damaged with it";
                lost_with_seal = Some(Gap { offset, lsns, what, next: verdict.end });
            }
        }
        found.damage.extend(verdict.damage.iter().map(|gap| corrupt(gap.offset, gap.lsns, gap.what)));
        found.damage.extend(state.scan.scuffs.iter().map(|(offset, what)| corrupt(*offset, LsnRange::NONE, *what)));
        verdict.damage.splice(0..0, lost_with_seal);
        Ok(verdict)
    }

    /// Of a segment behind which the log was cut back nothing is believed, when the seal that tells where is lost with all that
    /// stood behind it: what was cut is as valid as what was not.
    fn doubt(
        &self,
        state: &SegmentState<S::File>,
        newest: &Newest,
        verdict: &mut Verdict,
        found: &mut Findings<S::File>,
        gone: &mut Gone,
    ) -> Result<()> {
        // But where the log was closed in it or behind it.
        let closed = self.control.clean_close.filter(|at| at.segment >= state.number);
        let told = closed.map(|at| Told { last: at.lsn, witness: Witness::Chain(at.chain) });
        let mut end = self.believed_end(state, told, true)?;
        gone.numbers_to = verdict.end.last;
        let first = nothing_of(&state.scan, self.block);
        let nothing = match state.scan.told() {
            _ if state.scan.tells_its_begin(self.block) => first,
            // Between a lost seal and the first frame that is found as many may be lost as were copied here: what is
            // found may have been cut together with frames that the segment before holds as well.
            Some(_) => Run {
                end_offset: first.end_offset,
                frames_end: first.frames_end,
                ..self.end_before(newest, told, found)?
            },
            // Nothing here says where it begins: where the segment before it ends, as was found above.
            None if first.last < state.scan.prefix.last => state.scan.prefix,
            None => first,
        };
        if end.last <= first.last || end.last < nothing.last {
            end = nothing;
        }
        // Before the first frame that is found, frames may be lost that were cut as well, and those of their numbers that stand in the
        // segment before may have been: as far as the close tells that they are the log's, they are.
        if closed.is_some_and(|at| at.lsn < end.last) {
            let before = self.end_before(newest, told, found)?;
            (end.last, end.chain) = (before.last, before.chain);
        }
        if end.last <= nothing.last {
            let lsns = LsnRange::new(end.last.next(), Lsn::MAX);
            let what = "the log was cut back in this segment or behind it, and the seal that tells where is lost";
            found.damage.push(Error::Corrupt { segment: state.number, offset: u64::from(self.block), lsns, what });
        }
        // Nothing above the trim point is in doubt below it.
        if end.last < self.control.trim.lsn {
            (end.last, end.chain) = (self.control.trim.lsn, self.control.trim.chain);
        }
        *verdict = Verdict::clean(end);
        Ok(())
    }

    /// The end of a log of which no segment is in use: where it was trimmed, or behind what was set aside.
    pub(super) fn judge_nothing(&self, found: &mut Findings<S::File>, gone: &Gone) -> Verdict {
        let mut end = empty_run(&self.control);
        if let Some(range) = self.last_quarantined().filter(|range| range.lsns.end > end.last.next()) {
            (end.last, end.chain) = (range.lsns.end.previous(), range.chain_after);
        }
        if let Some(at) = self.control.clean_close.filter(|at| at.lsn > end.last) {
            let (lsns, what) =
                (LsnRange::inclusive(end.last.next(), at.lsn), "what was there when the log was closed is gone");
            found.damage.push(Error::Corrupt { segment: at.segment, offset: 0, lsns, what });
        }
        Verdict { dropped: gone.dropped, ..Verdict::clean(end) }
    }

    fn last_quarantined(&self) -> Option<&Quarantined> {
        self.control.quarantined.iter().max_by_key(|range| range.lsns.end)
    }

    /// What was set aside had been flushed: its numbers are never given again, also when the open that set it aside
    /// ended before it had sealed the segment.
    fn claim_quarantined(&self, state: &mut SegmentState<S::File>) {
        let seal = state.scan.seal;
        // A truncation whose seal is flushed has cut them too.
        let cut = seal.filter(|seal| seal.truncation_count > self.control.truncation_count).map(|seal| seal.end);
        let last = |range: &Quarantined| range.lsns.end.previous().min(cut.unwrap_or(Lsn::MAX));
        let Some(range) = self.last_quarantined() else { return };
        let last = last(range);
        if last > state.scan.claims {
            state.scan.claims = last;
            state.scan.marker = Some(FlushMarker { flushed_through: last, chain: range.chain_after });
        }
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
    pub(super) fn give_up(&mut self, gone: &Gone, verdict: &mut Verdict) {
        let may_have_held = gone.may_have_held();
        self.control.pass_over(gone.segments.iter().copied());
        // What a close vouches for is nothing behind it, where no segment is gone that was made usable since.
        let closed = self.control.clean_close.filter(|at| gone.held_until() <= at.highest_segment);
        let (end, closed) = (verdict.end, closed.map(|at| at.lsn));
        let is_all_known = may_have_held == 0 && gone.bytes == 0 && gone.numbers_to <= end.last;
        if is_all_known || closed == Some(end.last) {
            return;
        }
        let largest = self.config.segment_bytes_max.max(self.config.record_bytes_max);
        let lost_bytes = may_have_held.saturating_mul(largest).saturating_add(gone.bytes);
        let guess = end.last.max(gone.numbers_to).advance(lost_bytes.div_ceil(HEADER_BYTES as u64));
        let upto = closed.filter(|lsn| *lsn > end.last).unwrap_or(guess);
        verdict.end = Run { last: upto, ..end };
        verdict.damage.push(Gap {
            offset: end.end_offset,
            lsns: LsnRange::inclusive(end.last.next(), upto),
            what: "what the log held behind this place is gone",
            next: verdict.end,
        });
    }

    /// Makes a gap of what is lost between a damaged seal and the first frame that is found, if nothing claims it to its end: a frame
    /// behind it may have been dropped, as behind any other. True if it does.
    fn gap_with_seal(
        &self,
        state: &mut SegmentState<S::File>,
        claims: Lsn,
        newest: &Newest,
        found: &mut Findings<S::File>,
    ) -> Result<bool> {
        let scan = &state.scan;
        let Some(first) = scan.first_data.filter(|first| scan.seal.is_none() && first.previous() > claims) else {
            return Ok(false);
        };
        if scan.prefix.last < first {
            return Ok(false);
        }
        let before = self.end_before(newest, scan.told(), found)?;
        let lsns = LsnRange::new(before.last.next(), first);
        if lsns.is_empty() {
            return Ok(false);
        }
        let Run { end_offset, frames_end, .. } = nothing_of(scan, self.block);
        let what = "the frames behind the seal are damaged with it";
        let gap = Gap { offset: u64::from(self.block), lsns, what, next: scan.prefix };
        state.scan.gaps.insert(0, gap);
        state.scan.prefix = Run { end_offset, frames_end, ..before };
        Ok(true)
    }

    /// The frames that stood between the end of the segment before and the first one that is found behind a damaged seal.
    fn lost_with_seal(
        &self,
        state: &SegmentState<S::File>,
        newest: &Newest,
        found: &mut Findings<S::File>,
    ) -> Result<LsnRange> {
        let end = self.end_before(newest, state.scan.told(), found)?.last.max(self.control.trim.lsn);
        let by_frame = state.scan.first_data.map(Lsn::previous);
        let upto = by_frame.or(state.scan.told().map(|told| told.last));
        let lost = upto.map_or(LsnRange::NONE, |upto| LsnRange::inclusive(end.next(), upto.max(end)));
        Ok(if lost.is_empty() { LsnRange::NONE } else { lost })
    }

    /// Where the log ends before a segment whose own seal does not tell.
    fn end_before(&self, newest: &Newest, told: Option<Told>, found: &mut Findings<S::File>) -> Result<Run> {
        let Some((number, seal)) = newest else { return Ok(empty_run(&self.control)) };
        let state = self.examine(*number, found.segments[number], true, &mut found.bytes_scanned)?;
        self.believed_end(&state, told, self.was_cut_behind(Some(seal)))
    }

    /// The log was cut back in a segment above the newest one with a seal, or in any if none has one that can be read: there is no
    /// other seal left that tells where.
    fn was_cut_behind(&self, seal: Option<&Seal>) -> bool {
        self.control.truncation_count > seal.map_or(0, |seal| seal.truncation_count)
    }

    fn believed_end(&self, state: &SegmentState<S::File>, told: Option<Told>, was_cut: bool) -> Result<Run> {
        let name = FileName::Segment(state.number).to_string();
        let window = Window::new(self.storage, state.file.clone(), name, state.bytes);
        believed_end(window, (self.salt(state.number), self.block), &state.scan, told, was_cut)
    }

    /// True when what stands in a segment without a seal proves frames flushed that the segment before it does not
    /// hold: they stood here, and were lost with the seal.
    fn claims_beyond(&self, newest: &Newest, scan: &SegmentScan, found: &mut Findings<S::File>) -> Result<bool> {
        if scan.seal.is_some() || scan.claims <= self.control.trim.lsn {
            return Ok(false);
        }
        Ok(newest.is_none() || scan.claims > self.end_before(newest, scan.told(), found)?.last)
    }

    fn file(&self, number: SegmentNumber) -> Result<Arc<S::File>> {
        match self.held.get(&number) {
            Some(file) => Ok(file.clone()),
            None => open_segment(self.storage, number),
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

    pub(super) fn examine(
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
        let end = limit.min(bytes);
        let mut window = Window::new(self.storage, file.clone(), name, end).watched(|scanned| {
            if whole {
                let progress = RecoveryProgress { segment: number, scanned_bytes: scanned.min(end), file_bytes: end };
                events::recovery_progress(progress.scanned_bytes, end);
                (self.watch)(progress);
            }
        });
        let scan = scan_segment(&mut window, self.salt(number), self.block, end, self.config.index_stride_bytes)?;
        *scanned += window.bytes_read;
        // No segment continues itself or a later one.
        let seal = scan.seal.filter(|seal| seal.sealed_segment < number);
        let scan = SegmentScan { seal, ..scan };
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
        // A header is enough: what it is of may be longer than a block, and is not looked at.
        let end = (offset + u64::from(self.block)).min(bytes);
        let mut window = Window::new(self.storage, file, FileName::Segment(number).to_string(), end);
        let head = window.bytes(offset, HEADER_BYTES.min((end - offset) as usize))?;
        Ok(FrameHeader::decode(self.salt(number).at(offset), head).is_some())
    }
}

/// True for a prepared segment that says so, and in which nothing else was found.
fn is_blank<F>(state: &SegmentState<F>) -> bool {
    let is_prepared = state.header == HeaderState::Valid && state.bytes >= SEGMENT_BYTES_LEAST;
    is_prepared && state.scan.says_blank && state.scan.is_blank()
}
