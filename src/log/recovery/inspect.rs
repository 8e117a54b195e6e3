//! Looks at a directory and says what is there. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::control::{look_at_control, rebuild_control};
use super::files::{open_segment, read_header, read_seal};
use super::plan::Verdict;
use super::scan::{Run, SegmentScan};
use crate::config::{Config, RecoveryMode};
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::log::commit::Spare;
use crate::segment::{Control, FileName, Salt, Seal, SegmentHeader};
use crate::types::{Lsn, LsnRange, SegmentNumber};

/// How far the scan of an unsealed segment has come: the one part of opening whose time depends on anything, namely on
/// the length of that segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// The segment being scanned.
    pub segment: SegmentNumber,
    /// Bytes of it that were read.
    pub scanned_bytes: u64,
    /// Bytes of it in all.
    pub file_bytes: u64,
}

/// Whoever wants to know.
pub(crate) type Watch<'a> = &'a dyn Fn(RecoveryProgress);

/// No log is opened of which more than this is gone in one place: a number that counts so far was made up.
const GONE_MAX: usize = 1 << 16;

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
    /// One slot of the control file is not what was written there.
    pub(crate) control_slot_lost: bool,
    /// Segments in use and their file lengths, oldest first, the active one included.
    pub(crate) segments: BTreeMap<SegmentNumber, u64>,
    /// Sealed segments that ought to be there.
    pub(crate) missing: BTreeSet<SegmentNumber>,
    /// The newest segment with anything in it.
    pub(crate) active: Option<SegmentState<F>>,
    /// Where the log ends, by what is in there, and what is lost.
    pub(crate) verdict: Verdict,
    /// The log was closed cleanly and nothing came after.
    pub(crate) clean: bool,
    pub(crate) spares: Vec<Spare<F>>,
    /// The prepared segment below all spares, whose first group is not whole: nothing of it counts. Blank again once
    /// what stands in it is wiped: up to this offset.
    pub(crate) stale: Option<(Spare<F>, u64)>,
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
pub(crate) fn look<S: Storage>(storage: &S, config: &Config, watch: Watch<'_>) -> Result<Option<Findings<S::File>>> {
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
            Some(FileName::Lock) | None => {}
        }
    }
    if !control_there && files.is_empty() {
        return Ok(None);
    }
    let looked = look_at_control(storage, control_there)?;
    let control_slot_lost = looked.as_ref().is_some_and(|(_, is_lost)| *is_lost);
    let (control, control_rebuilt) = match looked {
        Some((control, _)) => (control, false),
        None if config.recovery == RecoveryMode::Quarantine => (rebuild_control(storage, &files)?, true),
        None => {
            let what = "is missing or damaged in both slots, but there are segments; open with Quarantine (or `seawall \
                        repair --quarantine`) to rebuild it from them";
            return Err(Error::control(storage.describe(), what));
        }
    };
    let look = Look { storage, config, block: control.block_bytes, control, held: BTreeMap::new(), watch };
    let found = look.run(&files, leftovers, control_rebuilt)?;
    Ok(Some(Findings { control_slot_lost, ..found }))
}

/// Looks without being the writer: one may be at work, who takes segments away, uses them again and writes on behind the
/// place that is being read. What such a look finds wrong is believed when the next one finds the same.
pub(crate) fn look_beside_a_writer<S: Storage>(
    storage: &S,
    config: &Config,
    watch: Watch<'_>,
) -> Result<Option<Findings<S::File>>> {
    let complaint = |looked: &Result<Option<Findings<S::File>>>| match looked {
        Ok(Some(found)) if found.damage.is_empty() && found.missing.is_empty() && !found.control_slot_lost => None,
        Ok(Some(found)) => Some(format!("{:?} {:?} {}", found.damage, found.missing, found.control_slot_lost)),
        Ok(None) => None,
        Err(error) => Some(error.to_string()),
    };
    let mut looked = look(storage, config, watch);
    for _ in 0..LOOKS_MAX {
        let Some(before) = complaint(&looked) else { break };
        looked = look(storage, config, watch);
        if complaint(&looked).as_ref() == Some(&before) {
            break;
        }
    }
    looked
}

/// A look under way: `Findings` grow from step to step.
pub(super) struct Look<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) config: &'a Config,
    pub(super) block: u32,
    pub(super) control: Control,
    /// Files that a dead writer may still have had writes in flight to: claimed, so that none is any more.
    pub(super) held: BTreeMap<SegmentNumber, Arc<S::File>>,
    pub(super) watch: Watch<'a>,
}

/// The highest segment with a valid seal: the log's end is in it, or in the segment above if that one's seal rotted.
pub(super) type Newest = Option<(SegmentNumber, Seal)>;

