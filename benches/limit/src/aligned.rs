//! Memory that `O_DIRECT` accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;

/// A fixed number of bytes whose address is a multiple of [`ALIGN`].
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

/// A page of x86-64 and a multiple of every device block size in use.
const ALIGN: usize = 4096;

// SAFETY: the value owns its memory alone and has no interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes; `len` must not be 0.
    pub(crate) fn zeroed(len: usize) -> AlignedBytes {
        assert!(len > 0, "an empty buffer cannot be written");
        let layout = Layout::from_size_align(len, ALIGN).expect("a buffer of less than isize::MAX");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBytes { start, layout }
    }

    /// `len` bytes that neither compress nor look like zeros to a device that checks for those.
    pub(crate) fn noise(len: usize) -> AlignedBytes {
        let mut bytes = AlignedBytes::zeroed(len);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in bytes.as_mut_slice().chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        bytes
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` owns `layout.size()` initialised bytes until drop.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
