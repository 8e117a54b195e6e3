//! Which ledger a log belongs to, and who drives it: a promise in the control file.
//!
//! The control file's extension is a list of entries; those of another kind are kept as they are.
//!
//! ```text
//! 0 kind    2   1: the driver's promise
//! 2 length  2
//! 4 body        driver's promise: ledger 16, round 8, proposer 8
//! ```

use super::shared::Shared;
use crate::codec::{Chain, Reader, Truncated};
use crate::error::{Error, Result};
use crate::io::Storage;
use crate::types::{Ballot, LedgerId, Lsn, Promise};

const DRIVER: u16 = 1;

impl<S: Storage> Shared<S> {
    pub(super) fn promise(&self, promise: Promise) -> Result<()> {
        self.check_usable()?;
        if let Some(error) = self.gone(&self.pipe.lock()) {
            return Err(error);
        }
        if self.promised() == Some(promise) {
            return Ok(());
        }
        self.try_update_control(|control| {
            if let Some(known) = read(&control.extension)? {
                if known.ledger != promise.ledger {
                    return Err(Error::OtherLedger { owner: known.ledger, ledger: promise.ledger });
                }
                if known.ballot > promise.ballot {
                    return Err(Error::Fenced { ballot: promise.ballot, promised: known.ballot });
                }
            }
            control.extension = with(&control.extension, promise);
            Ok(())
        })
    }

    pub(super) fn promised(&self) -> Option<Promise> {
        read(&self.control.lock().extension).ok().flatten()
    }

    /// The chain at the trim point, when that is where `lsn` is; unknown where a trim could not read it.
    pub(super) fn trim_chain(&self, lsn: Lsn) -> Option<Chain> {
        let control = self.control.lock();
        Some(control.trim.chain).filter(|chain| control.trim.lsn == lsn && *chain != Chain::default())
    }
}

/// The entries, and where each ends.
fn entries(extension: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut reader = Reader::new(extension);
    std::iter::from_fn(move || entry(&mut reader).ok())
}

fn entry<'a>(reader: &mut Reader<'a>) -> Result<(u16, &'a [u8]), Truncated> {
    let head = reader.u32()?;
    Ok((head as u16, reader.bytes((head >> 16) as usize)?))
}

/// An error where there is a promise that this version does not understand: it is kept, and nobody is promised anything.
fn read(extension: &[u8]) -> Result<Option<Promise>> {
    let Some((_, body)) = entries(extension).find(|(kind, _)| *kind == DRIVER) else { return Ok(None) };
    let what = "the control file holds a driver's promise that this version cannot read; use a newer build";
    decode(body).map(Some).map_err(|_| Error::Invalid { what: what.to_owned() })
}

fn decode(body: &[u8]) -> Result<Promise, Truncated> {
    let mut reader = Reader::new(body);
    let ledger = LedgerId::new(reader.u128()?);
    let ballot = Ballot { round: reader.u64()?, proposer: reader.u64()? };
    reader.finish()?;
    Ok(Promise { ledger, ballot })
}

fn with(extension: &[u8], promise: Promise) -> Vec<u8> {
    let mut body = promise.ledger.get().to_le_bytes().to_vec();
    body.extend(promise.ballot.round.to_le_bytes());
    body.extend(promise.ballot.proposer.to_le_bytes());
    let others = entries(extension).filter(|(kind, _)| *kind != DRIVER);
    let mut bytes = Vec::new();
    for (kind, body) in others.chain([(DRIVER, &body[..])]) {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((body.len() as u16).to_le_bytes());
        bytes.extend(body);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(ledger: u128, round: u64, proposer: u64) -> Promise {
        Promise { ledger: LedgerId::new(ledger), ballot: Ballot { round, proposer } }
    }

    #[test]
    fn entries_of_another_kind_are_kept() {
        let stranger = [9, 0, 3, 0, 1, 2, 3];
        let bytes = with(&with(&stranger, promise(1, 2, 3)), promise(1, 5, 6));
        assert_eq!(&bytes[..7], stranger);
        assert_eq!(bytes.len(), 7 + 4 + 32);
        assert_eq!(read(&bytes).expect("ours"), Some(promise(1, 5, 6)));
        assert_eq!(read(&stranger).expect("not ours"), None);
        // A later version's, with more in it.
        assert!(read(&[1, 0, 3, 0, 1, 2, 3]).is_err());
    }

    #[test]
    fn a_promise_is_kept_across_opens_and_only_raised() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || crate::log::Log::open(dir.path(), crate::config::Config::default()).expect("opens").0;
        let log = open();
        assert_eq!(log.promised(), None);
        log.promise(promise(7, 2, 1)).expect("the first");
        log.close(std::time::Duration::from_secs(5)).expect("closes");
        let log = open();
        assert_eq!(log.promised(), Some(promise(7, 2, 1)));
        assert!(matches!(log.promise(promise(7, 1, 9)), Err(Error::Fenced { .. })));
        assert!(matches!(log.promise(promise(7, 2, 0)), Err(Error::Fenced { .. })));
        assert!(matches!(log.promise(promise(8, 9, 9)), Err(Error::OtherLedger { .. })));
        assert_eq!(log.promised(), Some(promise(7, 2, 1)));
        let opens = log.watermarks();
        log.promise(promise(7, 2, 1)).expect("the same again");
        log.promise(promise(7, 3, 0)).expect("a higher one");
        assert_eq!(log.promised(), Some(promise(7, 3, 0)));
        assert_eq!(log.watermarks(), opens);
        log.append(b"x").expect("appends").wait().expect("durable");
        let chain = log.chain_at(Lsn::new(1)).expect("there");
        log.trim(Lsn::new(1)).expect("trims");
        assert_eq!(log.chain_at(Lsn::new(1)).expect("the trim point"), chain);
        assert!(matches!(log.chain_at(Lsn::new(2)), Err(Error::BeyondEnd { .. })));
    }
}
