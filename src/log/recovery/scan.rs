//! Walks one segment and notes what stands in it: runs of frames that follow one another, and the gaps between.

use super::believed::{Told, Witness};
use crate::codec::Chain;
use crate::segment::{
    ByteSource, FlushMarker, Found, FrameHeader, IndexEntry, Kind, Salt, Scanner, Seal, SparseIndex, frame_bytes,
    round_up,
};
use crate::types::{Lsn, LsnRange};

/// More gaps than this in one segment are told as one.
const GAPS_MAX: usize = 4096;

/// Frames without a gap: the state after the last of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) last: Lsn,
    pub(crate) chain: Chain,
    pub(crate) time_micros: u64,
    /// Behind the group that holds the last valid thing of the run: a multiple of the device block.
    pub(crate) end_offset: u64,
    /// Behind the last valid thing itself: where the segment is sealed, so that what is torn in the same block stays out.
    pub(crate) frames_end: u64,
}

/// Frames that ought to be between two runs and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) lsns: LsnRange,
    pub(crate) what: &'static str,
    /// The run that follows.
    pub(crate) next: Run,
}

/// What stands in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentScan {
    /// `None`: no valid seal at its place.
    pub(crate) seal: Option<Seal>,
    /// What was put there when the segment was prepared stands there instead.
    pub(crate) says_blank: bool,
    /// The frames from the start up to the first gap; `last` is the seal's end when there are none.
    pub(crate) prefix: Run,
    pub(crate) gaps: Vec<Gap>,
    /// The first data frame, whatever stands before it.
    pub(crate) first_data: Option<Lsn>,
    /// Its header, where it was found and not told.
    pub(crate) first_header: Option<FrameHeader>,
    /// Where the first data frame or marker stands, whole or not.
    pub(crate) first_at: Option<u64>,
    pub(crate) frames: u64,
    pub(crate) payload_bytes: u64,
    /// The highest `flushed_through` that anything valid in here states.
    pub(crate) claims: Lsn,
    /// The same, without the seal: what follows a seal is not claimed by it alone.
    pub(crate) claims_behind_seal: Lsn,
    /// Behind the last thing whose header is valid.
    pub(crate) valid_end: u64,
    /// The newest marker's statement.
    pub(crate) marker: Option<FlushMarker>,
    /// The oldest one's.
    pub(crate) first_marker: Option<FlushMarker>,
    /// Anything valid stands behind the last run's place in order: stale, foreign to the sequence, or damaged in part.
    pub(crate) strays: u64,
    /// Bytes that are neither frames nor zero padding, and where they begin.
    pub(crate) unreadable: Option<u64>,
    /// Padding inside groups that ought to be zero and is not: where, and the Lsn before it.
    pub(crate) dirty_padding: Vec<(u64, Lsn)>,
    /// Damaged local records between frames that follow each other.
    pub(crate) scuffs: Vec<(u64, &'static str)>,
    pub(crate) index: SparseIndex,
}

impl SegmentScan {
    /// True when not one valid header of this segment stands in it.
    pub(crate) fn is_blank(&self) -> bool {
        self.seal.is_none() && self.frames == 0 && self.strays == 0
    }

    /// What stands in here tells of the frames before it, whether the seal can be read or not: by its first frame, or by a
    /// marker before that.
    pub(crate) fn told(&self) -> Option<Told> {
        let by_frame =
            self.first_header.map(|header| Told { last: header.lsn.previous(), witness: Witness::Frame(header) });
        let by_marker = self.first_marker.map(|marker| Told::by_marker(&marker));
        [by_frame, by_marker].into_iter().flatten().min_by_key(|told| told.last)
    }

    /// What is told of the frames before it is where this segment begins: it stands where nothing can be lost in between.
    pub(crate) fn tells_its_begin(&self, block_bytes: u32) -> bool {
        let behind_seal = u64::from(block_bytes) + frame_bytes(Seal::PAYLOAD_BYTES);
        self.seal.is_some() || self.first_at == Some(behind_seal)
    }

    /// True when something tells that the seal itself was flushed: a marker, which is written later than that, or a
    /// frame that was appended when the first behind the seal had been flushed.
    pub(crate) fn is_seal_proven(&self) -> bool {
        // Only one that stands here: `marker` may also be what the control file tells.
        self.first_marker.is_some() || self.seal.is_some_and(|seal| self.claims_behind_seal > seal.end)
    }

    /// The last run: the prefix, or what follows the last gap.
    pub(crate) fn last_run(&self) -> Run {
        self.gaps.last().map_or(self.prefix, |gap| gap.next)
    }
}

