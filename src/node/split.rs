//! Lines out of bytes that come in pieces.

/// One line, without its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than the limit: its length. Its bytes are gone.
    TooLong(u64),
}

/// Holds the beginning of a line whose end has not come: never more than the limit, in a buffer at most a quarter longer.
#[derive(Debug)]
pub(super) struct Splitter {
    line_bytes_max: usize,
    begun: Vec<u8>,
    /// The line at hand is too long: its bytes are counted only.
    passed_bytes: u64,
    /// The last of them was a `\r`, which may be part of the line's end.
    passed_cr: bool,
}

impl Splitter {
    pub(super) fn new(line_bytes_max: usize) -> Splitter {
        Splitter { line_bytes_max, begun: Vec::new(), passed_bytes: 0, passed_cr: false }
    }

    /// Takes a piece. Lines end with `\n` or `\r\n`; `each` may stop it.
    pub(super) fn feed<E>(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(Line<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(at) = piece.iter().position(|byte| *byte == b'\n') {
            let (end, rest) = (&piece[..at], &piece[at + 1..]);
            piece = rest;
            if self.has_begun() {
                self.hold(end);
                self.flush(&mut each)?;
            } else {
                each(self.judge(end, 0))?;
            }
        }
        self.hold(piece);
        Ok(())
    }

    /// The line at hand goes on with these bytes.
    fn hold(&mut self, more: &[u8]) {
        let bytes = self.begun.len() + more.len();
        // One byte more may be the `\r` of a line that just fits.
        let held_max = self.line_bytes_max + 1;
        if bytes > held_max || self.passed_bytes > 0 {
            self.passed_bytes += bytes as u64;
            let last = more.last().or(self.begun.last());
            self.passed_cr = last.map_or(self.passed_cr, |last| *last == b'\r');
            self.begun = Vec::new();
            return;
        }
        if bytes > self.begun.capacity() {
            // Not twice as long, as it would grow by itself: nobody is charged for it.
            let longer = bytes.saturating_add(bytes / 4).min(held_max);
            self.begun.reserve_exact(longer - self.begun.len());
        }
        self.begun.extend_from_slice(more);
    }

    /// Nothing comes any more: what was begun is a line.
    pub(super) fn finish<E>(&mut self, mut each: impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.has_begun() { self.flush(&mut each) } else { Ok(()) }
    }

    /// Whether a line has begun whose end has not come.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty() || self.passed_bytes > 0
    }

    /// The line at hand is known to be too long, its end has not come.
    pub(super) fn is_too_long(&self) -> bool {
        self.passed_bytes > 0
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.begun.capacity()
    }

    fn flush<E>(&mut self, each: &mut impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let (line, passed) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.passed_bytes));
        let passed = if line.is_empty() && self.passed_cr { passed.saturating_sub(1) } else { passed };
        self.passed_cr = false;
        each(self.judge(&line, passed))
    }

    fn judge<'a>(&self, line: &'a [u8], passed: u64) -> Line<'a> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let bytes = passed + line.len() as u64;
        if bytes > self.line_bytes_max as u64 { Line::TooLong(bytes) } else { Line::Whole(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8], limit: usize, piece: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut splitter = Splitter::new(limit);
        let mut each = |line: Line<'_>| {
            found.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong(bytes) => format!("#{bytes}"),
            });
            Ok::<(), ()>(())
        };
        for piece in text.chunks(piece) {
            splitter.feed(piece, &mut each).unwrap();
            assert!(splitter.begun.len() <= limit + 1);
        }
        splitter.finish(&mut each).unwrap();
        found
    }

    /// A line that came in pieces was held in up to twice its length, charged to nobody; one that was too long in up to twice the
    /// limit, for nothing.
    #[test]
    fn a_line_that_comes_in_pieces_is_held_once() {
        const LIMIT: usize = 1 << 20;
        let mut splitter = Splitter::new(LIMIT);
        let mut each = |_: Line<'_>| Err("no line has ended");
        let piece = [b'a'; 16 << 10];
        while !splitter.is_too_long() {
            splitter.feed(&piece, &mut each).unwrap();
            let (held, capacity) = (splitter.begun.len(), splitter.begun.capacity());
            assert!(capacity <= (held + held / 4).min(LIMIT + 1), "{capacity} bytes for {held}");
        }
        assert_eq!(splitter.begun.capacity(), 0);
        assert_eq!(splitter.feed(b"\n", |line| Err(line == Line::TooLong(LIMIT as u64 + 16384))), Err(true));
    }

    #[test]
    fn however_the_bytes_come_the_lines_are_the_same() {
        let text = b"one\n\ntwo\r\nfour!\r\nfive!!\n\rx\nsix hundred\r\nlast";
        for piece in 1..=text.len() {
            assert_eq!(
                split(text, 5, piece),
                ["one", "", "two", "four!", "#6", "\rx", "#11", "last"],
                "in pieces of {piece}"
            );
        }
        assert_eq!(split(b"", 5, 1), [""; 0]);
        assert_eq!(split(b"\n", 5, 1), [""]);
        assert_eq!(split(b"too long and without an end", 5, 7), ["#27"]);
    }
}
