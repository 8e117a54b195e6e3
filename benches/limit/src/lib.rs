//! The device limit: how many records per second could any log make durable on this device?
//!
//! Every figure of a durable log is worth reading only next to what the device itself gives in
//! the same minute. This crate measures that, and shares no code with the log it judges.
//!
//! The model is the best log imaginable. [`Load::outstanding`] records exist. A record is either
//! in a write or waiting for one. Whenever one of `depth` write slots is free it takes waiting
//! records, at most `ceil(outstanding / depth)` so that `depth` writes can hold all of them, and
//! writes them as one group at the next offset of a file whose blocks are already written (or of
//! one of several, if asked for). When
//! the group is durable its records are acknowledged and are waiting again at once. A group of
//! `n` records has `n * (record_bytes + 64)` bytes, rounded up to whole blocks of 4096: 64 is
//! what a frame header costs. One thread plays all clients; nothing is copied, no checksum is
//! computed, nobody is woken.
//!
//! The limit is the best of every [`Method`] at every depth of [`DEPTHS`] that the load can fill.
//!
//! ```no_run
//! use seawall_limit::{Limit, Load, Options};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), seawall_limit::LimitError> {
//! let mut limit = Limit::prepare(&Options { dir: ".".into(), file_bytes: 1 << 30, files: 1 })?;
//! let load = Load { record_bytes: 1024, outstanding: 64 };
//! let best = limit.best(load, Duration::from_secs(2))?;
//! println!("{} at depth {}: {:.0} records/s", best.method, best.depth, best.records_per_second);
//! // From here on only the winner, interleaved with whatever is compared with it:
//! let again = limit.measure_one(load, best.method, best.depth, Duration::from_secs(2))?;
//! # let _ = again;
//! # Ok(())
//! # }
//! ```
//!
//! What the figures do not contain: `best` picks the maximum of several noisy runs and is
//! therefore a little too high; repeat the winner with `measure_one`. CPU time is that of the
//! process (io_uring's workers included), not of the kernel's own threads.

mod aligned;
mod clients;
mod error;
mod file;
mod histogram;
mod noise;
mod pwrite;
mod tally;
mod uring;
mod usage;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use error::LimitError;
pub use histogram::Histogram;
pub use noise::{Noise, Ticks};
pub use usage::Usage;

use aligned::AlignedBytes;
use clients::Clients;
use file::LimitFile;
use tally::Tally;

/// Depths tried: writes in flight at the same time.
pub const DEPTHS: [usize; 4] = [1, 2, 4, 8];

/// Writes start at multiples of this many bytes and have multiples of it as length.
pub const BLOCK_BYTES: usize = 4096;

/// Bytes added to every record, in place of a log's frame header.
pub const HEADER_BYTES: usize = 64;

/// Runs per candidate of [`Limit::measure`]; odd, so that one of them is the median.
pub const SLICES: usize = 5;

/// What is asked of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Payload of one record, in bytes.
    pub record_bytes: usize,
    /// Records that exist: each is being written or waits for that. One per client thread of a
    /// closed loop.
    pub outstanding: usize,
}

impl Load {
    /// Most records one write takes when `depth` writes may be in flight.
    pub fn group_records(self, depth: usize) -> usize {
        self.outstanding.div_ceil(depth)
    }

    /// Bytes written for a group of `records`.
    pub fn group_bytes(self, records: usize) -> usize {
        (records * (self.record_bytes + HEADER_BYTES)).next_multiple_of(BLOCK_BYTES)
    }
}

/// Where to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory on the device in question. It must exist.
    pub dir: PathBuf,
    /// Size of each file that is written over and over, in bytes; rounded up to whole blocks.
    pub file_bytes: u64,
    /// Files that the writes in flight are spread over, at least 1. A file system may take more
    /// writes per second to one file than to many.
    pub files: usize,
}

