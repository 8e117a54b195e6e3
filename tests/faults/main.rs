//! What the operating system refuses: errors, full disks, limits. Whoever was not told "durable" is told why; whoever
//! was, keeps it.

#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "../support/report.rs"]
mod report;
#[path = "../support/sim/mod.rs"]
mod sim;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../crash/story/mod.rs"]
mod story;

mod errors;
mod matrix;
mod poison;
mod rows;
mod tail;
mod waiting;
