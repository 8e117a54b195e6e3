//! What a driver asks of a stream: how far it is, its frames, and to forget what is committed.
//!
//! Everything that changes something carries the driver's ballot: a driver that another one has taken over from changes
//! nothing. Here the stream is in the same process; a member of a replicated stream will answer the same over a network.

use crate::codec::Chain;
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::log::{Frame, Log};
use crate::node::Receiver;
use crate::node::ReceiverError;
use crate::types::{Ballot, LogId, Lsn, LsnRange, Promise};

/// Frames in order. After one that cannot be read the rest follows.
pub type Frames = Box<dyn Iterator<Item = Result<Frame>> + Send>;

/// A stream as its driver sees it.
pub trait StreamPort: Send + Sync {
    /// What the stream is recognized by.
    fn id(&self) -> LogId;

    /// The stream obeys this driver from now on, and belongs to its ledger. Durable when it returns. A rate that
    /// a driver before it has set stands until this one says another.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::OtherLedger`], and the log's.
    fn claim(&self, promise: Promise) -> Result<()>;

    /// The first frame that can be read (or will be), and the last durable one.
    fn bounds(&self) -> (Lsn, Lsn);

    /// The chain up to and including a frame.
    ///
    /// # Errors
    /// The log's.
    fn chain_at(&self, lsn: Lsn) -> Result<Chain>;

    /// Frames of a range that is durable.
    fn frames(&self, range: LsnRange) -> Frames;

    /// Everything up to `lsn` is in the gap-free prefix of committed batches: sources that wait for it are told.
    ///
    /// # Errors
    /// [`Error::Fenced`], and the receiver's.
    fn committed(&self, ballot: Ballot, lsn: Lsn) -> Result<(), ReceiverError>;

    /// Everything up to `lsn` may go; returns how far it went.
    ///
    /// # Errors
    /// [`Error::Fenced`], and the receiver's.
    fn trim(&self, ballot: Ballot, lsn: Lsn) -> Result<Lsn, ReceiverError>;

    /// Sources may send so many bytes a second; `None`: the limit that a driver has set is lifted, this one or one before it.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    fn set_rate(&self, ballot: Ballot, bytes_per_second: Option<f64>) -> Result<(), ReceiverError>;
}

impl<S: Storage> StreamPort for Receiver<S> {
    fn id(&self) -> LogId {
        self.log().id()
    }

    fn claim(&self, promise: Promise) -> Result<()> {
        self.log().promise(promise)?;
        self.inner.with(|intake, _| intake.obey(promise.ballot));
        Ok(())
    }

    fn bounds(&self) -> (Lsn, Lsn) {
        (self.log().first(), self.durable())
    }

    fn chain_at(&self, lsn: Lsn) -> Result<Chain> {
        self.log().chain_at(lsn)
    }

    fn frames(&self, range: LsnRange) -> Frames {
        Box::new(self.log().range(range))
    }

    fn committed(&self, ballot: Ballot, lsn: Lsn) -> Result<(), ReceiverError> {
        obey(self.log(), ballot)?;
        Receiver::committed(self, lsn)
    }

    fn trim(&self, ballot: Ballot, lsn: Lsn) -> Result<Lsn, ReceiverError> {
        obey(self.log(), ballot)?;
        Receiver::trim(self, lsn)
    }

    fn set_rate(&self, ballot: Ballot, bytes_per_second: Option<f64>) -> Result<(), ReceiverError> {
        obey(self.log(), ballot)?;
        // Asked again: another driver may have claimed the stream since.
        let set = self.inner.with(|intake, now| intake.set_rate_by(now, ballot, bytes_per_second));
        set.map_err(|promised| Error::Fenced { ballot, promised }.into())
    }
}

/// Refuses a driver that the log's promise does not name.
pub(super) fn obey<S: Storage>(log: &Log<S>, ballot: Ballot) -> Result<()> {
    let promised = log.promised().map_or(Ballot::ZERO, |promise| promise.ballot);
    if promised == ballot { Ok(()) } else { Err(Error::Fenced { ballot, promised }) }
}
