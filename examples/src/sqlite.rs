//! A SQLite database as a sink: what a batch writes and the batch's name become durable in one transaction, so a batch
//! that runs again finds its name and writes nothing.
//!
//! ```sql
//! seawall_owner  (id, ledger)              -- one row: whose database it is
//! seawall_batches(ledger, batch, token)    -- one row a batch; a token that is NULL: abandoned, never to be stored
//! ```
//!
//! Everything a decision rests on is read in the transaction that acts on it: SQLite has many writers, and a driver that
//! was replaced a moment ago may still be one.
//!
//! Durability: WAL with `synchronous=EXTRA`. In WAL, `FULL` and `EXTRA` flush the log at each commit (`NORMAL` does not: a
//! committed batch would be gone after a power loss). `EXTRA` is asked for because another process may have turned the
//! database back to a rollback journal, where `FULL` does not flush the directory after the journal is removed, so a
//! committed transaction can be rolled back by a power loss. Checkpoints are made here, not by SQLite on the side, which
//! would not tell that one failed. After an I/O error nothing more is stored until the sink is opened again.
//!
//! A process that is killed between the write of a commit and its flush leaves a batch that SQLite finds, and that a power loss
//! takes. So an open flushes before anything is believed: it moves the WAL into the database, which begins with a flush of
//! the WAL, or where a reader is in the way it writes something, which ends with one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use seawall::LedgerId;
use seawall::ledger::{BatchKey, Sink, SinkError, SinkKind, Stored};

/// SQLite counts milliseconds in 32 bits.
const BUSY_WAIT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// How a database is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqliteConfig {
    /// How long another writer is waited for; 24 days at most. Default 10 s.
    pub busy_wait: Duration,
    /// After so many batches what they wrote is moved from the WAL into the database. Default 64.
    pub checkpoint_batches: u32,
}

impl Default for SqliteConfig {
    fn default() -> SqliteConfig {
        SqliteConfig { busy_wait: Duration::from_secs(10), checkpoint_batches: 64 }
    }
}

/// A database that takes each batch once. Its output is a closure over the batch's transaction, which answers with the token
/// of the commit:
///
/// ```
/// use seawall::ledger::{BatchKey, Sink, Stored};
/// use seawall::{BatchId, LedgerId};
/// use seawall_examples::sqlite::{SqliteConfig, SqliteSink};
/// # fn main() -> Result<(), seawall::ledger::SinkError> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("out.sqlite");
/// # let ledger = LedgerId::new(7);
/// let mut sink = SqliteSink::open(&path, SqliteConfig::default())?;
/// sink.claim(ledger, false)?;
///
/// let key = BatchKey { ledger, batch: BatchId::new(1) };
/// for run in 0..2 {
///     let stored = sink.store(key, |transaction| {
///         transaction.execute("CREATE TABLE IF NOT EXISTS seen (n)", [])?;
///         transaction.execute("INSERT INTO seen VALUES (1)", [])?;
///         Ok("one row".into())
///     })?;
///     assert_eq!(matches!(stored, Stored::AlreadyThere { .. }), run == 1);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteSink {
    connection: Connection,
    path: PathBuf,
    config: SqliteConfig,
    /// A batch is being written: whoever writes it may not end the transaction.
    is_writing: Arc<AtomicBool>,
    /// Stored since the last checkpoint.
    batches: u32,
    /// What went wrong first.
    poison: Option<String>,
}

