//! File content in shared 4 KiB pages: an image of a disk costs a few reference counts, and a change copies the page
//! it touches. A page that was never written, or written with zeros, takes no memory.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Pages that share one reference count in a file.
const CHUNK_PAGES: usize = 32;

/// `None` is a page of zeros.
type Slot = Option<Arc<Page>>;

/// One page's bytes, and their fingerprint once somebody asked for it.
pub struct Page {
    bytes: [u8; PAGE_BYTES as usize],
    fingerprint: OnceLock<u64>,
}

impl Page {
    fn zeros() -> Page {
        Page { bytes: [0; PAGE_BYTES as usize], fingerprint: OnceLock::new() }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.fingerprint.take();
        &mut self.bytes
    }

    /// 0 for zeros, so that a page of zeros is the same as none.
    fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| if is_zero(&self.bytes) { 0 } else { fingerprint(&self.bytes) })
    }
}

impl Clone for Page {
    /// A copy is made to be changed.
    fn clone(&self) -> Page {
        Page { bytes: self.bytes, fingerprint: OnceLock::new() }
    }
}

#[derive(Clone, Default)]
struct Chunk([Slot; CHUNK_PAGES]);

/// The bytes of one file.
#[derive(Default)]
pub struct FileData {
    len: u64,
    chunks: Vec<Option<Arc<Chunk>>>,
    /// All bytes in one piece, made at the first map; every image that shares this value shares it too.
    flat: OnceLock<Arc<[u8]>>,
    fingerprint: OnceLock<u64>,
}

impl Clone for FileData {
    /// A copy is made to be changed, so it starts without what is remembered of the bytes.
    fn clone(&self) -> FileData {
        let chunks = self.chunks.clone();
        FileData { len: self.len, chunks, flat: OnceLock::new(), fingerprint: OnceLock::new() }
    }
}

impl std::fmt::Debug for FileData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileData({} bytes)", self.len)
    }
}

impl FileData {
    /// A file with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> FileData {
        let mut file = FileData::default();
        file.write_bytes(0, bytes);
        file
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file at least this long; the new bytes are zeros.
    pub fn extend_to(&mut self, bytes: u64) {
        self.len = self.len.max(bytes);
        self.changed();
    }

    fn changed(&mut self) {
        self.flat.take();
        self.fingerprint.take();
    }

    /// Cuts or extends the file; bytes beyond the old or the new end are zeros.
    pub fn set_len(&mut self, bytes: u64) {
        self.changed();
        if bytes < self.len {
            self.chunks.truncate(bytes.div_ceil(PAGE_BYTES * CHUNK_PAGES as u64) as usize);
            let kept_end = (self.chunks.len() * CHUNK_PAGES) as u64;
            for page in bytes / PAGE_BYTES..kept_end {
                let from = bytes.saturating_sub(page * PAGE_BYTES).min(PAGE_BYTES) as usize;
                if self.page(page).is_some() {
                    let slot = self.slot_mut(page);
                    match slot {
                        Some(page) if from > 0 => Arc::make_mut(page).bytes_mut()[from..].fill(0),
                        _ => *slot = None,
                    }
                }
            }
        }
        self.len = bytes;
    }

    /// Reads into all of `into`; bytes beyond the end read as zeros.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let range = offset..offset + into.len() as u64;
        for (page, within) in pages(&range) {
            let at = (page * PAGE_BYTES + within.start as u64 - offset) as usize;
            let into = &mut into[at..at + within.len()];
            match self.page(page) {
                Some(page) => into.copy_from_slice(&page.bytes[within]),
                None => into.fill(0),
            }
        }
    }

    /// Overwrites or extends with plain bytes.
    pub fn write_bytes(&mut self, offset: u64, bytes: &[u8]) {
        let data = Data::new(offset, [bytes]);
        self.write(&data, data.range());
    }

    /// Overwrites or extends with the part of `data` that lies in `range`.
    pub fn write(&mut self, data: &Data, range: Range<u64>) {
        let range = range.start.max(data.range().start)..range.end.min(data.range().end);
        if range.is_empty() {
            return;
        }
        self.extend_to(range.end);
        for (page, within) in pages(&range) {
            let from = data.slot(page);
            if within.len() as u64 == PAGE_BYTES {
                if from.is_some() || self.page(page).is_some() {
                    *self.slot_mut(page) = from.clone();
                }
            } else if let Some(from) = from {
                let slot = self.slot_mut(page).get_or_insert_with(|| Arc::new(Page::zeros()));
                Arc::make_mut(slot).bytes_mut()[within.clone()].copy_from_slice(&from.bytes[within]);
            } else if self.page(page).is_some()
                && let Some(slot) = self.slot_mut(page)
            {
                Arc::make_mut(slot).bytes_mut()[within].fill(0);
            }
        }
    }

    /// The first bytes of the file in one piece.
    pub fn flat(&self) -> Arc<[u8]> {
        self.flat.get_or_init(|| self.to_vec().into()).clone()
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// A fingerprint of the length and every byte: what did not change since the last one is not looked at again.
    pub fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            let slots = self.chunks.iter().enumerate().filter_map(|(at, chunk)| Some((at, chunk.as_ref()?)));
            let pages = slots.flat_map(|(at, chunk)| (at * CHUNK_PAGES..).zip(&chunk.0));
            let pages = pages.filter_map(|(at, page)| Some((at, page.as_ref()?.fingerprint())));
            let pages = pages.filter(|(_, page)| *page != 0);
            pages.fold(mix(self.len, 1), |all, (at, page)| all.wrapping_add(mix(page, at as u64 + 2)))
        })
    }

    /// A page that is not all zeros by construction.
    pub fn page(&self, page: u64) -> Option<&Page> {
        let (chunk, slot) = (page as usize / CHUNK_PAGES, page as usize % CHUNK_PAGES);
        self.chunks.get(chunk)?.as_ref()?.0[slot].as_deref()
    }

    fn slot_mut(&mut self, page: u64) -> &mut Slot {
        let (chunk, slot) = (page as usize / CHUNK_PAGES, page as usize % CHUNK_PAGES);
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(Arc::default);
        &mut Arc::make_mut(chunk).0[slot]
    }
}

