//! File systems on files, mounted through loop devices by mount(8).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::layer::CannotRun;

/// How long a file system that is still busy is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// A file with a file system in it, and the place where it is mounted. Its size is its bound.
pub(crate) struct Image {
    home: tempfile::TempDir,
    is_mounted: bool,
}

impl Image {
    /// Makes the file system. What is not here to do so is the reason not to run.
    pub(crate) fn new(kind: &str, bytes: u64) -> Result<Image, CannotRun> {
        if !rustix::process::geteuid().is_root() {
            return Err(CannotRun("mounting wants root".into()));
        }
        let cannot = |error: std::io::Error| CannotRun(error.to_string());
        let image = Image { home: tempfile::tempdir().map_err(cannot)?, is_mounted: false };
        std::fs::create_dir(image.at()).map_err(cannot)?;
        std::fs::File::create(image.file()).and_then(|file| file.set_len(bytes)).map_err(cannot)?;
        let force = if kind == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(force).arg(image.file()))?;
        Ok(image)
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn at(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    pub(crate) fn mount(&mut self) -> Result<(), CannotRun> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.file()).arg(self.at()))?;
        self.is_mounted = true;
        Ok(())
    }

    pub(crate) fn unmount(&mut self) -> Result<(), CannotRun> {
        let began = Instant::now();
        loop {
            match run(Command::new("umount").arg(self.at())) {
                Ok(()) => break,
                // The last write of a process that was killed may still be under way.
                Err(_) if began.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(error),
            }
        }
        self.is_mounted = false;
        Ok(())
    }

    /// The file system stops at once, as if its device were gone; what it had not written to it, it never will.
    pub(crate) fn shut_down(&self) -> std::io::Result<()> {
        shut_down(&self.at())
    }

    /// Leaves it where it is, for whoever wants to look.
    pub(crate) fn keep(mut self) -> PathBuf {
        if self.is_mounted {
            let _ = self.unmount();
        }
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().expect("another one"));
        home.keep()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(self.at()));
        }
    }
}

/// Ends what a process that had to be killed left mounted in this directory.
pub(crate) fn unmount_all_in(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for at in places.filter(|at| Path::new(at).starts_with(dir)) {
        let _ = run(Command::new("umount").arg("-l").arg(at));
    }
}

fn run(command: &mut Command) -> Result<(), CannotRun> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| CannotRun(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CannotRun(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[allow(unsafe_code, reason = "an ioctl")]
fn shut_down(at: &Path) -> std::io::Result<()> {
    // FS_IOC_SHUTDOWN, _IOR('X', 125, u32): the kernel reads the flags through the pointer.
    const OPCODE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    // Neither data nor journal are written out first.
    const NO_LOG_FLUSH: u32 = 2;
    let dir = std::fs::File::open(at)?;
    // SAFETY: the opcode takes a pointer to a u32 and keeps nothing of it.
    unsafe { rustix::ioctl::ioctl(&dir, rustix::ioctl::Setter::<OPCODE, u32>::new(NO_LOG_FLUSH)) }?;
    Ok(())
}
