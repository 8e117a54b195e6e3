//! What a power loss leaves: the durable state, and what is volatile on top of it, in order.
//!
//! The live disk and the replay of its journal go through the same [`Platter::apply`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::image::{Image, Ino};
use super::op::{Ended, Landed, Op, OpNumber};
use super::pages::Data;

/// Durable and volatile state.
#[derive(Clone, Default, Debug)]
pub struct Platter {
    pub durable: Image,
    /// Volatile writes and sizes, oldest first.
    pub writes: Vec<Volatile>,
    /// Volatile changes of names, oldest first; they become durable in this order.
    pub names: Vec<NameChange>,
}

/// A write, or a size, that a power loss may take away.
#[derive(Clone, Debug)]
pub struct Volatile {
    /// The operation that made it.
    pub number: OpNumber,
    pub file: Ino,
    pub name: Arc<str>,
    pub what: What,
    /// The parts that count still: what landed, less what a later durable write replaced. Empty for a size.
    pub live: Vec<Range<u64>>,
    /// Not ended yet: a flush does not cover it.
    pub in_flight: bool,
    /// A flush failed with it: no later one covers it.
    pub stuck: bool,
}

#[derive(Clone, Debug)]
pub enum What {
    Bytes(Data),
    Size(u64),
}

/// A change of names; `stuck` as in [`Volatile`].
#[derive(Clone, Debug)]
pub struct NameChange {
    pub what: NameWhat,
    pub stuck: bool,
}

#[derive(Clone, Debug)]
pub enum NameWhat {
    Create { name: Arc<str>, file: Ino },
    Rename { from: Arc<str>, to: Arc<str> },
    Remove { name: Arc<str> },
}

impl NameWhat {
    /// Does it; `both` leaves a renamed file under its old name, too.
    pub fn apply(&self, names: &mut BTreeMap<Arc<str>, Ino>, both: bool) {
        match self {
            NameWhat::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            NameWhat::Rename { from, to } => {
                if let Some(file) = names.get(from).copied() {
                    names.insert(to.clone(), file);
                    if !both {
                        names.remove(from);
                    }
                }
            }
            NameWhat::Remove { name } => {
                names.remove(name);
            }
        }
    }
}

impl Volatile {
    /// The file's length when this is applied, at least.
    pub fn size(&self) -> u64 {
        match &self.what {
            What::Bytes(_) => self.live.last().map_or(0, |range| range.end),
            What::Size(bytes) => *bytes,
        }
    }

    /// Puts it into an image.
    pub fn apply(&self, image: &mut Image) {
        let file = image.file_mut(self.file);
        match &self.what {
            What::Bytes(data) => self.live.iter().for_each(|range| file.write(data, range.clone())),
            What::Size(bytes) => file.extend_to(*bytes),
        }
    }
}

impl Platter {
    /// A disk on which everything is durable.
    pub fn new(durable: Image) -> Platter {
        Platter { durable, writes: Vec::new(), names: Vec::new() }
    }

    /// Goes on by one operation.
    pub fn apply(&mut self, number: OpNumber, op: &Op) {
        match op {
            Op::Create { name, file } => {
                self.durable.file_mut(*file);
                self.change_name(NameWhat::Create { name: name.clone(), file: *file });
            }
            Op::Rename { from, to } => self.change_name(NameWhat::Rename { from: from.clone(), to: to.clone() }),
            Op::Remove { name } => self.change_name(NameWhat::Remove { name: name.clone() }),
            Op::SyncDir => self.sync_names(usize::MAX),
            Op::SyncDirFailed { kept } => {
                self.sync_names(*kept);
                self.names.iter_mut().for_each(|change| change.stuck = true);
            }
            Op::Allocate { file, bytes } => {
                let name = self.name_of(*file);
                let (what, live) = (What::Size(*bytes), Vec::new());
                let size = Volatile { number, file: *file, name, what, live, in_flight: false, stuck: false };
                self.writes.push(size);
            }
            Op::Write { file, name, data, .. } => self.writes.push(Volatile {
                number,
                file: *file,
                name: name.clone(),
                what: What::Bytes(data.clone()),
                live: vec![data.range()],
                in_flight: true,
                stuck: false,
            }),
            Op::Done { write, landed, ended } => self.end_write(*write, *landed, *ended),
            Op::Flush { file } => self.flush(*file, usize::MAX),
            Op::FlushFailed { file, kept } => {
                self.flush(*file, *kept);
                let left = self.writes.iter_mut().filter(|write| write.file == *file && !write.in_flight);
                left.for_each(|write| write.stuck = true);
            }
            Op::CachesDropped { kept } => {
                while let Some(at) = self.writes.iter().position(|write| write.stuck) {
                    if *kept { self.make_durable(at) } else { drop(self.writes.remove(at)) }
                }
            }
            Op::Damaged { name, file, content } => {
                self.names.iter_mut().for_each(|change| change.stuck = false);
                self.sync_names(usize::MAX);
                self.writes.retain(|write| write.file != *file || write.in_flight);
                self.durable.set_file(*file, content.clone());
                match content {
                    Some(_) => self.durable.names_mut().insert(name.clone(), *file),
                    None => self.durable.names_mut().remove(name),
                };
            }
            Op::FlushLied { .. } | Op::Killed | Op::Note(_) => {}
        }
    }

