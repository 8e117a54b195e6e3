//! The storage's writes and flushes.

use std::io;
use std::sync::Arc;

use seawall::storage::{Buffer, GroupWrite, WriteTimes};

use super::errno;
use super::fault::OpKind;
use super::flight::{Flight, Letter, Outcome, killed};
use super::handle::SimFile;
use super::op::{Ended, Landed, Op, OpNumber};
use super::pages::Data;
use super::state::State;
use super::storage::{SimStorage, failed};
use super::violation::ViolationKind;

impl State {
    /// Bytes set out for the disk; nobody sees them yet.
    fn begin_write(&mut self, file: &SimFile, data: Data, flushed: bool) -> io::Result<OpNumber> {
        let range = data.range();
        let bytes = range.end - range.start;
        self.check_write(file.ino, file.handle, range.start, bytes);
        let block = u64::from(self.options.block_bytes);
        if self.options.direct && !(range.start.is_multiple_of(block) && bytes.is_multiple_of(block)) {
            return Err(io::Error::from_raw_os_error(errno::EINVAL));
        }
        self.check_space(self.len(file.ino), range.end)?;
        let name = self.name_of(file.ino);
        Ok(self.record(Op::Write { file: file.ino, name, data, flushed }))
    }
}

pub(super) fn write(storage: &SimStorage, file: &SimFile, offset: u64, bytes: &Buffer) -> io::Result<()> {
    storage.call_on(OpKind::Write, file, |state, hit| {
        let write = state.begin_write(file, Data::new(offset, [&bytes[..]]), false)?;
        let landed = hit.map_or(Landed::Full, |hit| hit.landed(bytes.len() as u64));
        state.end_write(file.ino, write, landed, Ended::Written);
        failed(hit, ())
    })
}

pub(super) fn write_flushed(
    storage: &SimStorage,
    file: &SimFile,
    offset: u64,
    parts: &[Arc<Buffer>],
) -> io::Result<WriteTimes> {
    storage.call_on(OpKind::WriteFlushed, file, |state, hit| {
        let data = Data::new(offset, parts.iter().map(|part| &part[..]));
        let bytes = data.range().end - offset;
        let write = state.begin_write(file, data, true)?;
        let ended = match hit {
            Some(_) => Ended::Failed,
            None if state.flushes_lie => Ended::Written,
            None => Ended::Durable,
        };
        state.end_write(file.ino, write, hit.map_or(Landed::Full, |hit| hit.landed(bytes)), ended);
        failed(hit, state.times)
    })
}

/// A flush that fails is over for what it was to flush: a later one says yes, and means only what was written since.
pub(super) fn flush(storage: &SimStorage, file: &SimFile) -> io::Result<()> {
    let ino = file.ino;
    storage.call_on(OpKind::Flush, file, |state, hit| {
        match hit {
            Some(hit) => {
                let kept = hit.part_of(state.platter.flushable(ino));
                state.record(Op::FlushFailed { file: ino, kept });
            }
            None if state.flushes_lie => drop(state.record(Op::FlushLied { file: ino })),
            None => drop(state.record(Op::Flush { file: ino })),
        }
        failed(hit, ())
    })
}

pub(super) fn submit(storage: &SimStorage, group: GroupWrite<SimFile>) {
    let session = storage.session;
    let mut state = storage.shared.state.lock();
    let client = state.sessions[session].client.clone();
    let begun = if !state.sessions[session].alive {
        Err(killed())
    } else if group.file.session != session {
        state.violate(ViolationKind::ForeignFile, format!("submit to {:?}", group.file));
        Err(io::Error::from_raw_os_error(errno::EINVAL))
    } else {
        if client.is_none() {
            state.violate(ViolationKind::NoClient, format!("token {}", group.token));
        }
        if state.flights.iter().any(|flight| flight.write.token == group.token) {
            state.violate(ViolationKind::TokenInUse, format!("token {}", group.token));
        }
        let hit = state.admit_on(OpKind::Submit, group.file.ino);
        let outcome = hit.map_or(Outcome::Ok, |hit| Outcome::of_hit(hit, group.bytes()));
        match outcome {
            Outcome::Injected(_, Landed::Nothing) => Ok((None, outcome)),
            _ => {
                let data = Data::new(group.offset, group.parts.iter().map(|part| &part[..]));
                state.begin_write(&group.file, data, true).map(|write| (Some(write), outcome))
            }
        }
    };
    match begun {
        Ok((number, outcome)) => state.flights.push(Flight { session, write: group, number, cached: false, outcome }),
        Err(error) => state.sessions[session].letters.push_back(Letter { client, write: group, result: Err(error) }),
    }
    drop(state);
    storage.wake();
}
