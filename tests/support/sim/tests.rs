//! The simulator's own tests: what it must lose, what it must keep, and that it would notice.

mod crash;
mod damage;
mod faults;
mod model;
mod names;
mod process;
mod pump;
mod toy;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use seawall::storage::{Buffer, Client, GroupWrite, Storage, WriteTimes};

use super::*;

/// A filled buffer.
fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::new(bytes.len());
    buffer.set_len(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer
}

/// So many blocks of 4 KiB, full of one byte.
fn blocks(byte: u8, count: usize) -> Buffer {
    buffer(&vec![byte; 4096 * count])
}

/// A disk with one durable file `f` of four blocks of 1s, and its process.
fn disk_with_file(options: DiskOptions) -> (SimDisk, SimStorage, SimFile) {
    let disk = SimDisk::new(options);
    disk.write_file("f", &[1; 4 * 4096]);
    let storage = disk.open();
    let file = storage.open("f").unwrap();
    (disk, storage, file)
}

/// The first byte of each block of `f`, in every state of a power loss now.
fn states(disk: &SimDisk) -> BTreeSet<Vec<u8>> {
    let options = CrashOptions { torn_writes: 0, ..CrashOptions::default() };
    disk.crash_states(options).map(|state| heads(&state.disk)).collect()
}

/// The first byte of each block of `f`; nothing where there is no such file.
fn heads(disk: &SimDisk) -> Vec<u8> {
    match disk.names().iter().any(|(name, _)| name == "f") {
        true => disk.read_file("f").chunks(4096).map(|block| block[0]).collect(),
        false => Vec::new(),
    }
}

fn kinds(disk: &SimDisk) -> Vec<ViolationKind> {
    disk.violations().iter().map(|violation| violation.kind).collect()
}

/// What a storage does with its client, remembered.
#[derive(Default)]
struct Witness {
    told: Mutex<Vec<(u64, Result<(), io::ErrorKind>)>>,
    drives: Mutex<usize>,
    again: Option<Duration>,
}

impl Client<SimFile> for Witness {
    fn panicked(&self) {}

    fn complete(&self, write: GroupWrite<SimFile>, result: io::Result<WriteTimes>) {
        self.told.lock().push((write.token, result.map(drop).map_err(|error| error.kind())));
    }

    fn drive(&self) -> Option<Duration> {
        *self.drives.lock() += 1;
        self.again
    }
}

impl Witness {
    fn attached(storage: &SimStorage) -> Arc<Witness> {
        let witness = Arc::new(Witness::default());
        let client: Arc<dyn Client<SimFile>> = witness.clone();
        let weak: Weak<dyn Client<SimFile>> = Arc::downgrade(&client);
        storage.attach(weak);
        witness
    }

    fn tokens(&self) -> Vec<u64> {
        self.told.lock().iter().map(|(token, _)| *token).collect()
    }
}

fn submit(storage: &SimStorage, file: &Arc<SimFile>, token: u64, block: u64, byte: u8) {
    let parts = vec![Arc::new(blocks(byte, 1))];
    storage.submit(GroupWrite { file: file.clone(), offset: block * 4096, parts, token });
}
