//! The receiver's two ends against each other: step by step (`outbox`, `intake`), and in virtual time with everything that can go
//! wrong between them (`pair`).
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod bed;
mod hostile;
mod intake;
mod lives;
mod lone;
mod outbox;
mod pair;
mod rejects;
mod room;
