//! What stands where in a log's files, as a stranger reads them, and which of it the log is made of.

use std::collections::BTreeMap;
use std::ops::Range;

use seawall::{Incarnation, LogId};

use super::super::bytes::{DATA, HEADER, INDEX, MARKER, SEAL, seed, u32_at, u64_at};
use super::super::sim::{SimDisk, fingerprint};

pub const SLOT: usize = 32 * 1024;
pub const CONTROL: &str = "control";

/// One thing that stands in a segment.
#[derive(Clone, Copy, Debug)]
pub struct Thing {
    pub kind: u8,
    pub offset: usize,
    pub payload: usize,
    pub lsn: u64,
    pub flushed_through: u64,
}

impl Thing {
    pub fn header(&self) -> Range<usize> {
        self.offset..self.offset + HEADER
    }

    pub fn payload(&self) -> Range<usize> {
        self.offset + HEADER..self.offset + HEADER + self.payload
    }

    pub fn is_data(&self) -> bool {
        self.kind == DATA
    }
}

/// What a seal says.
#[derive(Clone, Copy, Debug)]
pub struct SealAt {
    pub sealed_segment: u64,
    pub sealed_end_offset: usize,
    pub end: u64,
    pub truncations: u64,
}

/// A segment that the log is made of.
pub struct Part {
    pub number: u64,
    /// What counts of it: its seal, the frames up to its end, markers between them.
    pub things: Vec<Thing>,
    pub seal: SealAt,
}

/// What a control file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlAt {
    pub generation: u64,
    /// The highest segment that was ever made usable.
    pub highest: u64,
    pub truncations: u64,
    pub trimmed: u64,
    pub first_segment: u64,
    /// Where the log was closed: segment, offset and last frame.
    pub closed: Option<(u64, u64, u64)>,
}

impl ControlAt {
    /// The slot that counts.
    pub fn of(control: &[u8]) -> Option<ControlAt> {
        let slots = control.chunks_exact(SLOT).filter_map(ControlAt::of_slot);
        slots.max_by_key(|slot| slot.generation)
    }

    fn of_slot(slot: &[u8]) -> Option<ControlAt> {
        let length = u32_at(slot, 12) as usize;
        if &slot[..8] != b"SEAWCTRL" || length + 4 > SLOT || u32_at(slot, length) != crc32c::crc32c(&slot[..length]) {
            return None;
        }
        let word = |at| u64_at(slot, at);
        let closed = (word(112) != 0).then(|| (word(120), word(128), word(136)));
        Some(ControlAt {
            generation: word(16),
            highest: word(72),
            truncations: word(80),
            trimmed: word(88),
            first_segment: word(104),
            closed,
        })
    }
}

/// A log's files.
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Everything that validates in each segment, whether it counts or not.
    pub things: BTreeMap<u64, Vec<Thing>>,
    /// What the log is made of, oldest first.
    pub parts: Vec<Part>,
    pub control: ControlAt,
    pub block: usize,
}

pub fn name(number: u64) -> String {
    super::super::bytes::segment_name(number)
}

/// What a file holds; nothing where it is gone.
pub fn bytes_of(disk: &SimDisk, file: &str) -> Vec<u8> {
    let is_there = disk.names().iter().any(|(name, _)| name == file);
    if is_there { disk.read_file(file) } else { Vec::new() }
}

impl Layout {
    /// Whether the log is made of this segment; else it is prepared, or was cut off.
    pub fn is_used(&self, number: u64) -> bool {
        self.parts.iter().any(|part| part.number == number)
    }

    /// What stands at the place of a segment's seal, if it is one.
    pub fn seal_of(&self, number: u64) -> Option<&Thing> {
        self.things[&number].first().filter(|thing| thing.kind == SEAL && thing.offset == self.block)
    }

