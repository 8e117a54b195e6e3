//! [`Storage`] on a [`SimDisk`](super::SimDisk), as one process has it open.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use seawall::storage::{Backend, Buffer, Client, GroupWrite, Hold, LockFailed, Mapping, Medium, Storage, WriteTimes};

use super::errno;
use super::fault::{Effect, Hit, OpKind};
use super::flight::{KillChoice, killed};
use super::handle::{SimFile, SimLock};
use super::image::Ino;
use super::op::Op;
use super::pump::Threads;
use super::state::{Holder, Job, SessionId, Shared, State};
use super::violation::ViolationKind;
use super::{read, write};

/// A process that has the disk open. Clones are the same process; [`SimDisk::open`](super::SimDisk::open) starts
/// another one.
#[derive(Clone)]
pub struct SimStorage {
    pub(super) shared: Arc<Shared>,
    pub(super) session: SessionId,
    pub(super) threads: Option<Arc<Threads>>,
}

impl SimStorage {
    /// Kills this process alone; see [`SimDisk::kill`](super::SimDisk::kill).
    pub fn kill(&self, choice: &KillChoice) {
        self.shared.kill(|session| session == self.session, choice);
    }

    /// One call: refused to the dead, counted, and failed if that is its turn. A fault that leaves an effect is handed
    /// on; the call ends it with [`failed`].
    pub(super) fn call<R>(
        &self,
        kind: OpKind,
        name: &str,
        act: impl FnOnce(&mut State, Option<Hit>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.shared.state.lock();
        if !state.sessions[self.session].alive {
            return Err(killed());
        }
        let hit = state.admit(kind, name);
        before_effect(kind, hit)?;
        act(&mut state, hit)
    }

    /// As `call`, on a file.
    pub(super) fn call_on<R>(
        &self,
        kind: OpKind,
        file: &SimFile,
        act: impl FnOnce(&mut State, Option<Hit>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.shared.state.lock();
        if !state.sessions[self.session].alive {
            return Err(killed());
        }
        if file.session != self.session || file.shared.as_ptr() != Arc::as_ptr(&self.shared) {
            state.violate(ViolationKind::ForeignFile, format!("{kind:?} of {file:?}"));
            return Err(io::Error::from_raw_os_error(errno::EINVAL));
        }
        let hit = state.admit_on(kind, file.ino);
        before_effect(kind, hit)?;
        act(&mut state, hit)
    }

    fn file(&self, state: &mut State, ino: Ino) -> SimFile {
        let handle = state.new_handle(ino, self.session);
        SimFile { shared: Arc::downgrade(&self.shared), session: self.session, handle, ino }
    }
}

/// A fault without an effect ends the call here; but a flush has an effect even when it fails.
fn before_effect(kind: OpKind, hit: Option<Hit>) -> io::Result<()> {
    let is_flush = matches!(kind, OpKind::Flush | OpKind::SyncDir);
    failed(hit.filter(|hit| hit.effect == Effect::Before && !is_flush), ())
}

/// `value`, unless a fault met the call.
pub(super) fn failed<R>(hit: Option<Hit>, value: R) -> io::Result<R> {
    hit.map_or(Ok(value), |hit| Err(hit.error.error()))
}

/// Whether the effect of a call without parts happens.
fn happens(hit: Option<Hit>) -> bool {
    hit.is_none_or(|hit| hit.effect == Effect::AfterFull)
}

impl Storage for SimStorage {
    type File = SimFile;
    type Lock = SimLock;

    fn medium(&self) -> Medium {
        let options = self.shared.state.lock().options;
        Medium {
            backend: Backend::Simulated,
            backend_reason: None,
            direct: options.direct,
            past_caches: options.direct,
            device_block_bytes: options.block_bytes,
        }
    }

    fn describe(&self) -> String {
        "simulated".into()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.call(OpKind::List, "", |state, hit| {
            let names = state.written.names().iter();
            failed(hit, names.map(|(name, file)| (name.to_string(), state.len(*file))).collect())
        })
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.call(OpKind::Create, name, |state, hit| {
            if state.written.find(name).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = state.written.next_ino();
            if happens(hit) {
                state.record(Op::Create { name: name.into(), file });
            }
            failed(hit, ())?;
            Ok(self.file(state, file))
        })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.call(OpKind::Open, name, |state, hit| {
            let file = state.find(name)?;
            failed(hit, ())?;
            Ok(self.file(state, file))
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(OpKind::Rename, from, |state, hit| {
            if state.find(from).is_err() {
                state.violate(ViolationKind::MissingName, format!("rename {from} to {to}"));
            }
            state.find(from)?;
            if happens(hit) && from != to {
                let replaced = state.written.find(to);
                state.record(Op::Rename { from: from.into(), to: to.into() });
                replaced.into_iter().for_each(|file| state.forget_if_unused(file));
            }
            failed(hit, ())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(OpKind::Remove, name, |state, hit| {
            if state.find(name).is_err() {
                state.violate(ViolationKind::MissingName, format!("remove {name}"));
            }
            let file = state.find(name)?;
            if happens(hit) {
                state.record(Op::Remove { name: name.into() });
                state.forget_if_unused(file);
            }
            failed(hit, ())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.call(OpKind::SyncDir, "", |state, hit| {
            match hit {
                Some(hit) => {
                    let kept = hit.part_of(state.platter.names.len());
                    state.record(Op::SyncDirFailed { kept });
                }
                None if state.flushes_lie => {}
                None => drop(state.record(Op::SyncDir)),
            }
            failed(hit, ())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.call(OpKind::FreeBytes, "", |state, hit| {
            let free = state.capacity.map_or(1 << 50, |(bytes, _)| bytes.saturating_sub(state.used_bytes()));
            failed(hit, free)
        })
    }

    fn len(&self, file: &SimFile) -> io::Result<u64> {
        self.call_on(OpKind::Len, file, |state, hit| failed(hit, state.len(file.ino)))
    }

    fn allocate(&self, file: &SimFile, bytes: u64) -> io::Result<()> {
        self.call_on(OpKind::Allocate, file, |state, hit| {
            let has = state.len(file.ino);
            state.check_space(has, bytes)?;
            if bytes > has {
                let bytes = if happens(hit) { bytes } else { has + (bytes - has) / 2 };
                state.record(Op::Allocate { file: file.ino, bytes });
            }
            failed(hit, ())
        })
    }

    fn write(&self, file: &SimFile, offset: u64, bytes: &Buffer) -> io::Result<()> {
        write::write(self, file, offset, bytes)
    }

    fn flush(&self, file: &SimFile) -> io::Result<()> {
        write::flush(self, file)
    }

    fn write_flushed(&self, file: &SimFile, offset: u64, parts: &[Arc<Buffer>]) -> io::Result<WriteTimes> {
        self.shared.reach(OpKind::WriteFlushed, file.ino);
        write::write_flushed(self, file, offset, parts)
    }

    fn submit(&self, group: GroupWrite<SimFile>) {
        write::submit(self, group);
    }

    fn read_at(&self, file: &SimFile, offset: u64, bytes: usize, into: &mut Buffer) -> io::Result<usize> {
        self.shared.reach(OpKind::Read, file.ino);
        read::read_at(self, file, offset, bytes, into)
    }

    fn map(&self, file: &SimFile, bytes: u64) -> io::Result<Mapping> {
        read::map(self, file, bytes)
    }

    fn populate(&self, map: &Mapping, range: Range<usize>) -> io::Result<()> {
        read::populate(self, map, range)
    }

    fn hold(&self, file: &SimFile, hold: Hold) -> io::Result<bool> {
        self.call_on(OpKind::Hold, file, |state, hit| {
            failed(hit, ())?;
            let handles = &mut state.nodes.entry(file.ino).or_default().handles;
            let conflicts = |other: Hold| match (hold, other) {
                (Hold::Released, _) | (_, Hold::Released) | (Hold::Shared, Hold::Shared) => false,
                (Hold::Exclusive, _) | (Hold::Shared, Hold::Exclusive) => true,
            };
            if handles.iter().any(|other| other.id != file.handle && conflicts(other.hold)) {
                return Ok(false);
            }
            handles.iter_mut().filter(|own| own.id == file.handle).for_each(|own| own.hold = hold);
            Ok(true)
        })
    }

    fn lock(&self) -> Result<SimLock, LockFailed> {
        let locked = self.call(OpKind::Lock, "lock", |state, hit| {
            failed(hit, ())?;
            if let Some(holder) = state.lock {
                return Ok(Err(LockFailed::Held(Some(pid(holder.session)))));
            }
            let holder = Holder { session: self.session, id: state.fresh_id() };
            state.lock = Some(holder);
            Ok(Ok(SimLock { shared: Arc::downgrade(&self.shared), holder }))
        });
        locked.unwrap_or_else(|error| Err(LockFailed::Io(error)))
    }

    fn attach(&self, client: Weak<dyn Client<SimFile>>) {
        self.shared.state.lock().sessions[self.session].client = Some(client);
    }

    fn kick(&self) {
        self.shared.state.lock().sessions[self.session].kicked = true;
        self.wake();
    }

    fn background(&self, job: Job) {
        let inline = self.shared.state.lock().sessions[self.session].inline_jobs;
        if inline {
            return job();
        }
        self.shared.state.lock().sessions[self.session].jobs.push_back(job);
        self.wake();
    }
}

/// What a process is called by others.
fn pid(session: SessionId) -> u32 {
    1000 + session as u32
}
