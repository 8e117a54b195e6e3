//! Every bit of a large sealed segment, flipped.
//!
//! The log stays open, for reading, and has no map of the segment: another process claims the file, so whatever is read
//! of it is read from the disk at that moment, copied and checked. What each flip goes through:
//!
//! - in a frame of a record: a reader over the frames that it costs and one more on each side, which must name these and
//!   no other; one flip in [`VERIFY_ONE_IN`] also `verify`, which must find exactly that;
//! - anywhere else that anything stands (header, seal, padding, index): `verify`, which must find it and accuse no frame,
//!   and a reader over the frames around it;
//! - behind everything: `verify`, which must find nothing;
//! - of all flips, one in [`OPEN_ONE_IN`]: an open of the spoiled disk, and everything read, in order and one by one.

use std::time::Instant;

use seawall::storage::{Hold, Storage};
use seawall::{Config, Error, Log, Lsn, LsnRange, RecoveryMode};

use super::bytes::{self, DATA};
use super::oracle::{holds, lsns};
use super::report::{Ask, Failure, Report, in_parts};
use super::sealed::{BLOCK, SEGMENT, Sealed};
use super::sim::{Rng, SimDisk, SimFile, SimStorage, mix};

/// For the time that is usually there.
pub const SEGMENT_BYTES: u64 = 256 << 10;
/// For a night.
pub const SEGMENT_BYTES_LONG: u64 = 4 << 20;

const VERIFY_ONE_IN: u64 = 32;
const OPEN_ONE_IN: u64 = 512;
/// Flips of one part of the work.
const PART_BITS: u64 = 1 << 14;

/// Flips every bit of a segment of so many bytes, or as many as are asked for.
pub fn run(segment_bytes: u64, ask: Ask<'_>) -> Report {
    let flips = Flips::new(segment_bytes, ask.seed);
    in_parts(&ask, &|part, until| flips.part(part, ask.failures_max, until))
}

/// The flips of one segment, in parts.
pub struct Flips {
    sealed: Sealed,
    seed: u64,
    bits: u64,
}

impl Flips {
    pub fn new(segment_bytes: u64, seed: u64) -> Flips {
        let sealed = Sealed::filled(segment_bytes, seed);
        let bits = sealed.disk.read_file(&sealed.name).len() as u64 * 8;
        Flips { sealed, seed, bits }
    }

    /// `None` behind the last one.
    pub fn part(&self, part: u64, failures_max: usize, until: Instant) -> Option<Report> {
        let bits = part * PART_BITS..((part + 1) * PART_BITS).min(self.bits);
        (!bits.is_empty()).then(|| flip_each(&self.sealed, self.seed, bits, failures_max, until))
    }
}

fn failure(seed: u64, what: String) -> Failure {
    Failure { seed, what, replay: format!("SEAWALL_SEED={seed} cargo test --release --test damage rot") }
}

fn flip_each(sealed: &Sealed, seed: u64, bits: std::ops::Range<u64>, failures_max: usize, until: Instant) -> Report {
    let bench = Bench::new(sealed);
    let mut report = Report::default();
    for bit in bits {
        if report.failures.len() >= failures_max || (bit % 256 == 0 && Instant::now() >= until) {
            break;
        }
        let mut rng = Rng::nth(seed, bit);
        let depth = Depth { verify: rng.one_in(VERIFY_ONE_IN), open: rng.one_in(OPEN_ONE_IN) };
        bench.disk.flip_bit(&sealed.name, bit);
        let judged = bench.judge(bit, depth);
        bench.disk.flip_bit(&sealed.name, bit);
        bench.disk.cut_journal();
        report.enumerated += 1;
        report.distinct += 1;
        report.judged_deep += u64::from(depth.open);
        match judged {
            Ok(lost) => {
                let named = lost.map_or(0, |lsns| mix(lsns.start.get(), lsns.end.get()));
                report.trace_hash = report.trace_hash.wrapping_add(mix(bit, named));
            }
            Err(what) => report.failures.push(failure(seed, format!("bit {bit} (byte {}): {what}", bit / 8))),
        }
    }
    report
}

#[derive(Clone, Copy)]
struct Depth {
    verify: bool,
    open: bool,
}

/// A log that is open on a disk of its own.
struct Bench<'a> {
    sealed: &'a Sealed,
    disk: SimDisk,
    config: Config,
    log: Log<SimStorage>,
    /// Another process's claim.
    _claimed: (SimStorage, SimFile),
}

