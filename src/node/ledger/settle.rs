//! What becomes of batches, and what follows for streams: what is committed is told, given up, and paces what may come.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::config::LedgerConfig;
use super::error::LedgerError;
use super::open::known_chain;
use super::port::StreamPort;
use super::{Inner, Ledger, Source, name};
use crate::events::event;
use crate::io::Storage;
use crate::ledger::{BatchKey, BatchStatus, Broken, Event, Input, PartKey, Range, SinkError};
use crate::node::ReceiverError;
use crate::node::replay::is_passed_over;
use crate::receiver::{Block, PidController};
use crate::types::{BatchId, InputId, Lsn, LsnRange};

impl<S: Storage> Ledger<S> {
    /// The batch's output is there: durable when it returns. Said twice with one token it is said once.
    ///
    /// # Errors
    /// [`LedgerError::Settled`] when it was committed with another token or abandoned; [`LedgerError::NotPending`] for one
    /// that was never allocated, or so long ago that nothing is known of it. [`LedgerError::Fenced`], [`LedgerError::Failed`].
    pub fn commit(&self, batch: BatchId, token: impl Into<Bytes>) -> Result<(), LedgerError> {
        let inner = &self.inner;
        let token = token.into();
        match inner.status_of(batch) {
            Some(BatchStatus::Pending) => {}
            Some(BatchStatus::Committed { token: known, .. }) if known == token => return Ok(()),
            Some(BatchStatus::Committed { token, .. }) => {
                let what = format!("committed with token {}", token.escape_ascii());
                return Err(LedgerError::Settled { batch, what });
            }
            Some(BatchStatus::Abandoned { reason, .. }) => {
                return Err(LedgerError::Settled { batch, what: format!("abandoned: {}", name(&reason)) });
            }
            None => return Err(LedgerError::NotPending { batch, ledger: inner.ledger }),
        }
        let records = inner.state.lock().batch(batch).map(|known| (known.records(), known.bytes()));
        match inner.write(vec![Event::BatchCommitted { batch, token: token.clone() }]) {
            // Somebody else has just said it.
            Err(LedgerError::Broken(Broken::NotPending(_))) => return self.commit(batch, token),
            written => written?,
        }
        inner.pace.lock().committed(batch, records.unwrap_or_default(), super::now());
        inner.tell_streams();
        Ok(())
    }

    /// An operator gives a batch up: its records are in no output, and never in another batch. The output is fenced first, so
    /// that a run of the batch that is still under way cannot store it afterwards. Sources that wait for their records to be
    /// committed are told so of these as well: nothing more comes of them.
    ///
    /// # Errors
    /// What `fence` says (see [`crate::ledger::Sink::fence`]), wrapped; otherwise as [`Ledger::commit`].
    pub fn abandon(
        &self,
        batch: BatchId,
        reason: &str,
        fence: impl FnOnce(BatchKey) -> Result<(), SinkError>,
    ) -> Result<(), LedgerError> {
        let inner = &self.inner;
        match inner.status_of(batch) {
            Some(BatchStatus::Pending) => {}
            Some(BatchStatus::Abandoned { .. }) => return Ok(()),
            Some(BatchStatus::Committed { .. }) => {
                return Err(LedgerError::Settled { batch, what: "committed".to_owned() });
            }
            None => return Err(LedgerError::NotPending { batch, ledger: inner.ledger }),
        }
        // The batch is another driver's by now, which may be about to store it.
        inner.check_alive()?;
        fence(self.key(batch)).map_err(|source| LedgerError::Sink { batch, source })?;
        match inner.write(vec![Event::BatchAbandoned { batch, reason: reason.as_bytes().to_vec().into() }]) {
            Err(LedgerError::Broken(Broken::NotPending(_))) => {
                return Err(LedgerError::Settled { batch, what: "settled by somebody else".to_owned() });
            }
            written => written?,
        }
        inner.pace.lock().forget(batch);
        inner.tell_streams();
        Ok(())
    }

    /// An operator gives frames of a stream up that are in no batch: everything that is not allocated, through `last`. For
    /// those that cannot be read ([`LedgerError::Unreadable`]); it is written down with the reason. Sources that wait for their
    /// records to be committed are told so of these as well.
    ///
    /// # Errors
    /// [`LedgerError::NoInput`], [`LedgerError::NoStream`], [`LedgerError::NotAttached`]; [`LedgerError::Broken`] when there is nothing to give up;
    /// [`LedgerError::Stream`] when what could be read cannot be for now.
    pub fn drop_range(&self, input: &str, last: Lsn, reason: &str) -> Result<(), LedgerError> {
        let inner = &self.inner;
        let _planning = inner.planner.lock();
        let id = inner.known(input)?;
        let Source::Stream(port) = inner.source(id)? else {
            return Err(LedgerError::NoStream { name: input.to_owned() });
        };
        let from = inner.state.lock().input(id).and_then(Input::stream).map_or(0, |part| part.allocated);
        let (_, durable) = port.bounds();
        let to = last.min(durable).next().get();
        // Behind what cannot be read, the chain may be unknown: then the next batch tells it.
        let digest = known_chain(input, &*port, Lsn::new(to).previous())?;
        // Of what can be read it is known how much is given up.
        let (mut records, mut bytes) = (0, 0);
        for frame in port.frames(LsnRange::new(Lsn::new(from), Lsn::new(to))) {
            match frame {
                Ok(frame) => {
                    records += Block::gist(&frame.payload).map_or(0, |gist| gist.records);
                    bytes += frame.payload.len() as u64;
                }
                Err(error) if is_passed_over(&error) => {}
                Err(source) => return Err(LedgerError::Stream { name: input.to_owned(), source }),
            }
        }
        let range = Range { input: id, part: PartKey::default(), opens: None, from, to, digest, records, bytes };
        inner.write(vec![Event::RangeDropped { range, reason: reason.as_bytes().to_vec().into() }])?;
        inner.tell_streams();
        Ok(())
    }
}

