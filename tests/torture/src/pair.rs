//! What is shared with the receiver's tests: both ends of its protocol, in virtual time.

#[path = "../../receiver/bed.rs"]
mod bed;
#[path = "../../receiver/pair/mod.rs"]
pub(crate) mod stories;
