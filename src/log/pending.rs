//! A record on its way to the device.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::commit::Placed;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::io::{Disk, Storage, is_forked_child};
use crate::sync::now;
use crate::types::{Lsn, LsnRange};

/// A record that has its position and is on its way to the device.
///
/// [`Pending::wait`] (or `.await`) returns when the record is durable. An error means *unknown*, not absent: after
/// reopening the log the record is there, or can never come back. Dropping a `Pending` neither cancels nor waits: the
/// record is written all the same.
#[must_use = "the record is not durable before this is waited for"]
pub struct Pending<S: Storage = Disk> {
    shared: Arc<Shared<S>>,
    first: Lsn,
    last: Lsn,
    chunk: u64,
    era: u64,
    task: Option<u64>,
    arrived: bool,
}

impl<S: Storage> Pending<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, first: Placed, last: Placed) -> Pending<S> {
        let Placed { lsn, chunk, era, .. } = last;
        Pending { shared, first: first.lsn, last: lsn, chunk, era, task: None, arrived: false }
    }

    /// The record's position; of several, the last one's.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.last
    }

    /// The positions of all records of this append.
    #[must_use]
    pub fn lsns(&self) -> LsnRange {
        LsnRange::inclusive(self.first, self.last)
    }

    /// Whether the outcome is known already; `wait` would not block.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.shared.settled(self.last, self.era).is_some()
    }

    /// Writes the record's group on this thread, which is blocked for as long as the device takes, where the log has nothing else
    /// to write and nothing under way. Else it does nothing; the outcome is asked for as always.
    #[cfg(feature = "receiver")]
    pub(crate) fn write_lone(&self) {
        self.shared.write_lone(self.chunk);
    }

    /// Blocks until the record survived a flush of the device. The calling thread writes its own group when that is the
    /// fastest way.
    ///
    /// # Errors
    /// [`crate::Error::Poisoned`], [`crate::Error::Unknown`]: the outcome is unknown until the log is reopened.
    /// [`crate::Error::Truncated`]: it was durable, and [`crate::Log::truncate`] has removed it since.
    pub fn wait(self) -> Result<Lsn> {
        self.shared.wait(self.last, self.chunk, self.era)?;
        Ok(self.last)
    }
}

impl<S: Storage> Future for Pending<S> {
    type Output = Result<Lsn>;

    /// Does no I/O: the driver writes what tasks wait for.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        if let Some(settled) = self.shared.settled(self.last, self.era) {
            // Whoever settled it takes it off the list, or has: not to be looked for among all that wait.
            self.task = None;
            return Poll::Ready(settled.map(|()| self.last));
        }
        if is_forked_child() {
            return Poll::Ready(Err(Error::Forked));
        }
        let id = self.shared.waiters.register(self.last, self.task, context.waker());
        self.task = Some(id);
        if !std::mem::replace(&mut self.arrived, true) {
            let kick = self.shared.pipe.lock().arrive_task(self.chunk, now());
            if kick {
                self.shared.storage.kick();
            }
        }
        // What was settled between the look and the registration woke nobody.
        match self.shared.settled(self.last, self.era) {
            Some(settled) => Poll::Ready(settled.map(|()| self.last)),
            None => Poll::Pending,
        }
    }
}

impl<S: Storage> Drop for Pending<S> {
    fn drop(&mut self) {
        // In a child the waiters are the parent's, and their lock may be held by nobody.
        if let Some(id) = self.task
            && !is_forked_child()
        {
            self.shared.waiters.deregister(id);
        }
    }
}

impl<S: Storage> std::fmt::Debug for Pending<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({})", self.lsns())
    }
}
