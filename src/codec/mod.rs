//! Bytes in and out: checksums, the chain, and a bounds-checked cursor.

mod chain;
#[cfg(feature = "receiver")]
mod checksummed;
mod crc;
mod reader;

pub use chain::Chain;
#[cfg(feature = "receiver")]
pub use checksummed::Checksummed;
pub(crate) use crc::{Crc32c, crc32c, crc32c_seeded};
pub(crate) use reader::{Reader, Truncated};
