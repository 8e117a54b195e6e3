//! A directory in memory that keeps written and flushed apart and knows which records are flushed.
//!
//! What it keeps is under locks that no other thread of a schedule can meet: they are held between two steps of the
//! scheduler, never across one. The steps are explicit, in [`Disk::step`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use seawall::model;
use seawall::storage::{Backend, Buffer, Client, GroupWrite, Hold, LockFailed, Mapping, Medium, Storage, WriteTimes};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU64, Ordering};

use crate::driver::Driver;

const PAGE: usize = 4096;
/// The first four bytes of every record; its number follows.
const MARK: u32 = 0x5EA0_3A11;

/// What is built in to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Lie {
    /// Nothing.
    #[default]
    None,
    /// Some writes are told before they are flushed.
    ToldBeforeFlushed,
    /// One kick is not delivered.
    KickLost,
}

type Pages = BTreeMap<u64, Arc<[u8]>>;

/// A file's bytes, as written and as flushed. Pages of zeros are left out.
#[derive(Clone, Debug, Default)]
struct Content {
    bytes: u64,
    written: Pages,
    flushed_bytes: u64,
    flushed: Pages,
}

/// An open file, whatever its name is by now.
#[derive(Clone, Debug)]
pub(crate) struct File(Arc<Mutex<Content>>);

/// A directory as a crash leaves it.
#[derive(Clone, Default)]
pub(crate) struct Image(BTreeMap<String, Content>);

#[derive(Default)]
struct State {
    names: BTreeMap<String, File>,
    synced: BTreeMap<String, File>,
    /// Records in flushed blocks.
    flushed: BTreeSet<u32>,
    /// Records in writes that failed.
    failed: BTreeSet<u32>,
    acknowledged: Vec<(u64, u32)>,
    /// Flushes until the picture is taken.
    picture_in: Option<u32>,
    picture: Option<(Image, Vec<(u64, u32)>)>,
    /// Group writes until one fails.
    fails_in: Option<u32>,
    writes: u32,
}

struct Inner {
    state: Mutex<State>,
    driver: Arc<Driver>,
    steps: AtomicU64,
    lie: Lie,
}

/// The directory; clones are the same one.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Inner>);

