//! A stream whose reads and rates are looked at.

use std::sync::{Arc, Mutex};

use seawall::node::{Frames, ReceiverError, StreamPort};
use seawall::{Ballot, Chain, LogId, Lsn, LsnRange, Promise};

use super::*;

/// A stream that notes what it is asked.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) receiver: seawall::node::Receiver,
    pub(super) rates: Arc<Mutex<Vec<Option<f64>>>>,
    pub(super) frames: Arc<Mutex<Vec<LsnRange>>>,
    /// A frame that cannot be read for now.
    pub(super) fails_at: Arc<Mutex<Option<Lsn>>>,
}

impl Watched {
    pub(super) fn new(stream: &Stream) -> Watched {
        let (rates, frames, fails_at) = Default::default();
        Watched { receiver: stream.receiver.clone(), rates, frames, fails_at }
    }
}

pub(super) fn unreadable() -> seawall::Error {
    let source = Arc::new(std::io::Error::other("unreadable"));
    seawall::Error::Io { op: "read", file: "a segment".into(), offset: None, source }
}

impl StreamPort for Watched {
    fn id(&self) -> LogId {
        self.receiver.id()
    }
    fn claim(&self, promise: Promise) -> seawall::Result<()> {
        self.receiver.claim(promise)
    }
    fn bounds(&self) -> (Lsn, Lsn) {
        self.receiver.bounds()
    }
    fn chain_at(&self, lsn: Lsn) -> seawall::Result<Chain> {
        if Some(lsn) == *self.fails_at.lock().unwrap() {
            return Err(unreadable());
        }
        self.receiver.chain_at(lsn)
    }
    fn frames(&self, range: LsnRange) -> Frames {
        self.frames.lock().unwrap().push(range);
        let fails_at = *self.fails_at.lock().unwrap();
        let fail = move |frame: seawall::Result<seawall::Frame>| match frame {
            Ok(frame) if Some(frame.lsn) == fails_at => Err(unreadable()),
            other => other,
        };
        Box::new(self.receiver.frames(range).map(fail))
    }
    fn committed(&self, ballot: Ballot, lsn: Lsn) -> Result<(), ReceiverError> {
        StreamPort::committed(&self.receiver, ballot, lsn)
    }
    fn trim(&self, ballot: Ballot, lsn: Lsn) -> Result<Lsn, ReceiverError> {
        StreamPort::trim(&self.receiver, ballot, lsn)
    }
    fn set_rate(&self, ballot: Ballot, bytes_per_second: Option<f64>) -> Result<(), ReceiverError> {
        self.rates.lock().unwrap().push(bytes_per_second);
        StreamPort::set_rate(&self.receiver, ballot, bytes_per_second)
    }
}
