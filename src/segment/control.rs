//! The control file: the few facts of a log that no segment can hold alone.
//!
//! Two slots of 32 KiB; each write goes to the slot the newest generation is *not* in, so one valid slot always
//! remains. Written at open, preparation, trim, truncation, quarantine, promise and close; no append waits for it,
//! but for a prepared segment.
//!
//! ```text
//!   0 magic        8   "SEAWCTRL"
//!   8 version      4
//!  12 length       4   bytes of the slot that are covered by the checksum
//!  16 generation   8   of this file; the higher valid slot counts
//!  24 log id      16
//!  40 incarnation  8
//!  48 stream       8
//!  56 block        4
//!  60 zero         4
//!  64 opens        8   times this log was opened for appending
//!  72 highest      8   highest segment number ever made usable
//!  80 truncations  8
//!  88 trim        24   lsn, chain, first segment
//! 112 close       48   highest segment then, segment, end offset, lsn, chain, time: all 0 unless the log was closed cleanly
//! 160 quarantined  8   count, then 24 each: start, end, chain at end-1
//!     passed over  8   count, then 8 each: segment numbers up to the highest that never were and never will be used
//!     extension    8   length, then the bytes: promise, ballot history, member configuration
//!     crc          4   CRC-32C of all before
//! ```

use std::collections::BTreeSet;

use crate::codec::{Chain, Reader, Truncated, crc32c};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber, StreamId};

use super::FORMAT_VERSION;
use super::header::is_block_bytes;

const MAGIC: [u8; 8] = *b"SEAWCTRL";

/// Bytes of one slot.
pub(crate) const CONTROL_SLOT_BYTES: usize = 32 * 1024;
/// Bytes of the file.
pub(crate) const CONTROL_FILE_BYTES: usize = 2 * CONTROL_SLOT_BYTES;
/// At most this many quarantined ranges are remembered.
pub(crate) const QUARANTINED_MAX: usize = 800;
/// At most this many numbers passed over are remembered, the highest ones.
pub(crate) const PASSED_OVER_MAX: usize = 128;
/// At most this many bytes of extension.
pub(crate) const EXTENSION_BYTES_MAX: usize = 12 * 1024;

/// No log counts so far: what is higher was made up, and would overflow where it is counted on.
pub(super) const COUNTED_MAX: u64 = u64::MAX >> 1;

const _: () =
    assert!(168 + QUARANTINED_MAX * 24 + 8 + PASSED_OVER_MAX * 8 + 8 + EXTENSION_BYTES_MAX + 4 <= CONTROL_SLOT_BYTES);

/// What was given up: everything up to and including `lsn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TrimPoint {
    pub(crate) lsn: Lsn,
    /// The chain at `lsn`.
    pub(crate) chain: Chain,
    /// The first segment still needed; lower numbers may be removed or recycled.
    pub(crate) first_segment: SegmentNumber,
}

/// Where a clean close left the log; everything up to here was flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CleanClose {
    /// The highest segment that had been made usable. One above it was made for a log that went on, and may hold more.
    pub(crate) highest_segment: SegmentNumber,
    pub(crate) segment: SegmentNumber,
    pub(crate) end_offset: u64,
    pub(crate) lsn: Lsn,
    pub(crate) chain: Chain,
    /// The last frame's time, µs.
    pub(crate) time_micros: u64,
}

/// A damaged range that was set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quarantined {
    pub(crate) lsns: LsnRange,
    /// The chain after the range, from which the log goes on.
    pub(crate) chain_after: Chain,
}

/// The content of the newest valid slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Control {
    pub(crate) generation: u64,
    pub(crate) log: LogId,
    pub(crate) incarnation: Incarnation,
    pub(crate) stream: StreamId,
    pub(crate) block_bytes: u32,
    pub(crate) open_count: u64,
    pub(crate) highest_segment: SegmentNumber,
    pub(crate) truncation_count: u64,
    pub(crate) trim: TrimPoint,
    pub(crate) clean_close: Option<CleanClose>,
    pub(crate) quarantined: Vec<Quarantined>,
    /// Numbers that a stranger's file stands under, that a failed preparation used up, or whose loss was accepted.
    pub(crate) passed_over: Vec<SegmentNumber>,
    pub(crate) extension: Vec<u8>,
}

/// Why no control could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ControlError {
    /// Neither slot is valid.
    Invalid,
    /// A slot was written by a later version of this format.
    Future { version: u32 },
}

