//! Sealed files in memory: slices of a map are `Bytes`, and somebody can ask whether any of them is still alive.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The first bytes of a file that nobody writes any more, shared without a copy.
pub struct Mapping {
    bytes: Bytes,
    source: Weak<Source>,
    alive: Weak<()>,
}

/// Tells whether a [`Mapping`], or any `Bytes` taken from it, is alive in this process.
#[derive(Clone, Debug)]
pub struct MapWatch(Weak<()>);

impl Mapping {
    /// Bytes that are no file's, for simulated storages.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Mapping {
        Mapping::new(Source::Memory(bytes))
    }

    /// Maps the first `bytes` of a file. Its description stays open as long as the map: a claim on it lasts as long.
    ///
    /// The caller's part of the bargain, which no signature can ask for: nobody in this process writes or truncates
    /// the file before [`MapWatch::is_alive`] says no; claims keep other processes from it.
    #[allow(unsafe_code)]
    pub(super) fn of_file(file: Arc<OwnedFd>, bytes: u64) -> io::Result<Mapping> {
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        check_file_holds(file.as_fd(), bytes as u64)?;
        if bytes == 0 {
            return Ok(Mapping::from_bytes(Bytes::new()));
        }
        let buffered = reopen_buffered(file.as_fd())?;
        // SAFETY: the memory must not change or vanish while it is borrowed. Segments are mapped only when sealed: no
        // write to them is in flight, and none is started before every `Bytes` of the map is gone. What others do to
        // the file behind our back (truncate it) is caught by `populate` before a range is read.
        let memory = unsafe { MmapOptions::new().len(bytes).map(&buffered)? };
        Ok(Mapping::new(Source::File { memory, file }))
    }

    fn new(source: Source) -> Mapping {
        let source = Arc::new(source);
        let alive = Arc::new(());
        let (weak_source, weak_alive) = (Arc::downgrade(&source), Arc::downgrade(&alive));
        Mapping { bytes: Bytes::from_owner(Owner { source, _alive: alive }), source: weak_source, alive: weak_alive }
    }

    /// All of it; slices of it keep the map alive.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Something to ask later whether the map is still in use.
    #[must_use]
    pub fn watch(&self) -> MapWatch {
        MapWatch(self.alive.clone())
    }

    /// Reads the range's pages in, so that a page that cannot be read is an error here and no signal later.
    ///
    /// A file truncated, or a device that fails, after this returned is beyond it.
    pub(super) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        if range.start > range.end || range.end > self.bytes.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a range beyond the mapping"));
        }
        // Always there: `self.bytes` keeps it.
        let Some(source) = self.source.upgrade() else { return Ok(()) };
        let Source::File { memory, file } = &*source else { return Ok(()) };
        // The last page of a truncated file reads as zeros beyond the end instead of failing.
        check_file_holds(file.as_fd(), range.end as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let populated = || loop {
            match memory.advise_range(Advice::PopulateRead, range.start, range.len()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                populated => return populated,
            }
        };
        match populated() {
            Err(e) => match Errno::from_io_error(&e) {
                // Before Linux 5.14.
                Some(Errno::INVAL) => read_through(file.as_fd(), range),
                // A page that would be a signal. Why, only a read of it tells: the device, or a truncation meanwhile.
                Some(Errno::FAULT) => read_through(file.as_fd(), range.clone()).and_then(|()| populated()),
                _ => Err(e),
            },
            Ok(()) => Ok(()),
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.bytes.len())
    }
}

impl MapWatch {
    /// Whether the mapping or any `Bytes` of it still exists. Once false, it stays false, and all reads are over.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let alive = self.0.strong_count() > 0;
        // `strong_count` is a relaxed load; pairs with the release of the last owner's decrement.
        fence(Ordering::Acquire);
        alive
    }
}

/// Where the bytes are.
enum Source {
    File { memory: Mmap, file: Arc<OwnedFd> },
    Memory(Bytes),
}

/// What every `Bytes` of a mapping owns a share of. Fields drop in order: unmapped first, then no longer alive.
struct Owner {
    source: Arc<Source>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        match &*self.source {
            Source::File { memory, .. } => memory,
            Source::Memory(bytes) => bytes,
        }
    }
}

