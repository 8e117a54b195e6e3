//! A source of bytes on this machine, cut into records, and what is said about how far they are durable: the same for
//! `ingest` into a log here and `send` to a receiver elsewhere.

mod input;
mod pieces;
mod report;

pub(crate) use input::Input;
pub(crate) use pieces::{Cut, Pieces};
pub(crate) use report::{Durable, Report, Run};
