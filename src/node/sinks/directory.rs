//! One file a batch, in one directory, for whoever reads files.
//!
//! A batch's file has its name only when all of it is on the device (`durable`), and its name is the batch's key
//! (`names`): that the batch is stored and what it wrote become true in one step. So a batch that runs again finds what
//! it stored, and by default leaves it alone: whoever has read the file has read what will be there for ever, also
//! where an engine's second run gives other bytes (a hash map's order, a time of day). With [`OnRerun::Replace`] the last run
//! before the commit counts: [`Outputs`](super::Outputs) says what readers have to mind then.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::durable::{Directory, Temp};
use super::names::{self, OutputSum};
use super::owner::{self, Owner};
use crate::ledger::{BatchKey, Sink, SinkError, SinkKind, Stored};
use crate::types::LedgerId;

const BUFFER_BYTES: std::ops::RangeInclusive<u64> = (4 << 10)..=(64 << 20);

/// How a directory of outputs is written. With the `serde` feature, sizes read and write as `"64 MiB"`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct DirectorySinkConfig {
    /// What the files' names end with, without the dot: letters, digits and dots, up to 32 bytes. It cannot be changed where
    /// there are outputs: it is written down by the first claim, and the names say it too. Default `out`.
    pub extension: String,
    /// What a batch that runs again does to its file. Default: nothing.
    pub on_rerun: OnRerun,
    /// Bytes gathered for one write: 4 KiB to 64 MiB. Default 256 KiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub write_buffer_bytes: u64,
}

impl Default for DirectorySinkConfig {
    fn default() -> DirectorySinkConfig {
        DirectorySinkConfig { extension: "out".into(), on_rerun: OnRerun::Keep, write_buffer_bytes: 256 << 10 }
    }
}

/// What a batch that runs again does to its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum OnRerun {
    /// The first one stays, and is read once for its token; the engine's new output is not even asked for.
    /// [`SinkKind::Transactional`].
    Keep,
    /// The new one takes its place, unless it has the same length and CRC-32C: then it is taken for the same.
    /// [`SinkKind::Idempotent`].
    Replace,
}

/// One file a batch, in a directory that has this one writer.
///
/// ```
/// use seawall::ledger::{BatchKey, Stored};
/// use seawall::node::{DirectorySinkConfig, DirectorySink};
/// # use seawall::{BatchId, LedgerId};
/// # fn main() -> Result<(), seawall::ledger::SinkError> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let (dir, ledger) = (dir.path(), LedgerId::new(7));
/// let mut sink = DirectorySink::open(dir, DirectorySinkConfig::default())?;
/// sink.claim(ledger, false)?;
///
/// let key = BatchKey { ledger, batch: BatchId::new(1) };
/// let first = sink.store(key, b"a line\n")?;
/// let again = sink.store_with(key, |out| out.write_all(b"a line\n"))?;
/// assert!(matches!(again, Stored::AlreadyThere { .. }));
/// assert_eq!(first.token(), again.token());
/// # Ok(())
/// # }
/// ```
///
/// After a failed flush it takes nothing more ([`SinkError::Poisoned`]) until it is opened again. What it has answered
/// stays true.
pub struct DirectorySink {
    directory: Directory,
    config: DirectorySinkConfig,
    /// As it is on the device.
    owner: Option<Owner>,
    /// Without an owner: ledgers that have written here all the same, up to two.
    strangers: Vec<LedgerId>,
}

impl DirectorySink {
    /// Opens a directory, making it if it is missing. What a sink that died was writing is removed, and nothing else.
    ///
    /// # Errors
    /// [`SinkError::InUse`] while another sink has it, [`SinkError::Config`], [`SinkError::Damaged`] when the file that
    /// says whose it is cannot be read, and the operating system's.
    pub fn open(dir: &Path, config: DirectorySinkConfig) -> Result<DirectorySink, SinkError> {
        config.check(dir)?;
        let directory = Directory::open(dir)?;
        DirectorySink::recover(directory, config)
    }

