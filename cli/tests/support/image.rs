//! A small file system on a file, mounted through a loop device.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use std::process::Command;

use super::skip::skipped;

/// Unmounted in the end, whatever happens.
pub(crate) struct Image {
    home: tempfile::TempDir,
}

impl Image {
    /// `None`, told: it cannot be had here.
    pub(crate) fn mounted(file_system: &str) -> Option<Image> {
        let image = Image { home: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        std::fs::create_dir(image.at()).unwrap();
        std::fs::File::create(image.file()).unwrap().set_len(128 << 20).unwrap();
        let force = if file_system == "ext4" { "-F" } else { "-f" };
        let made = run(Command::new(format!("mkfs.{file_system}")).args(["-q", force]).arg(image.file()));
        made.and_then(|()| image.mount())
            .map_err(|why| skipped(format_args!("no {file_system} to be had: {why}")))
            .ok()
            .map(|()| image)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.home.path().join("image")
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    pub(crate) fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.file()).arg(self.at()))
    }

    /// With all that a cache holds of it.
    pub(crate) fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(self.at()))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at()).output();
    }
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
