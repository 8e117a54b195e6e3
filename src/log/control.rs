//! The control file, written: whole when it is new, afterwards one of its two slots at a time.
//!
//! A writer keeps it open. Once it was opened for each write, and a process that had as many files open as it may
//! poisoned its logs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commit::ControlFacts;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES, Control, FileName};

impl<S: Storage> Shared<S> {
    /// Changes the control file, durably. A failure poisons the log: which slot counts is unknown.
    pub(super) fn update_control(&self, change: impl FnOnce(&mut Control)) -> Result<()> {
        self.try_update_control(|control| {
            change(control);
            Ok(())
        })
    }

    /// The same for a change that may find itself forbidden. Nothing is changed once the log is poisoned; and when it is
    /// by the time the write has ended, that has not counted: a device that lost what it was given tells only one flush.
    pub(super) fn try_update_control(&self, change: impl FnOnce(&mut Control) -> Result<()>) -> Result<()> {
        let file = self.control_file.as_ref().ok_or(Error::ReadOnly)?;
        let mut control = self.control.lock();
        self.check_poison()?;
        let mut next = control.clone();
        change(&mut next)?;
        next.generation += 1;
        match write_control(&self.storage, file, &next) {
            Ok(()) => {
                self.check_poison()?;
                *self.facts.lock() = ControlFacts::of(&next);
                // Before what it takes away is not set aside any more: who asks for that is told that it was trimmed.
                self.trimmed.fetch_max(next.trim.lsn.get(), Ordering::AcqRel);
                self.set_aside.replace(next.quarantined.iter().map(|range| range.lsns));
                *control = next;
                Ok(())
            }
            Err(error) => {
                drop(control);
                self.abandon(error.clone());
                Err(error)
            }
        }
    }
}

/// Writes a whole control file under a temporary name, then gives it its own. Returns it, open.
pub(super) fn install_control<S: Storage>(storage: &S, control: &Control) -> Result<S::File> {
    let name = FileName::ControlNew.to_string();
    let wrap = |op| move |e| Error::io(op, "control.new", e);
    if storage.list().map_err(wrap("list"))?.iter().any(|(n, _)| *n == name) {
        storage.remove(&name).map_err(wrap("remove"))?;
    }
    let file = storage.create(&name).map_err(wrap("create"))?;
    let mut bytes = Buffer::new(CONTROL_FILE_BYTES);
    bytes.set_len(CONTROL_FILE_BYTES);
    bytes.fill(0);
    let slot = control.encode();
    let at = control.slot_offset() as usize;
    bytes[at..at + slot.len()].copy_from_slice(&slot);
    storage.write(&file, 0, &bytes).map_err(wrap("write"))?;
    storage.flush(&file).map_err(wrap("flush"))?;
    storage.rename(&name, "control").map_err(wrap("rename"))?;
    storage.sync_dir().map_err(wrap("sync the directory of"))?;
    Ok(file)
}

pub(super) fn open_control<S: Storage>(storage: &S) -> Result<S::File> {
    storage.open("control").map_err(|e| Error::io("open", "control", e))
}

/// Writes one slot.
pub(super) fn write_control<S: Storage>(storage: &S, file: &S::File, control: &Control) -> Result<()> {
    let mut slot = Buffer::new(CONTROL_SLOT_BYTES);
    slot.set_len(CONTROL_SLOT_BYTES);
    slot.copy_from_slice(&control.encode());
    let offset = control.slot_offset();
    storage
        .write_flushed(file, offset, &[Arc::new(slot)])
        .map(drop)
        .map_err(|e| Error::io_at("write and flush", "control", offset, e))
}
