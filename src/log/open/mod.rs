//! Opening: what recovery found is acted upon, in an order in which a crash at any point leaves a log that opens.
//!
//! - the control file counts the open;
//! - a segment that a crash left with a first group that is not whole is wiped;
//! - the next segment says no longer that it is blank;
//! - the tail that nothing proves is copied into it and flushed;
//! - that segment's seal, flushed, says where the old one ends, and a marker behind it that the seal was flushed;
//! - a truncation that was only found is counted;
//! - only then is debris removed.
mod carry;
mod in_place;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Log;
use super::catalog::{Catalog, End};
use super::commit::{Pipe, PipeConfig, Spare, Start, Writer, seal_after, segment_bytes_for};
use super::control::{install_control, open_control, write_control};
use super::recovery::{Findings, Outcome, Run, SegmentState, Verdict, Watch, look, look_beside_a_writer};
use super::shared::{Parts, Shared};
use super::space::Space;
use crate::codec::Chain;
use crate::config::{Config, RecoveryMode};
use crate::error::{Error, Result};
use crate::events::event;
use crate::io::{Buffer, BufferPool, Client, LockFailed, Medium, Storage, random};
use crate::segment::{Control, FileName, FlushMarker, Kind, Quarantined, SparseIndex, TrimPoint, encode_local};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber, StreamId};
use carry::Carry;

/// What opening a log found and did. Nothing that was ever acknowledged is dropped without being named here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// True when the directory held no log and one was created.
    pub created: bool,
    /// True when the log had been closed cleanly.
    pub clean: bool,
    /// The last frame that was found.
    pub end: Lsn,
    /// The chain there.
    pub chain: Chain,
    /// Frames that are there although nothing proved, before now, that they had been flushed; whether their sources
    /// were told so is not known here. They are durable now, and can be read. Only a log that was opened read-only, or
    /// that refuses appends and may be read through a cache, does not show them: its [`crate::Log::flushed`] is
    /// before them.
    pub ambiguous_tail: Option<LsnRange>,
    /// The ambiguous tail found no room in the next segment, and was made durable where it stands: what a device lost
    /// when a flush of it failed, and still answers reads with, is believed.
    pub tail_in_place: bool,
    /// Frames that were found behind a hole and dropped: never acknowledged, as far as anything tells, and they can never come
    /// back.
    pub dropped: Option<LsnRange>,
    /// Where in the newest segment bytes begin that are no frame: a write that did not end.
    pub torn_at: Option<u64>,
    /// Damage in the unsealed tail and in what must be known to append.
    pub damage: Vec<Error>,
    /// Sealed segments that ought to be there and are not.
    pub missing_segments: Vec<SegmentNumber>,
    /// Every quarantined range of the log, those of this open included.
    pub quarantined: Vec<LsnRange>,
    /// The control file was lost and rebuilt from the segments.
    pub control_rebuilt: bool,
    /// One of the control file's two slots is not what was written there: a write that a power loss cut, or rot. What the other
    /// one says counts. The lost one may have said more: that the log was closed, that a trim or a truncation took place.
    /// Frames in [`dropped`](Recovery::dropped) may then have been acknowledged. The next change of the log writes it anew.
    pub control_slot_lost: bool,
    /// How many times the log was opened for appending, this time included.
    pub open_count: u64,
    /// How bytes reach the device.
    pub medium: Medium,
    /// Bytes read to find all this out.
    pub bytes_scanned: u64,
    /// How long it took.
    pub took: Duration,
}

