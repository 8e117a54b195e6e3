//! Which choices are worth trying with what is volatile at one moment.
//!
//! Names and writes are independent, so the plans of the writes are made for every outcome of the names, over the
//! writes to files that have a name then; any other write cannot show.

use std::collections::BTreeSet;

use super::choice::{CrashChoice, Fate, Fill, Names, Others, Sizes, Writes};
use super::crash::CrashOptions;
use super::image::Ino;
use super::op::SECTOR_BYTES;
use super::pages::PAGE_BYTES;
use super::platter::{NameWhat, Platter, What};
use super::rng::Rng;

/// The choices of one moment; no two alike by construction, though some may leave equal disks.
pub fn choices(platter: &Platter, options: &CrashOptions) -> Vec<CrashChoice> {
    let mut all = Vec::new();
    let mut names = platter.durable.names().clone();
    for kept in 0..=platter.names.len() {
        let visible: BTreeSet<Ino> = names.values().copied().collect();
        Plans { platter, options, names: Names::First(kept), visible, all: &mut all }.make();
        let Some(change) = platter.names.get(kept) else { break };
        if options.half_done_renames && matches!(change.what, NameWhat::Rename { .. }) {
            let mut both = names.clone();
            change.what.apply(&mut both, true);
            let visible = both.values().copied().collect();
            Plans { platter, options, names: Names::HalfDone(kept), visible, all: &mut all }.make();
        }
        change.what.apply(&mut names, false);
    }
    all
}

struct Plans<'a> {
    platter: &'a Platter,
    options: &'a CrashOptions,
    names: Names,
    visible: BTreeSet<Ino>,
    all: &'a mut Vec<CrashChoice>,
}

impl Plans<'_> {
    fn make(mut self) {
        let writes = self.platter.writes.iter().enumerate();
        let shown: Vec<usize> =
            writes.filter(|(_, write)| self.visible.contains(&write.file)).map(|(index, _)| index).collect();
        self.subsets(&shown);
        if self.options.sizes && shown.iter().any(|index| self.grows(*index)) {
            self.add(Sizes::Lost, Writes::First(usize::MAX));
            self.add(Sizes::Kept, Writes::First(0));
            shown.iter().filter(|_| shown.len() > 1).for_each(|index| {
                self.add(Sizes::Kept, Writes::AllBut(*index));
                self.add(Sizes::Kept, Writes::Only(*index));
            });
        }
        let torn = shown.iter().rev().filter(|index| matches!(self.platter.writes[**index].what, What::Bytes(_)));
        let mut torn: Vec<usize> = torn.copied().collect();
        torn.sort_by_key(|index| !self.platter.writes[*index].in_flight);
        torn.truncate(self.options.torn_writes);
        for index in torn {
            self.tear(index, &shown);
        }
    }

    fn add(&mut self, sizes: Sizes, writes: Writes) {
        self.all.push(CrashChoice { names: self.names, sizes, writes });
    }

    fn grows(&self, index: usize) -> bool {
        let write = &self.platter.writes[index];
        write.size() > self.platter.durable.file(write.file).map_or(0, |file| file.len())
    }

    fn subsets(&mut self, shown: &[usize]) {
        let count = shown.len();
        let last = shown.last().copied().unwrap_or(0);
        if count <= self.options.exhaustive_up_to.min(63) && last < 64 {
            for bits in 0..1u64 << count {
                let spread = |all: u64, (place, index): (usize, &usize)| all | (bits >> place & 1) << index;
                self.add(Sizes::AsWritten, Writes::Subset(shown.iter().enumerate().fold(0, spread)));
            }
            return;
        }
        self.add(Sizes::AsWritten, Writes::First(0));
        for (place, index) in shown.iter().enumerate() {
            self.add(Sizes::AsWritten, Writes::First(index + 1));
            // Dropping the last is the prefix before it; the first alone is the first prefix.
            if place + 1 < count {
                self.add(Sizes::AsWritten, Writes::AllBut(*index));
            }
            if place > 0 {
                self.add(Sizes::AsWritten, Writes::Only(*index));
            }
        }
        for index in 0..self.options.random_subsets as u64 {
            let seed = Rng::nth(self.options.seed, self.all.len() as u64 + index).next();
            self.add(Sizes::AsWritten, Writes::Random(seed));
        }
    }

    /// The write at `index` in pieces, with none, the earlier and all of the others.
    fn tear(&mut self, index: usize, shown: &[usize]) {
        let write = &self.platter.writes[index];
        let What::Bytes(data) = &write.what else { return };
        let range = data.range();
        let bytes = range.end - range.start;
        let mut rng = Rng::nth(self.options.seed, write.number);
        let mut fates = Vec::new();
        for cut in cuts(bytes, self.options.cuts_per_write) {
            fates.extend([Fate::Prefix(cut), Fate::Suffix(cut)]);
        }
        for unit in [SECTOR_BYTES, PAGE_BYTES] {
            let units = range.end.div_ceil(unit) - range.start / unit;
            // Two units are torn by a cut already; pages of a write that has one page are the write.
            if units > 2 {
                let scatters = 0..self.options.scatters_per_write;
                fates.extend(scatters.map(|_| Fate::Scattered { unit, seed: rng.next() }));
            }
            if units > 1 || unit == SECTOR_BYTES {
                for index in spread(units, self.options.garbage_per_write) {
                    let fills = [Fill::Zeros, Fill::Ones, Fill::Noise(rng.next()), Fill::Stale];
                    fates.extend(fills.map(|fill| Fate::Garbage { unit, index, fill }));
                }
            }
        }
        if self.options.misdirected {
            let is_other =
                |onto: &&usize| **onto != index && matches!(self.platter.writes[**onto].what, What::Bytes(_));
            fates.extend(shown.iter().filter(is_other).map(|onto| Fate::Misdirected { onto: *onto }));
        }
        let (first, last) = (shown.first() == Some(&index), shown.last() == Some(&index));
        for fate in fates {
            self.add(Sizes::AsWritten, Writes::One { index, fate, others: Others::All });
            if !(first && last) {
                self.add(Sizes::AsWritten, Writes::One { index, fate, others: Others::None });
            }
            if !first && !last {
                self.add(Sizes::AsWritten, Writes::One { index, fate, others: Others::Earlier });
            }
        }
    }
}

/// Where to cut a write of so many bytes: at every sector if `at_most` allows it, else at every page, else spread,
/// always near both ends.
fn cuts(bytes: u64, at_most: usize) -> Vec<u64> {
    let inner = |unit: u64| bytes.div_ceil(unit).saturating_sub(1);
    let mut cuts = BTreeSet::new();
    for unit in [SECTOR_BYTES, PAGE_BYTES] {
        cuts.extend(spread(inner(unit), at_most).into_iter().map(|index| (index + 1) * unit));
    }
    cuts.into_iter().collect()
}

/// At most `at_most` of `count` indices, the first and the last among them, the others evenly between.
fn spread(count: u64, at_most: usize) -> Vec<u64> {
    let at_most = (at_most as u64).min(count);
    match at_most {
        0 => Vec::new(),
        1 => vec![count / 2],
        _ => (0..at_most).map(|index| index * (count - 1) / (at_most - 1)).collect(),
    }
}
