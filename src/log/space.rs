//! Segments before and after their use: prepared ahead, indexed once sealed, recycled or removed once trimmed.
//! Everything here runs on the storage's background thread or in a call that may block; never under the pipe's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalog::{End, Removed};
use super::commit::{Rotation, Spare, segment_bytes_for};
use super::retention::Ages;
use super::shared::{Shared, clock_micros};
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
    /// What is known of how old segments are.
    pub(super) ages: Ages,
    /// Bytes of files beyond the length that they are used to: an enlarging that failed left them.
    beyond: BTreeMap<SegmentNumber, u64>,
    /// Somebody needs a segment with so much room for group data. Forgotten when it cannot be had: whoever still needs it
    /// asks again.
    wanted: u64,
    /// Why the last preparation failed.
    pub(super) full: Option<Error>,
    /// Why the next segment could not be made large enough, last time. Smaller records go on.
    too_large: Option<TooLarge>,
    tried: Option<Instant>,
    queued: bool,
    /// A sync of the directory failed, or has not ended: a later one that goes well says nothing of the names before it.
    names_in_doubt: bool,
}

#[derive(Debug)]
struct TooLarge {
    /// For so much group data.
    group_bytes: u64,
    error: Error,
    /// Not even if everything sealed were given up, by the byte limit: the segment in use and the prepared ones take too
    /// much. Only others' appends change that, by filling the one in use.
    is_hopeless: bool,
}

impl Space {
    pub(super) fn new(
        highest: SegmentNumber,
        taken: BTreeSet<SegmentNumber>,
        last_bytes: u64,
        file_bytes: u64,
    ) -> Space {
        let ages = Ages::new(now(), clock_micros());
        Space { highest: highest.get(), taken, last_bytes, file_bytes, ages, ..Space::default() }
    }

    /// Why there was no segment with room for `bytes` of group data, last time, and whether waiting may help.
    fn failed_for(&self, bytes: u64) -> Option<(&Error, bool)> {
        let too_large = self.too_large.as_ref().filter(|refused| bytes >= refused.group_bytes);
        // Only a lack of space passes.
        let may_pass = |error: &Error| matches!(error, Error::Full { .. });
        let too_large = too_large.map(|it| (&it.error, !it.is_hopeless && may_pass(&it.error)));
        self.full.as_ref().map(|error| (error, may_pass(error))).or(too_large)
    }
}