/// Opens the log on a storage.
pub(super) fn open<S: Storage>(storage: S, config: Config, watch: Watch<'_>) -> Result<(Log<S>, Recovery)> {
    config.validate()?;
    let began = Instant::now();
    let read_only = config.recovery == RecoveryMode::ReadOnly;
    let lock = if read_only { None } else { Some(lock(&storage)?) };
    let found =
        if read_only { look_beside_a_writer(&storage, &config, watch)? } else { look(&storage, &config, watch)? };
    let (findings, created) = match found {
        Some(findings) => (findings, false),
        None if config.create && !read_only => {
            create_control(&storage, &config)?;
            (look(&storage, &config, watch)?.ok_or_else(|| not_a_log(&storage))?, true)
        }
        None => return Err(not_a_log(&storage)),
    };
    if !created && findings.control.stream != config.stream && config.stream != StreamId::default() {
        let what = format!("the log holds stream {}, not {}", findings.control.stream, config.stream);
        return Err(Error::Invalid { what });
    }
    let mut recovery = report(&storage, &findings, created, began);
    let config = Config { stream: findings.control.stream, ..config };
    let opening = Opening { storage, config, findings, lock };
    let shared = if read_only {
        let proven = opening.proven_end();
        opening.without_writer(proven, Error::ReadOnly)
    } else if opening.config.recovery == RecoveryMode::Strict && !opening.findings.damage.is_empty() {
        opening.refusing()
    } else {
        let (shared, tail_in_place) = opening.take_over()?;
        recovery.tail_in_place = tail_in_place;
        shared
    };
    let control = shared.control.lock();
    recovery.open_count = control.open_count;
    recovery.quarantined = control.quarantined.iter().map(|range| range.lsns).collect();
    drop(control);
    recovery.took = began.elapsed();
    event!(info, end = recovery.end.get(), clean = recovery.clean, micros = recovery.took.as_micros() as u64, "opened");
    if !recovery.damage.is_empty() {
        event!(error, damage = ?recovery.damage, "opened with damage");
    }
    Ok((Log::new(shared), recovery))
}

fn not_a_log<S: Storage>(storage: &S) -> Error {
    Error::NotALog { dir: storage.describe() }
}

fn lock<S: Storage>(storage: &S) -> Result<S::Lock> {
    storage.lock().map_err(|failed| match failed {
        LockFailed::Held(pid) => Error::Locked { dir: storage.describe(), pid },
        LockFailed::Io(e) => Error::io("lock", storage.describe(), e),
    })
}

/// Creates the control file, durable under its final name, whole or not at all.
fn create_control<S: Storage>(storage: &S, config: &Config) -> Result<()> {
    let [log, incarnation] = random().map_err(|e| Error::io("draw an identity for", storage.describe(), e))?;
    let control = Control {
        generation: 1,
        log: LogId::new(log),
        incarnation: Incarnation::new(incarnation as u64),
        stream: config.stream,
        block_bytes: storage.medium().device_block_bytes,
        open_count: 0,
        highest_segment: SegmentNumber::NONE,
        truncation_count: 0,
        trim: TrimPoint { lsn: Lsn::ZERO, chain: Chain::start(config.stream.0), first_segment: SegmentNumber::FIRST },
        clean_close: None,
        quarantined: Vec::new(),
        passed_over: Vec::new(),
        extension: Vec::new(),
    };
    install_control(storage, &control).map(drop)
}

fn report<S: Storage>(storage: &S, findings: &Findings<S::File>, created: bool, began: Instant) -> Recovery {
    let verdict = &findings.verdict;
    Recovery {
        created,
        clean: findings.clean,
        end: verdict.end.last,
        chain: verdict.end.chain,
        ambiguous_tail: verdict.ambiguous(),
        tail_in_place: false,
        dropped: verdict.dropped,
        torn_at: verdict.torn_at,
        damage: findings.damage.clone(),
        missing_segments: findings.missing.iter().copied().collect(),
        quarantined: Vec::new(),
        control_rebuilt: findings.control_rebuilt,
        control_slot_lost: findings.control_slot_lost,
        open_count: findings.control.open_count,
        medium: storage.medium(),
        bytes_scanned: findings.bytes_scanned,
        took: began.elapsed(),
    }
}

struct Opening<S: Storage> {
    storage: S,
    config: Config,
    findings: Findings<S::File>,
    lock: Option<S::Lock>,
}

impl<S: Storage> Opening<S> {
    /// What may be shown when nothing is written: the rest was perhaps never flushed.
    fn proven_end(&self) -> Run {
        let verdict = &self.findings.verdict;
        Run { last: verdict.proven, ..verdict.end }
    }

    /// The tail is damaged and nobody decided yet what is to become of it, so nothing is written. What was read past
    /// every cache is flushed and shown as well.
    fn refusing(self) -> Arc<Shared<S>> {
        let damage = Arc::new(self.findings.damage[0].clone());
        let is_flushed = match &self.findings.active {
            Some(state) => self.storage.medium().past_caches && self.storage.flush(&state.file).is_ok(),
            None => false,
        };
        let end = if is_flushed { self.findings.verdict.end } else { self.proven_end() };
        self.without_writer(end, Error::Damaged { damage })
    }

