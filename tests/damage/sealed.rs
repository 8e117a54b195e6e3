//! A log with one sealed segment to spoil, and what each of its bytes costs.

use std::time::Duration;

use seawall::{Config, Log, Lsn, LsnRange};

use super::bytes::{DATA, FrameAt, HEADER, INDEX, SEAL, frames_in_blocks, segment_name};
use super::oracle::lsns;
use super::sim::{DiskOptions, Rng, SimDisk};

/// Small blocks: more borders.
pub const BLOCK: usize = 512;
/// The one that is spoiled: sealed, indexed, between others.
pub const SEGMENT: u64 = 2;

pub struct Sealed {
    pub disk: SimDisk,
    pub config: Config,
    pub records: Vec<Vec<u8>>,
    pub name: String,
    pub frames: Vec<FrameAt>,
}

impl Sealed {
    /// A log whose segments are so long, all of the second one filled with groups of a few records.
    pub fn filled(segment_bytes: u64, seed: u64) -> Sealed {
        let config = Config {
            segment_bytes_min: segment_bytes,
            segment_bytes_max: segment_bytes,
            index_stride_bytes: 4096,
            idle_proof_after: Duration::from_secs(3600),
            memory_tail_bytes: 0,
            ..Config::default()
        };
        let disk = SimDisk::new(DiskOptions::DIRECT_512);
        let (log, _) = Log::open_on(disk.open(), config.clone()).unwrap();
        disk.pump();
        let (mut rng, mut records) = (Rng::new(seed), Vec::new());
        while log.stats().rotations <= SEGMENT {
            let group: Vec<Vec<u8>> = (0..1 + rng.below(5)).map(|_| record(&mut rng)).collect();
            log.append_many(&group).unwrap().wait().unwrap();
            disk.pump();
            records.extend(group);
        }
        // What stands before it has done its work: nothing is to be read but what is looked for.
        let name = segment_name(SEGMENT);
        let first = frames_in_blocks(&disk.read_file(&name), BLOCK).into_iter().find(|frame| frame.kind == DATA);
        log.trim(Lsn::new(first.expect("it is full").lsn - 1)).unwrap();
        log.close(Duration::from_secs(1)).unwrap();
        disk.pump();
        Sealed::of(disk.fork(), config, records)
    }

    pub fn of(disk: SimDisk, config: Config, records: Vec<Vec<u8>>) -> Sealed {
        let name = segment_name(SEGMENT);
        let frames = frames_in_blocks(&disk.read_file(&name), BLOCK);
        let kinds: Vec<u8> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), (SEAL, DATA, INDEX), "{frames:?}");
        Sealed { disk, config, records, name, frames }
    }

    /// Bytes in which anything stands.
    pub fn used(&self) -> usize {
        self.frames.last().unwrap().end().next_multiple_of(BLOCK)
    }

    /// The frames that a flipped bit in this byte costs.
    pub fn cost(&self, byte: usize) -> Option<LsnRange> {
        let at = self.frames.iter().position(|frame| (frame.offset..frame.end()).contains(&byte))?;
        let frame = self.frames[at];
        if frame.kind != DATA {
            return None;
        }
        let header = byte < frame.offset + HEADER;
        // Behind a broken header nobody knows where the next frame starts, up to the next block that starts with one.
        let rest = self.frames[at + 1..].iter().take_while(|next| header && !next.offset.is_multiple_of(BLOCK));
        Some(lsns(frame.lsn, rest.last().map_or(frame.lsn, |last| last.lsn)))
    }
}

fn record(rng: &mut Rng) -> Vec<u8> {
    let bytes = match rng.below(16) {
        0..8 => rng.below(300),
        8..14 => rng.below(2500),
        14 => rng.below(9000),
        _ => 0,
    };
    let mut record = vec![0; bytes as usize];
    rng.fill(&mut record);
    record
}
