//! What the tests share.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod sim;
