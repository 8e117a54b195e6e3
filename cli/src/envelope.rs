//! What `ingest` puts around a piece of a source, so that the log alone tells how far the source has come.
//!
//! ```text
//!  0    magic   4   "SWL" and the version, 1
//!  4    length  4   bytes of data
//!  8    offset  8   of the data's first byte in the source
//! 16    unit    1   0 line (or part of a long one), 1 block, 2 end of the source: no data, nothing follows
//! 17    name    1   n, 1 to 255
//! 18    source  n   the source's name, UTF-8
//! 18+n  data        as it stands in the source, a line's newline included
//! ```
//!
//! Little-endian. The data of a source's records, one after another, is the source, byte for byte. There is no
//! checksum: the frame has one. What does not decode is another program's record, and is left alone.

/// Bytes before the source's name.
const FIXED_BYTES: usize = 18;
const MAGIC: [u8; 4] = *b"SWL\x01";

/// A source's name may be at most this long, in bytes.
pub(crate) const SOURCE_BYTES_MAX: usize = 255;

/// What a record of a source holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// A line, or a part of a line that is too long for one record.
    Line,
    /// A block of a size the user chose.
    Block,
    /// Nothing: the source ends here.
    End,
}

impl Unit {
    fn code(self) -> u8 {
        match self {
            Unit::Line => 0,
            Unit::Block => 1,
            Unit::End => 2,
        }
    }

    fn from_code(code: u8) -> Option<Unit> {
        [Unit::Line, Unit::Block, Unit::End].into_iter().find(|unit| unit.code() == code)
    }

    /// The word for it in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Line => "line",
            Unit::Block => "block",
            Unit::End => "end",
        }
    }
}

/// A decoded record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) source: &'a str,
    pub(crate) offset: u64,
    pub(crate) unit: Unit,
    pub(crate) data: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The offset of the byte after this record's data.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// The envelope that `payload` is; `None` when it is something else.
    pub(crate) fn decode(payload: &'a [u8]) -> Option<Envelope<'a>> {
        let (magic, rest) = payload.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (&[unit, name_bytes], rest) = rest.split_first_chunk::<2>()?;
        let (source, data) = rest.split_at_checked(usize::from(name_bytes))?;
        let offset = u64::from_le_bytes(*offset);
        let unit = Unit::from_code(unit)?;
        if *magic != MAGIC || source.is_empty() || u32::from_le_bytes(*length) as usize != data.len() {
            return None;
        }
        if (unit == Unit::End) != data.is_empty() || offset.checked_add(data.len() as u64).is_none() {
            return None;
        }
        Some(Envelope { source: std::str::from_utf8(source).ok()?, offset, unit, data })
    }
}

/// Everything of an envelope but the data: made once per source, then only patched, so that a record costs no
/// allocation.
pub(crate) struct Head(Vec<u8>);

impl Head {
    /// The head of a source's records; `None` when the name is empty or too long.
    pub(crate) fn new(source: &str) -> Option<Head> {
        if source.is_empty() || source.len() > SOURCE_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[17] = source.len() as u8;
        bytes.extend_from_slice(source.as_bytes());
        Some(Head(bytes))
    }

    /// Bytes that a head takes in a record.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// What stands before `data` in its record.
    pub(crate) fn before(&mut self, unit: Unit, offset: u64, data: &[u8]) -> &[u8] {
        self.0[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
        self.0[8..16].copy_from_slice(&offset.to_le_bytes());
        self.0[16] = unit.code();
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(source: &str, unit: Unit, offset: u64, data: &[u8]) -> Vec<u8> {
        let mut head = Head::new(source).unwrap();
        [head.before(unit, offset, data), data].concat()
    }

    #[test]
    fn round_trip() {
        let long = "n".repeat(SOURCE_BYTES_MAX);
        for source in ["a", "access.log", "zürich/π", &long] {
            for (unit, data) in [(Unit::Line, &b"x\n"[..]), (Unit::Block, &[0; 5000]), (Unit::End, &[])] {
                let bytes = encode(source, unit, 1 << 40, data);
                let envelope = Envelope { source, offset: 1 << 40, unit, data };
                assert_eq!(Envelope::decode(&bytes), Some(envelope));
                assert_eq!(envelope.end(), (1 << 40) + data.len() as u64);
            }
        }
        assert!(Head::new("").is_none() && Head::new(&format!("{long}n")).is_none());
    }

    #[test]
    fn golden() {
        let hex: String = encode("s", Unit::Line, 258, b"hi\n").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "53574c0103000000020100000000000000017368690a");
    }

    #[test]
    fn what_is_cut_or_longer_or_not_ours_does_not_decode() {
        let bytes = encode("source", Unit::Line, 7, b"line\n");
        for length in 0..bytes.len() {
            assert_eq!(Envelope::decode(&bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(Envelope::decode(&[&bytes[..], b"x"].concat()), None, "trailing bytes");
        assert_eq!(Envelope::decode(&encode("s", Unit::Line, 0, b"")), None, "a line without a byte");
        assert_eq!(Envelope::decode(&encode("s", Unit::End, 0, b"x")), None, "an end with data");
        assert_eq!(Envelope::decode(&encode("s", Unit::Line, u64::MAX, b"x")), None, "an end beyond every offset");
        for (at, value) in [(0, b'X'), (3, 2), (16, 3), (17, 0), (18, 0xFF)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(Envelope::decode(&other), None, "byte {at}");
        }
    }
}
