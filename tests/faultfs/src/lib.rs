//! Two machines that lose power on demand, with the real kernel in between.
//!
//! [`FaultFs`] is a file system (FUSE, in memory) that keeps apart what readers see and what a flush has made durable;
//! its power can be cut at any moment, and calls can be made to fail. It is the harshest reading of what a file system
//! promises, and reaches io_uring too.
//!
//! [`Recorder`] is a block device (a file for the loop driver) that remembers every write and flush of the file system
//! on it, and serves what it would hold after a power loss at any moment: what real file systems make of a crash.
//!
//! [`machine`] attaches, makes and mounts, cleans up, and says what a machine cannot do.

mod choice;
mod fault;
mod faultfs;
pub mod machine;
mod mounted;
mod options;
mod recorder;
mod serve;
mod sparse;
mod volume;

pub use choice::Choice;
pub use fault::{Fault, Op};
pub use faultfs::FaultFs;
pub use options::{FsyncFailure, Options};
pub use recorder::{Clock, CrashImage, Recorder};
pub use volume::Survived;
