//! The ways to crash a log.

mod blocks;
mod calls;
mod checked;
pub(crate) mod concurrency;
mod faultfs;
mod fuzz;
mod kill;
mod lives;
mod pairs;
mod receive;
mod shutdown;
mod simulated;

use super::layer::Layer;

/// All of them, the quickest first.
pub(crate) fn all() -> Vec<Box<dyn Layer>> {
    vec![
        Box::new(fuzz::Fuzz),
        Box::new(pairs::Pairs),
        Box::new(simulated::Simulated::ERRORS),
        Box::new(simulated::Simulated::ROT),
        Box::new(simulated::Simulated::STATES),
        Box::new(concurrency::Concurrency),
        Box::new(checked::Checked::MIRI),
        Box::new(checked::Checked::THREADS),
        Box::new(kill::Kill),
        Box::new(receive::Receive),
        Box::new(faultfs::Power),
        Box::new(calls::Calls::RING),
        Box::new(calls::Calls::PWRITE),
        Box::new(shutdown::Shutdown::EXT4),
        Box::new(shutdown::Shutdown::XFS),
        Box::new(blocks::Blocks::EXT4),
        Box::new(blocks::Blocks::XFS),
        Box::new(blocks::Blocks::BTRFS),
    ]
}
