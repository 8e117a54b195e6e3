//! A directory in memory: everything written is durable at once, nothing runs by itself.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use seawall::storage::{Backend, Buffer, Client, GroupWrite, Hold, LockFailed, Mapping, Medium, Storage, WriteTimes};

/// Names and their bytes. A copy shares the bytes.
pub type Image = BTreeMap<String, Arc<Vec<u8>>>;

#[derive(Clone)]
pub struct Memory(Arc<Mutex<State>>);

struct State {
    direct: bool,
    block_bytes: u32,
    names: BTreeMap<String, usize>,
    files: Vec<Arc<Vec<u8>>>,
    client: Option<Weak<dyn Client<File>>>,
    jobs: VecDeque<Box<dyn FnOnce() + Send>>,
    writes: VecDeque<GroupWrite<File>>,
}

#[derive(Debug)]
pub struct File(usize);

/// Owns a map's bytes.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Memory {
    pub fn new(image: &Image, direct: bool, block_bytes: u32) -> Memory {
        let names = image.keys().enumerate().map(|(file, name)| (name.clone(), file)).collect();
        let files = image.values().cloned().collect();
        let (client, jobs, writes) = (None, VecDeque::new(), VecDeque::new());
        Memory(Arc::new(Mutex::new(State { direct, block_bytes, names, files, client, jobs, writes })))
    }

    pub fn image(&self) -> Image {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].clone())).collect()
    }

    /// Changes what is there behind the back of whoever has it open. Files keep their identity; new ones are made.
    pub fn replace(&self, image: &Image) {
        let mut state = self.state();
        let old = std::mem::take(&mut state.names);
        for (name, bytes) in image {
            let file = old.get(name).copied().unwrap_or(state.files.len());
            if file == state.files.len() {
                state.files.push(bytes.clone());
            }
            state.files[file] = bytes.clone();
            state.names.insert(name.clone(), file);
        }
    }

    /// Runs queued jobs and ends submitted writes until there are none.
    pub fn pump(&self) {
        loop {
            let (job, write, client) = {
                let mut state = self.state();
                (state.jobs.pop_front(), state.writes.pop_front(), state.client.clone())
            };
            if job.is_none() && write.is_none() {
                return;
            }
            if let Some(job) = job {
                job();
            }
            if let Some(write) = write {
                let result = self.write_flushed(&write.file, write.offset, &write.parts);
                if let Some(client) = client.and_then(|client| client.upgrade()) {
                    client.complete(write, result);
                }
            }
        }
    }

    /// Lets the log look after itself once, as the driver would.
    pub fn drive(&self) {
        let client = self.state().client.clone();
        if let Some(client) = client.and_then(|client| client.upgrade()) {
            client.drive();
        }
        self.pump();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn put(&self, file: &File, offset: u64, parts: &[&[u8]]) {
        let mut state = self.state();
        let bytes = Arc::make_mut(&mut state.files[file.0]);
        let mut at = offset as usize;
        for part in parts {
            if bytes.len() < at + part.len() {
                bytes.resize(at + part.len(), 0);
            }
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Memory {
    type File = File;
    type Lock = ();

    fn medium(&self) -> Medium {
        let state = self.state();
        Medium {
            backend: Backend::Simulated,
            backend_reason: None,
            direct: state.direct,
            past_caches: state.direct,
            device_block_bytes: state.block_bytes,
        }
    }

    fn describe(&self) -> String {
        "memory".into()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        Ok(state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Arc::default());
        state.names.insert(name.to_owned(), file);
        Ok(File(file))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.state().names.get(name).copied().map(File).ok_or_else(missing)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.names.remove(from).ok_or_else(missing)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().names.remove(name).map(drop).ok_or_else(missing)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(self.state().files[file.0].len() as u64)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        assert!(bytes <= 16 << 20, "a file of {bytes} bytes for a log this small");
        let mut state = self.state();
        if (state.files[file.0].len() as u64) < bytes {
            Arc::make_mut(&mut state.files[file.0]).resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn write(&self, file: &File, offset: u64, bytes: &Buffer) -> io::Result<()> {
        self.put(file, offset, &[bytes]);
        Ok(())
    }

    fn flush(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn write_flushed(&self, file: &File, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        self.put(file, offset, &parts);
        Ok(WriteTimes::default())
    }

    fn submit(&self, write: GroupWrite<File>) {
        self.state().writes.push_back(write);
    }

    fn read_at(&self, file: &File, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize> {
        let content = self.state().files[file.0].clone();
        let from = content.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(bytes);
        into.whole_mut()[..count].copy_from_slice(&from[..count]);
        into.set_len(count);
        Ok(count)
    }

    fn map(&self, file: &File, bytes: u64) -> io::Result<Mapping> {
        let content = self.state().files[file.0].clone();
        if (content.len() as u64) < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Mapping::from_bytes(Bytes::from_owner(Shared(content)).slice(..bytes as usize)))
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
        self.state().client = Some(client);
    }

    fn kick(&self) {}

    fn background(&self, job: Box<dyn FnOnce() + Send>) {
        self.state().jobs.push_back(job);
    }
}
