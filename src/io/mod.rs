//! The only module that talks to files, rings and the kernel. All unsafe code of the crate lives below here.
//!
//! [`Storage`] is the one seam: a directory of files, called once per group of frames, never once per record.
//! [`Disk`] is the real one, with two backends (io_uring, positional writes). Tests bring simulated ones.

mod buffer;
mod disk;
mod driver;
mod fork;
#[cfg_attr(shuttle, path = "futex_model.rs")]
mod futex;
mod map;
mod random;
mod slice;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use buffer::{Buffer, BufferPool};
pub(crate) use disk::rename_dir;
pub use disk::{Access, DirLock, Disk, DiskFile};
#[cfg(feature = "ledger")]
pub(crate) use disk::{create_dir, lock};
pub use driver::{Driver, DriverConfig, DriverLoop};
pub(crate) use fork::is_forked_child;
#[cfg(feature = "ledger")]
pub(crate) use fork::watch_forks;
pub(crate) use futex::Futex;
pub use map::{MapWatch, Mapping};
pub(crate) use random::random;
pub use slice::shorten_time_slice;

/// How bytes reach the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// Writes in flight go through one io_uring, or by threads where these are found to be quicker and both are allowed.
    IoUring,
    /// Writes in flight go through a bounded pool of threads with positional writes.
    Pwrite,
    /// Not an operating system's files.
    Simulated,
}

impl Backend {
    /// The name used in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::IoUring => "io_uring",
            Backend::Pwrite => "pwrite",
            Backend::Simulated => "simulated",
        }
    }
}

/// What a storage is made of; chosen once, when it is opened, and reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Medium {
    /// How writes in flight are carried.
    pub backend: Backend,
    /// Why io_uring was not used although it was wanted; `None` when it is, or was not wanted.
    pub backend_reason: Option<String>,
    /// True: O_DIRECT, a group is durable by one O_DSYNC write, reads see the device. False: the file system refused
    /// O_DIRECT; a group is durable by a buffered write and fdatasync, and reads see the page cache.
    pub direct: bool,
    /// Direct, and the file system does not write through a cache of this kernel all the same. Where that is not known, one group is
    /// on its way at a time: a flush that fails may give up the bytes of all groups in the cache and tell one of them. And what was
    /// read may be what a failed flush left in the cache, so that a tail which is made durable where it stands is written again.
    ///
    /// It is known of ext4, XFS and F2FS files whose direct I/O has an alignment by `statx` (Linux 6.1), and taken for true where
    /// the user says so ([`DirectIo::Trust`](crate::DirectIo::Trust)). What is below the file system is not looked at: a loop
    /// device or a virtual disk whose host has a cache must tell every flush that loses bytes.
    pub past_caches: bool,
    /// Groups start at multiples of this many bytes; writes and direct reads are multiples of it.
    pub device_block_bytes: u32,
}

/// What a flushed write cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteTimes {
    /// Handing the bytes to the kernel; zero when the write and the flush are one operation.
    pub write: Duration,
    /// Making them durable.
    pub flush: Duration,
    /// A thread waited in the system call.
    pub by_thread: bool,
}

/// A group on its way to the device: `parts`, one after another, at `offset` of `file`.
#[derive(Debug)]
pub struct GroupWrite<F> {
    /// The segment's file.
    pub file: Arc<F>,
    /// Byte offset of the first part; a multiple of the device block.
    pub offset: u64,
    /// Buffers whose filled lengths are multiples of the device block.
    pub parts: Vec<Arc<Buffer>>,
    /// The submitter's name for this write.
    pub token: u64,
}

impl<F> GroupWrite<F> {
    /// Bytes in all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// Whoever submits writes to a storage and is driven by it.
pub trait Client<F>: Send + Sync {
    /// A submitted write ended: durable, or not. Called exactly once per submitted write, in any order, never from
    /// within [`Storage::submit`].
    fn complete(&self, write: GroupWrite<F>, result: io::Result<WriteTimes>);

    /// Called soon after a [`Storage::kick`] and when the time the last call asked for has passed. Returns in how long
    /// it wants to be called again; `None`: only after the next kick.
    fn drive(&self) -> Option<Duration>;

