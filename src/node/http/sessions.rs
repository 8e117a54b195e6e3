//! Sources' sessions, kept between their requests: the next request of a source continues its session, in its turn, and
//! nothing is appended for it but its records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::io::Storage;
use crate::node::talk::Talk;
use crate::types::{SourceEpoch, SourceId};

/// One source's place. Whoever holds the lock has the source's turn; whoever is cancelled in its middle drops the talk
/// with all it had reserved, and the next one opens another in the same epoch.
pub(super) struct Slot<S: Storage> {
    pub(super) talk: tokio::sync::Mutex<Option<Talk<S>>>,
    used: Mutex<Instant>,
    /// The highest of those who came.
    epoch: AtomicU64,
}

impl<S: Storage> Slot<S> {
    pub(super) fn note_epoch(&self, epoch: SourceEpoch) {
        self.epoch.fetch_max(epoch.get(), Ordering::Relaxed);
    }
}

/// At most so many places.
pub(super) struct Table<S: Storage> {
    slots: Mutex<HashMap<SourceId, Arc<Slot<S>>>>,
    places_max: usize,
    idle: Duration,
}

impl<S: Storage> Table<S> {
    pub(super) fn new(places_max: usize, idle: Duration) -> Table<S> {
        Table { slots: Mutex::new(HashMap::new()), places_max, idle }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// The source's place; `None` when all places have requests going on. A request of a higher epoch does not wait for
    /// one of a lower: it gets another place, and the other one is fenced.
    pub(super) fn slot(&self, id: &SourceId, epoch: Option<SourceEpoch>, now: Instant) -> Option<Arc<Slot<S>>> {
        // Dropped behind the lock: a session that ends takes the receiver's.
        let _gone;
        let mut slots = self.slots.lock();
        let is_above = |slot: &Slot<S>| epoch.is_some_and(|epoch| epoch.get() > slot.epoch.load(Ordering::Relaxed));
        if let Some(slot) = slots.get(id)
            && (!is_above(slot) || slot.talk.try_lock().is_ok())
        {
            *slot.used.lock() = now;
            slot.note_epoch(epoch.unwrap_or_default());
            return Some(slot.clone());
        }
        if !slots.contains_key(id) && slots.len() >= self.places_max {
            let oldest = silent_longest(slots.iter())?;
            _gone = slots.remove(&oldest);
        }
        let epoch = AtomicU64::new(epoch.unwrap_or_default().get());
        let slot = Arc::new(Slot { talk: tokio::sync::Mutex::new(None), used: Mutex::new(now), epoch });
        slots.insert(id.clone(), slot.clone());
        Some(slot)
    }

    /// Ends the session of the source that was silent longest: another one is needed. False when none is there to be ended.
    pub(super) fn give_one_up(&self) -> bool {
        let gone = {
            let mut slots = self.slots.lock();
            let has_session = |slot: &Slot<S>| slot.talk.try_lock().is_ok_and(|talk| talk.is_some());
            let oldest = silent_longest(slots.iter().filter(|(_, slot)| has_session(slot)));
            oldest.and_then(|id| slots.remove(&id))
        };
        gone.is_some()
    }

    /// Ends the sessions of sources that were silent for long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        self.slots.lock().retain(|_, slot| {
            let is_kept = Arc::strong_count(slot) > 1 || *slot.used.lock() + self.idle > now;
            if !is_kept {
                gone.push(slot.clone());
            }
            is_kept
        });
    }

    /// Ends all of them.
    pub(super) fn clear(&self) {
        let _gone = std::mem::take(&mut *self.slots.lock());
    }
}

/// The one without a request that was not used for longest.
fn silent_longest<'a, S: Storage>(slots: impl Iterator<Item = (&'a SourceId, &'a Arc<Slot<S>>)>) -> Option<SourceId> {
    let idle = slots.filter(|(_, slot)| Arc::strong_count(slot) == 1);
    idle.min_by_key(|(_, slot)| *slot.used.lock()).map(|(id, _)| id.clone())
}
