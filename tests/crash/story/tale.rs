//! Stories from a seed: some steps of everything a log is asked for, on a disk of some kind.

use std::thread;
use std::time::Duration;

use seawall::Error;

use super::super::sim::{CrashOptions, DiskOptions, KillChoice, Landed, Outcome, Rng, Untold, errno};
use super::{SimLog, Story};

/// What is told, and how it is crashed.
#[derive(Clone, Debug)]
pub struct Tale {
    pub seed: u64,
    pub disk: DiskOptions,
    pub steps: Vec<Step>,
}

/// One thing that is asked of a log. Shares are in 1/256.
#[derive(Clone, Debug)]
pub enum Step {
    /// Records of these lengths, together, and a wait for the last.
    Append(Vec<usize>),
    /// The same by one call.
    Batch(Vec<usize>),
    /// Handed over, on their way, and nobody waits: they stay in flight.
    Submit(Vec<usize>),
    /// One write in flight, chosen by this number, ends.
    Land(u64),
    /// One write in flight comes into the page cache, if there is one; its flush is to come.
    Cache(u64),
    /// One write in flight fails after a part of it, the others end well or not at all; the process ends.
    Fail(u64),
    /// Up to this share of the frames.
    Trim(u8),
    /// To this share of the frames.
    Truncate(u8),
    /// A clean close, and an open.
    Close,
    /// A process's end, what is in flight ending so, and an open.
    Kill(KillChoice),
}

impl Tale {
    pub fn of(seed: u64) -> Tale {
        let mut rng = Rng::nth(seed, 0);
        let block_bytes = if rng.one_in(2) { 512 } else { 4096 };
        let disk = DiskOptions { direct: rng.one_in(2), block_bytes };
        let count = 4 + rng.below(9);
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..count {
            let step = Step::random(&mut rng);
            // What fails alone says nothing of what fails among others.
            let others = if matches!(step, Step::Fail(_)) { rng.below(4) } else { 0 };
            steps.extend((0..others).map(|_| Step::Submit(lengths(&mut rng))));
            steps.push(step);
        }
        // Something to lose.
        steps.insert(0, Step::Append(lengths(&mut rng)));
        Tale { seed, disk, steps }
    }

    /// Lives through it.
    ///
    /// # Errors
    /// When the log did not do what it must.
    pub fn tell(&self) -> Result<Story, String> {
        let (mut story, log) = self.live()?;
        story.stop(log);
        Ok(story)
    }

    /// Lives through it, and until all is acknowledged that was asked for; then the log is closed, or its process killed.
    ///
    /// # Errors
    /// When the log did not do what it must.
    pub fn tell_to_the_end(&self, is_closed: bool) -> Result<Story, String> {
        let (mut story, log) = self.live()?;
        story.settle(&log);
        if is_closed {
            story.close(log);
        } else {
            story.kill(log);
        }
        Ok(story)
    }

    fn live(&self) -> Result<(Story, SimLog), String> {
        let mut story = Story::new(self.disk);
        story.garbage = true;
        story.misdirected = Rng::nth(self.seed, 1).one_in(2);
        // Nothing here lasts long enough to find out by measuring that more than one write in flight is good.
        story.config.flush_depth_min = 1 + Rng::nth(self.seed, 3).below(4) as usize;
        // Whoever looks is always late enough.
        story.config.sweep_interval = Duration::from_micros(50);
        let mut log = story.reopen()?;
        for step in &self.steps {
            log = step.happen(&mut story, log).map_err(|what| format!("{step:?}: {what}"))?;
            story.see(&log);
        }
        Ok((story, log))
    }

    /// How its crashes are made: other cuts and subsets in every tale.
    pub fn crash_options(&self, story: &Story) -> CrashOptions {
        let mut rng = Rng::nth(self.seed, 2);
        CrashOptions {
            exhaustive_up_to: 4 + rng.below(3) as usize,
            random_subsets: 4 + rng.below(13) as usize,
            cuts_per_write: 4 + rng.below(9) as usize,
            scatters_per_write: 1 + rng.below(3) as usize,
            garbage_per_write: rng.below(3) as usize,
            torn_writes: 2 + rng.below(3) as usize,
            misdirected: story.misdirected,
            seed: rng.next(),
            ..CrashOptions::default()
        }
    }
}

impl Step {
    fn random(rng: &mut Rng) -> Step {
        match rng.below(26) {
            0..6 => Step::Append(lengths(rng)),
            6..8 => Step::Append(vec![20_000 + rng.below(45_000) as usize]),
            8..10 => Step::Batch((0..2 + rng.below(4)).map(|_| rng.below(1500) as usize).collect()),
            10..14 => Step::Submit(lengths(rng)),
            14..16 => Step::Land(rng.next()),
            16 => Step::Cache(rng.next()),
            17 | 18 => Step::Fail(rng.next()),
            19 | 20 => Step::Trim(rng.next() as u8),
            21 | 22 => Step::Truncate(rng.next() as u8),
            23 => Step::Close,
            _ => {
                let choices = [KillChoice::Landed, KillChoice::Lost, KillChoice::Random(rng.next())];
                Step::Kill(choices[rng.below(3) as usize].clone())
            }
        }
    }

