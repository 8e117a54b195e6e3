//! Durable operations on the names of one directory.
//!
//! A file is written under a temporary name, flushed, renamed, and the directory is flushed: a name that is there
//! after a crash stands for all of the file. After a flush that failed, or a change whose outcome is not known, nothing
//! more is done here: what the kernel gave up it does not report twice, so a second flush that succeeds proves nothing.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::names::{self, OutputSum};
use crate::codec::Crc32c;
use crate::io::{DirLock, LockFailed, create_dir, is_forked_child, lock, watch_forks};
use crate::ledger::SinkError;

const READ_BYTES: usize = 64 << 10;

/// A directory with one writer.
pub(super) struct Directory {
    path: PathBuf,
    dir: OwnedFd,
    _lock: DirLock,
    /// What went wrong first.
    poison: Option<String>,
    /// What tests want to go wrong, and what they want to know.
    #[cfg(test)]
    pub(super) script: Script,
}

/// A temporary file, flushed.
pub(super) struct Temp {
    name: String,
    pub(super) sum: OutputSum,
}

impl Directory {
    /// Makes the directory if it is missing, and becomes its one writer.
    pub(super) fn open(path: &Path) -> Result<Directory, SinkError> {
        let failed = |op| move |error| SinkError::io(op, path.display(), error);
        watch_forks().map_err(failed("use"))?;
        create_dir(path).map_err(failed("create directory"))?;
        let dir = open_dir(path).map_err(failed("open directory"))?;
        let lock = lock(dir.as_fd(), names::LOCK).map_err(|error| match error {
            LockFailed::Held(pid) => SinkError::InUse { sink: path.display().to_string(), pid },
            LockFailed::Io(error) => SinkError::io("lock", path.join(names::LOCK).display(), error),
        })?;
        Ok(Directory {
            path: path.to_owned(),
            dir,
            _lock: lock,
            poison: None,
            #[cfg(test)]
            script: Script::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn describe(&self) -> String {
        self.path.display().to_string()
    }

    /// # Errors
    /// [`SinkError::Poisoned`] since something failed whose outcome is not known.
    pub(super) fn check(&self) -> Result<(), SinkError> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(SinkError::Poisoned { sink: self.describe(), cause: cause.clone() }),
        }
    }

    /// Calls with each name there is. Names that are not Unicode are nobody's.
    pub(super) fn each_name(&mut self, mut call: impl FnMut(&str)) -> Result<(), SinkError> {
        self.ask("list", "", |dir, _| {
            for entry in rustix::fs::Dir::read_from(dir)? {
                if let Ok(name) = entry?.file_name().to_str() {
                    call(name);
                }
            }
            Ok(())
        })
    }

    pub(super) fn exists(&mut self, name: &str) -> Result<bool, SinkError> {
        let found =
            self.ask("look for", name, |dir, name| match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)),
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
            })?;
        match found {
            Some(false) => Err(self.damaged(name, "is no file: move it away")),
            found => Ok(found.is_some()),
        }
    }

    /// The first bytes of a file, up to `bytes_max` and one more.
    pub(super) fn read(&mut self, name: &str, bytes_max: usize) -> Result<Vec<u8>, SinkError> {
        self.ask("read", name, |dir, name| {
            let mut bytes = Vec::new();
            open_file(dir, name)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    /// How long a file is, and its checksum.
    pub(super) fn sum(&mut self, name: &str) -> Result<OutputSum, SinkError> {
        self.ask("read", name, |dir, name| sum(&mut open_file(dir, name)?))
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), SinkError> {
        self.ask("remove", name, |dir, name| match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        })
    }

    /// Writes a temporary file and flushes it. Whatever goes wrong, it is not there afterwards; only a panic of `fill`
    /// leaves it, until the name is used again or the directory is opened.
    pub(super) fn write_temp(
        &mut self,
        name: String,
        buffer_bytes: usize,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Temp, SinkError> {
        self.remove(&name)?;
        let written = self.fill_and_flush(&name, buffer_bytes, fill);
        if written.is_err() {
            // If this fails as well, the next open removes it.
            let _ = self.remove(&name);
        }
        Ok(Temp { sum: written?, name })
    }

    fn fill_and_flush(
        &mut self,
        name: &str,
        buffer_bytes: usize,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<OutputSum, SinkError> {
        let file = self.ask("create", name, |dir, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            // As std does: what the process's umask leaves.
            Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666))?))
        })?;
        let summed = self.ask("write", name, |_, _| {
            let mut out = BufWriter::with_capacity(buffer_bytes, Summed::new(file));
            fill(&mut out)?;
            out.into_inner().map_err(|error| error.into_error())?.finish()
        })?;
        // Not through std, which tries again when interrupted.
        self.ask_or_poison("flush", name, |_, _| Ok(rustix::fs::fsync(&summed.0)?))?;
        Ok(summed.1)
    }

    /// Gives a temporary file its name, durably, over whatever has it.
    pub(super) fn publish(&mut self, temp: Temp, name: &str) -> Result<OutputSum, SinkError> {
        let renamed = self.ask("rename", name, |dir, name| Ok(rustix::fs::renameat(dir, &temp.name, dir, name)?));
        if let Err(error) = renamed {
            // No room for a name is a plain no. Anything else may have happened or not.
            if !is_full(&error) {
                self.poison(&error);
            }
            let _ = self.remove(&temp.name);
            return Err(error);
        }
        self.sync()?;
        Ok(temp.sum)
    }

    /// Gives a temporary file up.
    pub(super) fn discard(&mut self, temp: Temp) -> Result<OutputSum, SinkError> {
        self.remove(&temp.name)?;
        Ok(temp.sum)
    }

    /// Makes the names durable.
    pub(super) fn sync(&mut self) -> Result<(), SinkError> {
        self.ask_or_poison("flush directory", "", |dir, _| Ok(rustix::fs::fsync(dir)?))
    }

    pub(super) fn damaged(&self, name: &str, what: &str) -> SinkError {
        SinkError::Damaged { what: format!("{} {what}", self.path.join(name).display()) }
    }

    fn ask_or_poison<T>(
        &mut self,
        op: &'static str,
        name: &str,
        call: impl FnOnce(&OwnedFd, &str) -> io::Result<T>,
    ) -> Result<T, SinkError> {
        self.ask(op, name, call).inspect_err(|error| self.poison(error))
    }

    /// The one way to the operating system.
    fn ask<T>(
        &mut self,
        op: &'static str,
        name: &str,
        call: impl FnOnce(&OwnedFd, &str) -> io::Result<T>,
    ) -> Result<T, SinkError> {
        // A fork's child has the lock as well, and would use the same temporary names.
        let allowed = match is_forked_child() {
            true => Err(io::Error::other("the directory belongs to the parent process; open another after fork")),
            false => Ok(()),
        };
        #[cfg(test)]
        let allowed = allowed.and_then(|()| self.script.step(op, name));
        let answer = allowed.and_then(|()| call(&self.dir, name));
        answer.map_err(|error| SinkError::io(op, self.path.join(name).display(), error))
    }

    fn poison(&mut self, error: &SinkError) {
        self.poison.get_or_insert_with(|| error.to_string());
    }
}

