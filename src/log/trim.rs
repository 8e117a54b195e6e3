//! Giving up a prefix (trim) and removing a suffix (truncate).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::catalog::{End, Located};
use super::commit::{DriverTurn, seal_after};
use super::reader::FoundFrame;
use super::recovery::read_control;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::segment::{Seal, TrimPoint, frame_bytes};
use crate::sync::{now, sleep};
use crate::types::{Lsn, SegmentNumber};

impl<S: Storage> Shared<S> {
    pub(super) fn trimmed(&self) -> Lsn {
        Lsn::new(self.trimmed.load(Ordering::Acquire))
    }

    /// Learns what the writer has given up since, in a log that was opened read-only: what was read of that meanwhile
    /// says nothing about the log. True when there was something to learn.
    pub(super) fn look_for_trim(&self) -> bool {
        if !matches!(self.refusal, Some(Error::ReadOnly)) {
            return false;
        }
        let Ok(Some(newer)) = read_control(&self.storage, true) else { return false };
        {
            let mut control = self.control.lock();
            if newer.log != control.log || newer.trim.lsn <= control.trim.lsn {
                return false;
            }
            control.trim = newer.trim;
        }
        {
            // What was trimmed had been flushed: no position is behind another at any moment.
            let mut pipe = self.pipe.lock();
            pipe.pass_to(&newer.trim);
            self.publish(&pipe);
        }
        self.trimmed.fetch_max(newer.trim.lsn.get(), Ordering::AcqRel);
        self.catalog.remove_before(newer.trim.first_segment);
        true
    }

    /// Gives up everything up to and including `upto`. Segments that hold nothing else are recycled or removed.
    pub(super) fn trim(&self, upto: Lsn) -> Result<()> {
        // Before the lock, which in a fork's child may be held by nobody.
        self.check_usable()?;
        let _turn = self.cutting.lock();
        self.trim_in_turn(upto)
    }

    /// Like [`Self::trim`], for background work: it is not done while a truncation is under way, which may wait for
    /// that very work. What is to go is asked for in the turn: before it, a truncation could give the numbers to others.
    pub(super) fn trim_if_free(&self, upto: impl FnOnce() -> Option<Lsn>) -> bool {
        if self.check_usable().is_err() {
            return false;
        }
        let Some(_turn) = self.cutting.try_lock() else { return false };
        upto().is_some_and(|upto| self.trim_in_turn(upto).is_ok())
    }

    fn trim_in_turn(&self, upto: Lsn) -> Result<()> {
        let trimmed = self.trimmed();
        if upto < trimmed {
            return Ok(());
        }
        // Both at one moment: a segment that is begun later holds frames that are not given up.
        let (flushed, head) = {
            let pipe = self.pipe.lock();
            // Before anything was written there is what this open continues, flushed as a whole.
            let mut heads = [pipe.flushed_at().0, pipe.predecessor.0].into_iter();
            (pipe.flushed().0, heads.find(|head| *head != SegmentNumber::NONE))
        };
        if upto > flushed {
            return Err(Error::BeyondEnd { requested: upto, flushed });
        }
        let next = if upto == flushed { None } else { self.catalog.locate(&self.storage, upto.next()).ok() };
        let first_segment = if upto == flushed { head } else { next.as_ref().map(|it| it.number) };
        let known = self.control.lock().trim;
        // The same again: only what was in use then may have come to be needed by nobody.
        if upto == trimmed && first_segment.is_none_or(|first| first <= known.first_segment) {
            return Ok(());
        }
        // The chain at the trim point is what a member that lags behind it starts from. Between two segments the seal
        // states it; mapping the old one to look for its last frame cost a burst of reads, and the append beside it
        // 7 ms. Damage there must not keep the log from being trimmed.
        let chain = match next.filter(|next| next.start == upto.next()).and_then(|next| next.chain_before) {
            _ if upto == trimmed => known.chain,
            Some(chain) => chain,
            None => self.find_frame(upto).map(|frame| frame.header.chain).unwrap_or_default(),
        };
        self.update_control(|control| {
            let first_segment = first_segment.unwrap_or(control.trim.first_segment).max(control.trim.first_segment);
            control.trim = TrimPoint { lsn: upto, chain, first_segment };
            control.quarantined.retain(|range| range.lsns.end > upto.next());
        })?;
        if let Some(first) = first_segment {
            let removed = self.catalog.remove_before(first);
            self.dispose(removed);
        }
        Ok(())
    }

    /// Removes every frame above `end`: a new segment starts whose seal says so. Returns the truncation count.
    pub(super) fn truncate(&self, end: Lsn) -> Result<u64> {
        // Before the lock, as for a trim.
        self.check_usable()?;
        loop {
            let turn = self.cutting.lock();
            let trimmed = self.trimmed();
            if end < trimmed {
                return Err(Error::Trimmed { requested: end, first: trimmed.next() });
            }
            if let Some(_pause) = Pause::begin(self) {
                return self.truncate_paused(end);
            }
            // A batch is being placed: none is cut in the middle. It may wait for room that a trim has to make.
            drop(turn);
            self.storage.watch_over();
            sleep(Duration::from_millis(1));
        }
    }