/// The bytes of one write, already cut into the pages they go to.
#[derive(Clone)]
pub struct Data {
    offset: u64,
    len: u64,
    /// One per touched page, the bytes standing where they go in it.
    slots: Arc<[Slot]>,
}

impl Data {
    /// The parts, one after another, for `offset`.
    pub fn new<'a>(offset: u64, parts: impl IntoIterator<Item = &'a [u8]>) -> Data {
        let mut slots: Vec<Slot> = Vec::new();
        let mut at = offset;
        for part in parts {
            for (page, within) in pages(&(at..at + part.len() as u64)) {
                let from = (page * PAGE_BYTES + within.start as u64 - at) as usize;
                let bytes = &part[from..from + within.len()];
                let index = (page - offset / PAGE_BYTES) as usize;
                if slots.len() <= index {
                    slots.resize(index + 1, None);
                }
                if !is_zero(bytes) {
                    let slot = slots[index].get_or_insert_with(|| Arc::new(Page::zeros()));
                    Arc::make_mut(slot).bytes_mut()[within].copy_from_slice(bytes);
                }
            }
            at += part.len() as u64;
        }
        Data { offset, len: at - offset, slots: slots.into() }
    }

    /// Where the bytes go in the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (page, within) in pages(&self.range()) {
            if let Some(from) = self.slot(page) {
                let at = (page * PAGE_BYTES + within.start as u64 - self.offset) as usize;
                bytes[at..at + within.len()].copy_from_slice(&from.bytes[within]);
            }
        }
        bytes
    }

    fn slot(&self, page: u64) -> &Slot {
        &self.slots[(page - self.offset / PAGE_BYTES) as usize]
    }
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.offset, self.len)
    }
}

impl Hash for Data {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.offset, self.len).hash(state);
        self.slots.iter().map(|slot| slot.as_ref().map(|page| page.bytes)).for_each(|bytes| bytes.hash(state));
    }
}

/// A fingerprint of some bytes. Not for enemies: two that differ by chance are told apart but for once in 2^64.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let mut lanes = [1, 2, 3, 4];
    let mut blocks = bytes.chunks_exact(64);
    for block in &mut blocks {
        for (lane, pair) in lanes.iter_mut().zip(block.chunks_exact(16)) {
            *lane = mix(*lane ^ word(&pair[..8]), word(&pair[8..]));
        }
    }
    let mut last = [0; 64];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    let all = lanes.iter().fold(bytes.len() as u64, |all, lane| mix(all, *lane));
    last.chunks_exact(8).fold(all, |all, part| mix(all, word(part)))
}

/// Two numbers into one that depends on all their bits.
pub fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b ^ 0xE703_7ED1_A0B4_28DB);
    (product as u64) ^ (product >> 64) as u64 ^ a.rotate_left(32)
}

/// In pieces without an early end, which is many times faster: most of a prepared segment is zeros.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The pages that a byte range touches, each with the part of it that is touched.
fn pages(range: &Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> + use<> {
    let Range { start, end } = *range;
    let last = if start < end { end.div_ceil(PAGE_BYTES) } else { start / PAGE_BYTES };
    (start / PAGE_BYTES..last).map(move |page| {
        let first = page * PAGE_BYTES;
        let within = start.saturating_sub(first)..(end - first).min(PAGE_BYTES);
        (page, within.start as usize..within.end as usize)
    })
}
