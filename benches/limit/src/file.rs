//! The file that is written over: every block of it written and flushed before the first
//! measurement, because the first write to a merely allocated block costs a journal commit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aligned::AlignedBytes;
use crate::{BLOCK_BYTES, LimitError};

/// Bytes per write while zeros are written.
const PREPARE_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// `O_DIRECT`, unless the filesystem refuses it.
    IfGranted,
    /// What a filesystem that refuses gets.
    #[cfg_attr(not(test), expect(dead_code, reason = "chosen by tests only"))]
    Never,
}

#[derive(Debug)]
pub(crate) struct LimitFile {
    plain: File,
    /// Opened with `O_DSYNC` as well. `None` where `O_DIRECT` was refused.
    dsync: Option<File>,
    file_bytes: u64,
}

impl LimitFile {
    pub(crate) fn create(dir: &Path, file_bytes: u64, direct: Direct) -> Result<LimitFile, LimitError> {
        let file_bytes = file_bytes.max(1).next_multiple_of(BLOCK_BYTES as u64);
        if direct == Direct::IfGranted {
            match LimitFile::create_with(dir, file_bytes, libc::O_DIRECT) {
                Err(LimitError::Prepare { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
                created => return created,
            }
        }
        LimitFile::create_with(dir, file_bytes, 0)
    }

    fn create_with(dir: &Path, file_bytes: u64, direct: i32) -> Result<LimitFile, LimitError> {
        let named = NamedFile::create(dir)?;
        let path = &named.path;
        let failed = |op| move |source| LimitError::Prepare { op, path: path.clone(), source };
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);

        let plain = open(direct).map_err(failed("open"))?;
        let dsync = match direct {
            0 => None,
            _ => Some(open(direct | libc::O_DSYNC).map_err(failed("open O_DSYNC"))?),
        };
        // Only for a contiguous layout; where it is not supported the writes below allocate.
        // SAFETY: a plain call on a descriptor that is open for the whole call.
        let _ = unsafe { libc::fallocate(plain.as_raw_fd(), 0, 0, file_bytes as libc::off_t) };

        let zeros = AlignedBytes::zeroed(PREPARE_BYTES);
        let mut offset = 0;
        while offset < file_bytes {
            let len = usize::try_from(file_bytes - offset).unwrap_or(usize::MAX).min(PREPARE_BYTES);
            plain.write_all_at(&zeros.as_slice()[..len], offset).map_err(failed("write zeros to"))?;
            offset += len as u64;
        }
        plain.sync_all().map_err(failed("fsync"))?;
        Ok(LimitFile { plain, dsync, file_bytes })
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.dsync.is_some()
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Writes through this are durable only after a flush.
    pub(crate) fn plain(&self) -> &File {
        &self.plain
    }

    /// Writes through this are durable when they return.
    pub(crate) fn dsync(&self) -> Option<&File> {
        self.dsync.as_ref()
    }
}

/// A file that loses its name when this is dropped: on success because two descriptors keep it,
/// on failure because it is debris.
struct NamedFile {
    path: PathBuf,
}

impl NamedFile {
    fn create(dir: &Path) -> Result<NamedFile, LimitError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("device-limit-{}-{number}.tmp", std::process::id()));
        let created = OpenOptions::new().write(true).create_new(true).open(&path);
        match created {
            Ok(_) => Ok(NamedFile { path }),
            Err(source) => Err(LimitError::Prepare { op: "create", path, source }),
        }
    }
}

impl Drop for NamedFile {
    fn drop(&mut self) {
        let removed: io::Result<()> = fs::remove_file(&self.path);
        debug_assert!(removed.is_ok(), "{}: {removed:?}", self.path.display());
    }
}
