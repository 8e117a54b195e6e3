//! Copies a log off a device that cannot read all of it any more, and tells what it could not read.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::{Access, Buffer, Disk, Driver, LockFailed, Storage, rename_dir};
use crate::segment::{FileName, round_up};

/// Bytes read at a time where all is well.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// What a rescue copied, and what it could not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Rescue {
    /// Files copied: the control file and the segments.
    pub files: u64,
    /// Their bytes, those that could not be read included.
    pub bytes: u64,
    /// What could not be read, in the order of the files: zeros stand there in the copy.
    pub unread: Vec<Unread>,
}

/// A range of a file that the device could not read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Unread {
    /// The file's name in the log's directory.
    pub file: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Copies the log in `dir` to `into`, which must not be there yet, block by block where the device reports that it cannot read
/// (EIO and its like): zeros take that place, and the result names it. Nothing is written into `dir`, but for the lock that keeps
/// writers away meanwhile. `progress` is told how many bytes of how many have been read.
///
/// The copy is a log like any other, in which the unread blocks are damage: opened with
/// [`Quarantine`](crate::RecoveryMode::Quarantine), what they held is set aside. What nothing claims yet, that is, the groups in
/// flight at the end and the very last group, may have stood in an unread block of the newest segment without being missed: such a
/// block is named here, and only here. It is the same log under the same identity: `dir` is not to be written again.
///
/// The copy grows in `INTO.partial`, and gets its name when all of it is durable.
///
/// ```
/// # fn main() -> Result<(), seawall::Error> {
/// # let tmp = tempfile::tempdir().unwrap();
/// # let (dir, into) = (tmp.path().join("log"), tmp.path().join("rescued"));
/// # let (log, _) = seawall::Log::open(&dir, seawall::Config::default())?;
/// # log.append(b"a record")?.wait()?;
/// # drop(log);
/// let rescue = seawall::rescue(&dir, &into, |_done, _of| {})?;
/// for lost in &rescue.unread {
///     println!("{} bytes of {} at {} could not be read", lost.bytes, lost.file, lost.offset);
/// }
/// let (log, recovery) = seawall::Log::open(&into, seawall::Config::default())?;
/// # assert!(recovery.damage.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::NotALog`] when there is nothing of a log in `dir`, [`Error::Locked`] when a writer has it, [`Error::Invalid`] when
/// `into` or its `.partial` is there already, and [`Error::Io`]: of `dir`, where nothing at all can be read or the trouble is
/// another one than a block that cannot be read, or of `into`.
pub fn rescue(dir: impl AsRef<Path>, into: impl AsRef<Path>, progress: impl FnMut(u64, u64)) -> Result<Rescue> {
    let (dir, into) = (dir.as_ref(), into.as_ref());
    let partial = beside(into)?;
    for (path, whose) in
        [(into, "a rescue makes a new directory"), (&partial, "left by a rescue that did not end? Remove it")]
    {
        match path.symlink_metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", path.display(), e)),
            Ok(_) => return Err(Error::Invalid { what: format!("{} is there already; {whose}", path.display()) }),
        }
    }
    let driver = Driver::shared();
    // Through the page cache: the device is asked for single blocks all the same where it fails, and nothing is tried on it.
    let open = |path: &Path, access| Disk::open(path, &driver, access, crate::DirectIo::Never);
    let from = open(dir, Access::ReadOnly).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotALog { dir: dir.display().to_string() },
        _ => Error::io("open", dir.display(), e),
    })?;
    // Before the lock file is made where there is none.
    if files_of(&from)?.is_empty() {
        return Err(Error::NotALog { dir: dir.display().to_string() });
    }
    let writable = open(dir, Access::ReadWrite { create: false }).map_err(|e| Error::io("open", dir.display(), e))?;
    let _lock = match writable.lock() {
        Ok(lock) => Some(lock),
        Err(LockFailed::Held(pid)) => return Err(Error::Locked { dir: writable.describe(), pid }),
        // Nobody writes there.
        Err(LockFailed::Io(e)) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => None,
        Err(LockFailed::Io(e)) => return Err(Error::io("lock", writable.describe(), e)),
    };
    let to = open(&partial, Access::ReadWrite { create: true }).map_err(|e| Error::io("make", partial.display(), e))?;
    let rescued = rescue_on(&from, &to, progress)?;
    rename_dir(&partial, into).map_err(|e| Error::io("rename", partial.display(), e))?;
    Ok(rescued)
}

