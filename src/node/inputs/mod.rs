//! Sources that can be read again: of these the ledger writes down ranges only.
//!
//! | file | what it owns |
//! |---|---|
//! | `digest` | what tells the same content again |
//! | `directory` | files of a directory |
//! | `memory` | Kafka-style partitions in memory: the example to copy |

mod digest;
mod directory;
mod memory;

pub use directory::{
    BadFiles, DirectoryError, DirectorySource, DirectorySourceConfig, DirectoryStats, FilesBy, Finished, RecordRule,
};
pub use memory::MemoryPartitions;
