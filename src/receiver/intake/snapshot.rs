//! When all sources are written down anew, so that an open replays a bounded part of the stream.
//!
//! A snapshot is written in parts, between other blocks, while sources go on. That is sound because positions only grow, and
//! because rejects, which go, are left out of the parts behind that: the parts say what was durable when each was laid out,
//! at or above `begin`; everything else lies in blocks from `begin` on, which replay reads. No block names the snapshot
//! before its last part does.

use std::collections::VecDeque;

use super::super::block::{Range, RangeKind, range_bytes};
use super::super::builder::{Draft, Part};
use super::super::sources::Sources;
use crate::types::Lsn;

/// A part is at most this long, or as long as a block may be.
const PART_BYTES_MAX: usize = 256 << 10;

/// What a block takes of the log besides its bytes, where it is flushed by itself.
const LOG_BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct Snapshots {
    interval_bytes: u64,
    part_bytes: usize,
    /// From where the newest whole one is replayed, and whether its last part is durable.
    last: Lsn,
    last_durable: Lsn,
    last_bytes: u64,
    bytes_since: u64,
    blocks_since: u64,
    /// Somebody waits for the next one, to give up what lies before it.
    is_requested: bool,
    running: Option<Running>,
    /// A part was the last block: a block of records goes first.
    yields: bool,
}

#[derive(Debug)]
struct Running {
    begin: Lsn,
    next: usize,
    /// Ranges of the source before `next` that the last part had no room for.
    rest: VecDeque<Range>,
    bytes: u64,
}

impl Snapshots {
    pub(super) fn new(interval_bytes: u64, block_bytes_max: u64, last: Lsn, bytes_since: u64) -> Snapshots {
        let part_bytes = usize::try_from(block_bytes_max).unwrap_or(usize::MAX).min(PART_BYTES_MAX);
        Snapshots {
            interval_bytes,
            part_bytes,
            last,
            last_durable: last,
            last_bytes: 0,
            bytes_since,
            blocks_since: 0,
            is_requested: false,
            running: None,
            yields: false,
        }
    }

    /// From where a replay begins, as of the next block.
    pub(super) fn replay_from(&self) -> Lsn {
        self.last
    }

    /// Frames before this one are not needed to replay the sources' state.
    pub(super) fn trim_bound(&self) -> Lsn {
        self.last_durable
    }

    /// A block of records goes into the stream.
    pub(super) fn note(&mut self, bytes: usize) {
        self.yields = false;
        self.bytes_since += bytes as u64;
        self.blocks_since += 1;
    }

    /// Begins one as soon as the log took as much for what lies behind the last one as that was long, unless one that is
    /// written, or on its way, lets everything up to `upto` go. Whoever asks may do so because of the last one itself: without
    /// that bound, a snapshot that is read, committed and given up would call for the next one for ever.
    pub(super) fn request(&mut self, upto: Lsn) {
        let begins = self.running.as_ref().map_or(self.last, |running| running.begin);
        if begins <= upto {
            self.is_requested = true;
        }
    }

    /// The last part of the snapshot from `begin` on is durable.
    pub(super) fn become_durable(&mut self, begin: Lsn) {
        self.last_durable = self.last_durable.max(begin);
    }

    /// The next part, if one is due; the sources' state is that of `durable`. A snapshot costs at most a quarter of what was written
    /// besides since the last one; one that is asked for, as much.
    pub(super) fn next_part(&mut self, sources: &Sources, durable: Lsn, others_wait: bool) -> Option<Draft> {
        if self.yields && others_wait {
            return None;
        }
        let due = match self.is_requested {
            true => self.bytes_since + self.blocks_since * LOG_BLOCK_BYTES >= self.last_bytes,
            false => self.bytes_since >= self.interval_bytes.max(4 * self.last_bytes),
        };
        if self.running.is_none() {
            // Without sources as well: what lies before it is not needed any more.
            if !due {
                return None;
            }
            (self.bytes_since, self.blocks_since, self.is_requested) = (0, 0, false);
            self.running = Some(Running { begin: durable.next(), next: 0, rest: VecDeque::new(), bytes: 0 });
        }
        let running = self.running.as_mut()?;
        running.forget_seen(sources);
        let mut draft = Draft::default();
        while let Some(range) = running.next_range(sources) {
            if draft.bytes() + range_bytes(&range) > self.part_bytes && draft.bytes() > 0 {
                running.rest.push_front(range);
                break;
            }
            draft.push(Part { range, session: None, charged: 0, credit: 0 }, bytes::Bytes::new());
        }
        running.bytes += draft.bytes() as u64;
        if running.rest.is_empty() && running.next >= sources.len() {
            draft.ends_snapshot = Some(running.begin);
            self.last = running.begin;
            self.last_bytes = running.bytes;
            self.running = None;
        }
        self.yields = true;
        Some(draft)
    }
}

impl Running {
    /// Rejects that their source has taken note of since its turn came are not said any more.
    fn forget_seen(&mut self, sources: &Sources) {
        let first = self.next.checked_sub(1).and_then(|nth| sources.first_unseen(nth));
        let is_said = |range: &Range| first.is_some_and(|first| range.last >= first);
        self.rest.retain(|range| !matches!(range.kind, RangeKind::Unseen { .. }) || is_said(range));
    }

    /// What stood when a source's turn came is what is said of it, also in the next part: but for rejects, it only grows.
    fn next_range(&mut self, sources: &Sources) -> Option<Range> {
        if self.rest.is_empty() {
            self.rest.extend(sources.positions(self.next)?);
            self.next += 1;
        }
        self.rest.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of a hundred bytes that is flushed by itself takes forty times as much of the log: counted by their bytes alone,
    /// they filled it before the snapshot began that would have let them go.
    #[test]
    fn what_is_asked_for_waits_for_what_the_log_took() {
        let mut snapshots = Snapshots::new(64 << 20, 1 << 20, Lsn::ZERO, 0);
        snapshots.last_bytes = 1 << 20;
        snapshots.request(Lsn::new(9));
        let mut blocks = 0;
        while snapshots.next_part(&Sources::default(), Lsn::ZERO, false).is_none() {
            snapshots.note(100);
            blocks += 1;
            assert!(blocks <= 256, "a megabyte of the log");
        }
        assert!(blocks > 200, "not at once");
    }
}