    fn without_writer(self, end: Run, refusal: Error) -> Arc<Shared<S>> {
        let catalog = self.catalog();
        if let Some(state) = &self.findings.active {
            let end = End { last: end.last, offset: end.end_offset, time_micros: end.time_micros };
            if let Some(seal) = state.scan.seal {
                catalog.add_active(state.number, state.file.clone(), state.bytes, seal);
            }
            // Read as the active segment is, past any page cache; its frames are claimed by nothing later.
            catalog.seal(state.number, Some(state.file.clone()), end, Some(Arc::new(state.scan.index.clone())));
        }
        let pool = BufferPool::new(self.config.in_flight_bytes_max as usize);
        let pipe = Pipe::new(self.pipe_config(), pool.clone(), start(&end, end.last));
        Shared::new(Parts {
            storage: self.storage,
            config: self.config,
            control: self.findings.control,
            pipe,
            catalog,
            space: Space::default(),
            pool,
            control_file: None,
            refusal: Some(refusal),
            lock: self.lock,
        })
    }

    fn catalog(&self) -> Catalog<S> {
        Catalog::new(&self.findings.control, self.config.index_stride_bytes, &self.findings.segments)
    }

    fn pipe_config(&self) -> PipeConfig {
        let control = &self.findings.control;
        // Through a cache, one group at a time: when a flush fails, the kernel may give up the pages of every group
        // written to the file by then and tell one flush of it; the flush of another group would then succeed.
        let past_caches = self.storage.medium().past_caches;
        let depth = |wanted: usize| if past_caches { wanted } else { 1 };
        PipeConfig {
            log: control.log,
            incarnation: control.incarnation,
            stream: control.stream,
            block_bytes: control.block_bytes,
            group_bytes_max: self.config.group_bytes_max,
            flush_depth_max: depth(self.config.flush_depth_max),
            flush_depth_min: depth(self.config.flush_depth_min),
            gather: self.config.gather,
            index_stride_bytes: self.config.index_stride_bytes,
            memory_tail_bytes: self.config.memory_tail_bytes,
            sweep_interval: self.config.sweep_interval,
        }
    }

    /// Becomes the writer. Also tells whether the tail was made durable where it stands.
    fn take_over(mut self) -> Result<(Arc<Shared<S>>, bool)> {
        if self.findings.control.block_bytes < self.storage.medium().device_block_bytes {
            let what = format!(
                "the log's groups start at multiples of {} bytes, this device needs {}",
                self.findings.control.block_bytes,
                self.storage.medium().device_block_bytes
            );
            return Err(Error::Invalid { what });
        }
        let is_whole = self.findings.damage.is_empty();
        let control_file = self.count_open()?;
        self.remove_leftovers();

        let end = self.findings.verdict.end;
        let catalog = self.catalog();
        let pool = BufferPool::new(self.config.in_flight_bytes_max as usize);
        let mut pipe = Pipe::new(self.pipe_config(), pool.clone(), start(&end, end.last));
        let mut spares = std::mem::take(&mut self.findings.spares);
        let stale = self.findings.stale.take();
        let wipe = stale.as_ref().map(|(spare, end)| (spare.number, spare.file.clone(), *end));
        spares.splice(0..0, stale.map(|(spare, _)| spare));
        let file_bytes =
            self.findings.segments.values().sum::<u64>() + spares.iter().map(|spare| spare.bytes).sum::<u64>();
        let last_bytes = spares.last().map(|spare| spare.bytes);
        let last_bytes = last_bytes.or(self.findings.segments.values().last().copied()).unwrap_or(0);
        let taken = std::mem::take(&mut self.findings.taken);
        let space = Space::new(self.findings.control.highest_segment, taken, last_bytes, file_bytes);
        pipe.spares = spares.into();
        let clean = self.findings.clean;
        let (active, verdict) = (self.findings.active.take(), self.findings.verdict);
        let debris = std::mem::take(&mut self.findings.debris);
        let shared = Shared::new(Parts {
            storage: self.storage,
            config: self.config,
            control: self.findings.control,
            pipe,
            catalog,
            space,
            pool,
            control_file: Some(control_file),
            refusal: None,
            lock: self.lock,
        });
        shared.storage.attach(shared.me.clone() as std::sync::Weak<dyn Client<S::File>>);
        if let Some((number, file, end)) = wipe {
            shared.wipe(number, &file, end)?;
        }
        // What it reaches back over may have been removed by whom a crash kept from knowing that for good.
        let seal = active.as_ref().and_then(|state| Some((state.number, state.scan.seal?)));
        let reaches_back = seal.is_some_and(|(number, seal)| seal.sealed_segment.next() < number);
        let tail = active.map(|state| Tail { state, verdict, clean });
        let tail_in_place = shared.begin(tail, is_whole)?;
        let is_begun = shared.pipe.lock().writer().is_some();
        // The newest header is flushed: what it does not reach back to is debris. Without space for one nothing goes yet.
        if is_begun && (!debris.is_empty() || reaches_back) {
            // Their bytes were not counted as used.
            shared.remove_debris(debris.into_iter().map(|number| (number, 0)))?;
        }
        shared.keep_spares();
        Ok((shared, tail_in_place))
    }

