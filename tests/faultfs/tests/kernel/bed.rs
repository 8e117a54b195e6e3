//! Mounted file systems, or a loud skip.

use std::fs::File;
use std::path::{Path, PathBuf};

use seawall_faultfs::machine::{Need, require};
use seawall_faultfs::{FaultFs, Options};
use tempfile::TempDir;

use crate::skip::skipped;

/// A mounted [`FaultFs`], and the directory below it.
pub(crate) struct Bed {
    // In this order: unmounted, then removed.
    pub(crate) fs: FaultFs,
    _dir: TempDir,
}

impl Bed {
    pub(crate) fn new(options: Options) -> Option<Bed> {
        if let Err(why) = require(&[Need::Root, Need::Fuse]) {
            skipped(why);
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Some(Bed { fs: FaultFs::mount(dir.path(), options).unwrap(), _dir: dir })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fs.path().join(name)
    }

    /// A file whose name is durable, with these bytes, durable too.
    pub(crate) fn durable_file(&self, name: &str, bytes: &[u8]) -> File {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        sync_dir(self.fs.path());
        file
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

pub(crate) fn sync_dir(dir: &Path) {
    File::open(dir).unwrap().sync_all().unwrap();
}

/// Memory at an address that direct I/O takes: of a boxed page, for the tests need no more.
#[repr(align(4096))]
pub(crate) struct Aligned(pub(crate) [u8; 4096]);

/// The number of the error.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}