    fn happen(&self, story: &mut Story, log: SimLog) -> Result<SimLog, String> {
        let told = |error: Error| format!("{error:?}");
        match self {
            Step::Append(lengths) => {
                story.settle(&log);
                story.try_append(&log, lengths).map_err(told)?;
            }
            Step::Batch(lengths) => {
                story.settle(&log);
                story.append_batch(&log, lengths).map_err(told)?;
            }
            Step::Submit(lengths) => {
                story.disk.set_manual(true);
                match story.try_submit(&log, lengths) {
                    // No segment is ready, and none can be while the one before it is in flight.
                    Err(Error::Busy { .. } | Error::Full { .. }) => {}
                    other => drop(other.map_err(told)?),
                }
                thread::sleep(Duration::from_micros(200));
                story.disk.tick();
            }
            Step::Land(choice) => {
                let pending = story.disk.pending();
                if let Some(token) = pending.get(*choice as usize % pending.len().max(1)) {
                    story.disk.complete(*token, Outcome::Ok);
                    story.disk.pump();
                }
            }
            Step::Cache(choice) => {
                let pending = story.disk.pending();
                if let Some(token) = pending.get(*choice as usize % pending.len().max(1)) {
                    story.disk.cache(*token);
                }
            }
            Step::Fail(choice) => {
                let pending = story.disk.pending();
                let Some(token) = pending.get(*choice as usize % pending.len().max(1)) else { return Ok(log) };
                let mut rng = Rng::new(*choice);
                let others: Vec<u64> = pending.iter().copied().filter(|other| other != token).collect();
                others.iter().filter(|_| rng.one_in(2)).for_each(|other| _ = story.disk.cache(*other));
                let mut failed =
                    Some(story.disk.end(*token, Outcome::Error(errno::EIO, Landed::partial(4096, *choice))));
                // The failure is one write's. What the flushes of the others say is not worth as much any more, and the log may
                // hear that first.
                let (is_told_first, others_end) = (rng.one_in(2), rng.one_in(2));
                // A device that has told once what it lost may have forgotten it. A yes before it told is a lie that no log sees through.
                let is_forgotten = is_told_first && rng.one_in(2);
                let end_of = |token: u64| match is_forgotten {
                    true => Outcome::Forgotten(Landed::partial(4096, choice.wrapping_add(token))),
                    false => Outcome::Ok,
                };
                if is_told_first {
                    failed.take().into_iter().for_each(Untold::tell);
                    story.see(&log);
                }
                if others_end {
                    others.iter().for_each(|other| story.disk.complete(*other, end_of(*other)));
                    story.see(&log);
                }
                failed.into_iter().for_each(Untold::tell);
                story.see(&log);
                return story.end(log, &KillChoice::Random(*choice));
            }
            Step::Trim(share) => {
                story.settle(&log);
                let upto = within(&log, *share);
                if upto >= log.first().get() {
                    story.try_trim(&log, upto).map_err(told)?;
                }
            }
            Step::Truncate(share) => {
                story.settle(&log);
                // The seal that says so needs a segment; nobody prepares one while this thread waits for it.
                if log.stats().spare_segments > 1 {
                    story.try_truncate(&log, within(&log, *share)).map_err(told)?;
                }
            }
            Step::Close => {
                story.settle(&log);
                log.close(Duration::from_secs(5)).map_err(told)?;
                story.disk.pump();
                return story.reopen();
            }
            Step::Kill(choice) => return story.end(log, choice),
        }
        Ok(log)
    }
}

/// The frame at this share of those that the log holds; the one before the first at least.
fn within(log: &SimLog, share: u8) -> u64 {
    let trimmed = log.first().get() - 1;
    trimmed + (log.flushed().get() - trimmed) * u64::from(share) / 255
}

/// One to four records, mostly short, some at the edges of blocks.
fn lengths(rng: &mut Rng) -> Vec<usize> {
    let length = |rng: &mut Rng| match rng.below(12) {
        0..4 => rng.below(64) as usize,
        4..8 => rng.below(1500) as usize,
        8 | 9 => [448, 449, 960, 4032, 4033, 8128][rng.below(6) as usize] - rng.below(2) as usize * 184,
        10 => rng.below(6000) as usize,
        _ => rng.below(18_000) as usize,
    };
    (0..1 + rng.below(4)).map(|_| length(rng)).collect()
}

impl Story {
    /// Everything in flight ends well.
    fn settle(&mut self, log: &SimLog) {
        self.disk.set_manual(false);
        self.disk.pump();
        self.see(log);
    }

    fn end(&mut self, log: SimLog, choice: &KillChoice) -> Result<SimLog, String> {
        self.disk.set_manual(false);
        self.disk.kill(choice);
        drop(log);
        self.reopen()
    }
}
