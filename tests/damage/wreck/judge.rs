//! The judgment on a damaged log, however it is opened: what was acknowledged is there, byte for byte, or named; nothing else is
//! shown; and what an open decided stays so.

use std::collections::BTreeMap;
use std::time::Duration;

use seawall::{Config, Error, Log, Lsn, LsnRange, Recovery, RecoveryMode};

use super::super::sim::{KillChoice, SimDisk, SimStorage, fingerprint, mix};
use super::super::story::Past;
use super::evidence::Evidence;
use super::layout::Layout;
use super::promise::Promise;
use super::trouble::Trouble;

type SimLog = Log<SimStorage>;

pub const MODES: [RecoveryMode; 3] = [RecoveryMode::ReadOnly, RecoveryMode::Strict, RecoveryMode::Quarantine];

/// A damaged log, and what is known of it.
pub struct Case<'a> {
    pub disk: &'a SimDisk,
    pub config: &'a Config,
    pub past: &'a Past,
    pub evidence: &'a Evidence,
    pub layout: &'a Layout,
}

/// A record that was appended behind the damage.
#[derive(Clone, Copy, Debug)]
struct Promised {
    lsn: u64,
    record: u64,
    /// It was acknowledged; else it may be there or not.
    is_kept: bool,
}

/// What one open showed.
struct Shown {
    frames: BTreeMap<u64, u64>,
    named: Vec<LsnRange>,
    /// Named as never acknowledged.
    dropped: Option<LsnRange>,
    /// The log was closed, so not all of its end was looked at.
    clean: bool,
}

impl Shown {
    fn names(&self, lsn: u64) -> bool {
        self.named.iter().any(|lsns| lsns.contains(Lsn::new(lsn)))
    }
}

