//! Files of a directory: each byte in one batch, by what the files are and not by when they came.
//!
//! A part is a file: its inode and its birth time. Positions are byte offsets. Nothing is kept beside the ledger: what is in
//! no batch is what lies above a file's last range.
//!
//! | what happens to a file | what follows |
//! |---|---|
//! | late: it comes with an old modification time | taken: there is no window of time |
//! | renamed, moved to another directory below | the same file; not read again, and followed under any name, also one that is not begun |
//! | appended to | the new bytes, up to the size seen at the look |
//! | replaced by rename | the new file is a new part; of the old one, what is in a pending batch is `Lost`, unless it is still there under some name |
//! | shortened | `Changed`: planning stops, or the file is skipped, as [`BadFiles`] says |
//! | rewritten in place | what is in a pending batch is `Changed` when it is read; what is committed is not looked at again |
//! | half-written, under a name that is ignored | not begun until it is renamed |
//! | half-written, its last line without an end | the line waits until the file is [`Finished`]; the lines before are taken |
//! | appended to after it was finished | what is new is a record of its own |
//! | vanished, all of it committed | the ledger forgets the part (`Plan::gone`) |
//! | vanished, some of it in a pending batch | that batch is `Lost`; [`DirectoryError::NotEntered`] while there are directories that are not entered: it may be below one |
//! | vanished, some of it in no batch | counted: [`DirectoryStats::vanished_bytes`], as far as this process had seen it |
//! | copied | another file, read again |
//! | hard links | one file, under its first name |
//! | symbolic links | never followed, counted: a missing target could not be told from a file that is gone |
//! | unreadable | an error that names it, or skipped and counted, as [`BadFiles`] says; while a directory below is, nothing is gone |
//! | it cannot be flushed | an error, at each plan until the source is opened again, whatever [`BadFiles`] says: others may be lost with it |
//! | a line above `record_bytes_max` | a `Limit` error that names file and position, or skipped; the lines before are taken, nothing is lost |
//! | the directory itself is another one, not mounted | [`DirectoryError::Replaced`]: nothing is gone because of that |
//! | a file system mounted below, or a single file that would be begun | [`DirectoryError::OtherFileSystem`], or skipped: give it an input of its own |
//!
//! **Order.** Oldest birth first, then inode. A plan that did not reach every file is followed by one that begins behind the
//! last file it took from, so that one that grows for ever starves no other.
//!
//! **Recognition.** An inode is used again, a birth time within one tick of the clock as well; so a file younger than a tick
//! is waited for (20 ms) before its first range. A clock that is set back takes that proof away. Without birth times the
//! directory is refused, or [`FilesBy::Inode`] is chosen. On overlayfs, a file of a lower layer that is written to becomes
//! another file.
//!
//! **Gone.** A rename during a look can hide a file from it, and a part that is forgotten is read again when it reappears. So
//! a file is gone only by a look during which no directory changed; or, where they always change, after 16 looks, ten times
//! `gone_after` and 10 minutes. A look that could not read a directory counts for nothing of that; one that did not enter a
//! directory, for no file that was begun below it. Network file systems that
//! keep attributes in a cache need a `gone_after` above its time.
//!
//! **Cost.** A plan is one pass over the names, one `statx` each; after a plan that was cut off the look is used again, for
//! at most ten times as long as it took. While a look replaces the one before, it takes about 300 bytes of memory a file,
//! beside what the ledger keeps of it, and about 100 and its path a directory, entered or not. And one pass over the content it
//! plans: it holds one record and one piece (1 MiB) at a time. And a flush of what it plans, whoever wrote it: up to 16 files each
//! by itself, more of them with all of their file system, where that is one that is known to do it (ext4, XFS, btrfs, F2FS, tmpfs);
//! their directories are flushed with them, all there are when something is gone. `latest` opens every file with bytes in no
//! batch, to see
//! what waits.

mod config;
mod error;
mod file;
mod flush;
mod read;
mod records;
mod scan;
mod seen;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;

pub use config::{BadFiles, DirectorySourceConfig, FilesBy, Finished, RecordRule};
pub use error::DirectoryError;
pub use seen::DirectoryStats;

