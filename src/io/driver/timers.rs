//! When each client wants to be driven again.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::channel::Channel;

/// At most one deadline per channel, and at most one entry per channel in the order of times.
///
/// A deadline that moves later leaves its entry where it is; the entry is moved when its time comes. Groups push
/// deadlines ahead all the time, so this saves nearly all of the tree's work.
#[derive(Default)]
pub(super) struct Timers {
    /// By channel number.
    timers: Vec<Timer>,
    entries: BTreeSet<(Instant, usize)>,
}

#[derive(Default)]
struct Timer {
    channel: Weak<Channel>,
    due: Option<Instant>,
    /// Where its entry is; never later than `due`.
    entry: Option<Instant>,
}

impl Timers {
    /// Replaces the channel's deadline.
    pub(super) fn set(&mut self, channel: &Arc<Channel>, due: Option<Instant>) {
        let number = channel.number();
        if due.is_none() && number >= self.timers.len() {
            return;
        }
        if number >= self.timers.len() {
            self.timers.resize_with(number + 1, Timer::default);
        }
        let timer = &mut self.timers[number];
        timer.due = due;
        let Some(due) = due else { return };
        if !std::ptr::eq(timer.channel.as_ptr(), Arc::as_ptr(channel)) {
            timer.channel = Arc::downgrade(channel);
        }
        if timer.entry.is_none_or(|entry| due < entry) {
            if let Some(entry) = timer.entry {
                self.entries.remove(&(entry, number));
            }
            timer.entry = Some(due);
            self.entries.insert((due, number));
        }
    }

    /// When to look again; possibly earlier than anything is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// One channel whose deadline has passed; its deadline is gone then.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arc<Channel>> {
        while let Some(&(at, number)) = self.entries.first().filter(|(at, _)| *at <= now) {
            self.entries.remove(&(at, number));
            let timer = &mut self.timers[number];
            timer.entry = None;
            match timer.due {
                Some(due) if due <= now => {
                    timer.due = None;
                    // A channel that is gone had its number, and will not come back.
                    if let Some(channel) = timer.channel.upgrade() {
                        return Some(channel);
                    }
                }
                Some(due) => {
                    timer.entry = Some(due);
                    self.entries.insert((due, number));
                }
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn deadlines_fire_once_in_order_and_can_move() {
        let [a, b] = Channel::unconnected();
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(&a, Some(start + 10 * MS));
        timers.set(&b, Some(start + 5 * MS));
        assert_eq!(timers.next(), Some(start + 5 * MS));
        assert!(timers.take_due(start + 4 * MS).is_none());

        timers.set(&b, Some(start + 20 * MS));
        assert!(timers.take_due(start + 9 * MS).is_none(), "a later deadline only moves its entry");
        assert!(Arc::ptr_eq(&timers.take_due(start + 30 * MS).unwrap(), &a));
        assert!(Arc::ptr_eq(&timers.take_due(start + 30 * MS).unwrap(), &b));
        assert!(timers.take_due(start + 30 * MS).is_none());
        assert_eq!(timers.next(), None);

        timers.set(&a, Some(start + 50 * MS));
        timers.set(&a, Some(start + 40 * MS));
        assert_eq!((timers.next(), timers.entries.len()), (Some(start + 40 * MS), 1));
        timers.set(&a, None);
        assert!(timers.take_due(start + 60 * MS).is_none());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_number_used_again_does_not_inherit_a_deadline() {
        let [a, b] = Channel::unconnected();
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(&a, Some(start + 5 * MS));
        drop(a);
        assert!(timers.take_due(start + 5 * MS).is_none());
        timers.set(&b, Some(start + 5 * MS));
        assert!(Arc::ptr_eq(&timers.take_due(start + 5 * MS).unwrap(), &b));
    }
}
