//! Readers: to an end (`Reader`), or for ever (`Tail`, `TailStream`).

use std::time::Duration;

use super::reader::{Cursor, Frame};
use crate::error::Result;
#[cfg(feature = "stream")]
use crate::io::is_forked_child;
use crate::io::{Disk, Storage};
use crate::sync::now;
use crate::types::Lsn;

/// Frames in order up to an end. After an error that names frames ([`crate::Error::Corrupt`],
/// [`crate::Error::Quarantined`], [`crate::Error::Trimmed`] …) iteration goes on behind them; any other error ends it.
pub struct Reader<S: Storage = Disk> {
    cursor: Cursor<S>,
    end: Lsn,
    failed: bool,
}

impl<S: Storage> Reader<S> {
    pub(super) fn new(cursor: Cursor<S>, end: Lsn) -> Reader<S> {
        Reader { cursor, end, failed: false }
    }

    /// The frame that comes next.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.cursor.next
    }
}

/// True when the cursor stepped over what the error names, so that reading can go on.
fn goes_on<S: Storage>(cursor: &Cursor<S>, before: Lsn) -> bool {
    cursor.next != before
}

impl<S: Storage> Iterator for Reader<S> {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        if self.failed || self.cursor.next >= self.end {
            return None;
        }
        let before = self.cursor.next;
        let read = self.cursor.read();
        if read.is_err() {
            self.failed = !goes_on(&self.cursor, before);
        }
        read.transpose()
    }
}

/// Longest sleep at the head, after which another one follows.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// Frames in order, for ever: `next` blocks until there is one. Ends (`None`) when the log is closed or abandoned, or takes
/// no appends, and everything flushed has been read.
pub struct Tail<S: Storage = Disk> {
    cursor: Cursor<S>,
    failed: bool,
}

impl<S: Storage> Tail<S> {
    pub(super) fn new(cursor: Cursor<S>) -> Tail<S> {
        Tail { cursor, failed: false }
    }

    /// The frame that comes next.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.cursor.next
    }

    /// The next frame, or `None` when there is none within `patience` (or ever: then the iterator ends).
    ///
    /// # Errors
    /// As [`crate::Log::read`]; reading goes on behind what an error names.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Frame>> {
        let until = now().checked_add(patience);
        loop {
            let before = self.cursor.next;
            match self.cursor.read() {
                Ok(None) => {}
                Err(error) => {
                    self.failed = !goes_on(&self.cursor, before);
                    return Err(error);
                }
                read => return read,
            }
            let shared = &self.cursor.shared;
            let left = until.map(|until| until.saturating_duration_since(now()));
            // What the clock cannot say no condition variable takes either.
            let patience = shared.sleep_max(Some(left.unwrap_or(PATIENCE_MAX))).unwrap_or(PATIENCE_MAX);
            let mut guard = shared.news_lock.lock();
            if shared.flushed() >= self.cursor.next {
                continue;
            }
            if shared.is_over() {
                return Ok(None);
            }
            let is_late = shared.news.wait_for(&mut guard, patience).timed_out();
            if is_late && until.is_some_and(|until| now() >= until) {
                return Ok(None);
            }
        }
    }
}

impl<S: Storage> Iterator for Tail<S> {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        loop {
            if self.failed {
                return None;
            }
            match self.next_within(PATIENCE_MAX) {
                Ok(None) if self.cursor.shared.is_over() && self.cursor.shared.flushed() < self.cursor.next => {
                    return None;
                }
                Ok(None) => {}
                read => return read.transpose(),
            }
        }
    }
}

/// Frames in order, for ever, as a `Stream`. Ends where a [`Tail`] does.
#[cfg(feature = "stream")]
pub struct TailStream<S: Storage = Disk> {
    tail: Tail<S>,
    /// Among those that wait for news.
    number: Option<u64>,
}

#[cfg(feature = "stream")]
impl<S: Storage> TailStream<S> {
    pub(super) fn new(cursor: Cursor<S>) -> TailStream<S> {
        TailStream { tail: Tail::new(cursor), number: None }
    }
}

#[cfg(feature = "stream")]
impl<S: Storage> futures_core::Stream for TailStream<S> {
    type Item = Result<Frame>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame>>> {
        use std::task::Poll;
        let TailStream { tail, number } = self.get_mut();
        if tail.failed {
            return Poll::Ready(None);
        }
        for registered in [false, true] {
            let before = tail.cursor.next;
            // Looked at before the frames are: what was flushed before the end is read before the end is told.
            let is_over = tail.cursor.shared.is_over();
            match tail.cursor.read() {
                Ok(None) => {}
                Err(error) => {
                    tail.failed = !goes_on(&tail.cursor, before);
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
            }
            let shared = &tail.cursor.shared;
            if registered && is_over {
                return Poll::Ready(None);
            }
            if !registered {
                // Registered first, then looked again: news in between are not missed, nor the last frames of a log
                // that is being closed.
                shared.news_tasks.lock().register(number, context.waker());
            }
        }
        Poll::Pending
    }
}

#[cfg(feature = "stream")]
impl<S: Storage> Drop for TailStream<S> {
    fn drop(&mut self) {
        // In a child the lock may be held by nobody.
        if let Some(number) = self.number
            && !is_forked_child()
        {
            self.tail.cursor.shared.news_tasks.lock().deregister(number);
        }
    }
}
