//! Records inside a SEND, and, byte for byte the same, inside a block.
//!
//! ```text
//! dense, none   u32 length · bytes        the n-th record's sequence is previous + n
//! sparse        u32 length · u32 step · bytes   its sequence is the one before it (at first `previous`) + step, step ≥ 1
//! ```
//!
//! Little-endian. A jump of 2^32 or more takes a SKIP.

use bytes::{BufMut, BytesMut};

use super::message::Sequences;
use crate::codec::Reader;
use crate::types::Seq;

/// What is wrong with a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PayloadError {
    /// A record's length reaches beyond the payload, or bytes are left over.
    #[error("the payload's records end at another byte than the payload does")]
    Length,
    /// Another number of records than announced.
    #[error("the payload holds another number of records than announced")]
    Count,
    /// A sparse step of 0, or a sequence beyond 2^64 - 1.
    #[error("sequences must grow, up to 2^64 - 1")]
    Step,
}

/// One record where it stands in the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed<'a> {
    /// Its sequence.
    pub(crate) seq: Seq,
    /// Where its header begins.
    pub(crate) at: usize,
    /// Where the next one begins.
    pub(crate) end: usize,
    /// Its bytes.
    pub(crate) record: &'a [u8],
}

/// Bytes before each record.
pub(crate) const fn header_bytes(sequences: Sequences) -> usize {
    match sequences {
        Sequences::Dense | Sequences::None => 4,
        Sequences::Sparse => 8,
    }
}

/// Walks the records of a payload; ends after the first error.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    sequences: Sequences,
    bytes: &'a [u8],
    at: usize,
    previous: Seq,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(sequences: Sequences, previous: Seq, bytes: &'a [u8]) -> Walk<'a> {
        Walk::resume(sequences, previous, bytes, 0)
    }

    /// Goes on at `at`, where the next record begins, behind the one with sequence `previous`.
    pub(crate) fn resume(sequences: Sequences, previous: Seq, bytes: &'a [u8], at: usize) -> Walk<'a> {
        Walk { sequences, bytes, at, previous }
    }

    fn step(&mut self) -> Result<Placed<'a>, PayloadError> {
        let at = self.at;
        let mut reader = Reader::new(&self.bytes[at..]);
        let length = reader.u32().map_err(|_| PayloadError::Length)? as usize;
        let step = match self.sequences {
            Sequences::Dense | Sequences::None => 1,
            Sequences::Sparse => reader.u32().map_err(|_| PayloadError::Length)?,
        };
        let record = reader.bytes(length).map_err(|_| PayloadError::Length)?;
        let seq = self.previous.checked_add(u64::from(step)).filter(|_| step > 0).ok_or(PayloadError::Step)?;
        self.previous = seq;
        self.at = self.bytes.len() - reader.remaining();
        Ok(Placed { seq, at, end: self.at, record })
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Placed<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.at = self.bytes.len();
        }
        Some(step)
    }
}

/// The sequence of a payload's last record, once every length and step was looked at.
pub(crate) fn check(sequences: Sequences, previous: Seq, records: u32, bytes: &[u8]) -> Result<Seq, PayloadError> {
    let (mut count, mut last) = (0u32, previous);
    for placed in Walk::new(sequences, previous, bytes) {
        last = placed?.seq;
        count = count.checked_add(1).ok_or(PayloadError::Count)?;
    }
    if count == records { Ok(last) } else { Err(PayloadError::Count) }
}

/// Lays records out.
#[derive(Debug)]
pub struct PayloadBuilder {
    sequences: Sequences,
    previous: Seq,
    last: Seq,
    records: u32,
    /// Where the last record's header stands.
    #[cfg(feature = "http")]
    last_at: usize,
    bytes: BytesMut,
}

/// A payload is held until it is durable, and charged for what it is long: in a buffer that is longer by more than a quarter of
/// it, and by this, it is copied out.
const SLACK_BYTES: usize = 256;

impl PayloadBuilder {
    /// An empty payload behind `previous`.
    #[must_use]
    pub fn new(sequences: Sequences, previous: Seq) -> PayloadBuilder {
        PayloadBuilder {
            sequences,
            previous,
            last: previous,
            records: 0,
            #[cfg(feature = "http")]
            last_at: 0,
            bytes: BytesMut::new(),
        }
    }

    /// Has room for records of so many bytes in all, headers included: it need not grow for them.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Adds the record with sequence `seq`.
    ///
    /// # Errors
    /// [`PayloadError::Step`] when it is not the next one (dense), not higher, or 2^32 or more higher (sparse);
    /// [`PayloadError::Length`] for a record of 4 GiB or more. The payload is unchanged.
    pub fn push(&mut self, seq: Seq, record: &[u8]) -> Result<(), PayloadError> {
        let length = u32::try_from(record.len()).map_err(|_| PayloadError::Length)?;
        let step = u32::try_from(seq.since(self.last)).map_err(|_| PayloadError::Step)?;
        let fits = if self.sequences == Sequences::Sparse { step > 0 } else { step == 1 };
        if !fits {
            return Err(PayloadError::Step);
        }
        self.bytes.reserve(header_bytes(self.sequences) + record.len());
        #[cfg(feature = "http")]
        {
            self.last_at = self.bytes.len();
        }
        self.bytes.put_u32_le(length);
        if self.sequences == Sequences::Sparse {
            self.bytes.put_u32_le(step);
        }
        self.bytes.put_slice(record);
        self.last = seq;
        self.records += 1;
        Ok(())
    }

