//! Rot, and hands that are not the log's.
//!
//! Each of these happens behind the log's back and durably: names and this file's volatile bytes are settled first, as
//! if they had been flushed. Do it while no write is in flight.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::SimDisk;
use super::op::Op;
use super::pages::FileData;

impl SimDisk {
    /// Every file's name and length, in order of names.
    pub fn names(&self) -> Vec<(String, u64)> {
        let state = self.shared.state.lock();
        state.written.names().iter().map(|(name, file)| (name.to_string(), state.len(*file))).collect()
    }

    /// A file's bytes, as readers see them.
    ///
    /// # Panics
    /// Here and below: when there is no such file.
    pub fn read_file(&self, name: &str) -> Vec<u8> {
        self.content(name).to_vec()
    }

    /// Makes or replaces a file.
    pub fn write_file(&self, name: &str, bytes: &[u8]) {
        self.replace(name, Some(Arc::new(FileData::from_bytes(bytes))));
    }

    /// Overwrites a part of a file, or extends it.
    pub fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut content = FileData::clone(&self.content(name));
        content.write_bytes(offset, bytes);
        self.replace(name, Some(Arc::new(content)));
    }

    /// Flips one bit, counted from the file's start; the lowest of a byte is its first.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let content = self.content(name);
        assert!(bit / 8 < content.len(), "bit {bit} is beyond the end of {name}");
        let mut byte = [0];
        content.read(bit / 8, &mut byte);
        self.write_at(name, bit / 8, &[byte[0] ^ 1 << (bit % 8)]);
    }

    /// Cuts a file, or extends it with zeros.
    pub fn truncate(&self, name: &str, bytes: u64) {
        let mut content = FileData::clone(&self.content(name));
        content.set_len(bytes);
        self.replace(name, Some(Arc::new(content)));
    }

    /// Removes a file.
    pub fn remove_file(&self, name: &str) {
        self.content(name);
        self.replace(name, None);
    }

    /// Makes or replaces `to` with what `from` holds. For an old control file: copy it away, and later back.
    pub fn copy_file(&self, from: &str, to: &str) {
        self.replace(to, Some(self.content(from)));
    }

    /// Makes a part of a file unreadable, EIO, until one write covers it.
    pub fn make_unreadable(&self, name: &str, range: Range<u64>) {
        let mut state = self.shared.state.lock();
        let file = state.find(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        state.unreadable.push((file, range));
    }

    fn content(&self, name: &str) -> Arc<FileData> {
        let state = self.shared.state.lock();
        let content = state.find(name).and_then(|file| {
            let content = state.written.file(file).cloned();
            content.ok_or_else(|| io::Error::other("forgotten"))
        });
        content.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn replace(&self, name: &str, content: Option<Arc<FileData>>) {
        let mut state = self.shared.state.lock();
        let file = state.written.find(name).unwrap_or(state.written.next_ino());
        state.record(Op::Damaged { name: name.into(), file, content });
    }
}
