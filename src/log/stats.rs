//! A snapshot of what a log has done since it was opened.

use super::shared::Shared;
use crate::io::Storage;
use crate::metrics::{Summary, get};
use crate::types::{LsnRange, Watermarks};

/// Counters and distributions of one log. Times in µs, sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Positions.
    pub watermarks: Watermarks,
    /// Bytes appended and not yet flushed.
    pub in_flight_bytes: u64,
    /// Bytes of flushed frames, headers included.
    pub frame_bytes: u64,
    /// Bytes written to segments as groups, padding included.
    pub device_bytes: u64,
    /// Bytes written ahead to prepare segments.
    pub prepared_bytes: u64,
    /// Handing a group to the kernel, µs; 0 where write and flush are one operation.
    pub write_micros: Summary,
    /// Making a group durable, µs.
    pub flush_micros: Summary,
    /// How long a group's oldest frame waited to be written, µs.
    pub queue_wait_micros: Summary,
    /// Frames per group.
    pub group_frames: Summary,
    /// Bytes per group.
    pub group_bytes: Summary,
    /// Groups written by a thread that waited for them.
    pub groups_led: u64,
    /// Groups written by the I/O driver.
    pub groups_driven: u64,
    /// Of these, groups that a thread of its pool wrote, and not io_uring, and that ended well.
    pub groups_by_pool: u64,
    /// Device writes that may be in flight now, as measured to be best.
    pub flush_depth: usize,
    /// Share of released waiters that came back in time for the next group.
    pub rejoin_share: f64,
    /// Segments in use.
    pub segments: usize,
    /// Segments prepared and unused.
    pub spare_segments: usize,
    /// Bytes of all segment files.
    pub used_bytes: u64,
    /// Segment changes.
    pub rotations: u64,
    /// Segments newly prepared.
    pub segments_prepared: u64,
    /// Trimmed segments that became prepared ones.
    pub segments_recycled: u64,
    /// Trimmed segments that were removed.
    pub segments_removed: u64,
    /// Frames given up by `DropOldest`.
    pub dropped_frames: u64,
    /// Damage that readers met.
    pub faulty_ranges: Vec<LsnRange>,
    /// The log acknowledges nothing any more.
    pub poisoned: bool,
    /// Why no segment can be prepared just now.
    pub full: Option<String>,
}

impl<S: Storage> Shared<S> {
    pub(super) fn stats(&self) -> Stats {
        let trimmed = self.trimmed();
        let full = self.space.lock().full.as_ref().map(ToString::to_string);
        let faulty_ranges = self.faults.lock().clone();
        let counters = &self.counters;
        let used_bytes = self.used_bytes();
        let pipe = self.pipe.lock();
        Stats {
            watermarks: pipe.watermarks(trimmed),
            in_flight_bytes: pipe.in_flight_bytes,
            frame_bytes: get(&counters.frame_bytes),
            device_bytes: get(&counters.device_bytes),
            prepared_bytes: get(&counters.prepared_bytes),
            write_micros: counters.write_micros.summary(),
            flush_micros: counters.flush_micros.summary(),
            queue_wait_micros: counters.queue_wait_micros.summary(),
            group_frames: counters.group_frames.summary(),
            group_bytes: counters.group_bytes.summary(),
            groups_led: get(&counters.groups_led),
            groups_by_pool: get(&counters.groups_by_pool),
            groups_driven: get(&counters.groups_driven),
            flush_depth: pipe.depth(),
            rejoin_share: pipe.rejoin_share(),
            segments: self.catalog.count(),
            spare_segments: pipe.spares.len(),
            used_bytes,
            rotations: get(&counters.rotations),
            segments_prepared: get(&counters.segments_prepared),
            segments_recycled: get(&counters.segments_recycled),
            segments_removed: get(&counters.segments_removed),
            dropped_frames: get(&counters.dropped_frames),
            faulty_ranges,
            poisoned: pipe.poison.is_some(),
            full,
        }
    }
}
