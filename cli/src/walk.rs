//! Frames in order, with everything that is not a frame told apart: damage, what was set aside, what was trimmed.

use std::path::Path;

use seawall::{Error, Frame, Log, Lsn, LsnRange, Reader};

use crate::Global;
use crate::exit::{Failure, InLog};
use crate::open;

/// What stands at a position of the log.
pub(crate) enum Met {
    /// A frame.
    Frame(Frame),
    /// Frames that cannot be read, and why.
    Damage(LsnRange, Error),
    /// Frames an operator set aside.
    SetAside(LsnRange),
    /// Frames that were given up before they could be read.
    Trimmed(LsnRange),
}

/// A walk over a range of frames, as far as they are flushed. An error that does not name frames ends it.
pub(crate) struct Walk<'a> {
    dir: &'a Path,
    /// `None`: the log is ours, nobody trims it under us.
    global: Option<&'a Global>,
    reader: Reader,
    end: Lsn,
}

impl<'a> Walk<'a> {
    /// Over a log that this process writes.
    pub(crate) fn own(log: &Log, dir: &'a Path, lsns: LsnRange) -> Walk<'a> {
        Walk { dir, global: None, reader: log.range(lsns), end: lsns.end }
    }

    /// Over a log that was opened for reading only, and may be another process's.
    pub(crate) fn read_only(log: &Log, dir: &'a Path, lsns: LsnRange, global: &'a Global) -> Walk<'a> {
        Walk { dir, global: Some(global), reader: log.range(lsns), end: lsns.end }
    }

    /// A segment that cannot be read may have been trimmed by its writer, its file removed or used again, after we
    /// opened the log. A second look tells.
    fn look_again(&mut self, at: Lsn, error: Error) -> Result<Met, Failure> {
        if let Some(global) = self.global
            && let Ok((fresh, _)) = open::read_only(self.dir, global)
            && fresh.first() > at
        {
            let trimmed = LsnRange::new(at, fresh.first().min(self.end));
            self.reader = fresh.range(LsnRange::new(trimmed.end, self.end));
            return Ok(Met::Trimmed(trimmed));
        }
        match error.lsns() {
            Some(lsns) => Ok(Met::Damage(lsns, error)),
            None => Err(error).in_log(self.dir),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Met, Failure>;

    fn next(&mut self) -> Option<Result<Met, Failure>> {
        let at = self.reader.position();
        Some(match self.reader.next()? {
            Ok(frame) => Ok(Met::Frame(frame)),
            Err(Error::Quarantined { lsns }) => Ok(Met::SetAside(lsns)),
            Err(Error::Trimmed { requested, first }) => Ok(Met::Trimmed(LsnRange::new(requested, first))),
            Err(error) => self.look_again(at, error),
        })
    }
}

/// Everything that can be read now.
pub(crate) fn everything(log: &Log) -> LsnRange {
    LsnRange::new(log.first(), log.flushed().next())
}
