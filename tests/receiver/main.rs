//! The receiver's two ends against each other: step by step (`cases`), and in virtual time with everything that can go
//! wrong between them (`pair`).
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod bed;
mod cases;
mod hostile;
mod pair;
