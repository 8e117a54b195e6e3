//! The ways to crash a log.

pub(crate) mod concurrency;
mod fuzz;
mod kill;
mod shutdown;

use super::layer::Layer;

/// All of them, the quickest first.
pub(crate) fn all() -> Vec<Box<dyn Layer>> {
    vec![
        Box::new(fuzz::Fuzz),
        Box::new(concurrency::Concurrency),
        Box::new(kill::Kill),
        Box::new(shutdown::Shutdown::EXT4),
        Box::new(shutdown::Shutdown::XFS),
    ]
}
