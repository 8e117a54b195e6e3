//! A source's bytes in the log, compared with the file they came from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use seawall::Frame;
use serde::Serialize;

use crate::exit::Failure;
use crate::record::{Content, Record, Step};
use crate::sequence::Sequences;

/// Bytes of the original read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// The original, compared as the records go by.
pub(crate) struct Against {
    path: PathBuf,
    file: File,
    length: u64,
    source: Option<String>,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    base: u64,
    /// The source whose records went by, when the user named none.
    met: Option<String>,
    compared_bytes: u64,
    difference: Option<Difference>,
}

/// The first record that differs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    /// The offset of the first byte that differs.
    pub(crate) offset: u64,
    /// The record's frame.
    pub(crate) lsn: u64,
}

/// What the comparison came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) file: String,
    pub(crate) source: String,
    pub(crate) compared_bytes: u64,
    /// Bytes at the file's end that are not in the log: not ingested yet, or not proven durable.
    pub(crate) not_in_log_bytes: u64,
    pub(crate) difference: Option<Difference>,
}

impl Against {
    pub(crate) fn open(path: &Path, source: Option<String>) -> Result<Against, Failure> {
        let file = File::open(path).map_err(|e| Failure::file("open", path, e))?;
        let length = file.metadata().map_err(|e| Failure::file("look at", path, e))?.len();
        Ok(Against {
            path: path.to_owned(),
            file,
            length,
            source,
            buffer: Vec::new(),
            base: 0,
            met: None,
            compared_bytes: 0,
            difference: None,
        })
    }

    /// Compares a frame's records, those of the source.
    pub(crate) fn frame(&mut self, frame: &Frame) -> Result<(), Failure> {
        let Content::Steps(steps) = Content::of(&frame.payload) else { return Ok(()) };
        steps.into_iter().filter_map(Step::record).try_for_each(|record| self.record(frame, &record))
    }

    fn record(&mut self, frame: &Frame, record: &Record) -> Result<(), Failure> {
        let own = &record.source;
        match &self.source {
            Some(source) if source != own => return Ok(()),
            Some(_) => {}
            None => match &self.met {
                Some(met) if met != own => {
                    let what = format!("the log holds several sources ({met:?}, {own:?}): say with --source which one");
                    return Err(Failure::Usage(what));
                }
                Some(_) => {}
                None => self.met = Some(own.clone()),
            },
        }
        if self.difference.is_some() {
            return Ok(());
        }
        if !record.has_offsets() {
            return Err(Failure::Usage(format!("the sequences of source {own:?} are no byte offsets of a file")));
        }
        let original = self.bytes(record.from, record.data.len())?;
        let same = original.iter().zip(&record.data).take_while(|(ours, theirs)| ours == theirs).count();
        self.compared_bytes += same as u64;
        if same < record.data.len() {
            self.difference = Some(Difference { offset: record.from + same as u64, lsn: frame.lsn.get() });
        }
        Ok(())
    }

    pub(crate) fn finish(self, sequences: &Sequences) -> Result<Comparison, Failure> {
        let source = self.source.or(self.met).unwrap_or_default();
        let Some(sequence) = sequences.get(&source) else {
            let what = format!("the log holds no record of source {source:?} to compare with {}", self.path.display());
            return Err(Failure::Usage(what));
        };
        Ok(Comparison {
            file: self.path.display().to_string(),
            source,
            compared_bytes: self.compared_bytes,
            not_in_log_bytes: self.length.saturating_sub(sequence.to),
            difference: self.difference,
        })
    }

    /// Bytes of the original; fewer where it ends.
    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Failure> {
        let buffered = self.base..self.base + self.buffer.len() as u64;
        if offset < buffered.start || offset + count as u64 > buffered.end {
            self.buffer.resize(READ_BYTES.max(count), 0);
            self.base = offset;
            let mut filled = 0;
            while filled < self.buffer.len() {
                let at = offset + filled as u64;
                match self.file.read_at(&mut self.buffer[filled..], at) {
                    Ok(0) => break,
                    Ok(bytes) => filled += bytes,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failure::file("read", &self.path, e)),
                }
            }
            self.buffer.truncate(filled);
        }
        let start = ((offset - self.base) as usize).min(self.buffer.len());
        let end = (start + count).min(self.buffer.len());
        Ok(&self.buffer[start..end])
    }
}
