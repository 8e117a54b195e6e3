//! An output in memory: survives everything, and fails when it is told to.

use std::collections::BTreeMap;

use bytes::Bytes;
use seawall::ledger::{BatchKey, Sink, SinkError, SinkKind, Stored};
use seawall::{BatchId, LedgerId};

/// A record in the output.
pub type Row = (String, u64, Vec<u8>);

/// Transactional: each batch is there once, with its name.
#[derive(Default)]
pub struct Output {
    pub owner: Option<LedgerId>,
    pub batches: BTreeMap<BatchId, Vec<Row>>,
    pub fenced: Vec<BatchId>,
    /// The next store fails: before it has stored, or after.
    pub fails: Option<bool>,
    /// A batch that comes again is stored again, beside what it left: what a sink must not do.
    pub forgets: bool,
    pub again: u64,
}

impl Sink<Vec<Row>> for Output {
    fn kind(&self) -> SinkKind {
        SinkKind::Transactional
    }

    fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        match self.owner {
            Some(holds) if holds != ledger && !adopt => {
                Err(SinkError::OtherLedger { sink: "output".to_owned(), holds, ledger })
            }
            _ => {
                self.owner = Some(ledger);
                Ok(())
            }
        }
    }

    fn store(&mut self, key: BatchKey, output: Vec<Row>) -> Result<Stored, SinkError> {
        let fails = self.fails.take();
        let error = || SinkError::io("store", "the output", std::io::Error::other("injected"));
        if fails == Some(false) {
            return Err(error());
        }
        let token = Bytes::from(format!("{} rows", output.len()));
        let stored = match self.batches.get_mut(&key.batch) {
            Some(known) if self.forgets => {
                known.extend(output);
                Stored::New { token }
            }
            Some(known) => {
                self.again += 1;
                assert_eq!(*known, output, "{key} ran again with another content");
                Stored::AlreadyThere { token }
            }
            None => {
                self.batches.insert(key.batch, output);
                Stored::New { token }
            }
        };
        if fails == Some(true) { Err(error()) } else { Ok(stored) }
    }

    fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.fenced.push(key.batch);
        Ok(())
    }
}
