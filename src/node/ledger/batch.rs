//! A batch's records: the same ones, in the same order, each time.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::error::LedgerError;
use super::port::Frames;
use super::{Inner, Source};
use crate::io::{Disk, Storage};
use crate::ledger::{BatchKey, InputError, PartKey, Range, ReplayedRecord, ReplayedRecords};
use crate::receiver::{Block, Found, RecordCursor};
use crate::types::{BatchId, InputId, Lsn, LsnRange, Seq, SourceId};

/// An allocated batch. Its content never changes: where an input cannot give it again, reading fails.
pub struct Batch<S: Storage = Disk> {
    inner: Arc<Inner<S>>,
    id: BatchId,
    ranges: Arc<[Range]>,
}

impl<S: Storage> Clone for Batch<S> {
    fn clone(&self) -> Self {
        Batch { inner: self.inner.clone(), id: self.id, ranges: self.ranges.clone() }
    }
}

impl<S: Storage> fmt::Debug for Batch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}, {} ranges, {} records)", self.key(), self.ranges.len(), self.records())
    }
}

impl<S: Storage> Batch<S> {
    pub(super) fn new(inner: Arc<Inner<S>>, id: BatchId, ranges: Vec<Range>) -> Batch<S> {
        Batch { inner, id, ranges: ranges.into() }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Its name for outputs.
    #[must_use]
    pub fn key(&self) -> BatchKey {
        BatchKey { ledger: self.inner.ledger, batch: self.id }
    }

    /// Its content: each range can be read by itself, also in parallel.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.ranges.iter().map(|range| range.records).sum()
    }

    /// Its records, range by range, each in the order of its input. Ends after the first error: a batch that cannot be read
    /// whole must not be committed.
    ///
    /// # Errors
    /// [`LedgerError::NotAttached`], [`LedgerError::Stream`], [`LedgerError::StreamDamaged`], [`LedgerError::NotABlock`],
    /// [`LedgerError::Input`]: at once, or from the iterator.
    pub fn read(&self) -> Result<BatchRecords<S>, LedgerError> {
        // Each is asked before the first record is handed out.
        for range in self.ranges.iter() {
            if let Source::Stream(_) = self.inner.source(range.input)? {
                self.blocks(range)?;
            }
        }
        Ok(BatchRecords { batch: self.clone(), next: 0, current: None, failed: false })
    }

    /// The records of one of its ranges.
    ///
    /// # Errors
    /// As [`Batch::read`].
    pub fn read_range(&self, range: &Range) -> Result<BatchRecords<S>, LedgerError> {
        let one = Batch { inner: self.inner.clone(), id: self.id, ranges: Arc::from([range.clone()]) };
        one.read()
    }

    fn input_error(&self, input: InputId, source: InputError) -> LedgerError {
        LedgerError::Input { name: self.inner.name_of(input), source }
    }

    /// The blocks of a stream's range, for engines that take records apart themselves.
    ///
    /// # Errors
    /// As [`Batch::read`]; [`LedgerError::StreamDamaged`] for an input that is no stream.
    pub fn blocks(&self, range: &Range) -> Result<StreamBlocks, LedgerError> {
        let damaged = |what: String| LedgerError::StreamDamaged { name: self.inner.name_of(range.input), what };
        let Source::Stream(port) = self.inner.source(range.input)? else {
            return Err(damaged("it is no stream".to_owned()));
        };
        let lsns = LsnRange::new(Lsn::new(range.from), Lsn::new(range.to));
        let name = self.inner.name_of(range.input);
        let chain = port.chain_at(lsns.end.previous());
        let chain = chain.map_err(|source| LedgerError::Stream { name: name.clone(), source })?;
        if chain.get() != range.digest {
            let (last, digest) = (lsns.end.previous(), range.digest);
            return Err(damaged(format!("frame {last} has chain {chain}, the batch holds {digest:016x}")));
        }
        Ok(StreamBlocks { frames: port.frames(lsns), input: range.input, next: lsns.start, end: lsns.end, name })
    }
}

/// Where a record stands: its address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// In a stream: the frame, and the how-many-th of it.
    Stream {
        /// The frame.
        lsn: Lsn,
        /// From 0.
        index: u32,
    },
    /// In a part of another input.
    Part {
        /// Which part.
        part: PartKey,
        /// At which position.
        at: u64,
    },
}