    fn count_open(&mut self) -> Result<S::File> {
        let quarantine = self.config.recovery == RecoveryMode::Quarantine;
        let control = &mut self.findings.control;
        // A crash between the seal of a truncation and its entry here: the seal counts. How often the log was truncated is
        // entered when a seal that says so is flushed: that many are looked for from then on.
        let seal = self.findings.active.as_ref().and_then(|state| state.scan.seal);
        if let Some(seal) = seal.filter(|seal| seal.truncation_count > control.truncation_count) {
            control.cut_quarantined(seal.end);
        }
        if quarantine {
            let gaps = self.findings.verdict.damage.iter().filter(|gap| !gap.lsns.is_empty());
            control.set_aside(gaps.map(|gap| Quarantined { lsns: gap.lsns, chain_after: gap.next.chain }));
        }
        control.open_count += 1;
        control.generation += 1;
        // The close stays: it is all that tells where the log ends until the next segment's seal does.
        self.findings.damage.clear();
        if self.findings.control_rebuilt {
            return install_control(&self.storage, control);
        }
        let file = open_control(&self.storage)?;
        // What was read may be in a cache alone, left there by a writer that was killed before its flush. The slot that is
        // written over now is then the last one on the device.
        self.storage.flush(&file).map_err(|e| Error::io("flush", "control", e))?;
        // So may its name, by an open that rebuilt it and ended before it was durable.
        self.storage.sync_dir().map_err(|e| Error::io("sync the directory of", self.storage.describe(), e))?;
        write_control(&self.storage, &file, control)?;
        Ok(file)
    }

    fn remove_leftovers(&self) {
        for name in &self.findings.leftovers {
            let _ = self.storage.remove(name);
        }
    }
}

fn start(end: &Run, proven: Lsn) -> Start {
    Start { end: end.last, chain: end.chain, time_micros: end.time_micros, proven }
}

/// True for a whole segment that holds its seal, perhaps markers, and not one byte more that could ever validate.
fn holds_nothing<F>(state: &SegmentState<F>, verdict: &Verdict) -> bool {
    let scan = &state.scan;
    scan.frames == 0
        && scan.strays == 0
        && scan.gaps.is_empty()
        && scan.first_data.is_none()
        && scan.seal.is_some_and(|seal| seal.file_bytes <= state.bytes)
        && matches!(verdict.outcome, Outcome::Clean | Outcome::TornTail)
}

/// The segment that held the log's end before this open.
struct Tail<F> {
    state: SegmentState<F>,
    verdict: Verdict,
    /// The log was closed there.
    clean: bool,
}

impl<F> Tail<F> {
    /// Where the segment ends when nothing of it is carried on.
    fn end(&self) -> End {
        let end = self.verdict.end;
        // What is torn in the last frame's block stays outside; otherwise the padding belongs to the segment.
        let clean = self.verdict.outcome == Outcome::Clean;
        let offset = if clean { end.end_offset } else { end.frames_end };
        End { last: end.last, offset, time_micros: end.time_micros }
    }

    /// True when frames at its end were set aside: they may stand behind it.
    fn ends_set_aside(&self) -> bool {
        let verdict = &self.verdict;
        verdict.damage.last().is_some_and(|gap| gap.lsns.end == verdict.end.last.next())
    }

    /// Its index up to `end`. After a clean close nothing was scanned: the index is made when the segment is settled.
    fn index(&self, end: Lsn) -> Option<Arc<SparseIndex>> {
        let mut index = self.state.scan.index.clone();
        index.truncate(end);
        (!self.clean).then(|| Arc::new(index))
    }
}

