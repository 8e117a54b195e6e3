//! The directory of one comparison, removed at its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn create(parent: &Path) -> io::Result<Scratch> {
        let path = parent.join(format!("seawall-peers-{}.tmp", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn subdirectory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Writes back whatever any contender left in the page cache.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let dir = File::open(&self.path)?;
        // SAFETY: a plain call on a descriptor that is open for the whole call.
        match unsafe { libc::syncfs(dir.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Removes everything in it and lets the filesystem finish with that.
    pub(crate) fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            fs::remove_dir_all(entry?.path())?;
        }
        self.flush()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} stays behind: {error}", self.path.display());
        }
    }
}