    /// The volatile write of that operation.
    pub fn write(&self, number: OpNumber) -> Option<&Volatile> {
        let at = self.writes.binary_search_by_key(&number, |write| write.number).ok()?;
        Some(&self.writes[at])
    }

    /// How many writes a flush of the file would make durable.
    pub fn flushable(&self, file: Ino) -> usize {
        self.writes.iter().filter(|write| write.file == file && !write.in_flight && !write.stuck).count()
    }

    fn name_of(&self, file: Ino) -> Arc<str> {
        let created = self.names.iter().find_map(|change| match &change.what {
            NameWhat::Create { name, file: created } if *created == file => Some(name),
            _ => None,
        });
        self.durable.name_of(file).or(created).cloned().unwrap_or_else(|| "?".into())
    }

    fn change_name(&mut self, what: NameWhat) {
        self.names.push(NameChange { what, stuck: false });
    }

    fn sync_names(&mut self, at_most: usize) {
        let flushable = self.names.iter().take_while(|change| !change.stuck).count().min(at_most);
        if flushable == 0 {
            return;
        }
        for change in self.names.drain(..flushable) {
            change.what.apply(self.durable.names_mut(), false);
        }
        self.forget_unreachable();
    }

    /// Frees what no crash can show again.
    fn forget_unreachable(&mut self) {
        let created = |ino: Ino| {
            let mut changes = self.names.iter();
            changes.any(|change| matches!(change.what, NameWhat::Create { file, .. } if file == ino))
        };
        let is_lost = |(ino, _): &(Ino, _)| self.durable.name_of(*ino).is_none() && !created(*ino);
        let lost: Vec<Ino> = self.durable.files().filter(is_lost).map(|(ino, _)| ino).collect();
        for ino in lost {
            self.durable.set_file(ino, None);
            self.writes.retain(|write| write.file != ino || write.in_flight);
        }
    }

    fn end_write(&mut self, number: OpNumber, landed: Landed, ended: Ended) {
        let Ok(at) = self.writes.binary_search_by_key(&number, |write| write.number) else { return };
        let write = &mut self.writes[at];
        write.in_flight = false;
        write.stuck = ended == Ended::Failed;
        if landed != Landed::Full
            && let What::Bytes(data) = &write.what
        {
            write.live = landed.ranges(data.range());
        }
        if write.live.is_empty() {
            self.writes.remove(at);
        } else if ended == Ended::Durable {
            self.make_durable(at);
        }
    }

    fn flush(&mut self, file: Ino, at_most: usize) {
        let mut at = 0;
        let mut left = at_most;
        while at < self.writes.len() && left > 0 {
            let write = &self.writes[at];
            if write.file == file && !write.in_flight && !write.stuck {
                self.make_durable(at);
                left -= 1;
                // Older writes may have vanished, replaced by this one: look again from the start.
                at = 0;
            } else {
                at += 1;
            }
        }
    }

    /// Applies one write for good, and takes what it replaced away from older ones.
    fn make_durable(&mut self, at: usize) {
        let write = self.writes.remove(at);
        write.apply(&mut self.durable);
        for older in &mut self.writes[..at] {
            if older.file == write.file && matches!(older.what, What::Bytes(_)) && !older.in_flight {
                older.live = subtract(&older.live, &write.live);
            }
        }
        self.writes.retain(|write| !write.live.is_empty() || matches!(write.what, What::Size(_)));
    }
}

/// What is left of `from` without `cut`; both in order.
fn subtract(from: &[Range<u64>], cut: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::with_capacity(from.len());
    for range in from {
        let mut start = range.start;
        for hole in cut.iter().filter(|hole| hole.start < range.end && hole.end > range.start) {
            if start < hole.start {
                left.push(start..hole.start);
            }
            start = start.max(hole.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}
