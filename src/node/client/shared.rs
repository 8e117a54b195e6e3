//! What a client's users and its task share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::watch;

use super::error::{ClientError, Disconnect};
use super::{ClientConfig, ClientStatus, LinkStatus, Room};
use crate::receiver::{Lost, Outbox, Positions, Reject, WaitFor};
use crate::sync::Mutex;
use crate::types::{Seq, SourceEpoch};

/// Rejects remembered for tickets that are not awaited although their records have come as far as the source waits for. Those of
/// others are no more than what the outbox holds.
const REJECTED_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wait_for: WaitFor,
    pub(super) room: Room,
    pub(super) acknowledged: watch::Sender<Positions>,
    pub(super) status: watch::Sender<ClientStatus>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    /// How far the source was ever told what it waits for. With its connection it may lose what was only received; that it was
    /// told so stands, and what is lost is told besides.
    reached: Seq,
    waiters: BTreeMap<(Seq, u64), Waker>,
    next_waiter: u64,
    /// Those that were told, whether or not their records have come as far as the source waits for.
    rejected: BTreeMap<Seq, Reject>,
    /// For who awaited their record when it had come so far, and has not looked yet.
    owed: BTreeMap<(Seq, u64), Reject>,
    /// The last one that there was no room for: of tickets up to here nobody knows any more.
    forgotten: Seq,
    /// Of the task, while it has nothing to do: users wake it then.
    pub(super) task: Option<Waker>,
    pub(super) is_closing: bool,
    end: Option<ClientError>,
}

impl Shared {
    pub(super) fn new(config: &ClientConfig) -> Shared {
        let outbox = Outbox::new(config.outbox.clone());
        let link = LinkStatus::Connecting { address: config.addresses[0].clone() };
        let status = ClientStatus { link, welcomes: 0, disconnects: 0, last_disconnect: None };
        Shared {
            wait_for: outbox.wait_for(),
            room: Room::new(),
            acknowledged: watch::Sender::new(outbox.positions()),
            status: watch::Sender::new(status),
            state: Mutex::new(State {
                reached: outbox.positions().of(outbox.wait_for()),
                outbox,
                waiters: BTreeMap::new(),
                next_waiter: 0,
                rejected: BTreeMap::new(),
                owed: BTreeMap::new(),
                forgotten: Seq::ZERO,
                task: None,
                is_closing: false,
                end: None,
            }),
        }
    }

    // --- of the users ----------------------------------------------------------------------------------------------

    pub(super) fn push(self: &Arc<Shared>, record: Bytes) -> Result<Until, ClientError> {
        self.give(|outbox| outbox.push(record))
    }

    pub(super) fn push_at(self: &Arc<Shared>, seq: Seq, record: Bytes) -> Result<Until, ClientError> {
        self.give(|outbox| outbox.push_at(seq, record))
    }

    pub(super) fn skip(self: &Arc<Shared>, to: Seq) -> Result<Until, ClientError> {
        self.give(|outbox| outbox.skip(to).map(|()| to))
    }

