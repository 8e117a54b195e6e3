//! What a log may hold after a crash, and what it is found to hold.

use seawall::{Config, Error, Log, Lsn, Recovery, RecoveryMode};

use super::super::sim::{KillChoice, OpNumber, SimDisk, fingerprint, mix};
use super::{Event, SimLog, Story};

/// What a log may hold after a crash: one of two histories, while a truncation is under way.
#[derive(Clone)]
pub struct Allowed {
    histories: Vec<History>,
    /// Given up for certain, and perhaps.
    trimmed: (u64, u64),
}

#[derive(Clone)]
struct History {
    /// Fingerprints of the records, frame 1 first.
    submitted: Vec<u64>,
    acknowledged: u64,
}

/// What an open found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    trimmed: u64,
    /// Fingerprints of the frames from 1 on; 0 for trimmed and lost ones.
    frames: Vec<u64>,
    /// What recovery told, for messages.
    told: String,
}

impl Found {
    /// The last frame.
    pub fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Equal for states in which the same frames were found.
    pub fn fingerprint(&self) -> u64 {
        self.frames.iter().fold(mix(self.trimmed, self.frames.len() as u64), |all, frame| mix(all, *frame))
    }
}

impl Allowed {
    pub fn at_first() -> Allowed {
        Allowed { histories: vec![History { submitted: Vec::new(), acknowledged: 0 }], trimmed: (0, 0) }
    }

    pub(super) fn goes_on(&mut self, event: &Event) {
        let cut = |history: &History, end: u64| {
            let mut cut = history.clone();
            cut.submitted.truncate(end as usize);
            cut.acknowledged = cut.acknowledged.min(end);
            cut
        };
        let histories = &mut self.histories;
        match event {
            Event::Submitted(record) => histories[0].submitted.push(*record),
            Event::Acknowledged(lsn) => histories[0].acknowledged = *lsn,
            Event::Trimming(lsn) => self.trimmed.1 = *lsn,
            Event::Trimmed(lsn) => self.trimmed = (*lsn, *lsn),
            Event::Truncating(end) => histories.push(cut(&histories[0], *end)),
            Event::Truncated(_) => drop(histories.remove(0)),
            Event::Recovered(end) => {
                let last = histories.last().expect("never empty");
                *histories = vec![History { acknowledged: *end, ..cut(last, *end) }];
            }
        }
    }

    fn allows(&self, found: &Found, story: &Story) -> Result<(), String> {
        let trimmed = found.trimmed;
        if trimmed != self.trimmed.0 && trimmed != self.trimmed.1 {
            return Err(format!("trimmed up to {trimmed}, not {:?}", self.trimmed));
        }
        let is_prefix = |history: &History| {
            let same = |(at, (found, submitted)): (usize, (&u64, &u64))| {
                let lost = || story.lost.iter().any(|range| range.contains(Lsn::new(at as u64 + 1)));
                found == submitted || (at as u64) < trimmed || lost()
            };
            found.frames.len() <= history.submitted.len()
                && found.frames.iter().zip(&history.submitted).enumerate().all(same)
        };
        let count = found.frames.len();
        if self.histories.iter().any(|history| is_prefix(history) && count as u64 >= history.acknowledged) {
            return Ok(());
        }
        let told: Vec<_> = self.histories.iter().map(|h| (h.submitted.len(), h.acknowledged)).collect();
        let prefix: Vec<bool> = self.histories.iter().map(is_prefix).collect();
        let recovery = &found.told;
        Err(format!("{count} frames found, (submitted, acknowledged) {told:?}, prefix {prefix:?}: {recovery}"))
    }
}

impl Story {
    /// What may be found after a crash before operation `at`.
    pub fn allowed(&self, at: OpNumber) -> Allowed {
        let mut allowed = Allowed::at_first();
        self.events.iter().take_while(|(number, _)| *number < at).for_each(|(_, event)| allowed.goes_on(event));
        allowed
    }

    /// Whether that may be found.
    pub fn judge(&self, found: &Found, allowed: &Allowed) -> Result<(), String> {
        allowed.allows(found, self)
    }

    /// Opens what is left after a crash, for appending, and reads all of it.
    pub fn look(&self, disk: &SimDisk) -> Result<Found, String> {
        self.open_and_read(disk).map(|(_, found)| found)
    }

    pub(super) fn open_and_read(&self, disk: &SimDisk) -> Result<(SimLog, Found), String> {
        let opened = Log::open_on(disk.open(), self.config.clone());
        let (log, recovery) = opened.map_err(|error| format!("open: {error:?}"))?;
        self.accept(&recovery, &self.config)?;
        let found = Found {
            trimmed: log.first().get() - 1,
            frames: self.read(&log)?,
            told: format!("{:?} {:?}", recovery.end, recovery.dropped),
        };
        Ok((log, found))
    }

    /// Opens what is left after a crash, twice, with an append in between, and judges it.
    pub fn survives(&self, disk: &SimDisk, allowed: &Allowed) -> Result<Found, String> {
        let (log, mut found) = self.open_and_read(disk)?;
        self.judge(&found, allowed)?;
        disk.pump();
        if self.read(&log)? != found.frames {
            return Err("what was read changed when the jobs of the open had run".into());
        }
        let fresh = b"appended after the crash";
        let lsn = log.append(fresh).and_then(|pending| pending.wait()).map_err(|error| format!("append: {error:?}"))?;
        if lsn.get() != found.frames.len() as u64 + 1 {
            return Err(format!("the next frame is {lsn}, {} were found", found.frames.len()));
        }
        found.frames.push(fingerprint(fresh));
        drop(log);
        disk.kill(&KillChoice::Lost);
        let opened = Log::open_on(disk.open(), self.config.clone());
        let (log, recovery) = opened.map_err(|error| format!("again: {error:?}"))?;
        let again = self.read(&log)?;
        if again != found.frames || recovery.dropped.is_some() || log.first().get() - 1 != found.trimmed {
            let (again, before) = (again.len(), found.frames.len());
            return Err(format!("the second open found {again} frames after {before}: {recovery:?}"));
        }
        Ok(found)
    }

    /// The frames from 1 on; 0 for trimmed and lost ones.
    fn read(&self, log: &SimLog) -> Result<Vec<u64>, String> {
        let mut held = vec![0; log.first().get() as usize - 1];
        for read in log.reader(log.first()) {
            match read {
                Ok(frame) if frame.lsn.get() == held.len() as u64 + 1 => held.push(fingerprint(&frame.payload)),
                Ok(frame) => return Err(format!("frame {} after {}", frame.lsn, held.len())),
                Err(Error::Quarantined { lsns }) if self.lost.contains(&lsns) => {
                    held.resize(lsns.end.get() as usize - 1, 0);
                }
                Err(error) => return Err(format!("read: {error:?}")),
            }
        }
        Ok(held)
    }

    fn accept(&self, recovery: &Recovery, config: &Config) -> Result<(), String> {
        let strict = config.recovery == RecoveryMode::Strict;
        let is_damaged = strict && !recovery.damage.is_empty();
        if is_damaged || !recovery.missing_segments.is_empty() || recovery.control_rebuilt {
            return Err(format!("damage: {recovery:?}"));
        }
        Ok(())
    }
}
