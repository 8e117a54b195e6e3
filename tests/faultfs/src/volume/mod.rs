//! The file system itself, without a kernel: inodes, handles, power and faults.
//!
//! Everything that happens to a volume happens under one lock, one operation after the other, so that a power cut falls
//! between two of them: what was answered before it was done before it.

mod data;
mod file;
mod names;
mod power;
mod tree;

pub use power::Survived;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::SystemTime;

use rustix::io::Errno;

use crate::fault::{Faults, Op};
use crate::options::Options;
use file::FileBytes;
use names::Names;

/// What operations answer.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// The number of an inode; never used again, not even after a power loss.
pub(crate) type Ino = u64;

/// The number of an open file or directory.
pub(crate) type Handle = u64;

/// The inode of the uppermost directory.
pub(crate) const ROOT: Ino = 1;

/// A file system.
pub(crate) struct Volume {
    pub(crate) options: Options,
    pub(crate) faults: Faults,
    inodes: BTreeMap<Ino, Inode>,
    names: Names,
    handles: BTreeMap<Handle, Opened>,
    /// The last number given to an inode or a handle.
    numbers: u64,
    has_power: bool,
    /// Power losses so far; whatever was opened before the last one is dead.
    epoch: u64,
    counts: BTreeMap<Op, u64>,
}

/// What there is to know about a file or directory.
pub(crate) struct Stat {
    pub(crate) ino: Ino,
    pub(crate) is_dir: bool,
    pub(crate) len: u64,
    pub(crate) pages: u64,
    pub(crate) mode: u16,
    pub(crate) links: u32,
    pub(crate) modified: SystemTime,
}

/// How a file was opened.
#[derive(Clone, Copy, Default)]
pub(crate) struct OpenMode {
    /// O_DIRECT: offsets and lengths must be aligned, and no page cache stands in between.
    pub(crate) direct: bool,
}

struct Inode {
    /// `None` for a directory.
    bytes: Option<FileBytes>,
    mode: u16,
    /// The name it got last, for faults that ask for one.
    name: OsString,
    modified: SystemTime,
}

struct Opened {
    ino: Ino,
    mode: OpenMode,
    /// What a directory held when it was read from its start.
    listing: Vec<(OsString, Ino, bool)>,
}

impl Volume {
    pub(crate) fn new(options: Options) -> Volume {
        let mut names = Names::default();
        names.add_dir(ROOT);
        let root = Inode { bytes: None, mode: 0o755, name: OsString::new(), modified: SystemTime::now() };
        Volume {
            options,
            faults: Faults::default(),
            inodes: BTreeMap::from([(ROOT, root)]),
            names,
            handles: BTreeMap::new(),
            numbers: ROOT,
            has_power: true,
            epoch: 0,
            counts: BTreeMap::new(),
        }
    }

    /// How often this was asked for, failures included.
    pub(crate) fn count(&self, op: Op) -> u64 {
        self.counts.get(&op).copied().unwrap_or(0)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn stat(&self, ino: Ino) -> Result<Stat> {
        self.powered()?;
        let inode = self.inode(ino)?;
        let (len, pages) = inode.bytes.as_ref().map_or((0, 0), |bytes| (bytes.len(), bytes.mapped_pages()));
        let is_dir = inode.bytes.is_none();
        let links = if is_dir { 2 } else { self.names.links(ino) as u32 };
        Ok(Stat { ino, is_dir, len, pages, mode: inode.mode, links, modified: inode.modified })
    }

    pub(crate) fn chmod(&mut self, ino: Ino, mode: u16) -> Result<()> {
        self.powered()?;
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)?.mode = mode;
        Ok(())
    }

    pub(crate) fn open(&mut self, ino: Ino, mode: OpenMode) -> Result<Handle> {
        self.powered()?;
        if self.inode(ino)?.bytes.is_some() {
            self.may_fail(Op::Open, ino)?;
        }
        Ok(self.add_handle(ino, mode))
    }

    pub(crate) fn release(&mut self, handle: Handle) {
        if let Some(opened) = self.handles.remove(&handle)
            && self.names.links(opened.ino) == 0
        {
            self.forget_unreachable();
        }
    }

    fn powered(&self) -> Result<()> {
        if self.has_power { Ok(()) } else { Err(Errno::IO) }
    }

    /// Counts the operation and fails it if that was asked for.
    fn may_fail(&mut self, op: Op, ino: Ino) -> Result<()> {
        *self.counts.entry(op).or_default() += 1;
        let name = self.inodes.get(&ino).map(|inode| inode.name.to_string_lossy());
        self.faults.check(op, name.as_deref().unwrap_or(""))
    }

    fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::STALE)
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn add_handle(&mut self, ino: Ino, mode: OpenMode) -> Handle {
        let handle = self.next_number();
        self.handles.insert(handle, Opened { ino, mode, listing: Vec::new() });
        handle
    }

    /// Drops what has no name, cannot get one back, and is not open.
    fn forget_unreachable(&mut self) {
        let mut kept = self.names.reachable();
        kept.insert(ROOT);
        kept.extend(self.handles.values().map(|opened| opened.ino));
        let gone: Vec<Ino> = self.inodes.keys().filter(|ino| !kept.contains(ino)).copied().collect();
        for ino in gone {
            self.inodes.remove(&ino);
            self.names.forget_dir(ino);
        }
    }
}
