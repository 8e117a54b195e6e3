//! Sources and a receiver in virtual time: every choice comes from one seed, every byte goes over a wire that can be cut,
//! and everybody may crash. `world` is what happens, `oracle` what must hold.

mod oracle;
mod story;
mod wire;
mod world;

use std::time::Duration;

pub use story::Random;
use story::{Lie, Story};
pub use world::Done;
use world::World;

/// How to get there again.
fn run(story: Story) -> Result<Done, String> {
    let name = story.name.clone();
    let mut world = World::new(story);
    world.run().map_err(|what| format!("{name} after {:?}: {what}\n{}", world.elapsed(), world.told()))
}

/// The story of a seed.
pub fn tell(seed: u64) -> Result<Done, String> {
    run(Story::random(seed))
}

/// The command that tells it again.
pub fn replay(seed: u64) -> String {
    format!(
        "SEAWALL_RECEIVER_TRACE=1 SEAWALL_RECEIVER_SEEDS={seed}..{} \
         cargo test -p seawall --features receiver --test receiver whatever_happens",
        seed + 1
    )
}

/// The controls: errors of a receiver that so many stories with them do not find out.
pub fn lies_that_pass(stories: u64) -> Vec<Lie> {
    let is_found = |lie| (0..stories).any(|seed| run(Story { lie: Some(lie), ..Story::random(seed) }).is_err());
    Lie::ALL.into_iter().filter(|lie| !is_found(*lie)).collect()
}

fn must(story: Story) -> Done {
    run(story).unwrap_or_else(|what| panic!("{what}"))
}

fn seeds_wanted() -> std::ops::Range<u64> {
    match std::env::var("SEAWALL_RECEIVER_SEEDS") {
        Ok(text) => match text.split_once("..") {
            Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
            None => 0..text.parse().unwrap(),
        },
        Err(_) => 0..2000,
    }
}

/// `SEAWALL_RECEIVER_SEEDS=n` runs 0 to n, `a..b` those; `SEAWALL_RECEIVER_TRACE=1` tells what happened when one fails.
#[test]
fn whatever_happens_nothing_acknowledged_is_lost_and_nothing_comes_twice() {
    let mut sum = Done::default();
    let seeds = seeds_wanted();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match tell(seed) {
            Ok(done) => sum += done,
            Err(what) => panic!("{what}\nreplay: {}", replay(seed)),
        }
    }
    println!("{count} seeds: {sum:?}");
    if count >= 2000 {
        // A harness in which nothing happens proves nothing.
        let each = [sum.cuts, sum.receiver_crashes, sum.source_crashes, sum.zombies, sum.rejects, sum.snapshots];
        assert!(each.iter().all(|count| *count > 500), "{sum:?}");
        assert!(sum.oversized > 100 && sum.trims > 100 && sum.gaps > 50 && sum.fulls > 100, "{sum:?}");
        assert!(sum.rotten > 500 && sum.refused > 300 && sum.accepted > 100 && sum.losses_told > 10, "{sum:?}");
        assert!(sum.duplicates > 300 && sum.waited > 100 && sum.replaced > 100 && sum.byes > 500, "{sum:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..20 {
        assert_eq!(must(Story::random(seed)).trace, must(Story::random(seed)).trace, "seed {seed}");
    }
}

/// One fault of each kind at each step of a short story, then two cuts.
#[test]
fn a_fault_at_every_step_of_a_short_story() {
    let mut stories = 0;
    for variant in 0..story::VARIANTS {
        let steps = must(Story::short(variant, &[])).steps;
        assert!(steps >= 8, "{steps}");
        for step in 0..steps {
            for fault in story::Fault::ALL {
                must(Story::short(variant, &[(step, fault)]));
                stories += 1;
            }
            let other = step + 1 + (step * 7) % 13;
            must(Story::short(variant, &[(step, story::Fault::Cut), (other, story::Fault::Cut)]));
            must(Story::short(variant, &[(step, story::Fault::CrashReceiver), (other, story::Fault::CrashSource)]));
        }
    }
    println!("{stories} short stories");
    assert!(stories > 1000, "{stories}");
}

#[test]
fn every_lie_is_found_out() {
    assert_eq!(lies_that_pass(400), []);
}

/// When faults stop, everything is acknowledged within this.
const PATIENCE: Duration = Duration::from_secs(60);