impl Control {
    /// The slot this generation belongs in: its byte offset in the file.
    pub(crate) fn slot_offset(&self) -> u64 {
        (self.generation % 2) * CONTROL_SLOT_BYTES as u64
    }

    /// A segment is usable from now on; numbers between it and the highest one so far never will be.
    pub(crate) fn adopt(&mut self, number: SegmentNumber) {
        self.pass_over((self.highest_segment.next().get()..number.get()).map(SegmentNumber::new));
        self.highest_segment = self.highest_segment.max(number);
    }

    /// The log ends at `end` now: what was set aside behind it is no more, and its numbers are given again.
    pub(crate) fn cut_quarantined(&mut self, end: Lsn) {
        for range in &mut self.quarantined {
            range.lsns.end = range.lsns.end.min(end.next());
        }
        self.quarantined.retain(|range| !range.lsns.is_empty());
    }

    /// Sets frames aside. Where there are more ranges than can be remembered, those become one that have the fewest frames
    /// between them: these are set aside with them.
    pub(crate) fn set_aside(&mut self, ranges: impl IntoIterator<Item = Quarantined>) {
        for range in ranges {
            // An open that ended before its seal was flushed may have set it aside already.
            self.quarantined.retain(|known| known.lsns != range.lsns);
            self.quarantined.push(range);
        }
        let surplus = self.quarantined.len().saturating_sub(QUARANTINED_MAX);
        if surplus == 0 {
            return;
        }
        self.quarantined.sort_by_key(|range| range.lsns.start);
        let between = |pair: &[Quarantined]| pair[1].lsns.start.since(pair[0].lsns.end);
        let mut nearest: Vec<(u64, usize)> =
            self.quarantined.windows(2).enumerate().map(|(at, pair)| (between(pair), at + 1)).collect();
        nearest.sort_unstable();
        let joined: BTreeSet<usize> = nearest.into_iter().take(surplus).map(|(_, at)| at).collect();
        let mut kept: Vec<Quarantined> = Vec::with_capacity(QUARANTINED_MAX);
        for (at, range) in self.quarantined.drain(..).enumerate() {
            match kept.last_mut().filter(|_| joined.contains(&at)) {
                Some(last) if last.lsns.end > range.lsns.end => {}
                Some(last) => {
                    last.lsns.end = range.lsns.end;
                    last.chain_after = range.chain_after;
                }
                None => kept.push(range),
            }
        }
        self.quarantined = kept;
    }

    /// Remembers numbers that no file is missed under.
    pub(crate) fn pass_over(&mut self, numbers: impl IntoIterator<Item = SegmentNumber>) {
        let first = self.trim.first_segment;
        self.passed_over.extend(numbers);
        self.passed_over.sort_unstable();
        self.passed_over.dedup();
        self.passed_over.retain(|number| *number >= first);
        let surplus = self.passed_over.len().saturating_sub(PASSED_OVER_MAX);
        self.passed_over.drain(..surplus);
    }

