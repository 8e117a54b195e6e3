//! Work of many directories, taken in turns, with a bound on what each may have under way: a slow directory holds up
//! only itself. Pure; the ring and the thread pools are drivers around it.

use std::collections::VecDeque;

/// Queues by number, each in order, served round robin.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// By number; grows to the highest number in use.
    lanes: Vec<Lane<T>>,
    /// Numbers of lanes that have something waiting and room under their bound; each once.
    ready: VecDeque<usize>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    under_way: usize,
    under_way_max: usize,
    is_ready: bool,
}

impl<T> Lane<T> {
    fn has_room(&self) -> bool {
        self.under_way < self.under_way_max
    }
}

impl<T> Turns<T> {
    pub(super) fn new() -> Turns<T> {
        Turns { lanes: Vec::new(), ready: VecDeque::new() }
    }

    /// Queues an item; true when it could be taken now, so that somebody should come and take one.
    pub(super) fn push(&mut self, lane: usize, under_way_max: usize, item: T) -> bool {
        while self.lanes.len() <= lane {
            self.lanes.push(Lane { waiting: VecDeque::new(), under_way: 0, under_way_max, is_ready: false });
        }
        let number = lane;
        let lane = &mut self.lanes[number];
        lane.under_way_max = under_way_max;
        lane.waiting.push_back(item);
        let takeable = lane.under_way + lane.waiting.len() <= lane.under_way_max;
        self.make_ready(number);
        takeable
    }

    /// The next item, which is then under way until [`done`](Self::done).
    pub(super) fn take(&mut self) -> Option<(usize, T)> {
        let number = self.ready.pop_front()?;
        let lane = &mut self.lanes[number];
        lane.is_ready = false;
        let item = lane.waiting.pop_front();
        lane.under_way += 1;
        self.make_ready(number);
        item.map(|item| (number, item))
    }

    /// An item of this lane is no longer under way.
    pub(super) fn done(&mut self, lane: usize) {
        self.lanes[lane].under_way -= 1;
        self.make_ready(lane);
    }

    /// Whether [`take`](Self::take) would give something.
    #[cfg(feature = "io-uring")]
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Everything that waits, bounds or not; for when nothing will be taken any more.
    #[cfg(feature = "io-uring")]
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.ready.clear();
        self.lanes.iter_mut().flat_map(|lane| {
            lane.is_ready = false;
            lane.waiting.drain(..)
        })
    }

    fn make_ready(&mut self, number: usize) {
        let lane = &mut self.lanes[number];
        if !lane.is_ready && lane.has_room() && !lane.waiting.is_empty() {
            lane.is_ready = true;
            self.ready.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns_within_their_bounds_and_in_order() {
        let mut turns = Turns::new();
        assert!(turns.push(0, 2, "a1"));
        assert!(turns.push(0, 2, "a2"));
        assert!(!turns.push(0, 2, "a3"));
        assert!(turns.push(5, 1, "b1"));
        assert!(!turns.push(5, 1, "b2"));
        let taken: Vec<_> = std::iter::from_fn(|| turns.take()).collect();
        assert_eq!(taken, [(0, "a1"), (5, "b1"), (0, "a2")]);
        turns.done(5);
        assert_eq!(turns.take(), Some((5, "b2")));
        assert_eq!(turns.take(), None);
        turns.done(0);
        assert_eq!(turns.take(), Some((0, "a3")));
        turns.done(0);
        turns.done(0);
        turns.done(5);
        assert!(turns.push(5, 1, "b3"));
        assert_eq!(turns.take(), Some((5, "b3")));
    }

    /// Whatever the order of events: nothing lost, nothing twice, no lane over its bound, no room left unused.
    #[test]
    fn random_walks_keep_the_promises() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let bound = |lane: usize| lane + 1;
        let mut turns = Turns::new();
        let (mut pushed, mut taken, mut under_way) = ([0u32; 4], [0u32; 4], [0usize; 4]);
        for _ in 0..50_000 {
            let lane = random(4);
            match random(3) {
                0 => {
                    turns.push(lane, bound(lane), pushed[lane]);
                    pushed[lane] += 1;
                }
                1 => match turns.take() {
                    Some((lane, item)) => {
                        assert_eq!(item, taken[lane]);
                        taken[lane] += 1;
                        under_way[lane] += 1;
                        assert!(under_way[lane] <= bound(lane));
                    }
                    None => assert!((0..4).all(|lane| pushed[lane] == taken[lane] || under_way[lane] == bound(lane))),
                },
                _ if under_way[lane] > 0 => {
                    turns.done(lane);
                    under_way[lane] -= 1;
                }
                _ => {}
            }
        }
    }
}
