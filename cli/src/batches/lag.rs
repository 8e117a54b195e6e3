//! A stream's records that no batch holds, or none that is committed: counted by reading its frames.

use std::collections::HashMap;
use std::time::Instant;

use seawall::ledger::{BatchStatus, Identity, State};
use seawall::receiver::Block;
use seawall::{Frame, Log, Lsn, LsnRange, Recovery, SourceId};
use serde::Serialize;

use super::StreamDir;
use super::view::now_micros;
use crate::Global;
use crate::exit::Failure;
use crate::progress::Meter;
use crate::walk::{Met, Walk};

/// Damage is counted in full, and described so often.
const DESCRIBED_MAX: usize = 20;

/// How far a stream is ahead of the batches.
#[derive(Serialize)]
pub(super) struct StreamLag {
    pub(super) name: String,
    pub(super) dir: String,
    pub(super) log: String,
    /// The frames that are there: from `first_lsn` up to and including `last_lsn`.
    pub(super) first_lsn: u64,
    pub(super) last_lsn: u64,
    /// The frame that the next batch begins with.
    pub(super) next_lsn: u64,
    /// The last frame in the settled prefix of batches.
    pub(super) committed_lsn: u64,
    /// In no batch.
    pub(super) lag: Sum,
    /// In batches that are allocated and neither committed nor abandoned.
    pub(super) pending: Sum,
    /// When the oldest block that no batch holds was received.
    pub(super) oldest_micros: Option<u64>,
    pub(super) oldest_age_micros: Option<u64>,
    /// Allocated, and not seen here: the writer has not proven them to readers yet.
    pub(super) unseen_frames: u64,
    /// Frames that cannot be read; that hold no block; that were set aside; that were trimmed while they were looked for.
    /// Their records are not in these figures.
    pub(super) unreadable_frames: u64,
    pub(super) foreign_frames: u64,
    pub(super) set_aside_frames: u64,
    pub(super) trimmed_frames: u64,
    pub(super) damage: Vec<String>,
    /// Sources with records in no batch or in a pending one, the largest lag first.
    pub(super) sources: Vec<SourceLag>,
}

/// Blocks and what is in them.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Sum {
    pub(super) blocks: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// One source's records.
#[derive(Serialize)]
pub(super) struct SourceLag {
    /// `None`: all sources without a name.
    pub(super) source: Option<String>,
    pub(super) unallocated_records: u64,
    pub(super) pending_records: u64,
}

