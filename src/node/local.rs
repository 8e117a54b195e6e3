//! Records from connectors in the same process: the same sessions without a wire.

use super::error::ReceiverError;
use super::park::block_on;
use super::receiver::Receiver;
use super::session::Session;
use crate::io::{Disk, Storage};
use crate::receiver::{
    Hello, Message, PayloadBuilder, ReceiverConfig, Reject, Sequences, SessionOutput, WaitFor, Welcome,
};
use crate::types::{Lsn, Seq, SourceEpoch, SourceId};

/// A source in this process. One call at a time; several sources run side by side.
#[derive(Debug)]
pub struct LocalSource<S: Storage = Disk> {
    session: Session<S>,
    config: ReceiverConfig,
    sequences: Sequences,
    wait_for: WaitFor,
    welcome: Welcome,
    last: Seq,
    sent_bytes: u64,
    credit_bytes: u64,
    durable: Seq,
    durable_lsn: Lsn,
    rejects: Vec<Reject>,
}

/// Records that are durable; after [`LocalSource::receive`], or from a source that waits for `received`, only received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The last record's sequence.
    pub last: Seq,
    /// The stream is durable at least up to here; [`Lsn::ZERO`] after [`LocalSource::receive`].
    pub durable_lsn: Lsn,
    /// Those among them that were rejected and are not in the data, with [`crate::receiver::Poison::DeadLetter`].
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
        let mut session = receiver.connect().map_err(refused)?;
        session.handle(Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            sequences,
            wait_for,
            epoch: SourceEpoch::ZERO,
            source: source.as_ref().map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
            ..Hello::default()
        }));
        loop {
            match session.next_output().await {
                SessionOutput::Message(Message::Welcome(welcome)) => {
                    return Ok(LocalSource {
                        config: receiver.config(),
                        session,
                        sequences,
                        wait_for,
                        last: welcome.durable,
                        sent_bytes: 0,
                        credit_bytes: welcome.credit_bytes,
                        durable: welcome.durable,
                        durable_lsn: welcome.durable_lsn,
                        rejects: welcome.rejects.clone(),
                        welcome,
                    });
                }
                SessionOutput::Message(Message::Nack(nack)) => return Err(refused(nack)),
                SessionOutput::Message(_) => {}
                SessionOutput::Close => return Err(session.failure().unwrap_or(ReceiverError::Ended)),
            }
        }
    }

    /// Everything up to here is durable: go on behind it.
    #[must_use]
    pub fn resume(&self) -> Seq {
        self.welcome.durable
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> SourceEpoch {
        self.welcome.epoch
    }

    /// Stores records and returns when they are durable; for a source that waits for `received`, when they are in the
    /// receiver's memory. Dense: each gets the next sequence. (`committed` is told over the wire only.)
    ///
    /// Cancelled in its middle, the records may be stored all the same; open the source again to know.
    ///
    /// # Errors
    /// [`ReceiverError::Refused`], and the log's: then the outcome is unknown.
    pub async fn store<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        self.receive(records).await?;
        self.settle().await
    }

    /// Hands records over and returns when they are in the receiver's memory: at most once, if that is all one waits for.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub async fn receive<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        let mut payload = PayloadBuilder::new(self.sequences, self.last);
        for record in records {
            let record = record.as_ref();
            let next = self.last.checked_add(1).ok_or(ReceiverError::Ended)?;
            payload = self.add(payload, next, record).await?;
        }
        self.send(payload).await?;
        Ok(Stored { last: self.last, durable_lsn: Lsn::ZERO, rejects: Vec::new() })
    }

    /// Stores records with their sequences (sparse).
    ///
    /// # Errors
    /// As [`LocalSource::store`]; sequences that do not go up are [`ReceiverError::Refused`].
    pub async fn store_at<R: AsRef<[u8]>>(&mut self, records: &[(Seq, R)]) -> Result<Stored, ReceiverError> {
        let mut payload = PayloadBuilder::new(self.sequences, self.last);
        for (seq, record) in records {
            payload = self.add(payload, *seq, record.as_ref()).await?;
        }
        self.send(payload).await?;
        self.settle().await
    }

    /// Returns when everything given so far is durable; at once for a source that waits for `received` only.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub async fn settle(&mut self) -> Result<Stored, ReceiverError> {
        while self.durable < self.last && self.wait_for != WaitFor::Received {
            self.hear().await?;
        }
        Ok(Stored { last: self.last, durable_lsn: self.durable_lsn, rejects: std::mem::take(&mut self.rejects) })
    }

    /// As [`LocalSource::store`], on a thread.
    ///
    /// # Errors
    /// As [`LocalSource::store`].
    pub fn store_blocking<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Stored, ReceiverError> {
        block_on(self.store(records))
    }

    async fn add(
        &mut self,
        mut payload: PayloadBuilder,
        seq: Seq,
        record: &[u8],
    ) -> Result<PayloadBuilder, ReceiverError> {
        let is_full = payload.bytes() as u64 + record.len() as u64 + 8 > self.config.frame_bytes_max
            || payload.records() >= self.config.frame_records_max;
        if payload.records() > 0 && is_full {
            self.send(payload).await?;
            payload = PayloadBuilder::new(self.sequences, self.last);
        }
        payload.push(seq, record).map_err(|error| ReceiverError::Refused {
            code: crate::receiver::Code::Mismatch,
            at: seq,
            expected: self.last,
            text: error.to_string(),
        })?;
        self.last = seq;
        Ok(payload)
    }

    async fn send(&mut self, payload: PayloadBuilder) -> Result<(), ReceiverError> {
        if payload.records() == 0 {
            return Ok(());
        }
        let bytes = payload.bytes() as u64;
        while self.sent_bytes + bytes > self.credit_bytes {
            self.hear().await?;
        }
        let body = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.session.reserve(body).await;
        self.sent_bytes += bytes;
        self.session.handle(Message::Send(payload.finish()));
        while let Some(output) = self.session.try_output() {
            self.take(output)?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), ReceiverError> {
        let output = self.session.next_output().await;
        self.take(output)
    }

    fn take(&mut self, output: SessionOutput) -> Result<(), ReceiverError> {
        match output {
            SessionOutput::Message(Message::Ack(ack)) => {
                self.credit_bytes = self.credit_bytes.max(ack.credit_bytes);
                self.durable = self.durable.max(ack.durable);
                self.durable_lsn = self.durable_lsn.max(ack.durable_lsn);
                // Only for what this ACK tells: the next one does not repeat it.
                let seen = ack.rejects.iter().map(|reject| reject.seq).max();
                for reject in ack.rejects {
                    if self.rejects.iter().all(|known| known.seq != reject.seq) {
                        self.rejects.push(reject);
                    }
                }
                if let Some(seen) = seen {
                    self.session.handle(Message::Ping { nonce: 0, rejects_seen: seen });
                }
                Ok(())
            }
            SessionOutput::Message(Message::Ping { nonce, .. }) => {
                self.session.handle(Message::Pong { nonce });
                Ok(())
            }
            SessionOutput::Message(Message::Nack(nack)) if nack.code == crate::receiver::Code::Full => Ok(()),
            SessionOutput::Message(Message::Nack(nack)) => Err(self.session.failure().unwrap_or_else(|| refused(nack))),
            SessionOutput::Message(_) => Ok(()),
            SessionOutput::Close => Err(self.session.failure().unwrap_or(ReceiverError::Ended)),
        }
    }
}

fn refused(nack: crate::receiver::Nack) -> ReceiverError {
    let crate::receiver::Nack { code, at, expected, text, .. } = nack;
    ReceiverError::Refused { code, at, expected, text }
}