use self::config::{MARKER_OF_ALL, MARKER_SUFFIX};
use self::file::{Dir, FileId, Opened, Root, TICK};
use self::flush::Flush;
use self::read::Verified;
use self::records::{Uncut, cut, waiting};
use self::scan::{Filter, Index, Troubles, join, scan};
use self::seen::Memory;
use crate::ledger::{Identity, InputError, Latest, Parts, Plan, Range, Replayable, ReplayedRecords, Share};

/// A range that is looked for is looked for so often before it is lost: a rename may hide it from one look.
const LOOKS_MAX: u32 = 3;

/// Labels are cut at this length, as the ledger does.
const LABEL_BYTES_MAX: usize = 1024;

/// The files of a directory, as an input of a ledger.
///
/// ```
/// use seawall::ledger::{BatchLimits, Part, PartKey, Parts, Replayable, Share};
/// use seawall::node::{DirectorySourceConfig, DirectorySource};
/// # struct Nothing;
/// # impl Parts for Nothing {
/// #     fn get(&self, _: &PartKey) -> Option<Part> { None }
/// #     fn each(&self, _: &mut dyn FnMut(&PartKey, &Part)) {}
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let known = Nothing;
/// std::fs::write(dir.path().join("a.log"), "one\ntwo\nhal")?;
/// let source = DirectorySource::open(dir.path(), DirectorySourceConfig::default())?;
/// let plan = source.plan(&known, Share::of(&BatchLimits::default()))?;
/// let records: Result<Vec<_>, _> = source.read(&plan.ranges[0])?.collect();
/// assert_eq!(records?.iter().map(|record| &record.bytes[..]).collect::<Vec<_>>(), [b"one", b"two"]);
/// # Ok(())
/// # }
/// ```
pub struct DirectorySource {
    root: Root,
    config: DirectorySourceConfig,
    filter: Option<Filter>,
    state: Mutex<Memory>,
}

/// A file with bytes in no batch.
struct Candidate {
    id: FileId,
    /// Of a part the ledger knows.
    allocated: Option<u64>,
    size: u64,
}

impl DirectorySource {
    /// The directory under this path; files that are begun are those the configuration says.
    ///
    /// # Errors
    /// [`InputError`] when it is not there; [`DirectoryError::Config`] in it when the configuration cannot be used.
    pub fn open(path: impl Into<PathBuf>, config: DirectorySourceConfig) -> Result<DirectorySource, InputError> {
        config.validate().map_err(DirectoryError::from)?;
        let root = Root::new(path.into(), config.files_by)?;
        Ok(DirectorySource { root, config, filter: None, state: Mutex::default() })
    }

    /// Begins only files for which `begins` holds besides; it is given the path relative to the directory. It must say the
    /// same each time.
    #[must_use]
    pub fn filtered(self, begins: impl Fn(&std::path::Path) -> bool + Send + Sync + 'static) -> DirectorySource {
        DirectorySource { filter: Some(Box::new(begins)), ..self }
    }

    /// What was seen of it.
    #[must_use]
    pub fn stats(&self) -> DirectoryStats {
        self.state.lock().stats.clone()
    }

    fn look(&self, dir: &Dir<'_>, troubles: &mut Troubles) -> Result<Arc<Index>, InputError> {
        let begin = Instant::now();
        let index = Arc::new(scan(dir, &self.config, self.filter.as_ref(), troubles)?);
        self.state.lock().saw(&index, begin);
        Ok(index)
    }

