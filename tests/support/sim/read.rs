//! The storage's reads and maps.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use seawall::storage::{Buffer, Mapping};

use super::errno;
use super::fault::OpKind;
use super::handle::SimFile;
use super::image::Ino;
use super::state::{Map, State};
use super::storage::{SimStorage, failed};
use super::violation::ViolationKind;

/// A mapping's bytes: what the file held when it was mapped.
struct Mapped {
    content: Arc<[u8]>,
    bytes: usize,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.content[..self.bytes]
    }
}

impl State {
    fn check_readable(&self, file: Ino, range: Range<u64>) -> io::Result<()> {
        let meets = |bad: &Range<u64>| bad.start < range.end && range.start < bad.end;
        match self.unreadable.iter().any(|(of, bad)| *of == file && meets(bad)) {
            true => Err(io::Error::from_raw_os_error(errno::EIO)),
            false => Ok(()),
        }
    }
}

pub(super) fn read_at(
    storage: &SimStorage,
    file: &SimFile,
    offset: u64,
    bytes: usize,
    into: &mut Buffer,
) -> io::Result<usize> {
    storage.call_on(OpKind::Read, file, |state, hit| {
        let block = u64::from(state.options.block_bytes);
        let is_aligned = offset.is_multiple_of(block) && (bytes as u64).is_multiple_of(block);
        let fits = bytes <= into.capacity();
        if !is_aligned || !fits {
            let (name, capacity) = (state.name_of(file.ino), into.capacity());
            let what = format!("{name} at {offset}, {bytes} bytes into a buffer of {capacity}");
            state.violate(ViolationKind::UnalignedRead, what);
            if state.options.direct || !fits {
                return Err(io::Error::from_raw_os_error(errno::EINVAL));
            }
        }
        let has = state.len(file.ino).saturating_sub(offset).min(bytes as u64);
        state.check_readable(file.ino, offset..offset + has)?;
        failed(hit, ())?;
        if let Some(content) = state.written.file(file.ino) {
            content.read(offset, &mut into.whole_mut()[..has as usize]);
        }
        into.set_len(has as usize);
        Ok(has as usize)
    })
}

pub(super) fn map(storage: &SimStorage, file: &SimFile, bytes: u64) -> io::Result<Mapping> {
    storage.call_on(OpKind::Map, file, |state, hit| {
        if state.flights.iter().any(|flight| flight.write.file.ino == file.ino) {
            let what = format!("{}, the first {bytes} bytes", state.name_of(file.ino));
            state.violate(ViolationKind::MapUnderWrite, what);
        }
        let Some(content) = state.written.file(file.ino).filter(|content| content.len() >= bytes) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        failed(hit, ())?;
        let (content, alive) = (content.flat(), Arc::new(()));
        let address = content.as_ptr() as usize;
        let map = Map { session: storage.session, bytes, address, alive: Arc::downgrade(&alive) };
        let node = state.nodes.entry(file.ino).or_default();
        node.maps.retain(|map| map.alive.strong_count() > 0);
        node.maps.push(map);
        Ok(Mapping::from_bytes(Bytes::from_owner(Mapped { content, bytes: bytes as usize, _alive: alive })))
    })
}

pub(super) fn populate(storage: &SimStorage, map: &Mapping, range: Range<usize>) -> io::Result<()> {
    if range.start > range.end || range.end > map.bytes().len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    storage.call(OpKind::Populate, "", |state, hit| {
        failed(hit, ())?;
        let address = map.bytes().as_ptr() as usize;
        let of_map = |file: &&Ino| state.nodes[file].maps.iter().any(|map| map.address == address);
        let Some(file) = state.nodes.keys().find(of_map).copied() else { return Ok(()) };
        if state.len(file) < range.end as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.check_readable(file, range.start as u64..range.end as u64)
    })
}
