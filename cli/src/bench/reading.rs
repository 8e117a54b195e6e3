//! Verified sequential reading against CRC-32C alone over the same bytes, both warm.

use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall::{Config, Log};
use serde::Serialize;

use super::Bench;
use super::cells::{FIRST_RECORD_MICROS_MAX, READ_RATIO_MIN};
use super::drive::fill;
use super::figures::{Figure, Target};
use crate::exit::{Failure, InLog};

const LOG_BYTES: u64 = 256 << 20;
const RECORD_BYTES: usize = 1024;

#[derive(Serialize)]
pub(super) struct ReadingFigures {
    pub(super) payload_bytes: u64,
    pub(super) read_gb_per_second: Figure,
    pub(super) crc_gb_per_second: Figure,
    pub(super) ratio: Figure,
    pub(super) first_record_micros: Figure,
    pub(super) targets: Vec<Target>,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<ReadingFigures, Failure> {
    bench.say("read: writing 256 MiB");
    let dir = bench.scratch.fresh("read")?;
    let config = Config { retain_bytes: None, byte_limit: None, ..bench.config.clone() };
    let (log, _) = Log::open(&dir, config.clone()).in_log(&dir)?;
    fill(&log, LOG_BYTES, RECORD_BYTES).in_log(&dir)?;
    log.close(Duration::from_secs(30)).in_log(&dir)?;

    let mut first_record = Vec::new();
    for _ in 0..bench.rounds {
        let (log, _) = Log::open(&dir, config.clone()).in_log(&dir)?;
        let began = Instant::now();
        log.read(log.first()).in_log(&dir)?;
        first_record.push(began.elapsed().as_secs_f64() * 1e6);
        log.close(Duration::from_secs(30)).in_log(&dir)?;
    }
    let (log, _) = Log::open(&dir, config).in_log(&dir)?;
    // Also brings everything into the page cache.
    let payloads: Vec<Bytes> =
        log.reader(log.first()).map(|frame| frame.map(|frame| frame.payload)).collect::<Result<_, _>>().in_log(&dir)?;
    let payload_bytes: u64 = payloads.iter().map(|payload| payload.len() as u64).sum();
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds {
        bench.check_interrupt()?;
        let began = Instant::now();
        let checksum = payloads.iter().fold(0, |all, payload| all ^ crc32c::crc32c(payload));
        let crc = payload_bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
        std::hint::black_box(checksum);
        let began = Instant::now();
        let mut bytes = 0;
        for frame in log.reader(log.first()) {
            bytes += frame.in_log(&dir)?.payload.len();
        }
        let read = bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
        rounds.push((read, crc));
    }
    drop(payloads);
    log.close(Duration::from_secs(30)).in_log(&dir)?;
    bench.scratch.fresh("read")?;
    let ratio = Figure::of(rounds.iter().map(|(read, crc)| read / crc));
    let first_record_micros = Figure::of(first_record);
    Ok(ReadingFigures {
        payload_bytes,
        read_gb_per_second: Figure::of(rounds.iter().map(|(read, _)| *read)),
        crc_gb_per_second: Figure::of(rounds.iter().map(|(_, crc)| *crc)),
        ratio,
        first_record_micros,
        targets: vec![
            Target::at_least("ratio", ratio.median, READ_RATIO_MIN),
            Target::at_most("first record, µs", first_record_micros.median, FIRST_RECORD_MICROS_MAX),
        ],
    })
}
