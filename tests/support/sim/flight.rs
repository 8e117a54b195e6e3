//! Submitted writes: in flight until somebody says how they end.

use std::io;
use std::sync::Weak;

use seawall::storage::{Client, GroupWrite, WriteTimes};

use super::disk::SimDisk;
use super::fault::{FaultError, Hit};
use super::handle::SimFile;
use super::image::Ino;
use super::op::{Ended, Landed, Op, OpNumber};
use super::rng::Rng;
use super::state::{SessionId, Shared, State};

/// A write that was submitted and has not ended.
pub(super) struct Flight {
    pub(super) session: SessionId,
    pub(super) write: GroupWrite<SimFile>,
    /// `None` when an injected fault kept it from reaching the disk.
    pub(super) number: Option<OpNumber>,
    /// Its bytes are in the page cache; its flush has not ended.
    pub(super) cached: bool,
    /// How it ends if nobody says otherwise.
    pub(super) outcome: Outcome,
}

/// An end that its client has to be told.
pub(super) struct Letter {
    pub(super) client: Option<Weak<dyn Client<SimFile>>>,
    pub(super) write: GroupWrite<SimFile>,
    pub(super) result: io::Result<WriteTimes>,
}

/// How a submitted write ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Durable.
    Ok,
    /// With this error number; so much reached the disk all the same.
    Error(i32, Landed),
    /// The first bytes reached the disk; the client is told of a short write.
    Short(u64),
    /// The client is never told.
    Missing(Landed),
    /// The client is told that it is durable; so much is. What the rest was lost by, the device has told to the flush of another write.
    Forgotten(Landed),
    /// With an injected error.
    Injected(FaultError, Landed),
}

impl Outcome {
    /// An error before anything was written.
    pub fn error(errno: i32) -> Outcome {
        Outcome::Error(errno, Landed::Nothing)
    }

    pub(super) fn of_hit(hit: Hit, bytes: u64) -> Outcome {
        Outcome::Injected(hit.error, hit.landed(bytes))
    }
}

/// What becomes of writes in flight when their process is killed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KillChoice {
    /// All of them land.
    Landed,
    /// None does.
    Lost,
    /// Each in full, in part or not at all.
    Random(u64),
    /// These tokens as said, any other not at all.
    Each(Vec<(u64, Landed)>),
    /// They stay in flight, as writes of the kernel's, and keep their files' claims, until the test ends them.
    Linger,
}

impl KillChoice {
    fn landed(&self, token: u64, bytes: u64) -> Landed {
        match self {
            KillChoice::Landed | KillChoice::Linger => Landed::Full,
            KillChoice::Lost => Landed::Nothing,
            KillChoice::Random(seed) => match Rng::nth(*seed, token).below(3) {
                0 => Landed::Full,
                1 => Landed::Nothing,
                _ => Landed::partial(bytes, Rng::nth(*seed, !token).next()),
            },
            KillChoice::Each(fates) => {
                fates.iter().find(|(of, _)| *of == token).map_or(Landed::Nothing, |(_, landed)| *landed)
            }
        }
    }
}

impl State {
    /// Ends a write and says what its client is to be told, if anything.
    pub(super) fn end_flight(&mut self, flight: Flight, outcome: Outcome) -> Letter {
        let ok = if self.flushes_lie { Ended::Written } else { Ended::Durable };
        let (landed, ended, result) = match outcome {
            Outcome::Ok => (Landed::Full, ok, Ok(self.times)),
            Outcome::Error(errno, landed) => (landed, Ended::Failed, Err(io::Error::from_raw_os_error(errno))),
            Outcome::Short(bytes) => (Landed::Prefix(bytes), Ended::Failed, Err(io::ErrorKind::WriteZero.into())),
            Outcome::Missing(landed) | Outcome::Forgotten(landed) => (landed, Ended::Failed, Ok(self.times)),
            Outcome::Injected(error, landed) => (landed, Ended::Failed, Err(error.error())),
        };
        match flight.number {
            Some(_) if flight.cached => self.end_flush(flight.write.file.ino, ended),
            Some(write) => self.end_write(flight.write.file.ino, write, landed, ended),
            None => {}
        }
        let told = !matches!(outcome, Outcome::Missing(_)) && self.sessions[flight.session].alive;
        let client = self.sessions[flight.session].client.clone().filter(|_| told);
        Letter { client, write: flight.write, result }
    }

    /// See [`SimDisk::cache`].
    fn cache_flight(&mut self, at: usize) -> bool {
        let flight = &self.flights[at];
        let is_whole = flight.outcome == Outcome::Ok && !flight.cached && !self.options.direct;
        let (Some(write), true) = (flight.number, is_whole) else { return false };
        let file = flight.write.file.ino;
        self.end_write(file, write, Landed::Full, Ended::Written);
        self.flights[at].cached = true;
        true
    }

    /// Records the end of a flush whose bytes are in the page cache: it is one for all of the file.
    fn end_flush(&mut self, file: Ino, ended: Ended) {
        self.record(match ended {
            Ended::Durable => Op::Flush { file },
            Ended::Written => Op::FlushLied { file },
            Ended::Failed => Op::FlushFailed { file, kept: 0 },
        });
    }

