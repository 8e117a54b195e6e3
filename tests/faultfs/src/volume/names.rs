//! Directories twice: as they are seen, and as they would be after a power loss.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::Ino;
use crate::choice::Dice;

/// One directory.
pub(super) type Dir = BTreeMap<OsString, Ino>;

/// All names of a volume.
#[derive(Default)]
pub(super) struct Names {
    seen: BTreeMap<Ino, Dir>,
    durable: BTreeMap<Ino, Dir>,
    /// Changes that no flush covers yet, in the order in which they were made.
    pending: Vec<Change>,
}

/// What happens to names as a whole or not at all: a rename is two of them.
struct Change(Vec<(Ino, OsString, Option<Ino>)>);

impl Names {
    pub(super) fn get(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        self.seen.get(&dir)?.get(name).copied()
    }

    pub(super) fn dir(&self, dir: Ino) -> Option<&Dir> {
        self.seen.get(&dir)
    }

    /// How many names a file has.
    pub(super) fn links(&self, ino: Ino) -> usize {
        self.seen.values().flat_map(|dir| dir.values()).filter(|named| **named == ino).count()
    }

    /// An empty directory for this inode. That it is one is not a name's business and survives.
    pub(super) fn add_dir(&mut self, ino: Ino) {
        self.seen.insert(ino, Dir::new());
        self.durable.insert(ino, Dir::new());
    }

    /// Changes names, all of them or, after a power loss, none.
    pub(super) fn change(&mut self, sets: Vec<(Ino, OsString, Option<Ino>)>) {
        let change = Change(sets);
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    /// Names in this directory survive from now on, with those changes elsewhere that they followed from.
    pub(super) fn flush(&mut self, dir: Ino) {
        self.flush_where(BTreeSet::from([dir]), |_| false);
    }

    /// Names of this file survive from now on.
    pub(super) fn flush_names_of(&mut self, ino: Ino) {
        self.flush_where(BTreeSet::new(), |change| change.0.iter().any(|(_, _, to)| *to == Some(ino)));
    }

    /// Power was lost: of the changes that no flush covered, the first few survive. Returns how many did, and did not.
    pub(super) fn crash(&mut self, dice: &mut Dice) -> (usize, usize) {
        let pending = std::mem::take(&mut self.pending);
        let kept = dice.prefix(pending.len());
        for change in &pending[..kept] {
            change.apply(&mut self.durable);
        }
        self.seen = self.durable.clone();
        (kept, pending.len() - kept)
    }

    /// Every inode that has a name, or may have one after a power loss.
    pub(super) fn reachable(&self) -> BTreeSet<Ino> {
        let named = self.seen.values().chain(self.durable.values()).flat_map(|dir| dir.values());
        let pending = self.pending.iter().flat_map(|change| &change.0).filter_map(|(_, _, to)| to.as_ref());
        named.chain(pending).copied().collect()
    }

    /// Forgets a directory that has no name any more.
    pub(super) fn forget_dir(&mut self, ino: Ino) {
        self.seen.remove(&ino);
        self.durable.remove(&ino);
    }

    /// Makes durable what touches one of `dirs` or is `wanted`, and everything before it in the directories that it
    /// touches: a change is never durable without those it builds on.
    fn flush_where(&mut self, mut dirs: BTreeSet<Ino>, wanted: impl Fn(&Change) -> bool) {
        let mut flushed = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if wanted(&change) || change.0.iter().any(|(dir, _, _)| dirs.contains(dir)) {
                dirs.extend(change.0.iter().map(|(dir, _, _)| *dir));
                flushed.push(change);
            } else {
                left.push(change);
            }
        }
        flushed.iter().rev().for_each(|change| change.apply(&mut self.durable));
        left.reverse();
        self.pending = left;
    }
}

impl Change {
    fn apply(&self, dirs: &mut BTreeMap<Ino, Dir>) {
        for (dir, name, to) in &self.0 {
            let Some(dir) = dirs.get_mut(dir) else { continue };
            match to {
                Some(ino) => _ = dir.insert(name.clone(), *ino),
                None => _ = dir.remove(name),
            }
        }
    }
}