/// What is gone from the log's end without a trace of what it held.
#[derive(Default)]
pub(super) struct Gone {
    /// Segments above the active one of which nobody can tell any more what they held.
    pub(super) segments: BTreeSet<SegmentNumber>,
    /// Bytes that were cut from the active segment's file.
    pub(super) bytes: u64,
    /// Frames that were found in segments without a seal, and do not count.
    pub(super) dropped: Option<LsnRange>,
    /// What such segments claim to be flushed: it was, whatever became of their seals.
    pub(super) claims: Lsn,
    /// Numbers up to here were given to frames that may count or not.
    pub(super) numbers_to: Lsn,
    /// The lowest prepared segment above the active one that says itself that nothing was written into it.
    pub(super) blank_from: Option<SegmentNumber>,
}

impl Gone {
    /// How many of the segments that are gone may have held anything: a segment is begun only when the one before it is flushed, so
    /// behind a blank one there was nothing. One that only looks so may have lost what it held.
    pub(super) fn may_have_held(&self) -> u64 {
        self.segments.range(..self.nothing_from()).count() as u64
    }

    /// The highest of them.
    pub(super) fn held_until(&self) -> SegmentNumber {
        self.segments.range(..self.nothing_from()).next_back().copied().unwrap_or(SegmentNumber::NONE)
    }

    /// Nothing was ever written into a segment from this one on.
    pub(super) fn nothing_from(&self) -> SegmentNumber {
        self.blank_from.unwrap_or(SegmentNumber::new(u64::MAX))
    }
}

