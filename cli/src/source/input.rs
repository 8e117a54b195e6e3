//! Where the bytes come from: a file, which can be read from any offset, or a stream, which only comes by once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Pieces;
use crate::exit::Failure;
use crate::interrupt::Interrupt;

/// How long to wait for a stream's next bytes before looking whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Read at a time of what is passed over.
const PASSED_BYTES: usize = 64 << 10;

/// An open source.
pub(crate) struct Input {
    path: PathBuf,
    file: File,
    /// `None`: a stream (standard input, a pipe, a device).
    length: Option<u64>,
    interrupt: Interrupt,
}

impl Input {
    /// Opens a file, or standard input for `-`. Whatever is waited for, `interrupt` ends it.
    pub(crate) fn open(path: &Path, interrupt: &Interrupt) -> Result<Input, Failure> {
        let interrupt = interrupt.clone();
        let failed = |op| move |e| Failure::file(op, path, e);
        if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed("open"))?;
            return Ok(Input { path: "standard input".into(), file: stdin.into(), length: None, interrupt });
        }
        // A pipe is open at once, and its writer is waited for where its first bytes are.
        let nonblock = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed("open"))?;
        fcntl_getfl(&file)
            .and_then(|flags| fcntl_setfl(&file, flags - OFlags::NONBLOCK))
            .map_err(|e| failed("open")(e.into()))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        if metadata.is_dir() {
            return Err(Failure::Usage(format!(
                "{} is a directory; give a file, or - for standard input",
                path.display()
            )));
        }
        Ok(Input { path: path.to_owned(), file, length: metadata.is_file().then_some(metadata.len()), interrupt })
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
        match self.length {
            Some(length) if length < offset => return Ok(length),
            Some(_) => return self.file.seek(SeekFrom::Start(offset)).map_err(|e| self.failed(e)),
            None => {}
        }
        let (mut reached, mut passed) = (0, vec![0; PASSED_BYTES]);
        while reached < offset {
            let most = (offset - reached).min(PASSED_BYTES as u64) as usize;
            match self.read_next(&mut passed[..most])? {
                0 => break,
                read => reached += read as u64,
            }
        }
        Ok(reached)
    }

    /// Reads what comes next, which may take its time; nothing at the end.
    pub(crate) fn read_next(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        while !self.wait_ready(LOOK_EVERY)? {
            if self.interrupt.is_asked() {
                return Err(Failure::Interrupted);
            }
        }
        self.file.read(into).map_err(|e| self.failed(e))
    }

    /// Reads the next `expected.len()` bytes; true when they are the expected ones.
    pub(crate) fn goes_on_with(&mut self, expected: &[u8]) -> Result<bool, Failure> {
        let (mut bytes, mut read) = (vec![0; expected.len()], 0);
        while read < expected.len() {
            match self.read_next(&mut bytes[read..])? {
                0 => return Ok(false),
                more => read += more,
            }
        }
        Ok(bytes == expected)
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