fn is_full(error: &SinkError) -> bool {
    let full = |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    matches!(error, SinkError::Io { source, .. } if full(source))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn open_file(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

pub(super) fn sum(file: &mut File) -> io::Result<OutputSum> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut crc) = (0, Crc32c::default());
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(OutputSum { bytes, crc32c: crc.finish() }),
            Ok(read) => {
                bytes += read as u64;
                crc.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts and sums what goes into a file. Remembers an error, whatever its caller makes of it: an output that lacks a
/// piece must not pass because somebody ignored the answer.
struct Summed {
    file: File,
    bytes: u64,
    crc: Crc32c,
    failed: Option<io::Error>,
}

impl Summed {
    fn new(file: File) -> Summed {
        Summed { file, bytes: 0, crc: Crc32c::default(), failed: None }
    }

    fn finish(self) -> io::Result<(File, OutputSum)> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.file, OutputSum { bytes: self.bytes, crc32c: self.crc.finish() })),
        }
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            Ok(written) => {
                self.bytes += written as u64;
                self.crc.update(&bytes[..written]);
                Ok(written)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failed.get_or_insert_with(|| error.kind().into());
                }
                Err(error)
            }
        }
    }

    /// What is durable is decided once, at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says no at a step, and writes down the steps.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Script {
    pub(super) steps: Vec<String>,
    /// The operation, how often it still succeeds, and what it answers then, once.
    pub(super) refuse: Option<(&'static str, usize, io::ErrorKind)>,
    /// After the refusal nothing works any more: the process has died.
    pub(super) dies: bool,
    pub(super) is_dead: bool,
}

#[cfg(test)]
impl Script {
    fn step(&mut self, op: &'static str, name: &str) -> io::Result<()> {
        self.steps.push(format!("{op} {name}"));
        if self.is_dead {
            return Err(io::Error::other("dead"));
        }
        match &mut self.refuse {
            Some((refused, 0, kind)) if *refused == op => {
                let kind = *kind;
                self.refuse = None;
                self.is_dead = self.dies;
                Err(kind.into())
            }
            Some((refused, left, _)) if *refused == op => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
