//! How the command ends: the exit codes, and the failures that lead to them.
//!
#![doc = "```text"]
#![doc = include_str!("exit_codes.txt")]
#![doc = "```"]

use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The table above, for `--help`.
pub(crate) const EXIT_CODES: &str = include_str!("exit_codes.txt");

/// The end of a command that did what it was asked to do: what it found decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Done; nothing is wrong.
    Done,
    /// Damage was found, and told.
    Damage,
    /// A receiver keeps records outside the data, as it rejects them.
    Rejected,
    /// A source's bytes are not there exactly once.
    BrokenSequence,
    /// A signal ended it early, in good order.
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> ExitCode {
        ExitCode::from(match ending {
            Ending::Done => 0,
            Ending::Damage => 2,
            Ending::BrokenSequence => 3,
            Ending::Rejected => 4,
            Ending::Interrupted => 130,
        })
    }
}

/// Why a command could not do what it was asked to do. Each prints as one line: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{op} {file}: {source}")]
    File { op: &'static str, file: String, source: io::Error },
    #[error("log {dir}: {source}{}", advice(source))]
    Log { dir: String, source: seawall::Error },
    #[error("{0}")]
    Refused(String),
    /// The events of a ledger are not what a driver wrote.
    #[error("{0}")]
    Ledger(String),
    /// A stream does not tell any more what its sources have sent.
    #[error("{0}")]
    Stream(String),
    /// Of several files; which and why was told.
    #[error("not every file was sent whole: see above; run the command again when what is in the way is gone")]
    LeftOut { code: u8 },
    #[error("the receiver: {0}")]
    Receiver(String),
    #[error("standard output: {0}")]
    Output(io::Error),
    /// Whoever read our output has seen enough (`seawall dump | head`): no failure to anybody.
    #[error("standard output is closed")]
    OutputClosed,
    #[error("measuring the device: {0}")]
    Limit(#[from] seawall_limit::LimitError),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub(crate) fn file(op: &'static str, path: &Path, source: io::Error) -> Failure {
        Failure::File { op, file: path.display().to_string(), source }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Log { source: seawall::Error::Locked { .. }, .. } => 5,
            Failure::Log { source, .. } if source.is_damage() => 2,
            Failure::Ledger(_) | Failure::Stream(_) => 2,
            Failure::Refused(_) => 4,
            Failure::Receiver(_) => 6,
            Failure::LeftOut { code } => *code,
            Failure::Interrupted => 130,
            _ => 1,
        }
    }
}

/// What to do about an error of the log, where the error itself does not say it in terms of this command.
fn advice(error: &seawall::Error) -> &'static str {
    match error {
        seawall::Error::Locked { .. } => " (tail, dump, inspect and verify work meanwhile)",
        seawall::Error::NotALog { .. } => "; `seawall ingest` creates one",
        seawall::Error::Damaged { .. } => "; see `seawall repair --dry-run`",
        seawall::Error::Poisoned { .. } => "; run the command again, it goes on behind what is durable",
        seawall::Error::Config { .. } => "; see --config",
        unreadable if unreadable.is_unreadable() => "; `seawall rescue` copies what the device can still read",
        // The log goes on by itself; a command that has ended does not.
        seawall::Error::Full { .. } => {
            ". Make room on the disk, or raise `byte_limit` (--config), and run the command again"
        }
        _ => "",
    }
}

/// Names the log in an error of the library.
pub(crate) trait InLog<T> {
    /// This result, with the log's directory in the error.
    fn in_log(self, dir: &Path) -> Result<T, Failure>;
}

impl<T> InLog<T> for seawall::Result<T> {
    fn in_log(self, dir: &Path) -> Result<T, Failure> {
        self.map_err(|source| Failure::Log { dir: dir.display().to_string(), source })
    }
}
