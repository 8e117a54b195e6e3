//! Two machines that lose power on demand, with the real kernel in between.
//!
//! [`FaultFs`] is a file system (FUSE, in memory) that keeps apart what readers see and what a flush has made durable;
//! its power can be cut at any moment, and calls can be made to fail.
mod choice;
mod fault;
mod faultfs;
pub mod machine;
mod mounted;
mod options;
mod serve;
mod sparse;
mod volume;

pub use choice::Choice;
pub use fault::{Fault, Op};
pub use faultfs::FaultFs;
pub use options::{FsyncFailure, Options};
pub use volume::Survived;
