//! What a [`FaultFs`](crate::FaultFs) is like.

/// What a [`FaultFs`](crate::FaultFs) is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is lost or kept as a whole: 512 or 4096 bytes. Default 512.
    pub sector_bytes: u64,
    /// Offsets and lengths of direct I/O must be multiples of this. Default 512. The alignment of memory cannot be seen
    /// through FUSE and is not asked for.
    pub direct_align_bytes: u64,
    /// More does not fit (ENOSPC). Default 256 MiB. What survives and versions of unflushed sectors come on top: at most
    /// five times this in memory.
    pub capacity_bytes: u64,
    /// Whether fsync of a new file keeps its name too, as some file systems happen to do. Default false.
    pub file_sync_keeps_name: bool,
    /// What a failed fsync leaves. Default [`FsyncFailure::DropsPages`].
    pub fsync_failure: FsyncFailure,
}

/// What a failed fsync leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsyncFailure {
    /// What was to be flushed can still be read, but counts as clean: the next fsync says Ok and does nothing about it,
    /// and after a power loss it is gone.
    DropsPages,
    /// It is unflushed as before: the next fsync flushes it.
    KeepsPages,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sector_bytes: 512,
            direct_align_bytes: 512,
            capacity_bytes: 256 << 20,
            file_sync_keeps_name: false,
            fsync_failure: FsyncFailure::DropsPages,
        }
    }
}
