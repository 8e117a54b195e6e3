//! Kafka-style partitions in memory: the shortest complete [`Replayable`], to be copied.
//!
//! A partition is a part, its key is its number; positions are offsets, one a record. Records are only appended, and retention
//! removes the oldest: what a batch still needs, or nobody had yet, is `Lost` then, and told.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use super::digest::Digest;
use crate::ledger::{
    Identity, InputError, Latest, Part, PartKey, Parts, Plan, Range, Replayable, ReplayedRecord, ReplayedRecords, Share,
};

/// Changes with what the digest is made of.
const DIGEST_SEED: u64 = 1;

/// Numbered partitions of records with offsets.
///
/// ```
/// use seawall::ledger::{Identity, Replayable};
/// use seawall::node::MemoryPartitions;
/// let topic = MemoryPartitions::new(Identity(7));
/// assert_eq!(topic.append(0, "first"), 0);
/// assert_eq!(topic.append(0, "second"), 1);
/// ```
pub struct MemoryPartitions {
    identity: Identity,
    partitions: Mutex<BTreeMap<u32, Partition>>,
}

#[derive(Default)]
struct Partition {
    /// The offset of the oldest record that is kept.
    first: u64,
    records: VecDeque<Bytes>,
}

impl MemoryPartitions {
    /// No partition yet. The identity is what a ledger recognizes them by: a Kafka topic's id, for instance.
    #[must_use]
    pub fn new(identity: Identity) -> MemoryPartitions {
        MemoryPartitions { identity, partitions: Mutex::default() }
    }

    /// Adds a record, and the partition if there is none; says the record's offset.
    pub fn append(&self, partition: u32, record: impl Into<Bytes>) -> u64 {
        let mut partitions = self.partitions.lock();
        let partition = partitions.entry(partition).or_default();
        partition.records.push_back(record.into());
        partition.end() - 1
    }

    /// Removes what is below an offset: retention.
    pub fn drop_below(&self, partition: u32, offset: u64) {
        let mut partitions = self.partitions.lock();
        let Some(partition) = partitions.get_mut(&partition) else { return };
        let count = offset.min(partition.end()).saturating_sub(partition.first);
        partition.records.drain(..count as usize);
        partition.first += count;
    }

    /// Removes a partition. One with its number later on would be taken for it: numbers are not given twice.
    pub fn remove(&self, partition: u32) {
        self.partitions.lock().remove(&partition);
    }
}

impl Partition {
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The records of an interval, all of them or an error.
    fn slice(&self, number: u32, from: u64, to: u64) -> Result<impl Iterator<Item = &Bytes>, InputError> {
        if from < self.first {
            let what = format!("retention has removed everything below {}", self.first);
            return Err(InputError::Lost { part: name(number), from, to, what });
        }
        if to > self.end() {
            let what = format!("it ends at {}", self.end());
            return Err(InputError::Changed { part: name(number), from, to, what });
        }
        Ok(self.records.range((from - self.first) as usize..(to - self.first) as usize))
    }
}

impl Replayable for MemoryPartitions {
    fn identity(&self) -> Result<Identity, InputError> {
        Ok(self.identity)
    }

    fn latest(&self, known: &dyn Parts) -> Result<Latest, InputError> {
        let (mut bytes, mut records) = (0, 0);
        for (number, partition) in &*self.partitions.lock() {
            let from = known.get(&key(*number)).map_or(partition.first, |part| part.allocated);
            for record in partition.slice(*number, from, partition.end().max(from))? {
                bytes += record.len() as u64;
                records += 1;
            }
        }
        Ok(Latest { bytes, records: Some(records), waiting_bytes: 0 })
    }

    fn plan(&self, known: &dyn Parts, mut share: Share) -> Result<Plan, InputError> {
        let partitions = self.partitions.lock();
        let mut plan = Plan::default();
        // Those that are furthest behind first: none starves. The number settles ties, the same way each time.
        let mut behind: Vec<_> = partitions
            .iter()
            .map(|(number, partition)| {
                let part = known.get(&key(*number));
                let from = part.map_or(partition.first, |part| part.allocated);
                (from, *number, partition, part)
            })
            .collect();
        behind.sort_by_key(|(from, number, partition, _)| {
            (std::cmp::Reverse(partition.end().saturating_sub(*from)), *number)
        });
        for (from, number, partition, part) in behind {
            let (mut to, mut bytes) = (from, 0);
            let mut digest = Digest::new(DIGEST_SEED);
            for record in partition.slice(number, from, partition.end().max(from))? {
                let length = record.len() as u64;
                let is_first = share.takes_one && to == from;
                let fits = share.ranges > 0 && share.records > to - from && share.bytes >= bytes + length;
                if !is_first && !fits {
                    plan.has_more = true;
                    break;
                }
                add(&mut digest, record);
                (to, bytes) = (to + 1, bytes + length);
            }
            if to > from {
                let records = to - from;
                // The first range of a part carries its name.
                let opens = part.is_none().then(|| Bytes::from(name(number)));
                let (input, part, digest) = (Default::default(), key(number), digest.get());
                plan.ranges.push(Range { input, part, opens, from, to, digest, records, bytes });
                share.take(records, bytes);
            }
        }
        let is_gone = |part: &PartKey| number_of(part).is_some_and(|number| !partitions.contains_key(&number));
        known.each(&mut |key: &PartKey, part: &Part| {
            if is_gone(key) && part.committed == part.allocated {
                plan.gone.push(key.clone());
            }
        });
        Ok(plan)
    }

    fn read(&self, range: &Range) -> Result<ReplayedRecords, InputError> {
        let Range { from, to, .. } = *range;
        let partitions = self.partitions.lock();
        let Some((number, partition)) = number_of(&range.part).and_then(|n| Some((n, partitions.get(&n)?))) else {
            let what = "the partition was removed".into();
            return Err(InputError::Lost { part: range.part.to_string(), from, to, what });
        };
        let records: Vec<Bytes> = partition.slice(number, from, to)?.cloned().collect();
        // Before the first record is shown.
        let mut digest = Digest::new(DIGEST_SEED);
        records.iter().for_each(|record| add(&mut digest, record));
        if digest.get() != range.digest {
            let what = "its records are not what they were".into();
            return Err(InputError::Changed { part: name(number), from, to, what });
        }
        Ok(Box::new((from..).zip(records).map(|(at, bytes)| Ok(ReplayedRecord { at, bytes }))))
    }
}

/// With its length: other borders between the same bytes are other records.
fn add(digest: &mut Digest, record: &Bytes) {
    digest.add(&(record.len() as u64).to_le_bytes());
    digest.add(record);
}

fn key(number: u32) -> PartKey {
    PartKey::new(number.to_le_bytes().to_vec()).expect("four bytes")
}

fn number_of(key: &PartKey) -> Option<u32> {
    key.as_bytes().try_into().ok().map(u32::from_le_bytes)
}

fn name(number: u32) -> String {
    format!("partition {number}")
}