impl Bench<'_> {
    fn new(sealed: &Sealed) -> Bench<'_> {
        let disk = sealed.disk.fork();
        let other = disk.open();
        let file = other.open(&sealed.name).unwrap();
        assert!(other.hold(&file, Hold::Exclusive).unwrap());
        let config = Config { recovery: RecoveryMode::ReadOnly, ..sealed.config.clone() };
        let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
        Bench { sealed, disk, config, log, _claimed: (other, file) }
    }

    /// What the flip cost, if that is what it must cost.
    fn judge(&self, bit: u64, depth: Depth) -> Result<Option<LsnRange>, String> {
        let byte = bit as usize / 8;
        let lost = self.sealed.cost(byte);
        self.read_around(byte, lost)?;
        if lost.is_none() || depth.verify {
            self.verify(&self.log, byte, lost)?;
        }
        if depth.open {
            let disk = self.disk.fork();
            let (log, _) = Log::open_on(disk.open(), self.config.clone()).map_err(|error| format!("{error:?}"))?;
            self.verify(&log, byte, lost)?;
            holds(&log, &self.sealed.records, lost.as_slice())?;
        }
        Ok(lost)
    }

    /// Reads what is lost, or the frame before the byte, and one frame more on each side.
    fn read_around(&self, byte: usize, lost: Option<LsnRange>) -> Result<(), String> {
        let mut data = self.sealed.frames.iter().filter(|frame| frame.kind == DATA);
        let first = self.log.first();
        let before =
            data.clone().take_while(|frame| frame.offset <= byte).last().map_or(first.get(), |frame| frame.lsn);
        let last = Lsn::new(data.next_back().expect("it is full").lsn);
        let touched = lost.unwrap_or(lsns(before, before));
        let range = LsnRange::inclusive(touched.start.previous().max(first), touched.end.min(last));
        let mut next = range.start;
        let mut named = None;
        for read in self.log.range(range) {
            match read {
                Ok(frame) if frame.lsn == next => {
                    if self.sealed.records[next.get() as usize - 1] != frame.payload {
                        return Err(format!("frame {next} has other bytes"));
                    }
                    next = next.next();
                }
                Err(Error::Corrupt { segment, lsns, .. }) if segment.get() == SEGMENT && lsns.start == next => {
                    if named.replace(lsns).is_some() {
                        return Err(format!("{lsns} and more are told to be damaged"));
                    }
                    next = lsns.end;
                }
                other => return Err(format!("where {next} belongs: {other:?}")),
            }
        }
        if named != lost {
            return Err(format!("{lost:?} are lost, {named:?} were named"));
        }
        if next != range.end { Err(format!("reading ended before {next}, not {}", range.end)) } else { Ok(()) }
    }

    /// One finding, which names the place and the frames; none for a byte that nothing stands in.
    fn verify(&self, log: &Log<SimStorage>, byte: usize, lost: Option<LsnRange>) -> Result<(), String> {
        let report = log.verify(|_, _| {}).map_err(|error| format!("{error:?}"))?;
        let finding = match &report.findings[..] {
            [] if byte >= self.sealed.used() => return Ok(()),
            [finding] => finding,
            other => return Err(format!("findings: {other:?}")),
        };
        let named = Some(finding.lsns).filter(|lsns| !lsns.is_empty());
        if named != lost || finding.segment.get() != SEGMENT {
            return Err(format!("{lost:?} are lost, {finding:?}"));
        }
        // Told where it is, give or take the group.
        let longest = self.sealed.frames.iter().map(|frame| frame.end() - frame.offset).max().unwrap_or(0);
        let (told, byte) = (finding.offset as usize, byte);
        if told > byte || told + longest + 3 * BLOCK < byte { Err(format!("{finding:?}")) } else { Ok(()) }
    }
}

/// The controls: a flip that did not happen, and one that its checksum was made to match, are not called found.
pub fn control() -> Result<(), String> {
    let sealed = Sealed::filled(64 << 10, 1);
    let bench = Bench::new(&sealed);
    let all = Depth { verify: true, open: false };
    let frame = sealed.frames.iter().filter(|frame| frame.kind == DATA).nth(3).expect("it is full");
    let bit = (frame.offset as u64 + 48) * 8;
    if bench.judge(bit, all).is_ok() {
        return Err("the control: a flip that did not happen was called found".into());
    }
    let mut bytes = bench.disk.read_file(&sealed.name);
    let seed = bytes::seed(bench.log.id(), bench.log.incarnation(), SEGMENT, frame.offset);
    bytes::state_flushed(&mut bytes, frame.offset, frame.flushed_through ^ 1, seed);
    bench.disk.write_file(&sealed.name, &bytes);
    if bench.judge(bit, all).is_ok() {
        return Err("the control: a flip with a checksum to match was called found".into());
    }
    bench.disk.flip_bit(&sealed.name, bit);
    // The same place with nothing to match is found by the same judge, on the same open log.
    bench.judge(bit, all).map(drop).map_err(|what| format!("the control's counterpart: {what}"))
}
