//! Everything a disk knows, behind its one lock.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use seawall::storage::{Client, Hold, WriteTimes};

use super::disk::DiskOptions;
use super::fault::Faults;
use super::flight::{Flight, Letter};
use super::handle::SimFile;
use super::image::{Image, Ino};
use super::journal::Journal;
use super::op::{Op, OpNumber};
use super::platter::Platter;
use super::rng::Rng;
use super::violation::Violation;

/// Index of a [`Session`].
pub(super) type SessionId = usize;
/// A job given to [`Storage::background`](seawall::storage::Storage::background).
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What handles share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Told when a threaded session has something to do.
    pub(super) wake: Condvar,
}

pub(super) struct State {
    pub(super) options: DiskOptions,
    pub(super) platter: Platter,
    /// What readers see.
    pub(super) written: Image,
    pub(super) journal: Journal,
    /// Open files and maps; nothing here survives a power loss.
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) sessions: Vec<Session>,
    pub(super) hooks: Vec<super::hook::Hook>,
    /// Submitted writes that have not ended, oldest first.
    pub(super) flights: Vec<Flight>,
    pub(super) lock: Option<Holder>,
    pub(super) faults: Faults,
    pub(super) violations: Vec<Violation>,
    /// Bytes there are, and the error beyond them.
    pub(super) capacity: Option<(u64, i32)>,
    /// Parts of files that give EIO.
    pub(super) unreadable: Vec<(Ino, Range<u64>)>,
    /// Flushes say yes and do nothing.
    pub(super) flushes_lie: bool,
    /// Submitted writes wait for the test to end them.
    pub(super) manual: bool,
    /// Chooses what the pump does next; without it, the order is fixed.
    pub(super) schedule: Option<Rng>,
    /// What flushed writes say they took.
    pub(super) times: WriteTimes,
    /// How long a threaded session lets a submitted write take.
    pub(super) latency: Duration,
    next_id: u64,
}

/// A process that uses the disk.
pub(super) struct Session {
    pub(super) alive: bool,
    pub(super) client: Option<Weak<dyn Client<SimFile>>>,
    pub(super) kicked: bool,
    /// When the client wants to be driven without a kick.
    pub(super) due: Option<Instant>,
    pub(super) jobs: VecDeque<Job>,
    /// Writes that ended without having been in flight, to be told to the client.
    pub(super) letters: VecDeque<Letter>,
    pub(super) inline_jobs: bool,
    /// Its own threads do what else the pump does.
    pub(super) threaded: bool,
    /// Its threads are to end.
    pub(super) stopped: bool,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            alive: true,
            client: None,
            kicked: false,
            due: None,
            jobs: VecDeque::new(),
            letters: VecDeque::new(),
            inline_jobs: false,
            threaded: false,
            stopped: false,
        }
    }
}

/// Who holds the directory's lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) session: SessionId,
    pub(super) id: u64,
}

/// A file in use.
#[derive(Default)]
pub(super) struct Node {
    pub(super) handles: Vec<Handle>,
    pub(super) maps: Vec<Map>,
}

pub(super) struct Handle {
    pub(super) id: u64,
    pub(super) session: SessionId,
    pub(super) hold: Hold,
}

impl Handle {
    pub(super) fn is_shared(&self) -> bool {
        self.hold == Hold::Shared
    }
}

/// A mapping whose bytes somebody may still hold.
pub(super) struct Map {
    pub(super) session: SessionId,
    pub(super) bytes: u64,
    /// Where the bytes are in memory: how a mapping is known again.
    pub(super) address: usize,
    pub(super) alive: Weak<()>,
}

