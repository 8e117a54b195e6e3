//! What a log was asked for and what it answered, in the order of the disk's operations; and the judgment on what is
//! found after a crash at any of them.

use std::time::{Duration, Instant};

use seawall::{Config, Error, Log, Lsn, LsnRange, Pending, Recovery, RecoveryMode};

use super::sim::{CrashOptions, CrashState, CrashStates, DiskOptions, KillChoice, OpNumber, SimDisk, SimStorage};

pub type SimLog = Log<SimStorage>;

#[derive(Clone, Debug)]
enum Event {
    Submitted(Vec<u8>),
    /// Everything up to here.
    Acknowledged(u64),
    Trimming(u64),
    Trimmed(u64),
    Truncating(u64),
    Truncated(u64),
}

pub struct Story {
    pub disk: SimDisk,
    pub config: Config,
    events: Vec<(OpNumber, Event)>,
    frames: u64,
    /// Frames that were damaged before the story began.
    pub lost: Vec<LsnRange>,
    /// Garbage also where a page cache is written back.
    pub garbage: bool,
}

/// What a log may hold after a crash: one of two, while a truncation is under way.
struct Allowed {
    histories: Vec<History>,
    /// Given up for certain, and perhaps.
    trimmed: (u64, u64),
}

#[derive(Clone)]
struct History {
    submitted: Vec<Vec<u8>>,
    acknowledged: u64,
}

impl Story {
    pub fn new(options: DiskOptions) -> Story {
        let config = Config {
            segment_bytes_min: 64 << 10,
            segment_bytes_max: 64 << 10,
            idle_proof_after: Duration::from_secs(3600),
            memory_tail_bytes: 0,
            in_flight_wait: Duration::from_millis(100),
            ..Config::default()
        };
        Story { disk: SimDisk::new(options), config, events: Vec::new(), frames: 0, lost: Vec::new(), garbage: false }
    }

    pub fn open(&mut self) -> SimLog {
        let (log, recovery) = Log::open_on(self.disk.open(), self.config.clone()).unwrap();
        assert_eq!(recovery.end.get(), self.frames, "{recovery:?}");
        self.disk.pump();
        log
    }

    fn note(&mut self, event: Event) {
        let at = self.disk.note(0u64);
        self.events.push((at, event));
    }

    /// Appends records of these lengths together, and waits.
    pub fn append(&mut self, log: &SimLog, lengths: &[usize]) {
        self.try_append(log, lengths).unwrap();
    }

    pub fn submit(&mut self, log: &SimLog, lengths: &[usize]) -> Pending<SimStorage> {
        self.try_submit(log, lengths).unwrap()
    }

    pub fn trim(&mut self, log: &SimLog, upto: u64) {
        self.try_trim(log, upto).unwrap();
    }

    pub fn truncate(&mut self, log: &SimLog, end: u64) {
        self.try_truncate(log, end).unwrap();
    }

    pub fn try_append(&mut self, log: &SimLog, lengths: &[usize]) -> Result<(), Error> {
        let pending = self.try_submit(log, lengths)?;
        let waited = pending.wait();
        if waited.is_ok() {
            self.note(Event::Acknowledged(self.frames));
        }
        self.disk.pump();
        waited.map(drop)
    }

    pub fn try_submit(&mut self, log: &SimLog, lengths: &[usize]) -> Result<Pending<SimStorage>, Error> {
        let mut last = None;
        for bytes in lengths {
            let lsn = self.frames + 1;
            let salt = self.events.len() as u64;
            let record: Vec<u8> = (0..*bytes as u64).map(|k| (k * 7 + lsn * 13 + salt * 31) as u8 | 1).collect();
            let mut tries = 0;
            // The pump prepares segments, so nobody may sleep for one.
            let pending = loop {
                match log.try_append(&record) {
                    Err(Error::Busy { .. } | Error::Full { .. }) if tries < 20 => {
                        tries += 1;
                        self.disk.pump();
                    }
                    other => break other,
                }
            }?;
            assert_eq!(pending.lsn().get(), lsn);
            self.frames = lsn;
            self.note(Event::Submitted(record));
            last = Some(pending);
        }
        Ok(last.expect("at least one record"))
    }

    pub fn try_trim(&mut self, log: &SimLog, upto: u64) -> Result<(), Error> {
        self.note(Event::Trimming(upto));
        log.trim(Lsn::new(upto))?;
        self.note(Event::Trimmed(upto));
        self.disk.pump();
        Ok(())
    }

