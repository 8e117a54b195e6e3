//! A word that threads sleep on: private futexes, nothing around them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

/// A value and the threads that wait for it to change.
#[derive(Debug, Default)]
pub(crate) struct Futex(AtomicU32);

impl Futex {
    pub(crate) const fn new(value: u32) -> Futex {
        Futex(AtomicU32::new(value))
    }

    /// What was stored before the value that is returned is visible to the caller.
    pub(crate) fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Changes the value, waking nobody: whoever read the old value will not fall asleep on it. Two bumps at once are
    /// two changes.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Wakes one waiter, if there is one.
    pub(crate) fn wake_one(&self) {
        self.wake(1);
    }

    /// Wakes every waiter.
    pub(crate) fn wake_all(&self) {
        self.wake(i32::MAX as u32);
    }

    fn wake(&self, waiters_max: u32) {
        // Cannot fail: the word is mapped and aligned. Were it to, a waiter with a timeout still looks again.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, waiters_max);
    }

    /// Sleeps while the value is `expected`, until woken, a signal, or `timeout`. May return early: look again.
    pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // EAGAIN (the value differs), EINTR and ETIMEDOUT all mean the same to the caller: look again.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, expected, timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn a_wait_ends_by_change_wake_and_timeout() {
        let word = Arc::new(Futex::new(0));
        word.wait(1, None);
        let start = Instant::now();
        word.wait(0, Some(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        word.wait(1, Some(Duration::MAX));

        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let word = word.clone();
                std::thread::spawn(move || {
                    while word.load() == 0 {
                        word.wait(0, None);
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(5));
        word.wake_one();
        word.wake_all();
        word.bump();
        word.wake_all();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(word.load(), 1);
    }
}
