//! Errors on demand, space that runs out, and the counting that aims both.

use std::io;

use super::image::Ino;
use super::op::Landed;
use super::state::State;

/// Error numbers as Linux has them.
pub mod errno {
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const EINVAL: i32 = 22;
    pub const EMFILE: i32 = 24;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const EDQUOT: i32 = 122;
}

/// A method of the storage, as far as it can fail or is worth counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OpKind {
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncDir,
    FreeBytes,
    Len,
    Allocate,
    Write,
    Flush,
    WriteFlushed,
    Submit,
    Read,
    Map,
    Populate,
    Hold,
    Lock,
}

impl OpKind {
    /// Every kind.
    pub const ALL: [OpKind; 18] = {
        use OpKind::*;
        [
            List,
            Create,
            Open,
            Rename,
            Remove,
            SyncDir,
            FreeBytes,
            Len,
            Allocate,
            Write,
            Flush,
            WriteFlushed,
            Submit,
            Read,
            Map,
            Populate,
            Hold,
            Lock,
        ]
    };

    /// True for what changes the disk, or claims to.
    pub fn is_mutation(self) -> bool {
        use OpKind::*;
        matches!(self, Create | Rename | Remove | SyncDir | Allocate | Write | Flush | WriteFlushed | Submit)
    }
}

/// Which calls a fault counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Calls of one method.
    Kind(OpKind),
    /// Calls that change the disk: a file system gone read-only.
    Mutations,
    /// Every call.
    Any,
}

impl From<OpKind> for Target {
    fn from(kind: OpKind) -> Target {
        Target::Kind(kind)
    }
}

impl Target {
    fn covers(self, kind: OpKind) -> bool {
        match self {
            Target::Kind(only) => only == kind,
            Target::Mutations => kind.is_mutation(),
            Target::Any => true,
        }
    }
}

/// What has happened although there was an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    Before,
    /// A part, where there are parts: half of a write, a flush or a directory's changes. Else as `Before`.
    AfterPartial,
    /// Everything.
    AfterFull,
}

/// Which error it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// One of the operating system's numbers.
    Errno(i32),
    /// An error without a number: `WriteZero` is a short write.
    Kind(io::ErrorKind),
}

impl FaultError {
    /// The error.
    pub fn error(self) -> io::Error {
        match self {
            FaultError::Errno(errno) => io::Error::from_raw_os_error(errno),
            FaultError::Kind(kind) => io::Error::new(kind, "injected"),
        }
    }
}

impl From<i32> for FaultError {
    fn from(errno: i32) -> FaultError {
        FaultError::Errno(errno)
    }
}

impl From<io::ErrorKind> for FaultError {
    fn from(kind: io::ErrorKind) -> FaultError {
        FaultError::Kind(kind)
    }
}

/// An error to come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub op: Target,
    /// How many calls that it covers go well first, counted from when it is set.
    pub nth: u64,
    pub error: FaultError,
    /// Only that call; else every one from there on.
    pub once: bool,
    pub effect: Effect,
    /// Only calls on files whose name contains this.
    pub file: Option<String>,
}

impl Fault {
    /// The `nth` call (0 is the next one) fails, once, without an effect.
    pub fn new(op: impl Into<Target>, nth: u64, error: impl Into<FaultError>) -> Fault {
        let effect = Effect::Before;
        Fault { op: op.into(), nth, error: error.into(), once: true, effect, file: None }
    }

    /// The `nth` write of this kind ends early.
    pub fn short(op: OpKind, nth: u64) -> Fault {
        Fault::new(op, nth, io::ErrorKind::WriteZero).effect(Effect::AfterPartial)
    }

    /// Every call from there on, until [`SimDisk::heal`](super::SimDisk::heal).
    pub fn forever(mut self) -> Fault {
        self.once = false;
        self
    }

    /// What has happened all the same.
    pub fn effect(mut self, effect: Effect) -> Fault {
        self.effect = effect;
        self
    }

    /// Only files whose name contains this.
    pub fn on(mut self, file: &str) -> Fault {
        self.file = Some(file.to_owned());
        self
    }
}

/// A fault that met its call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    pub(super) error: FaultError,
    pub(super) effect: Effect,
    /// For choices within the effect.
    pub(super) seed: u64,
}

impl Hit {
    /// How much of a write lands.
    pub(super) fn landed(&self, bytes: u64) -> Landed {
        match self.effect {
            Effect::Before => Landed::Nothing,
            Effect::AfterPartial => Landed::partial(bytes, self.seed),
            Effect::AfterFull => Landed::Full,
        }
    }

    /// How many of so many steps happen.
    pub(super) fn part_of(&self, steps: usize) -> usize {
        match self.effect {
            Effect::Before => 0,
            Effect::AfterPartial => steps / 2,
            Effect::AfterFull => steps,
        }
    }
}

/// Faults that wait, and what was called so far.
#[derive(Default)]
pub(super) struct Faults {
    waiting: Vec<Fault>,
    counts: [u64; OpKind::ALL.len()],
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.waiting.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn count(&self, target: Target) -> u64 {
        OpKind::ALL.iter().filter(|kind| target.covers(**kind)).map(|kind| self.counts[*kind as usize]).sum()
    }

    fn admit(&mut self, kind: OpKind, name: &str) -> Option<Hit> {
        self.counts[kind as usize] += 1;
        let mut hit = None;
        self.waiting.retain_mut(|fault| {
            if !fault.op.covers(kind) || fault.file.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
                return true;
            }
            if fault.nth > 0 {
                fault.nth -= 1;
                return true;
            }
            let seed = self.counts.iter().sum();
            hit.get_or_insert(Hit { error: fault.error, effect: fault.effect, seed });
            !fault.once
        });
        hit
    }
}

impl State {
    /// Counts a call on a name; a fault that is meant for it is returned.
    pub(super) fn admit(&mut self, kind: OpKind, name: &str) -> Option<Hit> {
        self.faults.admit(kind, name)
    }

    /// Counts a call on a file; a fault that is meant for it is returned.
    pub(super) fn admit_on(&mut self, kind: OpKind, file: Ino) -> Option<Hit> {
        // Looking for the name is the dear part, and mostly nobody asks.
        if self.faults.waiting() == 0 {
            return self.faults.admit(kind, "");
        }
        let name = self.name_of(file);
        self.faults.admit(kind, &name)
    }

    /// Bytes that files take: their lengths, holes included, as long as a name or a handle keeps them.
    pub(super) fn used_bytes(&self) -> u64 {
        self.written.files().map(|(_, file)| file.len()).sum()
    }

    /// Fails where a file of `from` bytes cannot become one of `to`.
    pub(super) fn check_space(&self, from: u64, to: u64) -> io::Result<()> {
        match self.capacity {
            Some((capacity, errno)) if to > from && self.used_bytes() + (to - from) > capacity => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }
}
