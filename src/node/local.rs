//! Records from connectors in the same process: the same sessions without a wire.

use super::error::ReceiverError;
use super::park::block_on;
use super::receiver::Receiver;
use super::talk::{Speaker, Talk, TalkError};
use crate::io::{Disk, Storage};
use crate::receiver::{Code, Nack, PayloadBuilder, ReceiverConfig, Reject, Sequences, WaitFor};
use crate::types::{Lsn, Seq, SourceEpoch, SourceId};

/// A source in this process. One call at a time; several sources run side by side.
pub struct LocalSource<S: Storage = Disk> {
    talk: Talk<S>,
    config: ReceiverConfig,
    sequences: Sequences,
    wait_for: WaitFor,
    resume: Seq,
    /// Handed over.
    last: Seq,
    /// Rejects that nobody was told of yet.
    rejects: Vec<Reject>,
    /// The last reject that was heard of; the last one that a [`Stored`] told of; up to where the receiver was told that they
    /// were seen.
    heard: Seq,
    handed_out: Seq,
    said: Seq,
}

/// Records that are handed over together.
struct Batch {
    payload: PayloadBuilder,
    /// The last of them.
    last: Seq,
}

/// Records that are durable; after [`LocalSource::receive`], or from a source that waits for `received`, only received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The last record's sequence.
    pub last: Seq,
    /// The stream is durable at least up to here; [`Lsn::ZERO`] after [`LocalSource::receive`].
    pub durable_lsn: Lsn,
    /// Records that were rejected and are not in the data, with [`crate::receiver::Poison::DeadLetter`]: of these, and of earlier
    /// ones that nobody was told of. The next call says that they were seen; a source that is opened instead is told again.
    pub rejects: Vec<Reject>,
}

impl<S: Storage> Receiver<S> {
    /// A source with a name and dense sequences: records are numbered from where it stood, so that a connector that
    /// remembers how many records it gave knows which ones to repeat: those behind [`LocalSource::resume`].
    ///
    /// # Errors
    /// [`ReceiverError::Refused`]: retired, too many, or not a name; and when the receiver ends.
    pub async fn local(&self, source: &str) -> Result<LocalSource<S>, ReceiverError> {
        let id = SourceId::new(source);
        let sequences = if id.is_some() { Sequences::Dense } else { Sequences::None };
        LocalSource::open(self, id, sequences, WaitFor::Durable).await
    }

    /// As [`Receiver::local`], with sequences of the connector's choice and, without them, an optional name.
    ///
    /// # Errors
    /// As [`Receiver::local`].
    pub async fn local_with(
        &self,
        source: Option<SourceId>,
        sequences: Sequences,
        wait_for: WaitFor,
    ) -> Result<LocalSource<S>, ReceiverError> {
        LocalSource::open(self, source, sequences, wait_for).await
    }

    /// As [`Receiver::local`], on a thread.
    ///
    /// # Errors
    /// As [`Receiver::local`].
    pub fn local_blocking(&self, source: &str) -> Result<LocalSource<S>, ReceiverError> {
        block_on(self.local(source))
    }
}

impl<S: Storage> LocalSource<S> {
    async fn open(
        receiver: &Receiver<S>,
        source: Option<SourceId>,
        sequences: Sequences,
        wait_for: WaitFor,
    ) -> Result<LocalSource<S>, ReceiverError> {
        let id = source.as_ref().map_or(&[][..], SourceId::as_bytes);
        let speaker = Speaker { source: id, sequences, wait_for, epoch: SourceEpoch::ZERO };
        let talk = Talk::open(receiver, &speaker).await?;
        let resume = talk.durable();
        let mut source = LocalSource {
            talk,
            config: receiver.config(),
            sequences,
            wait_for,
            resume,
            last: resume,
            rejects: Vec::new(),
            heard: Seq::ZERO,
            handed_out: Seq::ZERO,
            said: Seq::ZERO,
        };
        source.note_rejects();
        Ok(source)
    }

    /// Everything up to here is durable: go on behind it.
    #[must_use]
    pub fn resume(&self) -> Seq {
        self.resume
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> SourceEpoch {
        self.talk.epoch()
    }

    /// Stores records and returns when they are durable; for a source that waits for `received`, when they are in the
    /// receiver's memory. Dense: each gets the next sequence. (`committed` is told over the wire only.)
    ///
    /// Cancelled in its middle, some of the records may be stored all the same; open the source again to know. The next ones
    /// follow those that were handed over, and the next [`Stored`] tells what was rejected of them. Where one call has more rejects than
    /// a source may leave unseen, the receiver is told of the first ones before it ends: these only this source knows of then.
    ///
    /// # Errors
    /// [`ReceiverError::Refused`]: what lies behind `expected` was not taken, and the next records follow that, where the source may
    /// go on (`RejectsUnseen`: those before have to be durable first). And the log's: then the outcome is unknown.
    pub async fn store<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        self.hand_over(records).await?;
        self.settle().await
    }

