//! Sources that can be read again: a directory's files and partitions in memory, under the ledger's own transition.
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod bed;
mod content;
mod files;
mod memory;
mod random;
#[path = "../support/sim/rng.rs"]
#[allow(dead_code, reason = "shared")]
mod rng;
mod scale;
#[path = "../support/skip.rs"]
mod skip;
mod trouble;
