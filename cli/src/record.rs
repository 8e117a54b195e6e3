//! Records in a frame, whoever put them there: `ingest` one per frame, in an envelope ([`crate::envelope`]); a receiver
//! many, in a block. Both say whose they are and where they belong.

use std::borrow::Cow;

use bytes::Bytes;
use seawall::receiver::{Block, BlockError, Range, RangeKind, Sequenced, Sequences};
use serde::Serialize;

use crate::envelope::{Envelope, Unit};

/// One record of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// The source's name; empty for one without.
    pub(crate) source: String,
    /// What came before it, and how far it goes: byte offsets of what was ingested or sent as a file, otherwise
    /// sequences.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) data: Bytes,
    /// Without sequences positions say nothing: each session counts from 0.
    pub(crate) is_sequenced: bool,
    /// What `ingest` says of it; `None`: it was received.
    pub(crate) unit: Option<Unit>,
}

impl Record {
    /// The source says that nothing follows.
    pub(crate) fn is_end(&self) -> bool {
        self.unit == Some(Unit::End)
    }

    /// Its positions are offsets of its bytes.
    pub(crate) fn has_offsets(&self) -> bool {
        self.to - self.from == self.data.len() as u64
    }
}

/// Why a source has gone on without records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Passed {
    /// It said that they will never come: left out on purpose, or lost at most once.
    Skipped,
    /// The receiver refused a record, and keeps it outside the data.
    Rejected,
}

/// A step of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Record(Record),
    /// From there to there without records.
    Passed {
        source: String,
        from: u64,
        to: u64,
        why: Passed,
    },
}

impl Step {
    pub(crate) fn record(self) -> Option<Record> {
        match self {
            Step::Record(record) => Some(record),
            Step::Passed { .. } => None,
        }
    }
}

/// What a frame holds.
pub(crate) enum Content {
    /// How sources went on, perhaps none: a receiver also notes who came and went.
    Steps(Vec<Step>),
    /// Something else's, or a block that does not read as one.
    Foreign,
}

impl Content {
    pub(crate) fn of(payload: &Bytes) -> Content {
        if let Some(envelope) = Envelope::decode(payload) {
            let record = Record {
                source: envelope.source.to_owned(),
                from: envelope.offset,
                to: envelope.end(),
                data: payload.slice_ref(envelope.data),
                is_sequenced: true,
                unit: Some(envelope.unit),
            };
            return Content::Steps(vec![Step::Record(record)]);
        }
        match Block::read(payload).ok().map(|block| steps(&block)) {
            Some(Ok(steps)) => Content::Steps(steps),
            Some(Err(_)) | None => Content::Foreign,
        }
    }
}

fn steps(block: &Block) -> Result<Vec<Step>, BlockError> {
    let mut all = Vec::new();
    let mut records = block.records().peekable();
    for (range, _) in &block.ranges {
        let (source, mut from) = (name(range), range.previous.get());
        let why = match range.kind {
            RangeKind::Skipped => Passed::Skipped,
            RangeKind::Reject { .. } => Passed::Rejected,
            RangeKind::Records => {
                let is_own = |next: &Result<Sequenced<'_>, _>| {
                    next.as_ref().map_or(true, |next| std::ptr::eq(next.range, range))
                };
                while let Some(next) = records.next_if(is_own) {
                    let Sequenced { seq, record, .. } = next?;
                    let (to, is_sequenced) = (seq.get(), range.sequences != Sequences::None);
                    let source = source.clone().into_owned();
                    all.push(Step::Record(Record { source, from, to, data: record, is_sequenced, unit: None }));
                    from = to;
                }
                continue;
            }
            RangeKind::Session
            | RangeKind::Retired
            | RangeKind::Position
            | RangeKind::Unseen { .. }
            | RangeKind::Seen => continue,
        };
        // Without sequences there is nothing that could be missing.
        if range.sequences != Sequences::None {
            all.push(Step::Passed { source: source.into_owned(), from, to: range.last.get(), why });
        }
    }
    Ok(all)
}

fn name(range: &Range) -> Cow<'static, str> {
    range.source.as_ref().map_or(Cow::Borrowed(""), |source| source.to_string().into())
}
