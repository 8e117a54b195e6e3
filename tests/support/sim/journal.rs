//! Everything that happened to a disk since it was made, and the disk at any moment of it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::choice::CrashChoice;
use super::disk::{DiskOptions, SimDisk};
use super::op::{Ended, Landed, Note, Op, OpNumber};
use super::platter::Platter;

/// A record of operations. A clone is cheap and stays as it is when the disk goes on.
#[derive(Clone, Debug)]
pub struct Journal {
    options: DiskOptions,
    base: Platter,
    base_number: OpNumber,
    ops: Arc<Vec<Op>>,
}

impl Journal {
    pub(super) fn new(options: DiskOptions, base: Platter, base_number: OpNumber) -> Journal {
        Journal { options, base, base_number, ops: Arc::default() }
    }

    pub(super) fn push(&mut self, op: Op) {
        Arc::make_mut(&mut self.ops).push(op);
    }

    /// What the disk was made with.
    pub fn options(&self) -> DiskOptions {
        self.options
    }

    /// The number of the first operation; not 0 when the journal was cut.
    pub fn first(&self) -> OpNumber {
        self.base_number
    }

    /// The number the next operation gets: a crash here has everything behind it.
    pub fn end(&self) -> OpNumber {
        self.base_number + self.ops.len() as u64
    }

    /// The operations with their numbers.
    pub fn ops(&self) -> impl Iterator<Item = (OpNumber, &Op)> {
        (self.base_number..).zip(self.ops.iter())
    }

    /// What the test had noted when the operations before `at` had happened.
    pub fn notes(&self, at: OpNumber) -> impl DoubleEndedIterator<Item = &Note> {
        let before = (at.saturating_sub(self.base_number) as usize).min(self.ops.len());
        self.ops[..before].iter().filter_map(|op| match op {
            Op::Note(note) => Some(note),
            _ => None,
        })
    }

    /// The greatest number noted before `at`.
    pub fn highest_note(&self, at: OpNumber) -> Option<u64> {
        let numbers = self.notes(at).filter_map(|note| match note {
            Note::Number(number) => Some(*number),
            Note::Text(_) => None,
        });
        numbers.max()
    }

    /// The moments that differ for a crash, each as late as it can be (so with as many notes as possible).
    pub fn crash_points(&self) -> Vec<OpNumber> {
        let changes = self.ops().filter(|(_, op)| match op {
            Op::Note(_) | Op::Killed | Op::FlushLied { .. } => false,
            Op::Done { landed, ended, .. } => *landed != Landed::Full || *ended == Ended::Durable,
            _ => true,
        });
        changes.map(|(number, _)| number).chain([self.end()]).collect()
    }

    /// The disk's durable and volatile state when the operations before `at` had happened.
    pub(super) fn replay(&self, at: OpNumber) -> Platter {
        let mut platter = self.base.clone();
        for (number, op) in self.ops().take_while(|(number, _)| *number < at) {
            platter.apply(number, op);
        }
        platter
    }

    /// The operation with this number.
    pub(super) fn op(&self, number: OpNumber) -> Option<&Op> {
        self.ops.get(number.checked_sub(self.base_number)? as usize)
    }

    pub(super) fn base(&self) -> &Platter {
        &self.base
    }

    /// The disk after power was lost at `at`, as this choice says: how a failing state is made again.
    pub fn crash(&self, at: OpNumber, choice: &CrashChoice) -> SimDisk {
        SimDisk::from_image(self.options, choice.image(&self.replay(at)))
    }

    /// A fingerprint of every operation, its bytes included: equal for equal runs.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.ops.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for Journal {
    /// One line per operation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, op) in self.ops() {
            writeln!(f, "{number:6} {op:?}")?;
        }
        Ok(())
    }
}