    /// Files with bytes in no batch, oldest first.
    fn candidates(
        &self,
        dir: &Dir<'_>,
        index: &Index,
        known: &dyn Parts,
        is_fresh: bool,
        troubles: &mut Troubles,
    ) -> Result<Vec<Candidate>, InputError> {
        let mut all = Vec::new();
        for (&id, place) in &index.files {
            let size = place.size;
            let allocated = known.get(&id.key(self.root.by())).map(|part| part.allocated);
            match allocated {
                None if !place.is_begun || size == 0 => {}
                Some(allocated) if size == allocated => {}
                // Of an older look: the plan since then saw more of it.
                Some(allocated) if size < allocated && !is_fresh => {}
                // What is there now tells: a plan made beside this look may have seen more of it.
                Some(allocated) if size < allocated => match self.open_seen(dir, index, id) {
                    Ok(Some((opened, _))) if opened.size < allocated => {
                        troubles.meet(self.shortened(&index.path(place), opened.size, allocated))?;
                    }
                    Ok(_) => {}
                    Err(e) => troubles.meet(e)?,
                },
                _ => all.push(Candidate { id, allocated, size }),
            }
        }
        all.sort_unstable_by_key(|candidate| candidate.id);
        Ok(all)
    }

    fn shortened(&self, path: &[u8], size: u64, allocated: u64) -> InputError {
        let what = format!(
            "the file has been shortened to {size} bytes, batches have {allocated} of it: nobody can tell what is new. Copy \
             that to a new file, and remove this one"
        );
        InputError::Changed { part: self.name(path), from: size, to: allocated, what }
    }

    fn name(&self, path: &[u8]) -> String {
        let mut full = self.root.path().as_os_str().as_encoded_bytes().to_vec();
        full.push(b'/');
        full.extend_from_slice(path);
        String::from_utf8_lossy(&full).into_owned()
    }

    /// The file, if it is still under the name it had at the look, and whether its last record ends with it.
    fn open_seen(&self, dir: &Dir<'_>, index: &Index, id: FileId) -> Result<Option<(Opened, bool)>, InputError> {
        let place = &index.files[&id];
        let path = index.path(place);
        // Before the size is seen: what the writer wrote before the marker is below that size.
        let marked = match self.config.finished {
            Finished::Marker => {
                let own = dir.changed(&[&path, MARKER_SUFFIX].concat())?;
                own.max(dir.changed(&join(index.dir(place), MARKER_OF_ALL))?)
            }
            Finished::Never | Finished::UnchangedFor(_) => None,
        };
        let Some(opened) = dir.open_file(&path)?.filter(|opened| opened.id == id) else { return Ok(None) };
        let is_finished = match self.config.finished {
            Finished::Never => false,
            Finished::Marker => marked.is_some_and(|marked| match self.root.by() {
                FilesBy::Birth => marked >= id.birth,
                // Nobody knows since when it is there; an older marker may be of a file that had the inode before.
                FilesBy::Inode => marked >= opened.modified,
            }),
            Finished::UnchangedFor(time) => opened.changed.age(SystemTime::now()).is_some_and(|age| age >= time),
        };
        Ok(Some((opened, is_finished)))
    }

    /// The next range of a file, with the file; whether the share left something of it.
    fn range(
        &self,
        dir: &Dir<'_>,
        index: &Index,
        candidate: &Candidate,
        share: &Share,
    ) -> Result<(Option<(Range, File)>, bool), InputError> {
        let Candidate { id, allocated, .. } = candidate;
        let path = index.path(&index.files[id]);
        let from = allocated.unwrap_or(0);
        let Some((opened, is_finished)) = self.open_seen(dir, index, *id)? else { return Ok((None, false)) };
        if opened.size < from {
            return Err(self.shortened(&path, opened.size, from));
        }
        let name = self.name(&path);
        let uncut = Uncut { file: &opened.file, name: &name, from, end: opened.size, is_finished };
        let cut = cut(&uncut, self.config.records, self.config.record_bytes_max, share)?;
        let range = (cut.records > 0).then(|| Range {
            input: Default::default(),
            part: id.key(self.root.by()),
            opens: allocated.is_none().then(|| Bytes::copy_from_slice(&path[..path.len().min(LABEL_BYTES_MAX)])),
            from,
            to: cut.to,
            digest: cut.digest,
            records: cut.records,
            bytes: cut.bytes,
        });
        Ok((range.map(|range| (range, opened.file)), cut.is_cut))
    }

