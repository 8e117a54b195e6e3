//! What a victim tells: words of one size, each written whole to its standard output.

use super::payload::Identity;

/// One thing that a log has answered, or is being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// The log is open and ends there.
    Opened(u64),
    /// The record is durable, as this frame.
    Acknowledged(u64, Identity),
    Trimming(u64),
    Trimmed(u64),
    Truncating(u64),
    Truncated(u64),
}

pub(crate) const TOLD_BYTES: usize = 48;

impl Told {
    /// Tells it. A pipe takes so little at once or not at all.
    pub(crate) fn tell(self) {
        let none = Identity { life: 0, era: 0, thread: 0, counter: 0 };
        let (kind, lsn, identity) = match self {
            Told::Opened(lsn) => (1u64, lsn, none),
            Told::Acknowledged(lsn, identity) => (2, lsn, identity),
            Told::Trimming(lsn) => (3, lsn, none),
            Told::Trimmed(lsn) => (4, lsn, none),
            Told::Truncating(lsn) => (5, lsn, none),
            Told::Truncated(lsn) => (6, lsn, none),
        };
        let words = [kind, lsn, identity.life, identity.era.into(), identity.thread.into(), identity.counter];
        let mut bytes = [0u8; TOLD_BYTES];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        // Without a parent there is nobody to tell.
        let _ = rustix::io::write(rustix::stdio::stdout(), &bytes);
    }

    pub(crate) fn decode(bytes: &[u8; TOLD_BYTES]) -> Option<Told> {
        let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"));
        let identity = Identity {
            life: word(2),
            era: word(3).try_into().ok()?,
            thread: word(4).try_into().ok()?,
            counter: word(5),
        };
        Some(match word(0) {
            1 => Told::Opened(word(1)),
            2 => Told::Acknowledged(word(1), identity),
            3 => Told::Trimming(word(1)),
            4 => Told::Trimmed(word(1)),
            5 => Told::Truncating(word(1)),
            6 => Told::Truncated(word(1)),
            _ => return None,
        })
    }
}
