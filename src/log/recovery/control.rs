//! The control file at open: read, or rebuilt from the segments when it is lost.

use std::collections::BTreeMap;

use super::files::{open_segment, read_header, read_seal};
use crate::error::{Error, Result};
use crate::io::{Buffer, Storage};
use crate::segment::{CONTROL_FILE_BYTES, Control, ControlError, FORMAT_VERSION, FileName, Salt, TrimPoint};
use crate::types::{Incarnation, LogId, Lsn, SegmentNumber};

/// The control file, if there is one that can be read.
pub(crate) fn read_control<S: Storage>(storage: &S, there: bool) -> Result<Option<Control>> {
    Ok(look_at_control(storage, there)?.map(|(control, _)| control))
}

/// The same, and whether the other slot is lost.
pub(super) fn look_at_control<S: Storage>(storage: &S, there: bool) -> Result<Option<(Control, bool)>> {
    if !there {
        return Ok(None);
    }
    let file = storage.open("control").map_err(|e| Error::io("open", "control", e))?;
    let mut bytes = Buffer::new(CONTROL_FILE_BYTES);
    storage.read_at(&file, 0, CONTROL_FILE_BYTES, &mut bytes).map_err(|e| Error::io("read", "control", e))?;
    match Control::decode(&bytes) {
        Ok(control) => Ok(Some((control, Control::has_lost_slot(&bytes)))),
        Err(ControlError::Invalid) => Ok(None),
        Err(ControlError::Future { version }) => {
            Err(Error::FutureVersion { file: "control".into(), found: version, known: FORMAT_VERSION })
        }
    }
}

/// Only the control file tells which log this is. Without it segments of two are an accident that somebody has to sort
/// out: whichever was taken for the log, the other one's frames would be out of sight without a word.
fn check_one_log<S: Storage>(storage: &S, files: &BTreeMap<SegmentNumber, u64>) -> Result<()> {
    let mut first: Option<(SegmentNumber, (LogId, Incarnation))> = None;
    for &number in files.keys() {
        let header = match read_header(storage, &*open_segment(storage, number)?, number) {
            // What cannot be read tells of no other log; whether it is needed is seen when it is.
            Err(Error::Io { .. }) => continue,
            read => read?,
        };
        let Ok(header) = header else { continue };
        if header.number != number {
            continue;
        }
        let whose = (header.log, header.incarnation);
        let (before, other) = *first.get_or_insert((number, whose));
        if whose != other {
            let (a, b) = (FileName::Segment(before), FileName::Segment(number));
            let what = format!(
                "is lost, and {a} and {b} belong to different logs ({} and {}): move away what does not belong here, \
                 then rebuild it",
                other.0, whose.0
            );
            return Err(Error::control(storage.describe(), what));
        }
    }
    Ok(())
}

/// A file with a number further above is taken for somebody else's.
const UNREADABLE_ABOVE_MAX: u64 = 64;

/// Behind the generations that the lost one can have come to since the newest seal was written: a copy of it that turns up later is
/// older than the seals of who went on without it.
const REBUILT_LEAP: u64 = 1 << 32;

/// A control for a log whose own was lost: identity from the segment headers, trim point from the newest seal.
pub(super) fn rebuild_control<S: Storage>(storage: &S, files: &BTreeMap<SegmentNumber, u64>) -> Result<Control> {
    check_one_log(storage, files)?;
    let mut rebuilt: Option<Control> = None;
    for (&number, &bytes) in files.iter().rev() {
        let file = open_segment(storage, number)?;
        let Ok(header) = read_header(storage, &file, number)? else { continue };
        if header.number != number {
            continue;
        }
        let control = rebuilt.get_or_insert_with(|| Control {
            generation: REBUILT_LEAP,
            log: header.log,
            incarnation: header.incarnation,
            stream: header.stream,
            block_bytes: header.block_bytes,
            open_count: 0,
            highest_segment: number,
            truncation_count: 0,
            trim: TrimPoint {
                lsn: Lsn::ZERO,
                chain: Default::default(),
                first_segment: *files.keys().next().expect("not empty"),
            },
            clean_close: None,
            quarantined: Vec::new(),
            passed_over: Vec::new(),
            extension: Vec::new(),
        });
        if header.log != control.log {
            continue;
        }
        let salt = Salt::new(control.log, control.incarnation, number);
        if let Some(seal) = read_seal(storage, &file, number, bytes, salt, control.block_bytes)? {
            control.generation = seal.control_generation.saturating_add(REBUILT_LEAP);
            control.open_count = seal.control_generation;
            control.trim = seal.trim;
            break;
        }
    }
    // What stands not far above and cannot say what it is may have held the log's end: it is looked at, and told.
    if let Some(control) = &mut rebuilt {
        let last = SegmentNumber::new(control.highest_segment.get().saturating_add(UNREADABLE_ABOVE_MAX));
        for &number in files.range(control.highest_segment.next()..=last).map(|(number, _)| number) {
            if read_header(storage, &*open_segment(storage, number)?, number)?.is_err() {
                control.highest_segment = number;
            }
        }
    }
    let what = "is lost, and no segment has a valid header to rebuild it from";
    rebuilt.ok_or_else(|| Error::control(storage.describe(), what))
}
