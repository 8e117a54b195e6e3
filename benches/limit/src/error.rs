use std::io;
use std::path::PathBuf;

use crate::Method;

/// Why the limit could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The file could not be created or prepared.
    #[error("{op} {}: {source}", path.display())]
    Prepare {
        /// The call that failed.
        op: &'static str,
        /// The file it failed on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write or flush of the measurement failed.
    #[error("{op} at offset {offset}: {source}")]
    Write {
        /// The call that failed.
        op: &'static str,
        /// Where the group was to be written, in bytes.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A write wrote less than it was given.
    #[error("short write at offset {offset}: {written_bytes} of {wanted_bytes} bytes")]
    ShortWrite {
        /// Where the group was to be written, in bytes.
        offset: u64,
        /// Bytes given.
        wanted_bytes: usize,
        /// Bytes written.
        written_bytes: usize,
    },
    /// io_uring itself failed.
    #[error("{op}: {source}")]
    Uring {
        /// The call that failed.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The method cannot be used with this file or kernel.
    #[error("{method} is not available here")]
    Unavailable {
        /// What was asked for.
        method: Method,
    },
    /// The file cannot hold twice what would be in flight.
    #[error("the file has {file_bytes} bytes, this load at this depth needs {needed_bytes}")]
    FileTooSmall {
        /// Size of the file, in bytes.
        file_bytes: u64,
        /// Size that would do, in bytes.
        needed_bytes: u64,
    },
    /// No records, no bytes, or no write in flight: there is nothing to measure.
    #[error("the load is empty")]
    EmptyLoad,
}