struct Walk {
    scan: SegmentScan,
    run: Run,
    /// Nothing is expected to follow anything yet: the seal was not readable.
    unanchored: bool,
    pending_unreadable: Option<u64>,
    pending_bad: Option<&'static str>,
}

/// Scans a segment from its first group to `end` (a sealed segment's end, or its length).
pub(crate) fn scan_segment<B: ByteSource>(
    source: B,
    salt: Salt,
    block_bytes: u32,
    end: u64,
    index_stride_bytes: u64,
) -> Result<SegmentScan, B::Error> {
    let block = u64::from(block_bytes);
    let mut walk = Walk {
        scan: SegmentScan {
            seal: None,
            says_blank: false,
            prefix: Run {
                last: Lsn::ZERO,
                chain: Chain::default(),
                time_micros: 0,
                end_offset: block,
                frames_end: block,
            },
            gaps: Vec::new(),
            first_data: None,
            first_header: None,
            first_at: None,
            frames: 0,
            payload_bytes: 0,
            claims: Lsn::ZERO,
            claims_behind_seal: Lsn::ZERO,
            valid_end: block,
            marker: None,
            first_marker: None,
            strays: 0,
            unreadable: None,
            dirty_padding: Vec::new(),
            scuffs: Vec::new(),
            index: SparseIndex::new(index_stride_bytes),
        },
        run: Run { last: Lsn::ZERO, chain: Chain::default(), time_micros: 0, end_offset: block, frames_end: block },
        unanchored: true,
        pending_unreadable: None,
        pending_bad: None,
    };
    let mut scanner = Scanner::new(source, salt, block_bytes, block, end);
    let mut at_seal = true;
    let mut group = block;
    while let Some(found) = scanner.next()? {
        match found {
            Found::Frame { offset, header } => {
                if offset % block == 0 {
                    group = offset;
                }
                let end = offset + header.frame_bytes();
                walk.claim(&header, end, header.kind == Kind::Seal);
                let ends = Ends { frame: end, group: round_up(end, block) };
                let dirt = scanner.dirt_behind(offset, &header)?;
                match header.kind {
                    Kind::Data => walk.data(&header, offset, group, ends),
                    Kind::Seal if offset == block => match Seal::decode(scanner.payload(offset, &header)?) {
                        Ok(seal) => walk.anchor(seal, ends),
                        Err(_) => walk.scan.strays += 1,
                    },
                    Kind::FlushMarker => match FlushMarker::decode(scanner.payload(offset, &header)?) {
                        Ok(marker) => walk.marker(marker, offset, ends),
                        Err(_) => walk.scan.strays += 1,
                    },
                    Kind::Blank if offset == block => walk.scan.says_blank = true,
                    Kind::Seal | Kind::Index | Kind::Blank => walk.scan.strays += 1,
                }
                if let Some(at) = dirt {
                    walk.dirty_padding(at);
                }
            }
            Found::BadPayload { offset, header } => {
                walk.claim(&header, offset + header.frame_bytes(), header.kind == Kind::Seal);
                walk.bad_payload(&header, offset, round_up(offset + header.frame_bytes(), block));
            }
            Found::Nothing { offset, zero, .. } => {
                // A seal has one length: when its header is broken, the frames behind it in the group are still found.
                if at_seal && offset == block {
                    scanner.skip_to(block + frame_bytes(Seal::PAYLOAD_BYTES));
                    walk.pending_unreadable = Some(offset);
                    walk.pending_bad = Some("the seal is damaged");
                } else if !zero {
                    if offset % block != 0 {
                        walk.dirty_padding(offset);
                    }
                    walk.pending_unreadable.get_or_insert(offset);
                }
            }
        }
        at_seal = false;
    }
    walk.finish();
    Ok(walk.scan)
}

/// Where a found frame ends, and its group at the least.
#[derive(Clone, Copy)]
struct Ends {
    frame: u64,
    group: u64,
}

impl Ends {
    fn run(self, last: Lsn, chain: Chain, time_micros: u64) -> Run {
        Run { last, chain, time_micros, end_offset: self.group, frames_end: self.frame }
    }
}

impl Walk {
    fn claim(&mut self, header: &FrameHeader, end: u64, is_seal: bool) {
        self.scan.valid_end = self.scan.valid_end.max(end);
        self.scan.claims = self.scan.claims.max(header.flushed_through);
        if !is_seal {
            self.scan.claims_behind_seal = self.scan.claims_behind_seal.max(header.flushed_through);
        }
    }

