//! Errors on demand.

use rustix::io::Errno;

/// What a file system is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Bytes of a file are read; not those that a page cache answers for.
    Read,
    /// Bytes are written.
    Write,
    /// The same, but what happens instead of an error is that only the first half of the sectors is written, one at least,
    /// and the answer says so.
    CutWrite,
    /// Bytes are to be made durable: fsync, fdatasync, and the second half of a write with O_DSYNC or RWF_DSYNC.
    Fsync,
    /// Names are to be made durable.
    SyncDir,
    /// A name is looked up.
    Look,
    /// A file is made.
    Create,
    /// A file that is there is opened.
    Open,
    /// A name changes.
    Rename,
    /// A name goes away.
    Unlink,
    /// A directory is made.
    MakeDir,
    /// Space is reserved, or given back.
    Fallocate,
    /// A file is cut or lengthened.
    SetLen,
}

/// An error that is to happen.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What fails.
    pub op: Op,
    /// The how many-th of them from now on; 1 is the next.
    pub nth: u64,
    /// With which error.
    pub errno: Errno,
    /// All later ones too.
    pub forever: bool,
    /// Only those of files whose name ends so; for a rename, the new name.
    pub name: Option<String>,
}

impl Fault {
    /// The `nth` call fails, once, whatever the file.
    #[must_use]
    pub fn once(op: Op, nth: u64, errno: Errno) -> Fault {
        Fault { op, nth, errno, forever: false, name: None }
    }
}

/// Faults in waiting.
#[derive(Default)]
pub(crate) struct Faults {
    waiting: Vec<(Fault, u64)>,
    fired: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.waiting.push((fault, 0));
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn fired(&self) -> u64 {
        self.fired
    }

    /// Fails if this call is one that is to fail.
    pub(crate) fn check(&mut self, op: Op, name: &str) -> Result<(), Errno> {
        let mut error = None;
        self.waiting.retain_mut(|(fault, calls)| {
            if fault.op != op || fault.name.as_ref().is_some_and(|end| !name.ends_with(end)) {
                return true;
            }
            *calls += 1;
            let hit = if fault.forever { *calls >= fault.nth } else { *calls == fault.nth };
            if hit && error.is_none() {
                error = Some(fault.errno);
                self.fired += 1;
            }
            !hit || fault.forever
        });
        error.map_or(Ok(()), Err)
    }
}
