//! A block device that remembers every write.
//!
//! The kernel's loop driver lies over a file of ours; whatever file system is made on it, its writes, discards and
//! flushes come by here one after the other. What the device would hold had power been lost between any two of them
//! is served as another file of the same mount, copied only where it is written.

mod serve;
mod tape;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::choice::Choice;
use crate::mounted::Mounted;
use crate::sparse::PAGE_BYTES;
use serve::{DEVICE_NAME, FIRST_IMAGE, Served, Shelf, image_name};
use tape::Tape;

/// A file for a loop device, and the memory of what was done to it. Unmounted when dropped.
///
/// Memory: the device's size, [`Recorder::mount`]'s bound on recorded bytes, and one page for each recorded write that
/// is smaller than one; then what is written to each image that is alive.
pub struct Recorder {
    at: PathBuf,
    shelf: Arc<Mutex<Shelf>>,
    _mounted: Mounted,
}

impl Recorder {
    /// Mounts an empty device of this size over a directory. Of the bytes written to it, so many are remembered; older
    /// ones become its beginning.
    ///
    /// # Errors
    /// When it cannot be mounted: no `/dev/fuse`, no right to.
    pub fn mount(at: &Path, device_bytes: u64, recorded_bytes_max: u64) -> io::Result<Recorder> {
        let tape = Tape::new(device_bytes, recorded_bytes_max);
        let shelf = Shelf { tape, images: BTreeMap::new(), last_image: FIRST_IMAGE - 1 };
        let shelf = Arc::new(Mutex::new(shelf));
        let mounted = Mounted::new(Served(shelf.clone()), at)?;
        Ok(Recorder { at: at.to_owned(), shelf, _mounted: mounted })
    }

    /// The file to lay a loop device over.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        self.at.join(DEVICE_NAME)
    }

    /// How many steps (writes, discards, flushes) there have been. What was acknowledged before this was asked is in
    /// every image at this position or a later one, or somebody lied.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.shelf.lock().tape.now()
    }

    /// Something that tells the position, for another thread.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(self.shelf.clone())
    }

    /// The earliest position that an image can be cut at.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.shelf.lock().tape.first()
    }

    /// How many flushes there were between two positions.
    #[must_use]
    pub fn flushes_between(&self, from: u64, to: u64) -> usize {
        self.shelf.lock().tape.flushes_between(from, to)
    }

    /// Makes now the beginning of the recording, as if all had been flushed: after mkfs, say.
    pub fn forget(&self) {
        self.shelf.lock().tape.forget();
    }

    /// What the device holds if power was lost at this position: everything up to the last flush before it, and of the
    /// writes since, what `choice` says, each whole, lost, or torn between sectors of 512 bytes.
    ///
    /// Costs about a millisecond, whatever the device's size.
    ///
    /// # Panics
    /// When the position is earlier than [`Recorder::first`], or later than [`Recorder::position`].
    #[must_use]
    pub fn image(&self, position: u64, choice: Choice) -> CrashImage {
        let mut shelf = self.shelf.lock();
        let image = shelf.tape.image(position, choice);
        shelf.last_image += 1;
        let number = shelf.last_image;
        shelf.images.insert(number, image);
        CrashImage { path: self.at.join(image_name(number)), number, shelf: self.shelf.clone() }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("at", &self.at).field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Tells the position of a [`Recorder`].
#[derive(Clone)]
pub struct Clock(Arc<Mutex<Shelf>>);

impl Clock {
    /// As [`Recorder::position`].
    #[must_use]
    pub fn position(&self) -> u64 {
        self.0.lock().tape.now()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.position())
    }
}

/// A device after a power loss: a file in the recorder's mount, to be read and written, gone when dropped.
pub struct CrashImage {
    path: PathBuf,
    number: u64,
    shelf: Arc<Mutex<Shelf>>,
}

impl CrashImage {
    /// The file to lay a loop device over.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it to a sparse file, for somebody to look at it later.
    ///
    /// # Errors
    /// Of the file.
    pub fn save(&self, to: &Path) -> io::Result<()> {
        let file = File::create(to)?;
        let shelf = self.shelf.lock();
        let device_bytes = shelf.tape.device_bytes();
        file.set_len(device_bytes)?;
        let image = shelf.images[&self.number].clone();
        drop(shelf);
        let mut bytes = [0; PAGE_BYTES];
        for page in image.pages_between(0, device_bytes.div_ceil(PAGE_BYTES as u64)) {
            image.read(page * PAGE_BYTES as u64, &mut bytes);
            file.write_all_at(&bytes, page * PAGE_BYTES as u64)?;
        }
        Ok(())
    }
}

impl Drop for CrashImage {
    fn drop(&mut self) {
        self.shelf.lock().images.remove(&self.number);
    }
}

impl std::fmt::Debug for CrashImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CrashImage({})", self.path.display())
    }
}
