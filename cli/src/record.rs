//! Records in a frame, whoever put them there: `ingest` one per frame, in an envelope ([`crate::envelope`]); a receiver
//! many, in a block. Both say whose they are and where they belong.

use std::borrow::Cow;

use bytes::Bytes;
use seawall::receiver::{Block, BlockError, RangeKind, Sequences};

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

/// What a frame holds.
pub(crate) enum Content {
    /// Records, perhaps none: a receiver also notes who came and went.
    Records(Vec<Record>),
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
            return Content::Records(vec![record]);
        }
        match Block::read(payload).ok().map(|block| records(&block)) {
            Some(Ok(records)) => Content::Records(records),
            Some(Err(_)) | None => Content::Foreign,
        }
    }
}

fn records(block: &Block) -> Result<Vec<Record>, BlockError> {
    let mut all = Vec::new();
    let mut before: Option<(usize, u64)> = None;
    for sequenced in block.records() {
        let sequenced = sequenced?;
        let range = sequenced.range;
        let of_range = std::ptr::from_ref(range).addr();
        let from = match before {
            Some((known, seq)) if known == of_range => seq,
            _ => range.previous.get(),
        };
        let to = sequenced.seq.get();
        before = Some((of_range, to));
        debug_assert!(range.kind == RangeKind::Records, "others hold no records");
        let source = range.source.as_ref().map_or(Cow::Borrowed(""), |source| source.to_string().into());
        let is_sequenced = range.sequences != Sequences::None;
        all.push(Record { source: source.into_owned(), from, to, data: sequenced.record, is_sequenced, unit: None });
    }
    Ok(all)
}
