//! What goes wrong with a directory beyond what goes wrong with every input.

use std::path::PathBuf;

use crate::error::Error;
use crate::ledger::Identity;

/// Why a directory is refused. Found in [`InputError::Other`](crate::ledger::InputError::Other).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another directory is under the path than was opened.
    #[error(
        "{}: this is another directory than the one that was opened (found {found}, expected {expected}): is its file \
         system mounted? Nothing was taken. Mount it, or open what is there now and adopt it in the ledger",
        path.display()
    )]
    Replaced {
        /// The path.
        path: PathBuf,
        /// What was opened.
        expected: Identity,
        /// What is there.
        found: Identity,
    },
    /// The file system does not say when a file was made.
    #[error(
        "{}: its file system keeps no birth times, so a removed file's inode cannot be told when it is used again: move \
         the directory, or set files_by to inode where nothing is removed before it is forgotten",
        path.display()
    )]
    NoBirthTime {
        /// The file.
        path: PathBuf,
    },
    /// Something is mounted below: a file system on a directory, or a single file on a file.
    #[error(
        "{}: another file system is mounted here, or a single file: when it is not, files look removed. Give a directory an \
         input of its own, or lower depth_max; mount a file elsewhere",
        path.display()
    )]
    OtherFileSystem {
        /// The directory, or the file.
        path: PathBuf,
    },
    /// A batch needs a file that may be below a directory which is not entered.
    #[error(
        "{}: a file of a batch has no name where files are looked for; it may be below a directory that is not entered, as {} is: \
         let these be entered (depth_max, ignored_prefixes, ignored_suffixes) until the batch is settled, or abandon the batch if \
         the file is gone",
        path.display(), unentered.display()
    )]
    NotEntered {
        /// The directory.
        path: PathBuf,
        /// One below it that is not entered.
        unentered: PathBuf,
    },
    /// More files than memory was promised for.
    #[error("{}: more than {limit} files (files_max): raise it, about 300 bytes of memory each, or remove files", path.display())]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// How many it may hold.
        limit: u64,
    },
    /// More directories than memory was promised for. All are held, also those that are not entered: what may be below one of
    /// them is neither gone nor lost.
    #[error(
        "{}: more than {limit} directories below it (directories_max): raise it, each takes its path and about 100 bytes of memory, \
         or remove some",
        path.display()
    )]
    TooManyDirectories {
        /// The directory.
        path: PathBuf,
        /// How many there may be below it.
        limit: u64,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Error),
}
