//! What `bench` prints.

use seawall::storage::Medium;
use seawall_limit::Noise;
use serde::Serialize;

use super::figures::{Figure, Target};
use super::loads::LoadFigures;
use super::many::ManyFigures;
use super::opening::{OpenFigures, OpeningFigures};
use super::others::Others;
use super::reading::ReadingFigures;
use super::rotation::RotationFigures;
use super::{Args, Bench};
use crate::Global;
use crate::exit::Failure;
use crate::output::{Format, Out, grouped, micros, size};

/// Everything that was measured; the object of `--format json`.
#[derive(Serialize)]
pub(super) struct Table {
    state: &'static str,
    rounds: u32,
    seconds: f64,
    medium: Option<String>,
    loads: Vec<LoadFigures>,
    rotation: Option<RotationFigures>,
    opening: Option<OpeningFigures>,
    reading: Option<ReadingFigures>,
    many: Option<ManyFigures>,
    /// Where the kernel tells.
    others: Option<Others>,
}

impl Table {
    pub(super) fn new(bench: &Bench<'_>, args: &Args) -> Table {
        Table {
            state: if bench.cold { "cold: segments prepared meanwhile" } else { "steady: segments recycled" },
            rounds: bench.rounds,
            seconds: args.seconds,
            medium: None,
            loads: Vec::new(),
            rotation: None,
            opening: None,
            reading: None,
            many: None,
            others: None,
        }
    }

    pub(super) fn medium(&mut self, medium: &Medium) {
        let direct = crate::inspect::caches(medium.direct, medium.past_caches);
        self.medium = Some(format!("{:?}, {direct}, blocks of {} bytes", medium.backend, medium.device_block_bytes));
    }

    pub(super) fn load(&mut self, figures: LoadFigures) {
        self.loads.push(figures);
    }

    pub(super) fn rotation(&mut self, figures: RotationFigures) {
        self.rotation = Some(figures);
    }

    pub(super) fn opening(&mut self, figures: OpeningFigures) {
        self.opening = Some(figures);
    }

    pub(super) fn reading(&mut self, figures: ReadingFigures) {
        self.reading = Some(figures);
    }

    pub(super) fn many(&mut self, figures: ManyFigures) {
        self.many = Some(figures);
    }

    /// What was used beside one of the measurements.
    pub(super) fn beside(&mut self, noise: Option<Noise>) {
        self.others = noise.map_or(self.others, |noise| Some(Others::of(noise).or_worse(self.others)));
    }

    pub(super) fn print(&self, global: &Global) -> Result<(), Failure> {
        let mut out = Out::new();
        if global.format == Format::Json {
            out.json(self)?;
        } else {
            self.text(&mut out)?;
        }
        out.flush()
    }

    fn text(&self, out: &mut Out) -> Result<(), Failure> {
        let medium = self.medium.as_ref().map(|medium| format!(", {medium}")).unwrap_or_default();
        out.line(format_args!("{}; medians of {} rounds of {} s{medium}", self.state, self.rounds, self.seconds))?;
        if !self.loads.is_empty() {
            heading(out)?;
            self.loads.iter().try_for_each(|figures| load_line(figures, out))?;
            out.line("")?;
            self.loads.iter().try_for_each(|figures| load_cost_line(figures, out))?;
        }
        if let Some(figures) = &self.rotation {
            rotation_lines(figures, out)?;
        }
        if let Some(figures) = &self.opening {
            out.line(format_args!("\nopen of {}", size(figures.log_bytes)))?;
            open_line("after a close", &figures.clean, out)?;
            open_line("after none", &figures.unclean, out)?;
            targets_line(&figures.targets, out)?;
        }
        if let Some(figures) = &self.reading {
            reading_lines(figures, out)?;
        }
        if let Some(figures) = &self.many {
            many_lines(figures, out)?;
        }
        match &self.others {
            Some(others) => out.line(format_args!("\n{others}")),
            None => Ok(()),
        }
    }
}

fn heading(out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "\n{:<22} {:>28} {:>28} {:>22}  {:>9} {:>9}  target",
        "cell", "limit, records/s", "log, records/s", "ratio", "p50", "p99"
    ))
}