    fn recover(mut directory: Directory, config: DirectorySinkConfig) -> Result<DirectorySink, SinkError> {
        let (mut leftovers, mut strangers) = (Vec::new(), Vec::new());
        directory.each_name(|name| {
            if names::is_temp(name) {
                leftovers.push(name.to_owned());
            }
            // Two are enough: whoever claims the directory is another one than one of them.
            if let Some(key) = names::parse(name)
                && strangers.len() < 2
                && !strangers.contains(&key.ledger)
            {
                strangers.push(key.ledger);
            }
        })?;
        for name in leftovers {
            directory.remove(&name)?;
        }
        // A sink that was killed between a rename and this has left names that are not durable. They are believed below.
        directory.sync()?;
        let owner = if directory.exists(names::OWNER)? {
            let bytes = directory.read(names::OWNER, owner::BYTES_MAX)?;
            let owner = Owner::decode(&bytes).ok_or_else(|| {
                directory
                    .damaged(names::OWNER, "does not say whose outputs these are: remove it, and adopt the directory")
            })?;
            if owner.extension != config.extension {
                return Err(hides(&directory, &config, &owner.extension));
            }
            Some(owner)
        } else {
            check_extension(&mut directory, &config)?;
            None
        };
        Ok(DirectorySink { directory, config, owner, strangers })
    }

    /// What storing a batch again does.
    #[must_use]
    pub fn kind(&self) -> SinkKind {
        match self.config.on_rerun {
            OnRerun::Keep => SinkKind::Transactional,
            OnRerun::Replace => SinkKind::Idempotent,
        }
    }

    /// Whose directory it is.
    #[must_use]
    pub fn ledger(&self) -> Option<LedgerId> {
        self.owner.as_ref().map(|owner| owner.ledger)
    }

    /// Where a batch's output is, or would be.
    #[must_use]
    pub fn path(&self, key: BatchKey) -> PathBuf {
        self.directory.path().join(names::output(key, &self.config.extension))
    }

    /// Makes the directory this ledger's. Adopted from another one, that one's files stay as they are: no name of a
    /// batch is ever used for two ledgers, and an old ledger that is given the directory back finds its own.
    ///
    /// # Errors
    /// [`SinkError::OtherLedger`] unless `adopt` is set.
    pub fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        self.directory.check()?;
        if self.ledger() == Some(ledger) {
            return Ok(());
        }
        let stranger = self.strangers.iter().copied().find(|stranger| *stranger != ledger);
        match self.ledger().or(stranger) {
            Some(holds) if !adopt => {
                return Err(SinkError::OtherLedger { sink: self.directory.describe(), holds, ledger });
            }
            _ => {}
        }
        let owner = Owner { ledger, extension: self.config.extension.clone() };
        let text = owner.encode();
        let temp = self.write_temp(names::OWNER_TEMP.to_owned(), |out| out.write_all(text.as_bytes()))?;
        self.directory.publish(temp, names::OWNER)?;
        self.owner = Some(owner);
        Ok(())
    }

    /// Stores a batch's output, durably, all of it or nothing.
    ///
    /// # Errors
    /// [`SinkError::Fenced`], [`SinkError::OtherLedger`], [`SinkError::Unclaimed`], [`SinkError::Poisoned`], and the
    /// operating system's: a disk that is full leaves nothing behind, and the batch can be stored when there is room.
    pub fn store(&mut self, key: BatchKey, output: &[u8]) -> Result<Stored, SinkError> {
        self.store_with(key, |out| out.write_all(output))
    }

    /// The same for an output that does not fit into memory: `write` is called with where it goes, at most once. An error
    /// that it returns, or was given and did not return, is this call's.
    ///
    /// # Errors
    /// As [`DirectorySink::store`].
    pub fn store_with(
        &mut self,
        key: BatchKey,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Stored, SinkError> {
        self.check_key(key)?;
        let name = names::output(key, &self.config.extension);
        let is_there = self.directory.exists(&name)?;
        if self.directory.exists(&names::fence(key))? {
            return Err(if is_there {
                self.both(key)
            } else {
                SinkError::Fenced { sink: self.directory.describe(), key }
            });
        }
        if is_there && self.config.on_rerun == OnRerun::Keep {
            return Ok(Stored::AlreadyThere { token: token(self.directory.sum(&name)?) });
        }
        let temp = self.write_temp(names::temp(key), write)?;
        if is_there {
            match self.directory.sum(&name) {
                Ok(sum) if sum == temp.sum => {
                    return Ok(Stored::AlreadyThere { token: token(self.directory.discard(temp)?) });
                }
                Ok(_) => {}
                Err(error) => {
                    // If this fails as well, the next open removes it.
                    let _ = self.directory.discard(temp);
                    return Err(error);
                }
            }
        }
        Ok(Stored::New { token: token(self.directory.publish(temp, &name)?) })
    }

    /// Refuses this batch for ever, durably.
    ///
    /// # Errors
    /// [`SinkError::AlreadyStored`] when its output is there, and those of [`DirectorySink::store`].
    pub fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.check_key(key)?;
        let fence = names::fence(key);
        let is_fenced = self.directory.exists(&fence)?;
        if self.directory.exists(&names::output(key, &self.config.extension))? {
            return Err(if is_fenced {
                self.both(key)
            } else {
                SinkError::AlreadyStored { sink: self.directory.describe(), key }
            });
        }
        if !is_fenced {
            let temp = self.write_temp(names::temp(key), |_| Ok(()))?;
            self.directory.publish(temp, &fence)?;
        }
        Ok(())
    }

    fn check_key(&self, key: BatchKey) -> Result<(), SinkError> {
        self.directory.check()?;
        let sink = || self.directory.describe();
        match self.ledger() {
            None => Err(SinkError::Unclaimed { sink: sink() }),
            Some(holds) if holds != key.ledger => {
                Err(SinkError::OtherLedger { sink: sink(), holds, ledger: key.ledger })
            }
            Some(_) => Ok(()),
        }
    }

    fn write_temp(
        &mut self,
        name: String,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Temp, SinkError> {
        self.directory.write_temp(name, self.config.write_buffer_bytes as usize, fill)
    }

    /// No sink leaves this.
    fn both(&self, key: BatchKey) -> SinkError {
        self.directory.damaged(
            &names::fence(key),
            "fences a batch whose output is there as well: move the output away if the ledger has abandoned it, the fence if \
             it has committed it",
        )
    }
}

