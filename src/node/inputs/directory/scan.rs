//! One look at all files. Reads names and sizes, no content; decides nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::config::{BadFiles, DirectorySourceConfig};
use super::error::DirectoryError;
use super::file::{Dir, FileId, Stamp, TICK, is_mount, look};
use crate::ledger::InputError;

/// Says of a path, relative to the directory, whether the file is begun.
pub(super) type Filter = Box<dyn Fn(&Path) -> bool + Send + Sync>;

/// The files there are.
#[derive(Default)]
pub(super) struct Index {
    /// Paths relative to the directory; the first is empty.
    dirs: Vec<Box<[u8]>>,
    /// Directories that were seen and, as the configuration says, not entered. Nothing below one is gone or lost by this look, so
    /// all of them are held, as the look saw them: asked again later, one that was renamed since would hide nothing any more.
    /// `directories_max` bounds them together with those that are entered: a look that sees more ends, and tells of nothing.
    unentered: HashSet<Box<[u8]>>,
    pub(super) files: HashMap<FileId, Place>,
    /// Nothing was left out for trouble.
    pub(super) is_complete: bool,
    /// No directory changed meanwhile: what is not in here was not there. A rename during a look can hide a file from it.
    pub(super) is_quiet: bool,
    pub(super) links: u64,
    pub(super) others: u64,
}

pub(super) struct Place {
    dir: u32,
    name: Box<[u8]>,
    pub(super) size: u64,
    /// Its name is one that is begun; what is begun already counts under any name.
    pub(super) is_begun: bool,
}

impl Index {
    /// What a look begins with.
    pub(super) fn untroubled() -> Index {
        Index { is_complete: true, is_quiet: true, ..Index::default() }
    }

    pub(super) fn directories(&self) -> usize {
        self.dirs.len()
    }

    /// Their paths.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &[u8]> {
        self.dirs.iter().map(|path| &**path)
    }

    /// Whether it is below a directory that was not entered: this look tells nothing of it.
    pub(super) fn is_out_of_sight(&self, path: &[u8]) -> bool {
        path.iter().enumerate().any(|(end, byte)| *byte == b'/' && self.unentered.contains(&path[..end]))
    }

    pub(super) fn unentered_count(&self) -> usize {
        self.unentered.len()
    }

    /// One of the directories that were not entered.
    pub(super) fn unentered(&self) -> Option<&[u8]> {
        self.unentered.iter().map(|path| &**path).min()
    }

    /// The path relative to the directory.
    pub(super) fn path(&self, place: &Place) -> Vec<u8> {
        join(&self.dirs[place.dir as usize], &place.name)
    }

    /// The path of the file's directory.
    pub(super) fn dir(&self, place: &Place) -> &[u8] {
        &self.dirs[place.dir as usize]
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Counts what is skipped, or does not skip.
pub(super) struct Troubles {
    policy: BadFiles,
    pub(super) count: u64,
    pub(super) last: Option<InputError>,
}

impl Troubles {
    pub(super) fn new(policy: BadFiles) -> Troubles {
        Troubles { policy, count: 0, last: None }
    }

    pub(super) fn meet(&mut self, error: InputError) -> Result<(), InputError> {
        if self.policy == BadFiles::Stop {
            return Err(error);
        }
        self.count += 1;
        self.last = Some(error);
        Ok(())
    }
}

pub(super) fn scan(
    dir: &Dir<'_>,
    config: &DirectorySourceConfig,
    filter: Option<&Filter>,
    troubles: &mut Troubles,
) -> Result<Index, InputError> {
    let index = Index::untroubled();
    let mut scan = Scan { dir, config, filter, index, stamps: Vec::new(), to_do: Vec::new(), below: 0 };
    scan.to_do.push((Vec::new(), 0));
    while let Some((path, depth)) = scan.to_do.pop() {
        if let Err(e) = scan.enter(&path, depth, troubles) {
            scan.leave_out(e, troubles)?;
        }
    }
    let still = |(number, before): (usize, &Stamp)| {
        dir.changed(&scan.index.dirs[number]).is_ok_and(|now| now.as_ref() == Some(before))
    };
    scan.index.is_quiet &= scan.stamps.iter().enumerate().all(still);
    Ok(scan.index)
}

fn is_of_all(error: &InputError) -> bool {
    let InputError::Other(error) = error else { return false };
    use DirectoryError::{NoBirthTime, TooManyDirectories, TooManyFiles};
    matches!(error.downcast_ref(), Some(NoBirthTime { .. } | TooManyFiles { .. } | TooManyDirectories { .. }))
}

struct Scan<'a> {
    dir: &'a Dir<'a>,
    config: &'a DirectorySourceConfig,
    filter: Option<&'a Filter>,
    index: Index,
    /// Of each directory, when it last changed before it was read.
    stamps: Vec<Stamp>,
    to_do: Vec<(Vec<u8>, u32)>,
    /// Directories that were seen below the first.
    below: u64,
}

