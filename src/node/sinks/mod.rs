//! Outputs that this crate brings.
//!
//! | file | what it owns |
//! |---|---|
//! | `directory` | one file a batch: the sink |
//! | `outputs` | the same files, for those who read them |
//! | `names` | what files are called, and how long and of what checksum they are |
//! | `owner` | whose directory it is |
//! | `durable` | durable operations on a directory's names, and what is left to do once one has failed |

mod directory;
mod durable;
mod names;
mod outputs;
mod owner;

pub use directory::{DirectorySink, DirectorySinkConfig, OnRerun, Writing};
pub use names::OutputSum;
pub use outputs::{OutputFile, Outputs, OutputsAfter};
