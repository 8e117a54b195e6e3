//! Segments before and after their use: prepared ahead, indexed once sealed, recycled or removed once trimmed.
//! Everything here runs on the storage's background thread or in a call that may block; never under the pipe's lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalog::{End, Removed};
use super::commit::{Rotation, Spare, segment_bytes_for};
use super::shared::Shared;
use crate::config::WhenFull;
use crate::error::{Error, Result};
use crate::events::{self, event};
use crate::io::{Buffer, Hold, Storage};
use crate::metrics::{add, get};
use crate::segment::{FileName, INDEX_ENTRY_BYTES, Kind, SegmentHeader, SparseIndex, encode_local, round_up};
use crate::sync::now;
use crate::types::{Lsn, SegmentNumber};

/// Prepared segments to have: one to rotate into, one that stays for the next open.
const SPARES: usize = 2;
/// Trimmed segments become prepared ones while there are fewer than this.
const SPARES_RECYCLED: usize = 4;
/// Zeros are written in pieces of this size.
const PIECE_BYTES: u64 = 1024 * 1024;
/// After a failure, preparation is tried again at most this often.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What preparation knows.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// The highest segment number ever made usable.
    highest: u64,
    /// Numbers that files of others stand under.
    taken: BTreeSet<SegmentNumber>,
    /// The length of the last segment prepared.
    last_bytes: u64,
    /// Bytes of all segment files, prepared ones included: counted where files are made and removed.
    file_bytes: u64,
    /// Somebody needs a segment with so much room for group data.
    wanted: u64,
    /// Why the last preparation failed.
    pub(super) full: Option<Error>,
    tried: Option<Instant>,
    queued: bool,
    /// A sync of the directory failed, or has not ended: a later one that goes well says nothing of the names before it.
    names_in_doubt: bool,
}

impl Space {
    pub(super) fn new(
        highest: SegmentNumber,
        taken: BTreeSet<SegmentNumber>,
        last_bytes: u64,
        file_bytes: u64,
    ) -> Space {
        Space { highest: highest.get(), taken, last_bytes, file_bytes, ..Space::default() }
    }
}

impl<S: Storage> Shared<S> {
    /// Asks for a segment with room for `bytes` of group data; the reason when the last preparation failed.
    pub(super) fn want_segment(&self, bytes: u64) -> Option<Error> {
        let mut space = self.space.lock();
        space.wanted = space.wanted.max(bytes);
        let retry = space.tried.is_none_or(|at| now().saturating_duration_since(at) >= RETRY_AFTER);
        if !space.queued && (space.full.is_none() || retry) {
            self.queue_preparation(&mut space);
        }
        space.full.clone()
    }

    /// Prepares ahead if too few segments are.
    pub(super) fn keep_spares(&self) {
        let few = {
            let pipe = self.pipe.lock();
            pipe.spares.len() < SPARES || pipe.wants_written_spare()
        };
        let mut space = self.space.lock();
        if few && !space.queued {
            self.queue_preparation(&mut space);
        }
    }

    fn queue_preparation(&self, space: &mut Space) {
        space.queued = true;
        self.spawn(|shared| shared.prepare_ahead());
    }

    fn prepare_ahead(&self) {
        loop {
            let (count, first_bytes, unwritten) = {
                let pipe = self.pipe.lock();
                let first = pipe.spares.front();
                let unwritten = pipe.wants_written_spare();
                (pipe.spares.len(), first.map_or(0, |spare| spare.bytes), unwritten)
            };
            let (wanted, needed, too_small) = {
                let mut space = self.space.lock();
                let wanted = std::mem::take(&mut space.wanted);
                let needed = segment_bytes_for(wanted, self.catalog.block_bytes, self.config.index_stride_bytes);
                let too_small = wanted > 0 && count > 0 && first_bytes < needed;
                if (count >= SPARES && !too_small && !unwritten) || self.is_closed() {
                    // In one step with the look at what is wanted: whoever wants something later queues it again.
                    space.queued = false;
                    return;
                }
                (wanted, needed, too_small)
            };
            let done = if too_small {
                self.enlarge_first_spare(needed)
            } else if count < SPARES {
                self.prepare_one(needed)
            } else {
                self.write_first_spare()
            };
            let mut space = self.space.lock();
            space.tried = Some(now());
            match done {
                Ok(()) => space.full = None,
                Err(error) => {
                    space.wanted = space.wanted.max(wanted);
                    drop(space);
                    let may_drop = self.config.when_full == WhenFull::DropOldest && matches!(error, Error::Full { .. });
                    if may_drop && self.drop_oldest() {
                        continue;
                    }
                    // Behind the drop: it gives no descriptor back that others would not take.
                    let error = no_descriptors(error);
                    let mut space = self.space.lock();
                    if space.full.is_none() {
                        events::happened("full", 1);
                        event!(warn, %error, "no segment can be prepared");
                    }
                    space.full = Some(error);
                    space.queued = false;
                    drop(space);
                    self.announce_room();
                    return;
                }
            }
            drop(space);
            self.announce_room();
        }
    }