    /// Hands records over and returns when they are in the receiver's memory: at most once, if that is all one waits for.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub async fn receive<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        self.hand_over(records).await?;
        Ok(self.stored(Lsn::ZERO))
    }

    async fn hand_over<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<(), ReceiverError> {
        let mut batch = self.batch();
        for record in records {
            let next = batch.last.checked_add(1).ok_or(ReceiverError::Ended)?;
            self.add(&mut batch, next, record.as_ref()).await?;
        }
        self.send(batch).await
    }

    /// Stores records with their sequences (sparse).
    ///
    /// # Errors
    /// As [`LocalSource::store`]; sequences that do not go up are [`ReceiverError::Refused`].
    pub async fn store_at<R: AsRef<[u8]>>(&mut self, records: &[(Seq, R)]) -> Result<Stored, ReceiverError> {
        let mut batch = self.batch();
        for (seq, record) in records {
            self.add(&mut batch, *seq, record.as_ref()).await?;
        }
        self.send(batch).await?;
        self.settle().await
    }

    /// Returns when everything given so far is durable; at once for a source that waits for `received` only.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub async fn settle(&mut self) -> Result<Stored, ReceiverError> {
        self.say_seen(self.handed_out)?;
        self.hear_durable().await?;
        Ok(self.stored(self.talk.durable_lsn()))
    }

    async fn hear_durable(&mut self) -> Result<(), TalkError> {
        while self.talk.durable() < self.last && self.wait_for != WaitFor::Received {
            self.talk.hear().await.map_err(|error| self.refused(error))?;
            self.note_rejects();
        }
        Ok(())
    }

    fn stored(&mut self, durable_lsn: Lsn) -> Stored {
        self.handed_out = self.heard;
        Stored { last: self.last, durable_lsn, rejects: std::mem::take(&mut self.rejects) }
    }

    /// As [`LocalSource::store`], on a thread.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub fn store_blocking<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        block_on(self.store(records))
    }

    /// Of what comes behind what was handed over.
    fn batch(&self) -> Batch {
        Batch { payload: PayloadBuilder::new(self.sequences, self.last), last: self.last }
    }

    async fn add(&mut self, batch: &mut Batch, seq: Seq, record: &[u8]) -> Result<(), ReceiverError> {
        let Batch { payload, last } = &*batch;
        let is_full = payload.bytes() as u64 + record.len() as u64 + 8 > self.config.frame_bytes_max
            || payload.records() >= self.config.frame_records_max;
        if payload.records() > 0 && is_full {
            let next = Batch { payload: PayloadBuilder::new(self.sequences, *last), last: *last };
            self.send(std::mem::replace(batch, next)).await?;
        }
        batch.payload.push(seq, record).map_err(|error| ReceiverError::Refused {
            code: Code::Mismatch,
            at: seq,
            expected: batch.last,
            text: error.to_string(),
        })?;
        batch.last = seq;
        Ok(())
    }

    async fn send(&mut self, Batch { payload, last }: Batch) -> Result<(), ReceiverError> {
        if payload.records() == 0 {
            return Ok(());
        }
        // The rejects that were told meanwhile stand behind a refusal, once there is one.
        self.talk.listen()?;
        self.note_rejects();
        self.say_seen(self.handed_out)?;
        let bytes = payload.bytes() as u64;
        let send = payload.finish();
        // No window is as long: it would wait for room for ever.
        let passes_by = bytes > self.config.payload_bytes_max();
        loop {
            let sent = if passes_by {
                self.talk.pass_by(send.clone()).await
            } else {
                self.talk.room(bytes).await?;
                self.talk.send(send.clone())
            };
            self.last = last;
            self.note_rejects();
            let Err(error) = sent else { break };
            let error = self.refused(error);
            if !is_for_rejects(&error) || self.said >= self.heard {
                return Err(error.into());
            }
            // They are kept here, to be handed out: the same is given again, and what was taken of it is found to be there.
            self.say_seen(self.heard)?;
        }
        if passes_by {
            // Nothing else paces such records, and only so many rejects may be unseen.
            self.hear_durable().await?;
        }
        Ok(())
    }

    /// What is refused and does not end the session is not on its way: the next batch follows what was taken.
    fn refused(&mut self, error: TalkError) -> TalkError {
        if let TalkError::Refused(Nack { fatal: false, expected, .. }) = &error {
            self.last = *expected;
        }
        error
    }

    /// Keeps the rejects that were told: all that are unseen, each time, those of a later record behind.
    fn note_rejects(&mut self) {
        let heard = self.heard;
        for reject in self.talk.take_rejects().into_iter().filter(|reject| reject.seq > heard) {
            self.heard = self.heard.max(reject.seq);
            self.rejects.push(reject);
        }
    }

    /// Has the receiver tell rejects up to here no more.
    fn say_seen(&mut self, upto: Seq) -> Result<(), TalkError> {
        if self.said < upto {
            self.said = upto;
            self.talk.note_rejects_seen(upto)?;
            self.note_rejects();
        }
        Ok(())
    }
}

/// Whether a record was refused because others are to be taken note of first.
fn is_for_rejects(error: &TalkError) -> bool {
    matches!(error, TalkError::Refused(Nack { code: Code::RejectsUnseen, fatal: false, .. }))
}

impl<S: Storage> std::fmt::Debug for LocalSource<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSource").field("epoch", &self.epoch()).field("last", &self.last).finish_non_exhaustive()
    }
}
