//! A ledger's log opened and read, or why it is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use seawall::ledger::{EventError, ReplayError};
use seawall::node::{LedgerError, LedgerView, read_ledger};
use seawall::receiver::Block;
use seawall::{Error, Log, Lsn, LsnRange, Recovery};

use crate::Global;
use crate::envelope::Envelope;
use crate::exit::Failure;
use crate::open;

/// How often to look at most when the driver trims its log under us, and how long to wait between two looks.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A ledger as it is now.
pub(super) struct Opened {
    pub(super) dir: PathBuf,
    pub(super) log: Log,
    pub(super) recovery: Recovery,
    pub(super) view: LedgerView,
}

/// Reads the ledger in a directory.
pub(super) fn ledger(dir: &Path, global: &Global) -> Result<Opened, Failure> {
    let mut looks = 1;
    loop {
        let (log, recovery) = log(dir, "ledger", global)?;
        // The log that is read learns itself that it was trimmed.
        let first = log.first();
        let failure = match read_ledger(&log) {
            Ok(view) if view.state.ledger().is_some() => {
                return Ok(Opened { dir: dir.to_owned(), log, recovery, view });
            }
            Ok(_) if looks >= LOOKS || (recovery.ambiguous_tail.is_none() && log.first() == Lsn::FIRST) => {
                return Err(Failure::Usage(no_ledger(dir, &log, &recovery)));
            }
            // What is there may be proven in a moment; or what was there was trimmed before it was read.
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = failure
            && (looks >= LOOKS || !(log.first() > first || was_trimmed(dir, first, global)))
        {
            return Err(explained(dir, &log, error));
        }
        looks += 1;
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Opens a log of a ledger or of a stream for reading.
pub(super) fn log(dir: &Path, what: &str, global: &Global) -> Result<(Log, Recovery), Failure> {
    open::read_only(dir, global).map_err(|failure| match failure {
        // The log's own words tell how to fill one: no help here.
        Failure::Log { source: Error::NotALog { .. }, .. } => {
            Failure::Usage(format!("{} holds no {what}: it holds no log", dir.display()))
        }
        failure => failure,
    })
}

/// True when the log begins later now than it did.
fn was_trimmed(dir: &Path, first: Lsn, global: &Global) -> bool {
    open::read_only(dir, global).is_ok_and(|(fresh, _)| fresh.first() > first)
}

/// Why events that can be read make no ledger.
fn no_ledger(dir: &Path, log: &Log, recovery: &Recovery) -> String {
    let dir = dir.display();
    match recovery.ambiguous_tail {
        Some(lsns) if log.first() > Lsn::FIRST => format!(
            "the ledger in {dir} begins with a checkpoint of which frames {lsns} are there but not proven durable: its \
             next driver will show it"
        ),
        Some(lsns) => format!(
            "{dir} holds no ledger yet, or one that has just begun: frames {lsns} are there but not proven durable"
        ),
        None if log.first() > Lsn::FIRST => {
            format!("{dir} shows no ledger: its log was trimmed up to frame {}", log.first().previous())
        }
        None => format!("{dir} holds no ledger: its log is empty"),
    }
}

fn explained(dir: &Path, log: &Log, error: LedgerError) -> Failure {
    match error {
        LedgerError::Log(source) => Failure::Log { dir: dir.display().to_string(), source },
        LedgerError::Replay { source: ReplayError::Event { lsn, source: EventError::Magic }, .. }
            if lsn == log.first() =>
        {
            Failure::Usage(format!("{} holds no ledger, but {}", dir.display(), whose(log)))
        }
        // What to do is said by the library.
        LedgerError::Replay { .. } => Failure::Ledger(error.to_string()),
        other => Failure::Ledger(format!("the ledger in {}: {other}", dir.display())),
    }
}

/// Who wrote a log that is no ledger.
fn whose(log: &Log) -> &'static str {
    let first = log.range(LsnRange::inclusive(log.first(), log.first())).next();
    match first {
        Some(Ok(frame)) if Block::gist(&frame.payload).is_ok() => {
            "a receiver's stream: name it with --stream NAME=DIR beside the ledger's directory"
        }
        Some(Ok(frame)) if Envelope::decode(&frame.payload).is_some() => "what `seawall ingest` wrote",
        _ => "a log that something else wrote",
    }
}
