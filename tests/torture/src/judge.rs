//! The oracle: what was told, against what is found.
//!
//! - what was acknowledged is there;
//! - what is there is, to the byte and without a gap, what was appended, in its order;
//! - what an open has found never disappears;
//! - what was trimmed, truncated or lost once never comes back.

use std::collections::BTreeMap;

use seawall::{Log, Recovery};

use super::victim::{Identity, Told};

/// What is known of a log.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Frames that must be there: acknowledged, or seen.
    held: BTreeMap<u64, Identity>,
    /// Given up for certain.
    trimmed: u64,
    /// Given up perhaps: asked for, and not answered.
    trims: Vec<u64>,
    truncating: Option<u64>,
    /// The lowest end of a truncation that may have happened, with others appended behind it since.
    perhaps_cut: Option<u64>,
    /// Behind this frame, only what is newer than this: (frame, life, era).
    cuts: Vec<(u64, (u64, u32))>,
    /// The newest record that was heard of.
    newest: (u64, u32),
    /// What was told and cannot be.
    contradiction: Option<String>,
    pub(crate) acknowledged: u64,
}

impl Oracle {
    /// Takes note of what a victim told, in its order.
    pub(crate) fn hear(&mut self, told: Told) {
        match told {
            Told::Opened(end) => {
                if let Some((&last, _)) = self.held.last_key_value()
                    && last > end
                    && self.truncating.is_none_or(|cut| cut != end)
                    && self.perhaps_cut.is_none()
                {
                    self.contradiction = Some(format!("frame {last} was acknowledged, the log opened at {end}"));
                }
                self.settle_truncation(end);
            }
            Told::Acknowledged(lsn, identity) => {
                self.acknowledged += 1;
                self.newest = self.newest.max((identity.life, identity.era));
                if let Some(before) = self.held.insert(lsn, identity).filter(|before| *before != identity) {
                    self.contradiction =
                        Some(format!("frame {lsn} was acknowledged as {before:?} and as {identity:?}"));
                }
            }
            Told::Trimming(lsn) => self.trims.push(lsn),
            Told::Trimmed(lsn) => self.trim(lsn),
            Told::Truncating(end) => self.truncating = Some(end),
            Told::Truncated(end) => self.cut(end),
        }
    }

    /// Takes note of what was told when it was too late to count: it may have happened, or not.
    pub(crate) fn hear_perhaps(&mut self, told: Told) {
        match told {
            Told::Trimming(lsn) => self.trims.push(lsn),
            // Also one that counted as begun: it may have ended, and others may have been appended behind it.
            Told::Truncating(end) | Told::Truncated(end) => {
                self.perhaps_cut = Some(self.perhaps_cut.map_or(end, |before| before.min(end)));
            }
            Told::Acknowledged(_, identity) => self.newest = self.newest.max((identity.life, identity.era)),
            Told::Opened(_) | Told::Trimmed(_) => {}
        }
    }

    fn trim(&mut self, lsn: u64) {
        self.trimmed = lsn;
        self.trims.clear();
        self.held = self.held.split_off(&(lsn + 1));
    }

    fn cut(&mut self, end: u64) {
        self.truncating = None;
        self.held.split_off(&(end + 1));
        self.forbid(end, self.newest);
    }

    /// Behind `end`, nothing that is not newer than this may ever be found again.
    fn forbid(&mut self, end: u64, newest: (u64, u32)) {
        self.cuts.retain(|(at, _)| *at < end);
        self.cuts.push((end, newest));
    }

    /// A truncation that was under way when its process ended has happened, or has not.
    fn settle_truncation(&mut self, end: u64) {
        match self.truncating.take() {
            Some(cut) if cut == end => self.cut(end),
            _ => {}
        }
    }

    /// Judges a log that was opened for appending, in the life after `life`. What it holds is from now on seen.
    pub(crate) fn judge(&mut self, log: &Log, recovery: &Recovery, life: u64) -> Result<(), String> {
        if let Some(what) = self.contradiction.take() {
            return Err(what);
        }
        if !recovery.damage.is_empty()
            || !recovery.missing_segments.is_empty()
            || !recovery.quarantined.is_empty()
            || recovery.control_rebuilt
        {
            return Err(format!("damage: {recovery:?}"));
        }
        let end = recovery.end.get();
        self.settle_truncation(end);
        let trimmed = log.first().get() - 1;
        if trimmed != self.trimmed && !self.trims.contains(&trimmed) {
            return Err(format!("trimmed up to {trimmed}, told were {}, perhaps {:?}", self.trimmed, self.trims));
        }
        self.trim(trimmed);
        let found = self.read(log)?;
        let last = found.last_key_value().map_or(trimmed, |(lsn, _)| *lsn);
        if last != end {
            return Err(format!("the log ends at {end}, reading at {last}"));
        }
        let certain = self.perhaps_cut.take().unwrap_or(u64::MAX);
        for (lsn, identity) in self.held.range(..=certain) {
            match found.get(lsn) {
                Some(there) if there == identity => {}
                Some(there) => return Err(format!("frame {lsn} was {identity:?}, and is {there:?}")),
                None => return Err(format!("frame {lsn}, {identity:?}, is gone; the log ends at {end}: {recovery:?}")),
            }
        }
        self.held = found;
        // What was not found now can never come back.
        self.forbid(end, (life, u32::MAX));
        Ok(())
    }

    /// Everything in the log, in an order that can have been.
    fn read(&self, log: &Log) -> Result<BTreeMap<u64, Identity>, String> {
        let mut found = BTreeMap::new();
        let mut newest = (0, 0);
        let mut counters: BTreeMap<(u64, u32, u32), u64> = BTreeMap::new();
        let first = log.first().get();
        for read in log.reader(log.first()) {
            let frame = read.map_err(|error| format!("reading: {error}"))?;
            let lsn = frame.lsn.get();
            if lsn != first + found.len() as u64 {
                return Err(format!("frame {lsn} follows {} frames from {first}", found.len()));
            }
            let Some(id) = Identity::of(&frame.payload) else {
                return Err(format!("frame {lsn} is no record of ours"));
            };
            let epoch = (id.life, id.era);
            if epoch < newest {
                return Err(format!("frame {lsn}, {id:?}, stands behind one of {newest:?}"));
            }
            newest = epoch;
            if let Some((cut, _)) = self.cuts.iter().find(|(cut, gone)| lsn > *cut && epoch <= *gone) {
                return Err(format!("frame {lsn}, {id:?}, came back: the log ended at {cut} once"));
            }
            let counter = counters.insert((id.life, id.era, id.thread), id.counter);
            // The first of a thread may follow others that were trimmed.
            if counter.is_some_and(|before| before + 1 != id.counter)
                || (counter.is_none() && first == 1 && id.counter > 0)
            {
                return Err(format!("frame {lsn}, {id:?}, follows {counter:?} of its thread"));
            }
            found.insert(lsn, id);
        }
        Ok(found)
    }
}
