//! What is remembered between two looks: who was there, who was missed. All of it may be lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Candidate;
use super::config::{BadFiles, FilesBy};
use super::file::FileId;
use super::scan::Index;
use crate::ledger::{InputError, PartKey, Parts};

/// Where a directory is never quiet, so many looks that saw all of it must miss a file before it is gone.
const GONE_LOOKS_MIN: u32 = 16;

/// And at least this long.
const GONE_RESTLESS_MIN: Duration = Duration::from_secs(600);

/// A plan that follows one which was cut off uses the same look again, until that has taken this much more time: a backlog of
/// a million files is not looked through for every batch of it.
const LOOK_COST_ONE_IN: u32 = 10;

/// But not for longer than this.
const LOOK_AGE_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Memory {
    pub(super) index: Arc<Index>,
    /// When that was, and how long it took.
    pub(super) looked: Option<(Instant, Duration)>,
    /// The file the next plan begins with, in the order of age.
    pub(super) next: Option<FileId>,
    /// Files with bytes in no batch: the size that was seen.
    unread: HashMap<FileId, u64>,
    /// Files of the ledger that looks did not find which saw all there is: since when, how many looks.
    missed: HashMap<FileId, (Instant, u32)>,
    /// Why nothing is planned any more.
    pub(super) flush_failed: Option<InputError>,
    pub(super) stats: DirectoryStats,
}

/// What was seen of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DirectoryStats {
    /// Looks at all files so far.
    pub looks: u64,
    /// Of these, during how many something changed: they cannot tell what is gone.
    pub restless_looks: u64,
    /// Files at the last look, also those that are not begun.
    pub files: u64,
    /// Directories at the last look that were entered, itself among them.
    pub directories: u64,
    /// Directories at the last look that were not, as the configuration says.
    pub unentered: u64,
    /// Symbolic links at the last look: not followed.
    pub links: u64,
    /// Pipes, sockets, devices at the last look, and mounted files that would not be begun.
    pub others: u64,
    /// What the last plan skipped for trouble.
    pub skipped: u64,
    /// The last trouble that was skipped, of the last plan.
    pub trouble: Option<String>,
    /// Files that vanished before all of them was in batches.
    pub vanished_files: u64,
    /// The bytes of these that were in no batch: lost to the batches.
    pub vanished_bytes: u64,
}

impl Memory {
    pub(super) fn saw(&mut self, index: &Arc<Index>, begin: Instant) {
        let stats = &mut self.stats;
        stats.looks += 1;
        stats.restless_looks += u64::from(!index.is_quiet);
        (stats.files, stats.directories) = (index.files.len() as u64, index.directories() as u64);
        stats.unentered = index.unentered_count() as u64;
        (stats.links, stats.others) = (index.links, index.others);
        self.index = Arc::clone(index);
        self.looked = Some((Instant::now(), begin.elapsed()));
    }

    /// The last look, where the plan before left some of what it saw. Also a search for one file looks, and goes on where a plan
    /// must stop.
    pub(super) fn still_good(&self, bad_files: BadFiles) -> Option<Arc<Index>> {
        let is_allowed = self.index.is_complete || bad_files == BadFiles::Skip;
        let (at, took) = self.looked.filter(|_| self.next.is_some() && is_allowed)?;
        (at.elapsed() < (took * LOOK_COST_ONE_IN).min(LOOK_AGE_MAX)).then(|| Arc::clone(&self.index))
    }

