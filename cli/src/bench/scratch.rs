//! A directory for what is measured; removed in the end.

use std::path::{Path, PathBuf};

use crate::exit::Failure;

pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn create(within: &Path) -> Result<Scratch, Failure> {
        let path = within.join(format!("seawall-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| Failure::file("create", &path, e))?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A name for a log in it, without what an earlier one of that name left.
    pub(super) fn fresh(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::file("remove", &path, e)),
            _ => Ok(path),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            crate::output::tell(format_args!("{} is left behind: {error}", self.0.display()));
        }
    }
}
