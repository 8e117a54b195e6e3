//! Damage, case by case, on real files: each is told with its segment, place and frames, nothing that was proven is
//! cut off, and every other frame is still read.

#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "../support/bed.rs"]
mod bed;
#[path = "../support/bytes.rs"]
mod bytes;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/sim/mod.rs"]
mod sim;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../crash/story/mod.rs"]
mod story;

mod behind;
mod beside;
mod bits;
mod closed;
mod control;
mod files;
mod given_up;
mod heads;
mod rescue;
mod reuse;
mod rot;
mod sealed;
mod shelf;
mod tail;
mod wreck;
mod wrecks;