fn check_file_holds(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let has = rustix::fs::fstat(file)?.st_size as u64;
    if has < bytes {
        let text = format!("the file has {has} bytes, a map of it needs {bytes}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }
    Ok(())
}

/// Another description of the same file, whatever its name is by now, without O_DIRECT: some file systems refuse to
/// map one that has it.
fn reopen_buffered(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(buffered) => Ok(buffered),
        // Without /proc, and where the file's mode forbids a second open: most file systems map this one as well.
        Err(Errno::NOENT | Errno::ACCESS) => Ok(file.try_clone_to_owned()?),
        Err(e) => Err(e.into()),
    }
}

/// No page is smaller.
const PAGE_BYTES: usize = 4096;

/// What populate does where the kernel cannot: reads the range into the page cache, where the map then finds it.
fn read_through(file: BorrowedFd<'_>, range: Range<usize>) -> io::Result<()> {
    let buffered = reopen_buffered(file)?;
    let mut scratch = super::Buffer::new(64 * 1024);
    let mut offset = range.start & !(PAGE_BYTES - 1);
    while offset < range.end {
        // Not a page further: that one may be lost, and not asked for.
        let step = scratch.capacity().min((range.end - offset).next_multiple_of(PAGE_BYTES));
        let part = &mut scratch.whole_mut()[..step];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&buffered, &mut *part, offset as u64))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += read;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn mapped(bytes: usize) -> (File, Mapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        let mapping = Mapping::of_file(Arc::new(file.try_clone().unwrap().into()), bytes as u64).unwrap();
        (file, mapping)
    }

    #[test]
    fn a_map_is_alive_as_long_as_any_slice_of_it() {
        let (_file, mapping) = mapped(10_000);
        let watch = mapping.watch();
        mapping.populate(100..10_000).unwrap();
        let slice = mapping.bytes().slice(4000..4010);
        let copy = slice.clone();
        drop(mapping);
        assert!(watch.is_alive());
        drop(slice);
        assert!(watch.is_alive());
        assert_eq!(copy, [7; 10].as_slice());
        let elsewhere = std::thread::spawn(move || drop(copy));
        elsewhere.join().unwrap();
        assert!(!watch.is_alive());
    }

    #[test]
    fn memory_counts_its_slices_as_well() {
        let mapping = Mapping::from_bytes(Bytes::from_static(b"abcdef"));
        mapping.populate(0..6).unwrap();
        let (watch, slice) = (mapping.watch(), mapping.bytes().slice(1..2));
        drop(mapping);
        assert!(watch.is_alive());
        assert_eq!(slice, b"b".as_slice());
        drop(slice);
        assert!(!watch.is_alive());
    }

    #[test]
    fn a_truncated_file_is_an_error_and_no_signal() {
        let (file, mapping) = mapped(1 << 20);
        file.set_len(8192).unwrap();
        mapping.populate(0..8192).unwrap();
        for range in [0..8193, 8192..8200, 500_000..500_001, 0..1 << 20] {
            assert_eq!(mapping.populate(range).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert!(mapping.populate(0..(1 << 20) + 1).is_err());
        // The kernel's own answer, should the length be cut between the two looks.
        let source = mapping.source.upgrade().unwrap();
        let Source::File { memory, .. } = &*source else { panic!("a file's map") };
        let answer = memory.advise_range(Advice::PopulateRead, 8192, 4096).unwrap_err();
        assert!(matches!(Errno::from_io_error(&answer), Some(Errno::FAULT | Errno::INVAL)), "{answer}");
    }

    #[test]
    fn a_map_beyond_the_end_is_refused_and_an_empty_one_is_not() {
        let (file, _mapping) = mapped(5000);
        let fd: Arc<OwnedFd> = Arc::new(file.into());
        assert_eq!(Mapping::of_file(fd.clone(), 5001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let empty = Mapping::of_file(fd, 0).unwrap();
        empty.populate(0..0).unwrap();
        assert!(empty.bytes().is_empty());
    }

    #[test]
    fn reading_through_finds_a_missing_end() {
        let (file, _mapping) = mapped(200_000);
        read_through(file.as_fd(), 70_000..200_000).unwrap();
        file.set_len(100_000).unwrap();
        assert_eq!(read_through(file.as_fd(), 70_000..200_000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
