//! Records that are refused, and what is kept of them.
//!
//! ```text
//! 0   u64     length of the record
//! 8   32 B    its SHA-256
//! 40  u16     length of the reason in words
//! 42  the reason
//! …   what is kept of the record: all of it, or its first 64 KiB
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// So much is kept of a record that is longer than the limit.
pub(crate) const KEPT_BYTES: usize = 64 << 10;

/// A record that passes by in pieces because it is too long to be kept.
#[derive(Clone, Default)]
pub(crate) struct Passing {
    bytes: u64,
    sum: Sha256,
    kept: BytesMut,
}

impl Passing {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.sum.update(piece);
        let room = KEPT_BYTES - self.kept.len();
        self.kept.put_slice(&piece[..piece.len().min(room)]);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What goes into the stream.
    pub(crate) fn finish(self, reason: &str) -> Bytes {
        encode(self.bytes, self.sum, reason, &self.kept)
    }
}

/// What goes into the stream of a record that is there as a whole.
pub(crate) fn whole(record: &[u8], record_bytes_max: usize, reason: &str) -> Bytes {
    let kept = if record.len() <= record_bytes_max { record } else { &record[..record.len().min(KEPT_BYTES)] };
    encode(record.len() as u64, Sha256::new_with_prefix(record), reason, kept)
}

fn encode(bytes: u64, sum: Sha256, reason: &str, kept: &[u8]) -> Bytes {
    let reason = &reason.as_bytes()[..reason.len().min(1024)];
    let mut out = BytesMut::with_capacity(42 + reason.len() + kept.len());
    out.put_u64_le(bytes);
    out.put_slice(&sum.finalize());
    out.put_u16_le(reason.len() as u16);
    out.put_slice(reason);
    out.put_slice(kept);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_pieces_or_whole_the_same_is_kept() {
        let record: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut passing = Passing::default();
        record.chunks(777).for_each(|piece| passing.update(piece));
        assert_eq!(passing.bytes(), 200_000);
        let kept = passing.finish("too long");
        assert_eq!(kept, whole(&record, 1000, "too long"));
        assert_eq!(kept.len(), 42 + 8 + KEPT_BYTES);
        assert_eq!(whole(b"abc", 1000, "").len(), 42 + 3);
    }
}
