//! The disk as a test holds it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use seawall::storage::WriteTimes;

use super::choice::CrashChoice;
use super::crash::{CrashOptions, CrashStates};
use super::fault::{Fault, Target};
use super::image::Image;
use super::journal::Journal;
use super::op::{Note, Op, OpNumber};
use super::rng::Rng;
use super::state::{Session, Shared, State};
use super::storage::SimStorage;
use super::violation::Violation;

/// What a disk is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// O_DIRECT works, and the device has a volatile cache; else reads and writes go through a page cache.
    pub direct: bool,
    /// Bytes of a device block.
    pub block_bytes: u32,
}

impl DiskOptions {
    /// Direct, with blocks of 4 KiB.
    pub const DIRECT: DiskOptions = DiskOptions { direct: true, block_bytes: 4096 };
    /// Direct, with blocks of 512 bytes.
    pub const DIRECT_512: DiskOptions = DiskOptions { direct: true, block_bytes: 512 };
    /// Through a page cache, with blocks of 4 KiB.
    pub const BUFFERED: DiskOptions = DiskOptions { direct: false, block_bytes: 4096 };
}

/// A directory on a simulated disk. A clone is another handle on the same one.
///
/// Keep a handle as long as anything uses the disk: the last one takes unfinished jobs and writes with it.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) shared: Arc<Shared>,
    /// Counts the handles.
    owner: Arc<Owner>,
}

struct Owner(Arc<Shared>);

impl SimDisk {
    /// An empty directory.
    pub fn new(options: DiskOptions) -> SimDisk {
        Self::from_image(options, Image::default())
    }

    /// A directory that holds this, durably.
    pub(super) fn from_image(options: DiskOptions, image: Image) -> SimDisk {
        let state = Mutex::new(State::new(options, image));
        let shared = Arc::new(Shared { state, wake: Condvar::new() });
        SimDisk { owner: Arc::new(Owner(shared.clone())), shared }
    }

    /// Starts a process that uses the disk. To open it again after a crash, [kill](SimDisk::kill) first, or open what
    /// [`SimDisk::crash`] returned.
    pub fn open(&self) -> SimStorage {
        let mut state = self.shared.state.lock();
        state.sessions.push(Session::default());
        SimStorage { shared: self.shared.clone(), session: state.sessions.len() - 1, threads: None }
    }

    /// What the disk would hold if power were lost now. This one stays as it is.
    pub fn crash(&self, choice: &CrashChoice) -> SimDisk {
        let state = self.shared.state.lock();
        Self::from_image(state.options, choice.image(&state.platter))
    }

    /// Every state of a power loss now.
    pub fn crash_states(&self, options: CrashOptions) -> CrashStates {
        let journal = self.journal();
        CrashStates::new(&journal, journal.end(), options)
    }

    /// A disk with the same files, everything durable, and nobody using it.
    pub fn fork(&self) -> SimDisk {
        let state = self.shared.state.lock();
        Self::from_image(state.options, state.written.clone())
    }

    /// What happened so far.
    pub fn journal(&self) -> Journal {
        self.shared.state.lock().journal.clone()
    }

    /// Starts the journal anew from here, so that crashes of earlier moments are no longer asked for. Numbers go on.
    pub fn cut_journal(&self) {
        let mut state = self.shared.state.lock();
        state.journal = Journal::new(state.options, state.platter.clone(), state.journal.end());
    }

    /// Writes into the journal what the test knows by now: mostly, what was acknowledged.
    pub fn note(&self, note: impl Into<Note>) -> OpNumber {
        self.shared.state.lock().record(Op::Note(note.into()))
    }

    /// A fingerprint of everything that happened: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.journal().hash()
    }

    /// A fingerprint of the names and bytes that readers see.
    pub fn content_hash(&self) -> u64 {
        let image = self.shared.state.lock().written.clone();
        image.hash()
    }

    /// A fingerprint of what a process would find, at the price of what changed since the last one.
    pub fn fingerprint(&self) -> u64 {
        self.shared.state.lock().written.fingerprint()
    }

    /// What was done to the disk that must not be done.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.state.lock().violations.clone()
    }

    /// Makes a call fail that is to come.
    pub fn fail(&self, fault: Fault) {
        self.shared.state.lock().faults.add(fault);
    }

    /// Takes all faults back. What they have done stays done.
    pub fn heal(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// How many calls of these there were, failed ones included: the range of [`Fault::nth`] for an equal run.
    pub fn count(&self, calls: impl Into<Target>) -> u64 {
        self.shared.state.lock().faults.count(calls.into())
    }

    /// Limits the lengths of all files to so many bytes; beyond, `errno` (ENOSPC, EDQUOT). `None`: no limit.
    pub fn set_capacity(&self, capacity: Option<(u64, i32)>) {
        self.shared.state.lock().capacity = capacity;
    }

    /// Bytes that count against the capacity.
    pub fn used_bytes(&self) -> u64 {
        self.shared.state.lock().used_bytes()
    }

    /// Whether submitted writes wait for [`SimDisk::complete`], or the pump ends them.
    pub fn set_manual(&self, manual: bool) {
        self.shared.state.lock().manual = manual;
        self.shared.wake.notify_all();
    }

    /// Lets this seed choose what the pump does next, and which submitted write ends first.
    pub fn set_schedule(&self, seed: u64) {
        self.shared.state.lock().schedule = Some(Rng::new(seed));
    }

    /// From now on flushes and syncs say yes and do nothing: a negative control for what looks for lost bytes.
    pub fn set_flushes_lie(&self, lie: bool) {
        self.shared.state.lock().flushes_lie = lie;
    }

    /// What flushed writes say they took. They take no time.
    pub fn set_times(&self, times: WriteTimes) {
        self.shared.state.lock().times = times;
    }

    /// How long a submitted write takes in a [threaded](SimStorage::threaded) process.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.state.lock().latency = latency;
    }

    /// Empties the page cache: readers see the device again. What a failed flush left behind was written after all
    /// (`kept`), or never.
    pub fn drop_caches(&self, kept: bool) {
        self.shared.state.lock().record(Op::CachesDropped { kept });
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        let names = state.written.names().iter().map(|(name, file)| (name, state.len(*file)));
        f.debug_map().entries(names).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // What is dropped here may own handles of this disk, so it is dropped with the lock released.
        let mut unfinished = (Vec::new(), Vec::new(), Vec::new());
        let mut state = self.0.state.lock();
        if state.sessions.iter().any(|session| session.threaded && !session.stopped) {
            return;
        }
        unfinished.0.append(&mut state.flights);
        for session in &mut state.sessions {
            unfinished.1.extend(session.jobs.drain(..));
            unfinished.2.extend(session.letters.drain(..));
        }
        drop(state);
    }
}
