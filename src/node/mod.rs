//! A node: where sessions, receiver and log meet. The only place that knows everyone.
//!
//! | file | what it owns |
//! |---|---|
//! | `stream` | one stream as the receiver sees it: blocks in, how far they are durable |
//! | `replay` | what sources have sent, read back from the stream |
//! | `receiver` | the receiver of one stream: its intake, its stream, and who is woken |
//! | `session` | one connection's face of it, for transports |
//! | `ledger` | the driver of batches |
//! | `talk` | a session driven from within this process |
//! | `local` | the same for engines that have connectors of their own |
//! | `server` | the same on sockets |
//! | `client` | a source's end on sockets |
//! | `inputs` | sources that can be read again: files of a directory, partitions in memory |
//! | `sinks` | outputs of batches that this crate brings: files in a directory |
//! | `park` | waiting for a future on a thread |
//! | `io_loop` | a log's writes carried by the runtime that has the sockets |
//! | `error` | what can go wrong |
//! | `http` | records over HTTP |
//! | `lines` | plain lines over TCP |
//! | `admin` | how a receiver is, for operators and machines |
//! | `listener` | connections accepted, as many as there are file descriptors for |
//! | `accept`, `requests`, `impatient` | what gateways share: connections, HTTP on them, peers that do not read |
//! | `split`, `tokens` | lines out of pieces, who is believed |

#[cfg(feature = "http")]
mod accept;
#[cfg(feature = "http")]
mod admin;
#[cfg(feature = "net")]
mod client;
mod error;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod impatient;
#[cfg(feature = "ledger")]
mod inputs;
#[cfg(any(feature = "http", feature = "net"))]
mod io_loop;
#[cfg(feature = "ledger")]
mod ledger;
#[cfg(feature = "http")]
mod lines;
#[cfg(any(feature = "http", feature = "net"))]
mod listener;
mod local;
mod park;
mod receiver;
mod replay;
#[cfg(feature = "http")]
mod requests;
#[cfg(feature = "net")]
mod server;
mod session;
#[cfg(feature = "ledger")]
mod sinks;
#[cfg(feature = "http")]
mod split;
mod stream;
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
    BadFiles, DirectoryError, DirectorySource, DirectorySourceConfig, DirectoryStats, FilesBy, Finished,
    MemoryPartitions, RecordRule,
};
#[cfg(any(feature = "http", feature = "net"))]
pub use io_loop::run_loop;
#[cfg(feature = "ledger")]
pub use ledger::{
    Batch, BatchRecord, BatchRecords, Frames, InputStatus, Ledger, LedgerConfig, LedgerError, LedgerView, LentRecord,
    Opened, Place, StreamBlock, StreamBlocks, StreamPort, read_ledger,
};
#[cfg(feature = "http")]
pub use lines::{LineNames, LinesConfig, LinesGateway, LinesStats, LinesWatch};
pub use local::{LocalSource, Stored};
pub use receiver::{Driver, DriverThread, Receiver, ReceiverStats};
pub use replay::Replayed;
#[cfg(feature = "net")]
pub use server::{Server, ServerConfig, ServerError, ServerStats, ServerWatch};
pub use session::Session;
#[cfg(feature = "ledger")]
pub use sinks::{DirectorySink, DirectorySinkConfig, OnRerun, OutputFile, OutputSum, Outputs, OutputsAfter, Writing};
#[cfg(any(feature = "http", feature = "net"))]
pub use tokens::TokenRule;

// The one in `io` is that module's own.
#[cfg(test)]
#[allow(clippy::duplicate_mod)]
#[path = "../../tests/support/skip.rs"]
mod skip;
