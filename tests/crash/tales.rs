//! Crash states of stories from a seed; `SEAWALL_STATES` is how many.

use super::report::Ask;
use super::states;

const SEED: u64 = 1;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn tales_from_a_seed() {
    let goal = number("SEAWALL_STATES").unwrap_or(60_000);
    let seed = number("SEAWALL_SEED").unwrap_or(SEED);
    let report = states::run(Ask::new(seed, goal));
    println!("tales of seed {seed}: {report}");
    report.assert_clean();
    assert!(states::control(), "a disk whose flushes lie was not noticed");
}

#[test]
fn the_same_seed_gives_the_same_states() {
    let run = |threads| states::run(Ask { threads, ..Ask::new(SEED, 5_000) });
    let (one, two) = (run(1), run(2));
    assert_eq!((one.enumerated, one.trace_hash), (two.enumerated, two.trace_hash));
    assert_ne!(one.trace_hash, states::run(Ask::new(SEED + 1, 5_000)).trace_hash);
}

#[test]
fn tale_from_the_environment() {
    if let Some(seed) = number("SEAWALL_TALE") {
        assert_eq!(states::replay(seed).failed, 0);
    }
}
