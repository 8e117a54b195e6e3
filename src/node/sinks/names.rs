//! What the files of a directory of outputs are called, and what makes one recognizable.
//!
//! ```text
//! 00000000000000000042-9c1185a5c5e9fc54612808977ee8f548.out       the output of batch 42 of that ledger, whole
//! _00000000000000000043-9c1185a5c5e9fc54612808977ee8f548.fenced   batch 43 was abandoned: it will never be there
//! _00000000000000000044-9c1185a5c5e9fc54612808977ee8f548.tmp      being written, or left by a process that died
//! _ledger                                                         whose directory it is (`owner`)
//! _lock                                                           held by the one sink that writes
//! ```
//!
//! The ledger is in every name: batch 1 of a new ledger never looks done, for the sink and for whoever remembers names,
//! and adopting a directory is one durable write that moves nothing. Hadoop, Spark and Hive pass over names that begin
//! with `_`.

use std::fmt;

use crate::ledger::BatchKey;
use crate::types::{BatchId, LedgerId};

pub(super) const OWNER: &str = "_ledger";
pub(super) const OWNER_TEMP: &str = "_ledger.tmp";
pub(super) const LOCK: &str = "_lock";

const BATCH_DIGITS: usize = 20;
const LEDGER_DIGITS: usize = 32;
const TEMP: &str = ".tmp";
const FENCED: &str = ".fenced";

pub(super) const EXTENSION_BYTES_MAX: usize = 32;

pub(super) fn output(key: BatchKey, extension: &str) -> String {
    format!("{}.{extension}", stem(key))
}

pub(super) fn fence(key: BatchKey) -> String {
    format!("_{}{FENCED}", stem(key))
}

pub(super) fn temp(key: BatchKey) -> String {
    format!("_{}{TEMP}", stem(key))
}

/// A name that only a sink that died can have left.
pub(super) fn is_temp(name: &str) -> bool {
    let of_batch = || name.strip_prefix('_')?.strip_suffix(TEMP).and_then(parse_stem);
    name == OWNER_TEMP || of_batch().is_some()
}

/// Whose output or fence has this name.
pub(super) fn parse(name: &str) -> Option<BatchKey> {
    match name.strip_prefix('_') {
        Some(rest) => parse_stem(rest.strip_suffix(FENCED)?),
        None => parse_any_output(name).map(|(key, _)| key),
    }
}

/// Whose output has this name, and what it ends with, whatever that is.
pub(super) fn parse_any_output(name: &str) -> Option<(BatchKey, &str)> {
    let (stem, extension) = name.split_once('.')?;
    Some((parse_stem(stem)?, extension))
}

/// Whose output has this name.
pub(super) fn parse_output(name: &str, extension: &str) -> Option<BatchKey> {
    parse_stem(name.strip_suffix(extension)?.strip_suffix('.')?)
}

/// What an extension may be: anything that keeps the names what they are.
pub(super) fn is_extension(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= EXTENSION_BYTES_MAX && text.split('.').all(part)
}

fn stem(key: BatchKey) -> String {
    format!("{:0BATCH_DIGITS$}-{}", key.batch.get(), key.ledger)
}

fn parse_stem(stem: &str) -> Option<BatchKey> {
    let (batch, ledger) = stem.split_once('-')?;
    let digits = |text: &str, length, hex: bool| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (hex && (b'a'..=b'f').contains(&byte)))
    };
    if !digits(batch, BATCH_DIGITS, false) || !digits(ledger, LEDGER_DIGITS, true) {
        return None;
    }
    let ledger = LedgerId::new(u128::from_str_radix(ledger, 16).ok()?);
    Some(BatchKey { ledger, batch: BatchId::new(batch.parse().ok()?) })
}

/// How long an output is, and its checksum: what a directory answers when it has stored a batch, so that the ledger's
/// commit says which bytes were meant. As text, `1234 bytes, crc32c 0a1b2c3d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputSum {
    /// The file's length.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub crc32c: u32,
}

impl fmt::Display for OutputSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, crc32c {:08x}", self.bytes, self.crc32c)
    }
}

impl OutputSum {
    /// Reads the token that a [`DirectorySink`](super::DirectorySink) gave; `None` for another sink's.
    #[must_use]
    pub fn from_token(token: &[u8]) -> Option<OutputSum> {
        let (bytes, crc32c) = std::str::from_utf8(token).ok()?.split_once(" bytes, crc32c ")?;
        let sum = OutputSum { bytes: bytes.parse().ok()?, crc32c: u32::from_str_radix(crc32c, 16).ok()? };
        // One text a sum: no signs, no capitals, no other number of zeros.
        (sum.to_string().as_bytes() == token).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ledger: u128, batch: u64) -> BatchKey {
        BatchKey { ledger: LedgerId::new(ledger), batch: BatchId::new(batch) }
    }

    #[test]
    fn names_round_trip_and_sort_by_batch() {
        for key in [key(0, 1), key(u128::MAX, u64::MAX), key(0xab, 42)] {
            assert_eq!(parse_output(&output(key, "csv.gz"), "csv.gz"), Some(key));
            assert_eq!(parse(&output(key, "csv.gz")), Some(key));
            assert_eq!(parse(&fence(key)), Some(key));
            assert!(is_temp(&temp(key)));
        }
        assert_eq!(output(key(0xab, 42), "out"), "00000000000000000042-000000000000000000000000000000ab.out");
        assert!(output(key(2, 9), "out") < output(key(1, 10), "out"));
    }

    #[test]
    fn other_peoples_names_are_not_ours() {
        let ours = output(key(1, 1), "out");
        let long = format!("0{ours}");
        let capitals = output(key(0xab, 1), "out").replace("ab.", "AB.");
        let bare = ours.strip_suffix(".out").unwrap();
        for name in ["", "_", "_.tmp", "notes.tmp", "_notes.tmp", "_SUCCESS", OWNER, LOCK, &long, &capitals, bare] {
            assert_eq!((parse(name), is_temp(name)), (None, false), "{name}");
        }
        assert!(is_temp(OWNER_TEMP));
        assert!(!is_temp(&ours) && !is_temp(&fence(key(1, 1))));
        assert_eq!(parse(&temp(key(1, 1))), None);
        assert_eq!(parse_output(&ours, "csv"), None);
        // More than 64 bits.
        assert_eq!(parse(&format!("{}-{}.out", "9".repeat(20), "0".repeat(32))), None);
    }

    #[test]
    fn extensions() {
        for good in ["out", "csv.gz", "7z"] {
            assert!(is_extension(good), "{good}");
        }
        for bad in ["", ".out", "out.", "a..b", "a/b", "../x", "ü", "a b", &"x".repeat(33)] {
            assert!(!is_extension(bad), "{bad}");
        }
    }

    #[test]
    fn sums_round_trip() {
        let sum = OutputSum { bytes: 1234, crc32c: 0xa1b2c3d };
        assert_eq!(sum.to_string(), "1234 bytes, crc32c 0a1b2c3d");
        assert_eq!(OutputSum::from_token(sum.to_string().as_bytes()), Some(sum));
        for bad in ["", "+1 bytes, crc32c 00000000", "1 bytes, crc32c 0", "1 bytes, crc32c 0000000A", "1 bytes"] {
            assert_eq!(OutputSum::from_token(bad.as_bytes()), None, "{bad}");
        }
    }
}
