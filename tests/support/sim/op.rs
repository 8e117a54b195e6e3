//! What happened to a disk, one entry per step that a crash could tell apart.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::image::Ino;
use super::pages::{Data, FileData};
use super::rng::Rng;

/// The place of an [`Op`] in its journal. Never used again on one disk.
pub type OpNumber = u64;

/// One step.
#[derive(Clone, Debug)]
pub enum Op {
    /// A new empty file; its name is volatile.
    Create { name: Arc<str>, file: Ino },
    /// A volatile change of a name.
    Rename { from: Arc<str>, to: Arc<str> },
    /// A volatile end of a name.
    Remove { name: Arc<str> },
    /// All changes of names so far are durable.
    SyncDir,
    /// The first `kept` volatile changes of names are durable; no later sync makes the others so.
    SyncDirFailed { kept: usize },
    /// The file is at least this long, from its next flush on durably.
    Allocate { file: Ino, bytes: u64 },
    /// Bytes are on their way. From here to its `Done`, any sector may be old or new.
    Write { file: Ino, name: Arc<str>, data: Data, flushed: bool },
    /// The write of that number ended.
    Done { write: OpNumber, landed: Landed, ended: Ended },
    /// Everything that ended for this file is durable.
    Flush { file: Ino },
    /// The first `kept` volatile writes of the file are durable; no later flush makes the others so.
    FlushFailed { file: Ino, kept: usize },
    /// A flush that said yes and did nothing.
    FlushLied { file: Ino },
    /// The page cache was emptied: what a failed flush left behind is durable, or was never written.
    CachesDropped { kept: bool },
    /// Somebody else changed a file, durably. `None`: removed it.
    Damaged { name: Arc<str>, file: Ino, content: Option<Arc<FileData>> },
    /// Processes were killed; what they had in flight ended just before.
    Killed,
    /// What the test saw by then: an acknowledgment, mostly.
    Note(Note),
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// Readers see it; the next flush makes it durable.
    Written,
    /// It is durable.
    Durable,
    /// With an error: readers see what landed, and no flush makes it durable.
    Failed,
}

/// How much of a write reached the file (or the page cache, or the device's cache).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Landed {
    /// All of it.
    Full,
    /// None of it.
    Nothing,
    /// The first bytes, cut to whole sectors.
    Prefix(u64),
    /// A random choice of sectors of 512 bytes, fixed by this seed.
    Scattered(u64),
}

/// Bytes that a device writes as a whole or not at all, at least.
pub const SECTOR_BYTES: u64 = 512;

impl Landed {
    /// About half of it, in the way this seed says.
    pub fn partial(bytes: u64, seed: u64) -> Landed {
        if Rng::new(seed).one_in(2) { Landed::Prefix(bytes / 2) } else { Landed::Scattered(seed) }
    }

    /// The parts of `write` that landed, in order.
    pub fn ranges(self, write: Range<u64>) -> Vec<Range<u64>> {
        let bytes = write.end - write.start;
        match self {
            Landed::Full => vec![write],
            Landed::Nothing => Vec::new(),
            Landed::Prefix(bytes_kept) => {
                let end = write.start + bytes_kept.min(bytes) / SECTOR_BYTES * SECTOR_BYTES;
                Some(write.start..end).filter(|range| !range.is_empty()).into_iter().collect()
            }
            Landed::Scattered(seed) => random_units(write, SECTOR_BYTES, seed),
        }
    }
}

/// A random choice of `unit`-sized pieces of a range, adjacent ones joined.
pub fn random_units(range: Range<u64>, unit: u64, seed: u64) -> Vec<Range<u64>> {
    let mut rng = Rng::new(seed);
    let mut chosen: Vec<Range<u64>> = Vec::new();
    let mut at = range.start;
    let mut coins = 0u64;
    let mut index = 0;
    while at < range.end {
        let end = ((at / unit + 1) * unit).min(range.end);
        if index % 64 == 0 {
            coins = rng.next();
        }
        if coins >> (index % 64) & 1 == 1 {
            match chosen.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => chosen.push(at..end),
            }
        }
        index += 1;
        at = end;
    }
    chosen
}

/// What a test writes between the operations.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Note {
    /// A number: an acknowledged Lsn, mostly.
    Number(u64),
    /// Anything else.
    Text(Arc<str>),
}

impl From<u64> for Note {
    fn from(number: u64) -> Note {
        Note::Number(number)
    }
}

impl From<String> for Note {
    fn from(text: String) -> Note {
        Note::Text(text.into())
    }
}

impl From<&str> for Note {
    fn from(text: &str) -> Note {
        Note::Text(text.into())
    }
}

impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Op::Create { name, file } => (name, file).hash(state),
            Op::Rename { from, to } => (from, to).hash(state),
            Op::Remove { name } => name.hash(state),
            Op::SyncDir | Op::Killed => {}
            Op::SyncDirFailed { kept } => kept.hash(state),
            Op::Allocate { file, bytes } => (file, bytes).hash(state),
            Op::Write { file, name, data, flushed } => (file, name, data, flushed).hash(state),
            Op::Done { write, landed, ended } => (write, landed, ended).hash(state),
            Op::Flush { file } | Op::FlushLied { file } => file.hash(state),
            Op::FlushFailed { file, kept } => (file, kept).hash(state),
            Op::CachesDropped { kept } => kept.hash(state),
            Op::Damaged { name, file, content } => {
                (name, file, content.as_ref().map(|content| content.to_vec())).hash(state);
            }
            Op::Note(note) => note.hash(state),
        }
    }
}
