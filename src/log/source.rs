//! A window over a file for the scanner: bounded memory, whatever the file's length.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{ByteSource, round_up};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 1024 * 1024;

pub(super) struct Window<'a, S: Storage> {
    storage: &'a S,
    file: Arc<S::File>,
    name: String,
    len: u64,
    block: u64,
    buffer: Buffer,
    start: u64,
    pub(super) bytes_read: u64,
    watch: Option<Box<dyn Fn(u64) + 'a>>,
}

impl<'a, S: Storage> Window<'a, S> {
    /// A window over the first `len` bytes of a file.
    pub(super) fn new(storage: &'a S, file: Arc<S::File>, name: String, len: u64) -> Window<'a, S> {
        let block = u64::from(storage.medium().device_block_bytes);
        Window { storage, file, name, len, block, buffer: Buffer::new(0), start: 0, bytes_read: 0, watch: None }
    }

    /// Tells how far it has come whenever more of the file is read.
    pub(super) fn watched(self, watch: impl Fn(u64) + 'a) -> Window<'a, S> {
        Window { watch: Some(Box::new(watch)), ..self }
    }

    fn load(&mut self, offset: u64, count: usize) -> Result<()> {
        let start = offset / self.block * self.block;
        let wanted = round_up(offset + count as u64 - start, self.block).max(WINDOW_BYTES);
        let wanted = wanted.min(round_up(self.len - start, self.block)) as usize;
        if self.buffer.capacity() < wanted {
            self.buffer = Buffer::new(wanted);
        }
        self.start = start;
        let got = self
            .storage
            .read_at(&self.file, start, wanted, &mut self.buffer)
            .map_err(|e| Error::io_at("read", &self.name, start, e))?;
        self.bytes_read += got as u64;
        if let Some(watch) = &self.watch {
            watch(start + got as u64);
        }
        if start + (got as u64) < offset + count as u64 {
            let short = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file became shorter");
            return Err(Error::io_at("read", &self.name, start + got as u64, short));
        }
        Ok(())
    }
}

impl<S: Storage> ByteSource for Window<'_, S> {
    type Error = Error;

    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8]> {
        let have = self.start..self.start + self.buffer.len() as u64;
        if !(have.contains(&offset) && offset + count as u64 <= have.end) {
            self.load(offset, count)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buffer[at..at + count])
    }
}
