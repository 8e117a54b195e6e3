//! What happens: receiver, log, connections and sources, one event after the other.

mod faults;
mod receiving;
mod sources;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use seawall::receiver::{
    Block, Code, FrameHeader, HEADER_BYTES, Intake, IntakeStats, Message, Outbox, OutboxConfig, OutboxError,
    OutboxOutput, Oversized, Preview, Replay, ReplayEnd, ReplayError, Reservation, Sequences, SessionKey,
    SessionOutput, decode, preview,
};
use seawall::{Lsn, LsnRange, Seq, SourceEpoch, SourceId};

use super::super::bed::{no_x, seq};
use super::oracle::Oracle;
use super::story::{Fault, Item, Lie, Random, Story};
use super::wire::{Connection, Pipe, Reading, Time};

/// What was done, to see that something was.
#[derive(Clone, Copy, Default, Debug)]
pub struct Done {
    pub steps: u64,
    pub cuts: u64,
    pub receiver_crashes: u64,
    pub source_crashes: u64,
    pub zombies: u64,
    pub records: u64,
    pub rejects: u64,
    pub oversized: u64,
    pub duplicates: u64,
    pub gaps: u64,
    pub replaced: u64,
    pub fulls: u64,
    pub waited: u64,
    pub snapshots: u64,
    pub trims: u64,
    pub byes: u64,
    /// Blocks that became unreadable, opens refused because of it, and opens that accepted it.
    pub rotten: u64,
    pub refused: u64,
    pub accepted: u64,
    /// Sources told that what they had been told is lost.
    pub losses_told: u64,
    pub trace: u64,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Done) {
        let pairs = [
            (&mut self.steps, other.steps),
            (&mut self.cuts, other.cuts),
            (&mut self.receiver_crashes, other.receiver_crashes),
            (&mut self.source_crashes, other.source_crashes),
            (&mut self.zombies, other.zombies),
            (&mut self.records, other.records),
            (&mut self.rejects, other.rejects),
            (&mut self.oversized, other.oversized),
            (&mut self.duplicates, other.duplicates),
            (&mut self.gaps, other.gaps),
            (&mut self.replaced, other.replaced),
            (&mut self.fulls, other.fulls),
            (&mut self.waited, other.waited),
            (&mut self.snapshots, other.snapshots),
            (&mut self.trims, other.trims),
            (&mut self.byes, other.byes),
            (&mut self.rotten, other.rotten),
            (&mut self.refused, other.refused),
            (&mut self.accepted, other.accepted),
            (&mut self.losses_told, other.losses_told),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}

#[derive(Default)]
pub struct SimLog {
    pub blocks: Vec<Bytes>,
    pub durable: usize,
    /// When which blocks will be durable.
    flushes: VecDeque<(Time, usize)>,
    /// So many of the first blocks are gone.
    trimmed: usize,
    /// Blocks that cannot be read.
    rotten: BTreeSet<usize>,
    /// Those of them that were given up: no copy brings them back.
    given_up: BTreeSet<usize>,
    retry_at: Option<Time>,
    full_until: Time,
    slow_until: Time,
}

/// One life of a source.
struct Player {
    source: usize,
    outbox: Outbox,
    connection: Option<usize>,
    connect_at: Option<Time>,
    is_alive: bool,
    is_done: bool,
    push_at: Time,
    /// Without sequences: which items it has given.
    given: Vec<usize>,
    /// With them: the good records that it has pushed.
    pushed: Vec<u64>,
    /// With them: how far the stream was durable when it first heard of it.
    began_at: Option<Seq>,
    rejects: Vec<u64>,
}

pub struct World {
    story: Story,
    r: Random,
    base: Instant,
    now: Time,
    steps: u64,
    log: SimLog,
    intake: Option<Intake>,
    back_at: Option<Time>,
    drained_at: Option<Time>,
    connections: Vec<Connection>,
    players: Vec<Player>,
    /// Each source's newest life.
    current: Vec<usize>,
    /// Without sequences: which items are done with, by source.
    finished: Vec<usize>,
    committed: BTreeMap<SourceId, Seq>,
    committed_blocks: usize,
    commit_at: Time,
    oracle: Oracle,
    is_calm: bool,
    done: Done,
    trace: DefaultHasher,
    told: Option<Vec<String>>,
}

impl World {
    pub fn new(story: Story) -> World {
        let told = std::env::var_os("SEAWALL_RECEIVER_TRACE").map(|_| Vec::new());
        World {
            r: Random::new(story.seed ^ 0x0DD5),
            base: Instant::now(),
            now: Time::ZERO,
            steps: 0,
            log: SimLog::default(),
            intake: None,
            back_at: Some(Time::ZERO),
            drained_at: None,
            connections: Vec::new(),
            players: Vec::new(),
            current: Vec::new(),
            finished: vec![0; story.sources.len()],
            committed: BTreeMap::new(),
            committed_blocks: 0,
            commit_at: Time::ZERO,
            oracle: Oracle::new(story.sources.clone(), story.config.poison, story.config.frame_of_log_bytes_max()),
            is_calm: story.fault_every == 0,
            done: Done::default(),
            trace: DefaultHasher::new(),
            told,
            story,
        }
    }

    pub fn elapsed(&self) -> Time {
        self.now
    }

    pub fn told(&self) -> String {
        self.told.as_ref().map_or_else(String::new, |lines| lines[lines.len().saturating_sub(4000)..].join("\n"))
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            let line = format!("{:?} #{} {}", self.now, self.steps, what());
            told.push(line);
        }
    }

    fn at(&self) -> Instant {
        self.base + self.now
    }

    pub fn run(&mut self) -> Result<Done, String> {
        for source in 0..self.story.sources.len() {
            let player = self.new_life(source);
            self.current.push(player);
        }
        let mut standing = 0;
        loop {
            self.step()?;
            if self.is_over() {
                break;
            }
            if self.now > self.story.calm_after + super::PATIENCE {
                return Err(format!("no progress: {}", self.stuck()));
            }
            let next = self.next_event().ok_or_else(|| format!("nothing will ever happen: {}", self.stuck()))?;
            standing = if next <= self.now { standing + 1 } else { 0 };
            if standing > 20_000 {
                return Err(format!("time stands still: {}", self.stuck()));
            }
            self.now = self.now.max(next);
        }
        self.end()
    }

    fn is_over(&self) -> bool {
        let last_fault = self.story.faults.iter().map(|(step, _)| *step).max();
        let finished = self.current.iter().all(|player| self.players[*player].is_done);
        self.is_calm && finished && self.intake.is_some() && last_fault.is_none_or(|last| last < self.steps)
            || (finished && self.story.fault_every == 0 && self.intake.is_some())
    }

    fn stuck(&self) -> String {
        let source = |(source, player): (usize, &usize)| {
            let player = &self.players[*player];
            let plan = &self.story.sources[source];
            format!(
                "{} {:?} {:?}: {:?} of {:?}, held {}, {}",
                plan.id,
                plan.sequences,
                plan.wait_for,
                player.outbox.positions(),
                plan.plan.last().map(|last| last.seq),
                player.outbox.held_bytes(),
                if player.is_done { "done" } else { "not done" },
            )
        };
        let sources: Vec<_> = self.current.iter().enumerate().map(source).collect();
        let stats = self.intake.as_ref().map(Intake::stats);
        format!("{}; {stats:?}; {} of {} blocks durable", sources.join("; "), self.log.durable, self.log.blocks.len())
    }

    fn next_event(&self) -> Option<Time> {
        let since = |at: Instant| at.saturating_duration_since(self.base);
        let pipes = self.connections.iter().flat_map(|c| [c.up.next_at(), c.down.next_at()]).flatten();
        let deadlines =
            self.connections.iter().filter_map(|c| Some(since(self.intake.as_ref()?.next_deadline(c.key?)?)));
        let alive = || self.players.iter().filter(|player| player.is_alive && !player.is_done);
        let outboxes = alive().filter_map(|player| player.outbox.next_deadline()).map(since);
        let sources = alive().flat_map(|player| {
            let has_more = player.outbox.failure().is_none() && self.next_item(player).is_some();
            [player.connect_at, has_more.then_some(player.push_at)]
        });
        let log = [self.log.flushes.front().map(|(at, _)| *at), self.log.retry_at, self.back_at, self.drained_at];
        let calm = (!self.is_calm).then_some(self.story.calm_after);
        let commit = Some(self.commit_at);
        let all = pipes.chain(deadlines).chain(outboxes).chain(sources.flatten());
        all.chain(log.into_iter().chain([calm, commit]).flatten()).min()
    }

    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        self.faults();
        for connection in &mut self.connections {
            connection.up.deliver(self.now);
            connection.down.deliver(self.now);
        }
        if self.back_at.is_some_and(|at| at <= self.now) {
            self.open_receiver()?;
        }
        if self.drained_at.is_some_and(|at| at <= self.now) {
            self.drained_at = None;
            self.crash_receiver();
        }
        self.flush()?;
        for connection in 0..self.connections.len() {
            self.read(connection)?;
        }
        self.tick();
        self.commit()?;
        self.append()?;
        self.speak()?;
        for player in 0..self.players.len() {
            self.play(player)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Done, String> {
        // Everybody leaves, and what is on its way arrives.
        for connection in 0..self.connections.len() {
            if let (Some(key), at) = (self.connections[connection].key.take(), self.at())
                && let Some(intake) = &mut self.intake
            {
                intake.disconnect(at, key);
            }
        }
        self.log.full_until = Time::ZERO;
        for _ in 0..1000 {
            self.now += Time::from_millis(20);
            self.flush()?;
            self.append()?;
        }
        let intake = self.intake.as_ref().expect("it is there");
        if !intake.is_settled() {
            return Err(format!("blocks never leave: {:?}", intake.stats()));
        }
        if intake.stats().charged_bytes != 0 {
            return Err(format!("{} bytes stay charged for ever", intake.stats().charged_bytes));
        }
        if intake.stats().sessions != 0 {
            return Err(format!("{} sessions stay for ever", intake.stats().sessions));
        }
        self.oracle.end(&self.log.blocks, &self.log.rotten)?;
        self.check_claims()?;
        // A last replay says what the memory says.
        let remembered: Vec<_> = intake.sources().map(|source| (source.id, source.durable)).collect();
        self.intake = None;
        let SimLog { rotten, given_up, .. } = &mut self.log;
        rotten.retain(|block| given_up.contains(block));
        self.open_receiver()?;
        let replayed = self.intake.as_ref().expect("it is there");
        for (id, durable) in remembered {
            let again = replayed.source(&id).map_or(Seq::ZERO, |source| source.durable);
            if again != durable {
                return Err(format!("{id} stood at {durable}, and a replay says {again}"));
            }
        }
        self.close_books();
        self.done.steps = self.steps;
        self.done.trace = self.trace.finish();
        Ok(self.done)
    }
}

fn header_of(arrived: &BytesMut) -> Result<FrameHeader, String> {
    FrameHeader::read(arrived[..HEADER_BYTES].try_into().unwrap()).map_err(|e| format!("the wire: {e}"))
}

fn short(message: &Message) -> String {
    match message {
        Message::Send(send) => format!("SEND {}+{} ({} B)", send.previous, send.records, send.payload.len()),
        message => format!("{message:?}"),
    }
}