    /// The length of the next segment: twice the last one used, within the configured bounds and the byte limit.
    fn next_bytes(&self, needed: u64) -> Result<u64> {
        let last = self.space.lock().last_bytes;
        let rotations = get(&self.counters.rotations);
        let grown = if rotations == 0 { last } else { last.saturating_mul(2) };
        // Header, seal, index and some data: each begins with a block.
        let needed = needed.max(8 * u64::from(self.catalog.block_bytes));
        let grown = grown.clamp(self.config.segment_bytes_min, self.config.segment_bytes_max).max(needed);
        let mut bytes = round_up(grown, u64::from(self.catalog.block_bytes));
        if let Some(limit) = self.config.byte_limit {
            let used = self.used_bytes();
            let left = limit.saturating_sub(used) / (64 * 1024) * (64 * 1024);
            // Small steps near the limit: space comes back segment by segment.
            let share = (limit / 8 / (64 * 1024) * (64 * 1024)).max(self.config.segment_bytes_min);
            bytes = bytes.min(left).min(share.max(needed));
            if bytes < needed.max(self.config.segment_bytes_min) {
                return Err(Error::Full { reason: format!("the log's byte limit of {limit} bytes, {used} are used") });
            }
        }
        Ok(bytes)
    }

    /// Bytes of all segment files, prepared ones included.
    pub(super) fn used_bytes(&self) -> u64 {
        self.space.lock().file_bytes
    }

    /// Removes a segment's file and counts its bytes as free. What cannot be removed counts as used.
    fn remove_segment(&self, number: SegmentNumber, bytes: u64) -> Result<()> {
        let name = FileName::Segment(number);
        self.storage.remove(&name.to_string()).map_err(|e| Error::io("remove", name, e))?;
        let mut space = self.space.lock();
        space.file_bytes = space.file_bytes.saturating_sub(bytes);
        add(&self.counters.segments_removed, 1);
        events::happened("segment removed", 1);
        Ok(())
    }

    /// Removes, durably, segments that lie between the newest one and the one it continues. An error must end the log, or
    /// its opening: once there is a later segment, nothing tells these from segments in use.
    pub(super) fn remove_debris(&self, segments: impl IntoIterator<Item = (SegmentNumber, u64)>) -> Result<()> {
        for (number, bytes) in segments {
            self.remove_segment(number, bytes)?;
        }
        self.sync_removals().map_err(|e| Error::io("sync the directory of", self.storage.describe(), e))
    }

    pub(super) fn prepare_one(&self, needed: u64) -> Result<()> {
        let bytes = self.next_bytes(needed)?;
        let temporary = FileName::SegmentNew(SegmentNumber::new(self.space.lock().highest + 1)).to_string();
        let made = self.fill_segment(&temporary, bytes).and_then(|(file, written)| {
            // Numbers are given and made usable in one order: a lower number is never used after a higher one.
            let _turn = self.numbering.lock();
            let number = self.next_number();
            self.christen(&file, number, &temporary).inspect_err(|_| self.remove_unnamed(number))?;
            self.adopt(Spare::new(number, file, bytes, written))?;
            self.space.lock().file_bytes += bytes;
            Ok(())
        });
        if made.is_err() {
            let _ = self.storage.remove(&temporary);
        }
        made?;
        add(&self.counters.segments_prepared, 1);
        events::happened("segment prepared", 1);
        Ok(())
    }

    /// The number of the next segment. It is spent by `adopt`: a number that was passed over without a word is a segment
    /// that is missing, to the next open.
    fn next_number(&self) -> SegmentNumber {
        let space = self.space.lock();
        let is_free = |number: &SegmentNumber| !space.taken.contains(number);
        (space.highest + 1..).map(SegmentNumber::new).find(is_free).expect("there is no end to them")
    }

    /// Makes a prepared segment usable: only when the control file says that it exists may it hold frames.
    fn adopt(&self, spare: Spare<S::File>) -> Result<()> {
        let (number, bytes) = (spare.number, spare.bytes);
        // Also when the control file cannot be written: what it says then is not known.
        self.space.lock().highest = number.get();
        self.update_control(|control| control.adopt(number))?;
        self.space.lock().last_bytes = bytes;
        let mut pipe = self.pipe.lock();
        pipe.spares.push_back(spare);
        Ok(())
    }

