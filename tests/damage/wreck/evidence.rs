//! What is left of a damaged log: which frames are touched, and what still tells of them.

use std::collections::BTreeSet;

use super::super::bytes::{HEADER, MARKER, SEAL};
use super::super::sim::SimDisk;
use super::super::story::Past;
use super::layout::{CONTROL, ControlAt, Layout, Part, Thing, bytes_of, name};
use super::promise::Promise;

/// What a damage left.
#[derive(Clone)]
pub struct Evidence {
    /// Frames of which a byte is another, or whose place is told by nothing any more: behind a broken header nobody knows where
    /// the next frame stands, up to the next block that begins with one.
    pub touched: BTreeSet<u64>,
    is_newest_seal_lost: bool,
    /// What was prepared above the newest segment is as it was.
    pub is_prepared_whole: bool,
    /// The last frame that anything whole says was flushed.
    pub claimed: u64,
    /// So many truncations are told by what is left.
    pub truncations: u64,
    /// The control file that counts now, and whether it is the one that counted before.
    pub control: Option<ControlAt>,
    pub is_control_whole: bool,
    /// Segments whose files are gone, and of which what is left tells that they were there.
    pub gone: BTreeSet<u64>,
    /// The frames that stood in those.
    pub missed: BTreeSet<u64>,
    /// A segment's header is left, by which a control file can be built anew.
    pub can_be_rebuilt: bool,
    pub promise: Promise,
    /// Frames from here on may have been dropped, and named to somebody who does not ask any more.
    pub dropped_from: Option<u64>,
    /// What was appended behind the close that an old control file tells of, if nothing stands at its place any more.
    pub behind_old_close: Option<u64>,
}

/// What of a thing is as it was written.
struct Left {
    header: bool,
    payload: bool,
}

/// What is left of a segment that the log is made of.
#[derive(Default)]
pub struct PartLeft {
    pub is_there: bool,
    pub has_seal: bool,
    /// Something behind the seal was written when that was flushed.
    pub tells: bool,
    /// Its frames, and whether they are whole and can be found.
    pub frames: Vec<(u64, bool)>,
}

impl PartLeft {
    pub fn is_first_whole(&self) -> bool {
        self.frames.first().is_some_and(|(_, is_whole)| *is_whole)
    }

    pub fn is_last_whole(&self) -> bool {
        self.frames.last().is_some_and(|(_, is_whole)| *is_whole)
    }
}

impl Left {
    fn is_whole(&self) -> bool {
        self.header && self.payload
    }
}

impl Evidence {
    pub fn of(layout: &Layout, disk: &SimDisk, past: &Past) -> Evidence {
        let control = bytes_of(disk, CONTROL);
        let counts = ControlAt::of(&control);
        let mut evidence = Evidence {
            touched: BTreeSet::new(),
            is_newest_seal_lost: false,
            is_prepared_whole: true,
            claimed: 0,
            truncations: counts.map_or(0, |control| control.truncations),
            control: counts,
            is_control_whole: counts == Some(layout.control),
            gone: BTreeSet::new(),
            missed: BTreeSet::new(),
            can_be_rebuilt: false,
            promise: Promise::default(),
            dropped_from: None,
            behind_old_close: None,
        };
        if let Some(control) = counts {
            evidence.claim(control.trimmed);
        }
        let mut parts = Vec::new();
        for (at, part) in layout.parts.iter().enumerate() {
            // What was cut behind its end was claimed as well, once.
            let end = layout.parts.get(at + 1).map_or(past.records.len() as u64, |next| next.seal.end);
            let below = stands_in(layout, disk, part.seal.sealed_segment);
            parts.push(evidence.see(layout, part, end, &bytes_of(disk, &name(part.number)), &below));
        }
        evidence.see_what_is_gone(layout, disk, past);
        evidence.claim(counts.and_then(|control| control.closed).map_or(0, |(.., lsn)| lsn));
        evidence.claimed = evidence.claimed.min(past.records.len() as u64);
        evidence.behind_old_close = evidence.unseen_behind_a_close(layout);
        evidence.promise = Promise::of(layout, &parts, &evidence);
        evidence
    }

    /// The same behind an open that came to nothing, and told nobody what it found. It may have decided on segments that are gone, and
    /// have dropped what nothing tells was flushed.
    pub fn behind_a_failed_open(&self, layout: &Layout) -> Evidence {
        let from = (layout.parts.last().map_or(0, |part| part.seal.end) + 1).max(self.claimed + 1);
        let hole = self.touched.range(from..).next().copied();
        let dropped_from = if self.is_newest_seal_lost { Some(from) } else { hole };
        Evidence { gone: BTreeSet::new(), dropped_from, ..self.clone() }
    }

    fn claim(&mut self, lsn: u64) {
        self.claimed = self.claimed.max(lsn);
    }