/// One way of making a write durable. `O_DIRECT` throughout, unless [`Limit::direct_io`] says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// io_uring, `O_DSYNC` on the file.
    UringDsync,
    /// io_uring, each write linked to an `fdatasync` of its own.
    UringFdatasync,
    /// `pwrite`, `O_DSYNC` on the file.
    PwriteDsync,
    /// `pwritev2` with `RWF_DSYNC`.
    PwriteRwfDsync,
    /// `pwrite`, then `fdatasync`.
    PwriteFdatasync,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 5] = [
        Method::UringDsync,
        Method::UringFdatasync,
        Method::PwriteDsync,
        Method::PwriteRwfDsync,
        Method::PwriteFdatasync,
    ];

    /// Whether writes go through io_uring; the others use one thread per write in flight.
    pub fn is_uring(self) -> bool {
        matches!(self, Method::UringDsync | Method::UringFdatasync)
    }

    fn is_fdatasync(self) -> bool {
        matches!(self, Method::UringFdatasync | Method::PwriteFdatasync)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::UringDsync => "uring O_DSYNC",
            Method::UringFdatasync => "uring+fdatasync",
            Method::PwriteDsync => "pwrite O_DSYNC",
            Method::PwriteRwfDsync => "pwritev2 RWF_DSYNC",
            Method::PwriteFdatasync => "pwrite+fdatasync",
        })
    }
}

/// What one method at one depth gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// How writes were made durable.
    pub method: Method,
    /// Writes in flight, at most.
    pub depth: usize,
    /// Records acknowledged per second.
    pub records_per_second: f64,
    /// Median time from a record starting to wait to its acknowledgement, in microseconds.
    pub p50_us: f64,
    /// The same at the 99th percentile of the records.
    pub p99_us: f64,
    /// Bytes given to the device per second, headers and rounding included.
    pub bytes_per_second: f64,
    /// Writes completed.
    pub writes: u64,
    /// CPU time of the whole process, user and system, per record, in microseconds.
    pub cpu_us_per_record: f64,
    /// Context switches of the whole process per record.
    pub context_switches_per_record: f64,
}

impl Cell {
    /// The median of each figure by itself, the sum of the writes; `None` of no cells.
    /// All cells are taken to be of the same method and depth.
    pub fn median(cells: &[Cell]) -> Option<Cell> {
        let first = *cells.first()?;
        let median = |figure: fn(&Cell) -> f64| {
            let mut figures: Vec<f64> = cells.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            f64::midpoint(figures[(figures.len() - 1) / 2], figures[figures.len() / 2])
        };
        Some(Cell {
            records_per_second: median(|cell| cell.records_per_second),
            p50_us: median(|cell| cell.p50_us),
            p99_us: median(|cell| cell.p99_us),
            bytes_per_second: median(|cell| cell.bytes_per_second),
            writes: cells.iter().map(|cell| cell.writes).sum(),
            cpu_us_per_record: median(|cell| cell.cpu_us_per_record),
            context_switches_per_record: median(|cell| cell.context_switches_per_record),
            ..first
        })
    }
}

/// A prepared file, ready to be measured on.
///
/// The files have no names any more: their space is given back when this value is dropped, or when
/// the process dies.
#[derive(Debug)]
pub struct Limit {
    files: Vec<LimitFile>,
    uring: Result<(), std::io::Error>,
    /// Where the next group goes. Kept across measurements so that each writes other blocks.
    next_offset: u64,
}

impl Limit {
    /// Creates the files in `options.dir`, writes zeros to every block of them and flushes them.
    pub fn prepare(options: &Options) -> Result<Limit, LimitError> {
        let create = |_| LimitFile::create(&options.dir, options.file_bytes, file::Direct::IfGranted);
        let files = (0..options.files.max(1)).map(create).collect::<Result<_, _>>()?;
        Ok(Limit { files, uring: uring::probe(), next_offset: 0 })
    }

    /// Whether the filesystem grants `O_DIRECT`. If not, every figure is of buffered writes with
    /// `fdatasync`.
    pub fn direct_io(&self) -> bool {
        self.files[0].is_direct()
    }