impl<S: Storage> Shared<S> {
    /// Begins the segment that this open appends to, with the tail that nothing proves in it. Without space for one
    /// the log opens all the same and appends wait for it. True when the tail was made durable where it stands.
    fn begin(&self, tail: Option<Tail<S::File>>, is_whole: bool) -> Result<bool> {
        let unused = tail.as_ref().is_some_and(|tail| is_whole && holds_nothing(&tail.state, &tail.verdict));
        if let (Some(tail), true) = (&tail, unused)
            && (tail.clean || tail.state.scan.is_seal_proven())
        {
            self.enter_what_seals_tell(Some(tail), true)?;
            self.resume(&tail.state, tail.verdict.end.end_offset);
            return Ok(false);
        }
        let carry = match &tail {
            Some(tail) if !tail.clean => Carry::plan(self, &tail.state, &tail.verdict)?,
            _ => None,
        };
        let (spare, room_bytes) = self.spare_to_begin(carry.as_ref())?;
        let carry = carry.filter(|carry| carry.bytes <= room_bytes);
        let mut in_place = false;
        if let (Some(tail), None) = (&tail, &carry)
            && !tail.clean
        {
            in_place = tail.verdict.ambiguous().is_some();
            self.make_durable_in_place(&tail.state, &tail.verdict)?;
        }
        let Some(spare) = spare else {
            self.enter_what_seals_tell(tail.as_ref(), unused)?;
            match &tail {
                Some(tail) if unused => self.resume(&tail.state, tail.verdict.end.end_offset),
                Some(tail) => self.end_tail(tail, tail.end()),
                None => {}
            }
            return Ok(in_place);
        };
        if let (Some(tail), None) = (&tail, &carry) {
            self.pipe.lock().predecessor = (tail.state.number, tail.end().offset);
        }
        let (number, file, bytes) = (spare.number, spare.file.clone(), spare.bytes);
        let (mut seal, mut writer) = {
            let pipe = self.pipe.lock();
            let mut seal = seal_after(&pipe, &self.facts.lock(), &spare);
            let of_tail = tail.as_ref().and_then(|tail| tail.state.scan.seal);
            seal.truncation_count = seal.truncation_count.max(of_tail.map_or(0, |seal| seal.truncation_count));
            (seal, Writer::new(pipe.config(), spare, 2 * u64::from(self.catalog.block_bytes)))
        };
        if let (Some(tail), Some(carry)) = (&tail, &carry) {
            if carry.copies_frames() {
                self.take_blank_away(&writer)?;
            }
            carry.copy(self, &tail.state, &mut writer)?;
            seal = carry.seal(seal);
        }
        // They state that everything that was found is flushed: what was copied is, before they are written.
        let (flushed_through, chain) = self.pipe.lock().flushed();
        self.write_local(&writer, u64::from(self.catalog.block_bytes), Kind::Seal, &seal.encode(), flushed_through)?;
        // Where it is found, the seal was flushed before it was written; and where the seal rots, it tells where the log
        // before it ends. So it is flushed as well, before anything of the old tail is written over.
        let marker = FlushMarker { flushed_through, chain };
        self.write_local(&writer, writer.offset, Kind::FlushMarker, &marker.encode(), flushed_through)?;
        writer.offset += u64::from(self.catalog.block_bytes);
        self.enter_what_seals_tell(tail.as_ref(), true)?;
        match (&tail, &carry) {
            (Some(tail), Some(carry)) if carry.replaces(tail.state.number) => {
                let replaced = self.catalog.remove_after(carry.segment);
                self.remove_debris(replaced.into_iter().map(|segment| (segment.number, segment.bytes)))?;
            }
            (Some(tail), Some(carry)) => self.end_tail(tail, carry.end()),
            (Some(tail), None) => self.end_tail(tail, tail.end()),
            (None, _) => {}
        }
        self.catalog.add_active(number, file, bytes, seal);
        self.pipe.lock().resume_in(writer);
        Ok(in_place)
    }

