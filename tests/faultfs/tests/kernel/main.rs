//! Each promise of the crate, with the real kernel in between.

#[path = "../../../support/skip.rs"]
mod skip;

mod bed;
mod blocks;
mod content;
mod direct;
mod faults;
mod inputs;
mod log;
mod names;