    fn give(
        self: &Arc<Shared>,
        give: impl FnOnce(&mut Outbox) -> Result<Seq, crate::receiver::OutboxError>,
    ) -> Result<Until, ClientError> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.end {
            return Err(cause.clone());
        }
        let seq = give(&mut state.outbox)?;
        let task = state.task.take();
        drop(state);
        task.inspect(Waker::wake_by_ref);
        Ok(Until { shared: self.clone(), seq, waiter: None })
    }

    /// For everything given so far.
    pub(super) fn until_all(self: &Arc<Shared>) -> Until {
        Until { shared: self.clone(), seq: self.positions().pushed, waiter: None }
    }

    /// Where to go on, once that is known.
    pub(super) fn welcomed(&self) -> Result<Option<Seq>, ClientError> {
        let state = self.state.lock();
        match &state.end {
            Some(cause) => Err(cause.clone()),
            None => Ok(state.outbox.is_welcomed().then(|| state.outbox.positions().pushed)),
        }
    }

    pub(super) fn positions(&self) -> Positions {
        self.state.lock().outbox.positions()
    }

    pub(super) fn epoch(&self) -> SourceEpoch {
        self.state.lock().outbox.epoch()
    }

    pub(super) fn held_and_resent(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.outbox.held_bytes(), state.outbox.resent())
    }

    pub(super) fn take_rejects(&self) -> Vec<Reject> {
        let mut state = self.state.lock();
        let rejects = state.outbox.take_rejects();
        let task = state.task.take();
        drop(state);
        task.inspect(Waker::wake_by_ref);
        rejects
    }

    pub(super) fn take_lost(&self) -> Vec<Lost> {
        self.state.lock().outbox.take_lost()
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closing = true;
        state.outbox.close();
        let task = state.task.take();
        drop(state);
        task.inspect(Waker::wake_by_ref);
    }

    pub(super) fn end(&self) -> Option<ClientError> {
        self.state.lock().end.clone()
    }

    // --- of the task -----------------------------------------------------------------------------------------------

    /// Works on the outbox, and wakes those whose records have come far enough.
    pub(super) fn work<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = (state.outbox.positions(), state.outbox.held_bytes(), state.outbox.is_welcomed());
        let known = state.outbox.rejects().len();
        let done = work(&mut state);
        let positions = state.outbox.positions();
        let long_reached = state.reached;
        let reached = positions.of(self.wait_for).max(long_reached);
        state.reached = reached;
        state.note_rejected(known, long_reached);
        let mut woken = BTreeMap::new();
        if reached > long_reached {
            let later = state.waiters.split_off(&(reached, u64::MAX));
            woken = std::mem::replace(&mut state.waiters, later);
            let owed = woken.keys().filter_map(|waiter| Some((*waiter, *state.rejected.get(&waiter.0)?)));
            let owed: Vec<_> = owed.collect();
            state.owed.extend(owed);
        }
        let has_room = state.outbox.held_bytes() < before.1 || state.outbox.is_welcomed() != before.2;
        drop(state);
        if positions != before.0 {
            self.acknowledged.send_replace(positions);
        }
        woken.into_values().for_each(Waker::wake);
        if has_room {
            self.room.notify_one();
        }
        done
    }

    pub(super) fn tell(&self, link: LinkStatus, disconnect: Option<Disconnect>) {
        self.status.send_modify(|status| {
            status.disconnects += u64::from(disconnect.is_some());
            status.welcomes += u64::from(matches!(link, LinkStatus::Connected { .. }));
            status.last_disconnect = disconnect.or_else(|| status.last_disconnect.take());
            status.link = link;
        });
    }

    /// Nothing goes on any more. The first cause stands.
    pub(super) fn become_ended(&self, cause: ClientError) {
        let mut state = self.state.lock();
        let cause = state.end.get_or_insert(cause).clone();
        let woken = std::mem::take(&mut state.waiters);
        drop(state);
        woken.into_values().for_each(Waker::wake);
        self.room.notify_one();
        if !matches!(self.status.borrow().link, LinkStatus::Ended { .. }) {
            self.tell(LinkStatus::Ended { cause }, None);
        }
    }
}

impl State {
    /// Keeps what tickets will ask for, once it is told: by the time its record has come as far as the source waits for, a
    /// reject may have been taken. `known` of those in the outbox were there before. Whose tickets could have been awaited since the
    /// last time may make room for others.
    fn note_rejected(&mut self, known: usize, long_reached: Seq) {
        for reject in self.outbox.rejects().get(known..).unwrap_or_default() {
            self.rejected.insert(reject.seq, *reject);
        }
        while self.rejected.len() > REJECTED_MAX
            && let Some(first) = self.rejected.first_entry().filter(|first| *first.key() <= long_reached)
        {
            self.forgotten = self.forgotten.max(first.remove().seq);
        }
    }
}

/// Waits until a sequence has come as far as the source waits for.
#[derive(Debug)]
pub(super) struct Until {
    shared: Arc<Shared>,
    seq: Seq,
    waiter: Option<u64>,
}

impl Until {
    pub(super) fn seq(&self) -> Seq {
        self.seq
    }

    /// Of a record.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Seq, ClientError>> {
        // Who waited when its record came so far is owed the reject, if there is one.
        let was_awaited = self.waiter.is_some();
        self.poll_with(cx, |state, seq, owed| {
            let rejected = state.rejected.remove(&seq).or(owed).map(ClientError::Rejected);
            if was_awaited {
                return rejected;
            }
            rejected.or_else(|| (seq <= state.forgotten).then_some(ClientError::Forgotten { seq }))
        })
    }

    /// Of a position.
    pub(super) fn poll_position(&mut self, cx: &mut Context<'_>) -> Poll<Result<Seq, ClientError>> {
        self.poll_with(cx, |_, _, _| None)
    }

    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        objection: impl FnOnce(&mut State, Seq, Option<Reject>) -> Option<ClientError>,
    ) -> Poll<Result<Seq, ClientError>> {
        let seq = self.seq;
        let mut state = self.shared.state.lock();
        if state.reached >= seq {
            let owed = self.waiter.take().and_then(|waiter| state.owed.remove(&(seq, waiter)));
            return Poll::Ready(objection(&mut state, seq, owed).map_or(Ok(seq), Err));
        }
        if let Some(cause) = &state.end {
            self.waiter = None;
            return Poll::Ready(Err(ClientError::Unknown { seq, cause: Arc::new(cause.clone()) }));
        }
        let waiter = *self.waiter.get_or_insert_with(|| {
            state.next_waiter += 1;
            state.next_waiter
        });
        let waker = state.waiters.entry((seq, waiter)).or_insert_with(|| cx.waker().clone());
        waker.clone_from(cx.waker());
        Poll::Pending
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            let mut state = self.shared.state.lock();
            state.waiters.remove(&(self.seq, waiter));
            state.owed.remove(&(self.seq, waiter));
        }
    }
}
