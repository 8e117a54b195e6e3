//! Crash states of stories from a seed; `SEAWALL_STATES` is how many.

use std::time::Duration;

use super::states;

const SEED: u64 = 1;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn tales_from_a_seed() {
    let goal = number("SEAWALL_STATES").unwrap_or(60_000);
    let seed = number("SEAWALL_SEED").unwrap_or(SEED);
    let report = states::run(seed, Duration::from_secs(3600), goal, 2, &|_| {});
    println!("tales of seed {seed}: {report}");
    report.assert_clean();
    assert!(states::control(), "a disk whose flushes lie was not noticed");
}

#[test]
fn the_same_seed_gives_the_same_states() {
    let run = |threads| states::run(SEED, Duration::from_secs(600), 5_000, threads, &|_| {});
    let (one, two) = (run(1), run(2));
    assert_eq!((one.enumerated, one.trace_hash), (two.enumerated, two.trace_hash));
    assert_ne!(one.trace_hash, states::run(SEED + 1, Duration::from_secs(600), 5_000, 2, &|_| {}).trace_hash);
}

#[test]
fn tale_from_the_environment() {
    if let Some(seed) = number("SEAWALL_TALE") {
        assert_eq!(states::replay(seed).failed, 0);
    }
}
