//! Memory that O_DIRECT accepts: aligned, always initialised, used again.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use crate::sync::Mutex;

/// Alignment of every buffer: no device asks for more.
const ALIGN: usize = 4096;
/// Buffers from this size on ask for huge pages: the kernel pins one page for a write where it pinned 512.
const HUGE: usize = 2 * 1024 * 1024;

/// Aligned bytes with a filled length. Returns to its pool when dropped.
pub struct Buffer {
    /// Points to `capacity` initialised bytes that this value alone owns.
    memory: NonNull<u8>,
    capacity: usize,
    len: usize,
    home: Weak<BufferPool>,
}

// SAFETY: the memory is owned by this value alone and reached only through `&self` / `&mut self`.
#[allow(unsafe_code)]
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` gives only `&[u8]`.
#[allow(unsafe_code)]
unsafe impl Sync for Buffer {}

#[allow(unsafe_code)]
impl Buffer {
    /// A zeroed buffer outside any pool, of at least `capacity` bytes, empty.
    #[must_use]
    pub fn new(capacity: usize) -> Buffer {
        let capacity = capacity.max(1).next_multiple_of(ALIGN);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        if capacity >= HUGE {
            // SAFETY: the range was just allocated and is ours; the advice changes no content. A refusal changes nothing.
            let _ = unsafe { rustix::mm::madvise(memory.as_ptr().cast(), capacity, rustix::mm::Advice::LinuxHugepage) };
        }
        Buffer { memory, capacity, len: 0, home: Weak::new() }
    }

    fn layout(capacity: usize) -> Layout {
        let align = if capacity >= HUGE { HUGE } else { ALIGN };
        Layout::from_size_align(capacity, align).expect("a buffer's size fits the address space")
    }

    /// Bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the filled length; the bytes are whatever was last written there.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "length {len} beyond capacity {}", self.capacity);
        self.len = len;
    }

    /// All `capacity` bytes, filled or not.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        // SAFETY: `memory` points to `capacity` initialised bytes that `self` owns.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.capacity) }
    }
}

#[allow(unsafe_code)]
impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len ≤ capacity` initialised bytes that `self` owns.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

#[allow(unsafe_code)]
impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.capacity)
    }
}

#[allow(unsafe_code)]
impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.home.upgrade() {
            let taken = Buffer { memory: self.memory, capacity: self.capacity, len: 0, home: Weak::new() };
            pool.take_back(taken);
            return;
        }
        // SAFETY: allocated with this layout in `new`; a buffer taken back by its pool returned above.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// Buffers of power-of-two sizes, handed out again in last-in-first-out order, while the caches still hold them.
#[derive(Debug)]
pub struct BufferPool {
    /// By class: free buffers of `ALIGN << class` bytes.
    free: Mutex<FreeLists>,
    /// Free buffers above this many bytes in all are returned to the allocator.
    free_bytes_max: usize,
}

#[derive(Debug)]
struct FreeLists {
    classes: Vec<Vec<Buffer>>,
    bytes: usize,
}

impl BufferPool {
    /// A pool that keeps at most `free_bytes_max` bytes of unused buffers.
    #[must_use]
    pub fn new(free_bytes_max: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool { free: Mutex::new(FreeLists { classes: Vec::new(), bytes: 0 }), free_bytes_max })
    }

    fn class(bytes: usize) -> usize {
        bytes.max(1).div_ceil(ALIGN).next_power_of_two().trailing_zeros() as usize
    }

    /// An empty buffer of at least `bytes` bytes; its content is whatever it last held.
    #[must_use]
    pub fn get(self: &Arc<Self>, bytes: usize) -> Buffer {
        let class = Self::class(bytes);
        let used = {
            let mut free = self.free.lock();
            let used = free.classes.get_mut(class).and_then(Vec::pop);
            if let Some(buffer) = &used {
                free.bytes -= buffer.capacity;
            }
            used
        };
        let mut buffer = used.unwrap_or_else(|| Buffer::new(ALIGN << class));
        buffer.home = Arc::downgrade(self);
        buffer
    }

    fn take_back(&self, buffer: Buffer) {
        let class = Self::class(buffer.capacity);
        let mut free = self.free.lock();
        if free.bytes + buffer.capacity > self.free_bytes_max {
            drop(free);
            return;
        }
        free.bytes += buffer.capacity;
        if free.classes.len() <= class {
            free.classes.resize_with(class + 1, Vec::new);
        }
        free.classes[class].push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_used_again() {
        let pool = BufferPool::new(64 * 1024);
        let mut buffer = pool.get(5000);
        assert_eq!((buffer.capacity(), buffer.len()), (8192, 0));
        assert!(buffer.whole_mut().iter().all(|b| *b == 0));
        buffer.set_len(8192);
        assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!(pool.get(8192).as_ptr(), address);
        let many: Vec<Buffer> = (0..64).map(|_| pool.get(4096)).collect();
        drop(many);
        assert!(pool.free.lock().bytes <= 64 * 1024, "the pool keeps what its bound allows");
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.get(1);
        drop(pool);
        buffer.set_len(3);
        buffer.copy_from_slice(b"abc");
        assert_eq!(&buffer[..], b"abc");
    }
}
