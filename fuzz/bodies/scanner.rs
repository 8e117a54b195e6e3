//! The scanner and the recovery table on arbitrary bytes, some of them made valid on the way.
//!
//! ```text
//! input | shape 1 | stride 1 | end 2 | segment from its first group on … |
//! ```
//!
//! A header's own zero field (bytes 2 and 3) says what to make valid of it before the scan: 1 the checksum of its
//! payload, 2 the chain, 4 the header itself, 8 its position as the next one, 16 its length within the segment.

use seawall::internals::{self as door, Place, Standing};
use seawall::{Chain, Lsn, SegmentNumber};

use super::Input;
use super::base::{DISK, LOG};

pub const PLACE: Place = Place { log: LOG, incarnation: DISK, segment: SegmentNumber::new(3) };
const HEADER: usize = door::FRAME_HEADER_BYTES;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (shape, stride, end) = (input.byte(), input.byte(), u64::from(input.u16()));
    let block: u32 = if shape & 1 == 0 { 512 } else { 4096 };
    let mut segment = vec![0; block as usize];
    segment.extend_from_slice(input.rest());
    if shape & 2 != 0 {
        segment.resize(segment.len().next_multiple_of(block as usize), 0);
    }
    make_valid(&mut segment, block);
    let end = if shape & 4 == 0 { u64::MAX } else { end };
    check_walk(&segment, block);
    check_scan(&segment, block, end, u64::from(stride) * 64);
}

/// Does what the headers ask for, front to back, frames first and then on at the next device block.
fn make_valid(segment: &mut [u8], block: u32) {
    let (mut at, mut last, mut chain) = (block as usize, Lsn::ZERO, Chain::start(0));
    while at + HEADER <= segment.len() {
        let asked = segment[at + 2];
        if asked != 0 {
            segment[at + 2..at + 4].fill(0);
            forge(segment, at, asked, last, chain);
        }
        match door::decode_frame(PLACE.seed(at as u64), &segment[at..]) {
            Some(facts) => {
                if facts.kind == 1 {
                    (last, chain) = (facts.lsn, facts.chain);
                }
                at = at.saturating_add(facts.frame_bytes() as usize);
            }
            None => at = (at / block as usize + 1) * block as usize,
        }
    }
}

fn forge(segment: &mut [u8], at: usize, asked: u8, last: Lsn, chain: Chain) {
    let seed = PLACE.seed(at as u64);
    let frame = &mut segment[at..];
    frame[56..60].fill(0);
    if asked & 8 != 0 {
        frame[16..24].copy_from_slice(&last.next().get().to_le_bytes());
    }
    let room = frame.len() - HEADER;
    if asked & 16 != 0 {
        let bytes = u32::from_le_bytes(frame[4..8].try_into().unwrap()) as usize % (room + 1);
        frame[4..8].copy_from_slice(&(bytes as u32).to_le_bytes());
    }
    let bytes = u32::from_le_bytes(frame[4..8].try_into().unwrap()) as usize;
    if asked & 1 != 0 && bytes <= room {
        let crc = door::crc32c(&frame[HEADER..HEADER + bytes]);
        frame[32..36].copy_from_slice(&crc.to_le_bytes());
    }
    if asked & 2 != 0 {
        door::reseal_frame(seed, frame);
        if let Some(facts) = door::decode_frame(seed, frame) {
            frame[40..48].copy_from_slice(&facts.chain_after(chain).get().to_le_bytes());
        }
    }
    if asked & 4 != 0 {
        door::reseal_frame(seed, frame);
    }
}

fn check_walk(segment: &[u8], block: u32) {
    let bytes = segment.len() as u64;
    let mut before = u64::from(block);
    for Standing { offset, end, frame, sound } in door::walk(segment, PLACE, block) {
        assert!(before <= offset && offset < end && end <= bytes, "{before} {offset}..{end} of {bytes}");
        let inside = &segment[offset as usize..end as usize];
        match frame {
            Some(facts) => {
                assert_eq!(door::decode_frame(PLACE.seed(offset), inside), Some(facts));
                assert_eq!(door::crc32c(&inside[HEADER..]) == facts.payload_crc, sound);
            }
            None => assert_eq!(inside.iter().all(|b| *b == 0), sound),
        }
        before = end;
    }
    assert!(before + 8 > bytes, "the walk ended at {before} of {bytes}");
}

fn check_scan(segment: &[u8], block: u32, end: u64, stride: u64) {
    let scan = door::scan(segment, PLACE, block, end, stride);
    let bytes = segment.len() as u64;
    let highest = bytes.min(end).next_multiple_of(u64::from(block)).max(u64::from(block));
    let within = |offset: u64| assert!(offset <= highest, "{offset} beyond {highest}: {scan:?}");

    assert!(scan.frames <= bytes / HEADER as u64 && scan.payload_bytes <= bytes);
    within(scan.prefix.1);
    within(scan.end.1);
    for offset in scan.unreadable.iter().chain(&scan.dirty_padding).chain(&scan.scuffs) {
        within(*offset);
    }
    assert!(scan.gaps.len() <= 4096 && scan.dirty_padding.len() <= 4096 && scan.scuffs.len() <= 4096);

    // Gaps ascend, and what follows each begins where it ends.
    let mut last = scan.prefix.0;
    for (offset, lsns, run, run_end) in &scan.gaps {
        within(*offset);
        within(*run_end);
        assert!(lsns.start == last.next() && !lsns.is_empty() && *run >= lsns.end, "{scan:?}");
        last = *run;
    }

    if scan.claims == Lsn::MAX {
        // Nothing can be behind it: ranges up to it cannot say what they hold.
        return;
    }
    // What was claimed flushed is before the end, and what of it cannot be read is named.
    assert!(scan.end.0 >= scan.claims, "{scan:?}");
    assert!(scan.proven <= scan.end.0 && scan.proven <= scan.claims);
    let lost: u64 = scan.damage.iter().map(|lsns| lsns.frames()).sum();
    assert!(scan.damage.iter().all(|lsns| !lsns.is_empty() && lsns.end <= scan.end.0.next()), "{scan:?}");
    assert!(scan.damage.windows(2).all(|two| two[0].end <= two[1].start), "{scan:?}");
    if let Some(before) = scan.sealed_before
        && scan.dropped.is_none()
        && scan.gaps.len() < 4096
    {
        assert_eq!(scan.end.0.since(before), scan.frames + lost, "every frame is there or named: {scan:?}");
    }
    if let Some(dropped) = scan.dropped {
        assert!(dropped.start > scan.claims, "{scan:?}");
    }

    // Times may go back here, as no writer lets them: then the index is not believed. Its places are right all the same.
    let places: Vec<(&[u8], &[u8])> = scan.index.chunks_exact(24).map(|entry| (&entry[..8], &entry[16..])).collect();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    assert!(places.iter().all(|(_, offset)| number(offset) < highest), "{scan:?}");
    assert!(
        places.windows(2).all(|two| number(two[0].0) < number(two[1].0) && number(two[0].1) < number(two[1].1)),
        "{scan:?}"
    );
}
