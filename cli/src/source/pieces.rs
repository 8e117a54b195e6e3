//! Cuts a source into the pieces that become records. Pure: bytes come in through `Read`, pieces go out, and nothing
//! waits.

use std::io::{self, Read};

/// Bytes asked for at a time.
const READ_BYTES: usize = 256 * 1024;

/// Where a source is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Behind each newline.
    Lines,
    /// After so many bytes.
    Blocks(usize),
}

/// A piece of the source; never empty.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Piece<'a> {
    /// Where it begins in the source.
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
}

impl Piece<'_> {
    /// The offset of the byte after it.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Bytes read and not yet cut.
pub(crate) struct Pieces {
    cut: Cut,
    /// A line that is longer is cut all the same: memory stays bounded whatever the source holds.
    piece_bytes_max: usize,
    buffer: Vec<u8>,
    /// `start..end` of the buffer is the source from `offset` on.
    start: usize,
    end: usize,
    /// `start..scanned` holds no newline.
    scanned: usize,
    offset: u64,
    ended: bool,
}

impl Pieces {
    /// Pieces of a source that is read from `offset` on.
    pub(crate) fn new(cut: Cut, piece_bytes_max: usize, offset: u64) -> Pieces {
        Pieces { cut, piece_bytes_max, buffer: Vec::new(), start: 0, end: 0, scanned: 0, offset, ended: false }
    }

    /// The next piece; `None` when more must be read first, or nothing is left.
    pub(crate) fn next(&mut self) -> Option<Piece<'_>> {
        let bytes = self.find()?;
        let piece = Piece { offset: self.offset, data: &self.buffer[self.start..self.start + bytes] };
        self.start += bytes;
        self.scanned = self.start;
        self.offset += bytes as u64;
        Some(piece)
    }

    /// The source has ended and everything of it was cut.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.start == self.end
    }

    /// Where the source has ended, once that is known.
    pub(crate) fn ended_at(&self) -> Option<u64> {
        self.ended.then(|| self.offset + (self.end - self.start) as u64)
    }

    /// Reads once.
    pub(super) fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.resize(self.end + READ_BYTES, 0);
        }
        match source.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.ended = true,
            Ok(bytes) => self.end += bytes,
            // A signal: the caller looks whether it is to end.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// How long the piece at the front is, once that is known.
    fn find(&mut self) -> Option<usize> {
        let have = self.end - self.start;
        let bytes = match self.cut {
            Cut::Blocks(bytes) => Some(bytes).filter(|bytes| *bytes <= have),
            Cut::Lines => {
                let newline = self.buffer[self.scanned..self.end].iter().position(|byte| *byte == b'\n');
                let found = newline.map(|at| self.scanned + at + 1 - self.start);
                self.scanned = self.end;
                found.or(Some(self.piece_bytes_max).filter(|max| *max <= have))
            }
        };
        let rest = Some(have).filter(|have| self.ended && *have > 0);
        bytes.or(rest).map(|bytes| bytes.min(self.piece_bytes_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, so that pieces lie across reads.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let bytes = self.1.min(into.len()).min(self.0.len());
            into[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }

    fn cut(source: &[u8], cut: Cut, max: usize, trickle: usize) -> Vec<(u64, String)> {
        let mut source = Trickle(source, trickle);
        let mut pieces = Pieces::new(cut, max, 100);
        let mut all = Vec::new();
        while !pieces.is_done() {
            match pieces.next() {
                Some(piece) => all.push((piece.offset, String::from_utf8(piece.data.to_vec()).unwrap())),
                None => pieces.fill(&mut source).unwrap(),
            }
        }
        all
    }

    fn expected(pieces: &[&str]) -> Vec<(u64, String)> {
        let mut offset = 100;
        pieces
            .iter()
            .map(|piece| {
                let at = offset;
                offset += piece.len() as u64;
                (at, (*piece).to_owned())
            })
            .collect()
    }

    #[test]
    fn lines_keep_their_newline_and_the_last_needs_none() {
        for trickle in 1..20 {
            let lines = cut(b"one\n\n\r\nlast", Cut::Lines, 100, trickle);
            assert_eq!(lines, expected(&["one\n", "\n", "\r\n", "last"]));
            assert_eq!(cut(b"one\ntwo\n", Cut::Lines, 100, trickle), expected(&["one\n", "two\n"]));
        }
        assert_eq!(cut(b"", Cut::Lines, 100, 1), []);
    }

    #[test]
    fn long_lines_are_cut() {
        for trickle in 1..20 {
            let lines = cut(b"0123456789\nab\n", Cut::Lines, 4, trickle);
            assert_eq!(lines, expected(&["0123", "4567", "89\n", "ab\n"]));
        }
    }

    #[test]
    fn blocks_have_their_size_but_for_the_last() {
        for trickle in 1..20 {
            assert_eq!(cut(b"0123\n56789", Cut::Blocks(4), 100, trickle), expected(&["0123", "\n567", "89"]));
        }
    }
}
