//! Power lost at every step of everything a log does, in every way a disk can lose it: what was acknowledged is there,
//! what is there is a prefix of what was appended, and nothing that was given up comes back.

#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "../support/report.rs"]
mod report;
#[path = "../support/sim/mod.rs"]
mod sim;

mod found;
mod scenarios;
mod states;
mod story;
mod tales;
