//! The futex under `--cfg shuttle`: a word and a queue of sleepers, first come first woken, as the kernel's.

use std::collections::VecDeque;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::model::{FOREVER, wait_some};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A value and the threads that wait for it to change.
#[derive(Debug, Default)]
pub(crate) struct Futex {
    word: AtomicU32,
    sleepers: Mutex<Sleepers>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    queue: VecDeque<u64>,
    next: u64,
}

impl Futex {
    pub(crate) const fn new(value: u32) -> Futex {
        let sleepers = Mutex::new(Sleepers { queue: VecDeque::new(), next: 0 });
        Futex { word: AtomicU32::new(value), sleepers, woken: Condvar::new() }
    }

    pub(crate) fn load(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    pub(crate) fn bump(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn wake_one(&self) {
        self.wake(1);
    }

    pub(crate) fn wake_all(&self) {
        self.wake(usize::MAX);
    }

    fn wake(&self, waiters_max: usize) {
        let mut sleepers = self.sleepers.lock();
        let woken = waiters_max.min(sleepers.queue.len());
        sleepers.queue.drain(..woken);
        self.woken.notify_all();
    }

    pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) {
        let mut sleepers = self.sleepers.lock();
        // The kernel compares under the lock that wakers take.
        if self.word.load(Ordering::SeqCst) != expected {
            return;
        }
        // As a signal does it: nothing has happened, and the caller looks again.
        if thread_rng().gen_range(0..16) == 0 {
            return;
        }
        let me = sleepers.next;
        sleepers.next += 1;
        sleepers.queue.push_back(me);
        let asleep = |sleepers: &Sleepers| sleepers.queue.contains(&me);
        match timeout.filter(|timeout| *timeout < FOREVER) {
            None => {
                while asleep(&sleepers) {
                    self.woken.wait(&mut sleepers);
                }
            }
            Some(timeout) => {
                MutexGuard::unlocked(&mut sleepers, || wait_some(timeout, || !asleep(&self.sleepers.lock())));
                sleepers.queue.retain(|sleeper| *sleeper != me);
            }
        }
    }
}
