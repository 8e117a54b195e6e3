//! Stories from a seed, and damages of the logs they leave; `SEAWALL_DAMAGES` is how many.

use super::report::Ask;
use super::wreck;

const SEED: u64 = 5;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn wrecks_from_a_seed() {
    let (seed, goal) = (number("SEAWALL_SEED").unwrap_or(SEED), number("SEAWALL_DAMAGES").unwrap_or(1_000));
    let report = wreck::run(Ask::new(seed, goal));
    println!("damages of seed {seed}: {report}");
    report.assert_clean();
    wreck::control().unwrap();
}

/// Short stories, each damaged in every place and in every two; `SEAWALL_DAMAGES` is how many, `SEAWALL_STORY` the first story.
#[test]
fn short_stories_damaged_in_every_way() {
    let (first, goal) = (number("SEAWALL_STORY").unwrap_or(0), number("SEAWALL_DAMAGES").unwrap_or(1_000));
    let report = wreck::run_small(first, Ask::new(SEED, goal));
    println!("damages of the short stories from {first} on: {report}");
    report.assert_clean();
}

#[test]
fn the_same_seed_gives_the_same_damages() {
    let run = |threads| wreck::run(Ask { threads, ..Ask::new(SEED, 300) });
    let (one, two) = (run(1), run(2));
    assert_eq!((one.enumerated, one.trace_hash), (two.enumerated, two.trace_hash));
    assert_ne!(one.trace_hash, wreck::run(Ask::new(SEED + 1, 300)).trace_hash);
}

/// Wrecks that showed what was cut, or asked again what was decided.
#[test]
fn wrecks_that_were_found() {
    for seed in [
        15_019_276_900_563_933_004,
        7_127_514_002_770_587_012,
        2_301_979_913_555_332_350,
        6_538_640_634_347_936_443,
        9_804_392_128_150_246_561,
        5_560_659_358_721_119_620,
        10_927_307_189_750_743_209,
        10_543_220_927_770_791_068,
        8_126_102_300_331_253_096,
        15_909_762_276_343_326_364,
        17_857_256_881_900_450_291,
        5_813_225_844_626_977_618,
        12_662_329_799_144_862_617,
        5_441_274_546_854_912_144,
        400_215_667_015_823_437,
    ] {
        assert_eq!(wreck::replay(seed).failures, [""; 0], "{seed}");
    }
}

#[test]
fn wreck_from_the_environment() {
    if let Some(seed) = number("SEAWALL_WRECK") {
        assert!(wreck::replay(seed).failures.is_empty());
    }
    if let Some(number) = number("SEAWALL_SMALL") {
        assert!(wreck::replay_small(number).failures.is_empty());
    }
}
