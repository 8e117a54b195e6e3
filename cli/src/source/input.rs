//! Where the bytes come from: a file, which can be read from any offset, or a stream, which only comes by once.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Pieces;
use crate::exit::Failure;

/// An open source.
pub(crate) struct Input {
    path: PathBuf,
    file: File,
    /// `None`: a stream (standard input, a pipe, a device).
    length: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> Result<Input, Failure> {
        let failed = |op| move |e| Failure::file(op, path, e);
        if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed("open"))?;
            return Ok(Input { path: "standard input".into(), file: stdin.into(), length: None });
        }
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        if metadata.is_dir() {
            return Err(Failure::Usage(format!(
                "{} is a directory; give a file, or - for standard input",
                path.display()
            )));
        }
        Ok(Input { path: path.to_owned(), file, length: metadata.is_file().then_some(metadata.len()) })
    }

    /// What to call it in messages.
    pub(crate) fn describe(&self) -> String {
        self.path.display().to_string()
    }

    /// The source's name unless the user gives one: the file's own, whatever directory it is in. A pipe is not opened for
    /// it: what its writer has put in would be gone.
    pub(crate) fn source_name(path: &Path) -> Result<String, Failure> {
        if path == Path::new("-") {
            return Ok("stdin".into());
        }
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        name.ok_or_else(|| Failure::Usage(format!("{} has no readable name; give --source NAME", path.display())))
    }

    /// Its length when it was opened; `None` for a stream.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Goes from its beginning to `offset`; a stream is read up to there. Answers where it got to: less when it is
    /// shorter.
    pub(crate) fn skip_to(&mut self, offset: u64) -> Result<u64, Failure> {
        let reached = match self.length {
            Some(length) if length < offset => Ok(length),
            Some(_) => self.file.seek(SeekFrom::Start(offset)),
            None => io::copy(&mut (&self.file).take(offset), &mut io::sink()),
        };
        reached.map_err(|e| self.failed(e))
    }

    /// Reads the next `expected.len()` bytes; true when they are the expected ones.
    pub(crate) fn goes_on_with(&mut self, expected: &[u8]) -> Result<bool, Failure> {
        let mut bytes = vec![0; expected.len()];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes == expected),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Reads once. The end of a file that was longer when it was opened is not the end of what was to be read.
    pub(crate) fn fill(&mut self, pieces: &mut Pieces) -> Result<(), Failure> {
        pieces.fill(self).map_err(|e| self.failed(e))?;
        match (pieces.ended_at(), self.length) {
            (Some(end), Some(length)) if end < length => Err(Failure::Refused(format!(
                "{} has become shorter while it was read: it had {length} bytes, and ends at {end}",
                self.describe()
            ))),
            _ => Ok(()),
        }
    }

    /// Waits until reading would not block, at most this long. A signal ends the wait.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<bool, Failure> {
        if self.length.is_some() {
            return Ok(true);
        }
        let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&patience)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(self.failed(e.into())),
        }
    }

    /// Names this source in an error.
    pub(crate) fn failed(&self, error: io::Error) -> Failure {
        Failure::file("read", &self.path, error)
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}