    pub fn try_truncate(&mut self, log: &SimLog, end: u64) -> Result<(), Error> {
        self.note(Event::Truncating(end));
        log.truncate(Lsn::new(end))?;
        self.note(Event::Truncated(end));
        self.frames = end;
        self.disk.pump();
        Ok(())
    }

    pub fn close(&mut self, log: SimLog) {
        log.close(Duration::from_secs(5)).unwrap();
        self.disk.pump();
    }

    /// Everything the log knows is dropped; the disk's caches stay.
    pub fn kill(&mut self, log: SimLog) {
        self.disk.kill(&KillChoice::Landed);
        drop(log);
    }

    fn allowed(&self, at: OpNumber) -> Allowed {
        let mut histories = vec![History { submitted: Vec::new(), acknowledged: 0 }];
        let mut trimmed = (0, 0);
        for (_, event) in self.events.iter().take_while(|(number, _)| *number < at) {
            match event {
                Event::Submitted(record) => histories[0].submitted.push(record.clone()),
                Event::Acknowledged(lsn) => histories[0].acknowledged = *lsn,
                Event::Trimming(lsn) => trimmed.1 = *lsn,
                Event::Trimmed(lsn) => trimmed = (*lsn, *lsn),
                Event::Truncating(end) => {
                    let mut cut = histories[0].clone();
                    cut.submitted.truncate(*end as usize);
                    cut.acknowledged = cut.acknowledged.min(*end);
                    histories.push(cut);
                }
                Event::Truncated(_) => drop(histories.remove(0)),
            }
        }
        Allowed { histories, trimmed }
    }

    /// Opens what is left after a crash, twice, with an append in between, and judges it. Returns the disk after the
    /// first open and the append, and what its log then held.
    pub fn survives(&self, disk: &SimDisk, at: OpNumber, config: &Config) -> Result<Vec<Vec<u8>>, String> {
        let allowed = self.allowed(at);
        let (log, recovery) = Log::open_on(disk.open(), config.clone()).map_err(|error| format!("open: {error:?}"))?;
        disk.pump();
        let mut held = self.judge(&log, &recovery, &allowed, config)?;
        let fresh = b"appended after the crash".to_vec();
        let lsn =
            log.append(&fresh).and_then(|pending| pending.wait()).map_err(|error| format!("append: {error:?}"))?;
        if lsn.get() != held.len() as u64 + 1 {
            return Err(format!("the next frame is {lsn}, {} were found", held.len()));
        }
        held.push(fresh);
        let first = log.first();
        drop(log);
        disk.kill(&KillChoice::Lost);
        let (log, recovery) = Log::open_on(disk.open(), config.clone()).map_err(|error| format!("again: {error:?}"))?;
        let again = self.read(&log)?;
        if again != held || recovery.dropped.is_some() || log.first() != first {
            return Err(format!("the second open found {} frames after {}: {recovery:?}", again.len(), held.len()));
        }
        Ok(held)
    }

    /// The frames from 1 on; trimmed and lost ones are empty.
    fn read(&self, log: &SimLog) -> Result<Vec<Vec<u8>>, String> {
        let mut held = vec![Vec::new(); log.first().get() as usize - 1];
        for read in log.reader(log.first()) {
            match read {
                Ok(frame) if frame.lsn.get() == held.len() as u64 + 1 => held.push(frame.payload.to_vec()),
                Ok(frame) => return Err(format!("frame {} after {}", frame.lsn, held.len())),
                Err(Error::Quarantined { lsns }) if self.lost.contains(&lsns) => {
                    held.resize(lsns.end.get() as usize - 1, Vec::new());
                }
                Err(error) => return Err(format!("read: {error:?}")),
            }
        }
        Ok(held)
    }

