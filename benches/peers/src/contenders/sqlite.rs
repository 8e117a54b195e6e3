//! SQLite in WAL mode with `synchronous = FULL`: a commit returns after `fdatasync` of its log.
//! It has no group commit. All threads share one connection, because connections of their own
//! would wait for the write lock by sleeping. Each append is one transaction of one insert.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use seawall_limit::Load;

use super::{Contender, Failure};

/// Bytes in the log before a commit copies them back: its default of 1000 pages, or 32 records
/// if that is more. Between those copies it writes over its own old blocks.
const MIN_CHECKPOINT_BYTES: usize = 4096 * 1000;

pub(crate) struct Sqlite {
    connection: Mutex<Connection>,
}

impl Sqlite {
    pub(crate) fn open(dir: &Path, load: Load) -> Result<Sqlite, Failure> {
        let connection = Connection::open(dir.join("log.sqlite"))?;
        // No other process looks: no shared memory, no locking calls.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let checkpoint_pages = ((32 * load.record_bytes).max(MIN_CHECKPOINT_BYTES) / 4096) as i64;
        connection.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
        connection.execute_batch("CREATE TABLE log (lsn INTEGER PRIMARY KEY, payload BLOB)")?;

        let journal_mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
        // 2 is FULL. A pragma that is refused says nothing, so look.
        if journal_mode != "wal" || synchronous != 2 {
            return Err(format!("not durable: {journal_mode}, synchronous {synchronous}").into());
        }
        Ok(Sqlite { connection: Mutex::new(connection) })
    }
}

impl Contender for Sqlite {
    fn append_durable(&self, _client: usize, payload: &[u8]) -> Result<(), Failure> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached("INSERT INTO log (payload) VALUES (?1)")?.execute([payload])?;
        Ok(())
    }

    fn trim(&self) -> Result<(), Failure> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.execute_batch("DELETE FROM log; PRAGMA wal_checkpoint(PASSIVE);")?;
        Ok(())
    }
}