/// The directory that is being read.
struct At<'a> {
    path: &'a [u8],
    depth: u32,
    number: u32,
}

impl Scan<'_> {
    fn enter(&mut self, path: &[u8], depth: u32, troubles: &mut Troubles) -> Result<(), InputError> {
        let io = |op, e| self.dir.io(op, path, e);
        let fd = match self.dir.open_dir(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.index.is_quiet = false;
                return Ok(());
            }
            Err(e) => return Err(io("opening", e)),
        };
        let stat = look(&fd, b"").map_err(|e| io("looking at", e))?;
        if depth > 0 && self.dir.is_foreign(&stat) {
            return Err(DirectoryError::OtherFileSystem { path: self.dir.full(path) }.into());
        }
        // A change in the same tick as this one would leave the same stamp.
        let stamp = Stamp::from(stat.stx_ctime);
        self.index.is_quiet &= stamp.age(SystemTime::now()).is_some_and(|age| age >= TICK);
        let at = At { path, depth, number: self.index.dirs.len() as u32 };
        self.index.dirs.push(path.into());
        self.stamps.push(stamp);
        let mut entries = rustix::fs::Dir::read_from(&fd).map_err(|e| io("listing", e))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|e| io("listing", e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            // One that cannot be looked at hides no other.
            if let Err(e) = self.entry(&fd, &at, entry.file_type(), name) {
                self.leave_out(e, troubles)?;
            }
        }
        Ok(())
    }

    /// Goes on without what the error is about, where that is allowed.
    fn leave_out(&mut self, error: InputError, troubles: &mut Troubles) -> Result<(), InputError> {
        // What would be refused of every file is no trouble of one.
        if is_of_all(&error) {
            return Err(error);
        }
        self.index.is_complete = false;
        troubles.meet(error)
    }

    fn entry(&mut self, fd: &OwnedFd, at: &At<'_>, kind: FileType, name: &[u8]) -> Result<(), InputError> {
        match kind {
            FileType::RegularFile | FileType::Unknown => match look(fd, name) {
                Ok(stat) => match FileType::from_raw_mode(stat.stx_mode.into()) {
                    FileType::RegularFile => return self.file(at, name, &stat),
                    FileType::Directory => return self.directory(at, name),
                    FileType::Symlink => self.index.links += 1,
                    _ => self.index.others += 1,
                },
                Err(Errno::NOENT) => self.index.is_quiet = false,
                Err(e) => return Err(self.dir.io("looking at", &join(at.path, name), e)),
            },
            // Looked at when it is entered; one that is not may be whatever it is.
            FileType::Directory => return self.directory(at, name),
            FileType::Symlink => self.index.links += 1,
            _ => self.index.others += 1,
        }
        Ok(())
    }

    fn directory(&mut self, at: &At<'_>, name: &[u8]) -> Result<(), InputError> {
        // Before it is held, entered or not.
        self.below += 1;
        if self.below > self.config.directories_max {
            let (path, limit) = (self.dir.full(b""), self.config.directories_max);
            return Err(DirectoryError::TooManyDirectories { path, limit }.into());
        }
        if at.depth < self.config.depth_max && !self.config.is_ignored(name) {
            self.to_do.push((join(at.path, name), at.depth + 1));
        } else {
            self.index.unentered.insert(join(at.path, name).into());
        }
        Ok(())
    }

    fn file(&mut self, at: &At<'_>, name: &[u8], stat: &rustix::fs::Statx) -> Result<(), InputError> {
        let &At { path, number: dir, .. } = at;
        let full = || self.dir.full(&join(path, name));
        let is_begun = self.config.is_begun(name)
            && self.filter.is_none_or(|filter| filter(Path::new(OsStr::from_bytes(&join(path, name)))));
        if is_mount(stat) {
            if is_begun {
                return Err(DirectoryError::OtherFileSystem { path: full() }.into());
            }
            self.index.others += 1;
            return Ok(());
        }
        let id = FileId::of(stat, self.dir.by(), &full)?;
        let place = Place { dir, name: name.into(), size: stat.stx_size, is_begun };
        match self.index.files.entry(id) {
            Entry::Vacant(free) => drop(free.insert(place)),
            // Two names of one file: one that is begun, then the first in order.
            Entry::Occupied(mut other) => {
                let known = other.get();
                let rank = |p: &Place, at: &[u8]| (!p.is_begun, join(at, &p.name));
                if rank(&place, path) < rank(known, &self.index.dirs[known.dir as usize]) {
                    other.insert(place);
                }
            }
        }
        let files = self.index.files.len() as u64;
        if files > self.config.files_max {
            let (path, limit) = (self.dir.full(b""), self.config.files_max);
            return Err(DirectoryError::TooManyFiles { path, limit }.into());
        }
        Ok(())
    }
}