    fn judge(
        &self,
        log: &SimLog,
        recovery: &Recovery,
        allowed: &Allowed,
        config: &Config,
    ) -> Result<Vec<Vec<u8>>, String> {
        let strict = config.recovery == RecoveryMode::Strict;
        if (strict && !recovery.damage.is_empty()) || !recovery.missing_segments.is_empty() || recovery.control_rebuilt
        {
            return Err(format!("damage: {recovery:?}"));
        }
        let trimmed = log.first().get() - 1;
        if trimmed != allowed.trimmed.0 && trimmed != allowed.trimmed.1 {
            return Err(format!("trimmed up to {trimmed}, not {:?}", allowed.trimmed));
        }
        let held = self.read(log)?;
        let is_prefix = |history: &&History| {
            let same = |(at, (held, submitted)): (usize, (&Vec<u8>, &Vec<u8>))| {
                let lost = self.lost.iter().any(|range| range.contains(Lsn::new(at as u64 + 1)));
                held == submitted || lost || (at as u64) < trimmed
            };
            held.len() <= history.submitted.len() && held.iter().zip(&history.submitted).enumerate().all(same)
        };
        let fits = |history: &&History| is_prefix(history) && held.len() as u64 >= history.acknowledged;
        if !allowed.histories.iter().any(|history| fits(&history)) {
            let told: Vec<_> = allowed.histories.iter().map(|h| (h.submitted.len(), h.acknowledged)).collect();
            let prefix: Vec<bool> = allowed.histories.iter().map(|history| is_prefix(&history)).collect();
            return Err(format!(
                "{} frames found, (submitted, acknowledged) {told:?}, prefix {prefix:?}: {recovery:?}",
                held.len()
            ));
        }
        Ok(held)
    }

    /// Crashes everywhere, within about this time; returns how many states were judged.
    pub fn crash_everywhere(&self, name: &str, budget: Duration) -> Judged {
        assert!(self.disk.violations().is_empty(), "{name}: {:?}", self.disk.violations());
        let began = Instant::now();
        let journal = self.disk.journal();
        let options = CrashOptions {
            exhaustive_up_to: 4,
            random_subsets: 4,
            cuts_per_write: 4,
            scatters_per_write: 1,
            // Through a page cache, the tail that nothing proves is written over itself when it is opened: a disk that
            // leaves garbage where the same bytes stood before takes it. `garbage_over_a_tail_in_doubt` shows that.
            garbage_per_write: if journal.options().direct || self.garbage { 2 } else { 0 },
            torn_writes: 3,
            ..CrashOptions::default()
        };
        let total = CrashStates::all(&journal, options).count();
        // Evenly thinned out when there are more than the time allows (each takes about two milliseconds), but never to
        // nothing: of the states after each operation one is always judged.
        let step = (total / budget.as_millis().max(1) as usize * 3).max(1);
        let mut moments = std::collections::BTreeSet::new();
        let mut judged = Judged { first: 0, second: 0, total, failures: Vec::new() };
        for (i, state) in CrashStates::all(&journal, options).enumerate() {
            let is_new_moment = moments.insert(state.at);
            if !is_new_moment && (i % step != 0 || began.elapsed() > budget * 3) {
                continue;
            }
            let told = state.to_string();
            state.disk.cut_journal();
            if let Err(what) = self.survives(&state.disk, state.at, &self.config) {
                judged.failures.push(format!("{name}: {what}\n    {told}"));
            }
            judged.first += 1;
            // Recovery itself crashes.
            if judged.first % 40 == 1 {
                self.crash_again(&state, options, &mut judged, &told);
            }
        }
        println!(
            "{name}: {} of {total} states, at each of {} moments, {} of crashed recoveries, in {:?}",
            judged.first,
            moments.len(),
            judged.second,
            began.elapsed()
        );
        judged
    }

    fn crash_again(&self, state: &CrashState, options: CrashOptions, judged: &mut Judged, told: &str) {
        let disk = self.disk.journal().crash(state.at, &state.choice);
        let Ok((log, _)) = Log::open_on(disk.open(), self.config.clone()) else { return };
        disk.pump();
        drop(log);
        let journal = disk.journal();
        let all = CrashStates::all(&journal, options).count();
        for second in CrashStates::all(&journal, options).step_by((all / 40).max(1)) {
            if let Err(what) = self.survives(&second.disk, state.at, &self.config) {
                judged.failures.push(format!("{what}\n    {told}\n    then {second}"));
            }
            judged.second += 1;
        }
    }
}

#[derive(Default)]
pub struct Judged {
    pub first: usize,
    pub second: usize,
    pub total: usize,
    pub failures: Vec<String>,
}

impl Judged {
    pub fn assert_clean(&self) {
        let some: Vec<&String> = self.failures.iter().take(3).collect();
        let states = self.first + self.second;
        assert!(self.failures.is_empty(), "{} of {states} states failed:\n{}", self.failures.len(), join(&some));
        assert!(self.first > 100 || self.first == self.total, "only {} of {} states", self.first, self.total);
    }
}

fn join(lines: &[&String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}
