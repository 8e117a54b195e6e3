//! A node: where sessions, receiver and log meet. The only place that knows everyone.
//!
//! | file | what it owns |
//! |---|---|
//! | `stream` | one stream as the receiver sees it: blocks in, how far they are durable |
//! | `replay` | what sources have sent, read back from the stream |
//! | `receiver` | the receiver of one stream: its intake, its stream, and who is woken |
//! | `session` | one connection's face of it, for transports |
//! | `local` | the same for engines that have connectors of their own |
//! | `park` | waiting for a future on a thread |
//! | `error` | what can go wrong |

mod error;
mod local;
mod park;
mod receiver;
mod replay;
mod session;
mod stream;

pub use error::ReceiverError;
pub use local::{LocalSource, Stored};
pub use receiver::{Driver, DriverThread, Receiver, ReceiverStats};
pub use replay::Replayed;
pub use session::Session;
