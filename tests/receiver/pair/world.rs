//! What happens: receiver, log, connections and sources, one event after the other.

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

    // --- faults ----------------------------------------------------------------------------------------------------

    fn faults(&mut self) {
        if !self.is_calm && self.now >= self.story.calm_after {
            self.become_calm();
        }
        let step = self.steps - 1;
        let due: Vec<_> = self.story.faults.iter().filter(|(at, _)| *at == step).map(|(_, fault)| *fault).collect();
        due.into_iter().for_each(|fault| self.fault(fault));
        if !self.is_calm && self.r.one_in(self.story.fault_every) {
            let fault = self.r.of(&Fault::ALL);
            self.fault(fault);
        }
    }

    fn become_calm(&mut self) {
        self.is_calm = true;
        self.tell(|| "calm".to_owned());
        for player in 0..self.players.len() {
            if self.players[player].is_alive && !self.current.contains(&player) {
                self.kill(player);
            }
        }
        self.log.full_until = self.now;
        let (now, at, rate) = (self.now, self.at(), self.rate());
        self.log.slow_until = now;
        if let Some(intake) = &mut self.intake {
            intake.set_rate(at, rate);
        }
    }

    /// What the engine takes. In the calm it is faster, also for a receiver that was away when that began: `PATIENCE` is made
    /// for it.
    fn rate(&self) -> Option<f64> {
        self.story.rate.map(|rate| if self.is_calm { rate * 4.0 } else { rate })
    }

    fn fault(&mut self, fault: Fault) {
        self.tell(|| format!("fault {fault:?}"));
        match fault {
            Fault::Cut => {
                if !self.connections.is_empty() {
                    let connection = self.r.below(self.connections.len() as u64) as usize;
                    self.cut(connection);
                }
            }
            Fault::CrashSource => {
                let source = self.r.below(self.current.len() as u64) as usize;
                self.crash_source(source);
            }
            Fault::Zombie => {
                let source = self.r.below(self.current.len() as u64) as usize;
                if !self.players[self.current[source]].is_done {
                    self.done.zombies += 1;
                    self.current[source] = self.new_life(source);
                }
            }
            Fault::CrashReceiver => self.crash_receiver(),
            Fault::DrainReceiver => {
                let (at, within) = (self.at(), self.r.millis(0, 100));
                if let Some(intake) = &mut self.intake {
                    intake.drain(at, within, "restart");
                    self.drained_at = Some(self.now + within + self.r.millis(0, 20));
                }
            }
            Fault::Full => self.log.full_until = self.now + self.r.millis(1, 300),
            Fault::Slow => self.log.slow_until = self.now + self.r.millis(1, 500),
            Fault::Snapshot => {
                if let Some(intake) = &mut self.intake {
                    intake.request_snapshot(seawall::Lsn::MAX);
                }
            }
            Fault::Rot => {
                if self.story.rots {
                    self.rot();
                }
                if self.r.one_in(2) || self.story.fault_every == 0 {
                    self.crash_receiver();
                }
            }
        }
    }

    /// Mostly in what a replay reads.
    fn rot(&mut self) {
        for _ in 0..self.r.within(1, 3) {
            let (trimmed, durable) = (self.log.trimmed as u64, self.log.durable as u64);
            if durable > trimmed {
                let low = if self.r.one_in(3) { trimmed } else { trimmed.max(durable.saturating_sub(4)) };
                let block = self.r.within(low, durable - 1) as usize;
                self.done.rotten += u64::from(self.log.rotten.insert(block));
            }
        }
    }

    fn cut(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        if !connection.is_cut {
            self.done.cuts += 1;
            connection.is_cut = true;
            connection.up.cut(&mut self.r, self.now);
            connection.down.cut(&mut self.r, self.now);
        }
    }

    fn crash_source(&mut self, source: usize) {
        let player = self.current[source];
        if !self.players[player].is_done {
            self.done.source_crashes += 1;
            self.kill(player);
            self.current[source] = self.new_life(source);
        }
    }

    fn kill(&mut self, player: usize) {
        self.note_finished(player);
        self.players[player].is_alive = false;
        if let Some(connection) = self.players[player].connection.take() {
            self.connections[connection].source_listens = false;
            self.cut(connection);
        }
    }

    fn crash_receiver(&mut self) {
        if self.intake.is_none() {
            return;
        }
        self.done.receiver_crashes += 1;
        self.drained_at = None;
        self.close_books();
        self.intake = None;
        self.back_at = Some(self.now + self.r.millis(1, 100));
        for connection in &mut self.connections {
            connection.key = None;
            if !connection.is_cut {
                connection.is_cut = true;
                connection.down.cut(&mut self.r, self.now);
            }
        }
        // What was not flushed may survive all the same, but nothing behind what did not.
        let log = &mut self.log;
        let mut survivors = log.durable + self.r.below((log.blocks.len() - log.durable) as u64 + 1) as usize;
        if self.story.lie == Some(Lie::LoseFlushed) {
            survivors = survivors.saturating_sub(self.r.below(4) as usize).max(log.trimmed);
        }
        log.blocks.truncate(survivors);
        log.rotten.split_off(&survivors);
        log.durable = survivors;
        log.flushes.clear();
        log.retry_at = None;
    }

    fn close_books(&mut self) {
        if let Some(intake) = &self.intake {
            let IntakeStats { duplicates, gaps, replaced, rejected, records, .. } = intake.stats();
            self.done.duplicates += duplicates;
            self.done.gaps += gaps;
            self.done.replaced += replaced;
            self.done.rejects += rejected;
            self.done.records += records;
        }
    }

    // --- the receiver ----------------------------------------------------------------------------------------------

    /// Reads the stream as a node does. `None`: there is damage, and somebody has to decide.
    fn replay(&mut self, accept_damage: bool) -> Result<Option<ReplayEnd>, String> {
        let (first, end) = (Lsn::new(self.log.trimmed as u64 + 1), Lsn::new(self.log.durable as u64));
        let lie = self.story.lie;
        let mut replay = Replay::new(first, end, accept_damage || lie == Some(Lie::AcceptRot));
        let mut is_pointer = true;
        loop {
            let wanted = match replay.wanted() {
                Ok(Some(wanted)) => wanted,
                Ok(None) => return Ok(Some(replay.end())),
                Err(ReplayError::Damaged { lsns })
                    if self.log.rotten.contains(&(lsns.start.get() as usize - 1)) && !accept_damage =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(format!("{error:?}, and {} blocks were trimmed", self.log.trimmed)),
            };
            for number in wanted.start.get()..wanted.end.get() {
                let half = (wanted.start.get() + wanted.end.get()) / 2;
                let is_hidden = match lie {
                    Some(Lie::ForgetSources) => !is_pointer,
                    Some(Lie::ReplayHalf) => !is_pointer && number < half,
                    _ => false,
                };
                let at = number as usize - 1;
                if self.log.rotten.contains(&at) {
                    if lie != Some(Lie::HideRot) || is_pointer {
                        replay.unreadable(LsnRange::inclusive(Lsn::new(number), Lsn::new(number)));
                    }
                } else if !is_hidden {
                    replay.block(&Block::read(&self.log.blocks[at]).map_err(|e| e.to_string())?);
                    is_pointer = false;
                }
            }
        }
    }

    fn open_receiver(&mut self) -> Result<(), String> {
        self.back_at = None;
        self.oracle.durable(&self.log.blocks[..self.log.durable])?;
        let found = match self.replay(false)? {
            Some(found) => found,
            None => {
                self.done.refused += 1;
                self.resolve_damage()?
            }
        };
        let config = self.story.config.clone();
        let durable = Lsn::new(self.log.durable as u64);
        let is_damaged = !found.damaged.is_empty();
        let mut intake = Intake::new(config, "in", found.sources, durable, found.from, 0).with_check(no_x());
        intake.set_rate(self.at(), self.rate());
        if is_damaged {
            intake.request_snapshot(seawall::Lsn::MAX);
        }
        self.oracle.opened(|id| intake.source(id).map_or(Seq::ZERO, |source| source.durable))?;
        self.intake = Some(intake);
        self.tell(|| "the receiver is there".to_owned());
        Ok(())
    }

    /// The receiver does not open: blocks are brought back from a copy, or given up.
    fn resolve_damage(&mut self) -> Result<ReplayEnd, String> {
        if self.r.one_in(2) {
            self.tell(|| "damage is repaired".to_owned());
            let SimLog { rotten, given_up, .. } = &mut self.log;
            rotten.retain(|block| given_up.contains(block));
            if let Some(found) = self.replay(false)? {
                return Ok(found);
            }
        }
        self.done.accepted += 1;
        let rotten = self.log.rotten.clone();
        self.tell(|| format!("damage is accepted: {rotten:?}"));
        let found = self.replay(true)?.ok_or("damage that is accepted is refused")?;
        let log = &mut self.log;
        let mut named = found.damaged.iter().flat_map(|lsns| lsns.start.get()..lsns.end.get());
        let rotten: Vec<_> = log.rotten.range(log.trimmed..).map(|block| *block as u64 + 1).collect();
        if !named.by_ref().eq(rotten.iter().copied()) {
            return Err(format!("blocks {rotten:?} cannot be read, and {:?} are named", found.damaged));
        }
        log.given_up.extend(&log.rotten);
        let readable = (log.trimmed..log.durable).filter(|block| !log.rotten.contains(block));
        let blocks = &log.blocks;
        self.oracle.accept_damage(log.trimmed, readable.map(|block| &blocks[block]))?;
        // What is not known to be durable is not committed, as far as the receiver knows.
        for (id, committed) in &mut self.committed {
            let known = found.sources.durable(id).unwrap_or_default();
            *committed = known.min(*committed);
        }
        Ok(found)
    }

    fn flush(&mut self) -> Result<(), String> {
        let at = self.at();
        while let Some((due, blocks)) = self.log.flushes.front().copied() {
            if due > self.now {
                break;
            }
            self.log.flushes.pop_front();
            self.become_durable(blocks)?;
            if let Some(intake) = &mut self.intake {
                intake.durable(at, Lsn::new(blocks as u64));
            }
        }
        Ok(())
    }

    fn become_durable(&mut self, blocks: usize) -> Result<(), String> {
        self.log.durable = self.log.durable.max(blocks);
        self.oracle.durable(&self.log.blocks[..self.log.durable])
    }

    fn append(&mut self) -> Result<(), String> {
        if self.log.retry_at.is_some_and(|at| at > self.now) {
            return Ok(());
        }
        self.log.retry_at = None;
        let at = self.at();
        loop {
            let Some(intake) = &mut self.intake else { return Ok(()) };
            let Some(pieces) = intake.take_block() else { return Ok(()) };
            let is_full = self.now < self.log.full_until;
            if is_full || (!self.is_calm && self.r.one_in(15)) {
                self.done.fulls += u64::from(is_full);
                intake.put_back(is_full);
                self.log.retry_at = Some(self.now + self.r.millis(1, 30));
                return Ok(());
            }
            let block: Bytes = pieces.concat().into();
            let is_twice = self.story.lie == Some(Lie::WriteTwice) && self.r.one_in(4);
            self.log.blocks.push(block.clone());
            if is_twice {
                self.log.blocks.push(block);
            }
            let blocks = self.log.blocks.len();
            if self.story.lie == Some(Lie::Swap) && self.r.one_in(2) && blocks >= self.log.durable + 2 {
                self.log.blocks.swap(blocks - 1, blocks - 2);
            }
            let slow = if self.now < self.log.slow_until { 400 } else { 8 };
            let due = self.now + self.r.millis(0, slow);
            let due = self.log.flushes.back().map_or(due, |(last, _)| due.max(*last));
            if self.log.flushes.is_empty() && self.r.one_in(10) {
                // The device is faster than the thread that appended.
                self.become_durable(blocks)?;
                let intake = self.intake.as_mut().expect("it is there");
                intake.durable(at, Lsn::new(blocks as u64));
                intake.placed(Lsn::new(blocks as u64));
            } else {
                intake.placed(Lsn::new(blocks as u64));
                self.log.flushes.push_back((due, blocks));
            }
            self.tell(|| format!("block {blocks}"));
        }
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.commit_at > self.now {
            return Ok(());
        }
        self.commit_at = self.now + self.r.millis(5, 50);
        let Some(intake) = &mut self.intake else { return Ok(()) };
        let more = self.log.durable.saturating_sub(self.committed_blocks) as u64;
        let until = self.committed_blocks + self.r.within(more.div_ceil(2), more) as usize;
        for block in &self.log.blocks[self.committed_blocks.min(until)..until] {
            let block = Block::read(block).map_err(|e| e.to_string())?;
            for (id, seq) in block.reached() {
                let committed = self.committed.entry(id.clone()).or_default();
                *committed = (*committed).max(seq);
            }
        }
        self.committed_blocks = until;
        intake.committed(Lsn::new(until as u64), self.committed.clone());
        let mut bound = intake.trim_bound().get();
        if self.story.lie == Some(Lie::TrimTooFar) && bound > 0 {
            bound = (bound + 2).min(self.log.durable as u64);
        }
        if bound > self.log.trimmed as u64 + 1 && self.r.one_in(2) {
            self.done.trims += 1;
            self.log.trimmed = bound as usize - 1;
        }
        self.done.snapshots += u64::from(self.log.durable > 0 && bound > 0);
        Ok(())
    }

    /// Reads what has arrived, as a transport does.
    fn read(&mut self, number: usize) -> Result<(), String> {
        let at = self.at();
        loop {
            let (Some(intake), connection) = (&mut self.intake, &mut self.connections[number]) else { return Ok(()) };
            let Some(key) = connection.key else { return Ok(()) };
            let limit = if intake.is_open(key) { intake.config().payload_bytes_max() + 16 } else { 4096 };
            let arrived = &mut connection.up.arrived;
            match &mut connection.reading {
                Reading::Head | Reading::Waiting | Reading::Body if arrived.len() < HEADER_BYTES => break,
                Reading::Head => {
                    let header = header_of(arrived)?;
                    let is_long = u64::from(header.body_bytes) > limit;
                    let cost = if is_long { Oversized::COST_BYTES } else { Intake::cost_bytes(header.body_bytes) };
                    connection.reading = match intake.reserve(at, key, cost) {
                        Reservation::Granted => Reading::Body,
                        Reservation::Waiting => {
                            self.done.waited += 1;
                            Reading::Waiting
                        }
                    };
                }
                Reading::Waiting if intake.is_granted(key) => connection.reading = Reading::Body,
                Reading::Waiting => return Ok(()),
                Reading::Body => {
                    let header = header_of(arrived)?;
                    if u64::from(header.body_bytes) > limit {
                        let head = HEADER_BYTES + Preview::BYTES;
                        if arrived.len() < head {
                            break;
                        }
                        let body =
                            preview(arrived[HEADER_BYTES..head].try_into().unwrap()).map_err(|e| e.to_string())?;
                        let payload = header.body_bytes as usize - Preview::BYTES;
                        let whole = arrived.split_to(head);
                        let Some(oversized) = intake.begin_oversized(key, body, payload as u64) else {
                            arrived.clear();
                            return Ok(());
                        };
                        self.done.oversized += 1;
                        connection.reading =
                            Reading::Passing { oversized: Box::new(oversized), missing: payload, whole };
                    } else {
                        if arrived.len() < header.frame_bytes() {
                            break;
                        }
                        let frame = arrived.split_to(header.frame_bytes()).freeze();
                        connection.reading = Reading::Head;
                        let message = decode(frame).map_err(|e| format!("the wire: {e}"))?;
                        self.take(key, number, message);
                    }
                }
                Reading::Passing { oversized, missing, whole } => {
                    let piece = arrived.split_to(arrived.len().min(*missing));
                    oversized.update(&piece);
                    whole.extend_from_slice(&piece);
                    *missing -= piece.len();
                    if *missing > 0 || arrived.len() < 4 {
                        break;
                    }
                    whole.extend_from_slice(&arrived.split_to(4));
                    decode(std::mem::take(whole).freeze()).map_err(|e| format!("the wire: {e}"))?;
                    let Reading::Passing { oversized, .. } = std::mem::replace(&mut connection.reading, Reading::Head)
                    else {
                        unreachable!()
                    };
                    intake.end_oversized(key, *oversized);
                }
            }
        }
        let connection = &mut self.connections[number];
        if connection.up.ended
            && let (Some(key), Some(intake)) = (connection.key.take(), &mut self.intake)
        {
            intake.disconnect(at, key);
            connection.down.end(self.now);
            self.tell(|| format!("the receiver has lost connection {number}"));
        }
        Ok(())
    }

    fn take(&mut self, key: SessionKey, number: usize, mut message: Message) {
        let at = self.at();
        let Some(intake) = &mut self.intake else { return };
        if self.story.lie == Some(Lie::TakeGaps)
            && let (Message::Send(send), Some((received, _))) = (&mut message, intake.positions(key))
        {
            send.previous = send.previous.min(received);
        }
        if let Message::Hello(hello) = &message {
            self.oracle.hello(number, hello);
        }
        self.tell(|| format!("connection {number} ► {}", short(&message)));
        self.intake.as_mut().expect("it is there").handle(at, key, message);
    }

    fn tick(&mut self) {
        let at = self.at();
        let Some(intake) = &mut self.intake else { return };
        for key in self.connections.iter().filter_map(|connection| connection.key) {
            if intake.next_deadline(key).is_some_and(|deadline| deadline <= at) {
                intake.tick(at, key);
            }
        }
    }

    /// Says what is to be said, to those that are listed.
    fn speak(&mut self) -> Result<(), String> {
        let at = self.at();
        while let Some(key) = self.intake.as_mut().and_then(Intake::poll_noisy) {
            let Some(number) = self.connections.iter().position(|connection| connection.key == Some(key)) else {
                continue;
            };
            while let Some(output) = self.intake.as_mut().and_then(|intake| intake.poll_output(key)) {
                match output {
                    SessionOutput::Message(mut message) => {
                        if let (Message::Ack(ack), Some(Lie::AckReceived)) = (&mut message, self.story.lie) {
                            ack.durable = ack.received;
                        }
                        if matches!(message, Message::Ack(_)) && self.story.lie == Some(Lie::Mute) {
                            continue;
                        }
                        self.oracle.said(number, &message, self.log.durable, &self.committed)?;
                        self.send(number, false, &message);
                    }
                    SessionOutput::Close => {
                        let connection = &mut self.connections[number];
                        connection.key = None;
                        connection.down.end(self.now);
                        self.intake.as_mut().expect("it is there").disconnect(at, key);
                    }
                }
            }
            self.read(number)?;
        }
        Ok(())
    }

    fn send(&mut self, number: usize, is_up: bool, message: &Message) {
        self.tell(|| format!("connection {number} {} {}", if is_up { "►…" } else { "◄" }, short(message)));
        let connection = &mut self.connections[number];
        if connection.is_cut {
            return;
        }
        let pipe = if is_up { &mut connection.up } else { &mut connection.down };
        let bytes = pipe.send(&mut self.r, self.now, self.story.delay_millis, message);
        (self.now, number, is_up, bytes).hash(&mut self.trace);
    }

    // --- the sources -----------------------------------------------------------------------------------------------

    fn new_life(&mut self, source: usize) -> usize {
        let story = &self.story.sources[source];
        let is_sequenced = story.sequences != Sequences::None;
        let config = OutboxConfig {
            source: (is_sequenced || self.r.one_in(2)).then(|| story.id.clone()),
            epoch: SourceEpoch::new(story.epoch),
            sequences: story.sequences,
            wait_for: story.wait_for,
            held_bytes_max: self.r.of(&[3000, 1 << 20]),
            send_bytes: self.r.of(&[200, 1500, 1 << 20]),
            ..OutboxConfig::default()
        };
        self.tell(|| format!("a life of source {source}"));
        self.players.push(Player {
            source,
            outbox: Outbox::new(config),
            connection: None,
            connect_at: Some(self.now + self.r.millis(0, 5)),
            is_alive: true,
            is_done: false,
            push_at: self.now,
            given: Vec::new(),
            rejects: Vec::new(),
        });
        self.players.len() - 1
    }

    /// The next item to give to an outbox.
    fn next_item(&self, player: &Player) -> Option<usize> {
        let story = &self.story.sources[player.source];
        let from = match (story.sequences, player.given.last()) {
            (Sequences::None, Some(last)) => last + 1,
            (Sequences::None, None) => self.finished[player.source],
            _ => {
                let pushed = player.outbox.positions().pushed.get();
                story.plan.partition_point(|planned| planned.seq <= pushed)
            }
        };
        let left_out = story.sequences != Sequences::Dense;
        (from..story.plan.len()).find(|at| !(left_out && story.plan[*at].item == Item::GivenUp))
    }

    /// Without sequences: remembers how far a life has come.
    fn note_finished(&mut self, player: usize) {
        let Player { source, outbox, given, .. } = &self.players[player];
        let story = &self.story.sources[*source];
        if story.sequences == Sequences::None && self.current.get(*source) == Some(&player) {
            let done = outbox.positions().of(story.wait_for).get() as usize;
            if let Some(last) = done.checked_sub(1) {
                self.finished[*source] = self.finished[*source].max(given[last] + 1);
            }
        }
    }

    fn play(&mut self, number: usize) -> Result<(), String> {
        if !self.players[number].is_alive || self.players[number].is_done {
            return Ok(());
        }
        let at = self.at();
        if self.players[number].connect_at.is_some_and(|due| due <= self.now) {
            self.connect(number);
        }
        self.listen(number)?;
        self.give(number)?;
        let is_due = self.is_calm || self.is_all_done(number) || self.r.one_in(3);
        if is_due {
            self.take_rejects(number)?;
        }
        if self.is_all_done(number) && self.story.sources[self.players[number].source].says_bye {
            self.players[number].outbox.close();
        }
        loop {
            let Some(output) = self.players[number].outbox.poll_output(at) else { break };
            let connection = self.players[number].connection;
            match output {
                OutboxOutput::Message(message) => {
                    let Some(connection) = connection else { return Err("an outbox speaks to nobody".to_owned()) };
                    self.send(connection, true, &message);
                }
                OutboxOutput::Reconnect { after, .. } => {
                    self.hang_up(number);
                    self.players[number].connect_at = Some(self.now + after + self.r.millis(0, 50));
                    break;
                }
                OutboxOutput::Close => {
                    self.hang_up(number);
                    self.closed(number)?;
                    break;
                }
            }
        }
        let is_done = self.is_all_done(number) && !self.story.sources[self.players[number].source].says_bye;
        if is_done {
            self.players[number].is_done = true;
            self.hang_up(number);
        }
        Ok(())
    }

    fn is_all_done(&self, number: usize) -> bool {
        let player = &self.players[number];
        let story = &self.story.sources[player.source];
        let all = match story.sequences {
            Sequences::None => player.given.len() as u64,
            _ => player.outbox.positions().pushed.get(),
        };
        let is_welcomed = player.outbox.is_welcomed();
        is_welcomed && self.next_item(player).is_none() && player.outbox.positions().of(story.wait_for).get() >= all
    }

    fn connect(&mut self, number: usize) {
        self.players[number].connect_at = None;
        let at = self.at();
        let Some(Ok(key)) = self.intake.as_mut().map(|intake| intake.connect(at)) else {
            self.players[number].connect_at = Some(self.now + self.r.millis(5, 50));
            return;
        };
        let connection = self.connections.len();
        self.connections.push(Connection {
            up: Pipe::default(),
            down: Pipe::default(),
            key: Some(key),
            source_listens: true,
            reading: Reading::Head,
            is_cut: false,
        });
        let player = &mut self.players[number];
        player.connection = Some(connection);
        player.outbox.connect();
        let hello = player.outbox.hello();
        self.oracle.connected(connection, player.source);
        self.send(connection, true, &hello);
    }

    fn hang_up(&mut self, number: usize) {
        if let Some(connection) = self.players[number].connection.take() {
            let connection = &mut self.connections[connection];
            connection.source_listens = false;
            connection.up.end(self.now);
        }
        self.players[number].outbox.disconnected();
    }

    fn listen(&mut self, number: usize) -> Result<(), String> {
        let at = self.at();
        let Some(connection) = self.players[number].connection else { return Ok(()) };
        loop {
            let arrived = &mut self.connections[connection].down.arrived;
            if arrived.len() < HEADER_BYTES {
                break;
            }
            let header = header_of(arrived)?;
            if arrived.len() < header.frame_bytes() {
                break;
            }
            let frame = arrived.split_to(header.frame_bytes()).freeze();
            let message = decode(frame).map_err(|e| format!("the wire: {e}"))?;
            self.tell(|| format!("connection {connection} …◄ {}", short(&message)));
            let player = &mut self.players[number];
            player.outbox.handle(at, message);
            self.oracle.heard(player.source, &player.outbox)?;
        }
        if self.connections[connection].down.ended {
            self.hang_up(number);
            self.players[number].connect_at = Some(self.now + self.r.millis(0, 50));
        }
        Ok(())
    }

    fn give(&mut self, number: usize) -> Result<(), String> {
        if self.players[number].push_at > self.now || self.players[number].outbox.failure().is_some() {
            return Ok(());
        }
        self.players[number].push_at = self.now + self.r.millis(0, 20);
        for _ in 0..self.r.within(1, 6) {
            let player = &mut self.players[number];
            let source = player.source;
            // Some lives begin to give before they were told where to go on: the source knows its numbers.
            if !player.outbox.is_welcomed() && !number.is_multiple_of(3) {
                return Ok(());
            }
            let Some(item) = self.next_item(&self.players[number]) else { return Ok(()) };
            let planned = self.story.sources[source].plan[item].clone();
            let sequences = self.story.sources[source].sequences;
            let player = &mut self.players[number];
            let result = match planned.item {
                Item::Skip | Item::GivenUp => player.outbox.skip(seq(planned.seq)).map(|()| Seq::ZERO),
                _ if sequences == Sequences::None => player.outbox.push(planned.bytes.into()),
                _ => player.outbox.push_at(seq(planned.seq), planned.bytes.into()),
            };
            match result {
                Ok(_) if sequences == Sequences::None => player.given.push(item),
                Ok(_) => {}
                Err(OutboxError::Full { .. }) => return Ok(()),
                Err(OutboxError::TooLarge { .. }) => {
                    if let (Some(connection), true) = (player.connection, self.r.one_in(2) && !self.is_calm) {
                        self.cut(connection);
                        self.hang_up(number);
                        self.players[number].connect_at = Some(self.now + self.r.millis(1, 20));
                    } else {
                        self.give_up(source, item);
                    }
                }
                Err(error) => return Err(format!("source {source} is refused a record: {error}")),
            }
        }
        Ok(())
    }

    fn give_up(&mut self, source: usize, item: usize) {
        self.tell(|| format!("source {source} gives up item {item}"));
        self.story.sources[source].plan[item].item = Item::GivenUp;
        self.oracle.give_up(source, item);
    }

    fn take_rejects(&mut self, number: usize) -> Result<(), String> {
        let player = &mut self.players[number];
        for reject in player.outbox.take_rejects() {
            if player.rejects.contains(&reject.seq.get()) {
                return Err(format!("the outbox tells of reject {} twice", reject.seq));
            }
            player.rejects.push(reject.seq.get());
            self.oracle.told_of_reject(player.source, reject);
        }
        Ok(())
    }

    /// The outbox is at its end: done, or refused.
    fn closed(&mut self, number: usize) -> Result<(), String> {
        let source = self.players[number].source;
        match self.players[number].outbox.failure().cloned() {
            None => {
                if !self.is_all_done(number) {
                    return Err(format!("source {source} closed with records that are not acknowledged"));
                }
                self.done.byes += 1;
                self.players[number].is_done = true;
                if self.current[source] != number {
                    self.players[number].is_alive = false;
                }
            }
            Some(OutboxError::Refused { code: Code::OldEpoch | Code::Replaced, .. }) => {
                self.replace(number);
            }
            Some(OutboxError::Refused { code: Code::Poison | Code::Oversized, .. }) => {
                self.note_finished(number);
                let story = &self.story.sources[source];
                let durable = self.players[number].outbox.positions().durable.get();
                let from = match story.sequences {
                    // What it was given may be from before another life went further.
                    Sequences::None => 0,
                    _ => story.plan.partition_point(|planned| planned.seq <= durable),
                };
                let find = |from: usize, kinds: &[Item]| {
                    (from..story.plan.len()).find(|at| kinds.contains(&story.plan[*at].item))
                };
                // Another life may have met the same record, given it up and gone further.
                let culprit = find(from, &[Item::Poison, Item::Oversized])
                    .or_else(|| find(0, &[Item::GivenUp]))
                    .ok_or_else(|| format!("source {source} was refused a good record"))?;
                self.give_up(source, culprit);
                self.replace(number);
            }
            // What it was told is lost, and somebody has said that this is accepted: it starts anew without that memory.
            Some(OutboxError::AckedLoss { .. }) if self.oracle.is_forgotten(source) => {
                self.done.losses_told += 1;
                self.replace(number);
            }
            // Its epoch was forgotten and given to another life, whose records are acknowledged to it.
            Some(OutboxError::Protocol(_)) if self.oracle.is_epoch_forgotten(source) => self.replace(number),
            Some(error) => return Err(format!("source {source}: {error}")),
        }
        Ok(())
    }

    /// A life that can do no more; the source's newest is followed by another.
    fn replace(&mut self, number: usize) {
        let source = self.players[number].source;
        self.note_finished(number);
        self.players[number].is_alive = false;
        if self.current[source] == number {
            self.current[source] = self.new_life(source);
        }
    }

    // --- the end ---------------------------------------------------------------------------------------------------

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
