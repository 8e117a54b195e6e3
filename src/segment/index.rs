//! The sparse index of a sealed segment: one entry per so many bytes of group data, found behind the sealed end.
//!
//! ```text
//! payload of the index record:  | lsn 8 | time µs 8 | offset 8 |  …  ascending in all three
//! ```
//!
//! An entry names a group's start and the first data frame in it. A segment without a valid index is scanned instead:
//! the index saves time, it carries no truth.

use super::frame::{HEADER_BYTES, INDEX_KIND};
use crate::codec::Reader;
use crate::types::Lsn;

/// Bytes of one entry.
pub(crate) const INDEX_ENTRY_BYTES: usize = 24;

/// A group's start: its first data frame, that frame's time, and where the group starts in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexEntry {
    pub(crate) lsn: Lsn,
    pub(crate) time_micros: u64,
    pub(crate) offset: u64,
}

/// Whether bytes that are no valid frame were once the header of the index of a segment that ends at `end` with `time`:
/// so damage is told apart from bytes that stood there before, and an index that was never written. One field may differ.
pub(crate) fn was_index(header: &[u8], end: Lsn, time_micros: u64) -> bool {
    let Some(header) = header.first_chunk::<HEADER_BYTES>() else { return false };
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let (payload, raw) = ((word(0) >> 32) as usize, (word(32) >> 32) as usize);
    let fields = [
        header[0] == INDEX_KIND && header[1..4] == [0; 3],
        payload == raw && payload > 0 && payload.is_multiple_of(INDEX_ENTRY_BYTES),
        word(16) == 0,
        word(24) == time_micros,
        word(40) == 0,
        word(48) == end.get(),
    ];
    fields.iter().filter(|matches| !**matches).count() <= 1
}

/// Entries of one segment, sparse in bytes, bounded in number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SparseIndex {
    entries: Vec<IndexEntry>,
    /// At most one entry per so many bytes; doubles when the entries would exceed [`SparseIndex::ENTRIES_MAX`].
    stride_bytes: u64,
    /// The last group offered, kept as an entry or not.
    last_noted: Option<u64>,
}

impl SparseIndex {
    /// More entries than this are thinned out: the index of any segment stays below 100 KiB.
    pub(crate) const ENTRIES_MAX: usize = 4096;

    pub(crate) fn new(stride_bytes: u64) -> SparseIndex {
        SparseIndex { entries: Vec::new(), stride_bytes: stride_bytes.max(1), last_noted: None }
    }

    /// Notes a group; groups come in order.
    pub(crate) fn note(&mut self, entry: IndexEntry) {
        self.last_noted = Some(entry.offset);
        if let Some(last) = self.entries.last() {
            debug_assert!(last.lsn < entry.lsn && last.offset < entry.offset);
            if entry.offset - last.offset < self.stride_bytes {
                return;
            }
        }
        if self.entries.len() == Self::ENTRIES_MAX {
            self.stride_bytes *= 2;
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.entries.push(entry);
    }

    /// Where the last noted group starts.
    pub(crate) fn last_offset(&self) -> Option<u64> {
        self.last_noted
    }

    /// Forgets what lies above `end` (a suffix truncation).
    pub(crate) fn truncate(&mut self, end: Lsn) {
        self.entries.retain(|entry| entry.lsn <= end);
    }

    /// The last entry at or before `lsn`.
    pub(crate) fn at_or_before(&self, lsn: Lsn) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.lsn <= lsn);
        after.checked_sub(1).map(|i| self.entries[i])
    }

    /// The last entry whose frame is older than `time_micros`: scanning from there finds the first that is not.
    pub(crate) fn before_time(&self, time_micros: u64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.time_micros < time_micros);
        after.checked_sub(1).map(|i| self.entries[i])
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * INDEX_ENTRY_BYTES);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.lsn.get().to_le_bytes());
            bytes.extend_from_slice(&entry.time_micros.to_le_bytes());
            bytes.extend_from_slice(&entry.offset.to_le_bytes());
        }
        bytes
    }

    /// Reads an index; `None` when it is not one that [`SparseIndex::encode`] could have written.
    pub(crate) fn decode(bytes: &[u8], sealed_end_offset: u64) -> Option<SparseIndex> {
        if bytes.len() > Self::ENTRIES_MAX * INDEX_ENTRY_BYTES {
            return None;
        }
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(bytes.len() / INDEX_ENTRY_BYTES);
        let mut reader = Reader::new(bytes);
        for _ in 0..bytes.len() / INDEX_ENTRY_BYTES {
            let entry = IndexEntry {
                lsn: Lsn::new(reader.u64().ok()?),
                time_micros: reader.u64().ok()?,
                offset: reader.u64().ok()?,
            };
            let ascends = entries.last().is_none_or(|last| {
                last.lsn < entry.lsn && last.time_micros <= entry.time_micros && last.offset < entry.offset
            });
            if !ascends || entry.offset >= sealed_end_offset {
                return None;
            }
            entries.push(entry);
        }
        reader.finish().ok()?;
        Some(SparseIndex { entries, stride_bytes: 1, last_noted: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: u64) -> IndexEntry {
        IndexEntry { lsn: Lsn::new(i), time_micros: i * 10, offset: i * 4096 }
    }

    #[test]
    fn finds_round_trips_and_stays_bounded() {
        let mut index = SparseIndex::new(4096);
        for i in 1..=20_000 {
            index.note(entry(i));
        }
        assert!(index.entries.len() <= SparseIndex::ENTRIES_MAX);
        let found = index.at_or_before(Lsn::new(10_007)).unwrap();
        assert!(found.lsn <= Lsn::new(10_007) && found.lsn > Lsn::new(10_007 - 16));
        assert_eq!(index.at_or_before(Lsn::ZERO), None);
        let again = SparseIndex::decode(&index.encode(), u64::MAX).unwrap();
        assert_eq!(again.entries, index.entries);
        assert!(SparseIndex::decode(&index.encode(), 4096).is_none(), "points behind the end");
        assert!(SparseIndex::decode(&index.encode()[1..], u64::MAX).is_none());
        assert_eq!(index.before_time(10), None);
        assert_eq!(index.before_time(11).unwrap().lsn, Lsn::new(1));
    }
}
