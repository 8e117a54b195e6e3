//! Intervals of inputs: what batches are made of.

use std::fmt;

use bytes::Bytes;

use crate::types::InputId;

/// What an input is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[repr(u8)]
pub enum InputKind {
    /// A stream: its records are in a log of ours. One part; positions are Lsns, the digest is the chain.
    Stream = 1,
    /// A source that can be read again: only ranges are written down.
    Replayable = 2,
}

/// What an input is recognized by when it is opened again: a stream's log, a directory, a topic. Zero: by nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Identity(pub u128);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A part of an input with positions of its own: a file, a partition. Streams have one, whose key is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartKey(Bytes);

impl PartKey {
    /// At most this many bytes.
    pub const BYTES_MAX: usize = 255;

    /// A key; `None` when it is longer than [`PartKey::BYTES_MAX`].
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Option<PartKey> {
        Some(PartKey(bytes.into())).filter(|key| key.0.len() <= PartKey::BYTES_MAX)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

impl fmt::Debug for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A half-open interval `from..to` of one part's positions. Its content never changes: the digest would tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// Of which input.
    pub input: InputId,
    /// Of which part.
    pub part: PartKey,
    /// The part's name for people, when this is the first range of it.
    pub opens: Option<Bytes>,
    /// The first position: where the part's range before this one ended.
    pub from: u64,
    /// The first position after it.
    pub to: u64,
    /// Of a stream, the chain at the last frame; of others, whatever tells the same content again.
    pub digest: u64,
    /// How many records it holds.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}