/// Counts a stream of the ledger.
pub(super) fn measure(stream: &StreamDir, state: &State, global: &Global) -> Result<StreamLag, Failure> {
    let StreamDir { name, dir } = stream;
    let Some((id, input)) = state.input_named(name) else {
        let known: Vec<String> = state.inputs().map(|(_, input)| super::view::name_of(input)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::Usage(format!("the ledger has no input {name}; its inputs: {known}")));
    };
    let Some(part) = input.stream() else {
        return Err(Failure::Usage(format!("input {name} is no stream: it has no log, only ranges are written down")));
    };
    let (log, recovery) = super::open::log(dir, "stream", global)?;
    let found = Identity(log.id().get());
    if found != input.identity {
        let known = input.identity;
        let what = format!("stream {name}: {} is log {found}, the ledger knows it as {known}", dir.display());
        return Err(Failure::Refused(what));
    }
    let last = Lsn::new(part.allocated).previous();
    let mut count = Count::new(global);
    count.check_end(&log, &recovery, last, part.digest);
    for (_, batch) in state.batches().filter(|(_, batch)| batch.status == BatchStatus::Pending) {
        for range in batch.ranges.iter().filter(|range| range.input == id) {
            let lsns = LsnRange::new(Lsn::new(range.from), Lsn::new(range.to).min(log.flushed().next()));
            count.walk(Walk::read_only(&log, dir, lsns, global), lsns, Of::Pending)?;
        }
    }
    let lsns = LsnRange::new(last.next(), log.flushed().next());
    count.walk(Walk::read_only(&log, dir, lsns, global), lsns, Of::NoBatch)?;
    let Count { sums, oldest_micros, mut damage, unreadable, foreign, set_aside, trimmed, unseen, .. } = count;
    if foreign > 0 {
        damage.push(format!("{foreign} frames hold no block: something else wrote them, and no batch can take them"));
    }
    Ok(StreamLag {
        name: name.clone(),
        dir: dir.display().to_string(),
        log: log.id().to_string(),
        first_lsn: log.first().get(),
        last_lsn: log.flushed().get(),
        next_lsn: part.allocated,
        committed_lsn: part.committed.saturating_sub(1),
        lag: sums[Of::NoBatch as usize],
        pending: sums[Of::Pending as usize],
        oldest_micros,
        oldest_age_micros: oldest_micros.map(|oldest| now_micros().saturating_sub(oldest)),
        unseen_frames: unseen,
        unreadable_frames: unreadable,
        foreign_frames: foreign,
        set_aside_frames: set_aside,
        trimmed_frames: trimmed,
        damage,
        sources: sorted(count.sources),
    })
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Of {
    NoBatch = 0,
    Pending = 1,
}

struct Count {
    meter: Meter,
    read_bytes: u64,
    sums: [Sum; 2],
    sources: HashMap<Option<SourceId>, [u64; 2]>,
    oldest_micros: Option<u64>,
    damage: Vec<String>,
    unreadable: u64,
    foreign: u64,
    set_aside: u64,
    trimmed: u64,
    unseen: u64,
}

impl Count {
    fn new(global: &Global) -> Count {
        Count {
            meter: Meter::new("reading what is not committed,", None, global),
            read_bytes: 0,
            sums: [Sum::default(); 2],
            sources: HashMap::new(),
            oldest_micros: None,
            damage: Vec::new(),
            unreadable: 0,
            foreign: 0,
            set_aside: 0,
            trimmed: 0,
            unseen: 0,
        }
    }

    /// A stream must hold everything that was allocated of it, as it was then.
    fn check_end(&mut self, log: &Log, recovery: &Recovery, last: Lsn, digest: u64) {
        self.damage.extend(recovery.damage.iter().map(ToString::to_string));
        if log.flushed() < last {
            self.unseen = last.since(log.flushed());
            // A writer at work, or one that was killed, may not have proven its last frames; one that closed has.
            if recovery.clean {
                let end = log.flushed();
                self.damage.push(format!("it ends at frame {end}, and everything up to {last} was allocated"));
            }
        } else if last > Lsn::ZERO
            && let Ok(chain) = log.chain_at(last)
            // Of frames that were dropped because they cannot be read it is not known.
            && digest != 0
            && chain.get() != digest
        {
            self.damage.push(format!("frame {last} has chain {chain}, {digest:016x} was allocated"));
        }
    }

    fn walk(&mut self, walk: Walk<'_>, within: LsnRange, of: Of) -> Result<(), Failure> {
        let frames = |lsns: LsnRange| {
            LsnRange::new(lsns.start.max(within.start), lsns.end.min(within.end).max(within.start)).frames()
        };
        for met in walk {
            match met? {
                Met::Frame(frame) => self.frame(&frame, of),
                Met::Damage(lsns, error) => {
                    self.unreadable += frames(lsns);
                    if self.damage.len() < DESCRIBED_MAX {
                        self.damage.push(format!("frames {lsns} cannot be read: {error}"));
                    }
                }
                Met::SetAside(lsns) => self.set_aside += frames(lsns),
                Met::Trimmed(lsns) => self.trimmed += frames(lsns),
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame, of: Of) {
        let bytes = frame.payload.len() as u64;
        self.read_bytes += bytes;
        if self.meter.is_due(Instant::now()) {
            self.meter.show(self.read_bytes, "");
        }
        let Ok(block) = Block::read(&frame.payload) else {
            self.foreign += 1;
            return;
        };
        let sum = &mut self.sums[of as usize];
        sum.blocks += 1;
        sum.bytes += bytes;
        let mut records = 0;
        for (range, _) in block.ranges {
            if range.records > 0 {
                self.sources.entry(range.source).or_default()[of as usize] += u64::from(range.records);
                records += u64::from(range.records);
            }
        }
        sum.records += records;
        // Blocks without records only tell who came and went: nobody waits for them.
        if of == Of::NoBatch && records > 0 {
            self.oldest_micros = self.oldest_micros.or(Some(frame.time_micros));
        }
    }
}

fn sorted(sources: HashMap<Option<SourceId>, [u64; 2]>) -> Vec<SourceLag> {
    let row = |(source, [unallocated_records, pending_records]): (Option<SourceId>, [u64; 2])| SourceLag {
        source: source.map(|source| source.to_string()),
        unallocated_records,
        pending_records,
    };
    let mut rows: Vec<SourceLag> = sources.into_iter().map(row).collect();
    rows.sort_by(|a, b| {
        let key = |row: &SourceLag| (row.unallocated_records, row.pending_records);
        key(b).cmp(&key(a)).then_with(|| a.source.cmp(&b.source))
    });
    rows
}