    /// What the flushed seals tell is entered in the control file: how often the log was truncated, and if the next segment is
    /// `begun`, that the close is history. Without one no seal tells yet where the log was closed.
    fn enter_what_seals_tell(&self, tail: Option<&Tail<S::File>>, begun: bool) -> Result<()> {
        // That of the tail is flushed by now, or the one of a segment that takes its place.
        let count = tail.and_then(|tail| tail.state.scan.seal).map_or(0, |seal| seal.truncation_count);
        let is_outdated = {
            let control = self.control.lock();
            count > control.truncation_count || begun && control.clean_close.is_some()
        };
        if !is_outdated {
            return Ok(());
        }
        self.update_control(|control| {
            control.truncation_count = control.truncation_count.max(count);
            control.clean_close = control.clean_close.filter(|_| !begun);
        })
    }

    /// Goes on in a segment that holds its seal and nothing else.
    fn resume(&self, state: &SegmentState<S::File>, offset: u64) {
        let seal = state.scan.seal.expect("looked at by holds_nothing");
        let spare = Spare::new(state.number, state.file.clone(), state.bytes, true);
        self.catalog.add_active(state.number, state.file.clone(), state.bytes, seal);
        let mut pipe = self.pipe.lock();
        let writer = Writer::new(pipe.config(), spare, offset);
        pipe.resume_in(writer);
    }

    /// The old segment ends there, and what follows continues it.
    fn end_tail(&self, tail: &Tail<S::File>, end: End) {
        let (state, index) = (&tail.state, tail.index(end.last));
        self.pipe.lock().predecessor = (state.number, end.offset);
        self.catalog.seal(state.number, Some(state.file.clone()), end, index.clone());
        if tail.ends_set_aside() || self.control.lock().clean_close.is_some() {
            // What is set aside stays where it is, and that is where the index would be written. So would it be where the control file
            // still says that the log was closed: whatever stands there was written by a log that went on.
            let number = state.number;
            self.spawn(move |shared| shared.catalog.settle(&shared.storage, number));
            return;
        }
        self.settle_later(state.number, state.file.clone(), state.bytes, end, index);
    }

    /// The next prepared segment and its room for group data: enough for what is to be carried into it if that can be
    /// had. `None` when there is none and no space for one.
    fn spare_to_begin(&self, carry: Option<&Carry>) -> Result<(Option<Spare<S::File>>, u64)> {
        let wanted = carry.map_or(0, |carry| carry.bytes);
        let next_room = {
            let pipe = self.pipe.lock();
            pipe.next_spare().map(|_| pipe.spare_room())
        };
        let needed = || segment_bytes_for(wanted, self.catalog.block_bytes, self.config.index_stride_bytes);
        let made = match next_room {
            None => match self.prepare_one(needed()) {
                // Better one without room for the tail than none.
                Err(Error::Full { .. }) if wanted > 0 => self.prepare_one(0),
                other => other,
            },
            Some(room) if room < wanted => self.enlarge_first_spare(needed()),
            Some(_) => Ok(()),
        };
        match made {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut pipe = self.pipe.lock();
        let room = pipe.spare_room();
        Ok((pipe.take_spare(), room))
    }

    /// What is copied into a segment must be looked for when this open ends before the seal is flushed.
    fn take_blank_away(&self, writer: &Writer<S::File>) -> Result<()> {
        let at = u64::from(self.catalog.block_bytes);
        let mut zeros = Buffer::new(self.catalog.block_bytes as usize);
        zeros.set_len(self.catalog.block_bytes as usize);
        zeros.fill(0);
        self.write_block(writer, at, zeros)
    }

    /// Writes and flushes a local record in a block of its own.
    fn write_local(
        &self,
        writer: &Writer<S::File>,
        at: u64,
        kind: Kind,
        payload: &[u8],
        flushed_through: Lsn,
    ) -> Result<()> {
        let mut block = Buffer::new(self.catalog.block_bytes as usize);
        block.set_len(self.catalog.block_bytes as usize);
        block.fill(0);
        let (time_micros, stream) = {
            let pipe = self.pipe.lock();
            (pipe.end().2, pipe.config().stream.0)
        };
        let seed = self.catalog.salt(writer.number).at(at);
        encode_local(kind, payload, stream, time_micros, flushed_through, seed, &mut block);
        self.write_block(writer, at, block)
    }

    fn write_block(&self, writer: &Writer<S::File>, at: u64, block: Buffer) -> Result<()> {
        self.storage
            .write_flushed(&writer.file, at, &[Arc::new(block)])
            .map(drop)
            .map_err(|e| Error::io_at("write and flush", FileName::Segment(writer.number), at, e))
    }
}
