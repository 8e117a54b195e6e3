//! The cells that append records: the limit and the log, in turns.

use seawall::{Config, Log};
use seawall_limit::{Cell, Limit, Load, Options, Ticks};
use serde::Serialize;

use super::Bench;
use super::cells::LoadCell;
use super::drive::{Driven, drive, fill};
use super::figures::{Figure, Target};
use super::table::Table;
use crate::exit::{Failure, InLog};

const MIB: u64 = 1024 * 1024;
/// The limit's file. Larger than any cache of the device that we know would make it lie.
pub(super) const LIMIT_FILE_BYTES: u64 = 512 * MIB;
/// The log keeps so much data in the steady state; what is older is trimmed and its segments are written again.
const RETAIN_BYTES: u64 = 192 * MIB;
const SEGMENT_BYTES: u64 = 64 * MIB;
/// The steady state is reached when so many times the prepared bytes went through.
const FILL_TIMES: u64 = 4;
/// At most this is written to get there.
const FILL_BYTES_MAX: u64 = 4096 * MIB;

/// One cell over all rounds.
#[derive(Serialize)]
pub(super) struct LoadFigures {
    pub(super) cell: &'static str,
    pub(super) limit_method: String,
    pub(super) limit_depth: usize,
    pub(super) limit_records_per_second: Figure,
    pub(super) limit_p50_micros: Figure,
    pub(super) limit_p99_micros: Figure,
    pub(super) records_per_second: Figure,
    pub(super) ratio: Figure,
    pub(super) p50_micros: Figure,
    pub(super) p99_micros: Figure,
    pub(super) p50_ratio: Figure,
    pub(super) cpu_micros_per_record: Figure,
    pub(super) limit_cpu_micros_per_record: Figure,
    pub(super) context_switches_per_record: Figure,
    pub(super) device_bytes_per_payload_byte: Figure,
    pub(super) prepared_bytes_per_payload_byte: Figure,
    pub(super) records_per_group: Figure,
    pub(super) targets: Vec<Target>,
}

/// The best so many ways of the first round compete for the limit in every round: on a busy machine the best of many
/// short runs is often not the best.
const CONTENDERS: usize = 3;

/// Where one cell's measurements gather.
struct Gathering<'a> {
    cell: &'a LoadCell,
    load: Load,
    /// A row per contender, a column per round.
    limits: Vec<Vec<Cell>>,
    rounds: Vec<Driven>,
}

impl Gathering<'_> {
    /// Measures the limit: all methods and depths in the first round, the contenders in each.
    fn measure_limit(&mut self, limit: &mut Limit, bench: &Bench<'_>) -> Result<(), Failure> {
        let mut contenders: Vec<Cell> = self.limits.iter().map(|rounds| rounds[0]).collect();
        if contenders.is_empty() {
            contenders = limit.measure(self.load, bench.seconds / 2)?;
            contenders.sort_by(|a, b| b.records_per_second.total_cmp(&a.records_per_second));
            contenders.truncate(CONTENDERS);
            self.limits = vec![Vec::new(); contenders.len()];
        }
        for (rounds, contender) in self.limits.iter_mut().zip(contenders) {
            bench.check_interrupt()?;
            rounds.push(limit.measure_one(self.load, contender.method, contender.depth, bench.seconds)?);
        }
        Ok(())
    }

    /// The contender with the best median is the limit.
    fn limit(&self) -> Option<&[Cell]> {
        let median = |rounds: &[Cell]| Figure::of(rounds.iter().map(|cell| cell.records_per_second)).median;
        self.limits.iter().map(Vec::as_slice).max_by(|a, b| median(a).total_cmp(&median(b)))
    }
}

pub(super) fn measure(bench: &Bench<'_>, cells: &[&LoadCell], table: &mut Table) -> Result<(), Failure> {
    bench.say("preparing the limit's file");
    let options = Options { dir: bench.scratch.path().to_owned(), file_bytes: LIMIT_FILE_BYTES, files: 1 };
    let mut limit = Limit::prepare(&options)?;
    let steady = if bench.cold { None } else { Some(steady_log(bench)?) };
    let mut gatherings: Vec<Gathering<'_>> = cells
        .iter()
        .map(|cell| {
            let load = Load { record_bytes: cell.record_bytes, outstanding: cell.threads * cell.outstanding };
            Gathering { cell, load, limits: Vec::new(), rounds: Vec::new() }
        })
        .collect();
    let before = Ticks::now();
    for round in 1..=bench.rounds {
        for gathering in &mut gatherings {
            bench.check_interrupt()?;
            bench.say(format_args!("round {round} of {}: {}", bench.rounds, gathering.cell.label));
            gathering.measure_limit(&mut limit, bench)?;
            gathering.rounds.push(match &steady {
                Some(log) => drive(log, gathering.cell, bench.seconds).in_log(bench.scratch.path())?,
                None => cold(bench, gathering.cell)?,
            });
        }
    }
    table.beside(before.and_then(Ticks::noise_until_now));
    if let Some(log) = steady {
        table.medium(&log.medium());
        log.close(std::time::Duration::from_secs(30)).in_log(bench.scratch.path())?;
    }
    for mut figures in gatherings.iter().filter_map(figures) {
        if bench.cold {
            // What is asked of a log that is being filled for the first time is another question.
            figures.targets.clear();
        }
        table.load(figures);
    }
    Ok(())
}

