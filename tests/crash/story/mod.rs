//! What a log was asked for and what it answered, in the order of the disk's operations; and the judgment on what is
//! found after a crash at any of them.

mod everywhere;
mod tale;
mod verdict;

use std::time::Duration;

use seawall::{Config, Error, Log, Lsn, LsnRange, Pending, Recovery};

use super::sim::{CrashOptions, DiskOptions, Journal, KillChoice, OpNumber, Rng, SimDisk, SimStorage, fingerprint};
pub use everywhere::{Depth, Everywhere, Tally};
pub use tale::{Step, Tale};
pub use verdict::{Allowed, Found};

pub type SimLog = Log<SimStorage>;

#[derive(Clone, Debug)]
enum Event {
    /// A record with this fingerprint.
    Submitted(u64),
    /// Everything up to here.
    Acknowledged(u64),
    Trimming(u64),
    Trimmed(u64),
    Truncating(u64),
    Truncated(u64),
    /// An open found the log ending there, and returned: what was there is durable, what was not never comes.
    Recovered(u64),
}

/// What a log holds, and what it held once.
#[derive(Clone, Default, Debug)]
pub struct Past {
    /// Fingerprints of the records, frame 1 first.
    pub records: Vec<u64>,
    /// Up to here they were given up.
    pub trimmed: u64,
    /// All there were before each truncation.
    pub cut: Vec<Vec<u64>>,
}

pub struct Story {
    pub disk: SimDisk,
    pub config: Config,
    events: Vec<(OpNumber, Event)>,
    frames: u64,
    acknowledged: u64,
    /// What is crashed, when the disk went on behind it.
    journal: Option<Journal>,
    /// Frames that were damaged before the story began.
    pub lost: Vec<LsnRange>,
    /// Garbage also where a page cache is written back.
    pub garbage: bool,
    /// Writes that land where another one belongs.
    pub misdirected: bool,
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
        Story {
            disk: SimDisk::new(options),
            config,
            events: Vec::new(),
            frames: 0,
            acknowledged: 0,
            journal: None,
            lost: Vec::new(),
            garbage: false,
            misdirected: false,
        }
    }

    pub fn open(&mut self) -> SimLog {
        let (log, recovery) = Log::open_on(self.disk.open(), self.config.clone()).unwrap();
        assert_eq!(recovery.end.get(), self.frames, "{recovery:?}");
        self.disk.pump();
        log
    }

    /// The story ends here, with whatever is in flight; the log is not waited for.
    pub fn stop(&mut self, log: SimLog) {
        self.journal = Some(self.disk.journal());
        self.kill(log);
    }

    /// What the log holds when nothing is under way.
    pub fn past(&self) -> Past {
        let mut past = Past::default();
        let mut before_cut = None;
        for (_, event) in &self.events {
            match event {
                Event::Submitted(record) => past.records.push(*record),
                Event::Trimmed(lsn) => past.trimmed = *lsn,
                // To where it ends anyway is none.
                Event::Truncating(end) => {
                    before_cut = Some(past.records.clone()).filter(|all| all.len() as u64 > *end);
                }
                Event::Truncated(end) => {
                    past.cut.extend(before_cut.take());
                    past.records.truncate(*end as usize);
                }
                Event::Recovered(end) => past.records.truncate(*end as usize),
                Event::Acknowledged(_) | Event::Trimming(_) => {}
            }
        }
        past
    }

    /// What happened to the disk.
    pub fn journal(&self) -> Journal {
        self.journal.clone().unwrap_or_else(|| self.disk.journal())
    }

    /// Opens what there is, whatever there is of what nobody was told.
    pub fn reopen(&mut self) -> Result<SimLog, String> {
        let (log, found) = self.open_and_read(&self.disk)?;
        let at = self.disk.note(0u64);
        self.judge(&found, &self.allowed(at))?;
        self.frames = found.frames();
        self.note(Event::Recovered(self.frames));
        self.disk.pump();
        Ok(log)
    }

    /// What the log says is flushed was acknowledged to whoever asked.
    pub fn see(&mut self, log: &SimLog) {
        let flushed = log.flushed().get();
        if flushed > self.acknowledged {
            self.note(Event::Acknowledged(flushed));
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Acknowledged(lsn) | Event::Recovered(lsn) | Event::Truncated(lsn) => self.acknowledged = lsn,
            _ => {}
        }
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
            let record = self.record(lsn, *bytes);
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
            self.note(Event::Submitted(fingerprint(&record)));
            last = Some(pending);
        }
        Ok(last.expect("at least one record"))
    }

    /// Appends records of these lengths by one call, and waits. They must find room.
    pub fn append_batch(&mut self, log: &SimLog, lengths: &[usize]) -> Result<(), Error> {
        let lsns = self.frames + 1..;
        let records: Vec<Vec<u8>> = lsns.zip(lengths).map(|(lsn, bytes)| self.record(lsn, *bytes)).collect();
        let pending = log.append_many(&records)?;
        for record in records {
            self.frames += 1;
            self.note(Event::Submitted(fingerprint(&record)));
        }
        pending.wait()?;
        self.note(Event::Acknowledged(self.frames));
        self.disk.pump();
        Ok(())
    }

    /// A record unlike any other of this story.
    fn record(&self, lsn: u64, bytes: usize) -> Vec<u8> {
        let mut record = vec![0; bytes];
        Rng::nth(self.events.len() as u64, lsn).fill(&mut record);
        // No sector looks like one that was never written.
        record.iter_mut().for_each(|byte| *byte |= 1);
        record
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
}
