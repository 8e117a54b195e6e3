//! One way a power loss can go: which volatile writes, sizes and names are there afterwards.

use std::fmt;
use std::ops::Range;

use super::image::{Image, Ino};
use super::op::random_units;
use super::pages::PAGE_BYTES;
use super::platter::{NameWhat, Platter, Volatile, What};
use super::rng::Rng;

/// What becomes of everything volatile. `Debug` output is Rust, to be pasted into a test.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CrashChoice {
    pub names: Names,
    pub sizes: Sizes,
    pub writes: Writes,
}

/// What becomes of created, renamed and removed names that were not synced. Their order holds, as ext4's and xfs's
/// journals hold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Names {
    /// The first so many changes happened.
    First(usize),
    /// As `First`, and the next change, a rename, is half done: the file has both names.
    HalfDone(usize),
    /// One of these.
    Random(u64),
}

/// What becomes of lengths that were not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sizes {
    /// They follow the writes and allocations that happened.
    AsWritten,
    /// Every file ends where it durably ended.
    Lost,
    /// Every file is as long as it was; what was not written is zeros.
    Kept,
}

/// What becomes of volatile writes and allocations, told by their place in the order they were made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Writes {
    /// Those with their bit set happened; only for up to 64 of them.
    Subset(u64),
    /// The first so many.
    First(usize),
    /// This one.
    Only(usize),
    /// All but this one.
    AllBut(usize),
    /// This one has a fate of its own.
    One { index: usize, fate: Fate, others: Others },
    /// Each has a random fate; garbage is rare.
    Random(u64),
    /// Each has its own; lost beyond the end of the list.
    Each(Vec<Fate>),
}

/// What happened to the other writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Others {
    None,
    /// Those made before it, and none after.
    Earlier,
    All,
}

/// What becomes of one write. A unit is a sector (512) or a page (4096), at multiples of its size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    Lost,
    Kept,
    /// Only the first bytes.
    Prefix(u64),
    /// All but the first bytes.
    Suffix(u64),
    /// A random choice of units.
    Scattered {
        unit: u64,
        seed: u64,
    },
    /// All, but one unit (counted from the write's start) holds something else.
    Garbage {
        unit: u64,
        index: u64,
        fill: Fill,
    },
    /// It landed where another volatile write belongs, and not at its own place.
    Misdirected {
        onto: usize,
    },
}

/// What stands in a garbage unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fill {
    Zeros,
    Ones,
    Noise(u64),
    /// What another file holds at the same offset, the newest first; noise if there is none.
    Stale,
}

impl fmt::Debug for CrashChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = |fate: &Fate| format!("Fate::{fate:?}").replace("fill: ", "fill: Fill::");
        write!(f, "CrashChoice {{ names: Names::{:?}, sizes: Sizes::{:?}, writes: Writes::", self.names, self.sizes)?;
        match &self.writes {
            Writes::One { index, fate: one, others } => {
                write!(f, "One {{ index: {index}, fate: {}, others: Others::{others:?} }} }}", fate(one))
            }
            Writes::Each(fates) => {
                write!(f, "Each(vec![{}]) }}", fates.iter().map(fate).collect::<Vec<_>>().join(", "))
            }
            simple => write!(f, "{simple:?} }}"),
        }
    }
}

impl CrashChoice {
    /// Nothing volatile survived.
    pub fn lost() -> CrashChoice {
        CrashChoice { names: Names::First(0), sizes: Sizes::AsWritten, writes: Writes::First(0) }
    }

    /// Everything volatile survived.
    pub fn kept() -> CrashChoice {
        CrashChoice { names: Names::First(usize::MAX), sizes: Sizes::AsWritten, writes: Writes::First(usize::MAX) }
    }

    /// Anything.
    pub fn random(seed: u64) -> CrashChoice {
        let sizes = match Rng::nth(seed, 1).below(8) {
            0 => Sizes::Lost,
            1 => Sizes::Kept,
            _ => Sizes::AsWritten,
        };
        CrashChoice { names: Names::Random(seed), sizes, writes: Writes::Random(seed) }
    }

    /// The fate of the write at this place.
    pub fn fate(&self, index: usize) -> Fate {
        let when = |kept: bool| if kept { Fate::Kept } else { Fate::Lost };
        match &self.writes {
            Writes::Subset(bits) => when(index < 64 && bits >> index & 1 == 1),
            Writes::First(count) => when(index < *count),
            Writes::Only(only) => when(index == *only),
            Writes::AllBut(lost) => when(index != *lost),
            Writes::One { index: one, fate, .. } if index == *one => *fate,
            Writes::One { others: Others::None, .. } => Fate::Lost,
            Writes::One { others: Others::All, .. } => Fate::Kept,
            Writes::One { index: one, others: Others::Earlier, .. } => when(index < *one),
            Writes::Random(seed) => Fate::random(&mut Rng::nth(*seed, 2 + index as u64)),
            Writes::Each(fates) => fates.get(index).copied().unwrap_or(Fate::Lost),
        }
    }