/// Where nothing is written down, the names still say what the files end with. What somebody else put beside an output, under a
/// longer name, does not count.
fn check_extension(directory: &mut Directory, config: &DirectorySinkConfig) -> Result<(), SinkError> {
    let mut others = Vec::new();
    directory.each_name(|name| {
        if let Some((key, extension)) = names::parse_any_output(name)
            && extension != config.extension
        {
            others.push((key, extension.to_owned()));
        }
    })?;
    for (key, extension) in others {
        if !directory.exists(&names::output(key, &config.extension))? {
            return Err(hides(directory, config, &extension));
        }
    }
    Ok(())
}

fn hides(directory: &Directory, config: &DirectorySinkConfig, found: &str) -> SinkError {
    let problem = format!(
        "is {:?}, but files here end with {found:?}: batches that run again would be there twice",
        config.extension
    );
    SinkError::Config { sink: directory.describe(), field: "extension", problem }
}

impl DirectorySinkConfig {
    fn check(&self, dir: &Path) -> Result<(), SinkError> {
        let wrong = |field, problem| Err(SinkError::Config { sink: dir.display().to_string(), field, problem });
        if !names::is_extension(&self.extension) {
            let max = names::EXTENSION_BYTES_MAX;
            return wrong(
                "extension",
                format!(
                    "is {:?}: letters and digits, with single dots between them, up to {max} bytes",
                    self.extension
                ),
            );
        }
        if !BUFFER_BYTES.contains(&self.write_buffer_bytes) {
            return wrong("write_buffer_bytes", format!("is {}: 4 KiB to 64 MiB", self.write_buffer_bytes));
        }
        Ok(())
    }
}

fn token(sum: OutputSum) -> Bytes {
    sum.to_string().into()
}

/// An output that is written rather than handed over: `sink.store(key, Writing(|out: &mut dyn Write| …))`, where a
/// [`Sink`] is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Writing<F>(pub F);

impl<T: AsRef<[u8]>> Sink<T> for DirectorySink {
    fn kind(&self) -> SinkKind {
        self.kind()
    }

    fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        self.claim(ledger, adopt)
    }

    fn store(&mut self, key: BatchKey, output: T) -> Result<Stored, SinkError> {
        self.store(key, output.as_ref())
    }

    fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.fence(key)
    }
}

impl<F: FnOnce(&mut dyn Write) -> io::Result<()>> Sink<Writing<F>> for DirectorySink {
    fn kind(&self) -> SinkKind {
        self.kind()
    }

    fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        self.claim(ledger, adopt)
    }

    fn store(&mut self, key: BatchKey, output: Writing<F>) -> Result<Stored, SinkError> {
        self.store_with(key, output.0)
    }

    fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.fence(key)
    }
}

impl std::fmt::Debug for DirectorySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectorySink")
            .field("directory", &self.directory.describe())
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "directory/tests.rs"]
mod tests;