impl State {
    pub(super) fn new(options: DiskOptions, image: Image) -> State {
        let platter = Platter::new(image.clone());
        State {
            options,
            journal: Journal::new(options, platter.clone(), 0),
            platter,
            written: image,
            nodes: BTreeMap::new(),
            sessions: Vec::new(),
            hooks: Vec::new(),
            flights: Vec::new(),
            lock: None,
            faults: Faults::default(),
            violations: Vec::new(),
            capacity: None,
            unreadable: Vec::new(),
            flushes_lie: false,
            manual: false,
            schedule: None,
            times: WriteTimes { write: Duration::ZERO, flush: Duration::from_micros(200), by_thread: false },
            latency: Duration::ZERO,
            next_id: 1,
        }
    }

    /// Does an operation: what readers see, what a power loss leaves, and the journal go on together.
    pub(super) fn record(&mut self, op: Op) -> OpNumber {
        let number = self.journal.end();
        match &op {
            Op::Create { name, file } => {
                self.written.file_mut(*file);
                self.written.names_mut().insert(name.clone(), *file);
            }
            Op::Rename { from, to } => {
                if let Some(file) = self.written.names_mut().remove(from) {
                    self.written.names_mut().insert(to.clone(), file);
                }
            }
            Op::Remove { name } => drop(self.written.names_mut().remove(name)),
            Op::Allocate { file, bytes } => self.written.file_mut(*file).extend_to(*bytes),
            Op::Done { write, landed, .. } => self.show(*write, *landed),
            Op::Damaged { name, file, content } => {
                self.written.set_file(*file, content.clone());
                match content {
                    Some(_) => self.written.names_mut().insert(name.clone(), *file),
                    None => self.written.names_mut().remove(name),
                };
            }
            _ => {}
        }
        self.platter.apply(number, &op);
        if matches!(op, Op::CachesDropped { .. }) {
            self.reread();
        }
        self.journal.push(op);
        number
    }

    fn show(&mut self, write: OpNumber, landed: super::op::Landed) {
        let Some(write) = self.platter.write(write) else { return };
        let super::platter::What::Bytes(data) = &write.what else { return };
        let file = self.written.file_mut(write.file);
        for range in landed.ranges(data.range()) {
            file.write(data, range);
        }
    }

    /// Readers see the device again.
    fn reread(&mut self) {
        let files: Vec<Ino> = self.platter.durable.files().map(|(ino, _)| ino).collect();
        for file in files {
            self.written.set_file(file, self.platter.durable.file(file).cloned());
        }
        for write in self.platter.writes.iter().filter(|write| !write.in_flight) {
            write.apply(&mut self.written);
        }
    }

    /// A number for a handle, a lock or a choice.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A file's name, for messages.
    pub(super) fn name_of(&self, file: Ino) -> Arc<str> {
        self.written.name_of(file).cloned().unwrap_or_else(|| "(removed)".into())
    }

    /// The file of this name.
    pub(super) fn find(&self, name: &str) -> io::Result<Ino> {
        self.written.find(name).ok_or_else(|| io::Error::from_raw_os_error(super::errno::ENOENT))
    }

    pub(super) fn len(&self, file: Ino) -> u64 {
        self.written.file(file).map_or(0, |file| file.len())
    }

    /// Frees a file that has neither a name nor a user.
    pub(super) fn forget_if_unused(&mut self, file: Ino) {
        let in_use = |node: &Node| !node.handles.is_empty() || node.maps.iter().any(|map| map.alive.strong_count() > 0);
        if !self.nodes.get(&file).is_some_and(in_use) {
            self.nodes.remove(&file);
            if self.written.name_of(file).is_none() && self.written.file(file).is_some() {
                self.written.set_file(file, None);
            }
        }
    }

    /// A handle on a file for a session.
    pub(super) fn new_handle(&mut self, file: Ino, session: SessionId) -> u64 {
        let id = self.fresh_id();
        self.nodes.entry(file).or_default().handles.push(Handle { id, session, hold: Hold::Released });
        id
    }

    /// The end of a handle, and of its hold.
    pub(super) fn close_handle(&mut self, file: Ino, id: u64) {
        if let Some(node) = self.nodes.get_mut(&file) {
            node.handles.retain(|handle| handle.id != id);
        }
        self.forget_if_unused(file);
    }
}
