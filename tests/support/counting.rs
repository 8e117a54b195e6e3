//! An allocator that counts: bytes in use by the whole process and their peak, and the calls of threads that ask for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CALLS: Cell<Option<usize>> = const { Cell::new(None) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        let _ = CALLS.try_with(|calls| calls.set(calls.get().map(|count| count + 1)));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes in use now.
pub(crate) fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

/// Allocations of this thread while `what` runs.
pub(crate) fn allocations(what: impl FnOnce()) -> usize {
    CALLS.set(Some(0));
    what();
    CALLS.take().unwrap()
}

/// Begins to look for a peak; returns the bytes in use now.
pub(crate) fn begin_peak() -> usize {
    let before = in_use();
    PEAK.store(before, Ordering::Relaxed);
    before
}

/// The most bytes in use at once since then, beyond those in use before.
pub(crate) fn peak_beyond(before: usize) -> usize {
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}