    /// # Errors
    /// When what stands there is not what the log was told.
    pub fn of(disk: &SimDisk, whose: (LogId, Incarnation), block: usize, records: &[u64]) -> Result<Layout, String> {
        let read = |(name, _): (String, u64)| (name.clone(), disk.read_file(&name));
        let files: BTreeMap<String, Vec<u8>> = disk.names().into_iter().map(read).collect();
        let segments = files.iter().filter_map(|(name, bytes)| Some((name.strip_suffix(".seg")?.parse().ok()?, bytes)));
        let segments: BTreeMap<u64, &Vec<u8>> = segments.collect();
        let control = ControlAt::of(&files[CONTROL]).ok_or("the control file cannot be read")?;
        let things: BTreeMap<u64, Vec<Thing>> =
            segments.iter().map(|(number, bytes)| (*number, things(bytes, whose, *number, block))).collect();
        let mut parts = Vec::new();
        let is_sealed =
            |things: &[Thing]| things.first().is_some_and(|thing| thing.kind == SEAL && thing.offset == block);
        let mut at = things.iter().rev().find(|(_, things)| is_sealed(things)).map(|(number, _)| *number);
        let (mut end_offset, mut end) = (usize::MAX, records.len() as u64);
        while let Some(number) = at {
            let Some(all) = things.get(&number).filter(|things| is_sealed(things)) else { break };
            let seal = seal_at(segments[&number], &all[0]);
            let mut next = seal.end + 1;
            let mut counts = |thing: &Thing| {
                let is_there = thing.offset < end_offset
                    && match thing.kind {
                        DATA => thing.lsn == next && thing.lsn <= end,
                        kind => kind == SEAL || kind == MARKER,
                    };
                next += u64::from(is_there && thing.is_data());
                is_there
            };
            let own: Vec<Thing> = all.iter().filter(|thing| counts(thing)).copied().collect();
            if next != end + 1 {
                return Err(format!("segment {number} ends before frame {next}, not behind {end}"));
            }
            for frame in own.iter().filter(|thing| thing.is_data()) {
                if fingerprint(&segments[&number][frame.payload()]) != records[frame.lsn as usize - 1] {
                    return Err(format!("frame {} in segment {number} is another", frame.lsn));
                }
            }
            parts.insert(0, Part { number, things: own, seal });
            (end_offset, end) = (seal.sealed_end_offset, seal.end);
            at = Some(seal.sealed_segment).filter(|before| *before >= control.first_segment);
        }
        Ok(Layout { files, things, parts, control, block })
    }
}

impl std::fmt::Display for Layout {
    /// What the log is made of, for messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.control)?;
        for Part { number, things, seal } in &self.parts {
            let frames = things.iter().map(|thing| (thing.kind, thing.lsn, thing.offset, thing.flushed_through));
            write!(f, "; segment {number} {seal:?} {:?}", frames.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Everything that validates in a segment, in order.
fn things(bytes: &[u8], whose: (LogId, Incarnation), segment: u64, block: usize) -> Vec<Thing> {
    let mut all = Vec::new();
    let mut at = block;
    while at + HEADER <= bytes.len() {
        let header = &bytes[at..at + HEADER];
        let seed = seed(whose.0, whose.1, segment, at);
        let thing = Thing {
            kind: header[0],
            offset: at,
            payload: u32_at(header, 4) as usize,
            lsn: u64_at(header, 16),
            flushed_through: u64_at(header, 48),
        };
        let is_valid = u32_at(header, 60) == crc32c::crc32c_append(seed, &header[..60]);
        if !is_valid || thing.payload().end > bytes.len() {
            at = (at + 1).next_multiple_of(block);
            continue;
        }
        if u32_at(header, 32) == crc32c::crc32c(&bytes[thing.payload()]) {
            all.push(thing);
        }
        at = thing.payload().end.next_multiple_of(8);
        if thing.kind != DATA && thing.kind != SEAL || thing.kind == INDEX {
            at = at.next_multiple_of(block);
        }
    }
    all
}

fn seal_at(bytes: &[u8], thing: &Thing) -> SealAt {
    let word = |index: usize| u64_at(bytes, thing.payload().start + index * 8);
    SealAt { sealed_segment: word(0), sealed_end_offset: word(1) as usize, end: word(2), truncations: word(5) }
}
