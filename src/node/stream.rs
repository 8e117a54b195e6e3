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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::config::Config;
    use crate::io::{Driver, DriverConfig};
    use crate::node::skip::skipped;

    /// Whoever writes a lone block may follow it behind the one that was placed next: that one, still on its way, hid that the
    /// first was durable.
    #[test]
    fn a_block_that_is_followed_late_is_heard_before_those_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        // Nobody turns it: only what this thread writes itself becomes durable.
        let (driver, _loop) = match Driver::in_event_loop(DriverConfig::default()) {
            Ok(driver) => driver,
            Err(e) => return skipped(format_args!("an event loop, which needs io_uring: {e}")),
        };
        let (log, _) = Log::open_with(dir.path(), Config::default(), &driver).expect("a log");
        let mut context = Context::from_waker(Waker::noop());
        let mut stream = Stream::new(&log);
        // The first segment comes to be meanwhile.
        let first = loop {
            match log.try_append(b"first") {
                Err(Error::Busy { .. }) => std::thread::yield_now(),
                appended => break appended.expect("an append"),
            }
        };
        first.write_lone();
        let second = log.try_append(b"second").expect("there is room");
        assert!(!stream.follow(second, &mut context), "nobody has written it");
        assert!(stream.follow(first, &mut context));
        let Poll::Ready(Ok(durable)) = stream.poll_durable(&mut context) else { panic!("the first is durable") };
        assert_eq!(durable, Lsn::FIRST);
        assert!(stream.poll_durable(&mut context).is_pending());
    }
}