fn load_line(figures: &LoadFigures, out: &mut Out) -> Result<(), Failure> {
    let doubt = if figures.ratio.median > RATIO_DOUBTFUL { " (the limit was disturbed: measure longer)" } else { "" };
    out.line(format_args!(
        "{:<22} {:>28} {:>28} {:>22}  {:>9} {:>9}  {}{doubt}",
        figures.cell,
        rate(&figures.limit_records_per_second),
        rate(&figures.records_per_second),
        share(&figures.ratio),
        micros(figures.p50_micros.median),
        micros(figures.p99_micros.median),
        targets(&figures.targets),
    ))
}

/// Nothing beats the device: such a ratio says that the limit was measured while somebody else used it.
const RATIO_DOUBTFUL: f64 = 1.1;

fn load_cost_line(figures: &LoadFigures, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "{:<22} limit: {} depth {}, p50 {} p99 {}; log: {:.1} records/group, {:.2} µs CPU/record (limit {:.2}), {:.2} \
         switches/record, {:.2} device bytes per payload byte{}",
        figures.cell,
        figures.limit_method,
        figures.limit_depth,
        micros(figures.limit_p50_micros.median),
        micros(figures.limit_p99_micros.median),
        figures.records_per_group.median,
        figures.cpu_micros_per_record.median,
        figures.limit_cpu_micros_per_record.median,
        figures.context_switches_per_record.median,
        figures.device_bytes_per_payload_byte.median,
        prepared(figures.prepared_bytes_per_payload_byte.median),
    ))
}

fn prepared(bytes: f64) -> String {
    if bytes < 0.005 { String::new() } else { format!(" and {bytes:.2} to prepare segments") }
}

fn rotation_lines(figures: &RotationFigures, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "\nrotation: first append of {} segments p50 {} p99 {} max {}; {} others p50 {} p99 {}",
        grouped(figures.rotations),
        micros(figures.first_p50_micros),
        micros(figures.first_p99_micros),
        micros(figures.first_max_micros),
        grouped(figures.others),
        micros(figures.others_p50_micros),
        micros(figures.others_p99_micros),
    ))?;
    targets_line(&figures.targets, out)
}

fn open_line(what: &str, figures: &OpenFigures, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "  {what}: {} ({} to {}), {} scanned",
        micros(figures.micros.median),
        micros(figures.micros.min),
        micros(figures.micros.max),
        size(figures.scanned_bytes.median as u64),
    ))
}

fn reading_lines(figures: &ReadingFigures, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "\nread: {} of 1 KiB records at {:.2} GB/s, CRC-32C alone {:.2} GB/s, ratio {}; first record after open {}",
        size(figures.payload_bytes),
        figures.read_gb_per_second.median,
        figures.crc_gb_per_second.median,
        share(&figures.ratio),
        micros(figures.first_record_micros.median),
    ))?;
    targets_line(&figures.targets, out)
}

fn many_lines(figures: &ManyFigures, out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "\n64 logs ({}): {} durable writes/s, 64 files {} at depth {}, ratio {}; a single file {}, ratio {}; the slowest \
         log has {:.2} of the mean; {:.1} µs CPU/write",
        figures.backend,
        rate(&figures.writes_per_second),
        rate(&figures.limit_writes_per_second),
        figures.depth,
        share(&figures.ratio),
        rate(&figures.one_file_limit_writes_per_second),
        share(&figures.one_file_ratio),
        figures.slowest_share.median,
        figures.cpu_micros_per_write.median,
    ))?;
    targets_line(&figures.targets, out)
}

fn targets_line(all: &[Target], out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!("  {}", targets(all)))
}

fn targets(targets: &[Target]) -> String {
    targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// "4,675 (4,601–4,702)".
fn rate(figure: &Figure) -> String {
    format!("{} ({}–{})", grouped(figure.median as u64), grouped(figure.min as u64), grouped(figure.max as u64))
}

/// "0.951 (0.93–0.97)".
fn share(figure: &Figure) -> String {
    format!("{:.3} ({:.2}–{:.2})", figure.median, figure.min, figure.max)
}