    /// Why io_uring cannot be used here, if it cannot. Depths above 1 then come from threads that
    /// call `pwrite`.
    pub fn uring_refused(&self) -> Option<&std::io::Error> {
        self.uring.as_ref().err()
    }

    /// The methods and depths that [`Limit::measure`] compares for this load.
    ///
    /// A depth above the number of records outstanding cannot be filled and is left out.
    /// `pwrite` at a depth above 1 (which needs threads) is compared only where io_uring is
    /// refused; [`Limit::measure_one`] measures it everywhere.
    pub fn candidates(&self, load: Load) -> Vec<(Method, usize)> {
        let mut candidates = Vec::new();
        for method in Method::ALL {
            for depth in DEPTHS {
                let single = depth == 1 || method.is_uring() || self.uring.is_err();
                if single && depth <= load.outstanding && self.offers(method) {
                    candidates.push((method, depth));
                }
            }
        }
        candidates
    }

    /// Measures every candidate for `run_time` each, in [`SLICES`] slices that take turns; a
    /// cell is the median of its slices, so that a stall of the machine spoils one slice of all
    /// candidates instead of the whole run of one.
    pub fn measure(&mut self, load: Load, run_time: Duration) -> Result<Vec<Cell>, LimitError> {
        let candidates = self.candidates(load);
        let mut slices = vec![Vec::with_capacity(SLICES); candidates.len()];
        for _ in 0..SLICES {
            for (slices, &(method, depth)) in slices.iter_mut().zip(&candidates) {
                slices.push(self.measure_one(load, method, depth, run_time / SLICES as u32)?);
            }
        }
        Ok(slices.iter().filter_map(|slices| Cell::median(slices)).collect())
    }

    /// Measures every candidate and returns the one with most records per second.
    pub fn best(&mut self, load: Load, run_time: Duration) -> Result<Cell, LimitError> {
        self.measure(load, run_time)?
            .into_iter()
            .max_by(|a, b| a.records_per_second.total_cmp(&b.records_per_second))
            .ok_or(LimitError::EmptyLoad)
    }

    /// Measures one method at one depth for `run_time`, after a warm-up of a tenth of that.
    pub fn measure_one(
        &mut self,
        load: Load,
        method: Method,
        depth: usize,
        run_time: Duration,
    ) -> Result<Cell, LimitError> {
        if load.outstanding == 0 || load.record_bytes == 0 || depth == 0 {
            return Err(LimitError::EmptyLoad);
        }
        if !self.offers(method) {
            return Err(LimitError::Unavailable { method });
        }
        let group_bytes = load.group_bytes(load.group_records(depth));
        // Twice what is in flight: then writes in flight never overlap, wherever the file wraps.
        let needed_bytes = 2 * depth as u64 * group_bytes as u64;
        let file_bytes = self.files[0].file_bytes();
        if file_bytes < needed_bytes {
            return Err(LimitError::FileTooSmall { file_bytes, needed_bytes });
        }
        let mut run = Run {
            files: &self.files,
            load,
            method,
            depth,
            buffers: (0..depth).map(|_| AlignedBytes::noise(group_bytes)).collect(),
            clients: Clients::new(load.outstanding, load.group_records(depth)),
            next_offset: self.next_offset,
            tally: Tally::new(run_time),
        };
        if method.is_uring() {
            uring::drive(&mut run)?
        } else {
            pwrite::drive(&mut run)?
        }
        self.next_offset = run.next_offset;
        Ok(run.tally.into_cell(method, depth))
    }

    fn offers(&self, method: Method) -> bool {
        (self.direct_io() || method.is_fdatasync()) && (self.uring.is_ok() || !method.is_uring())
    }
}

/// One measurement under way: what the drivers in `uring` and `pwrite` share.
struct Run<'a> {
    files: &'a [LimitFile],
    load: Load,
    method: Method,
    depth: usize,
    /// One per write in flight, each with the bytes of a full group.
    buffers: Vec<AlignedBytes>,
    clients: Clients,
    next_offset: u64,
    tally: Tally,
}