impl SqliteSink {
    /// Opens a database, making it if it is missing.
    ///
    /// # Errors
    /// SQLite's, and when the database cannot be made durable the way this sink needs it.
    pub fn open(path: &Path, config: SqliteConfig) -> Result<SqliteSink, SinkError> {
        let open = || -> rusqlite::Result<(Connection, String, i64)> {
            let mut connection = Connection::open(path)?;
            connection.busy_timeout(config.busy_wait.min(BUSY_WAIT_MAX))?;
            let journal = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            connection.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA wal_autocheckpoint = 0")?;
            let synchronous = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
            let is_moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                let (busy, frames, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(busy == 0 && moved == frames)
            })?;
            connection.execute_batch(
                "BEGIN IMMEDIATE;
                 CREATE TABLE IF NOT EXISTS seawall_owner (
                     id INTEGER PRIMARY KEY CHECK (id = 0), ledger TEXT NOT NULL
                 ) STRICT;
                 CREATE TABLE IF NOT EXISTS seawall_batches (
                     ledger TEXT NOT NULL, batch INTEGER NOT NULL, token BLOB, PRIMARY KEY (ledger, batch)
                 ) STRICT, WITHOUT ROWID;
                 COMMIT",
            )?;
            if !is_moved {
                flush_wal(&mut connection)?;
            }
            Ok((connection, journal, synchronous))
        };
        let (mut connection, journal, synchronous) = open().map_err(|source| failed("open", path, source))?;
        // SQLite answers with what it does, not with an error, where it cannot do what it is asked.
        if journal != "wal" || synchronous != EXTRA {
            return Err(SinkError::Config {
                sink: path.display().to_string(),
                field: "journal_mode",
                problem: format!(
                    "is {journal}, synchronous {synchronous}: this sink wants wal, {EXTRA}; use a local file"
                ),
            });
        }
        let is_writing = Arc::new(AtomicBool::new(false));
        let asked = is_writing.clone();
        let authorize = move |context: AuthContext<'_>| match context.action {
            AuthAction::Transaction { .. } if asked.load(Ordering::Relaxed) => Authorization::Deny,
            _ => Authorization::Allow,
        };
        connection.authorizer(Some(authorize)).map_err(|source| failed("open", path, source))?;
        Ok(SqliteSink { connection, path: path.to_owned(), config, is_writing, batches: 0, poison: None })
    }

    /// What is in the database, for whoever reads it.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes the database this ledger's. Adopted from another one, that one's batches stay known by its name; what they
    /// wrote stays in their tables, and is the adopter's business.
    ///
    /// # Errors
    /// [`SinkError::OtherLedger`] unless `adopt` is set, and SQLite's.
    pub fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        self.transact("claim", |transaction, at| {
            match owner(transaction, at)? {
                Some(holds) if holds == ledger => return Ok(()),
                Some(holds) if !adopt => return Err(other(at, holds, ledger)),
                _ => {}
            }
            transaction
                .execute("INSERT OR REPLACE INTO seawall_owner VALUES (0, ?)", [ledger.to_string()])
                .map_err(|source| failed("claim", at, source))?;
            Ok(())
        })
    }

    /// Stores what `write` does in the batch's transaction, with the batch's name. `BEGIN`, `COMMIT` and `ROLLBACK` are
    /// refused in it; savepoints are not.
    ///
    /// # Errors
    /// [`SinkError::Fenced`], [`SinkError::OtherLedger`], [`SinkError::Unclaimed`], [`SinkError::Poisoned`], and SQLite's,
    /// also those that `write` returns. After an error nothing of the batch is there.
    pub fn store(
        &mut self,
        key: BatchKey,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Bytes>,
    ) -> Result<Stored, SinkError> {
        let is_writing = self.is_writing.clone();
        let stored = self.transact("store", |transaction, at| {
            check_owner(transaction, at, key)?;
            match find(transaction, at, key)? {
                Some(Some(token)) => return Ok(Stored::AlreadyThere { token: token.into() }),
                Some(None) => return Err(SinkError::Fenced { sink: at.display().to_string(), key }),
                None => {}
            }
            let writing = Writing::begin(&is_writing);
            let written = write(transaction);
            drop(writing);
            let token = written.map_err(|source| failed("write", at, source))?;
            // SQLite itself rolls back: at `OR ROLLBACK`, without room. Whoever wrote may have passed over that error.
            if transaction.is_autocommit() {
                return Err(SinkError::Other(Arc::new(Ended { path: at.to_owned(), key })));
            }
            insert(transaction, at, key, Some(&token))?;
            Ok(Stored::New { token })
        })?;
        self.batches += u32::from(matches!(stored, Stored::New { .. }));
        if self.batches >= self.config.checkpoint_batches {
            self.checkpoint();
        }
        Ok(stored)
    }

    /// Refuses this batch for ever.
    ///
    /// # Errors
    /// [`SinkError::AlreadyStored`] when it is there, and those of [`SqliteSink::store`].
    pub fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.transact("fence", |transaction, at| {
            check_owner(transaction, at, key)?;
            match find(transaction, at, key)? {
                Some(Some(_)) => Err(SinkError::AlreadyStored { sink: at.display().to_string(), key }),
                Some(None) => Ok(()),
                None => insert(transaction, at, key, None),
            }
        })
    }

    /// One transaction: all of it or nothing, and after an I/O error none any more.
    fn transact<T>(
        &mut self,
        op: &'static str,
        act: impl FnOnce(&Transaction<'_>, &Path) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        if let Some(cause) = &self.poison {
            return Err(SinkError::Poisoned { sink: self.path.display().to_string(), cause: cause.clone() });
        }
        let path = &self.path;
        let done = self
            .connection
            // Immediate: a transaction that begins by reading may find at its first write that it read too early.
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| failed(op, path, source))
            .and_then(|transaction| {
                // Dropped on the way, also by a panic, it is rolled back.
                let done = act(&transaction, path)?;
                transaction.commit().map_err(|source| failed(op, path, source))?;
                Ok(done)
            });
        done.inspect_err(|error| {
            if is_io(error) {
                self.poison.get_or_insert_with(|| error.to_string());
            }
        })
    }

    /// What is stored is durable in the WAL. If it cannot be moved, that is the next batch's trouble.
    fn checkpoint(&mut self) {
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        match moved.map_err(|source| failed("checkpoint", &self.path, source)) {
            Ok(()) => self.batches = 0,
            Err(error) if is_io(&error) => _ = self.poison.get_or_insert_with(|| error.to_string()),
            // Full, or busy: again after the next batch.
            Err(_) => {}
        }
    }
}

