//! One file's bytes twice: as readers see them, and as they would be after a power loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::choice::Dice;
use crate::sparse::{PAGE_BYTES, Sparse};

/// Versions of one sector that are remembered between flushes; of more, the oldest is forgotten and cannot survive.
const VERSIONS_MAX: usize = 4;

/// The content of a file.
#[derive(Clone)]
pub(super) struct FileBytes {
    /// What is lost or kept as a whole: 512 or 4096 bytes.
    sector_bytes: u64,
    seen: Sparse,
    seen_len: u64,
    durable: Sparse,
    durable_len: u64,
    /// What was written to each sector since it was flushed, oldest first, never empty.
    dirty: BTreeMap<u64, Vec<Arc<[u8]>>>,
    /// Every length since the last flush of it.
    lens: Vec<u64>,
    /// Pages that have space: written, or reserved.
    mapped: PageSet,
}

/// What became of a file's unflushed sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fate {
    pub(super) kept: u64,
    pub(super) lost: u64,
}

impl FileBytes {
    pub(super) fn new(sector_bytes: u64) -> FileBytes {
        FileBytes {
            sector_bytes,
            seen: Sparse::default(),
            seen_len: 0,
            durable: Sparse::default(),
            durable_len: 0,
            dirty: BTreeMap::new(),
            lens: Vec::new(),
            mapped: PageSet::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.seen_len
    }

    pub(super) fn mapped_pages(&self) -> u64 {
        self.mapped.count
    }

    /// How many pages a write to, or a reservation of, this range would add.
    pub(super) fn pages_missing(&self, offset: u64, bytes: u64) -> u64 {
        page_range(offset, bytes).filter(|page| !self.mapped.holds(*page)).count() as u64
    }

    pub(super) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let bytes = (self.seen_len.saturating_sub(offset)).min(bytes as u64) as usize;
        let mut read = vec![0; bytes];
        self.seen.read(offset, &mut read);
        read
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.seen.write(offset, bytes);
        self.reserve(offset, bytes.len() as u64);
        self.note_dirty(offset, bytes.len() as u64);
        self.grow(offset + bytes.len() as u64);
    }

    /// Space for a range, without content.
    pub(super) fn reserve(&mut self, offset: u64, bytes: u64) {
        page_range(offset, bytes).for_each(|page| self.mapped.insert(page));
    }

    /// Zeros; the space of whole pages is given back if `release`.
    pub(super) fn zero(&mut self, offset: u64, bytes: u64, release: bool) {
        let end = offset.saturating_add(bytes);
        let there = self.seen.pages_between(offset / PAGE_BYTES as u64, end.div_ceil(PAGE_BYTES as u64));
        self.seen.zero(offset, bytes);
        for page in there {
            let start = (page * PAGE_BYTES as u64).max(offset);
            self.note_dirty(start, ((page + 1) * PAGE_BYTES as u64).min(end) - start);
        }
        if release {
            self.mapped.remove(offset.div_ceil(PAGE_BYTES as u64), end / PAGE_BYTES as u64);
        }
    }

    /// Makes the file at least this long.
    pub(super) fn grow(&mut self, len: u64) {
        if len > self.seen_len {
            self.set_len(len);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.seen_len {
            self.zero(len, (self.seen_len - len).next_multiple_of(PAGE_BYTES as u64) + PAGE_BYTES as u64, true);
        }
        if len != self.seen_len {
            self.seen_len = len;
            self.lens.push(len);
        }
    }

    /// All of it survives from now on.
    pub(super) fn flush(&mut self) {
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            self.settle(sector);
        }
        self.flush_len();
    }

    /// What was written to this range survives from now on, and the length; nothing else.
    pub(super) fn flush_range(&mut self, offset: u64, bytes: u64) {
        for sector in self.sectors(offset, bytes) {
            if self.dirty.remove(&sector).is_some() {
                self.settle(sector);
            }
        }
        self.flush_len();
    }

    /// As a page cache does when write-back failed: the pages stay readable and count as clean, so that the next flush
    /// has nothing to do and succeeds, and what survives is what stood there before.
    pub(super) fn drop_dirty(&mut self, offset: u64, bytes: u64) {
        let sectors = self.sectors(offset, bytes);
        self.dirty.retain(|sector, _| !sectors.contains(sector));
    }

    /// Power was lost: each unflushed sector is one of its versions or what it was, and the length one it has had.
    pub(super) fn crash(&mut self, dice: &mut Dice) -> Fate {
        let mut fate = Fate::default();
        for (sector, mut versions) in std::mem::take(&mut self.dirty) {
            if !dice.keeps() {
                fate.lost += 1;
                continue;
            }
            fate.kept += 1;
            // Mostly the newest; an older one is a write that reached the device before the others did.
            let older = dice.prefix(versions.len() - 1);
            let version = versions.swap_remove(older);
            self.durable.write(sector * self.sector_bytes, &version);
        }
        match dice.prefix(self.lens.len()) {
            0 => {}
            nth => self.durable_len = self.lens[nth - 1],
        }
        self.lens.clear();
        self.durable.zero(self.durable_len, u64::MAX);
        self.seen = self.durable.clone();
        self.seen_len = self.durable_len;
        self.mapped = PageSet::default();
        self.reserve(0, self.durable_len);
        fate
    }

    fn flush_len(&mut self) {
        self.durable_len = self.seen_len;
        self.lens.clear();
    }

    /// What is seen of this sector is durable.
    fn settle(&mut self, sector: u64) {
        let mut bytes = [0; PAGE_BYTES];
        let bytes = &mut bytes[..self.sector_bytes as usize];
        self.seen.read(sector * self.sector_bytes, bytes);
        self.durable.write(sector * self.sector_bytes, bytes);
    }

    fn note_dirty(&mut self, offset: u64, bytes: u64) {
        for sector in self.sectors(offset, bytes) {
            let mut version = vec![0; self.sector_bytes as usize];
            self.seen.read(sector * self.sector_bytes, &mut version);
            let versions = self.dirty.entry(sector).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(version.into());
        }
    }

    fn sectors(&self, offset: u64, bytes: u64) -> std::ops::Range<u64> {
        offset / self.sector_bytes..offset.saturating_add(bytes).div_ceil(self.sector_bytes)
    }
}

fn page_range(offset: u64, bytes: u64) -> std::ops::Range<u64> {
    offset / PAGE_BYTES as u64..(offset + bytes).div_ceil(PAGE_BYTES as u64)
}

/// One bit per page.
#[derive(Clone, Default)]
struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    fn holds(&self, page: u64) -> bool {
        self.words.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn insert(&mut self, page: u64) {
        let word = page as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if !self.holds(page) {
            self.words[word] |= 1 << (page % 64);
            self.count += 1;
        }
    }

    fn remove(&mut self, from: u64, to: u64) {
        for page in from..to.min(self.words.len() as u64 * 64) {
            if self.holds(page) {
                self.words[page as usize / 64] &= !(1 << (page % 64));
                self.count -= 1;
            }
        }
    }
}
