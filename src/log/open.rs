//! Opening: what recovery found is acted upon, in an order in which a crash at any point leaves a log that opens.
//!
//! - the control file counts the open;
//! - the tail that was not proven is made durable;
//! - the next segment's seal fixes the tail's end, flushed;
//! - only then is debris removed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Log;
use super::catalog::{Catalog, End};
use super::commit::{ControlFacts, DriverTurn, Pipe, PipeConfig, Spare, Start, Writer, seal_after};
use super::recovery::{Findings, Outcome, Run, SegmentState, Verdict, Watch, empty_run, look, look_beside_a_writer};
use super::shared::{Parts, Shared};
use super::source::Window;
use super::space::{Space, write_control};
use crate::codec::Chain;
use crate::config::{Config, RecoveryMode};
use crate::error::{Error, Result};
use crate::events::event;
use crate::io::{Buffer, BufferPool, Client, LockFailed, Medium, Storage};
use crate::segment::{
    CONTROL_FILE_BYTES, Control, FileName, Found, QUARANTINED_MAX, Quarantined, Salt, Scanner, TrimPoint, round_up,
};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber, StreamId};

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
    /// were told so is not known here. They are durable now, and can be read. Only a log that was opened read-only has
    /// written nothing and does not show them: its [`crate::Log::flushed`] is before them.
    pub ambiguous_tail: Option<LsnRange>,
    /// Frames that were found behind a hole and dropped: never acknowledged, and they can never come back.
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
        opening.read_only()
    } else if opening.config.recovery == RecoveryMode::Strict && !opening.findings.damage.is_empty() {
        opening.refusing()
    } else {
        opening.take_over()?
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
    let mut random = [0u8; 24];
    getrandom(&mut random).map_err(|e| Error::io("draw an identity for", storage.describe(), e))?;
    let (log, incarnation) = random.split_at(16);
    let control = Control {
        generation: 1,
        log: LogId::new(u128::from_le_bytes(log.try_into().expect("16 bytes"))),
        incarnation: Incarnation::new(u64::from_le_bytes(incarnation.try_into().expect("8 bytes"))),
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
    install_control(storage, &control)
}

/// Writes a whole control file under a temporary name, then gives it its own.
fn install_control<S: Storage>(storage: &S, control: &Control) -> Result<()> {
    let name = FileName::ControlNew.to_string();
    let wrap = |op| move |e| Error::io(op, "control.new", e);
    if storage.list().map_err(wrap("list"))?.iter().any(|(n, _)| *n == name) {
        storage.remove(&name).map_err(wrap("remove"))?;
    }
    let file = storage.create(&name).map_err(wrap("create"))?;
    let mut bytes = Buffer::new(CONTROL_FILE_BYTES);
    bytes.set_len(CONTROL_FILE_BYTES);
    bytes.fill(0);
    let slot = control.encode();
    let at = control.slot_offset() as usize;
    bytes[at..at + slot.len()].copy_from_slice(&slot);
    storage.write(&file, 0, &bytes).map_err(wrap("write"))?;
    storage.flush(&file).map_err(wrap("flush"))?;
    storage.rename(&name, "control").map_err(wrap("rename"))?;
    storage.sync_dir().map_err(wrap("sync the directory of"))
}

fn getrandom(into: &mut [u8]) -> std::io::Result<()> {
    let got = rustix::rand::getrandom(&mut *into, rustix::rand::GetRandomFlags::empty())?;
    if got == into.len() { Ok(()) } else { Err(std::io::Error::other("too little randomness")) }
}

fn report<S: Storage>(storage: &S, findings: &Findings<S::File>, created: bool, began: Instant) -> Recovery {
    let end = end_of(findings);
    let verdict = findings.active.as_ref().map(|(_, verdict)| verdict);
    Recovery {
        created,
        clean: findings.clean,
        end: end.last,
        chain: end.chain,
        ambiguous_tail: verdict.and_then(Verdict::ambiguous),
        dropped: verdict.and_then(|verdict| verdict.dropped),
        torn_at: verdict.and_then(|verdict| verdict.torn_at),
        damage: findings.damage.clone(),
        missing_segments: findings.missing.iter().copied().collect(),
        quarantined: Vec::new(),
        control_rebuilt: findings.control_rebuilt,
        open_count: findings.control.open_count,
        medium: storage.medium(),
        bytes_scanned: findings.bytes_scanned,
        took: began.elapsed(),
    }
}

fn end_of<F>(findings: &Findings<F>) -> Run {
    findings.active.as_ref().map_or_else(|| empty_run(&findings.control), |(_, verdict)| verdict.end)
}

struct Opening<S: Storage> {
    storage: S,
    config: Config,
    findings: Findings<S::File>,
    lock: Option<S::Lock>,
}

impl<S: Storage> Opening<S> {
    fn read_only(self) -> Arc<Shared<S>> {
        // The rest was perhaps never flushed, and nothing may be written.
        let end = self.proven_end();
        self.without_writer(end, Error::ReadOnly)
    }

    /// The tail is damaged and nobody decided yet what is to become of it.
    fn refusing(self) -> Arc<Shared<S>> {
        let damage = self.findings.damage[0].clone();
        // What is shown must be durable here as well. Where that fails, the proven part is shown.
        let end = match self.make_tail_durable() {
            Ok(()) => end_of(&self.findings),
            Err(_) => self.proven_end(),
        };
        self.without_writer(end, Error::Damaged { damage: Arc::new(damage) })
    }

    fn proven_end(&self) -> Run {
        match &self.findings.active {
            Some((_, verdict)) => Run { last: verdict.proven, ..verdict.end },
            None => empty_run(&self.findings.control),
        }
    }

    fn without_writer(self, end: Run, refusal: Error) -> Arc<Shared<S>> {
        let catalog = self.catalog();
        if let Some((state, verdict)) = &self.findings.active {
            let end = End { last: end.last, offset: verdict.end.end_offset, time_micros: verdict.end.time_micros };
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
            refusal: Some(refusal),
            lock: self.lock,
        })
    }

    fn catalog(&self) -> Catalog<S> {
        let control = &self.findings.control;
        Catalog::new(
            control.log,
            control.incarnation,
            control.block_bytes,
            self.config.index_stride_bytes,
            &self.findings.segments,
        )
    }

    fn pipe_config(&self) -> PipeConfig {
        let control = &self.findings.control;
        PipeConfig {
            log: control.log,
            incarnation: control.incarnation,
            stream: control.stream,
            block_bytes: control.block_bytes,
            group_bytes_max: self.config.group_bytes_max,
            flush_depth_max: self.config.flush_depth_max,
            gather: self.config.gather,
            index_stride_bytes: self.config.index_stride_bytes,
            memory_tail_bytes: self.config.memory_tail_bytes,
            sweep_interval: self.config.sweep_interval,
        }
    }

    /// Becomes the writer.
    fn take_over(mut self) -> Result<Arc<Shared<S>>> {
        if self.findings.control.block_bytes < self.storage.medium().device_block_bytes {
            let what = format!(
                "the log's groups start at multiples of {} bytes, this device needs {}",
                self.findings.control.block_bytes,
                self.storage.medium().device_block_bytes
            );
            return Err(Error::Invalid { what });
        }
        self.count_open()?;
        self.remove_leftovers();
        self.make_tail_durable()?;

        let end = end_of(&self.findings);
        let catalog = self.catalog();
        let pool = BufferPool::new(self.config.in_flight_bytes_max as usize);
        let mut pipe = Pipe::new(self.pipe_config(), pool.clone(), start(&end, end.last));
        let spares = std::mem::take(&mut self.findings.spares);
        let file_bytes =
            self.findings.segments.values().sum::<u64>() + spares.iter().map(|spare| spare.bytes).sum::<u64>();
        let last_bytes = spares.last().map(|spare| spare.bytes);
        let last_bytes = last_bytes.or(self.findings.segments.values().last().copied()).unwrap_or(0);
        let taken = std::mem::take(&mut self.findings.taken);
        let space = Space::new(self.findings.control.highest_segment, taken, last_bytes, file_bytes);
        pipe.spares = spares.into();
        let unused = self.findings.active.as_ref().is_some_and(|(state, verdict)| holds_nothing(state, verdict))
            && self.findings.damage.is_empty();
        let mut old = None;
        if let Some((state, verdict)) = self.findings.active.take() {
            if unused {
                let seal = state.scan.seal.expect("looked at by holds_nothing");
                let spare = Spare::new(state.number, state.file.clone(), state.bytes, true);
                catalog.add_active(state.number, state.file, state.bytes, seal);
                pipe.resume_in(Writer::new(pipe.config(), spare, verdict.end.end_offset));
            } else {
                // What is torn in the last frame's block stays outside; otherwise the padding belongs to the segment.
                let clean = verdict.outcome == Outcome::Clean;
                let offset = if clean { verdict.end.end_offset } else { verdict.end.frames_end };
                let at = End { last: end.last, offset, time_micros: end.time_micros };
                pipe.predecessor = (state.number, at.offset);
                // After a clean close nothing was scanned: the index is made when the segment is settled.
                let index = (!self.findings.clean).then(|| Arc::new(state.scan.index.clone()));
                catalog.seal(state.number, Some(state.file.clone()), at, index.clone());
                old = Some((state.number, state.file, state.bytes, at, index));
            }
        }
        let debris = std::mem::take(&mut self.findings.debris);
        let shared = Shared::new(Parts {
            storage: self.storage,
            config: self.config,
            control: self.findings.control,
            pipe,
            catalog,
            space,
            pool,
            refusal: None,
            lock: self.lock,
        });
        shared.storage.attach(shared.me.clone() as std::sync::Weak<dyn Client<S::File>>);
        if !unused {
            shared.start_segment()?;
        }
        // The newest header is flushed: what it does not reach back to is debris. Without space for one nothing goes yet.
        let debris = if shared.pipe.lock().writer().is_some() { debris } else { Vec::new() };
        for number in &debris {
            let _ = shared.storage.remove(&FileName::Segment(*number).to_string());
        }
        if !debris.is_empty() {
            let _ = shared.storage.sync_dir();
        }
        if let Some((number, file, bytes, end, index)) = old {
            shared.settle_later(number, file, bytes, end, index);
        }
        shared.keep_spares();
        Ok(shared)
    }

    fn count_open(&mut self) -> Result<()> {
        let quarantine = self.config.recovery == RecoveryMode::Quarantine;
        let control = &mut self.findings.control;
        if quarantine {
            if let Some((_, verdict)) = &self.findings.active {
                for gap in &verdict.damage {
                    if gap.lsns.is_empty() {
                        continue;
                    }
                    if control.quarantined.len() >= QUARANTINED_MAX {
                        return Err(Error::too_many_quarantined(QUARANTINED_MAX));
                    }
                    control.quarantined.push(Quarantined { lsns: gap.lsns, chain_after: gap.next.chain });
                }
            }
            self.findings.damage.clear();
        }
        // A crash between the seal of a truncation and its entry here: the seal counts.
        let seal = self.findings.active.as_ref().and_then(|(state, _)| state.scan.seal);
        if let Some(seal) = seal.filter(|seal| seal.truncation_count > control.truncation_count) {
            control.truncation_count = seal.truncation_count;
            control.cut_quarantined(seal.end);
        }
        control.open_count += 1;
        control.generation += 1;
        control.clean_close = None;
        if self.findings.control_rebuilt {
            return install_control(&self.storage, control);
        }
        write_control(&self.storage, control)
    }

    fn remove_leftovers(&self) {
        for name in &self.findings.leftovers {
            let _ = self.storage.remove(name);
        }
    }

    /// What was never flushed is not believed: the tail is flushed before it is reported, sealed or promised.
    fn make_tail_durable(&self) -> Result<()> {
        let Some((state, verdict)) = &self.findings.active else { return Ok(()) };
        if self.findings.clean {
            return Ok(());
        }
        let name = FileName::Segment(state.number).to_string();
        if !self.storage.medium().direct {
            // The page cache may hold what a failed write-back left marked clean: a flush alone would prove nothing.
            // Writing the same bytes over themselves makes them dirty again, and the flush is then a real one.
            self.write_again(state, verdict, &name)?;
        }
        self.storage.flush(&state.file).map_err(|e| Error::io("flush", &name, e))
    }

    /// Where the groups begin that nothing proves. What is proven is on the device, and is not put at risk by another
    /// write; the header was flushed before the segment could be used, the seal before any group behind its own.
    fn first_unproven(&self, state: &SegmentState<S::File>, verdict: &Verdict, name: &str) -> Result<u64> {
        let control = &self.findings.control;
        let block = u64::from(control.block_bytes);
        if state.scan.first_data.is_none_or(|first| first > verdict.proven) {
            return Ok(block);
        }
        let mut window = Window::new(&self.storage, state.file.clone(), name.into(), state.bytes);
        let salt = Salt::new(control.log, control.incarnation, state.number);
        let end = verdict.end.end_offset;
        let mut scanner = Scanner::new(&mut window, salt, control.block_bytes, block, end);
        while let Some(found) = scanner.next()? {
            if let Found::Frame { offset, header } = found
                && header.lsn > verdict.proven
            {
                return Ok(offset / block * block);
            }
        }
        Ok(round_up(end, block))
    }

    fn write_again(&self, state: &SegmentState<S::File>, verdict: &Verdict, name: &str) -> Result<()> {
        const PIECE: u64 = 1024 * 1024;
        let block = u64::from(self.findings.control.block_bytes);
        let mut buffer = Buffer::new(PIECE as usize);
        let mut at = self.first_unproven(state, verdict, name)?;
        let end = round_up(verdict.end.end_offset, block);
        while at < end {
            let bytes = PIECE.min(end - at) as usize;
            let got = self
                .storage
                .read_at(&state.file, at, bytes, &mut buffer)
                .map_err(|e| Error::io_at("read", name, at, e))?;
            if got == 0 {
                break;
            }
            self.storage.write(&state.file, at, &buffer).map_err(|e| Error::io_at("write", name, at, e))?;
            at += got as u64;
        }
        Ok(())
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

impl<S: Storage> Shared<S> {
    /// Starts the segment that this open appends to; without space for one the log opens all the same and appends
    /// wait for it.
    fn start_segment(&self) -> Result<()> {
        let reserve = { self.pipe.lock().take_spare() };
        let spare = match reserve {
            Some(spare) => spare,
            None => match self.prepare_first() {
                Ok(Some(spare)) => spare,
                Ok(None) => return Ok(()),
                Err(Error::Full { .. }) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let (seal, number, file, bytes, group) = {
            let mut pipe = self.pipe.lock();
            let facts: ControlFacts = *self.facts.lock();
            let seal = seal_after(&pipe, &facts, &spare);
            let (number, file, bytes) = (spare.number, spare.file.clone(), spare.bytes);
            pipe.begin_segment(spare, seal, Instant::now());
            let DriverTurn::Submit(group) = pipe.take_for_driver(Instant::now(), true) else {
                unreachable!("nothing is in flight before the log is open")
            };
            (seal, number, file, bytes, group)
        };
        self.lead(group);
        if let Some((_, cause)) = &self.pipe.lock().poison {
            return Err(cause.clone());
        }
        self.catalog.add_active(number, file, bytes, seal);
        Ok(())
    }
}