/// Where the copy grows.
fn beside(into: &Path) -> Result<PathBuf> {
    let Some(name) = into.file_name() else {
        return Err(Error::Invalid { what: format!("{} does not name a new directory", into.display()) });
    };
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(into.with_file_name(name))
}

/// The log's files and their lengths, by name: the control file last, without which the others are no log.
fn files_of<S: Storage>(storage: &S) -> Result<Vec<(String, u64)>> {
    let mut files = storage.list().map_err(|e| Error::io("list", storage.describe(), e))?;
    files.retain(|(name, _)| matches!(FileName::parse(name), Some(FileName::Segment(_) | FileName::Control)));
    files.sort_by_key(|(name, _)| (FileName::parse(name) == Some(FileName::Control), name.clone()));
    Ok(files)
}

/// The same between storages of one's own: into an empty one, which is a log when this returns, and none before. Nobody may
/// write to either meanwhile.
///
/// # Errors
/// As [`rescue`].
pub fn rescue_on<S: Storage, T: Storage>(from: &S, to: &T, mut progress: impl FnMut(u64, u64)) -> Result<Rescue> {
    let files = files_of(from)?;
    let total = files.iter().map(|(_, bytes)| bytes).sum();
    let mut rescued = Rescue::default();
    for (name, bytes) in files {
        let before = rescued.bytes;
        copy_file(from, to, &name, bytes, &mut rescued.unread, |done| progress(before + done, total))?;
        rescued.files += 1;
        rescued.bytes += bytes;
    }
    let unread: u64 = rescued.unread.iter().map(|range| range.bytes).sum();
    if unread == rescued.bytes {
        let nothing = std::io::Error::other("nothing at all could be read");
        return Err(Error::io("read", from.describe(), nothing));
    }
    to.sync_dir().map_err(|e| Error::io("sync the directory of", to.describe(), e))?;
    Ok(rescued)
}

fn copy_file<S: Storage, T: Storage>(
    from: &S,
    to: &T,
    name: &str,
    bytes: u64,
    unread: &mut Vec<Unread>,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let (whence, whither) = (format!("{name} in {}", from.describe()), format!("{name} in {}", to.describe()));
    let source = from.open(name).map_err(|e| Error::io("open", &whence, e))?;
    let copy = to.create(name).map_err(|e| Error::io("create", &whither, e))?;
    let block = u64::from(from.medium().device_block_bytes.max(to.medium().device_block_bytes));
    let mut buffer = Buffer::new(WINDOW_BYTES as usize);
    let mut offset = 0;
    while offset < bytes {
        let window = WINDOW_BYTES.min(round_up(bytes - offset, block));
        let mut step = window;
        let mut at = offset;
        while at < offset + window {
            match from.read_at(&source, at, step as usize, &mut buffer) {
                Ok(0) => {
                    let short = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file became shorter");
                    return Err(Error::io_at("read", &whence, at, short));
                }
                Ok(got) => {
                    let whole = round_up(got as u64, block).min(step) as usize;
                    buffer.set_len(whole);
                    buffer[got..].fill(0);
                }
                Err(e) if Error::is_lost(&e) && step > block => {
                    step = block;
                    continue;
                }
                Err(e) if Error::is_lost(&e) => {
                    note(unread, name, at, step.min(bytes - at));
                    buffer.set_len(step as usize);
                    buffer.fill(0);
                }
                Err(e) => return Err(Error::io_at("read", &whence, at, e)),
            }
            to.write(&copy, at, &buffer).map_err(|e| Error::io_at("write", &whither, at, e))?;
            at += buffer.len() as u64;
            progress(at.min(bytes));
        }
        offset += window;
    }
    to.flush(&copy).map_err(|e| Error::io("flush", &whither, e))
}

/// Neighbouring blocks are one range.
fn note(unread: &mut Vec<Unread>, file: &str, offset: u64, bytes: u64) {
    match unread.last_mut() {
        Some(last) if last.file == file && last.offset + last.bytes == offset => last.bytes += bytes,
        _ => unread.push(Unread { file: file.to_owned(), offset, bytes }),
    }
}
