//! What a log directory holds after whatever happened to it: look (`inspect`, `newest`, `scan`), judge (`plan`, pure).
//! Nothing is written here: that is one later step, `open`.

mod believed;
mod control;
mod files;
mod inspect;
mod newest;
mod plan;
mod scan;

pub(super) use believed::{Told, believed_end, run_upto};
pub(super) use control::read_control;
pub(super) use files::{open_segment, read_header, read_seal};
pub use inspect::RecoveryProgress;
pub(super) use inspect::{Findings, SegmentState, Watch, look, look_beside_a_writer};
#[cfg(feature = "internals")]
pub(crate) use plan::judge;
pub(super) use plan::{Outcome, Verdict};
pub(super) use scan::Run;
pub(crate) use scan::{SegmentScan, scan_segment};
