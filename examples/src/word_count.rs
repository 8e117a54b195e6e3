//! Words of batches, counted exactly once.
//!
//! A batch is counted in memory and added to `words(word, count)` in the batch's transaction. A batch that runs again
//! finds its name there, and adds nothing.
//!
//! A word is what stands between ASCII whitespace (space, tab, line feed, form feed, carriage return). Words are bytes,
//! told apart byte by byte. In the table one that is UTF-8 is TEXT, any other a BLOB, so no two become one.

use std::collections::HashMap;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Transaction};
use seawall::ledger::{BatchKey, SinkError, Stored};

use crate::sqlite::SqliteSink;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS words (
    word ANY PRIMARY KEY NOT NULL, count INTEGER NOT NULL
) STRICT, WITHOUT ROWID";

const ADD: &str = "INSERT INTO words VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count";

/// The words of a record, in order.
pub fn words(record: &[u8]) -> impl Iterator<Item = &[u8]> {
    record.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// How often each word is there, in SQLite's integers. As large as its distinct words: a batch's limits bound it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts(HashMap<Box<[u8]>, i64>);

impl Counts {
    /// Adds a record's words.
    pub fn add(&mut self, record: &[u8]) {
        for word in words(record) {
            // Most words have been seen: those cost no allocation.
            match self.0.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = self.0.insert(word.into(), 1),
            }
        }
    }

    /// How often a word is there.
    #[must_use]
    pub fn get(&self, word: &[u8]) -> i64 {
        self.0.get(word).copied().unwrap_or(0)
    }

    /// All of them, in the order of [`top`]: the most frequent first, then as SQLite sorts, text before other bytes.
    #[must_use]
    pub fn top(&self) -> Vec<(&[u8], i64)> {
        let mut all: Vec<(&[u8], i64)> = self.0.iter().map(|(word, count)| (&word[..], *count)).collect();
        all.sort_by_key(|(word, count)| (-count, std::str::from_utf8(word).is_err(), *word));
        all
    }

    /// Adds them to the table, in a transaction that somebody else commits. Answers with the token of the commit.
    ///
    /// # Errors
    /// SQLite's.
    pub fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Bytes> {
        transaction.execute(TABLE, [])?;
        let mut add = transaction.prepare_cached(ADD)?;
        let mut total = 0;
        for (word, count) in &self.0 {
            total += count;
            match std::str::from_utf8(word) {
                Ok(text) => add.execute((text, count))?,
                Err(_) => add.execute((&word[..], count))?,
            };
        }
        Ok(format!("{total} words, {} different", self.0.len()).into())
    }
}

impl<R: AsRef<[u8]>> FromIterator<R> for Counts {
    fn from_iter<I: IntoIterator<Item = R>>(records: I) -> Counts {
        let mut counts = Counts::default();
        records.into_iter().for_each(|record| counts.add(record.as_ref()));
        counts
    }
}

/// Runs a batch: counts its records' words and adds the counts to the table, once. The first record that cannot be read
/// ends it, and nothing of the batch is stored.
///
/// # Errors
/// The records' own, and the sink's.
pub fn run_batch<R: AsRef<[u8]>, E: From<SinkError>>(
    sink: &mut SqliteSink,
    key: BatchKey,
    records: impl IntoIterator<Item = Result<R, E>>,
) -> Result<Stored, E> {
    let counts = records.into_iter().collect::<Result<Counts, E>>()?;
    Ok(sink.store(key, |transaction| counts.write(transaction))?)
}

/// What is in the table: the most frequent words first, those of one frequency in order.
///
/// # Errors
/// SQLite's; also while nothing was ever counted, and there is no table.
pub fn top(connection: &Connection, count_max: u32) -> rusqlite::Result<Vec<(Vec<u8>, i64)>> {
    let mut query = connection.prepare("SELECT word, count FROM words ORDER BY count DESC, word LIMIT ?")?;
    let rows = query.query_map([count_max], |row| {
        let word = match row.get_ref(0)? {
            ValueRef::Text(word) | ValueRef::Blob(word) => word.to_vec(),
            other => return Err(rusqlite::Error::InvalidColumnType(0, "word".into(), other.data_type())),
        };
        Ok((word, row.get(1)?))
    })?;
    rows.collect()
}

#[cfg(test)]
#[path = "word_count/tests.rs"]
mod tests;