impl<F: FnOnce(&Transaction<'_>) -> rusqlite::Result<Bytes>> Sink<F> for SqliteSink {
    fn kind(&self) -> SinkKind {
        SinkKind::Transactional
    }

    fn claim(&mut self, ledger: LedgerId, adopt: bool) -> Result<(), SinkError> {
        self.claim(ledger, adopt)
    }

    fn store(&mut self, key: BatchKey, output: F) -> Result<Stored, SinkError> {
        self.store(key, output)
    }

    fn fence(&mut self, key: BatchKey) -> Result<(), SinkError> {
        self.fence(key)
    }
}

/// While it lives, also through a panic, the transaction cannot be ended.
struct Writing<'a>(&'a AtomicBool);

impl<'a> Writing<'a> {
    fn begin(is_writing: &'a AtomicBool) -> Writing<'a> {
        is_writing.store(true, Ordering::Relaxed);
        Writing(is_writing)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A commit flushes all of the WAL that stands before it. What is written is what is there.
fn flush_wal(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    transaction.execute_batch(&format!("PRAGMA user_version = {version}"))?;
    transaction.commit()
}

/// How SQLite numbers what it is asked for.
const EXTRA: i64 = 3;

fn owner(transaction: &Transaction<'_>, at: &Path) -> Result<Option<LedgerId>, SinkError> {
    let text: Option<String> = transaction
        .query_row("SELECT ledger FROM seawall_owner WHERE id = 0", [], |row| row.get(0))
        .optional()
        .map_err(|source| failed("read the owner of", at, source))?;
    let Some(text) = text else { return Ok(None) };
    match u128::from_str_radix(&text, 16).map(LedgerId::new) {
        Ok(ledger) if ledger.to_string() == text => Ok(Some(ledger)),
        _ => Err(SinkError::Damaged {
            what: format!("{}: seawall_owner holds {text:?}, no ledger's name", at.display()),
        }),
    }
}

fn check_owner(transaction: &Transaction<'_>, at: &Path, key: BatchKey) -> Result<(), SinkError> {
    match owner(transaction, at)? {
        None => Err(SinkError::Unclaimed { sink: at.display().to_string() }),
        Some(holds) if holds != key.ledger => Err(other(at, holds, key.ledger)),
        Some(_) => Ok(()),
    }
}

/// The batch's row, and its token: none where it is fenced.
fn find(transaction: &Transaction<'_>, at: &Path, key: BatchKey) -> Result<Option<Option<Vec<u8>>>, SinkError> {
    let query = "SELECT token FROM seawall_batches WHERE ledger = ? AND batch = ?";
    transaction
        .query_row(query, params![key.ledger.to_string(), key.batch.get().cast_signed()], |row| row.get(0))
        .optional()
        .map_err(|source| failed("look for a batch in", at, source))
}

fn insert(transaction: &Transaction<'_>, at: &Path, key: BatchKey, token: Option<&Bytes>) -> Result<(), SinkError> {
    let row = params![key.ledger.to_string(), key.batch.get().cast_signed(), token.map(|token| &token[..])];
    transaction
        .execute("INSERT INTO seawall_batches VALUES (?, ?, ?)", row)
        .map_err(|source| failed("name a batch in", at, source))?;
    Ok(())
}

fn other(at: &Path, holds: LedgerId, ledger: LedgerId) -> SinkError {
    SinkError::OtherLedger { sink: at.display().to_string(), holds, ledger }
}

// --- errors --------------------------------------------------------------------------------------------------------

/// SQLite's error, with what was tried on which database.
#[derive(Debug)]
pub struct SqliteError {
    /// What was tried.
    pub op: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The answer.
    pub source: rusqlite::Error,
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.op, self.path.display(), self.source)
    }
}

impl std::error::Error for SqliteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The batch's transaction was rolled back while it was written, and whoever wrote it went on.
#[derive(Debug)]
pub struct Ended {
    /// Which database.
    pub path: PathBuf,
    /// Which batch.
    pub key: BatchKey,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "the transaction of {} in {path} was rolled back, and its error passed over: hand it on", self.key)
    }
}

impl std::error::Error for Ended {}

fn failed(op: &'static str, path: &Path, source: rusqlite::Error) -> SinkError {
    SinkError::Other(Arc::new(SqliteError { op, path: path.to_owned(), source }))
}

/// The medium has failed, rather than said no.
fn is_io(error: &SinkError) -> bool {
    let SinkError::Other(error) = error else { return false };
    let code = error.downcast_ref::<SqliteError>().and_then(|error| error.source.sqlite_error_code());
    matches!(code, Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

#[cfg(test)]
#[path = "sqlite/tests.rs"]
mod tests;
