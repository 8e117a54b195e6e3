//! A directory of outputs, for those who read it: without a lock, next to the sink that writes.
//!
//! A file that is there is whole. Is it final?
//!
//! | what is read | who may see it change |
//! |---|---|
//! | batches that the ledger has committed | nobody: they never run again |
//! | all that is there, [`OnRerun::Keep`](super::OnRerun::Keep) | whoever read a file in the moment before its directory was flushed, if the power fails in that moment: the batch runs again |
//! | all that is there, [`OnRerun::Replace`](super::OnRerun::Replace) | also whoever read a batch before its commit: a second run's bytes, if they are others, take the place of the first's |
//!
//! A file that was opened stays what it was, whatever takes its name.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::durable::sum;
use super::names::{self, OutputSum};
use super::owner::{self, Owner};
use crate::ledger::{BatchKey, SinkError};
use crate::types::{BatchId, LedgerId};

/// The outputs of one ledger in a directory.
///
/// Whoever remembers how far it has read remembers the ledger and the batch.
///
/// ```
/// # use seawall::ledger::BatchKey;
/// # use seawall::node::{DirectorySinkConfig, DirectorySink, Outputs};
/// # use seawall::{BatchId, LedgerId};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (dir, ledger) = (dir.path(), LedgerId::new(7));
/// # let mut sink = DirectorySink::open(dir, DirectorySinkConfig::default())?;
/// # sink.claim(ledger, false)?;
/// # sink.store(BatchKey { ledger, batch: BatchId::new(1) }, b"one")?;
/// # sink.store(BatchKey { ledger, batch: BatchId::new(2) }, b"two")?;
/// let mut read = BatchId::ZERO;
/// for output in Outputs::open(dir)?.after(read) {
///     let output = output?;
///     println!("{}: {:?}", output.key, std::fs::read(&output.path)?);
///     read = output.key.batch;
/// }
/// assert_eq!(read, BatchId::new(2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Outputs {
    dir: PathBuf,
    ledger: LedgerId,
    extension: String,
}

impl Outputs {
    /// Those of the ledger that the directory belongs to now.
    ///
    /// # Errors
    /// [`SinkError::Unclaimed`], [`SinkError::Damaged`], and the operating system's.
    pub fn open(dir: &Path) -> Result<Outputs, SinkError> {
        let path = dir.join(names::OWNER);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(owner::BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SinkError::Unclaimed { sink: dir.display().to_string() });
            }
            Err(error) => return Err(SinkError::io("read", path.display(), error)),
        }
        let Owner { ledger, extension } = Owner::decode(&bytes).ok_or_else(|| SinkError::Damaged {
            what: format!("{} does not say whose outputs these are", path.display()),
        })?;
        Ok(Outputs { dir: dir.to_owned(), ledger, extension })
    }

    /// Those of another ledger, from before the directory was adopted.
    #[must_use]
    pub fn of(self, ledger: LedgerId) -> Outputs {
        Outputs { ledger, ..self }
    }

    /// Whose they are.
    #[must_use]
    pub fn ledger(&self) -> LedgerId {
        self.ledger
    }

    /// The batches after this one, in order, without holes: fenced ones are passed over, and the first one that is
    /// neither there nor fenced ends it, until it is asked again. So every batch must be stored, one without output as an
    /// empty file.
    #[must_use]
    pub fn after(&self, batch: BatchId) -> OutputsAfter<'_> {
        OutputsAfter { outputs: self, next: batch.next() }
    }

    /// Every batch that is there, in order, with holes: those being stored, those fenced, those that somebody has
    /// removed. Held in memory: some 200 bytes each.
    ///
    /// # Errors
    /// The operating system's.
    pub fn all(&self) -> Result<Vec<OutputFile>, SinkError> {
        let failed = |error| SinkError::io("list", self.dir.display(), error);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let key = entry.file_name().to_str().and_then(|name| names::parse_output(name, &self.extension));
            all.extend(key.filter(|key| key.ledger == self.ledger).map(|key| OutputFile { key, path: entry.path() }));
        }
        all.sort_unstable_by_key(|output| output.key.batch);
        Ok(all)
    }

    fn exists(&self, name: &str) -> Result<bool, SinkError> {
        let path = self.dir.join(name);
        path.try_exists().map_err(|error| SinkError::io("look for", path.display(), error))
    }
}

/// Outputs in order, without holes.
#[derive(Clone, Debug)]
pub struct OutputsAfter<'a> {
    outputs: &'a Outputs,
    next: BatchId,
}

impl Iterator for OutputsAfter<'_> {
    type Item = Result<OutputFile, SinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = BatchKey { ledger: self.outputs.ledger, batch: self.next };
            let name = names::output(key, &self.outputs.extension);
            let found = match self.outputs.exists(&name) {
                Ok(true) => Some(Ok(OutputFile { key, path: self.outputs.dir.join(name) })),
                Ok(false) => match self.outputs.exists(&names::fence(key)) {
                    Ok(true) => None,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => return Some(Err(error)),
            };
            self.next = self.next.next();
            if found.is_some() {
                return found;
            }
        }
    }
}

/// A batch's output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputFile {
    /// Which batch.
    pub key: BatchKey,
    /// Where it is.
    pub path: PathBuf,
}

impl OutputFile {
    /// How long it is, and its checksum: read from its first byte to its last. What the ledger's commit holds
    /// ([`OutputSum::from_token`]) says what it was.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sum(&self) -> io::Result<OutputSum> {
        sum(&mut File::open(&self.path)?)
    }
}
