//! Does an append feel that its segment is a new one? Small segments, so that there are many of them.

use std::time::{Duration, Instant};

use seawall::{Config, Log};
use serde::Serialize;

use super::Bench;
use super::cells::ROTATION_RATIO_MAX;
use super::drive::{histogram, noise};
use super::figures::Target;
use crate::exit::{Failure, InLog};

const MIB: u64 = 1024 * 1024;
const RECORD_BYTES: usize = 1024;
/// A 99th percentile of fewer says nothing.
const ROTATIONS_MIN: u64 = 100;
/// How many times longer than asked for to wait for so many.
const PATIENCE_TIMES: u32 = 8;

/// Latencies over all rounds: a rotation is too rare for a percentile of one.
#[derive(Serialize)]
pub(super) struct RotationFigures {
    pub(super) rotations: u64,
    pub(super) first_p50_micros: f64,
    pub(super) first_p99_micros: f64,
    pub(super) first_max_micros: f64,
    pub(super) others: u64,
    pub(super) others_p50_micros: f64,
    pub(super) others_p99_micros: f64,
    pub(super) targets: Vec<Target>,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<RotationFigures, Failure> {
    bench.say("rotation");
    let dir = bench.scratch.fresh("rotation")?;
    let config = Config {
        segment_bytes_min: MIB,
        segment_bytes_max: MIB,
        retain_bytes: Some(16 * MIB),
        byte_limit: None,
        ..bench.config.clone()
    };
    let driver = config.driver().in_log(&dir)?;
    let (log, _) = Log::open_with(&dir, config, &driver).in_log(&dir)?;
    let record = noise(RECORD_BYTES);
    let (mut first, mut others) = (histogram(), histogram());
    let mut rotations = log.stats().rotations;
    let time = bench.seconds * bench.rounds;
    let start = Instant::now();
    while start.elapsed() < time || (first.len() < ROTATIONS_MIN && start.elapsed() < time * PATIENCE_TIMES) {
        bench.check_interrupt()?;
        let began = Instant::now();
        log.append(&record).and_then(|pending| pending.wait()).in_log(&dir)?;
        let micros = began.elapsed().as_micros() as u64;
        // Counted when the first group of the new segment is durable: the append that was in it has just ended.
        let rotations_now = log.stats().rotations;
        let is_first = std::mem::replace(&mut rotations, rotations_now) != rotations_now;
        if is_first { &mut first } else { &mut others }.saturating_record(micros);
    }
    log.close(Duration::from_secs(30)).in_log(&dir)?;
    if first.is_empty() {
        return Err(Failure::Usage("no segment was filled in the time given: give more --seconds".into()));
    }
    let (first_p99, others_p99) = (first.value_at_quantile(0.99) as f64, others.value_at_quantile(0.99) as f64);
    Ok(RotationFigures {
        rotations: first.len(),
        first_p50_micros: first.value_at_quantile(0.50) as f64,
        first_p99_micros: first_p99,
        first_max_micros: first.max() as f64,
        others: others.len(),
        others_p50_micros: others.value_at_quantile(0.50) as f64,
        others_p99_micros: others_p99,
        targets: vec![Target::at_most("p99 ratio", first_p99 / others_p99.max(1.0), ROTATION_RATIO_MAX)],
    })
}
