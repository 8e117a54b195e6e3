//! Who has sent how much: the receiver's memory of its sources, which the stream itself is the record of.
//!
//! [`Sources::apply`] is the one transition: called for a range when its block has become durable, and for the same range
//! when the stream is replayed; but for a snapshot's ranges, which say what was known already. Every field only grows, so a
//! snapshot may be written in parts between blocks, and replay may see a range twice. Rejects go when they are seen: a
//! snapshot's part says of them what stands when it is laid out, and whatever comes of them later lies behind it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::block::{Range, RangeKind};
use super::message::{Reject, Sequences};
use crate::types::{Seq, SourceEpoch, SourceId};

/// A source's place in the table; never given to another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SourceRef(u32);

/// What is known about a source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: SourceId,
    /// Durably recorded.
    pub(crate) epoch: SourceEpoch,
    /// Given to a session; if higher, on its way, or to be once the one that is has come.
    pub(crate) pending_epoch: SourceEpoch,
    pub(crate) is_epoch_on_its_way: bool,
    /// Received; what is above `durable` is on its way.
    pub(crate) accepted: Seq,
    pub(crate) durable: Seq,
    pub(crate) committed: Seq,
    pub(crate) retired: bool,
    /// The retirement is on its way: nothing more is taken.
    pub(crate) is_retiring: bool,
    /// Rejects on their way, of whichever session.
    pub(crate) rejects_in_flight: u32,
    /// The last session's way of numbering: what a snapshot says of it.
    pub(crate) sequences: Sequences,
    /// Rejects that are durable and that the source has not taken note of. Rare: a word where there are none.
    #[expect(clippy::box_collection, reason = "one word instead of three in each of a million sources")]
    pub(crate) rejects: Option<Box<Vec<Reject>>>,
}

/// All sources of a stream.
#[derive(Debug, Default)]
pub struct Sources {
    table: HashTable<u32>,
    all: Vec<Source>,
    hasher: DefaultHashBuilder,
}

impl Sources {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How far a source's records are durable; `None` for one that never came.
    #[must_use]
    pub fn durable(&self, id: &SourceId) -> Option<Seq> {
        self.find(id.as_bytes()).map(|at| self[at].durable)
    }

    /// Takes note of what a durable block says.
    pub fn apply(&mut self, range: &Range) {
        let Some(id) = &range.source else { return };
        if range.sequences == Sequences::None && range.kind == RangeKind::Records {
            return;
        }
        let at = self.find_or_insert(id);
        let source = &mut self[at];
        source.sequences = range.sequences;
        source.epoch = source.epoch.max(range.epoch);
        match range.kind {
            RangeKind::Records | RangeKind::Skipped | RangeKind::Session | RangeKind::Position => {
                source.reach(range.last);
            }
            RangeKind::Reject { reason, bytes } => {
                source.reach(range.last);
                source.remember(Reject { seq: range.last, reason, bytes: bytes.into() });
            }
            RangeKind::Unseen { reason, bytes } => {
                source.remember(Reject { seq: range.last, reason, bytes: bytes.into() });
            }
            RangeKind::Retired => source.retired = true,
            RangeKind::Seen => {
                source.note_seen(range.last);
            }
        }
    }

    /// The place of a source that came before.
    pub(crate) fn find(&self, id: &[u8]) -> Option<SourceRef> {
        let hash = self.hasher.hash_one(id);
        self.table.find(hash, |at| self.all[*at as usize].id.as_bytes() == id).map(|at| SourceRef(*at))
    }

    /// The place of a source, which may come for the first time.
    pub(crate) fn find_or_insert(&mut self, id: &SourceId) -> SourceRef {
        if let Some(at) = self.find(id.as_bytes()) {
            return at;
        }
        let at = u32::try_from(self.all.len()).expect("sources_max is a u32");
        let hash = self.hasher.hash_one(id.as_bytes());
        let (all, hasher) = (&self.all, &self.hasher);
        self.table.insert_unique(hash, at, |at| hasher.hash_one(all[*at as usize].id.as_bytes()));
        self.all.push(Source {
            id: id.clone(),
            epoch: SourceEpoch::ZERO,
            pending_epoch: SourceEpoch::ZERO,
            is_epoch_on_its_way: false,
            accepted: Seq::ZERO,
            durable: Seq::ZERO,
            committed: Seq::ZERO,
            retired: false,
            is_retiring: false,
            rejects_in_flight: 0,
            sequences: Sequences::Dense,
            rejects: None,
        });
        SourceRef(at)
    }

    /// The `nth` source as ranges of a snapshot.
    pub(crate) fn positions(&self, nth: usize) -> Option<Vec<Range>> {
        self.all.get(nth).map(Source::positions)
    }

    /// The first reject that the `nth` source has not taken note of.
    pub(crate) fn first_unseen(&self, nth: usize) -> Option<Seq> {
        self.all.get(nth)?.unseen().iter().map(|reject| reject.seq).min()
    }

    /// Every source's place.
    pub(crate) fn refs(&self) -> impl Iterator<Item = SourceRef> {
        (0..).zip(&self.all).map(|(at, _)| SourceRef(at))
    }
}

impl Source {
    fn reach(&mut self, seq: Seq) {
        self.durable = self.durable.max(seq);
        self.accepted = self.accepted.max(seq);
    }

    fn remember(&mut self, reject: Reject) {
        let rejects = self.rejects.get_or_insert_default();
        if rejects.iter().all(|known| known.seq != reject.seq) {
            rejects.push(reject);
        }
    }

    /// The source says that it has taken note of its rejects up to `seen`: the last one that this is news of.
    pub(crate) fn note_seen(&mut self, seen: Seq) -> Option<Seq> {
        let rejects = self.rejects.as_mut()?;
        let last = rejects.iter().map(|reject| reject.seq).filter(|seq| *seq <= seen).max()?;
        rejects.retain(|reject| reject.seq > last);
        if rejects.is_empty() {
            self.rejects = None;
        }
        Some(last)
    }

    /// Rejects the source has not taken note of.
    pub(crate) fn unseen(&self) -> &[Reject] {
        self.rejects.as_ref().map_or(&[], |rejects| rejects)
    }

    /// What a snapshot says about it: only what is durable.
    fn positions(&self) -> Vec<Range> {
        let range = |kind, last| Range {
            kind,
            source: Some(self.id.clone()),
            epoch: self.epoch,
            sequences: self.sequences,
            records: 0,
            previous: Seq::ZERO,
            last,
        };
        let unseen = self.unseen().iter().map(|reject| {
            let bytes = u32::try_from(reject.bytes).unwrap_or(u32::MAX);
            range(RangeKind::Unseen { reason: reject.reason, bytes }, reject.seq)
        });
        let retired = self.retired.then(|| range(RangeKind::Retired, self.durable));
        std::iter::once(range(RangeKind::Position, self.durable)).chain(unseen).chain(retired).collect()
    }
}

impl std::ops::Index<SourceRef> for Sources {
    type Output = Source;

    fn index(&self, at: SourceRef) -> &Source {
        &self.all[at.0 as usize]
    }
}

impl std::ops::IndexMut<SourceRef> for Sources {
    fn index_mut(&mut self, at: SourceRef) -> &mut Source {
        &mut self.all[at.0 as usize]
    }
}