    /// After a flush that failed, one that succeeds says nothing of the bytes before it: none is tried again.
    fn flushed(&self, flush: Result<(), InputError>) -> Result<(), InputError> {
        flush.inspect_err(|failed| self.state.lock().flush_failed = Some(failed.clone()))
    }

    /// What a plan counts on becomes durable: after the bytes, which were flushed one by one, the names.
    fn finish(&self, dir: &Dir<'_>, flush: &Flush<'_>) -> Result<(), InputError> {
        if flush.is_whole() {
            return self.flushed(dir.flush_whole());
        }
        for path in flush.dirs() {
            match dir.open_dir(path) {
                Ok(fd) => self.flushed(dir.flush_names(&fd, path))?,
                // Moved meanwhile.
                Err(_) if dir.flushes_whole() => return self.flushed(dir.flush_whole()),
                Err(e) => return Err(dir.io("opening", path, e)),
            }
        }
        Ok(())
    }

    /// What a look does not find, it tells nothing of where it was not to go. `failed` are names that were tried before: where
    /// the look has been, it has seen whose they are by now.
    fn no_longer_seen(&self, index: &Index, failed: Vec<(Vec<u8>, InputError)>) -> Result<(), InputError> {
        let Some(unentered) = index.unentered() else { return Ok(()) };
        let mut out_of_sight = failed.into_iter().filter(|(path, _)| index.is_out_of_sight(path));
        let not_entered = || {
            let unentered = self.name(unentered).into();
            DirectoryError::NotEntered { path: self.root.path().to_owned(), unentered }.into()
        };
        Err(out_of_sight.next().map_or_else(not_entered, |(_, error)| error))
    }

    /// The file, wherever it is by now.
    fn find(&self, id: FileId, hint: Option<&[u8]>) -> Result<Option<(Opened, String)>, InputError> {
        let dir = self.root.open()?;
        let try_at = |path: &[u8]| {
            let opened = dir.open_file(path)?.filter(|opened| opened.id == id);
            Ok::<_, InputError>(opened.map(|opened| (opened, self.name(path))))
        };
        let at = |index: &Index| index.files.get(&id).map(|place| index.path(place));
        let seen = at(&self.state.lock().index);
        let mut failed = Vec::new();
        for path in hint.map(<[u8]>::to_vec).into_iter().chain(seen) {
            match try_at(&path) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                // What cannot be opened there may be another file by now: the look tells.
                Err(e) => failed.push((path, e)),
            }
        }
        let (mut look, mut was_at) = (0, None);
        loop {
            look += 1;
            // Trouble elsewhere keeps nobody from it.
            let mut troubles = Troubles::new(BadFiles::Skip);
            let index = self.look(&dir, &mut troubles)?;
            match at(&index) {
                Some(path) => match try_at(&path)? {
                    Some(found) => return Ok(Some(found)),
                    None if look < LOOKS_MAX => was_at = Some(path),
                    None => return Err(dir.io("opening", &path, Errno::NOENT)),
                },
                // It was there a moment ago: not lost until a look that cannot have missed it does not see it.
                None if look == LOOKS_MAX && !index.is_quiet && was_at.is_some() => {
                    let path = was_at.unwrap_or_default();
                    return Err(dir.io("opening", &path, Errno::NOENT));
                }
                None if index.is_quiet || look == LOOKS_MAX => match troubles.last {
                    // It may be where this look could not.
                    Some(trouble) if !index.is_complete => return Err(trouble),
                    _ => return self.no_longer_seen(&index, failed).map(|()| None),
                },
                None => std::thread::sleep(TICK),
            }
        }
    }
}

impl Replayable for DirectorySource {
    fn identity(&self) -> Result<Identity, InputError> {
        self.root.look().map(|(_, identity)| identity)
    }

