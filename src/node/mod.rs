//! A node: where sessions, receiver and log meet. The only place that knows everyone.
//!
//! | file | what it owns |
//! |---|---|
//! | `stream` | one stream as the receiver sees it: blocks in, how far they are durable |
//! | `replay` | what sources have sent, read back from the stream |
//! | `receiver` | the receiver of one stream: its intake, its stream, and who is woken |
//! | `session` | one connection's face of it, for transports |
//! | `local` | the same for engines that have connectors of their own |
//! | `server` | the same on sockets |
//! | `client` | a source's end on sockets |
//! | `park` | waiting for a future on a thread |
//! | `error` | what can go wrong |

#[cfg(feature = "net")]
mod client;
mod error;
mod local;
mod park;
mod receiver;
mod replay;
#[cfg(feature = "net")]
mod server;
mod session;
mod stream;

#[cfg(feature = "net")]
pub use client::{Client, ClientConfig, ClientError, ClientStatus, Disconnect, LinkStatus, Ticket};
pub use error::ReceiverError;
pub use local::{LocalSource, Stored};
pub use receiver::{Driver, DriverThread, Receiver, ReceiverStats};
pub use replay::Replayed;
#[cfg(feature = "net")]
pub use server::{Server, ServerConfig, ServerError, ServerStats, ServerWatch, TokenRule};
pub use session::Session;
