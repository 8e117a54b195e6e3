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
//! | `inputs` | sources that can be read again: files of a directory, partitions in memory |
//! | `park` | waiting for a future on a thread |
//! | `error` | what can go wrong |
//! | `http` | records over HTTP |
//! | `lines` | plain lines over TCP |
//! | `admin` | how a receiver is, for operators and machines |
//! | `accept`, `impatient`, `talk` | what gateways share: connections, peers that do not read, a session driven from within |
//! | `split`, `tokens`, `checks` | lines out of pieces, who is believed, limits of configurations |

#[cfg(feature = "http")]
mod accept;
#[cfg(feature = "http")]
mod admin;
#[cfg(feature = "http")]
mod checks;
#[cfg(feature = "net")]
mod client;
mod error;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod impatient;
#[cfg(feature = "ledger")]
mod inputs;
#[cfg(feature = "http")]
mod lines;
mod local;
mod park;
mod receiver;
mod replay;
#[cfg(feature = "net")]
mod server;
mod session;
#[cfg(feature = "http")]
mod split;
mod stream;
#[cfg(feature = "http")]
mod talk;
#[cfg(any(feature = "http", feature = "net"))]
mod tokens;

#[cfg(feature = "http")]
pub use admin::Admin;
#[cfg(feature = "net")]
pub use client::{Client, ClientConfig, ClientError, ClientStatus, Disconnect, LinkStatus, Ticket};
pub use error::ReceiverError;
#[cfg(feature = "http")]
pub use http::{HttpConfig, HttpGateway, HttpWatch, serve_http};
#[cfg(feature = "ledger")]
pub use inputs::{
    BadFiles, DirectoryConfig, DirectoryError, DirectorySource, DirectoryStats, FilesBy, Finished, MemoryPartitions,
    RecordRule,
};
#[cfg(feature = "http")]
pub use lines::{LineNames, LinesConfig, LinesGateway, LinesStats, LinesWatch};
pub use local::{LocalSource, Stored};
pub use receiver::{Driver, DriverThread, Receiver, ReceiverStats};
pub use replay::Replayed;
#[cfg(feature = "net")]
pub use server::{Server, ServerConfig, ServerError, ServerStats, ServerWatch};
pub use session::Session;
#[cfg(any(feature = "http", feature = "net"))]
pub use tokens::TokenRule;
