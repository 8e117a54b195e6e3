//! A storage that exists in memory and can lose power.
//!
//! A [`SimDisk`] keeps what readers see and what a power loss leaves apart, writes down every operation, and shows any
//! state a crash at any moment could leave. A [`SimStorage`] is one process that uses it.
//!
//! ```text
//! let disk = SimDisk::new(DiskOptions::DIRECT);
//! let log = Log::open(disk.open(), …);
//! let pending = log.append(b"one");
//! disk.pump();                                    // drives the log, ends its writes, runs its jobs
//! disk.note(pending.wait()?.get());               // what was acknowledged, as of this operation
//! for state in CrashStates::all(&disk.journal(), CrashOptions::default()) {
//!     let acknowledged = disk.journal().highest_note(state.at);
//!     let log = Log::open(state.disk.open(), …);  // must hold everything up to `acknowledged`; `{state}` says why not
//! }
//! ```
//!
//! What it believes of a disk: a flush covers one file, and only writes that have ended; a flushed write covers itself
//! alone (as with FUA); sectors of 512 bytes are old or new (or, in garbage states, neither) in any combination; names
//! become durable in the order of their changes, by `sync_dir` alone; a flush that failed is never made good.
//!
//! What it does not know: time (nothing takes any, but for a threaded process's latency), names lost out of order, a
//! rename that loses both names, writes torn within a sector, rot that comes by itself (see `damage`), kernels that
//! let an unflushed write of a killed process reach readers late (but see [`KillChoice::Linger`]), memory that runs
//! out, and pages of a map that change: a map is a snapshot, and a write under it is a [`Violation`] instead.

mod choice;
mod crash;
mod damage;
mod disk;
mod fault;
mod flight;
mod handle;
mod hook;
mod image;
mod journal;
mod op;
mod pages;
mod plan;
mod platter;
mod pump;
mod read;
mod rng;
mod state;
mod storage;
mod violation;
mod write;

#[cfg(test)]
mod tests;

pub use choice::{CrashChoice, Fate, Fill, Names, Others, Sizes, Writes};
pub use crash::{CrashOptions, CrashState, CrashStates};
pub use disk::{DiskOptions, SimDisk};
pub use fault::{Effect, Fault, FaultError, OpKind, Target, errno};
pub use flight::{KillChoice, Outcome, Untold};
pub use handle::{SimFile, SimLock};
pub use journal::Journal;
pub use op::{Ended, Landed, Note, Op, OpNumber};
pub use pages::{fingerprint, mix};
pub use rng::Rng;
pub use storage::SimStorage;
pub use violation::{Violation, ViolationKind};