    /// The record added last goes on with these bytes.
    #[cfg(feature = "http")]
    pub(crate) fn lengthen(&mut self, more: &[u8]) -> Result<(), PayloadError> {
        let so_far = self.bytes.len() - self.last_at - header_bytes(self.sequences);
        let length = u32::try_from(so_far + more.len()).map_err(|_| PayloadError::Length)?;
        self.bytes[self.last_at..][..4].copy_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// How long the payload is so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(all(test, feature = "http"))]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The finished SEND.
    #[must_use]
    pub fn finish(self) -> super::Send {
        let previous = if self.sequences == Sequences::None { Seq::ZERO } else { self.previous };
        super::Send { previous, records: self.records, payload: fitted(self.bytes).freeze().into() }
    }
}

fn fitted(bytes: BytesMut) -> BytesMut {
    let is_long = bytes.capacity() - bytes.len() > bytes.len() / 4 + SLACK_BYTES;
    if is_long { BytesMut::from(&bytes[..]) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number)
    }

    #[test]
    fn golden_bytes() {
        let mut dense = PayloadBuilder::new(Sequences::Dense, seq(9));
        dense.push(seq(10), b"ab").unwrap();
        dense.push(seq(11), b"").unwrap();
        assert_eq!(&dense.finish().payload[..], b"\x02\0\0\0ab\0\0\0\0");
        let mut sparse = PayloadBuilder::new(Sequences::Sparse, seq(9));
        sparse.push(seq(500), b"ab").unwrap();
        assert_eq!(&sparse.finish().payload[..], b"\x02\0\0\0\xeb\x01\0\0ab");
    }

    #[test]
    fn what_is_laid_out_is_found_again_and_nothing_else_passes() {
        let mut sparse = PayloadBuilder::new(Sequences::Sparse, seq(9));
        sparse.push(seq(12), b"one").unwrap();
        sparse.push(seq(40), b"two").unwrap();
        let send = sparse.finish();
        let found: Vec<_> = Walk::new(Sequences::Sparse, seq(9), &send.payload).map(|placed| placed.unwrap()).collect();
        assert_eq!(
            found.iter().map(|p| (p.seq.get(), p.record)).collect::<Vec<_>>(),
            [(12, &b"one"[..]), (40, b"two")]
        );
        assert_eq!((found[0].at, found[0].end, found[1].end), (0, 11, 22));
        assert_eq!(check(Sequences::Sparse, seq(9), 2, &send.payload), Ok(seq(40)));
        assert_eq!(check(Sequences::Sparse, seq(9), 1, &send.payload), Err(PayloadError::Count));
        assert_eq!(check(Sequences::Sparse, Seq::new(u64::MAX - 2), 2, &send.payload), Err(PayloadError::Step));
        for cut in 1..send.payload.len() {
            if cut != 11 {
                assert_eq!(
                    check(Sequences::Sparse, seq(9), 2, &send.payload[..cut]),
                    Err(PayloadError::Length),
                    "{cut}"
                );
            }
        }
        assert_eq!(check(Sequences::Sparse, seq(9), 1, b"\0\0\0\0\0\0\0\0"), Err(PayloadError::Step));
        assert_eq!(check(Sequences::Dense, seq(9), 1, b"\xff\xff\xff\xff"), Err(PayloadError::Length));
    }

    /// The buffer had doubled, and was held as long as its records: two bytes for each that was charged.
    #[test]
    fn a_payload_stands_in_little_more_than_its_length() {
        for records in [1, 3, 70, 8193] {
            let mut payload = PayloadBuilder::new(Sequences::Dense, Seq::ZERO);
            (1..=records).for_each(|at| payload.push(seq(at), &[7; 209]).unwrap());
            let bytes = fitted(payload.bytes);
            assert_eq!(bytes.len() as u64, records * 213);
            assert!(bytes.capacity() <= bytes.len() * 5 / 4 + SLACK_BYTES, "{} for {records}", bytes.capacity());
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_record_can_come_in_pieces() {
        for sequences in [Sequences::Dense, Sequences::Sparse] {
            let lay_out = |pieces: &[&[u8]]| {
                let mut payload = PayloadBuilder::new(sequences, seq(4));
                payload.push(seq(5), b"one").unwrap();
                payload.push(seq(6), pieces[0]).unwrap();
                pieces[1..].iter().for_each(|piece| payload.lengthen(piece).unwrap());
                payload.finish()
            };
            assert_eq!(lay_out(&[b"", b"t", b"wo"]), lay_out(&[b"two"]));
        }
    }

    #[test]
    fn a_step_that_does_not_fit_is_refused() {
        let mut dense = PayloadBuilder::new(Sequences::Dense, seq(0));
        assert_eq!(dense.push(seq(2), b""), Err(PayloadError::Step));
        let mut sparse = PayloadBuilder::new(Sequences::Sparse, seq(5));
        assert_eq!(sparse.push(seq(5), b""), Err(PayloadError::Step));
        assert_eq!(sparse.push(seq(5 + (1 << 32)), b""), Err(PayloadError::Step));
        assert_eq!(sparse.records(), 0);
    }
}