    /// The bytes of one slot, zero-padded.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.quarantined.len() <= QUARANTINED_MAX && self.extension.len() <= EXTENSION_BYTES_MAX);
        assert!(self.passed_over.len() <= PASSED_OVER_MAX);
        let mut bytes = Vec::with_capacity(CONTROL_SLOT_BYTES);
        let words = |bytes: &mut Vec<u8>, words: &[u64]| {
            for word in words {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        };
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]); // length, below
        words(&mut bytes, &[self.generation]);
        bytes.extend_from_slice(&self.log.get().to_le_bytes());
        words(&mut bytes, &[self.incarnation.get(), self.stream.0, u64::from(self.block_bytes)]);
        words(&mut bytes, &[self.open_count, self.highest_segment.get(), self.truncation_count]);
        words(&mut bytes, &[self.trim.lsn.get(), self.trim.chain.get(), self.trim.first_segment.get()]);
        words(
            &mut bytes,
            &match self.clean_close {
                Some(at) => [
                    at.highest_segment.get(),
                    at.segment.get(),
                    at.end_offset,
                    at.lsn.get(),
                    at.chain.get(),
                    at.time_micros,
                ],
                None => [0; 6],
            },
        );
        words(&mut bytes, &[self.quarantined.len() as u64]);
        for range in &self.quarantined {
            words(&mut bytes, &[range.lsns.start.get(), range.lsns.end.get(), range.chain_after.get()]);
        }
        words(&mut bytes, &[self.passed_over.len() as u64]);
        for number in &self.passed_over {
            words(&mut bytes, &[number.get()]);
        }
        words(&mut bytes, &[self.extension.len() as u64]);
        bytes.extend_from_slice(&self.extension);
        let length = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(CONTROL_SLOT_BYTES, 0);
        bytes
    }

    /// The newest valid slot of a control file's bytes.
    pub(crate) fn decode(file: &[u8]) -> Result<Control, ControlError> {
        let slots = [file.get(..CONTROL_SLOT_BYTES), file.get(CONTROL_SLOT_BYTES..CONTROL_FILE_BYTES)];
        let mut newest: Result<Control, ControlError> = Err(ControlError::Invalid);
        for slot in slots.into_iter().flatten() {
            match Self::decode_slot(slot) {
                // A future slot beside a readable one still means that a later version wrote here: hands off.
                Err(future @ ControlError::Future { .. }) => return Err(future),
                Ok(control)
                    if newest.as_ref().is_err() || newest.as_ref().is_ok_and(|n| n.generation < control.generation) =>
                {
                    newest = Ok(control);
                }
                _ => {}
            }
        }
        newest
    }

    /// True when a slot holds something that is not what was written there, nor nothing: a write that a power loss cut, or rot.
    pub(crate) fn has_lost_slot(file: &[u8]) -> bool {
        let slots = file.chunks(CONTROL_SLOT_BYTES).take(2);
        slots.into_iter().any(|slot| Self::decode_slot(slot).is_err() && slot.iter().any(|byte| *byte != 0))
    }

    fn decode_slot(slot: &[u8]) -> Result<Control, ControlError> {
        let invalid = |_: Truncated| ControlError::Invalid;
        let mut head = Reader::new(slot);
        if head.bytes(8).map_err(invalid)? != MAGIC {
            return Err(ControlError::Invalid);
        }
        let version = head.u32().map_err(invalid)?;
        let length = head.u32().map_err(invalid)? as usize;
        let covered = slot.get(..length).ok_or(ControlError::Invalid)?;
        let crc = slot.get(length..length + 4).ok_or(ControlError::Invalid)?;
        if crc != crc32c(covered).to_le_bytes() {
            return Err(ControlError::Invalid);
        }
        if version != FORMAT_VERSION {
            return Err(ControlError::Future { version });
        }
        Self::decode_body(covered.get(16..).ok_or(ControlError::Invalid)?).map_err(invalid)
    }

    fn decode_body(body: &[u8]) -> Result<Control, Truncated> {
        let mut r = Reader::new(body);
        let generation = r.u64()?;
        let log = LogId::new(r.u128()?);
        let incarnation = Incarnation::new(r.u64()?);
        let stream = StreamId(r.u64()?);
        let block_bytes = u32::try_from(r.u64()?).map_err(|_| Truncated)?;
        if !is_block_bytes(block_bytes) {
            return Err(Truncated);
        }
        let open_count = r.u64()?;
        let highest_segment = SegmentNumber::new(r.u64()?);
        let truncation_count = r.u64()?;
        let trim = TrimPoint {
            lsn: Lsn::new(r.u64()?),
            chain: Chain::new(r.u64()?),
            first_segment: SegmentNumber::new(r.u64()?),
        };
        let at = CleanClose {
            highest_segment: SegmentNumber::new(r.u64()?),
            segment: SegmentNumber::new(r.u64()?),
            end_offset: r.u64()?,
            lsn: Lsn::new(r.u64()?),
            chain: Chain::new(r.u64()?),
            time_micros: r.u64()?,
        };
        let count = r.u64()?;
        let is_closed = at.highest_segment > SegmentNumber::NONE;
        if is_closed && at.highest_segment < at.segment || count > QUARANTINED_MAX as u64 {
            return Err(Truncated);
        }
        let mut quarantined = Vec::with_capacity(count as usize);
        for _ in 0..count {
            quarantined.push(Quarantined {
                lsns: LsnRange::new(Lsn::new(r.u64()?), Lsn::new(r.u64()?)),
                chain_after: Chain::new(r.u64()?),
            });
        }
        let count = r.u64()?;
        if count > PASSED_OVER_MAX as u64 {
            return Err(Truncated);
        }
        let mut passed_over = Vec::with_capacity(count as usize);
        for _ in 0..count {
            passed_over.push(SegmentNumber::new(r.u64()?));
        }
        let extension_bytes = r.u64()?;
        if extension_bytes > EXTENSION_BYTES_MAX as u64 {
            return Err(Truncated);
        }
        let extension = r.bytes(extension_bytes as usize)?.to_vec();
        r.finish()?;
        let counted = [generation, open_count, highest_segment.get(), truncation_count, at.lsn.get()];
        if counted.into_iter().chain([trim.lsn.get(), trim.first_segment.get()]).any(|number| number > COUNTED_MAX) {
            return Err(Truncated);
        }
        Ok(Control {
            generation,
            log,
            incarnation,
            stream,
            block_bytes,
            open_count,
            highest_segment,
            truncation_count,
            trim,
            clean_close: is_closed.then_some(at),
            quarantined,
            passed_over,
            extension,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(generation: u64) -> Control {
        Control {
            generation,
            log: LogId::new(1 << 77),
            incarnation: Incarnation::new(3),
            stream: StreamId(9),
            block_bytes: 4096,
            open_count: 4,
            highest_segment: SegmentNumber::new(8),
            truncation_count: 2,
            trim: TrimPoint { lsn: Lsn::new(5), chain: Chain::new(6), first_segment: SegmentNumber::new(2) },
            clean_close: Some(CleanClose {
                highest_segment: SegmentNumber::new(7),
                segment: SegmentNumber::new(6),
                end_offset: 8192,
                lsn: Lsn::new(50),
                chain: Chain::new(51),
                time_micros: 7,
            }),
            quarantined: vec![Quarantined {
                lsns: LsnRange::new(Lsn::new(7), Lsn::new(9)),
                chain_after: Chain::new(1),
            }],
            passed_over: vec![SegmentNumber::new(7)],
            extension: b"promise".to_vec(),
        }
    }

    #[test]
    fn the_newer_valid_slot_counts() {
        let mut file = vec![0u8; CONTROL_FILE_BYTES];
        assert_eq!(Control::decode(&file), Err(ControlError::Invalid));
        for generation in [4, 5] {
            let at = control(generation).slot_offset() as usize;
            file[at..at + CONTROL_SLOT_BYTES].copy_from_slice(&control(generation).encode());
        }
        assert_eq!(Control::decode(&file), Ok(control(5)));
        // Any bit of the newer slot's covered bytes: the older one counts.
        let newer = control(5).slot_offset() as usize;
        let covered = u32::from_le_bytes(file[newer + 12..newer + 16].try_into().unwrap()) as usize + 4;
        for bit in 0..covered * 8 {
            file[newer + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Control::decode(&file), Ok(control(4)), "bit {bit}");
            file[newer + bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn more_ranges_than_are_remembered_are_joined_where_that_costs_least() {
        let range = |start: u64, end: u64| Quarantined {
            lsns: LsnRange::new(Lsn::new(start), Lsn::new(end)),
            chain_after: Chain::new(end),
        };
        let mut known = Control { quarantined: vec![range(1, 2)], ..control(4) };
        known.set_aside([range(10, 11), range(1, 2)]);
        assert_eq!(known.quarantined, [range(10, 11), range(1, 2)]);
        let far = (0..QUARANTINED_MAX as u64).map(|i| range(100 + 10 * i, 101 + 10 * i));
        let before = known.clone();
        known.set_aside(far.clone());
        assert_eq!(known.quarantined.len(), QUARANTINED_MAX);
        assert_eq!(known.quarantined[0], range(1, 11), "eight between them");
        assert_eq!(known.quarantined[1], range(100, 111));
        let all = before.quarantined.into_iter().chain(far).map(|range| range.lsns);
        assert!(all.into_iter().all(|lsns| {
            known.quarantined.iter().any(|range| range.lsns.start <= lsns.start && lsns.end <= range.lsns.end)
        }));
        assert_eq!(known.encode().len(), CONTROL_SLOT_BYTES);
    }

    #[test]
    fn a_future_slot_is_refused_even_beside_a_readable_one() {
        let mut file = vec![0u8; CONTROL_FILE_BYTES];
        let old = control(4);
        file[..CONTROL_SLOT_BYTES].copy_from_slice(&old.encode());
        let mut future = control(5).encode();
        future[8] = 2;
        let length = u32::from_le_bytes(future[12..16].try_into().unwrap()) as usize;
        let crc = crc32c(&future[..length]);
        future[length..length + 4].copy_from_slice(&crc.to_le_bytes());
        file[CONTROL_SLOT_BYTES..].copy_from_slice(&future);
        assert_eq!(Control::decode(&file), Err(ControlError::Future { version: 2 }));
    }

    /// What version 1 wrote must be read for ever.
    #[test]
    fn golden() {
        let bytes = control(4).encode();
        assert_eq!((bytes.len(), crc32c(&bytes)), (CONTROL_SLOT_BYTES, 3_909_696_599));
    }
}