    /// Records a write's end. Where a buffered flush failed, it failed for all of the file.
    pub(super) fn end_write(&mut self, file: Ino, write: OpNumber, landed: Landed, ended: Ended) {
        if let Some(what) = self.platter.write(write).map(|write| write.live.clone()) {
            let is_healed = |(of, range): &(Ino, std::ops::Range<u64>)| {
                *of == file
                    && landed == Landed::Full
                    && what.iter().any(|w| w.start <= range.start && range.end <= w.end)
            };
            self.unreadable.retain(|bad| !is_healed(bad));
        }
        self.record(Op::Done { write, landed, ended });
        if ended == Ended::Failed && !self.options.direct && self.platter.flushable(file) > 0 {
            self.record(Op::FlushFailed { file, kept: 0 });
        }
    }

    /// Ends the processes in `dead`; returns what their clients are to be told.
    fn kill(&mut self, dead: &[SessionId], choice: &KillChoice) -> Vec<Letter> {
        let mut letters = Vec::new();
        let ends = |flight: &mut Flight| dead.contains(&flight.session) && *choice != KillChoice::Linger;
        let ending: Vec<Flight> = self.flights.extract_if(.., ends).collect();
        for flight in ending {
            let landed = choice.landed(flight.write.token, flight.write.bytes());
            // A kill leaves the page cache alone.
            if let Some(write) = flight.number.filter(|_| !flight.cached) {
                self.end_write(flight.write.file.ino, write, landed, Ended::Written);
            }
            let client = self.sessions[flight.session].client.clone();
            letters.push(Letter { client, write: flight.write, result: Err(killed()) });
        }
        for session in dead {
            self.sessions[*session].alive = false;
        }
        self.lock = self.lock.filter(|holder| !dead.contains(&holder.session));
        let flying: Vec<u64> = self.flights.iter().map(|flight| flight.write.file.handle).collect();
        let files: Vec<Ino> = self.nodes.keys().copied().collect();
        for file in files {
            if let Some(node) = self.nodes.get_mut(&file) {
                node.handles.retain(|handle| !dead.contains(&handle.session) || flying.contains(&handle.id));
                node.maps.retain(|map| !dead.contains(&map.session));
            }
            self.forget_if_unused(file);
        }
        self.record(Op::Killed);
        letters
    }
}

/// What a dead process is told, were it to ask.
pub(super) fn killed() -> io::Error {
    io::Error::other("the simulated process was killed")
}

impl Letter {
    /// Tells the client. Never called with the disk's lock held.
    pub(super) fn deliver(self) {
        if let Some(client) = self.client.and_then(|client| client.upgrade()) {
            client.complete(self.write, self.result);
        }
    }
}

/// A write that has ended, which its client does not know yet: others may hear of theirs before.
#[must_use = "whoever waits for it waits until it is told"]
pub struct Untold(Letter);

impl Untold {
    /// Tells the client, on this thread.
    pub fn tell(self) {
        self.0.deliver();
    }
}

impl SimDisk {
    /// Tokens of submitted writes that have not ended, oldest first.
    pub fn pending(&self) -> Vec<u64> {
        self.shared.state.lock().flights.iter().map(|flight| flight.write.token).collect()
    }

    /// The bytes of one submitted write are in the page cache, and its flush has not ended: if that of another write to
    /// the file fails meanwhile, they are given up with that one's. However it ends, all of its bytes came so far. False,
    /// and nothing happens, on a direct disk, if they are there already, or if an injected fault awaits it.
    ///
    /// # Panics
    /// When no such write is in flight.
    pub fn cache(&self, token: u64) -> bool {
        let mut state = self.shared.state.lock();
        let at = state.flights.iter().position(|flight| flight.write.token == token);
        state.cache_flight(at.unwrap_or_else(|| panic!("no write {token} is in flight")))
    }

    /// Ends one submitted write, in any order, and tells its client, on this thread.
    ///
    /// # Panics
    /// When no such write is in flight.
    pub fn complete(&self, token: u64, outcome: Outcome) {
        self.end(token, outcome).tell();
    }

    /// Ends one submitted write; its client hears of it when it is told.
    ///
    /// # Panics
    /// When no such write is in flight.
    pub fn end(&self, token: u64, outcome: Outcome) -> Untold {
        let mut state = self.shared.state.lock();
        let at = state.flights.iter().position(|flight| flight.write.token == token);
        let flight = state.flights.remove(at.unwrap_or_else(|| panic!("no write {token} is in flight")));
        Untold(state.end_flight(flight, outcome))
    }

    /// Kills every process that uses the disk: locks and claims are released, volatile bytes stay where they are. What
    /// was in flight ends as `choice` says; the dead clients are told of an error, so that no thread waits for ever,
    /// and whatever they still ask of their storage is refused.
    pub fn kill(&self, choice: &KillChoice) {
        self.shared.kill(|_| true, choice);
    }
}

impl Shared {
    pub(super) fn kill(&self, which: impl Fn(SessionId) -> bool, choice: &KillChoice) {
        let letters = {
            let mut state = self.state.lock();
            let alive = |id: &SessionId| state.sessions[*id].alive && which(*id);
            let dead: Vec<SessionId> = (0..state.sessions.len()).filter(alive).collect();
            state.kill(&dead, choice)
        };
        letters.into_iter().for_each(Letter::deliver);
        self.wake.notify_all();
    }
}
