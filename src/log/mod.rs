//! One durable, ordered log.
//!
//! | file | what it owns |
//! |---|---|
//! | `shared` | the open log: lock, room, durability, driver |
//! | `commit` | the pipeline's decisions: chunks, groups, gathering, depth |
//! | `recovery` | what a directory holds, judged (no writes) |
//! | `open` | recovery acted upon |
//! | `control` | the control file, written |
//! | `space` | segments prepared, settled, recycled |
//! | `retention` | what is given up unasked |
//! | `catalog` | which segment holds which frames |
//! | `reader` | frames back out, verified |
//! | `window` | what a reader has of a segment at a time |
//! | `set_aside` | quarantined ranges, as readers ask about them |
//! | `promise` | which ledger the log belongs to, and who drives it |
//! | `trim` | giving up a prefix, removing a suffix |
//! | `verify` | every byte checked |
//! | `rescue` | copied off a device that cannot read all of it |

mod catalog;
mod commit;
mod control;
mod cuts;
mod handle;
mod open;
mod pending;
mod promise;
mod reader;
mod readers;
mod recovery;
mod rescue;
mod retention;
mod set_aside;
mod shared;
mod source;
mod space;
mod stats;
mod trim;
mod verify;
mod window;

pub use handle::{Log, Permit};
pub use open::Recovery;
pub use pending::Pending;
pub use reader::Frame;
#[cfg(feature = "stream")]
pub use readers::TailStream;
pub use readers::{Reader, Tail};
pub use recovery::RecoveryProgress;
#[cfg(feature = "internals")]
pub(crate) use recovery::{judge, scan_segment};
pub use rescue::{Rescue, Unread, rescue, rescue_on};
pub use stats::Stats;
pub use verify::{Finding, Report, SegmentReport};
