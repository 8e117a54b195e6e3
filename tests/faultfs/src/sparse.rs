//! Bytes with holes, whose copies share what they have in common.
//!
//! A copy costs one reference count per 256 KiB, a write to it one copied page (and one copied chunk of references):
//! so thousands of states of one device can be held, and a checkpoint taken every few writes.

use std::sync::Arc;

/// The unit that copies share.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Pages per chunk.
const CHUNK_PAGES: usize = 64;

type Page = [u8; PAGE_BYTES];
type Chunk = [Option<Arc<Page>>; CHUNK_PAGES];

/// Zeros without end, but where something else was written.
#[derive(Clone, Default)]
pub(crate) struct Sparse {
    chunks: Vec<Option<Arc<Chunk>>>,
}

impl Sparse {
    /// Fills `into` from `offset` on.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        for (page, within, range) in pieces(offset, into.len()) {
            let into = &mut into[range];
            match self.page(page) {
                Some(page) => into.copy_from_slice(&page[within..within + into.len()]),
                None => into.fill(0),
            }
        }
    }

    /// Replaces what stands at `offset`.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, range) in pieces(offset, bytes.len()) {
            let bytes = &bytes[range];
            // Zeros over a hole are a hole: file systems write a great many of them.
            if self.page(page).is_none() && is_zero(bytes) {
                continue;
            }
            self.page_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Zeros from `offset` on; whole pages become holes.
    pub(crate) fn zero(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min((self.chunks.len() * CHUNK_PAGES * PAGE_BYTES) as u64);
        let mut at = offset;
        while at < end {
            let (page, within) = (at as usize / PAGE_BYTES, at as usize % PAGE_BYTES);
            let step = (PAGE_BYTES - within).min((end - at) as usize);
            if self.page(page).is_some() {
                if step == PAGE_BYTES {
                    self.remove(page);
                } else {
                    self.page_mut(page)[within..within + step].fill(0);
                }
            }
            at += step as u64;
        }
    }

    /// The pages in `from..to` that are not holes, by number.
    pub(crate) fn pages_between(&self, from: u64, to: u64) -> Vec<u64> {
        let last = (self.chunks.len() * CHUNK_PAGES) as u64;
        (from..to.min(last)).filter(|page| self.page(*page as usize).is_some()).collect()
    }

    fn page(&self, page: usize) -> Option<&Arc<Page>> {
        self.chunks.get(page / CHUNK_PAGES)?.as_ref()?[page % CHUNK_PAGES].as_ref()
    }

    fn page_mut(&mut self, page: usize) -> &mut Page {
        let chunk = page / CHUNK_PAGES;
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK_PAGES]));
        let page = &mut Arc::make_mut(chunk)[page % CHUNK_PAGES];
        Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }

    fn remove(&mut self, page: usize) {
        if let Some(Some(chunk)) = self.chunks.get_mut(page / CHUNK_PAGES) {
            Arc::make_mut(chunk)[page % CHUNK_PAGES] = None;
        }
    }
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In steps, so that the compiler may compare many bytes at once and stop at the first that is something.
    bytes.chunks(256).all(|bytes| bytes.iter().fold(0, |all, byte| all | byte) == 0)
}

/// A range cut at pages: the page, where in it, and which of the `bytes`.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset as usize + done;
        let (page, within) = (at / PAGE_BYTES, at % PAGE_BYTES);
        let step = (PAGE_BYTES - within).min(bytes - done);
        let range = done..done + step;
        done += step;
        (step > 0).then_some((page, within, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_and_part() {
        let mut a = Sparse::default();
        a.write(4090, b"0123456789");
        let b = a.clone();
        a.write(4094, b"xx");
        a.zero(0, 4092);
        let mut seen = [9; 12];
        a.read(4089, &mut seen);
        assert_eq!(&seen, b"\0\0\x0023xx6789\0");
        b.read(4089, &mut seen);
        assert_eq!(&seen, b"\x000123456789\0");
    }

    #[test]
    fn zeros_over_a_hole_stay_a_hole() {
        let mut a = Sparse::default();
        a.write(1 << 20, &[0; 8192]);
        assert!(a.pages_between(0, 1 << 20).is_empty());
        a.write(1 << 20, &[1; 8192]);
        assert_eq!(a.pages_between(0, 1 << 20), [256, 257]);
        a.zero(1 << 20, 8192);
        assert!(a.pages_between(0, 1 << 20).is_empty());
    }
}
