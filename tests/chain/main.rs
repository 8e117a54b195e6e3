//! The whole chain (sources, receiver, driver, sink) on disks that lose power, fail calls and are killed at any step: each
//! record is in the output exactly once, in the order of its source.
//!
//! `SEAWALL_CHAIN_SEEDS` (how many, 200) and `SEAWALL_CHAIN_FIRST` (where to begin, 0) look further. One thread, but for the
//! receiver's timers: a seed takes the same way as long as none of them rings, and they ring late.

#![allow(dead_code, unreachable_pub, unused_imports)]

mod modes;
mod refused;
#[path = "../support/sim/mod.rs"]
mod sim;
mod sink;
mod world;

use world::{Mode, World};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn each_record_is_in_the_output_once_whatever_happens() {
    let (first, count) = (from_environment("SEAWALL_CHAIN_FIRST", 0), from_environment("SEAWALL_CHAIN_SEEDS", 200));
    let mut seen = world::Seen::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let of_thread = |thread: u64| {
        let mut seen = world::Seen::default();
        for seed in (first + thread..first + count).step_by(threads as usize) {
            World::new(seed, Mode::Honest).run(&mut seen).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        }
        seen
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        all.into_iter().for_each(|one| seen.add(&one.join().expect("its panic was told")));
    });
    println!("{count} seeds from {first}: {seen}");
    // What never happens is not tested.
    if count >= 200 {
        assert!(seen.is_everything(), "some of it never happened: {seen}");
    }
}

#[test]
fn what_is_broken_is_found() {
    for mode in [Mode::FlushesLie, Mode::SinkForgets, Mode::DriverSkips, Mode::DriverRepeats] {
        let found = (0..60).find_map(|seed| World::new(seed, mode).run(&mut world::Seen::default()).err());
        println!("{mode:?}: {found:?}");
        assert!(found.is_some(), "{mode:?} was not found in 60 seeds");
    }
}
