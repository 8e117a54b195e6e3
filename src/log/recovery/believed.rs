//! Where a segment ends whose end no seal tells.
//!
//! What stands in it beyond that end is as valid as ever: frames behind a hole, which were dropped, or frames that were cut, by the
//! very seal that is lost. They have the numbers of others. So its frames count as far as something proves that they are
//! the log's: what follows continues them, by its chain; or else the log was never truncated in between, and they are claimed or
//! stand before any gap.

use super::plan::judge;
use super::scan::{Run, SegmentScan};
use crate::codec::Chain;
use crate::segment::{
    ByteSource, FlushMarker, Found, FrameHeader, Kind, Salt, Scanner, Seal, TrimPoint, frame_bytes, round_up,
};
use crate::types::{Lsn, SegmentNumber};

/// What something behind a segment tells of the last frame before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) last: Lsn,
    pub(crate) witness: Witness,
}

/// How that frame is known again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Witness {
    /// The frame that follows it.
    Frame(FrameHeader),
    /// The chain there.
    Chain(Chain),
}

impl Told {
    pub(crate) fn by_seal(seal: &Seal) -> Told {
        Told { last: seal.end, witness: Witness::Chain(seal.end_chain) }
    }

    pub(crate) fn by_marker(marker: &FlushMarker) -> Told {
        Told { last: marker.flushed_through, witness: Witness::Chain(marker.chain) }
    }

    fn is_of(&self, run: &Run) -> bool {
        let is_continued = match self.witness {
            Witness::Frame(next) => next.chain_after(run.chain) == next.chain,
            Witness::Chain(chain) => chain == run.chain,
        };
        run.last == self.last && is_continued
    }
}

/// The end of a segment that was scanned, given what is `told` of it and whether the log was truncated, by all that is known,
/// between this segment and what tells.
pub(crate) fn believed_end<B: ByteSource>(
    source: B,
    (salt, block_bytes): (Salt, u32),
    scan: &SegmentScan,
    told: Option<Told>,
    was_truncated: bool,
) -> Result<Run, B::Error> {
    let upto = told.map_or(Lsn::MAX, |told| told.last);
    let found = if scan.last_run().last <= upto { scan.last_run() } else { run_upto(source, salt, block_bytes, upto)? };
    if told.is_some_and(|told| told.is_of(&found)) {
        return Ok(found);
    }
    // The first frame that is found may be one that was cut: then what is told ends before it.
    let nothing = || {
        let nothing = nothing_of(scan, block_bytes);
        Run { last: nothing.last.min(upto), ..nothing }
    };
    // What was lost together with the seal is a gap like any other, behind which frames may have been dropped.
    let is_gap = |first: Lsn| !scan.tells_its_begin(block_bytes) && first.previous() > scan.claims;
    if was_truncated || scan.first_data.is_some_and(is_gap) {
        return Ok(nothing());
    }
    let untrimmed = TrimPoint { lsn: Lsn::ZERO, chain: Chain::default(), first_segment: SegmentNumber::NONE };
    // Where a gap is not claimed to its end, what stands behind it may have been dropped.
    let judged = judge(scan, &untrimmed, true).end;
    // The frame of the number that is told is another one, and no hole tells why: it was cut, although nothing else says so.
    if judged.last >= upto && found.last == upto {
        return Ok(nothing());
    }
    Ok(if judged.last <= upto { judged } else { Run { last: upto, ..found } })
}

/// The state before a segment's first frame.
pub(crate) fn nothing_of(scan: &SegmentScan, block_bytes: u32) -> Run {
    let block = u64::from(block_bytes);
    let frames_end = block + frame_bytes(Seal::PAYLOAD_BYTES);
    let (last, chain, time_micros) = match (scan.seal, scan.told()) {
        (Some(seal), _) => (seal.end, seal.end_chain, seal.end_time_micros),
        (None, told) => (told.map_or(Lsn::ZERO, |told| told.last), Chain::default(), 0),
    };
    Run { last, chain, time_micros, end_offset: round_up(frames_end, block), frames_end }
}

/// The state after the last frame of a segment that is not behind `upto`.
pub(crate) fn run_upto<B: ByteSource>(source: B, salt: Salt, block_bytes: u32, upto: Lsn) -> Result<Run, B::Error> {
    let block = u64::from(block_bytes);
    let mut run =
        Run { last: Lsn::ZERO, chain: Chain::default(), time_micros: 0, end_offset: block, frames_end: block };
    let mut scanner = Scanner::new(source, salt, block_bytes, block, u64::MAX);
    while let Some(found) = scanner.next()? {
        match found {
            Found::Frame { header, .. } | Found::BadPayload { header, .. } if header.lsn > upto => break,
            Found::Frame { offset, header } if header.kind == Kind::Data => {
                let frames_end = offset + header.frame_bytes();
                run = Run {
                    last: header.lsn,
                    chain: header.chain,
                    time_micros: header.time_micros,
                    end_offset: round_up(frames_end, block),
                    frames_end,
                };
            }
            _ => {}
        }
    }
    Ok(run)
}