impl<S: Storage> Look<'_, S> {
    pub(super) fn salt(&self, number: SegmentNumber) -> Salt {
        Salt::new(self.control.log, self.control.incarnation, number)
    }

    fn run(
        mut self,
        files: &BTreeMap<SegmentNumber, u64>,
        leftovers: Vec<String>,
        control_rebuilt: bool,
    ) -> Result<Findings<S::File>> {
        let mut found = Findings {
            control: self.control.clone(),
            control_rebuilt,
            control_slot_lost: false,
            segments: BTreeMap::new(),
            missing: BTreeSet::new(),
            active: None,
            verdict: Verdict::clean(empty_run(&self.control)),
            clean: false,
            spares: Vec::new(),
            stale: None,
            debris: Vec::new(),
            leftovers,
            taken: BTreeSet::new(),
            damage: Vec::new(),
            bytes_scanned: 0,
        };
        self.sort_files(files, &mut found)?;
        self.settle_in_flight(&found.segments)?;
        let newest = self.newest_sealed(&found.segments)?;
        self.refuse_an_older_control(&newest)?;
        let closed = self.control.clean_close;
        found.clean = match (closed, &newest) {
            // Cut below the place of the close, its frames are looked for one by one.
            (Some(at), Some((number, _))) => at.segment == *number && found.segments[number] >= at.end_offset,
            _ => false,
        };
        let mut gone = Gone::default();
        let without_seal = self.look_above(&newest, &mut found, &mut gone)?;
        found.clean &= without_seal.is_none();
        let mut active = match (without_seal, newest) {
            (Some(state), _) => Some(state),
            (None, Some((number, _))) => Some(self.look_at_newest(number, &mut found)?),
            (None, None) => None,
        };
        if control_rebuilt && let Some(state) = &active {
            // A seal that is only found may be gone at the next open: what it counts is entered when it is flushed. What was
            // begun behind one proves it.
            let proven = state.scan.seal.filter(|_| state.scan.is_seal_proven());
            let proven = proven.or(newest.map(|(_, seal)| seal).filter(|_| state.scan.seal.is_none()));
            self.control.truncation_count = proven.map_or(0, |seal| seal.truncation_count);
        }
        let behind_active = active.as_ref().map_or(self.control.trim.first_segment, |state| state.number.next());
        let missing_above = self.missing_above(behind_active, &found, &mut gone)?;
        let mut verdict = match &mut active {
            Some(state) => {
                let verdict = self.judge_active(state, &newest, &mut found, &mut gone)?;
                self.account_below(state, &mut found)?;
                verdict
            }
            None => self.judge_nothing(&mut found, &gone),
        };
        let lsns = LsnRange::new(verdict.end.last.next(), Lsn::MAX);
        found.damage.extend(missing_above.into_iter().map(|segment| Error::Missing { segment, lsns }));
        if self.config.recovery == RecoveryMode::Quarantine {
            self.give_up(&gone, &mut verdict);
        }
        (found.active, found.verdict) = (active, verdict);
        found.control = self.control;
        Ok(found)
    }

    /// Which files are segments of this log, in use or prepared; which are remains of work that did not end; which are
    /// somebody else's.
    fn sort_files(&self, files: &BTreeMap<SegmentNumber, u64>, found: &mut Findings<S::File>) -> Result<()> {
        let first = self.control.trim.first_segment;
        for (&number, &bytes) in files {
            if self.control.passed_over.contains(&number) {
                found.taken.insert(number);
                continue;
            }
            if number >= first && number <= self.control.highest_segment {
                found.segments.insert(number, bytes);
                continue;
            }
            let file = open_segment(self.storage, number)?;
            let header = read_header(self.storage, &file, number)?;
            let is_ours = |h: &SegmentHeader| h.log == self.control.log && h.incarnation == self.control.incarnation;
            let belongs = header.is_ok_and(|h| is_ours(&h));
            if number < first {
                // Trimmed, or recycled and not yet renamed. What is not ours is left alone.
                if belongs {
                    found.leftovers.push(FileName::Segment(number).to_string());
                }
                continue;
            }
            // Above the highest segment that was ever made usable: a preparation that did not end, or an old control.
            // A copy of one of our segments is somebody's backup.
            let belongs = belongs && header.is_ok_and(|h| h.number == number);
            // A preparation holds nothing yet, whether its header and its seal can be read or not.
            if (belongs || header.is_err())
                && !self.examine(number, bytes, true, &mut found.bytes_scanned)?.scan.is_blank()
            {
                return Err(self.older_control());
            }
            if belongs {
                found.leftovers.push(FileName::Segment(number).to_string());
            } else {
                found.taken.insert(number);
            }
        }
        Ok(())
    }

    /// A control file that was copied back from earlier would give away what was written since.
    fn refuse_an_older_control(&mut self, newest: &Newest) -> Result<()> {
        let Some((number, seal)) = newest else { return Ok(()) };
        if seal.control_generation > self.control.generation {
            return Err(self.older_control());
        }
        // An open that set things aside by a close, and ended before it could enter that it is history. It wrote this control
        // before that seal: no open of a closed log writes one without having counted itself.
        if self.control.clean_close.is_some_and(|at| at.segment < *number) {
            self.control.clean_close = None;
        }
        Ok(())
    }

    pub(super) fn older_control(&self) -> Error {
        let what = "is older than the segments beside it (restored from a copy?); restore the whole directory from one \
                    point in time, or remove the control file and repair with --quarantine to rebuild it";
        Error::control(self.storage.describe(), what)
    }

    fn too_many_gone(&self) -> Error {
        let what = "counts tens of thousands of segments that are not there; restore the whole directory from one point in \
                    time";
        Error::control(self.storage.describe(), what)
    }

    /// Numbers below the active one: what a suffix truncation left is debris; a gap no seal explains is damage.
    fn account_below(&self, active: &SegmentState<S::File>, found: &mut Findings<S::File>) -> Result<()> {
        let top = active.number;
        if let Some(seal) = &active.scan.seal {
            let below: Vec<SegmentNumber> =
                found.segments.range(seal.sealed_segment.next()..top).map(|(number, _)| *number).collect();
            for number in below {
                found.segments.remove(&number);
                found.debris.push(number);
            }
        }
        let mut expected = self.control.trim.first_segment;
        for (&number, &bytes) in found.segments.range(..=top) {
            if number != expected {
                let file = open_segment(self.storage, number)?;
                let seal = read_seal(self.storage, &file, number, bytes, self.salt(number), self.block)?;
                // The seal names its predecessor: what lies between them was truncated, what lies before is missing.
                let until = seal.map_or(number, |seal| seal.sealed_segment.next()).max(expected).min(number);
                if until.get() - expected.get() > GONE_MAX as u64 {
                    return Err(self.too_many_gone());
                }
                found.missing.extend((expected.get()..until.get()).map(SegmentNumber::new));
            }
            expected = number.next();
        }
        Ok(())
    }

    /// Numbers above the active one, or all, of which there is no file: each was prepared, and may have been begun.
    fn missing_above(
        &self,
        from: SegmentNumber,
        found: &Findings<S::File>,
        gone: &mut Gone,
    ) -> Result<Vec<SegmentNumber>> {
        let mut missing = Vec::new();
        let spares: BTreeSet<SegmentNumber> =
            found.spares.iter().chain(found.stale.as_ref().map(|(spare, _)| spare)).map(|spare| spare.number).collect();
        for n in from.get()..=self.control.highest_segment.get() {
            let number = SegmentNumber::new(n);
            let known = self.control.passed_over.contains(&number)
                || spares.contains(&number)
                || found.debris.contains(&number)
                || found.taken.contains(&number);
            if !known && gone.segments.len() >= GONE_MAX {
                return Err(self.too_many_gone());
            }
            if !known {
                missing.push(number);
                gone.segments.insert(number);
            }
        }
        Ok(missing)
    }
}

/// Where a log without any segment in use starts.
pub(crate) fn empty_run(control: &Control) -> Run {
    Run { last: control.trim.lsn, chain: control.trim.chain, time_micros: 0, end_offset: 0, frames_end: 0 }
}