impl Disk {
    pub(crate) fn new(image: &Image, driver: Arc<Driver>, lie: Lie) -> Disk {
        let names: BTreeMap<String, File> =
            image.0.iter().map(|(name, content)| (name.clone(), File(Arc::new(Mutex::new(content.clone()))))).collect();
        let state = Mutex::new(State { synced: names.clone(), names, ..State::default() });
        Disk(Arc::new(Inner { state, driver, steps: AtomicU64::new(0), lie }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scheduler may turn to somebody else here.
    fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    // --- for judgments ---------------------------------------------------------------------------------------------

    /// The group write after so many others fails.
    pub(crate) fn fail_in(&self, writes: u32) {
        self.state().fails_in = Some(writes);
    }

    /// Takes a picture of what a crash would leave, at the flush after so many others.
    pub(crate) fn picture_in(&self, flushes: u32) {
        self.state().picture_in = Some(flushes);
    }

    /// The picture, and what had been acknowledged by then.
    pub(crate) fn picture(&self) -> Option<(Image, Vec<(u64, u32)>)> {
        self.state().picture.take()
    }

    /// What a crash now would leave.
    pub(crate) fn image(&self) -> Image {
        image(&self.state())
    }

    /// Somebody is told that a record is durable, or shown it.
    pub(crate) fn expect_flushed(&self, mark: u32) {
        assert!(self.state().flushed.contains(&mark), "record {mark} was told before it was flushed");
    }

    pub(crate) fn acknowledge(&self, lsn: u64, mark: u32) {
        self.expect_flushed(mark);
        self.state().acknowledged.push((lsn, mark));
    }

    pub(crate) fn acknowledged(&self) -> Vec<(u64, u32)> {
        self.state().acknowledged.clone()
    }

    /// Records in writes that failed.
    pub(crate) fn failed(&self) -> BTreeSet<u32> {
        self.state().failed.clone()
    }

    // --- writing ---------------------------------------------------------------------------------------------------

    fn write_pages(&self, file: &File, offset: u64, bytes: &[u8]) {
        let mut content = file.content();
        content.bytes = content.bytes.max(offset + bytes.len() as u64);
        for (at, page) in bytes.chunks(PAGE).enumerate() {
            assert_eq!(page.len(), PAGE, "whole blocks are written");
            let number = offset / PAGE as u64 + at as u64;
            if page.iter().all(|byte| *byte == 0) {
                content.written.remove(&number);
            } else {
                content.written.insert(number, page.into());
            }
        }
    }

    fn flush_pages(&self, file: &File, pages: Range<u64>) {
        let mut marks = Vec::new();
        {
            let mut content = file.content();
            let content = &mut *content;
            content.flushed_bytes = content.bytes;
            let gone: Vec<u64> = content.flushed.range(pages.clone()).map(|(number, _)| *number).collect();
            gone.iter().for_each(|number| drop(content.flushed.remove(number)));
            for (number, page) in content.written.range(pages) {
                marks_in(page, &mut marks);
                content.flushed.insert(*number, page.clone());
            }
        }
        let mut state = self.state();
        state.flushed.extend(marks);
        state.picture_in = match state.picture_in {
            Some(0) => {
                state.picture = Some((image(&state), state.acknowledged.clone()));
                None
            }
            left => left.map(|left| left - 1),
        };
    }

    /// Whether this group write fails, or is told too soon.
    fn fate(&self) -> (bool, bool) {
        let mut state = self.state();
        state.writes += 1;
        let fails = state.fails_in == Some(0);
        state.fails_in = state.fails_in.and_then(|left| left.checked_sub(1));
        (fails, self.0.lie == Lie::ToldBeforeFlushed && state.writes.is_multiple_of(3))
    }
}

impl File {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn image(state: &State) -> Image {
    let survives = |file: &File| {
        let content = file.content();
        let (bytes, pages) = (content.flushed_bytes, content.flushed.clone());
        Content { bytes, written: pages.clone(), flushed_bytes: bytes, flushed: pages }
    };
    Image(state.synced.iter().map(|(name, file)| (name.clone(), survives(file))).collect())
}

/// A record of `bytes` that can be told from every other.
pub(crate) fn record(mark: u32, bytes: usize) -> Vec<u8> {
    let mut record = vec![mark as u8; bytes.max(8)];
    record[..4].copy_from_slice(&MARK.to_le_bytes());
    record[4..8].copy_from_slice(&mark.to_le_bytes());
    record
}

/// Which record this is.
pub(crate) fn mark_of(payload: &[u8]) -> u32 {
    assert_eq!(payload[..4], MARK.to_le_bytes(), "not a record of ours");
    u32::from_le_bytes(payload[4..8].try_into().expect("four bytes"))
}

/// Payloads begin at multiples of eight.
fn marks_in(page: &[u8], marks: &mut Vec<u32>) {
    let ours = page.chunks_exact(8).filter(|word| word[..4] == MARK.to_le_bytes());
    marks.extend(ours.map(mark_of));
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Disk {
    type File = File;
    type Lock = ();

    fn medium(&self) -> Medium {
        Medium {
            backend: Backend::Simulated,
            backend_reason: None,
            direct: true,
            past_caches: true,
            device_block_bytes: PAGE as u32,
        }
    }

    fn describe(&self) -> String {
        "a disk in memory".into()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.state().names.iter().map(|(name, file)| (name.clone(), file.content().bytes)).collect())
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = File(Arc::default());
        state.names.insert(name.into(), file.clone());
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.state().names.get(name).cloned().ok_or_else(not_found)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step();
        let mut state = self.state();
        let file = state.names.remove(from).ok_or_else(not_found)?;
        state.names.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step();
        self.state().names.remove(name).map(drop).ok_or_else(not_found)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.step();
        let mut state = self.state();
        state.synced = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.content().bytes)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        let mut content = file.content();
        content.bytes = content.bytes.max(bytes);
        Ok(())
    }

    fn write(&self, file: &File, offset: u64, bytes: &Buffer) -> io::Result<()> {
        self.step();
        self.write_pages(file, offset, bytes);
        Ok(())
    }

    fn flush(&self, file: &File) -> io::Result<()> {
        self.step();
        self.flush_pages(file, 0..u64::MAX);
        Ok(())
    }

    fn write_flushed(&self, file: &File, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes> {
        let mut at = offset;
        for part in parts {
            self.write_pages(file, at, part);
            at += part.len() as u64;
        }
        let (fails, told_too_soon) = self.fate();
        model::yield_some();
        if fails {
            let mut marks = Vec::new();
            parts.iter().for_each(|part| marks_in(part, &mut marks));
            self.state().failed.extend(marks);
            return Err(io::Error::other("the device failed"));
        }
        if !told_too_soon {
            self.flush_pages(file, offset / PAGE as u64..at / PAGE as u64);
        }
        self.step();
        Ok(WriteTimes { write: Duration::ZERO, flush: Duration::from_micros(100), by_thread: false })
    }

    fn submit(&self, write: GroupWrite<File>) {
        self.0.driver.submit(write);
    }

    fn read_at(&self, file: &File, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize> {
        self.step();
        let content = file.content();
        let bytes = bytes.min(content.bytes.saturating_sub(offset) as usize);
        into.whole_mut()[..bytes].fill(0);
        for (at, piece) in into.whole_mut()[..bytes].chunks_mut(PAGE).enumerate() {
            if let Some(page) = content.written.get(&(offset / PAGE as u64 + at as u64)) {
                piece.copy_from_slice(&page[..piece.len()]);
            }
        }
        into.set_len(bytes);
        Ok(bytes)
    }

    fn map(&self, file: &File, bytes: u64) -> io::Result<Mapping> {
        self.step();
        let mut all = vec![0; bytes as usize];
        let content = file.content();
        for (at, piece) in all.chunks_mut(PAGE).enumerate() {
            if let Some(page) = content.written.get(&(at as u64)) {
                piece.copy_from_slice(&page[..piece.len()]);
            }
        }
        Ok(Mapping::from_bytes(all.into()))
    }

    fn populate(&self, _: &Mapping, _: Range<usize>) -> io::Result<()> {
        Ok(())
    }

    fn hold(&self, _: &File, _: Hold) -> io::Result<bool> {
        Ok(true)
    }

    fn lock(&self) -> Result<(), LockFailed> {
        Ok(())
    }

    fn attach(&self, client: Weak<dyn Client<File>>) {
        self.0.driver.attach(client);
    }

    fn kick(&self) {
        let is_lost = self.0.lie == Lie::KickLost && thread_rng().gen_range(0..4) == 0;
        if !is_lost {
            self.0.driver.kick();
        }
    }

    fn background(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.driver.background(job);
    }
}