/// A record of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchRecord {
    /// Of which input.
    pub input: InputId,
    /// Where it stands.
    pub place: Place,
    /// Who sent it; nobody that has a name, or a file.
    pub source: Option<SourceId>,
    /// Its sequence at the source; of other inputs its position.
    pub seq: Seq,
    /// When it was received, µs since the Unix epoch; 0 when nobody noted that.
    pub time_micros: u64,
    /// Its bytes.
    pub record: Bytes,
}

/// A record of a batch, lent by [`BatchRecords::lend`]: what a [`BatchRecord`] holds, without a share of the block.
#[derive(Clone, Copy, Debug)]
pub struct LentRecord<'a> {
    /// Of which input.
    pub input: InputId,
    /// Who sent it; nobody that has a name, or a file.
    pub source: Option<&'a SourceId>,
    /// Its sequence at the source; of other inputs its position.
    pub seq: Seq,
    /// When it was received, µs since the Unix epoch; 0 when nobody noted that.
    pub time_micros: u64,
    /// Its bytes.
    pub record: &'a [u8],
    stands: Stands<'a>,
}

/// Where a lent record was found, and what its bytes are a part of.
#[derive(Clone, Copy, Debug)]
enum Stands<'a> {
    Stream { lsn: Lsn, index: u32, payload: &'a Bytes, start: usize },
    Part { part: &'a PartKey, at: u64, bytes: &'a Bytes },
}

impl LentRecord<'_> {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.stands {
            Stands::Stream { lsn, index, .. } => Place::Stream { lsn, index },
            Stands::Part { part, at, .. } => Place::Part { part: part.clone(), at },
        }
    }

    /// A record to keep: its bytes are shared, not copied.
    #[must_use]
    #[inline]
    pub fn to_record(&self) -> BatchRecord {
        let record = match self.stands {
            Stands::Stream { payload, start, .. } => payload.slice(start..start + self.record.len()),
            Stands::Part { bytes, .. } => bytes.clone(),
        };
        BatchRecord {
            input: self.input,
            place: self.place(),
            source: self.source.cloned(),
            seq: self.seq,
            time_micros: self.time_micros,
            record,
        }
    }
}

/// A block of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamBlock {
    /// Of which input.
    pub input: InputId,
    /// Its frame.
    pub lsn: Lsn,
    /// When it was received, µs since the Unix epoch.
    pub time_micros: u64,
    /// What it holds.
    pub block: Block,
}

/// The blocks of a range. Ends after the first error.
pub struct StreamBlocks {
    frames: Frames,
    input: InputId,
    name: String,
    next: Lsn,
    end: Lsn,
}

impl Iterator for StreamBlocks {
    type Item = Result<StreamBlock, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let read = match self.frames.next() {
            Some(Ok(frame)) if frame.lsn == self.next => Block::read(&frame.payload)
                .map(|block| StreamBlock { input: self.input, lsn: frame.lsn, time_micros: frame.time_micros, block })
                .map_err(|source| LedgerError::NotABlock { name: self.name.clone(), lsn: frame.lsn, source }),
            Some(Err(source)) => Err(LedgerError::Stream { name: self.name.clone(), source }),
            Some(Ok(_)) | None => {
                let what = format!("frame {} of the batch is not there", self.next);
                Err(LedgerError::StreamDamaged { name: self.name.clone(), what })
            }
        };
        self.next = if read.is_ok() { self.next.next() } else { self.end };
        Some(read)
    }
}

/// The records of a batch. Ends after the first error: records of a block whose rest is damaged may have come before it.
///
/// As an iterator it gives each record with a share of the block it is a part of; [`BatchRecords::lend`] gives it only until
/// the next one, which is faster where records are small and looked at once.
pub struct BatchRecords<S: Storage = Disk> {
    batch: Batch<S>,
    /// The next range.
    next: usize,
    current: Option<Reading>,
    failed: bool,
}

/// A range under way, at one of its records.
enum Reading {
    Blocks(Box<ReadingBlocks>),
    Parts(Box<ReadingParts>),
}

struct ReadingBlocks {
    blocks: StreamBlocks,
    /// The one whose records are being given.
    block: Option<StreamBlock>,
    cursor: RecordCursor,
    /// How many of the block's records were given.
    given: u32,
    found: Found,
}