    fn latest(&self, known: &dyn Parts) -> Result<Latest, InputError> {
        let dir = self.root.open()?;
        let mut troubles = Troubles::new(self.config.bad_files);
        let index = self.look(&dir, &mut troubles)?;
        let mut latest = Latest::default();
        for candidate in self.candidates(&dir, &index, known, true, &mut troubles)? {
            let from = candidate.allocated.unwrap_or(0);
            let path = || index.path(&index.files[&candidate.id]);
            let (opened, is_finished) = match self.open_seen(&dir, &index, candidate.id) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(e) => {
                    troubles.meet(e)?;
                    continue;
                }
            };
            if opened.size <= from {
                continue;
            }
            let waits = match is_finished {
                true => Ok(0),
                false => waiting(&opened.file, from, opened.size, self.config.records, self.config.record_bytes_max),
            };
            match waits {
                Ok(bytes) => {
                    latest.waiting_bytes += bytes;
                    latest.bytes += opened.size - from - bytes;
                }
                Err(e) => troubles.meet(InputError::io("reading", self.name(&path()), e))?,
            }
        }
        Ok(latest)
    }

    fn plan(&self, known: &dyn Parts, mut share: Share) -> Result<Plan, InputError> {
        if let Some(failed) = &self.state.lock().flush_failed {
            return Err(failed.clone());
        }
        let dir = self.root.open()?;
        let mut troubles = Troubles::new(self.config.bad_files);
        let good = self.state.lock().still_good(self.config.bad_files);
        let is_fresh = good.is_none();
        let index = good.map_or_else(|| self.look(&dir, &mut troubles), Ok)?;
        let mut candidates = self.candidates(&dir, &index, known, is_fresh, &mut troubles)?;
        let mut plan = Plan::default();
        if is_fresh {
            let (by, after) = (self.root.by(), self.config.gone_after);
            plan.gone = self.state.lock().gone(&index, known, &candidates, by, after);
        }

        // While its tick lasts, a birth time may be another file's as well.
        let now = SystemTime::now();
        let new =
            candidates.iter().filter(|candidate| candidate.allocated.is_none() && self.root.by() == FilesBy::Birth);
        if let Some(age) = new.filter_map(|candidate| candidate.id.birth.age(now)).min() {
            std::thread::sleep(TICK.saturating_sub(age));
        }

        let first = self.state.lock().next.map_or(0, |next| candidates.partition_point(|c| c.id < next));
        candidates.rotate_left(first);
        let mut next = None;
        let mut flush = Flush::new(&dir);
        for (number, candidate) in candidates.iter().enumerate() {
            if share.is_used_up() && !share.takes_one {
                (plan.has_more, next) = (true, Some(candidate.id));
                break;
            }
            match self.range(&dir, &index, candidate, &share) {
                Ok((range, is_cut)) => {
                    let behind = candidates.get(number + 1).unwrap_or(&candidates[0]).id;
                    next = is_cut.then_some(if range.is_some() { behind } else { candidate.id });
                    if let Some((range, file)) = range {
                        let place = &index.files[&candidate.id];
                        self.flushed(flush.file(&file, || self.name(&index.path(place))))?;
                        flush.names(index.dir(place));
                        share.take(range.records, range.bytes);
                        plan.ranges.push(range);
                    }
                    if is_cut {
                        plan.has_more = true;
                        break;
                    }
                }
                Err(e) => troubles.meet(e)?,
            }
        }
        if !plan.gone.is_empty() {
            // Where they were is not known: as they are not there, they are nowhere after a power loss either.
            index.dirs().for_each(|path| flush.names(path));
        }
        self.finish(&dir, &flush)?;
        let memory = &mut *self.state.lock();
        memory.next = next;
        (memory.stats.skipped, memory.stats.trouble) = (troubles.count, troubles.last.map(|e| e.to_string()));
        Ok(plan)
    }

    fn read(&self, range: &Range) -> Result<ReplayedRecords, InputError> {
        let label = range.opens.as_deref();
        let found = match FileId::of_key(&range.part) {
            Some(id) => self.find(id, label)?,
            None => None,
        };
        let Some((opened, name)) = found else {
            let part = label.map_or_else(|| format!("{} in {}", range.part, self.name(b"")), |label| self.name(label));
            let what = "the file is not in the directory any more, under no name".into();
            return Err(InputError::Lost { part, from: range.from, to: range.to, what });
        };
        Ok(Box::new(Verified::new(opened.file, name, self.config.records, range)?))
    }
}