    /// How many of so many changes of names happened, and whether the next is half done.
    pub(super) fn names_kept(&self, platter: &Platter) -> (usize, bool) {
        let changes = platter.names.len();
        let (kept, half) = match self.names {
            Names::First(count) => (count, false),
            Names::HalfDone(count) => (count, true),
            Names::Random(seed) => {
                let mut rng = Rng::nth(seed, 0);
                (rng.below(changes as u64 + 1) as usize, rng.one_in(4))
            }
        };
        let is_rename = |change: usize| matches!(platter.names[change].what, NameWhat::Rename { .. });
        (kept.min(changes), half && kept < changes && is_rename(kept))
    }

    /// What the disk holds after the power loss.
    pub(super) fn image(&self, platter: &Platter) -> Image {
        let mut image = platter.durable.clone();
        let (kept, half) = self.names_kept(platter);
        for change in &platter.names[..kept] {
            change.what.apply(image.names_mut(), false);
        }
        if half {
            platter.names[kept].what.apply(image.names_mut(), true);
        }
        for (index, write) in platter.writes.iter().enumerate() {
            self.fate(index).apply(write, platter, &mut image);
        }
        if self.sizes != Sizes::AsWritten {
            self.set_sizes(platter, &mut image);
        }
        image
    }

    fn set_sizes(&self, platter: &Platter, image: &mut Image) {
        for write in &platter.writes {
            match self.sizes {
                Sizes::Lost => {
                    let durable = platter.durable.file(write.file).map_or(0, |file| file.len());
                    if image.file(write.file).is_some_and(|file| file.len() > durable) {
                        image.file_mut(write.file).set_len(durable);
                    }
                }
                Sizes::Kept => image.file_mut(write.file).extend_to(write.size()),
                Sizes::AsWritten => {}
            }
        }
    }
}

impl Fate {
    fn random(rng: &mut Rng) -> Fate {
        let unit = if rng.one_in(2) { 512 } else { PAGE_BYTES };
        match rng.below(16) {
            0..6 => Fate::Lost,
            6..12 => Fate::Kept,
            12 => Fate::Prefix(rng.below(64) * unit),
            13 => Fate::Suffix(rng.below(64) * unit),
            14 => Fate::Scattered { unit, seed: rng.next() },
            _ => {
                let fill = [Fill::Zeros, Fill::Ones, Fill::Stale, Fill::Noise(rng.next())][rng.below(4) as usize];
                Fate::Garbage { unit, index: rng.below(16), fill }
            }
        }
    }

    fn apply(self, write: &Volatile, platter: &Platter, image: &mut Image) {
        let What::Bytes(data) = &write.what else {
            if self != Fate::Lost {
                write.apply(image);
            }
            return;
        };
        let whole = data.range();
        match self {
            Fate::Lost => {}
            Fate::Kept => write.apply(image),
            Fate::Prefix(bytes) => keep(write, whole.start..(whole.start + bytes).min(whole.end), image),
            Fate::Suffix(bytes) => keep(write, (whole.start + bytes).min(whole.end)..whole.end, image),
            Fate::Scattered { unit, seed } => {
                random_units(whole, unit, seed).into_iter().for_each(|range| keep(write, range, image));
            }
            Fate::Garbage { unit, index, fill } => {
                write.apply(image);
                let start = whole.start / unit * unit + index * unit;
                let range = start.max(whole.start)..(start + unit).min(whole.end);
                let live = write.live.iter().map(|live| live.start.max(range.start)..live.end.min(range.end));
                for range in live.filter(|range| !range.is_empty()) {
                    let bytes = fill.bytes(write.file, range.clone(), image);
                    image.file_mut(write.file).write_bytes(range.start, &bytes);
                }
            }
            Fate::Misdirected { onto } => {
                let Some(onto) = platter.writes.get(onto) else { return };
                let What::Bytes(place) = &onto.what else { return };
                let bytes = data.to_vec();
                let start = place.range().start;
                for live in &onto.live {
                    let part = bytes.get((live.start - start) as usize..).unwrap_or_default();
                    let part = &part[..part.len().min((live.end - live.start) as usize)];
                    image.file_mut(onto.file).write_bytes(live.start, part);
                }
            }
        }
    }
}

/// Applies the part of a write that lies in a range.
fn keep(write: &Volatile, range: Range<u64>, image: &mut Image) {
    let What::Bytes(data) = &write.what else { return };
    for live in &write.live {
        let part = live.start.max(range.start)..live.end.min(range.end);
        if !part.is_empty() {
            image.file_mut(write.file).write(data, part);
        }
    }
}

impl Fill {
    fn bytes(self, file: Ino, range: Range<u64>, image: &Image) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self {
            Fill::Zeros => {}
            Fill::Ones => bytes.fill(0xFF),
            Fill::Noise(seed) => Rng::new(seed).fill(&mut bytes),
            Fill::Stale => {
                let mut others = image.files().rev().filter(|(other, _)| *other != file);
                match others.find(|(_, other)| other.page(range.start / PAGE_BYTES).is_some()) {
                    Some((_, other)) => other.read(range.start, &mut bytes),
                    None => Rng::new(range.start).fill(&mut bytes),
                }
            }
        }
        bytes
    }
}
