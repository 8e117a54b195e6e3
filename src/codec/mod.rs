//! Bytes in and out: checksums, the chain, and a bounds-checked cursor.

mod chain;
mod crc;
mod reader;

pub use chain::Chain;
pub(crate) use crc::{Crc32c, crc32c, crc32c_seeded};
pub(crate) use reader::{Reader, Truncated};
