//! A range, read again: no record is shown that is not what was planned.
//!
//! The range is read once to look at its digest, in pieces whose digests are kept (8 bytes a MiB), and a second time to hand
//! records out, each piece only if it is what it was. A range of one piece is read once.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use bytes::BytesMut;

use super::super::digest::Digest;
use super::config::RecordRule;
use super::records::PIECE_BYTES;
use crate::ledger::{InputError, Range, ReplayedRecord};

/// Records of a verified range. Each shares its piece's memory: keep a copy of what is to live long.
pub(super) struct Verified {
    file: File,
    name: String,
    rule: RecordRule,
    from: u64,
    to: u64,
    /// Of each piece.
    digests: std::vec::IntoIter<u64>,
    /// The next piece's position.
    at: u64,
    /// Bytes before that which are in no record yet.
    held: BytesMut,
    searched: usize,
    has_failed: bool,
}

impl Verified {
    /// # Errors
    /// [`InputError::Changed`].
    pub(super) fn new(file: File, name: String, rule: RecordRule, range: &Range) -> Result<Verified, InputError> {
        let Range { from, to, .. } = *range;
        let mut all = Digest::new(rule.seed());
        let mut digests = Vec::new();
        let mut verified = Verified {
            file,
            name,
            rule,
            from,
            to,
            digests: Vec::new().into_iter(),
            at: from,
            held: BytesMut::new(),
            searched: 0,
            has_failed: false,
        };
        while verified.at < to {
            verified.load(0)?;
            all.add(&verified.held);
            digests.push(Digest::of(0, &verified.held));
        }
        if all.get() != range.digest {
            return Err(verified.changed("its bytes, or the rule that makes records of them, are not what they were"));
        }
        if digests.len() > 1 {
            verified.held.clear();
            (verified.at, verified.digests) = (from, digests.into_iter());
        }
        Ok(verified)
    }

    /// The next piece, behind the first `before` bytes of what is held.
    fn load(&mut self, before: usize) -> Result<(), InputError> {
        let length = PIECE_BYTES.min((self.to - self.at) as usize);
        self.held.resize(before + length, 0);
        match self.file.read_exact_at(&mut self.held[before..], self.at) {
            Ok(()) => self.at += length as u64,
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                return Err(self.changed("the file is shorter than it was"));
            }
            Err(e) => return Err(InputError::io("reading", &self.name, e)),
        }
        Ok(())
    }

    fn changed(&self, what: &str) -> InputError {
        InputError::Changed { part: self.name.clone(), from: self.from, to: self.to, what: what.into() }
    }

    fn step(&mut self) -> Result<Option<ReplayedRecord>, InputError> {
        loop {
            let start = self.at - self.held.len() as u64;
            if let Some((length, whole)) = self.rule.first(&self.held, self.searched) {
                self.searched = 0;
                let mut bytes = self.held.split_to(whole);
                bytes.truncate(length);
                return Ok(Some(ReplayedRecord { at: start, bytes: bytes.freeze() }));
            }
            if self.at == self.to {
                let bytes = self.held.split().freeze();
                return Ok((!bytes.is_empty()).then_some(ReplayedRecord { at: start, bytes }));
            }
            self.searched = self.held.len();
            self.load(self.searched)?;
            let expected = self.digests.next().expect("a digest for each piece");
            if Digest::of(0, &self.held[self.searched..]) != expected {
                return Err(self.changed("it was changed while it was read"));
            }
        }
    }
}

impl Iterator for Verified {
    type Item = Result<ReplayedRecord, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let next = self.step();
        self.has_failed = next.is_err();
        next.transpose()
    }
}
