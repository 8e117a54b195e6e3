//! Whether this process is a fork's child, for the price of one load.
//!
//! The threads that carry writes do not exist in a child, and locks may be held there by nobody. A page that the
//! kernel empties in every child (MADV_WIPEONFORK) holds a marker: no system call, and no handler to register.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// What the page holds in the process that made it; a child reads 0.
const MARKER: u32 = 0x5ea_3a11;

/// Points to a word that lives for ever, once [`watch_forks`] has succeeded.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// True in a child of the process that called [`watch_forks`], for as long as the child lives.
#[allow(unsafe_code)]
#[inline]
pub(crate) fn is_forked_child() -> bool {
    match NonNull::new(PAGE.load(Ordering::Acquire)) {
        None => false,
        // SAFETY: a pointer other than null was stored by `new_page`: an aligned word in a page that is never unmapped.
        Some(word) => unsafe { word.as_ref() }.load(Ordering::Relaxed) != MARKER,
    }
}

/// Starts to tell children apart; called before anything exists that a child must not use.
///
/// # Errors
/// When this process is a fork's child itself, or the kernel cannot tell (before Linux 4.14).
pub(crate) fn watch_forks() -> io::Result<()> {
    static MADE: OnceLock<Result<(), rustix::io::Errno>> = OnceLock::new();
    MADE.get_or_init(new_page).map_err(io::Error::from)?;
    if is_forked_child() {
        return Err(io::Error::other("this process was forked from one that uses a log; it cannot use one itself"));
    }
    Ok(())
}

#[allow(unsafe_code)]
fn new_page() -> rustix::io::Result<()> {
    let bytes = rustix::param::page_size();
    // SAFETY: a new private anonymous mapping touches no existing memory; it is never unmapped.
    let page =
        unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
    // SAFETY: the range is the mapping just made, and the advice changes nothing in this process.
    unsafe { madvise(page, bytes, Advice::LinuxWipeOnFork)? };
    let word: *mut AtomicU32 = page.cast();
    // SAFETY: page-aligned, zeroed (a valid AtomicU32), mapped for ever, and not yet known to anybody else.
    unsafe { &*word }.store(MARKER, Ordering::Relaxed);
    PAGE.store(word, Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SAFETY: as the system's headers declare them.
    #[allow(unsafe_code)]
    unsafe extern "C" {
        safe fn fork() -> i32;
        safe fn _exit(code: i32) -> !;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    }

    #[allow(unsafe_code)]
    #[test]
    fn a_child_knows_that_it_is_one() {
        watch_forks().unwrap();
        assert!(!is_forked_child());
        let child = fork();
        if child == 0 {
            // Other threads' locks may be held for ever here: nothing that allocates or prints.
            _exit(if is_forked_child() { 42 } else { 1 });
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
        assert_eq!((status & 0x7f, status >> 8), (0, 42));
        assert!(!is_forked_child());
    }
}
