//! One stream as its receiver sees it: blocks in, and how far they are durable.
//!
//! With one member, durable is what this node's log has flushed. A replicated stream will answer the same two questions
//! and mean a quorum; the receiver reads no other watermark.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::codec::Checksummed;
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::log::{Log, Pending};
use crate::types::Lsn;

/// The writer's end of a stream.
pub(super) struct Stream<S: Storage> {
    /// Blocks on their way to the device, oldest first.
    pending: VecDeque<Pending<S>>,
    durable: Lsn,
}

/// The log has no room for a block now.
pub(super) enum NoRoom {
    /// Too much is in flight.
    Busy,
    /// There is no space, or it could not be prepared this time.
    Full(Error),
}

impl<S: Storage> Stream<S> {
    pub(super) fn new(log: &Log<S>) -> Stream<S> {
        Stream { pending: VecDeque::new(), durable: log.flushed() }
    }

    /// Whether blocks are on their way.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a block whose append has succeeded; `context` is woken when it is durable. True when its outcome is known
    /// already: nobody is woken then.
    #[must_use]
    pub(super) fn follow(&mut self, mut pending: Pending<S>, context: &mut Context<'_>) -> bool {
        // Polled at once: the log writes first what somebody waits for. The outcome is asked for again in its turn.
        let is_settled = Pin::new(&mut pending).poll(context).is_ready();
        // Whoever was placed first may come here last.
        let behind = self.pending.partition_point(|other| other.lsn() < pending.lsn());
        self.pending.insert(behind, pending);
        is_settled
    }

    /// How far the stream has become durable since the last call.
    pub(super) fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        let before = self.durable;
        while let Some(pending) = self.pending.front_mut() {
            match Pin::new(pending).poll(context) {
                Poll::Ready(Ok(lsn)) => {
                    self.pending.pop_front();
                    self.durable = self.durable.max(lsn);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.durable > before { Poll::Ready(Ok(self.durable)) } else { Poll::Pending }
    }
}

/// Appends a block, without waiting and without the stream's lock: the copy may be long.
pub(super) fn append<S: Storage>(log: &Log<S>, pieces: &[Checksummed]) -> Result<Result<Pending<S>, NoRoom>> {
    match log.try_append_checksummed(pieces) {
        Ok(pending) => Ok(Ok(pending)),
        Err(Error::Busy { .. }) => Ok(Err(NoRoom::Busy)),
        Err(error) if log.is_for_now(&error) => Ok(Err(NoRoom::Full(error))),
        Err(error) => Err(error),
    }
}
