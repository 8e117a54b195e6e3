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
#[derive(Clone, Default)]
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
                let last = self.held.last_key_value().map_or(0, |(last, _)| *last);
                if last > end && self.truncating != Some(end) {
                    if self.perhaps_cut.is_some_and(|cut| cut <= end) {
                        // The truncation that may have happened has: what it took may be given again from now on.
                        self.held.split_off(&(end + 1));
                    } else {
                        self.contradiction = Some(format!("frame {last} was acknowledged, the log opened at {end}"));
                    }
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
            // One that was under way in the life before may have happened, and others been appended behind it.
            Told::Opened(_) => {
                if let Some(end) = self.truncating {
                    self.perhaps_cut = Some(self.perhaps_cut.map_or(end, |before| before.min(end)));
                }
            }
            Told::Trimmed(_) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64) -> Identity {
        Identity { life: 1, era: 0, thread: 0, counter }
    }

    /// A log of these records, judged by an oracle that was told this.
    fn judged(records: &[Identity], trim: u64, told: &[Told]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), seawall::Config::default()).unwrap();
        for record in records {
            log.append(&record.payload()).unwrap().wait().unwrap();
        }
        log.trim(seawall::Lsn::new(trim)).unwrap();
        log.close(std::time::Duration::from_secs(5)).unwrap();
        let (log, recovery) = Log::open(dir.path(), seawall::Config::default()).unwrap();
        let mut oracle = Oracle::default();
        told.iter().for_each(|told| oracle.hear(*told));
        oracle.judge(&log, &recovery, 1)
    }

    fn all(count: u64) -> Vec<Identity> {
        (0..count).map(id).collect()
    }

    fn acks(count: u64) -> Vec<Told> {
        (0..count).map(|i| Told::Acknowledged(i + 1, id(i))).collect()
    }

    #[test]
    fn what_is_as_it_was_told_passes() {
        judged(&all(5), 0, &acks(3)).unwrap();
        judged(&all(5), 2, &[&acks(5)[..], &[Told::Trimming(2)]].concat()).unwrap();
        judged(&all(5), 2, &[&acks(5)[..], &[Told::Trimming(2), Told::Trimmed(2)]].concat()).unwrap();
        judged(&all(3), 0, &[&acks(5)[..], &[Told::Truncating(3)]].concat()).unwrap();
        judged(&all(5), 0, &[&acks(5)[..], &[Told::Truncating(3)]].concat()).unwrap();
    }

    /// One thing wrong at a time.
    #[test]
    fn what_is_not_is_noticed() {
        let lost = judged(&all(4), 0, &acks(5)).unwrap_err();
        assert!(lost.contains("is gone"), "{lost}");
        let other = judged(&all(5), 0, &[Told::Acknowledged(2, id(7))]).unwrap_err();
        assert!(other.contains("was"), "{other}");
        let trimmed = judged(&all(5), 3, &[&acks(5)[..], &[Told::Trimming(2)]].concat()).unwrap_err();
        assert!(trimmed.contains("trimmed"), "{trimmed}");
        let untrimmed =
            judged(&all(5), 0, &[&acks(5)[..], &[Told::Trimming(2), Told::Trimmed(2)]].concat()).unwrap_err();
        assert!(untrimmed.contains("trimmed"), "{untrimmed}");
        let back =
            judged(&all(5), 0, &[&acks(5)[..], &[Told::Truncating(3), Told::Truncated(3)]].concat()).unwrap_err();
        assert!(back.contains("came back"), "{back}");
        let gap = judged(&[id(0), id(2)], 0, &[]).unwrap_err();
        assert!(gap.contains("follows"), "{gap}");
        let twice = judged(&all(2), 0, &[Told::Acknowledged(1, id(0)), Told::Acknowledged(1, id(1))]).unwrap_err();
        assert!(twice.contains("acknowledged as"), "{twice}");
        let older = [Identity { life: 2, ..id(0) }, id(0)];
        assert!(judged(&older, 0, &[]).unwrap_err().contains("stands behind"));
        let short = judged(&all(2), 0, &[&acks(4)[..], &[Told::Opened(2)]].concat()).unwrap_err();
        assert!(short.contains("opened at"), "{short}");
    }

    /// A truncation that was told too late to count: what it took may be given again, and nothing else.
    #[test]
    fn what_a_doubtful_truncation_took_may_be_given_again() {
        let other = Identity { life: 2, ..id(0) };
        let told = |opened, perhaps: &[Told]| {
            let mut oracle = Oracle::default();
            acks(5).into_iter().for_each(|told| oracle.hear(told));
            perhaps.iter().for_each(|told| oracle.hear_perhaps(*told));
            oracle.hear(Told::Opened(opened));
            oracle.hear(Told::Acknowledged(opened + 1, other));
            oracle.contradiction
        };
        assert_eq!(told(3, &[Told::Truncating(3)]), None);
        assert_eq!(told(4, &[Told::Truncating(3), Told::Truncated(3)]), None);
        assert!(told(2, &[Told::Truncating(3)]).is_some());
        assert!(told(3, &[]).is_some());
    }

    /// What an open has found must be there at the next, and what it has not must not.
    #[test]
    fn what_was_seen_stays_and_what_was_not_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut oracle = Oracle::default();
        let open = |oracle: &mut Oracle, life| {
            let (log, recovery) = Log::open(dir.path(), seawall::Config::default()).unwrap();
            oracle.judge(&log, &recovery, life).map(|()| log)
        };
        let log = open(&mut oracle, 1).unwrap();
        log.append(&id(0).payload()).unwrap().wait().unwrap();
        drop(log);
        // A record of the life that was judged to have left nothing behind its end.
        assert!(open(&mut oracle, 2).unwrap_err().contains("came back"));
        let mut oracle = Oracle::default();
        let log = open(&mut oracle, 2).unwrap();
        log.truncate(seawall::Lsn::ZERO).unwrap();
        drop(log);
        assert!(open(&mut oracle, 3).unwrap_err().contains("is gone"));
    }

    #[test]
    fn a_record_says_what_it_is_to_the_last_byte() {
        for counter in 0..200 {
            let mut payload = id(counter).payload();
            assert_eq!(Identity::of(&payload), Some(id(counter)));
            let last = payload.len() - 1;
            payload[last] ^= 1;
            assert_eq!(Identity::of(&payload), None);
            payload.truncate(last);
            assert_eq!(Identity::of(&payload), None);
        }
    }
}