    fn truncate_paused(&self, end: Lsn) -> Result<u64> {
        self.drain(None)?;
        let flushed = self.flushed();
        if end > flushed {
            return Err(Error::BeyondEnd { requested: end, flushed });
        }
        if end == flushed {
            return Ok(self.control.lock().truncation_count);
        }
        let cut = self.cut_at(end)?;
        loop {
            {
                let pipe = self.pipe.lock();
                if let Some(error) = self.gone(&pipe) {
                    return Err(error);
                }
                if pipe.next_spare().is_some() {
                    break;
                }
            }
            if let Some(full) = self.want_segment(0)? {
                return Err(full);
            }
            self.storage.watch_over();
            sleep(Duration::from_millis(1));
        }
        let count = self.control.lock().truncation_count + 1;
        let (old, new, new_file, new_bytes, seal, group) = {
            let mut pipe = self.pipe.lock();
            if let Some(error) = self.gone(&pipe) {
                return Err(error);
            }
            let spare = pipe.take_spare().ok_or(Error::Full { reason: "no prepared segment".into() })?;
            let mut seal = seal_after(&pipe, &self.facts.lock(), &spare);
            seal.sealed_segment = cut.segment;
            seal.sealed_end_offset = cut.end.offset;
            seal.end = end;
            seal.end_chain = cut.chain;
            seal.end_time_micros = cut.end.time_micros;
            seal.truncation_count = count;
            let (new, new_file, new_bytes) = (spare.number, spare.file.clone(), spare.bytes);
            let now = now();
            let old = pipe.cut_back(end, cut.chain, cut.end.time_micros, spare, seal, now);
            let DriverTurn::Submit(group) = pipe.take_for_driver(now, true) else {
                unreachable!("the pipeline was idle and holds a seal")
            };
            self.note_cut(pipe.era, end);
            self.truncations.fetch_add(1, Ordering::AcqRel);
            self.publish(&pipe);
            (old, new, new_file, new_bytes, seal, group)
        };
        // Nobody needs to be woken for the frames that are no more: they were flushed first, and that has.
        self.lead(group);
        self.check_poison()?;
        // The seal is flushed: what lies between is debris now, whatever happens next.
        let removed = self.catalog.remove_after(cut.segment);
        let (file, index) = match old {
            Some(mut old) if old.number == cut.segment => {
                old.index.truncate(end);
                (Some(old.file.clone()), Some(Arc::new(old.index)))
            }
            _ => (None, None),
        };
        if file.is_some() {
            self.note_sealed(cut.segment);
        }
        self.catalog.seal(cut.segment, file, cut.end, index);
        self.catalog.add_active(new, new_file, new_bytes, seal);
        // A reader that has opened a window since the first change may stand in a segment that is no more.
        self.truncations.fetch_add(1, Ordering::AcqRel);
        // Behind whatever background work the segment still has: what is settled is not written any more.
        let settled = cut.segment;
        self.spawn(move |shared| shared.catalog.settle(&shared.storage, settled));
        // Never recycled: a truncated segment's bytes may still be mapped, and its number is skipped for good.
        let removed = removed.into_iter().map(|segment| (segment.number, segment.bytes));
        self.remove_debris(removed).inspect_err(|error| self.abandon(error.clone()))?;
        self.update_control(|control| {
            control.truncation_count = count;
            control.cut_quarantined(end);
            // Kept by an open that had no room, it would vouch for what is cut now.
            control.clean_close = None;
        })?;
        self.keep_spares();
        Ok(count)
    }

    /// Where a truncation to `end` cuts.
    fn cut_at(&self, end: Lsn) -> Result<Cut> {
        let trim = self.control.lock().trim;
        // At the trim point everything that is left goes, and the frame there may be gone, with its segment.
        let next = (end == trim.lsn).then(|| self.catalog.locate(&self.storage, end.next()).ok()).flatten();
        let behind_seal = |next: &Located<S::File>, chain| {
            let offset = u64::from(self.catalog.block_bytes) + frame_bytes(Seal::PAYLOAD_BYTES);
            Cut { segment: next.number, end: End { last: end, offset, time_micros: 0 }, chain }
        };
        match next {
            Some(next) if next.start == end.next() => {
                let chain = next.chain_before.unwrap_or(trim.chain);
                Ok(behind_seal(&next, chain))
            }
            next => match (self.find_frame(end), next) {
                (Ok(FoundFrame { header, segment, offset }), _) => {
                    let end = End { last: end, offset: offset + header.frame_bytes(), time_micros: header.time_micros };
                    Ok(Cut { segment, end, chain: header.chain })
                }
                // Nobody needs the frames of its segment up to the trim point.
                (Err(_), Some(next)) => Ok(behind_seal(&next, trim.chain)),
                (Err(error), None) => Err(error),
            },
        }
    }
}

/// Nothing is appended, and no marker written, while it lives.
struct Pause<'a, S: Storage>(&'a Shared<S>);

impl<'a, S: Storage> Pause<'a, S> {
    /// `None` while a batch is being placed.
    fn begin(shared: &'a Shared<S>) -> Option<Pause<'a, S>> {
        let mut pipe = shared.pipe.lock();
        if pipe.batching {
            return None;
        }
        pipe.paused = true;
        Some(Pause(shared))
    }
}

impl<S: Storage> Drop for Pause<'_, S> {
    fn drop(&mut self) {
        self.0.pipe.lock().paused = false;
        self.0.announce_room();
        self.0.announce_news();
        // The driver may have wanted to prove what is flushed, and sleeps since. Last: it may be a foreign waker's turn.
        self.0.storage.kick();
    }
}

struct Cut {
    segment: SegmentNumber,
    end: End,
    chain: crate::codec::Chain,
}
