//! Opening a log of 1 GiB, after a close and after a writer that just went away.

use std::path::Path;
use std::time::{Duration, Instant};

use seawall::{Config, Log};
use serde::Serialize;

use super::Bench;
use super::cells::OPEN_MICROS_MAX;
use super::drive::fill;
use super::figures::{Figure, Target};
use crate::exit::{Failure, InLog};

const LOG_BYTES: u64 = 1 << 30;
/// What the scan of the unsealed tail may take per byte: a GB/s, less than any device in question reads.
const SCAN_MICROS_PER_BYTE: f64 = 1e-3;

#[derive(Serialize)]
pub(super) struct OpeningFigures {
    pub(super) log_bytes: u64,
    pub(super) clean: OpenFigures,
    pub(super) unclean: OpenFigures,
    pub(super) targets: Vec<Target>,
}

#[derive(Serialize)]
pub(super) struct OpenFigures {
    pub(super) micros: Figure,
    pub(super) scanned_bytes: Figure,
    /// Without what the scan may take.
    pub(super) micros_beside_scan: Figure,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<OpeningFigures, Failure> {
    bench.say("open: writing 1 GiB");
    let dir = bench.scratch.fresh("open")?;
    let config = Config { retain_bytes: None, byte_limit: None, ..bench.config.clone() };
    let (log, _) = Log::open(&dir, config.clone()).in_log(&dir)?;
    fill(&log, LOG_BYTES, 64 * 1024).in_log(&dir)?;
    log.close(Duration::from_secs(30)).in_log(&dir)?;
    let clean = opens(bench, &dir, &config, true)?;
    let unclean = opens(bench, &dir, &config, false)?;
    let target = |name: &str, figures: &OpenFigures| {
        Target::at_most(
            &format!("{name}, ms beside the scan"),
            figures.micros_beside_scan.median / 1e3,
            OPEN_MICROS_MAX / 1e3,
        )
    };
    let targets = vec![target("clean", &clean), target("unclean", &unclean)];
    bench.scratch.fresh("open")?;
    Ok(OpeningFigures { log_bytes: LOG_BYTES, clean, unclean, targets })
}

/// Opens as often as there are rounds; each time something was appended, and the log was closed or not.
fn opens(bench: &Bench<'_>, dir: &Path, config: &Config, clean: bool) -> Result<OpenFigures, Failure> {
    let mut opens = Vec::new();
    for _ in 0..=bench.rounds {
        bench.check_interrupt()?;
        let began = Instant::now();
        let (log, recovery) = Log::open(dir, config.clone()).in_log(dir)?;
        let micros = began.elapsed().as_secs_f64() * 1e6;
        if recovery.clean == clean {
            opens.push((micros, recovery.bytes_scanned as f64));
        }
        fill(&log, 1 << 20, 64 * 1024).in_log(dir)?;
        if clean {
            log.close(Duration::from_secs(30)).in_log(dir)?;
        } else {
            drop(log);
        }
    }
    Ok(OpenFigures {
        micros: Figure::of(opens.iter().map(|(micros, _)| *micros)),
        scanned_bytes: Figure::of(opens.iter().map(|(_, bytes)| *bytes)),
        micros_beside_scan: Figure::of(
            opens.iter().map(|(micros, bytes)| (micros - bytes * SCAN_MICROS_PER_BYTE).max(0.0)),
        ),
    })
}
