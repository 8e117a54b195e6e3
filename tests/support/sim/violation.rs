//! What a log must never do to its storage, noticed when it does.

use std::fmt;

use super::image::Ino;
use super::op::OpNumber;
use super::state::{SessionId, State};

/// A breach of the storage's contract.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub kind: ViolationKind,
    /// The number the operation got, or would have got.
    pub at: OpNumber,
    pub detail: String,
}

/// What was breached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ViolationKind {
    /// A write whose offset or length is not a multiple of the device block.
    UnalignedWrite,
    /// A direct read likewise, or one that its buffer cannot hold.
    UnalignedRead,
    /// A write without bytes.
    EmptyWrite,
    /// A write to a file that a live process has mapped, or whose mapped bytes are still held: live bytes change.
    WriteUnderMap,
    /// A write to a file that another handle holds shared.
    WriteUnderSharedHold,
    /// A write to a file that has no name any more.
    WriteToRemoved,
    /// A write over a part of another one that is in flight.
    OverlappingWrites,
    /// A map of a file that has writes in flight.
    MapUnderWrite,
    /// A rename or removal of a name that is not there.
    MissingName,
    /// A file of another storage, or of another process.
    ForeignFile,
    /// A write submitted before a client was attached.
    NoClient,
    /// Two writes in flight under one token.
    TokenInUse,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "before operation {}: {:?}: {}", self.at, self.kind, self.detail)
    }
}

impl State {
    pub(super) fn violate(&mut self, kind: ViolationKind, detail: String) {
        let at = self.journal.end();
        self.violations.push(Violation { kind, at, detail });
    }

    /// Looks at a write before it happens.
    pub(super) fn check_write(&mut self, file: Ino, handle: u64, offset: u64, bytes: u64) {
        let name = self.name_of(file);
        let what = format!("{name} at {offset}, {bytes} bytes");
        let end = offset + bytes;
        let block = u64::from(self.options.block_bytes);
        if bytes == 0 {
            self.violate(ViolationKind::EmptyWrite, what.clone());
        }
        if !offset.is_multiple_of(block) || !bytes.is_multiple_of(block) {
            self.violate(ViolationKind::UnalignedWrite, what.clone());
        }
        if self.written.name_of(file).is_none() {
            self.violate(ViolationKind::WriteToRemoved, what.clone());
        }
        let overlaps = |flight: &&super::flight::Flight| {
            let at = flight.write.offset;
            flight.write.file.ino == file && at < end && offset < at + flight.write.bytes()
        };
        if let Some(other) = self.flights.iter().find(overlaps).map(|flight| flight.write.token) {
            self.violate(ViolationKind::OverlappingWrites, format!("{what}, over the write of token {other}"));
        }
        let sessions = &self.sessions;
        let alive = |session: SessionId| sessions[session].alive;
        let Some(node) = self.nodes.get_mut(&file) else { return };
        node.maps.retain(|map| map.alive.strong_count() > 0 && alive(map.session));
        let mapped = node.maps.iter().any(|map| offset < map.bytes);
        let shared = node.handles.iter().any(|other| other.id != handle && other.is_shared());
        if mapped {
            self.violate(ViolationKind::WriteUnderMap, what.clone());
        }
        if shared {
            self.violate(ViolationKind::WriteUnderSharedHold, what);
        }
    }
}
