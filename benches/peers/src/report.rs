//! Medians over the rounds, as a table or as JSON.

use std::fmt;

use seawall_limit::{Cell, Limit, Load, Noise};
use serde::Serialize;

use crate::arguments::Arguments;
use crate::contenders::Kind;
use crate::machine;
use crate::run::Run;

/// Beyond this, stolen and elsewhere, the figures of a cell say more about the machine than about the contenders.
const NOISE_LIMIT_PERCENT: f64 = 30.0;

/// Who takes part in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entrant {
    Limit,
    #[serde(untagged)]
    Log(Kind),
}

impl Entrant {
    fn name(self) -> &'static str {
        match self {
            Entrant::Limit => "device limit",
            Entrant::Log(kind) => kind.name(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    rounds: usize,
    seconds_per_run: f64,
    direct_io: bool,
    io_uring: bool,
    pub(crate) cells: Vec<CellReport>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CellReport {
    threads: usize,
    record_bytes: usize,
    limit_method: String,
    limit_depth: usize,
    /// While the cell was measured.
    pub(crate) noise: Noise,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    contender: Entrant,
    failure: Option<String>,
    /// One per round, from round 1 on.
    runs: Vec<RoundRun>,
    summary: Option<Summary>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct RoundRun {
    round: usize,
    #[serde(flatten)]
    run: Run,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Summary {
    records_per_second: f64,
    min_records_per_second: f64,
    max_records_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of the ratios within each round.
    ratio_to_limit: f64,
    cpu_us_per_record: f64,
    context_switches_per_record: f64,
}

impl Report {
    pub(crate) fn new(arguments: &Arguments, limit: &Limit) -> Report {
        Report {
            machine: machine::description(),
            rounds: arguments.rounds.get(),
            seconds_per_run: arguments.seconds.as_secs_f64(),
            direct_io: limit.direct_io(),
            io_uring: limit.uring_refused().is_none(),
            cells: Vec::new(),
        }
    }

    pub(crate) fn has_failures(&self) -> bool {
        let mut rows = self.cells.iter().flat_map(|cell| &cell.rows);
        rows.any(|row| row.failure.is_some())
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and lists of them")
    }
}

impl CellReport {
    pub(crate) fn new(load: Load, limit: &Cell, kinds: &[Kind]) -> CellReport {
        let entrants = std::iter::once(Entrant::Limit).chain(kinds.iter().copied().map(Entrant::Log));
        CellReport {
            threads: load.outstanding,
            record_bytes: load.record_bytes,
            limit_method: limit.method.to_string(),
            limit_depth: limit.depth,
            noise: Noise::default(),
            rows: entrants.map(Row::new).collect(),
        }
    }

    /// Notes a run, unless it is of round 0, which warms up.
    pub(crate) fn add(&mut self, round: usize, entrant: Entrant, run: Run) {
        if round == 0 {
            return;
        }
        self.row(entrant).runs.push(RoundRun { round, run });
    }

    pub(crate) fn fail(&mut self, entrant: Entrant, reason: String) {
        eprintln!("{} FAILED: {reason}", entrant.name());
        self.row(entrant).failure = Some(reason);
    }

    pub(crate) fn has_failed(&self, entrant: Entrant) -> bool {
        self.rows.iter().any(|row| row.contender == entrant && row.failure.is_some())
    }

    /// Fills in the medians; to be called when all rounds are done.
    pub(crate) fn summarize(&mut self) {
        let limit: Vec<RoundRun> = self.row(Entrant::Limit).runs.clone();
        for row in &mut self.rows {
            row.summary = if row.failure.is_none() { summary(&row.runs, &limit) } else { None };
        }
    }

    fn row(&mut self, entrant: Entrant) -> &mut Row {
        let position = self.rows.iter().position(|row| row.contender == entrant);
        &mut self.rows[position.expect("every entrant has a row from the start")]
    }
}

impl Row {
    fn new(contender: Entrant) -> Row {
        Row { contender, failure: None, runs: Vec::new(), summary: None }
    }
}

fn summary(runs: &[RoundRun], limit: &[RoundRun]) -> Option<Summary> {
    let of = |figure: fn(&Run) -> f64| runs.iter().map(|run| figure(&run.run)).collect::<Vec<_>>();
    let rates = of(|run| run.records_per_second);
    let ratios = runs.iter().filter_map(|run| {
        let limit = limit.iter().find(|limit| limit.round == run.round)?;
        Some(run.run.records_per_second / limit.run.records_per_second)
    });
    Some(Summary {
        min_records_per_second: rates.iter().copied().reduce(f64::min)?,
        max_records_per_second: rates.iter().copied().reduce(f64::max)?,
        records_per_second: median(rates)?,
        p50_us: median(of(|run| run.p50_us))?,
        p99_us: median(of(|run| run.p99_us))?,
        ratio_to_limit: median(ratios.collect())?,
        cpu_us_per_record: median(of(|run| run.cpu_us_per_record))?,
        context_switches_per_record: median(of(|run| run.context_switches_per_record))?,
    })
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    Some(f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; medians of {} rounds of {} s", self.machine, self.rounds, self.seconds_per_run)?;
        if !self.direct_io {
            writeln!(f, "O_DIRECT is refused here: the limit is buffered writes with fdatasync")?;
        }
        if !self.io_uring {
            writeln!(f, "io_uring is refused here: the limit is pwrite from threads")?;
        }
        self.cells.iter().try_for_each(|cell| write!(f, "\n{cell}"))
    }
}

impl fmt::Display for CellReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} threads x {} bytes (limit: {}, depth {}; CPU time: {:.0} % stolen, {:.0} % elsewhere)",
            self.threads,
            self.record_bytes,
            self.limit_method,
            self.limit_depth,
            self.noise.stolen_percent,
            self.noise.elsewhere_percent
        )?;
        if self.noise.percent() > NOISE_LIMIT_PERCENT {
            let percent = NOISE_LIMIT_PERCENT;
            writeln!(f, "  NOISY: above {percent:.0} % stolen and elsewhere these figures are not results; repeat")?;
        }
        writeln!(
            f,
            "  {:<13} {:>9} {:>17} {:>9} {:>9} {:>8} {:>8} {:>10}",
            "", "records/s", "min-max", "p50 us", "p99 us", "of limit", "CPU us/r", "switches/r"
        )?;
        self.rows.iter().try_for_each(|row| write!(f, "{row}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.contender.name();
        if let Some(reason) = &self.failure {
            return writeln!(f, "  {name:<13} FAILED: {reason}");
        }
        let Some(s) = self.summary else {
            return writeln!(f, "  {name:<13} no runs");
        };
        let spread = format!("{:.0}-{:.0}", s.min_records_per_second, s.max_records_per_second);
        writeln!(
            f,
            "  {name:<13} {:>9.0} {spread:>17} {:>9.1} {:>9.1} {:>8.2} {:>8.1} {:>10.2}",
            s.records_per_second,
            s.p50_us,
            s.p99_us,
            s.ratio_to_limit,
            s.cpu_us_per_record,
            s.context_switches_per_record,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: usize, records_per_second: f64) -> RoundRun {
        let run = Run {
            records_per_second,
            p50_us: 1.0,
            p99_us: 2.0,
            cpu_us_per_record: 3.0,
            context_switches_per_record: 4.0,
        };
        RoundRun { round, run }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let limit = [run(0, 100.0), run(1, 1_000.0), run(2, 10.0)];
        let runs = [run(0, 50.0), run(1, 600.0), run(2, 7.0)];
        let summary = summary(&runs, &limit).unwrap();
        assert_eq!(summary.ratio_to_limit, 0.6);
        assert_eq!(summary.records_per_second, 50.0);
        assert_eq!((summary.min_records_per_second, summary.max_records_per_second), (7.0, 600.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
