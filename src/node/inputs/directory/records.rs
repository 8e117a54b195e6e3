//! Where records end. The same rule plans a range and reads it.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;

use super::super::digest::Digest;
use super::config::RecordRule;
use crate::ledger::{InputError, Share};

/// Files are read in pieces of this size.
pub(super) const PIECE_BYTES: usize = 1 << 20;

impl RecordRule {
    /// Where the first record of `bytes` ends: its length, and with its delimiter. `searched` bytes hold no end.
    pub(super) fn first(self, bytes: &[u8], searched: usize) -> Option<(usize, usize)> {
        match self {
            RecordRule::Lines { delimiter } => {
                memchr::memchr(delimiter, &bytes[searched..]).map(|at| (searched + at, searched + at + 1))
            }
            RecordRule::Fixed { bytes: length } => {
                (bytes.len() as u64 >= length).then_some((length as usize, length as usize))
            }
            RecordRule::Whole => None,
        }
    }

    /// Seeds digests: other records of the same bytes are another content.
    pub(super) fn seed(self) -> u64 {
        match self {
            RecordRule::Lines { delimiter } => 1 << 32 | u64::from(delimiter),
            RecordRule::Fixed { bytes } => 2 << 32 | bytes,
            RecordRule::Whole => 3 << 32,
        }
    }
}

/// A range in the making.
pub(super) struct Cut {
    pub(super) to: u64,
    pub(super) digest: u64,
    pub(super) records: u64,
    /// Of records: without what ends them.
    pub(super) bytes: u64,
    /// More was there than the share allowed.
    pub(super) is_cut: bool,
}

/// What a range is cut from.
pub(super) struct Uncut<'a> {
    pub(super) file: &'a File,
    pub(super) name: &'a dyn std::fmt::Display,
    pub(super) from: u64,
    /// The size that was seen: what is appended meanwhile comes with another range.
    pub(super) end: u64,
    /// The last record ends at the end.
    pub(super) is_finished: bool,
}

/// As many records as the share takes. A record above the limit is an error when it is the first, and ends the range before.
pub(super) fn cut(
    uncut: &Uncut<'_>,
    rule: RecordRule,
    record_bytes_max: u64,
    share: &Share,
) -> std::result::Result<Cut, InputError> {
    let Uncut { file, name, from, end, is_finished } = *uncut;
    let mut digest = Digest::new(rule.seed());
    let mut cut = Cut { to: from, digest: 0, records: 0, bytes: 0, is_cut: false };
    let fits = |cut: &Cut, length: u64| {
        let first = share.takes_one && cut.records == 0;
        first || (share.ranges > 0 && share.records > cut.records && share.bytes >= cut.bytes + length)
    };
    let mut held: Vec<u8> = Vec::new();
    let mut searched = 0;
    if rule == RecordRule::Whole && !is_finished {
        return Ok(cut);
    }
    'file: loop {
        let mut used = 0;
        let mut is_full = false;
        loop {
            let rest = &held[used..];
            let at_end = cut.to + held.len() as u64 - used as u64 == end;
            let (length, whole) = match rule.first(rest, searched) {
                Some(found) => found,
                None if at_end && is_finished && !rest.is_empty() => (rest.len(), rest.len()),
                None => {
                    searched = rest.len();
                    break;
                }
            };
            if !fits(&cut, length as u64) {
                (cut.is_cut, is_full) = (true, true);
                break;
            }
            if length as u64 > record_bytes_max {
                is_full = true;
                break;
            }
            used += whole;
            searched = 0;
            cut.to += whole as u64;
            cut.bytes += length as u64;
            cut.records += 1;
        }
        digest.add(&held[..used]);
        held.drain(..used);
        // Before there is an end: nothing longer is held.
        let too_long = held.len() as u64 > record_bytes_max
            && rule.first(&held, 0).is_none_or(|(n, _)| n as u64 > record_bytes_max);
        if too_long && !cut.is_cut && cut.records == 0 {
            let what = format!("{name}: the record at {} has at least", cut.to);
            let bytes = held.len() as u64;
            return Err(InputError::Limit { what, bytes, limit_bytes: record_bytes_max, field: "record_bytes_max" });
        }
        let at = cut.to + held.len() as u64;
        if is_full || too_long || at >= end {
            break 'file;
        }
        let before = held.len();
        held.resize(before + PIECE_BYTES.min((end - at) as usize), 0);
        let read = file.read_at(&mut held[before..], at);
        match read {
            // Shortened meanwhile: the next look tells.
            Ok(0) => break 'file,
            Ok(n) => held.truncate(before + n),
            Err(e) if e.kind() == ErrorKind::Interrupted => held.truncate(before),
            Err(e) => return Err(InputError::io("reading", name, e)),
        }
    }
    cut.digest = digest.get();
    Ok(cut)
}

/// How many of the bytes `from..end` wait for their record's end.
pub(super) fn waiting(file: &File, from: u64, end: u64, rule: RecordRule, record_bytes_max: u64) -> Result<u64> {
    let delimiter = match rule {
        RecordRule::Lines { delimiter } => delimiter,
        RecordRule::Fixed { bytes } => return Ok((end - from) % bytes),
        RecordRule::Whole => return Ok(end - from),
    };
    let lowest = from.max(end.saturating_sub(record_bytes_max + 1));
    let mut piece = vec![0; (64 << 10).min((end - lowest) as usize)];
    let mut at = end;
    while at > lowest {
        let n = piece.len().min((at - lowest) as usize);
        match file.read_exact_at(&mut piece[..n], at - n as u64) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(end - from),
            read => read?,
        }
        if let Some(found) = memchr::memrchr(delimiter, &piece[..n]) {
            return Ok(end - (at - n as u64 + found as u64 + 1));
        }
        at -= n as u64;
    }
    Ok(end - from)
}