impl<S: Storage> Shared<S> {
    /// Asks for a segment with room for `bytes` of group data. `Some`: the last preparation found no space, and waiting may
    /// help.
    ///
    /// # Errors
    /// When it does not, or is not wanted: the last preparation failed for another reason, the room can never be had, or the
    /// log refuses when it is full.
    pub(super) fn want_segment(&self, bytes: u64) -> Result<Option<Error>> {
        self.check_fits_ever(self.segment_bytes_for(bytes))?;
        let mut space = self.space.lock();
        let failed = space.failed_for(bytes).map(|(error, may_pass)| (error.clone(), may_pass));
        let retry = space.tried.is_none_or(|at| now().saturating_duration_since(at) >= RETRY_AFTER);
        // Also while preparation runs: it would try in a loop what has just failed.
        if failed.is_none() || retry {
            space.wanted = space.wanted.max(bytes);
            if !space.queued {
                self.queue_preparation(&mut space);
            }
        }
        match failed {
            Some((error, may_pass)) if self.config.when_full == WhenFull::Reject || !may_pass => Err(error),
            failed => Ok(failed.map(|(error, _)| error)),
        }
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
        while let Some(work) = self.next_work() {
            let done = match work {
                Work::Prepare { .. } => self.prepare_one(0),
                Work::Enlarge { needed, .. } => self.enlarge_first_spare(needed),
                Work::WriteZeros => self.write_first_spare(),
            };
            let goes_on = match done {
                Ok(()) => self.work_succeeded(&work),
                Err(error) => self.work_failed(&work, error),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// `None`, and preparation has ended, when nothing is wanted.
    fn next_work(&self) -> Option<Work> {
        let (count, first_bytes, unwritten) = {
            let pipe = self.pipe.lock();
            let first = pipe.spares.front();
            let unwritten = pipe.wants_written_spare();
            (pipe.spares.len(), first.map_or(0, |spare| spare.bytes), unwritten)
        };
        let mut space = self.space.lock();
        let wanted = std::mem::take(&mut space.wanted);
        let needed = self.segment_bytes_for(wanted);
        let work = if self.is_closed() {
            None
        } else if count < SPARES {
            // First, and of the ordinary length: a large record takes nothing from smaller ones.
            Some(Work::Prepare { wanted })
        } else if wanted > 0 && first_bytes < needed {
            Some(Work::Enlarge { wanted, needed, more: needed - first_bytes })
        } else {
            unwritten.then_some(Work::WriteZeros)
        };
        // In one step with the look at what is wanted: whoever wants something later queues it again.
        space.queued = work.is_some();
        work
    }

    fn work_succeeded(&self, work: &Work) -> bool {
        let mut space = self.space.lock();
        space.tried = Some(now());
        match work {
            Work::Enlarge { .. } => (space.too_large, space.full) = (None, None),
            Work::Prepare { wanted } => {
                space.full = None;
                space.wanted = space.wanted.max(*wanted);
            }
            Work::WriteZeros => space.full = None,
        }
        drop(space);
        self.announce_room();
        true
    }

    /// False when preparation has ended.
    fn work_failed(&self, work: &Work, error: Error) -> bool {
        let may_drop = self.config.when_full == WhenFull::DropOldest && matches!(error, Error::Full { .. });
        if may_drop && self.is_worth_dropping_for(work) {
            // Known meanwhile: what is dropped for a large record is not recycled.
            if let Work::Prepare { wanted } | Work::Enlarge { wanted, .. } = *work {
                let mut space = self.space.lock();
                space.wanted = space.wanted.max(wanted);
            }
            if self.drop_oldest() {
                return true;
            }
        }
        // Behind the drop: it gives no descriptor back that others would not take.
        let error = no_descriptors(error);
        let is_hopeless = matches!(error, Error::Full { .. }) && !self.fits_limit_without_sealed(work);
        let mut space = self.space.lock();
        space.tried = Some(now());
        space.wanted = 0;
        let is_news = match work {
            Work::Enlarge { .. } => space.too_large.is_none(),
            Work::Prepare { .. } | Work::WriteZeros => space.full.is_none(),
        };
        if is_news {
            events::happened("full", 1);
            event!(warn, %error, "no segment can be prepared");
        }
        let goes_on = match work {
            Work::Enlarge { wanted, .. } => {
                space.too_large = Some(TooLarge { group_bytes: *wanted, error, is_hopeless });
                true
            }
            Work::Prepare { .. } | Work::WriteZeros => {
                space.full = Some(error);
                false
            }
        };
        space.queued = goes_on;
        drop(space);
        self.announce_room();
        goes_on
    }

    fn segment_bytes_for(&self, group_bytes: u64) -> u64 {
        segment_bytes_for(group_bytes, self.catalog.block_bytes, self.config.index_stride_bytes)
    }

    /// Beside the next segment stand at least the one in use and the reserve, whatever is trimmed.
    fn check_fits_ever(&self, needed: u64) -> Result<()> {
        match self.config.byte_limit {
            Some(limit) if needed + 2 * self.config.segment_bytes_min > limit => {
                let reason = format!("the log's byte limit of {limit} bytes never holds a segment of {needed} bytes");
                Err(Error::Full { reason })
            }
            _ => Ok(()),
        }
    }

    /// Whether it can succeed once every sealed segment was dropped. Any of them has room for an ordinary one.
    fn is_worth_dropping_for(&self, work: &Work) -> bool {
        let Work::Enlarge { more, .. } = work else { return true };
        let on_disk = self.storage.free_bytes().unwrap_or(u64::MAX);
        self.fits_limit_without_sealed(work) && on_disk.saturating_add(self.sealed_bytes()) >= *more
    }

    /// Whether the byte limit has room for it beside the segment in use and the prepared ones alone.
    fn fits_limit_without_sealed(&self, work: &Work) -> bool {
        let Work::Enlarge { more, .. } = work else { return true };
        let kept = self.used_bytes().saturating_sub(self.sealed_bytes());
        self.config.byte_limit.is_none_or(|limit| kept + more <= limit)
    }

    pub(super) fn sealed_bytes(&self) -> u64 {
        let numbers = self.catalog.numbers();
        let sealed = numbers.len().saturating_sub(1);
        numbers.iter().take(sealed).map(|(_, bytes)| bytes).sum()
    }

    /// Longer than this is only a segment that was made so for one record. Near the limit in small steps: space comes back
    /// segment by segment.
    fn ordinary_bytes_max(&self) -> u64 {
        let share = |limit: u64| (limit / 8 / (64 * 1024) * (64 * 1024)).max(self.config.segment_bytes_min);
        self.config.byte_limit.map_or(u64::MAX, share).min(self.config.segment_bytes_max)
    }

    /// The length of the next segment: twice the last one used, within the configured bounds and the byte limit. `counted`
    /// bytes of its file are in use already.
    fn next_bytes(&self, needed: u64, counted: u64) -> Result<u64> {
        let last = self.space.lock().last_bytes;
        let rotations = get(&self.counters.rotations);
        let grown = if rotations == 0 { last } else { last.saturating_mul(2) };
        // Header, seal, index and some data: each begins with a block.
        let needed = needed.max(8 * u64::from(self.catalog.block_bytes));
        let grown = grown.clamp(self.config.segment_bytes_min, self.ordinary_bytes_max()).max(needed);
        let mut bytes = round_up(grown, u64::from(self.catalog.block_bytes));
        if let Some(limit) = self.config.byte_limit {
            let used = self.used_bytes().saturating_sub(counted);
            let left = limit.saturating_sub(used) / (64 * 1024) * (64 * 1024);
            bytes = bytes.min(left);
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

    /// Removes a segment's file and counts its bytes as free. What cannot be removed counts as used; what is not there
    /// any more, because an operator made room or it got another name, takes none.
    fn remove_segment(&self, number: SegmentNumber, bytes: u64) -> Result<()> {
        let name = FileName::Segment(number);
        match self.storage.remove(&name.to_string()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", name, e)),
            _ => {}
        }
        let mut space = self.space.lock();
        let beyond = space.beyond.remove(&number).unwrap_or(0);
        space.file_bytes = space.file_bytes.saturating_sub(bytes + beyond);
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
        let bytes = self.next_bytes(needed, 0)?;
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

    /// Whether names cannot be relied on any more: then no segment is prepared before the log is opened again.
    #[cfg(feature = "receiver")]
    pub(super) fn is_past_preparing(&self) -> bool {
        // While one is given, which takes a turn, it is in doubt as well.
        self.numbering.try_lock().is_some_and(|_turn| self.space.lock().names_in_doubt)
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
        let (mut at, mut step) = (from, PIECE_BYTES);
        while at < to {
            zeros.set_len(step.min(to - at) as usize);
            match self.storage.write(file, at, &zeros) {
                // Short: why, only a write is told of which nothing has room.
                Err(e) if e.kind() == std::io::ErrorKind::WriteZero && zeros.len() as u64 > block => step = block,
                written => {
                    written.map_err(|e| no_space("write zeros to", name, e))?;
                    at += zeros.len() as u64;
                }
            }
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
        self.with_first_spare(|shared, spare, name| {
            let counted = spare.bytes + shared.space.lock().beyond.get(&spare.number).copied().unwrap_or(0);
            let bytes = shared.next_bytes(needed, counted)?.max(needed);
            // Some file systems keep what they had reserved when space ran out.
            let left = shared.storage.free_bytes().unwrap_or(u64::MAX);
            if left < bytes.saturating_sub(spare.bytes) {
                let reason = format!("enlarge {name} from {} to {bytes} bytes: the disk has {left} left", spare.bytes);
                return Err(Error::Full { reason });
            }
            let made = shared.lengthen(spare, name, bytes);
            // What failed half way may have taken room all the same.
            let takes = if made.is_ok() { bytes } else { shared.storage.len(&spare.file).unwrap_or(spare.bytes) };
            let mut space = shared.space.lock();
            space.file_bytes += takes.saturating_sub(counted);
            let used_as = if made.is_ok() { bytes } else { spare.bytes };
            // An earlier one may have made it longer still.
            match takes.max(counted) - used_as {
                0 => _ = space.beyond.remove(&spare.number),
                beyond => _ = space.beyond.insert(spare.number, beyond),
            }
            made?;
            space.last_bytes = space.last_bytes.max(bytes);
            spare.bytes = bytes;
            Ok(())
        })
    }

    fn lengthen(&self, spare: &Spare<S::File>, name: &str, bytes: u64) -> Result<()> {
        self.storage.allocate(&spare.file, bytes).map_err(|e| no_space("enlarge", name, e))?;
        self.write_zeros(&spare.file, name, spare.bytes, bytes)?;
        self.storage.flush(&spare.file).map_err(|e| no_space("flush", name, e))
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
        self.note_sealed(old.number);
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
        // What did not fit before may fit now.
        self.space.lock().too_large = None;
        self.announce_room();
    }

    /// That a trimmed file is gone need not be durable; that the directory can be synced must be known.
    fn sync_removals(&self) -> std::io::Result<()> {
        let _turn = self.numbering.lock();
        self.storage.sync_dir().inspect_err(|_| self.space.lock().names_in_doubt = true)
    }

    /// Somebody needs more room than the next spare has: it needs bytes, not further spares.
    fn wants_bytes(&self) -> bool {
        let wanted = {
            let space = self.space.lock();
            space.wanted.max(space.too_large.as_ref().map_or(0, |refused| refused.group_bytes))
        };
        let needed = self.segment_bytes_for(wanted);
        wanted > 0 && self.pipe.lock().spares.front().is_some_and(|spare| spare.bytes < needed)
    }

    /// Turns a segment nobody can read any more into a prepared one: a new header, flushed, then a new name.
    fn recycle(&self, segment: &Removed<S::File>) -> Result<bool> {
        let wanted = self.space.lock().last_bytes;
        // Under a limit one that was made for a large record would keep others from having room.
        let is_too_large = self.config.byte_limit.is_some() && segment.bytes > self.ordinary_bytes_max();
        let is_too_small = segment.bytes < (wanted / 2).max(self.config.segment_bytes_min);
        let fits = !is_too_large && !is_too_small;
        if segment.in_use || !fits || self.pipe.lock().spares.len() >= SPARES_RECYCLED || self.wants_bytes() {
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
        {
            let mut space = self.space.lock();
            if let Some(beyond) = space.beyond.remove(&segment.number) {
                space.beyond.insert(number, beyond);
            }
        }
        // Also when it cannot be used it stands under its new name, and not under the old one.
        if self.adopt(Spare::new(number, file, segment.bytes, true)).is_ok() {
            add(&self.counters.segments_recycled, 1);
            events::happened("segment recycled", 1);
        }
        Ok(true)
    }
}

/// A step of preparation, with the room for group data that somebody wants.
enum Work {
    /// Another spare.
    Prepare { wanted: u64 },
    /// The next spare becomes `needed` bytes long, `more` than it has.
    Enlarge { wanted: u64, needed: u64, more: u64 },
    /// The next spare's blocks are written.
    WriteZeros,
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
