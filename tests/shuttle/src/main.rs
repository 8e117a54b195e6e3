//! Explores the schedules of the log's threads: the log itself, with its locks, atomics and clock replaced, under a
//! scheduler that decides at each of them who goes on.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo run --release --target-dir target/shuttle -p seawall-shuttle -- --count 10000
//! cargo torture concurrency                                            the same, with its goal, its control, its table
//! ```
//!
//! A *scenario* is a handful of threads over one log on a `disk` in memory, with its own judgments; each of its
//! schedules begins with an opened log. A *batch* is some schedules of one scenario under one scheduler; its number and
//! the seed say everything about it, so `--seed S --batch B` is the whole of a replay.
//!
//! What is not explored: weak memory orderings (every atomic is sequentially consistent here), the driver of real
//! disks, and time, which only orders events.

#[cfg(shuttle)]
mod disk;
#[cfg(shuttle)]
mod driver;
#[cfg(shuttle)]
mod explore;
#[cfg(shuttle)]
mod scenarios;
#[cfg(shuttle)]
mod world;

#[cfg(shuttle)]
fn main() -> std::process::ExitCode {
    explore::main()
}

#[cfg(not(shuttle))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "this program explores schedules only where the whole build has --cfg shuttle: `cargo torture concurrency`"
    );
    std::process::ExitCode::from(2)
}
