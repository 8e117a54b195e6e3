//! The simulated storage itself: a simulator that loses nothing finds nothing.

mod support;