    /// What is left of a segment that ends there, above one in which frames with these numbers stand.
    fn see(&mut self, layout: &Layout, part: &Part, end: u64, now: &[u8], below: &BTreeSet<u64>) -> PartLeft {
        let was = &layout.files[&name(part.number)];
        let mut all = PartLeft { is_there: !now.is_empty(), ..PartLeft::default() };
        // The frame before the first thing behind the seal that is left. Where another one of its number stands below, that was cut.
        let mut before_first = None;
        // Behind a broken header, in the same group.
        let mut is_lost = false;
        for thing in &part.things {
            is_lost &= !thing.offset.is_multiple_of(layout.block);
            let left = left(thing, was, now, is_lost);
            if thing.is_data() {
                all.frames.push((thing.lsn, left.is_whole()));
                if !left.is_whole() {
                    self.touched.insert(thing.lsn);
                }
            }
            if thing.kind == SEAL {
                self.is_newest_seal_lost = !left.is_whole();
                all.has_seal = left.is_whole();
            }
            // A seal's length is always the same: what stands right behind it is found without it.
            is_lost |= !left.header && thing.kind != SEAL;
            if left.header {
                self.claim(thing.flushed_through.min(end));
                let before = match thing.kind {
                    SEAL => None,
                    MARKER => Some(thing.flushed_through),
                    _ => Some(thing.lsn - 1),
                };
                before_first = before_first.or(before);
                // What stands behind a lost seal tells of it where it was written when the seal was flushed: until then, it
                // may be of a write that did not end.
                let tells = match thing.kind {
                    SEAL => left.payload,
                    kind => {
                        (kind == MARKER || thing.flushed_through > part.seal.end)
                            && before_first.is_some_and(|lsn| below.contains(&lsn))
                    }
                };
                all.tells |= thing.flushed_through > part.seal.end || thing.kind == MARKER && left.payload;
                if tells {
                    self.truncations = self.truncations.max(part.seal.truncations);
                }
            }
            if thing.kind == SEAL && left.is_whole() {
                self.claim(part.seal.end);
            }
        }
        all
    }

    /// The control file counts every segment that was ever prepared. Where it is lost, a seal counts what it continues.
    fn see_what_is_gone(&mut self, layout: &Layout, disk: &SimDisk, past: &Past) {
        let newest = layout.parts.last().map_or(0, |part| part.number);
        // Between two that are in use, there may be what was cut off.
        let numbers = layout.things.keys().copied().filter(|number| *number > newest || layout.is_used(*number));
        let mut is_sealed_above = false;
        for number in numbers.rev() {
            let (was, now) = (&layout.files[&name(number)], bytes_of(disk, &name(number)));
            self.can_be_rebuilt |= now.get(..HEADER) == Some(&was[..HEADER]);
            let is_counted = match self.control {
                Some(control) => (control.first_segment..=control.highest).contains(&number),
                None => is_sealed_above,
            };
            self.is_prepared_whole &= number <= newest || now == *was;
            if now.is_empty() && is_counted {
                self.gone.insert(number);
            }
            is_sealed_above |= layout.seal_of(number).is_some_and(|seal| left(seal, was, &now, false).is_whole());
        }
        for (at, part) in layout.parts.iter().enumerate().filter(|(_, part)| self.gone.contains(&part.number)) {
            let end = layout.parts.get(at + 1).map_or(past.records.len() as u64, |next| next.seal.end);
            self.missed.extend(part.seal.end + 1..=end);
        }
    }

    /// A control file that was replaced by an older one, which says that the log was closed, is noticed by what stands right
    /// behind the close. Where just that is lost, nothing tells that there was more.
    fn unseen_behind_a_close(&self, layout: &Layout) -> Option<u64> {
        let (segment, offset, lsn) = self.control.filter(|_| !self.is_control_whole)?.closed?;
        let part = layout.parts.iter().find(|part| part.number == segment)?;
        let next = part.things.iter().find(|thing| thing.is_data() && thing.offset >= offset as usize)?;
        let is_lost = next.offset == offset as usize && self.touched.contains(&next.lsn);
        is_lost.then_some(lsn)
    }

    /// Whether a frame may be missing without a word.
    ///
    /// - It is touched, and nothing whole says that it was flushed: a write that did not end looks the same.
    /// - The control file is from before the frame was appended, and says that the log ended before it.
    ///
    /// Where its segment's file is gone, no write that did not end looks like that.
    pub fn may_be_silent(&self, lsn: u64) -> bool {
        let may_not_have_ended = self.touched.contains(&lsn) && lsn > self.claimed && !self.missed.contains(&lsn);
        let may_be_dropped = self.dropped_from.is_some_and(|from| lsn >= from);
        may_not_have_ended || may_be_dropped || self.behind_old_close.is_some_and(|end| lsn > end)
    }

    /// Whether this record may be read there: the log's own; or, where nothing is left that tells of a truncation, one that it cut.
    pub fn may_be_read(&self, lsn: u64, record: u64, past: &Past) -> bool {
        let untold = past.cut.iter().skip(self.truncations as usize);
        std::iter::once(&past.records).chain(untold).any(|all| all.get(lsn as usize - 1) == Some(&record))
    }

    /// Whether a truncation is told by nothing any more.
    pub fn is_cut_untold(&self, past: &Past) -> bool {
        (self.truncations as usize) < past.cut.len()
    }

    /// Whether both slots of the control file are lost.
    pub fn is_control_lost(&self) -> bool {
        self.control.is_none()
    }
}

/// The frames whose headers stand in a segment, whether they count or not.
fn stands_in(layout: &Layout, disk: &SimDisk, number: u64) -> BTreeSet<u64> {
    let Some(things) = layout.things.get(&number) else { return BTreeSet::new() };
    let (was, now) = (&layout.files[&name(number)], bytes_of(disk, &name(number)));
    let stands = things.iter().filter(|thing| thing.is_data() && left(thing, was, &now, false).header);
    stands.map(|thing| thing.lsn).collect()
}

fn left(thing: &Thing, was: &[u8], now: &[u8], is_lost: bool) -> Left {
    let same = |range: std::ops::Range<usize>| now.get(range.clone()) == Some(&was[range]);
    Left { header: !is_lost && same(thing.header()), payload: !is_lost && same(thing.payload()) }
}
