//! Small logs to damage: written by the log itself, once per process. Only the clock differs from run to run.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use seawall::internals::{self as door, Place};
use seawall::{Chain, Config, Error, Incarnation, Log, LogId, Lsn, RecoveryMode, SegmentNumber};

use super::memory::{Image, Memory};

pub const LOG: LogId = LogId::new(0x5EA_3A11);
pub const DISK: Incarnation = Incarnation::new(0xD15C);

/// The kind of the record that says that a segment was never begun.
const BLANK: u8 = 132;

/// How a base was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Closed.
    Clean,
    /// Killed with frames behind the last proof, each in a group of its own.
    Killed,
    /// Killed after a flush marker had proven everything.
    Proven,
    /// Trimmed, truncated, continued, reopened, killed.
    Cut,
}

pub struct Base {
    pub left: Left,
    pub direct: bool,
    pub block_bytes: u32,
    pub image: Image,
    /// What the directory held at earlier moments.
    pub earlier: Vec<Image>,
    /// The log's frames: what they hold, and the chain there.
    pub frames: BTreeMap<u64, (Vec<u8>, Chain)>,
    /// Frames that a truncation removed.
    pub cut: BTreeMap<u64, Vec<u8>>,
    pub trimmed: u64,
    pub end: u64,
    /// Where frames start, of those segments that were begun: file and offset.
    pub starts: Vec<(String, u64)>,
}

/// The four bases, from the first one asked for on.
pub fn bases() -> &'static [Base; 4] {
    static BASES: OnceLock<[Base; 4]> = OnceLock::new();
    BASES.get_or_init(|| {
        [
            build(Left::Clean, true, 4096),
            build(Left::Killed, true, 512),
            build(Left::Proven, false, 4096),
            build(Left::Cut, true, 512),
        ]
    })
}

pub fn config(recovery: RecoveryMode) -> Config {
    Config {
        recovery,
        create: false,
        record_bytes_max: 1 << 20,
        in_flight_bytes_max: 1 << 20,
        group_bytes_max: 64 << 10,
        gather: false,
        idle_proof_after: Duration::from_millis(1),
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        index_stride_bytes: 4096,
        memory_tail_bytes: 0,
        ..Config::default()
    }
}

pub fn place(segment: u64) -> Place {
    Place { log: LOG, incarnation: DISK, segment: SegmentNumber::new(segment) }
}

/// What stands in the `life`-th frame with this number.
fn payload(lsn: u64, life: u64) -> Vec<u8> {
    let bytes = match lsn % 7 {
        0 => 3000,
        3 => 0,
        5 => 9000,
        _ => 20 + (lsn as usize * 37) % 300,
    };
    (0..bytes as u64).map(|i| (lsn * 31 + life * 101 + i * i) as u8).collect()
}

/// Opens what must open.
pub fn open(storage: &Memory) -> Log<Memory> {
    let (log, recovery) = Log::open_on(storage.clone(), config(RecoveryMode::Strict)).expect("an undamaged log");
    assert!(recovery.damage.is_empty(), "{recovery:?}");
    storage.pump();
    log
}

/// Appends without a driver: what the log wants done is done in between.
pub fn append(log: &Log<Memory>, storage: &Memory, record: &[u8]) -> Result<seawall::Pending<Memory>, Error> {
    for _ in 0..8 {
        match log.try_append(record) {
            Err(Error::Busy { .. } | Error::Full { .. }) => storage.pump(),
            done => return done,
        }
    }
    log.try_append(record)
}

fn build(left: Left, direct: bool, block_bytes: u32) -> Base {
    let new = Image::from([("control".to_owned(), Arc::new(door::new_control_file(LOG, DISK, block_bytes)))]);
    let storage = Memory::new(&new, direct, block_bytes);
    let mut earlier = vec![new];
    let mut cut = BTreeMap::new();
    let mut log = open(&storage);
    let put = |log: &Log<Memory>, lsns: std::ops::RangeInclusive<u64>, life: u64| {
        for lsn in lsns {
            let pending = append(log, &storage, &payload(lsn, life)).expect("room");
            assert_eq!(pending.lsn(), Lsn::new(lsn));
            pending.wait().expect("memory does not fail");
            storage.pump();
        }
    };
    put(&log, 1..=40, 0);
    earlier.push(storage.image());
    put(&log, 41..=75, 0);
    if left == Left::Cut {
        log.trim(Lsn::new(30)).unwrap();
        earlier.push(storage.image());
        log.truncate(Lsn::new(60)).unwrap();
        storage.pump();
        cut.extend((61..=75).map(|lsn| (lsn, payload(lsn, 0))));
        put(&log, 61..=85, 1);
        drop(log);
        log = open(&storage);
        put(&log, 86..=90, 1);
    }
    earlier.push(storage.image());
    let end = log.flushed().get();
    match left {
        Left::Clean => log.close(Duration::from_secs(1)).unwrap(),
        Left::Proven => {
            log.flush().unwrap();
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(2));
                storage.drive();
            }
            drop(log);
        }
        Left::Killed | Left::Cut => {
            // None of these says that another was flushed.
            let tail: Vec<_> = (end + 1..=end + 5)
                .map(|lsn| append(&log, &storage, &vec![lsn as u8; 60_000 / 8 + lsn as usize]).expect("room"))
                .collect();
            for pending in tail {
                pending.wait().unwrap();
            }
            drop(log);
        }
    }
    storage.pump();
    finish(left, direct, block_bytes, storage.image(), earlier, cut)
}

fn finish(
    left: Left,
    direct: bool,
    block_bytes: u32,
    image: Image,
    earlier: Vec<Image>,
    cut: BTreeMap<u64, Vec<u8>>,
) -> Base {
    let reopened = Memory::new(&image, direct, block_bytes);
    let (log, recovery) = Log::open_on(reopened.clone(), config(RecoveryMode::Strict)).unwrap();
    assert!(recovery.damage.is_empty() && recovery.dropped.is_none(), "{recovery:?}");
    let frames: BTreeMap<_, _> = log
        .reader(log.first())
        .map(|frame| frame.map(|frame| (frame.lsn.get(), (frame.payload.to_vec(), frame.chain))).expect("undamaged"))
        .collect();
    let (trimmed, end) = (log.first().get() - 1, recovery.end.get());
    assert_eq!(frames.len() as u64, end - trimmed);
    let starts = image
        .iter()
        .filter_map(|(name, bytes)| Some((name, bytes, number(name)?)))
        .flat_map(|(name, bytes, segment)| {
            let standing = door::walk(bytes, place(segment), block_bytes);
            let is_written = |it: &door::Standing| it.frame.as_ref().is_some_and(|facts| facts.kind != BLANK);
            standing.into_iter().filter(is_written).map(|it| (name.clone(), it.offset))
        })
        .collect();
    Base { left, direct, block_bytes, image, earlier, frames, cut, trimmed, end, starts }
}

/// The number in a segment's name.
pub fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?.parse().ok()
}
