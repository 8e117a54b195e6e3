//! Whose directory it is: the file `_ledger`.
//!
//! ```text
//! seawall outputs 1
//! ledger 9c1185a5c5e9fc54612808977ee8f548
//! extension out
//! crc32c 0a1b2c3d                              of the lines before it
//! ```
//!
//! The extension is written down because another one would hide what is there: a batch that runs again would be stored
//! twice.

use super::names;
use crate::codec::crc32c;
use crate::types::LedgerId;

/// Longer than any owner is.
pub(super) const BYTES_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) ledger: LedgerId,
    pub(super) extension: String,
}

impl Owner {
    pub(super) fn encode(&self) -> String {
        let told = format!("seawall outputs 1\nledger {}\nextension {}\n", self.ledger, self.extension);
        format!("{told}crc32c {:08x}\n", crc32c(told.as_bytes()))
    }

    /// `None`: not what [`Owner::encode`] writes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Owner> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines().skip(1);
        let ledger = u128::from_str_radix(lines.next()?.strip_prefix("ledger ")?, 16).ok()?;
        let extension = lines.next()?.strip_prefix("extension ")?.to_owned();
        let owner = Owner { ledger: LedgerId::new(ledger), extension };
        // Encoding it again checks every byte, the checksum's as well.
        (names::is_extension(&owner.extension) && owner.encode().as_bytes() == bytes).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_round_trips_and_every_changed_byte_is_noticed() {
        let owner = Owner { ledger: LedgerId::new(0xabcd << 100), extension: "x".repeat(names::EXTENSION_BYTES_MAX) };
        let bytes = owner.encode().into_bytes();
        assert!(bytes.len() <= BYTES_MAX);
        assert_eq!(Owner::decode(&bytes), Some(owner));
        for at in 0..bytes.len() {
            assert_eq!(Owner::decode(&bytes[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                assert_eq!(Owner::decode(&other), None, "byte {at}, bit {bit}");
            }
        }
        assert_eq!(Owner::decode(&[&bytes[..], b"\n"].concat()), None);
    }
}