impl Case<'_> {
    /// In every mode; a number that is equal where the same was found.
    pub fn judge(&self) -> Result<u64, String> {
        let mut trace = 0;
        for mode in MODES {
            let (disk, config) = (self.disk.fork(), Config { recovery: mode, ..self.config.clone() });
            let before = disk.fingerprint();
            let found = match Log::open_on(disk.open(), config.clone()) {
                Ok((log, recovery)) => {
                    let judged = self.opened(&disk, log, &recovery, mode);
                    judged.map_err(|what| format!("{mode:?}: {what}; {recovery:?}"))?
                }
                Err(error) => {
                    self.refused(&error, mode)?;
                    1
                }
            };
            let takes_over = mode != RecoveryMode::ReadOnly && found != 1;
            if !takes_over && disk.fingerprint() != before {
                return Err(format!("{mode:?}: who may not write wrote"));
            }
            trace = mix(trace, found);
        }
        Ok(trace)
    }

    /// Opened when something goes wrong, and again when all is well: what the first open decided or promised holds.
    pub fn judge_in(&self, trouble: &Trouble) -> Result<u64, String> {
        let mode = trouble.mode;
        let (disk, config) = (self.disk.fork(), Config { recovery: mode, ..self.config.clone() });
        trouble.begin(&disk);
        let first = match Log::open_on(disk.open(), config.clone()) {
            Ok((log, recovery)) => {
                let looked = self.looks_at(&disk, log, &recovery, mode);
                looked.map_err(|what| format!("{mode:?}: {what}; {recovery:?}"))?
            }
            Err(Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. }) => None,
            Err(error) => {
                self.refused(&error, mode)?;
                None
            }
        };
        let disk = trouble.end(disk);
        let Some((shown, promised)) = first else {
            // Nobody was told anything: it may have decided what an open decides, and no more.
            let evidence = self.evidence.behind_a_failed_open(self.layout);
            let case = Case { evidence: &evidence, ..*self };
            return match Log::open_on(disk.open(), config) {
                Ok((log, recovery)) => {
                    let judged = case.opened(&disk, log, &recovery, mode);
                    judged.map_err(|what| format!("{mode:?}, second: {what}; {recovery:?}"))
                }
                Err(error) => self.refused(&error, mode).map(|()| 1),
            };
        };
        let again = self.again(&disk, &shown, promised.as_slice());
        again
            .map_err(|what| format!("{mode:?}, first: {:?}, {promised:?}: {what}", shown.frames.keys()))
            .map(|()| fold(&shown))
    }

    /// What an open shows in which something goes wrong, and what it takes; nothing, if it decides nothing.
    fn looks_at(
        &self,
        disk: &SimDisk,
        log: SimLog,
        recovery: &Recovery,
        mode: RecoveryMode,
    ) -> Result<Option<(Shown, Vec<Promised>)>, String> {
        let shown = self.show(&log, recovery, mode)?;
        self.first(&log)?;
        self.gone_is_told(recovery)?;
        self.nothing_is_silent(&shown, &log)?;
        let is_refusing = mode == RecoveryMode::Strict && !recovery.damage.is_empty();
        self.promise_is_kept(&shown, !is_refusing)?;
        if is_refusing {
            return Ok(None);
        }
        let record = b"appended in trouble";
        disk.pump();
        let promised = match log.try_append(record) {
            Ok(pending) => {
                let lsn = pending.lsn().get();
                let is_kept = pending.wait().is_ok();
                Some(Promised { lsn, record: fingerprint(record), is_kept })
            }
            Err(_) => None,
        };
        disk.pump();
        Ok(Some((shown, promised.into_iter().collect())))
    }

    /// Only for its control file a log does not open; and if that is lost, only until somebody wants it built anew.
    fn refused(&self, error: &Error, mode: RecoveryMode) -> Result<(), String> {
        let Evidence { is_control_whole, can_be_rebuilt, .. } = *self.evidence;
        let is_rebuilding = mode == RecoveryMode::Quarantine && self.evidence.is_control_lost() && can_be_rebuilt;
        match error {
            Error::Control { .. } if !is_control_whole && !is_rebuilding => Ok(()),
            _ => Err(format!("{mode:?}: does not open: {error:?}")),
        }
    }

    fn opened(&self, disk: &SimDisk, log: SimLog, recovery: &Recovery, mode: RecoveryMode) -> Result<u64, String> {
        let shown = self.show(&log, recovery, mode)?;
        self.first(&log)?;
        self.gone_is_told(recovery)?;
        self.nothing_is_silent(&shown, &log)?;
        let is_refusing = mode == RecoveryMode::Strict && !recovery.damage.is_empty();
        self.promise_is_kept(&shown, mode != RecoveryMode::ReadOnly && !is_refusing)?;
        disk.pump();
        if mode == RecoveryMode::ReadOnly || is_refusing {
            self.verify(&log, &shown)?;
            return match log.try_append(b"x") {
                Err(Error::ReadOnly | Error::Damaged { .. }) => Ok(fold(&shown)),
                other => Err(format!("an append was not refused: {:?}", other.map(|pending| pending.lsn()))),
            };
        }
        let fresh = self.append(disk, &log, &shown)?;
        drop(log);
        disk.kill(&KillChoice::Landed);
        self.again(disk, &shown, &[fresh])?;
        Ok(fold(&shown))
    }

    /// Everything, in order and one by one.
    fn show(&self, log: &SimLog, recovery: &Recovery, mode: RecoveryMode) -> Result<Shown, String> {
        let mut named: Vec<LsnRange> = recovery.damage.iter().filter_map(Error::lsns).collect();
        named.extend(&recovery.quarantined);
        if mode != RecoveryMode::Quarantine && (mode == RecoveryMode::ReadOnly || !recovery.damage.is_empty()) {
            named.extend(recovery.ambiguous_tail);
        }
        let mut shown = Shown { frames: BTreeMap::new(), named, dropped: recovery.dropped, clean: recovery.clean };
        let mut last = 0;
        for read in log.reader(log.first()) {
            match read {
                Ok(frame) => {
                    let (lsn, record) = (frame.lsn.get(), fingerprint(&frame.payload));
                    if lsn <= last {
                        return Err(format!("frame {lsn} was read behind {last}"));
                    }
                    last = lsn;
                    self.is_right(lsn, record)?;
                    shown.frames.insert(lsn, record);
                }
                Err(error) => {
                    let Some(lsns) = error.lsns() else { return Err(format!("behind {last}: {error:?}")) };
                    shown.named.push(lsns);
                }
            }
        }
        for lsn in log.first().get()..=self.past.records.len() as u64 {
            match log.read(Lsn::new(lsn)) {
                Ok(frame) => self.is_right(lsn, fingerprint(&frame.payload))?,
                Err(Error::BeyondEnd { .. }) => {}
                Err(error) if error.lsns().is_some_and(|lsns| lsns.contains(Lsn::new(lsn))) => {}
                Err(error) => return Err(format!("frame {lsn} alone: {error:?}")),
            }
        }
        Ok(shown)
    }

    fn is_right(&self, lsn: u64, record: u64) -> Result<(), String> {
        if self.evidence.may_be_read(lsn, record, self.past) {
            return Ok(());
        }
        let was_cut = self.past.cut.iter().any(|all| all.get(lsn as usize - 1) == Some(&record));
        let what = if was_cut { "was truncated" } else { "has other bytes than were appended" };
        Err(format!("frame {lsn} {what}, and was read"))
    }

    /// What was trimmed is known, but where the control file is an older one.
    fn first(&self, log: &SimLog) -> Result<(), String> {
        let trimmed = log.first().get() - 1;
        let is_right = match self.evidence.is_control_whole {
            true => trimmed == self.past.trimmed,
            false => trimmed <= self.past.trimmed,
        };
        if is_right { Ok(()) } else { Err(format!("trimmed up to {trimmed}, not {}", self.past.trimmed)) }
    }

    /// A segment whose file is gone is told by its number.
    fn gone_is_told(&self, recovery: &Recovery) -> Result<(), String> {
        let is_missed = |error: &Error, number: u64| match error {
            Error::Missing { segment, .. } => segment.get() == number,
            _ => false,
        };
        let is_told = |number: u64| {
            recovery.missing_segments.iter().any(|segment| segment.get() == number)
                || recovery.damage.iter().any(|error| is_missed(error, number))
        };
        match self.evidence.gone.iter().find(|number| !is_told(**number)) {
            Some(number) => Err(format!("segment {number} is gone without a word")),
            None => Ok(()),
        }
    }

    fn acknowledged(&self) -> std::ops::RangeInclusive<u64> {
        self.past.trimmed + 1..=self.past.records.len() as u64
    }

    fn nothing_is_silent(&self, shown: &Shown, log: &SimLog) -> Result<(), String> {
        // Nothing that is claimed to be flushed may be dropped.
        let is_dropped = |lsn: u64| {
            lsn > self.evidence.claimed && shown.dropped.is_some_and(|dropped| dropped.contains(Lsn::new(lsn)))
        };
        let is_told = |lsn: &u64| {
            shown.frames.contains_key(lsn) || shown.names(*lsn) || is_dropped(*lsn) || self.evidence.may_be_silent(*lsn)
        };
        match self.acknowledged().find(|lsn| !is_told(lsn)) {
            Some(lsn) => Err(format!("frame {lsn} is gone without a word: the log shows up to {}", log.flushed())),
            None => Ok(()),
        }
    }

    /// What is whole is shown, as far as that is promised.
    fn promise_is_kept(&self, shown: &Shown, takes_over: bool) -> Result<(), String> {
        let Promise { always, taken_over } = &self.evidence.promise;
        let mut promised = always.iter().chain(taken_over.iter().filter(|_| takes_over));
        match promised.find(|lsn| !shown.frames.contains_key(lsn)) {
            Some(lsn) => Err(format!("frame {lsn} is whole, and only named: {:?}", shown.named)),
            None => Ok(()),
        }
    }

    fn verify(&self, log: &SimLog, shown: &Shown) -> Result<(), String> {
        let report = log.verify(|_, _| {}).map_err(|error| format!("verify: {error:?}"))?;
        let is_found = |lsn: u64| report.findings.iter().any(|finding| finding.lsns.contains(Lsn::new(lsn)));
        let upto = log.flushed().get();
        let missed = self.acknowledged().find(|lsn| *lsn <= upto && !shown.frames.contains_key(lsn) && !is_found(*lsn));
        match missed {
            Some(lsn) => Err(format!("frame {lsn} cannot be read, and verify does not tell: {report:?}")),
            None => Ok(()),
        }
    }

    /// It must take another record, whose number is of none that it shows, of none that anything whole says was flushed, and of
    /// none that stood in a segment that is gone.
    fn append(&self, disk: &SimDisk, log: &SimLog, shown: &Shown) -> Result<Promised, String> {
        let record = b"appended behind the damage";
        let mut tries = 0;
        let pending = loop {
            match log.try_append(record) {
                Err(Error::Busy { .. } | Error::Full { .. }) if tries < 20 => {
                    tries += 1;
                    disk.pump();
                }
                other => break other,
            }
        };
        let lsn = pending.and_then(|pending| pending.wait()).map_err(|error| format!("append: {error:?}"))?.get();
        disk.pump();
        let Evidence { claimed, behind_old_close, missed, .. } = self.evidence;
        let claimed = (*claimed).max(missed.last().copied().unwrap_or(0)).min(behind_old_close.unwrap_or(u64::MAX));
        if lsn <= claimed || shown.frames.keys().next_back().is_some_and(|last| lsn <= *last) {
            return Err(format!("number {lsn} was given again"));
        }
        Ok(Promised { lsn, record: fingerprint(record), is_kept: true })
    }

    /// What an open has shown, the next one shows; and if it took records, it does not ask again what was decided. One that took none
    /// may have found no room for the seal that tells so.
    fn again(&self, disk: &SimDisk, shown: &Shown, fresh: &[Promised]) -> Result<(), String> {
        let (log, recovery) =
            Log::open_on(disk.open(), self.config.clone()).map_err(|error| format!("again: {error:?}"))?;
        disk.pump();
        // What the first open did not look at may be told now.
        if !recovery.damage.is_empty() && !shown.clean && fresh.iter().any(|fresh| fresh.is_kept) {
            return Err(format!("what was decided is asked again: {recovery:?}"));
        }
        let (read, told): (Vec<_>, Vec<_>) = log.reader(log.first()).partition(Result::is_ok);
        let read = read.into_iter().flatten().map(|frame| (frame.lsn.get(), fingerprint(&frame.payload)));
        let read: BTreeMap<u64, u64> = read.collect();
        let mut before = shown.frames.clone();
        before.extend(fresh.iter().map(|fresh| (fresh.lsn, fresh.record)));
        let is_unknown = |lsn: u64| fresh.iter().any(|fresh| fresh.lsn == lsn && !fresh.is_kept);
        let differs = read.iter().find(|(lsn, record)| before.get(lsn) != Some(record));
        let is_in_doubt = |lsn: u64| {
            let refuses = !recovery.damage.is_empty();
            refuses && recovery.ambiguous_tail.is_some_and(|lsns| lsns.contains(Lsn::new(lsn))) || is_unknown(lsn)
        };
        let differs = differs.or_else(|| before.iter().find(|(lsn, _)| !read.contains_key(lsn) && !is_in_doubt(**lsn)));
        if let Some((lsn, _)) = differs {
            return Err(format!(
                "the next open shows another frame {lsn}, or none: {:?} {told:?} {recovery:?}",
                read.keys()
            ));
        }
        log.close(Duration::from_secs(1)).map_err(|error| format!("close: {error:?}"))
    }
}

fn fold(shown: &Shown) -> u64 {
    shown.frames.iter().fold(2, |all, (lsn, record)| mix(all, mix(*lsn, *record)))
}
