//! The records and who waits since when. Pure: time comes in as an argument.

use std::collections::VecDeque;
use std::time::Instant;

/// Records that began to wait at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) since: Instant,
    pub(crate) records: usize,
}

/// Records that travel in one write. Reused from write to write.
#[derive(Debug, Default)]
pub(crate) struct Group {
    batches: Vec<Batch>,
}

impl Group {
    pub(crate) fn records(&self) -> usize {
        self.batches.iter().map(|batch| batch.records).sum()
    }

    pub(crate) fn batches(&self) -> &[Batch] {
        &self.batches
    }
}

/// Records not in a write, oldest first.
#[derive(Debug)]
pub(crate) struct Clients {
    waiting: VecDeque<Batch>,
    group_records: usize,
}

impl Clients {
    pub(crate) fn new(outstanding: usize, group_records: usize) -> Clients {
        let all = Batch { since: Instant::now(), records: outstanding };
        Clients { waiting: VecDeque::from([all]), group_records }
    }

    /// Moves the longest-waiting records, at most `group_records`, into `group`.
    pub(crate) fn take(&mut self, group: &mut Group) {
        debug_assert!(group.batches.is_empty());
        let mut room = self.group_records;
        while room > 0 {
            let Some(oldest) = self.waiting.front_mut() else {
                break;
            };
            let records = room.min(oldest.records);
            group.batches.push(Batch { since: oldest.since, records });
            room -= records;
            oldest.records -= records;
            if oldest.records == 0 {
                self.waiting.pop_front();
            }
        }
    }

    /// Empties `group`: its records wait again, from `now` on.
    pub(crate) fn put_back(&mut self, group: &mut Group, now: Instant) {
        let records = group.records();
        group.batches.clear();
        if records > 0 {
            self.waiting.push_back(Batch { since: now, records });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_go_first_and_none_is_lost() {
        let mut clients = Clients::new(10, 4);
        let mut groups = [Group::default(), Group::default(), Group::default()];
        for (group, records) in groups.iter_mut().zip([4, 4, 2]) {
            clients.take(group);
            assert_eq!(group.records(), records);
        }
        let now = Instant::now() + Duration::from_secs(1);
        clients.put_back(&mut groups[2], now);
        clients.put_back(&mut groups[0], now + Duration::from_secs(1));
        clients.take(&mut groups[2]);
        let expected = [(now, 2), (now + Duration::from_secs(1), 2)];
        assert_eq!(groups[2].batches(), expected.map(|(since, records)| Batch { since, records }));
        clients.take(&mut groups[0]);
        assert_eq!(groups[0].records(), 2);
    }
}
