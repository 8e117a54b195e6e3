//! One connection's state, and what it has to say next.

use std::time::{Duration, Instant};

use super::super::message::{Ack, Code, Message, Nack, Sequences, WaitFor, Welcome};
use super::super::sources::SourceRef;
use crate::types::{Seq, SourceEpoch, SourceId};

/// A session's place; the generation keeps a late caller from meeting another session there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl SessionKey {
    /// A number for diagnostics, different for every session since the receiver was opened.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Its place among the sessions that are there: small numbers, given again.
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }

    #[cfg(test)]
    pub(crate) fn for_tests(index: u32) -> SessionKey {
        SessionKey { index, generation: 0 }
    }
}

/// What to do with the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionOutput {
    /// Send this.
    Message(Message),
    /// Close it, once everything before is sent.
    Close,
}

/// Where a session stands.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing was heard yet.
    Connected,
    /// The source is known; what its last session left on its way, and its epoch, become durable first.
    Attaching(Peer),
    Open(Peer),
    /// Only what is in `farewell` is still to be sent.
    Ending,
}

/// Who is at the other end, and what was agreed.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// `None` without sequences: nothing is remembered of such a source.
    pub(super) source: Option<SourceRef>,
    pub(super) id: Option<SourceId>,
    pub(super) epoch: SourceEpoch,
    pub(super) sequences: Sequences,
    pub(super) wait_for: WaitFor,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) heard: Instant,
    pub(super) pinged: Option<Instant>,
    /// It stands for clients that keep nothing.
    pub(super) is_gateways: bool,
    /// In the list of those that have something to say.
    pub(super) is_listed: bool,
    /// Charged for the message that is being read.
    pub(super) reserved: u64,
    pub(super) is_waiting: bool,

    /// SEND payloads received, and those whose credit came back.
    pub(super) sent_bytes: u64,
    pub(super) released_bytes: u64,
    pub(super) credit_told: u64,
    /// Without sequences: the session's own count.
    pub(super) received: Seq,
    pub(super) durable: Seq,
    pub(super) duplicates: u64,
    /// SENDs are passed over until one begins here.
    pub(super) rewinding_to: Option<Seq>,
    pub(super) said_bye: bool,

    pub(super) welcome: Option<Box<Welcome>>,
    pub(super) nack: Option<Nack>,
    /// Said besides: it must not take the place of where to go on.
    pub(super) full: Option<Nack>,
    pub(super) go_away: Option<(Code, Duration, String)>,
    pub(super) ack_due: bool,
    pub(super) pong: Option<u64>,
    pub(super) ping: Option<u64>,
    pub(super) bye_due: bool,
    /// An acknowledgment that was due when the session ended in order: said before the farewell.
    pub(super) last_ack: Option<Box<Ack>>,
    pub(super) farewell: Option<Farewell>,
}

/// How a session ends.
#[derive(Debug)]
pub(super) enum Farewell {
    Nack(Nack),
    Redirect { address: String, retry_after_millis: u32 },
    Bye,
    Close,
}

impl Session {
    pub(super) fn new(now: Instant) -> Session {
        Session {
            state: State::Connected,
            since: now,
            heard: now,
            pinged: None,
            is_gateways: false,
            is_listed: false,
            reserved: 0,
            is_waiting: false,
            sent_bytes: 0,
            released_bytes: 0,
            credit_told: 0,
            received: Seq::ZERO,
            durable: Seq::ZERO,
            duplicates: 0,
            rewinding_to: None,
            said_bye: false,
            welcome: None,
            nack: None,
            full: None,
            go_away: None,
            ack_due: false,
            pong: None,
            ping: None,
            bye_due: false,
            last_ack: None,
            farewell: None,
        }
    }

    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Attaching(peer) | State::Open(peer) => Some(peer),
            State::Connected | State::Ending => None,
        }
    }

    /// Who may send records.
    pub(super) fn open_peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Open(peer) => Some(peer),
            State::Connected | State::Attaching(_) | State::Ending => None,
        }
    }

    /// Says one last thing.
    pub(super) fn become_ending(&mut self, farewell: Farewell) {
        if !matches!(self.state, State::Ending) {
            self.state = State::Ending;
            self.farewell = Some(farewell);
        }
    }

    /// The next thing to say besides acknowledgments, whose content is the intake's.
    pub(super) fn next_output(&mut self, ack: impl FnOnce(&mut Session) -> Ack) -> Option<SessionOutput> {
        if matches!(self.state, State::Ending) {
            if let Some(ack) = self.last_ack.take() {
                return Some(SessionOutput::Message(Message::Ack(*ack)));
            }
            return Some(match self.farewell.replace(Farewell::Close) {
                Some(Farewell::Nack(nack)) => SessionOutput::Message(Message::Nack(nack)),
                Some(Farewell::Redirect { address, retry_after_millis }) => {
                    SessionOutput::Message(Message::Redirect { address, retry_after_millis })
                }
                Some(Farewell::Bye) => SessionOutput::Message(Message::Bye),
                Some(Farewell::Close) | None => SessionOutput::Close,
            });
        }
        let message = if let Some(welcome) = self.welcome.take() {
            Message::Welcome(*welcome)
        } else if let Some(nack) = self.nack.take() {
            Message::Nack(nack)
        } else if let Some(full) = self.full.take() {
            Message::Nack(full)
        } else if let Some((code, deadline, text)) = self.go_away.take() {
            let deadline_millis = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
            Message::GoAway { code, deadline_millis, text }
        } else if std::mem::take(&mut self.ack_due) {
            Message::Ack(ack(self))
        } else if let Some(nonce) = self.pong.take() {
            Message::Pong { nonce }
        } else if let Some(nonce) = self.ping.take() {
            Message::Ping { nonce, rejects_seen: Seq::ZERO }
        } else if std::mem::take(&mut self.bye_due) {
            Message::Bye
        } else {
            return None;
        };
        Some(SessionOutput::Message(message))
    }
}

/// Sessions by their keys.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    places: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, session: Session) -> SessionKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("sessions_max is a u32")
        });
        let (generation, place) = &mut self.places[index as usize];
        *place = Some(Box::new(session));
        SessionKey { index, generation: *generation }
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        let (generation, session) = self.places.get(key.index as usize)?;
        session.as_deref().filter(|_| *generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        let (generation, session) = self.places.get_mut(key.index as usize)?;
        session.as_deref_mut().filter(|_| *generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        self.get(key)?;
        let (generation, session) = &mut self.places[key.index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        session.take().map(|session| *session)
    }

    pub(super) fn keys(&self) -> Vec<SessionKey> {
        let used = self.places.iter().enumerate().filter(|(_, (_, session))| session.is_some());
        used.map(|(index, (generation, _))| SessionKey { index: index as u32, generation: *generation }).collect()
    }
}
