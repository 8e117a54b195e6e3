//! Bytes on sockets: frames out of a stream, TCP, TLS, and when to try again. Knows nothing of sources or logs.

mod backoff;
mod error;
mod framing;
mod tcp;
mod tls;

pub(crate) use backoff::Backoff;
pub use backoff::BackoffConfig;
pub use error::NetError;
pub(crate) use framing::{FrameReader, HEAD_BYTES, Outgoing};
pub(crate) use tcp::{Stream, connect, is_loopback, listen};
pub(crate) use tls::PeerCertificate;
pub use tls::{ClientCertificates, ClientTls, Pem, ServerTls};
