//! Seawall: a durable log for sources that cannot be asked again.
//!
//! An append is acknowledged when it survived a flush of the device, and never otherwise. Records of many threads share
//! one device write; files are written ahead and used again; every byte is checksummed, and damage is told, never cut.
//!
//! ```
//! use seawall::{Config, Log, Lsn};
//! # fn main() -> Result<(), seawall::Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let (log, recovery) = Log::open(dir, Config::default())?;
//! println!("{} frames, {:?} in doubt", recovery.end, recovery.ambiguous_tail);
//!
//! let first = log.append(b"one")?;    // positions at once ...
//! let second = log.append(b"two")?;
//! second.wait()?;                     // ... durability when it is true
//! first.wait()?;
//!
//! for frame in log.reader(Lsn::FIRST) {
//!     let frame = frame?;
//!     println!("{}: {:?}", frame.lsn, frame.payload);
//! }
//! log.close(std::time::Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Imports only point down; a test reads the `use` lines.
//!
//! ```text
//! L4  node                       sockets, sessions and the log together: the only place that knows everyone
//! L3  log                        one durable ordered log: commit pipeline, recovery, readers, retention
//! L2  segment | receiver | ledger | net   the byte format | sessions with sources | which records are in which batch, all
//!                                pure | bytes on sockets
//! L1  codec | io                 checksums and cursors | the only module that talks to files and rings
//! L0  types | error | config | metrics | events | sync
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!(
    "seawall supports Linux only: its durability rests on O_DIRECT, O_DSYNC and fdatasync as Linux defines them, and \
     nothing weaker is done silently"
);

mod codec;
mod config;
mod error;
mod events;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod io;
#[cfg(feature = "ledger")]
pub mod ledger;
mod log;
mod metrics;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "receiver")]
pub mod node;
#[cfg(feature = "receiver")]
pub mod receiver;
mod segment;
mod sync;
mod types;

pub use codec::Chain;
pub use config::{BackendChoice, Compression, Config, DirectIo, RecoveryMode, WhenFull};
pub use error::{Error, Result};
#[cfg(feature = "stream")]
pub use log::TailStream;
pub use log::{
    Finding, Frame, Log, Pending, Permit, Reader, Recovery, RecoveryProgress, Report, Rescue, SegmentReport, Stats,
    Tail, Unread, rescue, rescue_on,
};
pub use metrics::Summary;
pub use types::{Ballot, Incarnation, LedgerId, LogId, Lsn, LsnRange, Promise, SegmentNumber, StreamId, Watermarks};
#[cfg(feature = "ledger")]
pub use types::{BatchId, InputId};
#[cfg(feature = "receiver")]
pub use types::{Secret, Seq, SourceEpoch, SourceId};

/// The one seam below the log: what a storage must do. Tests and unusual media bring their own.
pub mod storage {
    pub use crate::io::{
        Access, Backend, Buffer, BufferPool, Client, DirLock, Disk, DiskFile, Driver, DriverConfig, DriverLoop,
        GroupWrite, Hold, LockFailed, MapWatch, Mapping, Medium, Storage, WriteTimes, shorten_time_slice,
    };
}

/// What takes the place of locks, atomics and time where schedules are explored.
#[cfg(shuttle)]
#[doc(hidden)]
pub use sync::model;

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
