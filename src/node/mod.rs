//! Sockets, sessions and the log together.

#[cfg(feature = "net")]
mod client;

#[cfg(feature = "net")]
pub use client::{Client, ClientConfig, ClientError, ClientStatus, Disconnect, LinkStatus, Ticket};
