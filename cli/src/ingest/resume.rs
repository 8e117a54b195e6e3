//! Where a source goes on: behind its last record in the log.

use bytes::Bytes;
use seawall::receiver::Block;
use seawall::{Log, Lsn, LsnRange};

use crate::Global;
use crate::envelope::{Envelope, Unit};
use crate::exit::Failure;
use crate::open::LogDir;
use crate::output::{grouped, tell};
use crate::progress::Meter;
use crate::source::Input;
use crate::walk::{Met, Walk};

/// Frames looked at in the first step back from the log's end.
const STEP_FRAMES: u64 = 64;
/// Frames looked at in one step at most.
const STEP_FRAMES_MAX: u64 = 64 * 1024;

/// The last record of a source.
pub(super) struct Last {
    pub(super) lsn: Lsn,
    payload: Bytes,
}

impl Last {
    pub(super) fn envelope(&self) -> Envelope<'_> {
        Envelope::decode(&self.payload).expect("only what decodes is kept")
    }
}

/// Finds a source's last record: from the log's end backwards, in steps that grow. Where the log holds one source
/// that is the first frame looked at.
pub(super) fn find_last(log: &Log, dir: &LogDir, source: &str, global: &Global) -> Result<Option<Last>, Failure> {
    let (first, mut until) = (log.first(), log.flushed().next());
    let frames = until.since(first);
    let mut meter: Option<Meter> = None;
    let mut step = STEP_FRAMES;
    let mut seen_bytes = 0;
    let mut told: Vec<LsnRange> = Vec::new();
    while until > first {
        let from = first.max(Lsn::new(until.get().saturating_sub(step)));
        let mut last = None;
        let mut unreadable = Vec::new();
        for met in Walk::own(log, &dir.dir, LsnRange::new(from, until)) {
            match met? {
                Met::Frame(frame) => {
                    seen_bytes += frame.payload.len() as u64;
                    let envelope = Envelope::decode(&frame.payload);
                    if envelope.is_none() && Block::read(&frame.payload).is_ok() {
                        return Err(Failure::Refused(format!(
                            "log {} is a receiver's (frame {} is a block of records): a line in it would be no record, and \
                             `seawall receive` would refuse it from then on; `seawall send` the file to the receiver, or \
                             give it a log of its own",
                            dir.dir.display(),
                            frame.lsn
                        )));
                    }
                    if envelope.is_some_and(|envelope| envelope.source == source) {
                        last = Some(Last { lsn: frame.lsn, payload: frame.payload });
                        unreadable.clear();
                    }
                }
                Met::Damage(lsns, error) => unreadable.push((lsns, error.to_string())),
                Met::SetAside(lsns) => unreadable.push((lsns, "quarantined".into())),
                Met::Trimmed(_) => {}
            }
        }
        for (lsns, why) in unreadable {
            if told.contains(&lsns) {
                continue;
            }
            told.push(lsns);
            tell(format_args!("frames {lsns} cannot be read and may hold bytes of {source:?}: {why}"));
        }
        if last.is_some() {
            return Ok(last);
        }
        let label = "looking for the source's last record,";
        meter
            .get_or_insert_with(|| Meter::new(label, None, global))
            .show(seen_bytes, &format!("{} of {} frames", grouped(log.flushed().next().since(from)), grouped(frames)));
        until = from;
        step = (step * 4).min(STEP_FRAMES_MAX);
    }
    Ok(None)
}

/// Moves the input behind what is durable, and makes sure that it is the same input. Answers the offset it goes on at;
/// `None`: the source was closed at its end, nothing is left to do.
pub(super) fn take_up(input: &mut Input, last: &Last) -> Result<Option<u64>, Failure> {
    let envelope = last.envelope();
    let (what, source, end) = (input.describe(), envelope.source, envelope.end());
    let shorter = |bytes| {
        Failure::Refused(format!(
            "{what} has {bytes} bytes, but {end} bytes of source {source:?} are in the log; if it is another file, \
             give it a --source of its own"
        ))
    };
    if let Some(length) = input.length()
        && length < end
    {
        return Err(shorter(length));
    }
    let reached = input.skip_to(envelope.offset)?;
    if reached < envelope.offset {
        return Err(shorter(reached));
    }
    if envelope.unit == Unit::End {
        let mut byte = [0];
        let more = input.read_next(&mut byte)?;
        return match more {
            0 => Ok(None),
            _ => Err(Failure::Refused(format!(
                "source {source:?} was closed at offset {end} (frame {}), but {what} goes on",
                last.lsn
            ))),
        };
    }
    if !input.goes_on_with(envelope.data)? {
        return Err(Failure::Refused(format!(
            "{what} differs at offset {} from what frame {} holds of source {source:?}; if it is another file, give it \
             a --source of its own",
            envelope.offset, last.lsn
        )));
    }
    Ok(Some(end))
}
