//! The sender's side: who sends, in which life, and which of its records.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The number a source gives a record: grows within the source for ever, across its epochs; 0 is "none yet".
///
/// Dense sequences count records from 1. Sparse ones only grow: a file's byte offset behind the record, a device's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Seq(u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The sequence with this number.
    #[must_use]
    pub const fn new(number: u64) -> Seq {
        Seq(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence `steps` further on; `None` beyond 2^64 - 1.
    #[must_use]
    pub const fn checked_add(self, steps: u64) -> Option<Seq> {
        match self.0.checked_add(steps) {
            Some(number) => Some(Seq(number)),
            None => None,
        }
    }

    /// How far this one is behind `earlier`; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Seq) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seq({})", self.0)
    }
}

/// A source's life: a higher epoch fences every session of a lower one. 0 is "none yet" (in a HELLO: "take the next").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SourceEpoch(u64);

impl SourceEpoch {
    /// No epoch yet.
    pub const ZERO: SourceEpoch = SourceEpoch(0);

    /// The epoch with this number.
    #[must_use]
    pub const fn new(number: u64) -> SourceEpoch {
        SourceEpoch(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The life after this one; `None` beyond 2^64 - 1.
    #[must_use]
    pub const fn checked_next(self) -> Option<SourceEpoch> {
        match self.0.checked_add(1) {
            Some(number) => Some(SourceEpoch(number)),
            None => None,
        }
    }
}

impl fmt::Display for SourceEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A source's name: 1 to 128 bytes, chosen by the source and kept through its restarts. Ordinarily UTF-8 text.
#[derive(Clone)]
pub struct SourceId(Name);

/// Ordinary names stand where they are named: a lookup among a million takes a cache miss less, and a copy no allocation.
#[derive(Clone)]
enum Name {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Box<[u8]>),
}

/// What fits into three words, as much as a pointer with a length and a tag takes.
const SHORT_BYTES_MAX: usize = 22;

const _: () = assert!(size_of::<Option<SourceId>>() == 24);

impl SourceId {
    /// No name is longer.
    pub const BYTES_MAX: usize = 128;

    /// The name with these bytes; `None` when there are none or too many.
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> Option<SourceId> {
        let bytes = bytes.as_ref();
        (1..=Self::BYTES_MAX).contains(&bytes.len()).then(|| {
            if bytes.len() > SHORT_BYTES_MAX {
                return SourceId(Name::Long(bytes.into()));
            }
            let mut short = [0; SHORT_BYTES_MAX];
            short[..bytes.len()].copy_from_slice(bytes);
            SourceId(Name::Short { len: bytes.len() as u8, bytes: short })
        })
    }

    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Name::Short { len, bytes } => &bytes[..usize::from(*len)],
            Name::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for SourceId {
    fn eq(&self, other: &SourceId) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for SourceId {}

impl PartialOrd for SourceId {
    fn partial_cmp(&self, other: &SourceId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SourceId {
    fn cmp(&self, other: &SourceId) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for SourceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for SourceId {
    /// Bytes that are not printable text are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_128_bytes_and_prints_in_one_line() {
        assert_eq!(SourceId::new(""), None);
        assert_eq!(SourceId::new([b'x'; 129]), None);
        for len in 1..=128 {
            let bytes: Vec<u8> = (0..len).collect();
            assert_eq!(SourceId::new(&bytes).unwrap().as_bytes(), bytes);
        }
        assert_eq!(SourceId::new(b"a\n\xff\"").unwrap().to_string(), "a\\n\\xff\"");
    }

    #[test]
    fn names_compare_as_their_bytes_do_wherever_they_stand() {
        let names: Vec<Vec<u8>> =
            [1, 2, 21, 22, 23, 24, 128].iter().flat_map(|len| [vec![7; *len], vec![9; *len]]).collect();
        for a in &names {
            for b in &names {
                let (left, right) = (SourceId::new(a).unwrap(), SourceId::new(b).unwrap());
                assert_eq!(left.cmp(&right), a.cmp(b));
                assert_eq!(left == right, a == b);
            }
        }
    }
}