/// A log whose segments are all recycled ones.
fn steady_log(bench: &Bench<'_>) -> Result<Log, Failure> {
    bench.say("bringing the log to its steady state");
    let dir = bench.scratch.fresh("steady")?;
    let config = Config {
        retain_bytes: Some(bench.config.retain_bytes.unwrap_or(RETAIN_BYTES)),
        segment_bytes_min: bench.config.segment_bytes_min.max(SEGMENT_BYTES),
        segment_bytes_max: bench.config.segment_bytes_max.max(SEGMENT_BYTES),
        ..bench.config.clone()
    };
    let driver = config.driver().in_log(&dir)?;
    let (log, _) = Log::open_with(&dir, config, &driver).in_log(&dir)?;
    loop {
        bench.check_interrupt()?;
        fill(&log, SEGMENT_BYTES, MIB as usize).in_log(&dir)?;
        let stats = log.stats();
        if stats.segments_recycled > 1 && stats.device_bytes >= FILL_TIMES * stats.prepared_bytes {
            return Ok(log);
        }
        if stats.device_bytes >= FILL_BYTES_MAX {
            bench.say("segments are not being recycled: what follows is no steady state");
            return Ok(log);
        }
    }
}

/// A measurement on a log that was created for it.
fn cold(bench: &Bench<'_>, cell: &LoadCell) -> Result<Driven, Failure> {
    let dir = bench.scratch.fresh("cold")?;
    let driver = bench.config.driver().in_log(&dir)?;
    let (log, _) = Log::open_with(&dir, bench.config.clone(), &driver).in_log(&dir)?;
    let driven = drive(&log, cell, bench.seconds).in_log(&dir)?;
    log.close(std::time::Duration::from_secs(30)).in_log(&dir)?;
    bench.scratch.fresh("cold")?;
    Ok(driven)
}

fn figures(gathering: &Gathering<'_>) -> Option<LoadFigures> {
    let Gathering { cell, rounds, .. } = gathering;
    let limits = gathering.limit()?;
    let best = limits.first()?;
    let given = |figure: fn(&Cell) -> f64| Figure::of(limits.iter().map(figure));
    let driven = |figure: fn(&Driven) -> f64| Figure::of(rounds.iter().map(figure));
    let both = |figure: fn(&Cell, &Driven) -> f64| {
        Figure::of(limits.iter().zip(rounds).map(|(given, driven)| figure(given, driven)))
    };
    let ratio = both(|given, driven| driven.records_per_second / given.records_per_second.max(1e-9));
    let p50_ratio = both(|given, driven| driven.p50_micros / given.p50_us.max(1e-9));
    let cpu_micros_per_record = driven(|driven| driven.cpu_micros_per_record);
    let targets = [
        Some(Target::at_least("ratio", ratio.median, cell.ratio_min)),
        cell.p50_ratio_max.map(|bound| Target::at_most("p50 ratio", p50_ratio.median, bound)),
        cell.cpu_micros_max.map(|bound| Target::at_most("CPU µs/record", cpu_micros_per_record.median, bound)),
    ];
    Some(LoadFigures {
        cell: cell.label,
        limit_method: best.method.to_string(),
        limit_depth: best.depth,
        limit_records_per_second: given(|given| given.records_per_second),
        limit_p50_micros: given(|given| given.p50_us),
        limit_p99_micros: given(|given| given.p99_us),
        records_per_second: driven(|driven| driven.records_per_second),
        ratio,
        p50_micros: driven(|driven| driven.p50_micros),
        p99_micros: driven(|driven| driven.p99_micros),
        p50_ratio,
        cpu_micros_per_record,
        limit_cpu_micros_per_record: given(|given| given.cpu_us_per_record),
        context_switches_per_record: driven(|driven| driven.context_switches_per_record),
        device_bytes_per_payload_byte: driven(|driven| driven.device_bytes_per_payload_byte),
        prepared_bytes_per_payload_byte: driven(|driven| driven.prepared_bytes_per_payload_byte),
        records_per_group: driven(|driven| driven.records_per_group),
        targets: targets.into_iter().flatten().collect(),
    })
}