    /// Counts what vanished before it was in batches; says what the ledger may forget.
    pub(super) fn gone(
        &mut self,
        index: &Index,
        known: &dyn Parts,
        candidates: &[Candidate],
        by: FilesBy,
        after: Duration,
    ) -> Vec<PartKey> {
        let is_proof = index.is_complete && index.is_quiet;
        let now = Instant::now();
        let mut unread: HashMap<FileId, u64> = candidates.iter().map(|c| (c.id, c.size)).collect();
        for (id, size) in self.unread.drain().filter(|(id, _)| !index.files.contains_key(id)) {
            let left = size - known.get(&id.key(by)).map_or(0, |part| part.allocated.min(size));
            if left > 0 && is_proof {
                self.stats.vanished_files += 1;
                self.stats.vanished_bytes += left;
            } else if left > 0 {
                unread.insert(id, size);
            }
        }
        self.unread = unread;

        if !index.is_complete {
            // Who is not in it may stand where it could not look: it counts for nobody's absence.
            self.missed.retain(|id, _| !index.files.contains_key(id));
            return Vec::new();
        }
        let mut gone = Vec::new();
        let mut missed = HashMap::new();
        known.each(&mut |key, part| {
            let Some(id) = FileId::of_key(key).filter(|id| !index.files.contains_key(id)) else { return };
            let (since, looks) = self.missed.get(&id).copied().unwrap_or((now, 0));
            let looks = looks.saturating_add(1);
            missed.insert(id, (since, looks));
            let time = now - since;
            let is_worn_out = looks >= GONE_LOOKS_MIN && time >= (after * 10).max(GONE_RESTLESS_MIN);
            let is_gone = time >= after && (index.is_quiet || is_worn_out);
            if is_gone && part.committed == part.allocated {
                gone.push(key.clone());
            }
        });
        self.missed = missed;
        // It is not forgotten because less is looked at than when it was begun.
        gone.retain(|key| known.label(key).is_none_or(|label| !index.is_out_of_sight(&label)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ledger::Part;

    fn key() -> PartKey {
        PartKey::new(Bytes::from_static(&[2, 1, 0, 0, 0, 0, 0, 0, 0])).unwrap()
    }

    struct One(PartKey);

    impl Parts for One {
        fn get(&self, _: &PartKey) -> Option<Part> {
            None
        }
        fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
            take(&self.0, &Part { allocated: 1, digest: 0, committed: 1 });
        }
    }

    /// A search for one file looks on where a plan must not.
    #[test]
    fn a_look_that_met_trouble_is_used_again_only_where_trouble_is_skipped() {
        let mut memory = Memory { next: FileId::of_key(&key()), ..Memory::default() };
        for is_complete in [true, false] {
            let mut index = Index::untroubled();
            index.is_complete = is_complete;
            memory.saw(&Arc::new(index), Instant::now() - Duration::from_secs(3600));
            assert!(memory.still_good(BadFiles::Skip).is_some());
            assert_eq!(memory.still_good(BadFiles::Stop).is_some(), is_complete);
        }
    }

    #[test]
    fn where_no_look_is_quiet_many_looks_and_much_time_tell_what_is_gone() {
        let key = key();
        let id = FileId::of_key(&key).unwrap();
        assert_eq!(id.key(FilesBy::Inode), key);
        let mut index = Index::untroubled();
        index.is_quiet = false;
        let long_ago = Instant::now() - GONE_RESTLESS_MIN;
        let cases = [
            (long_ago, GONE_LOOKS_MIN, 1, true),
            (long_ago, GONE_LOOKS_MIN - 1, 1, false),
            (Instant::now(), 1000, 1, false),
            (long_ago, 1000, 100, false),
        ];
        for (since, looks, gone_after_secs, expected) in cases {
            let mut memory = Memory::default();
            memory.missed.insert(id, (since, looks - 1));
            let after = Duration::from_secs(gone_after_secs);
            let gone = memory.gone(&index, &One(key.clone()), &[], FilesBy::Inode, after);
            assert_eq!(!gone.is_empty(), expected, "{looks} looks, {after:?}");
        }
    }

    #[test]
    fn looks_that_could_not_see_all_prove_nothing_together() {
        let key = key();
        let id = FileId::of_key(&key).unwrap();
        let look = |memory: &mut Memory, is_complete| {
            let mut index = Index::untroubled();
            (index.is_complete, index.is_quiet) = (is_complete, false);
            memory.gone(&index, &One(key.clone()), &[], FilesBy::Inode, Duration::ZERO)
        };
        let mut memory = Memory::default();
        memory.missed.insert(id, (Instant::now() - GONE_RESTLESS_MIN, 0));
        for _ in 0..GONE_LOOKS_MIN - 1 {
            assert!(look(&mut memory, false).is_empty());
        }
        assert!(look(&mut memory, true).is_empty(), "one look has missed it");
        for _ in 0..GONE_LOOKS_MIN - 2 {
            assert!(look(&mut memory, true).is_empty());
        }
        assert_eq!(
            look(&mut memory, true),
            std::slice::from_ref(&key),
            "what was counted before is not forgotten either"
        );
    }
}
