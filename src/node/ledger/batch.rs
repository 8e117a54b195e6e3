//! A batch's records: the same ones, in the same order, each time.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::error::LedgerError;
use super::port::Frames;
use super::{Inner, Source};
use crate::io::{Disk, Storage};
use crate::ledger::{BatchKey, PartKey, Range, ReplayedRecords};
use crate::receiver::Block;
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
    /// [`LedgerError::NotAttached`], [`LedgerError::StreamDamaged`], [`LedgerError::Input`]: at once, or from the iterator.
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
        let chain = port.chain_at(lsns.end.previous())?;
        if chain.get() != range.digest {
            let (last, digest) = (lsns.end.previous(), range.digest);
            return Err(damaged(format!("frame {last} has chain {chain}, the batch holds {digest:016x}")));
        }
        let name = self.inner.name_of(range.input);
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
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) | None => {
                let what = format!("frame {} of the batch is not there", self.next);
                Err(LedgerError::StreamDamaged { name: self.name.clone(), what })
            }
        };
        self.next = if read.is_ok() { self.next.next() } else { self.end };
        Some(read)
    }
}

/// The records of a batch. Ends after the first error.
pub struct BatchRecords<S: Storage = Disk> {
    batch: Batch<S>,
    /// The next range.
    next: usize,
    current: Option<Reading>,
    failed: bool,
}

/// A range under way.
enum Reading {
    Blocks { blocks: StreamBlocks, records: std::vec::IntoIter<BatchRecord> },
    Records { range: usize, records: ReplayedRecords, left: u64 },
}

impl<S: Storage> BatchRecords<S> {
    fn begin(&self, at: usize) -> Result<Reading, LedgerError> {
        let range = &self.batch.ranges[at];
        match self.batch.inner.source(range.input)? {
            Source::Stream(_) => {
                Ok(Reading::Blocks { blocks: self.batch.blocks(range)?, records: Vec::new().into_iter() })
            }
            Source::Replayable(source) => {
                let records = source.read(range).map_err(|source| self.input_error(range, source))?;
                Ok(Reading::Records { range: at, records, left: range.records })
            }
        }
    }

    fn input_error(&self, range: &Range, source: crate::ledger::InputError) -> LedgerError {
        LedgerError::Input { name: self.batch.inner.name_of(range.input), source }
    }

    fn step(&mut self) -> Option<Result<BatchRecord, LedgerError>> {
        loop {
            match &mut self.current {
                None => {
                    if self.next >= self.batch.ranges.len() {
                        return None;
                    }
                    match self.begin(self.next) {
                        Ok(reading) => self.current = Some(reading),
                        Err(error) => return Some(Err(error)),
                    }
                    self.next += 1;
                }
                Some(Reading::Blocks { blocks, records }) => {
                    if let Some(record) = records.next() {
                        return Some(Ok(record));
                    }
                    match blocks.next() {
                        None => self.current = None,
                        Some(Err(error)) => return Some(Err(error)),
                        Some(Ok(block)) => match take_apart(&block) {
                            Ok(all) => *records = all.into_iter(),
                            Err(source) => {
                                let (name, lsn) = (blocks.name.clone(), block.lsn);
                                return Some(Err(LedgerError::NotABlock { name, lsn, source }));
                            }
                        },
                    }
                }
                Some(Reading::Records { range, records, left }) => {
                    let range = &self.batch.ranges[*range];
                    match records.next() {
                        Some(Ok(record)) if *left > 0 => {
                            *left -= 1;
                            let place = Place::Part { part: range.part.clone(), at: record.at };
                            let (input, seq) = (range.input, Seq::new(record.at));
                            let record = record.bytes;
                            return Some(Ok(BatchRecord { input, place, source: None, seq, time_micros: 0, record }));
                        }
                        Some(Err(source)) => {
                            let range = range.clone();
                            return Some(Err(self.input_error(&range, source)));
                        }
                        None if *left == 0 => self.current = None,
                        // An input that gives more or fewer records than it planned breaks its promise.
                        Some(Ok(_)) | None => {
                            let source = crate::ledger::InputError::Changed {
                                part: range.part.to_string(),
                                from: range.from,
                                to: range.to,
                                what: format!("it does not hold the {} records that were planned", range.records),
                            };
                            let range = range.clone();
                            return Some(Err(self.input_error(&range, source)));
                        }
                    }
                }
            }
        }
    }
}

impl<S: Storage> Iterator for BatchRecords<S> {
    type Item = Result<BatchRecord, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.step();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

fn take_apart(block: &StreamBlock) -> Result<Vec<BatchRecord>, crate::receiver::BlockError> {
    let StreamBlock { input, lsn, time_micros, block } = block;
    // A claim is not believed before the bytes are there: a record takes one at least.
    let claimed = |(range, payload): &(crate::receiver::Range, Bytes)| (range.records as usize).min(payload.len());
    let mut all = Vec::with_capacity(block.ranges.iter().map(claimed).sum());
    for (index, found) in (0..).zip(block.records()) {
        let found = found?;
        all.push(BatchRecord {
            input: *input,
            place: Place::Stream { lsn: *lsn, index },
            source: found.range.source.clone(),
            seq: found.seq,
            time_micros: *time_micros,
            record: found.record,
        });
    }
    Ok(all)
}
