//! What is shared with the tests: the simulated disk, and what they do to a log on it.

#[path = "../../support/bytes.rs"]
mod bytes;
#[path = "../../faults/errors.rs"]
pub(crate) mod errors;
#[path = "../../support/oracle.rs"]
mod oracle;
#[path = "../../support/report.rs"]
pub(crate) mod report;
#[path = "../../damage/rot.rs"]
pub(crate) mod rot;
#[path = "../../damage/sealed.rs"]
mod sealed;
#[path = "../../support/sim/mod.rs"]
mod sim;
#[path = "../../crash/states.rs"]
pub(crate) mod states;
#[path = "../../crash/story/mod.rs"]
mod story;
#[path = "../../damage/wreck/mod.rs"]
pub(crate) mod wreck;