impl Run<'_> {
    /// Moves waiting records into `group`; returns where it goes and its bytes, or `None` when
    /// nothing waits.
    fn take(&mut self, group: &mut clients::Group) -> Option<(u64, usize)> {
        self.clients.take(group);
        if group.records() == 0 {
            return None;
        }
        let bytes = self.load.group_bytes(group.records());
        if self.next_offset + bytes as u64 > self.files[0].file_bytes() {
            self.next_offset = 0;
        }
        let offset = self.next_offset;
        self.next_offset += bytes as u64;
        Some((offset, bytes))
    }

    /// Acknowledges a durable group: its records wait again from now on.
    fn acknowledge(&mut self, group: &mut clients::Group, bytes: usize) {
        let now = std::time::Instant::now();
        self.tally.acknowledge(group, bytes, now);
        self.clients.put_back(group, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADS: [Load; 3] = [
        Load { record_bytes: 1024, outstanding: 1 },
        Load { record_bytes: 1024, outstanding: 10 },
        Load { record_bytes: 100_000, outstanding: 3 },
    ];

    fn limit(direct: file::Direct, uring: bool) -> Limit {
        let create = |_| LimitFile::create(&std::env::temp_dir(), 8 << 20, direct).unwrap();
        let files = (0..3).map(create).collect();
        let uring = if uring { uring::probe() } else { Err(std::io::Error::from_raw_os_error(libc::EPERM)) };
        Limit { files, uring, next_offset: 0 }
    }

    #[test]
    fn every_candidate_gives_a_plausible_cell() {
        for (direct, uring) in [
            (file::Direct::IfGranted, true),
            (file::Direct::Never, true),
            (file::Direct::IfGranted, false),
            (file::Direct::Never, false),
        ] {
            let mut limit = limit(direct, uring);
            for load in LOADS {
                let cells = limit.measure(load, Duration::from_millis(40)).unwrap();
                assert!(!cells.is_empty());
                for cell in cells {
                    assert!(cell.writes > 0 && cell.records_per_second > 0.0, "{cell:?}");
                    assert!(cell.p50_us > 0.0 && cell.p50_us <= cell.p99_us, "{cell:?}");
                    let payload = cell.records_per_second * load.record_bytes as f64;
                    assert!(cell.bytes_per_second > payload, "{cell:?}");
                }
            }
        }
    }

    #[test]
    fn without_io_uring_threads_take_the_depths() {
        let limit = limit(file::Direct::Never, false);
        let load = Load { record_bytes: 1024, outstanding: 4 };
        let expected: Vec<_> = [1, 2, 4].map(|depth| (Method::PwriteFdatasync, depth)).into();
        assert_eq!(limit.candidates(load), expected);
        assert!(limit.uring_refused().is_some() && !limit.direct_io());
    }

    #[test]
    fn a_group_has_room_for_headers_and_whole_blocks() {
        let load = Load { record_bytes: 1024, outstanding: 64 };
        assert_eq!(load.group_bytes(1), 4096);
        assert_eq!(load.group_bytes(3), 4096);
        assert_eq!(load.group_bytes(64), 69_632);
        assert_eq!(load.group_records(8), 8);
        assert_eq!(Load { record_bytes: 1 << 20, outstanding: 1 }.group_bytes(1), (1 << 20) + 4096);
    }

    #[test]
    fn refusals_are_typed() {
        let mut limit = limit(file::Direct::Never, false);
        let run_time = Duration::from_millis(1);
        let load = Load { record_bytes: 1024, outstanding: 1 };
        let refused = limit.measure_one(load, Method::UringDsync, 1, run_time);
        assert!(matches!(refused, Err(LimitError::Unavailable { method: Method::UringDsync })));
        let huge = Load { record_bytes: 8 << 20, outstanding: 1 };
        let refused = limit.measure_one(huge, Method::PwriteFdatasync, 1, run_time);
        assert!(matches!(refused, Err(LimitError::FileTooSmall { .. })));
        let empty = Load { record_bytes: 1024, outstanding: 0 };
        assert!(matches!(limit.best(empty, run_time), Err(LimitError::EmptyLoad)));
    }
}
