//! A listener that survives what accepting can answer, and takes no more connections than there are file descriptors
//! for: all listeners of a process live of what its logs and others leave them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

use crate::events::event;

/// A listener that got an error (no more file descriptors, for one) rests so long, and one for which no descriptor is
/// left: who gives one back may be another listener, which tells nobody. Connections wait in the kernel.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See the head of the file.
pub(super) struct Listener {
    listener: TcpListener,
    descriptors: Descriptors,
    rests: Option<Pin<Box<Sleep>>>,
}

/// A connection. The descriptor is given back with it.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) descriptor: Descriptor,
}

impl Listener {
    pub(super) fn new(listener: TcpListener, descriptors: Descriptors) -> Listener {
        Listener { listener, descriptors, rests: None }
    }

    /// The next connection; `failed` is called for each time it cannot accept.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>, failed: impl Fn()) -> Poll<Accepted> {
        loop {
            if let Some(rests) = &mut self.rests {
                ready!(rests.as_mut().poll(cx));
                self.rests = None;
            }
            let Some(descriptor) = self.descriptors.take() else {
                self.rests = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                continue;
            };
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, peer)) => return Poll::Ready(Accepted { stream, peer, descriptor }),
                // Of one connection that is gone already.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_e) => {
                    event!(warn, error = %_e, "a listener cannot accept and rests");
                    failed();
                    self.rests = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// Left to logs, which wait for one as they wait for space, and to others: the admin port's connections are among them.
const DESCRIPTORS_KEPT: usize = 64;

/// Held by connections of this process.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// How many descriptors the connections of the whole process may hold, as one listener saw it when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    most: usize,
}

/// The descriptor of one connection.
#[derive(Debug)]
pub(super) struct Descriptor(());

impl Descriptors {
    /// Counts what is left now for a listener that wants `wanted` connections.
    pub(super) fn count(wanted: usize) -> Descriptors {
        let allowed = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let others = open.saturating_sub(HELD.load(Ordering::Relaxed));
        let most = allowed.saturating_sub(others + DESCRIPTORS_KEPT).max(1);
        if most < wanted {
            event!(warn, connections = most, wanted, "RLIMIT_NOFILE allows fewer connections than the configuration");
        }
        Descriptors { most }
    }

    /// Whatever is left: for those by whom one learns what is wrong.
    #[cfg(feature = "http")]
    pub(super) fn all() -> Descriptors {
        Descriptors { most: usize::MAX }
    }

    /// A descriptor for a connection that is about to be accepted.
    pub(super) fn take(self) -> Option<Descriptor> {
        let one_more = |held| (held < self.most).then(|| held + 1);
        let taken = HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Descriptor(()))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}
