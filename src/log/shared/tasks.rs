//! Tasks that wait for news of one kind, and are woken all at once.

use std::collections::HashMap;
use std::task::Waker;

/// By numbers: who is polled again is there once, and who is dropped leaves nothing, however many there are.
#[derive(Default)]
pub(crate) struct TaskList {
    wakers: HashMap<u64, Waker>,
    last: u64,
}

impl TaskList {
    /// Has a task woken with the others. Its number is given here, and kept by it for the next call.
    pub(crate) fn register(&mut self, number: &mut Option<u64>, waker: &Waker) {
        let number = *number.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        match self.wakers.get_mut(&number) {
            Some(known) => known.clone_from(waker),
            None => _ = self.wakers.insert(number, waker.clone()),
        }
    }

    /// For a task that is dropped.
    pub(crate) fn deregister(&mut self, number: u64) {
        self.wakers.remove(&number);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// All of them, in the order in which they came first.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let mut wakers: Vec<(u64, Waker)> = self.wakers.drain().collect();
        wakers.sort_unstable_by_key(|(number, _)| *number);
        wakers.into_iter().map(|(_, waker)| waker)
    }
}
