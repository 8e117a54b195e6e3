//! Names: looked up, listed, made, changed and made durable.

use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use rustix::io::Errno;

use super::file::FileBytes;
use super::{Handle, Ino, Inode, OpenMode, Result, Volume};
use crate::fault::Op;

impl Volume {
    pub(crate) fn lookup(&mut self, dir: Ino, name: &OsStr) -> Result<Ino> {
        self.powered()?;
        *self.counts.entry(Op::Look).or_default() += 1;
        self.faults.check(Op::Look, &name.to_string_lossy())?;
        self.names.get(dir, name).ok_or(Errno::NOENT)
    }

    /// Makes an empty file and opens it.
    pub(crate) fn create(&mut self, dir: Ino, name: &OsStr, mode: u16, open: OpenMode) -> Result<(Ino, Handle)> {
        self.free_name(Op::Create, dir, name)?;
        let bytes = FileBytes::new(self.options.sector_bytes);
        let ino = self.add_inode(dir, name, mode, Some(bytes));
        Ok((ino, self.add_handle(ino, open)))
    }

    pub(crate) fn make_dir(&mut self, dir: Ino, name: &OsStr, mode: u16) -> Result<Ino> {
        self.free_name(Op::MakeDir, dir, name)?;
        Ok(self.add_inode(dir, name, mode, None))
    }

    pub(crate) fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        let ino = self.lookup(dir, name)?;
        if self.inode(ino)?.bytes.is_none() {
            return Err(Errno::ISDIR);
        }
        self.may_fail(Op::Unlink, ino)?;
        self.names.change(vec![(dir, name.to_owned(), None)]);
        Ok(())
    }

    pub(crate) fn remove_dir(&mut self, dir: Ino, name: &OsStr) -> Result<()> {
        let ino = self.lookup(dir, name)?;
        if !self.names.dir(ino).ok_or(Errno::NOTDIR)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.may_fail(Op::Unlink, ino)?;
        self.names.change(vec![(dir, name.to_owned(), None)]);
        Ok(())
    }

    /// Gives a file another name, instead of whatever had it.
    pub(crate) fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), may_replace: bool) -> Result<()> {
        let ino = self.lookup(from.0, from.1)?;
        let is_dir = self.inode(ino)?.bytes.is_none();
        match self.names.get(to.0, to.1) {
            Some(_) if !may_replace => return Err(Errno::EXIST),
            Some(replaced) if replaced == ino => return Ok(()),
            Some(replaced) => match self.names.dir(replaced) {
                Some(_) if !is_dir => return Err(Errno::ISDIR),
                Some(names) if !names.is_empty() => return Err(Errno::NOTEMPTY),
                None if is_dir => return Err(Errno::NOTDIR),
                _ => {}
            },
            None => {}
        }
        *self.counts.entry(Op::Rename).or_default() += 1;
        self.faults.check(Op::Rename, &to.1.to_string_lossy())?;
        self.names.change(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(ino))]);
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)?.name = to.1.to_owned();
        Ok(())
    }

    /// What stands in an open directory from the `skip`-th on; read from its start, it is looked at anew.
    pub(crate) fn list(&mut self, handle: Handle, skip: usize) -> Result<&[(OsString, Ino, bool)]> {
        self.powered()?;
        let opened = self.handles.get_mut(&handle).ok_or(Errno::BADF)?;
        if skip == 0 {
            let dir = self.names.dir(opened.ino).ok_or(Errno::NOTDIR)?;
            let is_dir = |ino: &Ino| self.names.dir(*ino).is_some();
            opened.listing = [(".", opened.ino), ("..", opened.ino)].map(|(name, ino)| (name.into(), ino, true)).into();
            opened.listing.extend(dir.iter().map(|(name, ino)| (name.clone(), *ino, is_dir(ino))));
        }
        Ok(opened.listing.get(skip..).unwrap_or(&[]))
    }

    pub(crate) fn sync_dir(&mut self, ino: Ino) -> Result<()> {
        self.powered()?;
        self.may_fail(Op::SyncDir, ino)?;
        self.names.flush(ino);
        self.forget_unreachable();
        Ok(())
    }

    fn free_name(&mut self, op: Op, dir: Ino, name: &OsStr) -> Result<()> {
        self.powered()?;
        if self.names.dir(dir).ok_or(Errno::NOTDIR)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        *self.counts.entry(op).or_default() += 1;
        self.faults.check(op, &name.to_string_lossy())
    }

    fn add_inode(&mut self, dir: Ino, name: &OsStr, mode: u16, bytes: Option<FileBytes>) -> Ino {
        let ino = self.next_number();
        if bytes.is_none() {
            self.names.add_dir(ino);
        }
        self.inodes.insert(ino, Inode { bytes, mode, name: name.to_owned(), modified: SystemTime::now() });
        self.names.change(vec![(dir, name.to_owned(), Some(ino))]);
        ino
    }
}