    /// A call of it panicked, and none of these will be made again: whoever waits for it must be told.
    fn panicked(&self);
}

/// A claim on a segment's file, seen by other processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It may be read and mapped: nobody recycles it.
    Shared,
    /// None any more.
    Released,
    /// It is being written. Writes still in flight when a process dies keep its claim alive until they end.
    Exclusive,
}

/// Why the directory could not be locked.
#[derive(Debug)]
pub enum LockFailed {
    /// Another writer holds it; its process id, if it could be read.
    Held(Option<u32>),
    /// The lock file could not be used.
    Io(io::Error),
}

/// The directory of one log, with the operations a log needs of it.
///
/// Durability: bytes written survive power loss once `flush` or `write_flushed` returned or a submitted write
/// completed without an error; names created, renamed or removed once `sync_dir` returned. After an error nothing is
/// known, and nothing is retried.
pub trait Storage: Send + Sync + 'static {
    /// An open file.
    type File: Send + Sync + std::fmt::Debug + 'static;
    /// Held by the one writer; released when dropped.
    type Lock: Send + Sync + 'static;

    /// What this storage is made of.
    fn medium(&self) -> Medium;

    /// A name for messages: the directory's path.
    fn describe(&self) -> String;

    /// Every file's name and length in bytes, in no order. Names that are not Unicode are left out.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Creates an empty file; fails with `AlreadyExists` when the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading, and for writing where the directory allows it.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file's name.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes the file system would still give us.
    fn free_bytes(&self) -> io::Result<u64>;

    /// A file's length in bytes.
    fn len(&self, file: &Self::File) -> io::Result<u64>;

    /// Extends a file to `bytes` with space that is reserved and reads as zeros, without writing it.
    fn allocate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;

    /// Hands the filled part of a buffer to the kernel, not flushed. Offset and length are multiples of the device block.
    fn write(&self, file: &Self::File, offset: u64, bytes: &Buffer) -> io::Result<()>;

    /// Makes everything written to a file durable.
    fn flush(&self, file: &Self::File) -> io::Result<()>;

    /// Writes a group and returns when it is durable; the calling thread does the work.
    fn write_flushed(&self, file: &Self::File, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes>;

    /// Starts a group's write; its end is told to the client. Never blocks on the device.
    fn submit(&self, write: GroupWrite<Self::File>);

    /// Reads up to `bytes` (a multiple of the device block, at such an offset) into the start of `into` and sets its
    /// length to what was read: less only at the file's end. Where the medium is direct, it reads the device.
    fn read_at(&self, file: &Self::File, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize>;

    /// Maps the first `bytes` of a sealed file. Never called for one that is still written.
    fn map(&self, file: &Self::File, bytes: u64) -> io::Result<Mapping>;

    /// Makes a range of a mapping safe to read: an unreadable or vanished page is an error here.
    fn populate(&self, map: &Mapping, range: Range<usize>) -> io::Result<()>;

    /// Claims a file for this handle, without waiting; false when another holds a conflicting claim.
    fn hold(&self, file: &Self::File, hold: Hold) -> io::Result<bool>;

    /// Becomes the directory's one writer, without waiting.
    fn lock(&self) -> Result<Self::Lock, LockFailed>;

    /// Names the one client of this directory.
    fn attach(&self, client: Weak<dyn Client<Self::File>>);

    /// Asks for the client to be driven soon. Cheap, callable from anywhere, also within `drive` and `complete`.
    fn kick(&self);

    /// Called by a thread before it sleeps until something that is under way here has been done, and again so long after as this
    /// says: where whoever should do it does not, somebody else does from then on. `None`: there is no need to call again.
    fn watch_over(&self) -> Option<Duration> {
        None
    }

    /// Runs a job that may block, soon, on another thread; jobs of one storage run one at a time, in order.
    fn background(&self, job: Box<dyn FnOnce() + Send>);
}

#[cfg(test)]
#[path = "../../tests/support/skip.rs"]
mod skip;