    fn first(&mut self, header: &FrameHeader, offset: u64) {
        self.scan.first_at.get_or_insert(offset);
        self.scan.first_data.get_or_insert(header.lsn);
        self.scan.first_header.get_or_insert(*header);
    }

    fn dirty_padding(&mut self, offset: u64) {
        self.scan.dirty_padding.push((offset, self.run.last));
        self.scan.dirty_padding.truncate(GAPS_MAX);
    }

    fn anchor(&mut self, seal: Seal, ends: Ends) {
        self.run = ends.run(seal.end, seal.end_chain, seal.end_time_micros);
        self.scan.seal = Some(seal);
        self.scan.claims = self.scan.claims.max(seal.end);
        self.unanchored = false;
    }

    fn marker(&mut self, marker: FlushMarker, offset: u64, ends: Ends) {
        // What it claims is what its header claims; its payload adds the chain there.
        self.scan.first_marker.get_or_insert(marker);
        self.scan.first_at.get_or_insert(offset);
        if self.scan.marker.is_none_or(|newest| newest.flushed_through <= marker.flushed_through) {
            self.scan.marker = Some(marker);
        }
        if marker.flushed_through <= self.run.last && self.pending_bad.is_none() {
            self.run.end_offset = self.run.end_offset.max(ends.group);
            self.run.frames_end = self.run.frames_end.max(ends.frame);
        } else {
            self.scan.strays += 1;
        }
    }

    fn data(&mut self, header: &FrameHeader, offset: u64, group: u64, ends: Ends) {
        self.first(header, offset);
        if self.unanchored {
            // Without a seal the first frame is believed for where it stands; the damage is told by the missing seal.
            self.run.last = header.lsn.previous();
            self.unanchored = false;
            self.run.chain = header.chain;
        } else if header.lsn <= self.run.last {
            self.scan.strays += 1;
            return;
        } else if header.lsn == self.run.last.next() {
            if header.chain_after(self.run.chain) != header.chain {
                // Valid at its place, right in number, yet not the continuation: never believed.
                self.scan.strays += 1;
                self.pending_bad = Some("a frame does not continue the chain");
                self.pending_unreadable.get_or_insert(offset);
                return;
            }
            if let (Some(at), Some(what)) = (self.pending_unreadable, self.pending_bad) {
                // Something between two frames that follow each other: a local record. No frame is affected.
                self.scan.scuffs.push((at, what));
                self.scan.scuffs.truncate(GAPS_MAX);
            }
        } else {
            let at = self.pending_unreadable.unwrap_or(self.run.end_offset);
            self.close_run(at, LsnRange::new(self.run.last.next(), header.lsn));
        }
        self.scan.frames += 1;
        self.scan.payload_bytes += u64::from(header.payload_bytes);
        self.scan.index_note(header, group);
        self.run = ends.run(header.lsn, header.chain, header.time_micros);
        self.pending_unreadable = None;
        self.pending_bad = None;
    }

    fn bad_payload(&mut self, header: &FrameHeader, offset: u64, _group_end: u64) {
        self.scan.strays += 1;
        self.pending_unreadable.get_or_insert(offset);
        self.pending_bad.get_or_insert("a payload does not match its checksum");
        if header.kind == Kind::Data {
            self.first(header, offset);
            if self.unanchored {
                self.run.last = header.lsn.previous();
                self.unanchored = false;
            }
        }
    }

    /// Ends the current run; the next frame begins another.
    fn close_run(&mut self, offset: u64, lsns: LsnRange) {
        let what = self.pending_bad.unwrap_or("no valid frame stands there");
        self.store_run();
        if self.scan.gaps.len() == GAPS_MAX {
            let last = self.scan.gaps.last_mut().expect("full");
            last.lsns.end = lsns.end;
        } else {
            self.scan.gaps.push(Gap { offset, lsns, what, next: self.run });
        }
    }

    fn store_run(&mut self) {
        match self.scan.gaps.last_mut() {
            None => self.scan.prefix = self.run,
            Some(gap) => gap.next = self.run,
        }
    }

    fn finish(&mut self) {
        self.store_run();
        self.scan.unreadable = self.pending_unreadable;
    }
}

impl SegmentScan {
    fn index_note(&mut self, header: &FrameHeader, group: u64) {
        if self.index.last_offset().is_none_or(|last| last < group) {
            self.index.note(IndexEntry { lsn: header.lsn, time_micros: header.time_micros, offset: group });
        }
    }
}
