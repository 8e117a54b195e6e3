//! What a log directory holds after whatever happened to it: look (`inspect`, `scan`), judge (`plan`, pure). Nothing is
//! written here: that is one later step, `open`.

mod inspect;
mod plan;
mod scan;

pub(super) use inspect::{
    Findings, SegmentState, empty_run, look, look_beside_a_writer, open_segment, read_control, read_header, read_seal,
};
#[cfg(feature = "internals")]
pub(crate) use plan::judge;
pub(super) use plan::{Outcome, Verdict};
pub(super) use scan::Run;
pub(crate) use scan::{SegmentScan, scan_segment};
