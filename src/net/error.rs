//! What can go wrong between two ends, and where.

use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A failure of a connection, or of what is needed to make one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// No connection was made.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// TLS was not agreed upon.
    #[error("TLS with {peer}: {source}")]
    Handshake {
        /// The other end.
        peer: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The connection failed.
    #[error("{op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The operating system's answer, or TLS's.
        source: Arc<io::Error>,
    },
    /// The other end closed in the middle of a message.
    #[error("the other end closed the connection within a message, behind {bytes} of its bytes")]
    Cut {
        /// How much of it had come.
        bytes: u64,
    },
    /// It took too long.
    #[error("{what} did not end within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// A certificate, a key or a list of them is not usable.
    #[error("TLS: the {what} in {place} {problem}")]
    Tls {
        /// Which of them.
        what: &'static str,
        /// The file's name, or "memory".
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A host name that is none.
    #[error("{name:?} is no host name that a certificate could be for")]
    Name {
        /// The name.
        name: String,
    },
}

impl NetError {
    pub(crate) fn io(op: &'static str, source: io::Error) -> NetError {
        NetError::Io { op, source: Arc::new(source) }
    }
}