impl ReadingBlocks {
    /// The next record, if there is one.
    #[inline]
    fn advance(&mut self) -> Result<bool, LedgerError> {
        loop {
            if let Some(block) = &self.block {
                match self.cursor.advance(&block.block) {
                    Some(Ok(found)) => {
                        self.found = found;
                        self.given += 1;
                        return Ok(true);
                    }
                    Some(Err(source)) => {
                        return Err(LedgerError::NotABlock { name: self.blocks.name.clone(), lsn: block.lsn, source });
                    }
                    None => {}
                }
            }
            self.block = None;
            let Some(next) = self.blocks.next() else { return Ok(false) };
            self.block = Some(next?);
            (self.cursor, self.given) = (RecordCursor::default(), 0);
        }
    }

    #[inline]
    fn lend(&self) -> Option<LentRecord<'_>> {
        let StreamBlock { input, lsn, time_micros, block } = self.block.as_ref()?;
        let Found { range, start, end, seq } = self.found;
        let (range, payload) = &block.ranges[range];
        Some(LentRecord {
            input: *input,
            source: range.source.as_ref(),
            seq,
            time_micros: *time_micros,
            record: &payload[start..end],
            stands: Stands::Stream { lsn: *lsn, index: self.given - 1, payload, start },
        })
    }
}

struct ReadingParts {
    range: Range,
    records: ReplayedRecords,
    left: u64,
    found: Option<ReplayedRecord>,
}

impl ReadingParts {
    fn advance(&mut self) -> Result<bool, InputError> {
        match self.records.next() {
            Some(Ok(record)) if self.left > 0 => {
                self.left -= 1;
                self.found = Some(record);
                Ok(true)
            }
            Some(Err(error)) => Err(error),
            None if self.left == 0 => Ok(false),
            // An input that gives more or fewer records than it planned breaks its promise.
            Some(Ok(_)) | None => Err(InputError::Changed {
                part: self.range.part.to_string(),
                from: self.range.from,
                to: self.range.to,
                what: format!("it does not hold the {} records that were planned", self.range.records),
            }),
        }
    }

    fn lend(&self) -> Option<LentRecord<'_>> {
        let found = self.found.as_ref()?;
        Some(LentRecord {
            input: self.range.input,
            source: None,
            seq: Seq::new(found.at),
            time_micros: 0,
            record: &found.bytes,
            stands: Stands::Part { part: &self.range.part, at: found.at, bytes: &found.bytes },
        })
    }
}

impl<S: Storage> BatchRecords<S> {
    /// The next record, lent until the one after it is asked for; `None` behind the last one.
    ///
    /// # Errors
    /// As [`Batch::read`]; [`LedgerError::ReadFailed`] from then on, lest the end be taken for the batch's.
    #[inline]
    pub fn lend(&mut self) -> Result<Option<LentRecord<'_>>, LedgerError> {
        if self.failed {
            return Err(LedgerError::ReadFailed);
        }
        match self.advance() {
            Ok(()) => {}
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        }
        Ok(match &self.current {
            Some(Reading::Blocks(reading)) => reading.lend(),
            Some(Reading::Parts(reading)) => reading.lend(),
            None => None,
        })
    }

    /// Takes `current` to the next record; `None` behind the last one.
    #[inline]
    fn advance(&mut self) -> Result<(), LedgerError> {
        loop {
            let there = match &mut self.current {
                Some(Reading::Blocks(reading)) => reading.advance()?,
                Some(Reading::Parts(reading)) => {
                    let input = reading.range.input;
                    reading.advance().map_err(|source| self.batch.input_error(input, source))?
                }
                None => false,
            };
            if there {
                return Ok(());
            }
            self.current = None;
            if self.next >= self.batch.ranges.len() {
                return Ok(());
            }
            self.current = Some(self.begin(self.next)?);
            self.next += 1;
        }
    }

    fn begin(&self, at: usize) -> Result<Reading, LedgerError> {
        let range = &self.batch.ranges[at];
        Ok(match self.batch.inner.source(range.input)? {
            Source::Stream(_) => Reading::Blocks(Box::new(ReadingBlocks {
                blocks: self.batch.blocks(range)?,
                block: None,
                cursor: RecordCursor::default(),
                given: 0,
                found: Found::default(),
            })),
            Source::Replayable(source) => {
                let records = source.read(range).map_err(|source| self.batch.input_error(range.input, source))?;
                Reading::Parts(Box::new(ReadingParts {
                    range: range.clone(),
                    records,
                    left: range.records,
                    found: None,
                }))
            }
        })
    }
}

impl<S: Storage> Iterator for BatchRecords<S> {
    type Item = Result<BatchRecord, LedgerError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.lend() {
            Ok(lent) => lent.map(|lent| Ok(lent.to_record())),
            Err(error) => Some(Err(error)),
        }
    }
}
