//! What is measured, and what each figure is to be: the targets of the design, one line each.

/// The cells by the name that `--cells` takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum CellName {
    /// 1 thread, 1 KiB, each waits for its ack.
    #[value(name = "threads-1")]
    Threads1,
    /// 8 threads, 1 KiB.
    #[value(name = "threads-8")]
    Threads8,
    /// 64 threads, 1 KiB.
    #[value(name = "threads-64")]
    Threads64,
    /// 1 thread with 64 records of 1 KiB outstanding.
    #[value(name = "outstanding-64")]
    Outstanding64,
    /// 1 thread, 1 MiB.
    #[value(name = "mib-1")]
    Mib1,
    /// 1 thread with 8 records of 1 MiB outstanding.
    #[value(name = "mib-8")]
    Mib8,
    /// The first append after a rotation against all others.
    #[value(name = "rotation")]
    Rotation,
    /// Opening a log of 1 GiB.
    #[value(name = "open")]
    Open,
    /// Verified sequential reading against CRC-32C alone.
    #[value(name = "read")]
    Read,
    /// 64 logs in one process.
    #[value(name = "logs-64")]
    Logs64,
}

/// Records of one size, appended by so many threads with so many outstanding each.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct LoadCell {
    pub(super) name: CellName,
    pub(super) label: &'static str,
    pub(super) threads: usize,
    /// Per thread.
    pub(super) outstanding: usize,
    pub(super) record_bytes: usize,
    /// Records per second, as a share of the limit's: at least this.
    pub(super) ratio_min: f64,
    /// The median latency, as a multiple of the limit's: at most this.
    pub(super) p50_ratio_max: Option<f64>,
    /// CPU per record, µs: at most this.
    pub(super) cpu_micros_max: Option<f64>,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn cell(
    name: CellName,
    label: &'static str,
    (threads, outstanding, record_bytes): (usize, usize, usize),
    ratio_min: f64,
) -> LoadCell {
    LoadCell { name, label, threads, outstanding, record_bytes, ratio_min, p50_ratio_max: None, cpu_micros_max: None }
}

const LOAD_CELLS: [LoadCell; 6] = [
    LoadCell { p50_ratio_max: Some(1.05), ..cell(CellName::Threads1, "1 thread × 1 KiB", (1, 1, KIB), 0.95) },
    cell(CellName::Threads8, "8 threads × 1 KiB", (8, 1, KIB), 0.85),
    cell(CellName::Threads64, "64 threads × 1 KiB", (64, 1, KIB), 0.50),
    LoadCell {
        cpu_micros_max: Some(2.0),
        ..cell(CellName::Outstanding64, "64 outstanding × 1 KiB", (1, 64, KIB), 0.85)
    },
    cell(CellName::Mib1, "1 thread × 1 MiB", (1, 1, MIB), 0.90),
    cell(CellName::Mib8, "8 outstanding × 1 MiB", (1, 8, MIB), 0.90),
];

impl CellName {
    /// Those that append records and nothing else.
    pub(super) const LOADS: [CellName; 6] = [
        CellName::Threads1,
        CellName::Threads8,
        CellName::Threads64,
        CellName::Outstanding64,
        CellName::Mib1,
        CellName::Mib8,
    ];

    pub(super) fn load(self) -> Option<&'static LoadCell> {
        LOAD_CELLS.iter().find(|cell| cell.name == self)
    }
}

/// Sum of the durable writes per second of 64 logs, as a share of what the device gives at the same depth: at least
/// this.
pub(super) const MANY_RATIO_MIN: f64 = 0.8;
/// p99 of the first append after a rotation, as a multiple of the p99 of the others: at most this.
pub(super) const ROTATION_RATIO_MAX: f64 = 2.0;
/// Verified reading, as a share of CRC-32C alone over the same bytes: at least this.
pub(super) const READ_RATIO_MIN: f64 = 0.5;
/// The first record after an open, µs: at most this.
pub(super) const FIRST_RECORD_MICROS_MAX: f64 = 1_000.0;
/// Opening, µs, without the scan of the unsealed tail: at most this.
pub(super) const OPEN_MICROS_MAX: f64 = 10_000.0;