    /// Creates a file of `bytes` under a temporary name, its blocks written or reserved.
    fn fill_segment(&self, temporary: &str, bytes: u64) -> Result<(Arc<S::File>, bool)> {
        let wrap = |op| move |e| no_space(op, temporary, e);
        let storage = &self.storage;
        let file = match storage.create(temporary) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                storage.remove(temporary).map_err(wrap("remove"))?;
                storage.create(temporary).map_err(wrap("create"))?
            }
            other => other.map_err(wrap("create"))?,
        };
        storage.allocate(&file, bytes).map_err(wrap("reserve space for"))?;
        let written = self.groups_are_small();
        if written {
            self.write_zeros(&file, temporary, 0, bytes)?;
        }
        Ok((Arc::new(file), written))
    }

    /// Gives a filled file its header and its final name, both durable.
    fn christen(&self, file: &Arc<S::File>, number: SegmentNumber, current_name: &str) -> Result<()> {
        let wrap = |op| move |e| no_space(op, current_name, e);
        if self.space.lock().names_in_doubt {
            let what = "an earlier sync of the directory failed, and no flush is tried again: reopen the log";
            return Err(Error::io("sync the directory of", current_name, std::io::Error::other(what)));
        }
        self.write_header(file, number, current_name)?;
        self.storage.flush(file).map_err(wrap("flush"))?;
        let name = FileName::Segment(number).to_string();
        self.storage.rename(current_name, &name).map_err(wrap("rename"))?;
        self.space.lock().names_in_doubt = true;
        self.storage.sync_dir().map_err(wrap("sync the directory of"))?;
        self.space.lock().names_in_doubt = false;
        // A claim that a crash leaves in flight writes under; nobody else can have one on a file this new.
        self.storage.hold(file, Hold::Exclusive).map_err(wrap("claim")).map(drop)
    }

    /// A file that got its name and cannot be used: the control file does not know it.
    fn remove_unnamed(&self, number: SegmentNumber) {
        let _ = self.storage.remove(&FileName::Segment(number).to_string());
    }

    /// A crash may have left a file's length at any byte; what no block holds whole is never used.
    fn write_zeros(&self, file: &S::File, name: &str, from: u64, to: u64) -> Result<()> {
        let block = u64::from(self.catalog.block_bytes);
        let (from, to) = (from / block * block, to / block * block);
        let mut zeros = Buffer::new(PIECE_BYTES.min(to.saturating_sub(from)) as usize);
        let mut at = from;
        while at < to {
            zeros.set_len(PIECE_BYTES.min(to - at) as usize);
            self.storage.write(file, at, &zeros).map_err(|e| no_space("write zeros to", name, e))?;
            at += zeros.len() as u64;
        }
        add(&self.counters.prepared_bytes, to.saturating_sub(from));
        Ok(())
    }

    /// Makes a segment blank again whose first group was never whole: nothing of it counts, and what stands in it up to
    /// `end` would validate at its place.
    pub(super) fn wipe(&self, number: SegmentNumber, file: &S::File, end: u64) -> Result<()> {
        let (name, block) = (FileName::Segment(number).to_string(), u64::from(self.catalog.block_bytes));
        self.write_zeros(file, &name, block, round_up(end, block))?;
        self.storage.flush(file).map_err(|e| Error::io("flush", name, e))
    }

    fn write_header(&self, file: &S::File, number: SegmentNumber, name: &str) -> Result<()> {
        let header = {
            let pipe = self.pipe.lock();
            let config = pipe.config();
            SegmentHeader {
                block_bytes: config.block_bytes,
                log: config.log,
                incarnation: config.incarnation,
                number,
                stream: config.stream,
            }
        };
        // Where the seal will be, a record says that nothing stands behind it: an open need not look.
        let block = header.block_bytes as usize;
        let mut blocks = Buffer::new(2 * block);
        blocks.set_len(2 * block);
        header.encode(&mut blocks);
        let seed = self.catalog.salt(number).at(block as u64);
        encode_local(Kind::Blank, &[], header.stream.0, 0, Lsn::ZERO, seed, &mut blocks[block..]);
        self.storage.write(file, 0, &blocks).map_err(|e| no_space("write the header of", name, e))
    }

    /// A record needs more room than the next segment has: the segment grows where it stands. Its header does not tell
    /// its length, so nothing of it is rewritten.
    pub(super) fn enlarge_first_spare(&self, needed: u64) -> Result<()> {
        let bytes = self.next_bytes(needed)?.max(needed);
        self.with_first_spare(|shared, spare, name| {
            shared.storage.allocate(&spare.file, bytes).map_err(|e| no_space("enlarge", name, e))?;
            shared.write_zeros(&spare.file, name, spare.bytes, bytes)?;
            shared.storage.flush(&spare.file).map_err(|e| no_space("flush", name, e))?;
            let mut space = shared.space.lock();
            space.file_bytes += bytes.saturating_sub(spare.bytes);
            space.last_bytes = space.last_bytes.max(bytes);
            spare.bytes = bytes;
            Ok(())
        })
    }

    /// Works on the next spare where it stands: until that is done nobody begins it, nor a later one before it.
    fn with_first_spare(&self, work: impl FnOnce(&Self, &mut Spare<S::File>, &str) -> Result<()>) -> Result<()> {
        let Some(mut spare) = self.pipe.lock().borrow_first_spare() else { return Ok(()) };
        let name = FileName::Segment(spare.number).to_string();
        let done = work(self, &mut spare, &name);
        self.pipe.lock().return_spare(spare);
        done
    }

    /// The load turned to small groups: a segment that was only reserved gets its blocks written.
    fn write_first_spare(&self) -> Result<()> {
        self.with_first_spare(|shared, spare, name| {
            let block = u64::from(shared.catalog.block_bytes);
            shared.write_zeros(&spare.file, name, 2 * block, spare.bytes)?;
            shared.storage.flush(&spare.file).map_err(|e| no_space("flush", name, e))?;
            spare.written = true;
            Ok(())
        })
    }

    fn groups_are_small(&self) -> bool {
        !self.pipe.lock().has_large_groups()
    }

    // --- after use -------------------------------------------------------------------------------------------------

    /// A new segment's seal is flushed: the catalog learns of it, and where the one before it ends.
    pub(super) fn enter_rotation(&self, rotation: &Rotation<S::File>) {
        let Rotation { old, index, new, new_file, new_file_bytes, seal, .. } = rotation;
        self.catalog.add_active(*new, new_file.clone(), *new_file_bytes, *seal);
        self.catalog.seal(old.number, Some(old.file.clone()), sealed_end(rotation), Some(index.clone()));
    }

    /// What may wait until everybody has been woken: the old segment gets its index, another spare is prepared.
    pub(super) fn rotated(&self, rotation: Rotation<S::File>) {
        let end = sealed_end(&rotation);
        let Rotation { old, index, .. } = rotation;
        self.settle_later(old.number, old.file, old.file_bytes, end, Some(index));
        self.keep_spares();
    }

    /// Writes a sealed segment's index behind its end and lets it into the page cache.
    pub(super) fn settle_later(
        &self,
        number: SegmentNumber,
        file: Arc<S::File>,
        file_bytes: u64,
        end: End,
        index: Option<Arc<SparseIndex>>,
    ) {
        self.spawn(move |shared| {
            // Without an index the segment is scanned when it is needed: nothing depends on this write.
            let index = index.map_or_else(|| shared.catalog.scan_index(&shared.storage, number, &file, end.offset), Ok);
            let _ = index.and_then(|index| shared.write_index(number, &file, file_bytes, end, &index));
            shared.catalog.settle(&shared.storage, number);
            shared.apply_retention();
        });
    }

    fn write_index(
        &self,
        number: SegmentNumber,
        file: &S::File,
        file_bytes: u64,
        end: End,
        index: &SparseIndex,
    ) -> Result<()> {
        let payload = index.encode();
        let block = u64::from(self.catalog.block_bytes);
        let at = round_up(end.offset, block);
        let bytes = round_up((crate::segment::HEADER_BYTES + payload.len()) as u64, block);
        if at + bytes > file_bytes || payload.len() < INDEX_ENTRY_BYTES {
            return Ok(());
        }
        let mut buffer = self.pool.get(bytes as usize);
        buffer.set_len(bytes as usize);
        buffer.fill(0);
        let seed = self.catalog.salt(number).at(at);
        let stream = self.config.stream.0;
        encode_local(Kind::Index, &payload, stream, end.time_micros, end.last, seed, &mut buffer);
        self.storage
            .write(file, at, &buffer)
            .map_err(|e| Error::io_at("write the index of", FileName::Segment(number), at, e))
    }

    /// Trims what the configuration says may go.
    pub(super) fn apply_retention(&self) {
        let (age, bytes) = (self.config.retain_for, self.config.retain_bytes);
        if age.is_none() && bytes.is_none() {
            return;
        }
        let numbers = self.catalog.numbers();
        let mut total: u64 = numbers.iter().map(|(_, bytes)| bytes).sum();
        let oldest_kept = age.map(|age| super::shared::clock_micros().saturating_sub(age.as_micros() as u64));
        let mut upto = Lsn::ZERO;
        for (number, segment_bytes) in numbers.iter().take(numbers.len().saturating_sub(1)) {
            let Ok(Some(end)) = self.catalog.end_of(&self.storage, *number) else { break };
            let too_old = oldest_kept.is_some_and(|kept| end.time_micros < kept);
            let too_much = bytes.is_some_and(|most| total > most);
            if !too_old && !too_much {
                break;
            }
            total -= segment_bytes;
            upto = end.last;
        }
        if upto > Lsn::ZERO {
            self.trim_if_free(upto);
        }
    }

    /// Gives up the oldest sealed segment to make room; false when there is none.
    fn drop_oldest(&self) -> bool {
        let numbers = self.catalog.numbers();
        if numbers.len() < 2 {
            return false;
        }
        let Ok(Some(end)) = self.catalog.end_of(&self.storage, numbers[0].0) else { return false };
        let before = Lsn::new(self.trimmed.load(std::sync::atomic::Ordering::Relaxed));
        if end.last <= before || !self.trim_if_free(end.last) {
            return false;
        }
        add(&self.counters.dropped_frames, end.last.since(before));
        events::happened("frame dropped", end.last.since(before));
        event!(warn, frames = end.last.since(before), through = end.last.get(), "dropped the oldest frames: no room");
        true
    }

    /// Recycles or removes segments that were given up. The control file no longer counts them.
    pub(super) fn dispose(&self, removed: Vec<Removed<S::File>>) {
        for segment in removed {
            // When it cannot be, the log goes on without: the file is removed, now or at the next open, which knows by its
            // number that it was trimmed.
            let recycled = self.recycle(&segment).unwrap_or(false);
            if !recycled {
                let _ = self.remove_segment(segment.number, segment.bytes);
            }
        }
        let _ = self.sync_removals();
        self.announce_room();
    }

    /// That a trimmed file is gone need not be durable; that the directory can be synced must be known.
    fn sync_removals(&self) -> std::io::Result<()> {
        let _turn = self.numbering.lock();
        self.storage.sync_dir().inspect_err(|_| self.space.lock().names_in_doubt = true)
    }

    /// Turns a segment nobody can read any more into a prepared one: a new header, flushed, then a new name.
    fn recycle(&self, segment: &Removed<S::File>) -> Result<bool> {
        let wanted = self.space.lock().last_bytes;
        let fits = segment.bytes >= wanted / 2 && segment.bytes >= self.config.segment_bytes_min;
        if segment.in_use || !fits || self.pipe.lock().spares.len() >= SPARES_RECYCLED {
            return Ok(false);
        }
        let old = FileName::Segment(segment.number).to_string();
        let file = match &segment.file {
            Some(file) => file.clone(),
            None => Arc::new(self.storage.open(&old).map_err(|e| Error::io("open", &old, e))?),
        };
        // Readers of other processes hold a claim while they have it mapped.
        if !self.storage.hold(&file, Hold::Exclusive).map_err(|e| Error::io("claim", &old, e))? {
            return Ok(false);
        }
        let _turn = self.numbering.lock();
        let number = self.next_number();
        self.christen(&file, number, &old).inspect_err(|_| self.remove_unnamed(number))?;
        // Also when it cannot be used it stands under its new name, and not under the old one.
        if self.adopt(Spare::new(number, file, segment.bytes, true)).is_ok() {
            add(&self.counters.segments_recycled, 1);
            events::happened("segment recycled", 1);
        }
        Ok(true)
    }
}

fn sealed_end<F>(rotation: &Rotation<F>) -> End {
    let seal = &rotation.seal;
    End { last: rotation.old_end, offset: seal.sealed_end_offset, time_micros: seal.end_time_micros }
}

fn no_space(op: &'static str, name: &str, error: std::io::Error) -> Error {
    if Error::is_no_space(&error) {
        return Error::Full { reason: format!("{op} {name}: {error}") };
    }
    Error::io(op, name, error)
}

/// Out of file descriptors, a log waits as it does for space.
fn no_descriptors(error: Error) -> Error {
    match &error {
        Error::Io { op, file, source, .. } if Error::is_no_descriptor(source) => {
            Error::Full { reason: format!("{op} {file}: {source}") }
        }
        _ => error,
    }
}
