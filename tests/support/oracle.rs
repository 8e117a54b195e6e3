//! The one oracle: what must be there is there, byte for byte, and what is lost is named.

use seawall::storage::Storage;
use seawall::{Error, Log, Lsn, LsnRange};

/// Frames `first..=last` as a range.
pub fn lsns(first: u64, last: u64) -> LsnRange {
    LsnRange::inclusive(Lsn::new(first), Lsn::new(last))
}

/// Checks that `log` holds exactly `expected` (frame 1 first): each frame either as it was, or, when it lies in `lost`,
/// an error that names it and nothing outside `lost`. Both in order and one by one. Says what is wrong otherwise.
pub fn holds<S: Storage>(log: &Log<S>, expected: &[Vec<u8>], lost: &[LsnRange]) -> Result<(), String> {
    let first = log.first();
    let is_lost = |lsn: Lsn| lost.iter().any(|range| range.contains(lsn));
    let mut next = first;
    for read in log.reader(first) {
        match read {
            Ok(frame) => {
                if frame.lsn != next {
                    return Err(format!("frame {} was read where {next} belongs", frame.lsn));
                }
                same(expected, frame.lsn, &frame.payload)?;
                if is_lost(frame.lsn) {
                    return Err(format!("frame {} is lost and was read", frame.lsn));
                }
                next = next.next();
            }
            Err(error) => next = names(&error, next, &is_lost)?,
        }
    }
    if next != Lsn::new(expected.len() as u64 + 1) {
        return Err(format!("reading ended before frame {next}, {} were expected", expected.len()));
    }
    for number in first.get()..=expected.len() as u64 {
        let lsn = Lsn::new(number);
        match log.read(lsn) {
            Ok(frame) if is_lost(lsn) => return Err(format!("frame {} is lost and was read alone", frame.lsn)),
            Ok(frame) => same(expected, lsn, &frame.payload)?,
            Err(error) => drop(names(&error, lsn, &is_lost)?),
        }
    }
    Ok(())
}

fn same(expected: &[Vec<u8>], lsn: Lsn, payload: &[u8]) -> Result<(), String> {
    match expected.get(lsn.get() as usize - 1) {
        Some(bytes) if bytes == payload => Ok(()),
        Some(_) => Err(format!("frame {lsn} has other bytes than were appended")),
        None => Err(format!("frame {lsn} was never acknowledged as such")),
    }
}

/// The frame after those that an error names, which must begin at `at` and all be lost.
fn names(error: &Error, at: Lsn, is_lost: &impl Fn(Lsn) -> bool) -> Result<Lsn, String> {
    let typed = matches!(error, Error::Corrupt { .. } | Error::Missing { .. } | Error::Quarantined { .. });
    let Some(named) = error.lsns().filter(|named| typed && named.contains(at)) else {
        return Err(format!("frame {at}: {error:?}"));
    };
    match (named.start.get()..named.end.get()).map(Lsn::new).find(|lsn| *lsn >= at && !is_lost(*lsn)) {
        Some(innocent) => Err(format!("frame {innocent} is not lost: {error:?}")),
        None => Ok(named.end),
    }
}