impl<S: Storage> Inner<S> {
    fn status_of(&self, batch: BatchId) -> Option<BatchStatus> {
        let state = self.state.lock();
        let open = state.batch(batch).map(|known| known.status.clone());
        open.or_else(|| state.recent().rev().find(|settled| settled.batch == batch).map(|s| s.status.clone()))
    }

    /// What is committed by now, and how much may come. A stream that cannot be told now is told with the next commit: the
    /// commit itself is durable.
    fn tell_streams(&self) {
        let sources = self.sources.lock().clone();
        for (id, source) in sources {
            if let Source::Stream(port) = source {
                self.tell_stream_or_later(id, &*port);
            }
        }
    }

    pub(super) fn tell_stream_or_later(&self, id: InputId, port: &dyn StreamPort) {
        if let Err(_error) = self.tell_stream(id, port) {
            event!(warn, input = id.get(), error = %_error, "a stream could not be told what is committed");
        }
    }

    fn tell_stream(&self, id: InputId, port: &dyn StreamPort) -> Result<(), ReceiverError> {
        let upto = {
            let state = self.state.lock();
            let input = state.input(id);
            // Where nothing was ever committed there is nothing to tell.
            let part = input.and_then(Input::stream).filter(|part| part.committed > 1);
            part.map(|part| Lsn::new(part.committed).previous())
        };
        let first = port.bounds().0;
        if let Some(upto) = upto.filter(|upto| upto.next() >= first) {
            port.committed(self.ballot, upto)?;
        }
        let rate = self.rate_of();
        // As long as ours is not known, what the driver before has set stays.
        if rate.is_some() || self.config.rate.is_none() {
            port.set_rate(self.ballot, rate)?;
        }
        Ok(())
    }

    /// Bytes a second that a stream's sources may send.
    fn rate_of(&self) -> Option<f64> {
        let streams = self.sources.lock().values().filter(|source| matches!(source, Source::Stream(_))).count();
        Some(self.pace.lock().bytes_per_second()? / streams.max(1) as f64)
    }

    /// Streams give up what the ledger says is trimmed. One that held something back, or could not, is asked again the next time.
    pub(super) fn trim_streams(&self) {
        if !self.config.trim_streams {
            return;
        }
        let sources = self.sources.lock().clone();
        for (id, source) in sources {
            let Source::Stream(port) = source else { continue };
            let upto = Lsn::new(self.state.lock().input(id).map_or(0, |input| input.trimmed));
            if port.bounds().0 <= upto
                && let Err(_error) = port.trim(self.ballot, upto)
            {
                event!(warn, input = id.get(), error = %_error, "a stream could not be trimmed");
            }
        }
    }
}

/// How long batches take, and what that lets in.
#[derive(Debug)]
pub(super) struct Pace {
    pid: Option<PidController>,
    began: Instant,
    /// When batches were allocated by this driver. Those of an earlier one tell nothing of how fast the engine is.
    allocated: BTreeMap<BatchId, Instant>,
    record_bytes: f64,
    /// When the last batch ended: one that was allocated before had to wait until then.
    ended: Option<Instant>,
}

impl Pace {
    pub(super) fn new(config: &LedgerConfig, now: Instant) -> Pace {
        Pace {
            pid: config.rate.map(|pid| PidController::new(pid, config.batch_interval)),
            began: now,
            allocated: BTreeMap::new(),
            record_bytes: config.record_bytes_first as f64,
            ended: None,
        }
    }

    pub(super) fn allocated(&mut self, batch: BatchId, now: Instant) {
        if self.pid.is_some() {
            self.allocated.insert(batch, now);
        }
    }

    fn forget(&mut self, batch: BatchId) {
        self.allocated.remove(&batch);
    }

    fn committed(&mut self, batch: BatchId, (records, bytes): (u64, u64), now: Instant) {
        // Also one that an earlier driver had allocated: what comes behind it has waited for it.
        let before = self.ended.replace(now);
        let (Some(pid), Some(allocated)) = (&mut self.pid, self.allocated.remove(&batch)) else { return };
        let began = before.map_or(allocated, |ended| ended.max(allocated));
        let (waited, took) = (began.saturating_duration_since(allocated), now.saturating_duration_since(began));
        pid.completed(now.saturating_duration_since(self.began), records, took, waited);
        if records > 0 {
            self.record_bytes = (bytes as f64 / records as f64).max(1.0);
        }
    }

    fn bytes_per_second(&self) -> Option<f64> {
        Some(self.pid.as_ref()?.records_per_second() * self.record_bytes)
    }
}
