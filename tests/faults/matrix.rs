//! Faults at every call, as far as there is time for it in a test.

use super::errors;
use super::report::Ask;

#[test]
fn the_nth_call_of_every_kind_fails() {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    let (seed, goal) = (number("SEAWALL_SEED").unwrap_or(1), number("SEAWALL_FAULTS").unwrap_or(0));
    // All of the first ones, then thinned out.
    let which = |n: u64| goal > 0 || n < 12 || n.is_multiple_of(7);
    let report = errors::run_with(&which, Ask::new(seed, goal));
    println!("faults: {report}");
    report.assert_clean();
}

#[test]
fn a_lie_is_noticed() {
    assert!(errors::control());
}
