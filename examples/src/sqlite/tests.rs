use seawall::BatchId;

use super::*;

const OURS: LedgerId = LedgerId::new(0xa);
const THEIRS: LedgerId = LedgerId::new(0xb);

fn key(batch: u64) -> BatchKey {
    of(OURS, batch)
}

fn of(ledger: LedgerId, batch: u64) -> BatchKey {
    BatchKey { ledger, batch: BatchId::new(batch) }
}

struct Bed {
    home: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        Bed { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("out.sqlite")
    }

    fn bare(&self) -> SqliteSink {
        let config = SqliteConfig { busy_wait: Duration::from_millis(50), ..SqliteConfig::default() };
        SqliteSink::open(&self.path(), config).unwrap()
    }

    fn open(&self) -> SqliteSink {
        let mut sink = self.bare();
        sink.claim(OURS, false).unwrap();
        sink
    }
}

/// A row of its own for every time it runs.
fn row(transaction: &Transaction<'_>) -> rusqlite::Result<Bytes> {
    transaction.execute("CREATE TABLE IF NOT EXISTS seen (n)", [])?;
    transaction.execute("INSERT INTO seen VALUES (1)", [])?;
    Ok("a row".into())
}

fn rows(sink: &SqliteSink) -> i64 {
    let query = "SELECT count(*) FROM sqlite_master WHERE name = 'seen'";
    match sink.connection().query_row(query, [], |row| row.get(0)).unwrap() {
        0 => 0,
        _ => sink.connection().query_row("SELECT count(*) FROM seen", [], |row| row.get(0)).unwrap(),
    }
}

fn names(sink: &SqliteSink) -> i64 {
    sink.connection().query_row("SELECT count(*) FROM seawall_batches", [], |row| row.get(0)).unwrap()
}

#[test]
fn however_often_a_batch_runs_it_is_there_once() {
    let bed = Bed::new();
    assert!(matches!(bed.open().store(key(1), row).unwrap(), Stored::New { token } if token == "a row"));
    for _ in 0..4 {
        let mut sink = bed.open();
        let again = sink.store(key(1), |_| panic!("it is there")).unwrap();
        assert_eq!(again, Stored::AlreadyThere { token: "a row".into() });
        assert_eq!((rows(&sink), names(&sink)), (1, 1));
    }
    // An empty token is a token, not a fence.
    let mut sink = bed.open();
    sink.store(key(2), |_| Ok(Bytes::new())).unwrap();
    assert_eq!(sink.store(key(2), row).unwrap(), Stored::AlreadyThere { token: Bytes::new() });
}

#[test]
fn a_batch_that_fails_or_panics_leaves_nothing() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let error = sink.store(key(1), |transaction| {
        row(transaction)?;
        transaction.execute("INSERT INTO nowhere VALUES (1)", [])?;
        Ok(Bytes::new())
    });
    assert!(error.unwrap_err().to_string().contains("no such table: nowhere"));
    assert_eq!((rows(&sink), names(&sink)), (0, 0));
    let panics = std::panic::AssertUnwindSafe(|| {
        sink.store(key(1), |transaction| {
            row(transaction)?;
            panic!("in the engine")
        })
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!((rows(&sink), names(&sink)), (0, 0));
    assert!(matches!(sink.store(key(1), row).unwrap(), Stored::New { .. }));
}

/// Killed before the commit: the database as its files are in that moment is what the next sink finds.
#[test]
fn a_sink_that_is_killed_before_the_commit_has_stored_nothing() {
    let bed = Bed::new();
    let copy = Bed::new();
    let mut sink = bed.open();
    sink.store(key(1), row).unwrap();
    sink.store(key(2), |transaction| {
        // So much that pages leave the cache for the WAL before the commit.
        transaction.execute_batch("PRAGMA cache_size = 10; CREATE TABLE big (b)")?;
        for _ in 0..200 {
            transaction.execute("INSERT INTO big VALUES (zeroblob(10000))", [])?;
        }
        row(transaction)?;
        for end in ["", "-wal"] {
            let name = format!("out.sqlite{end}");
            std::fs::copy(bed.home.path().join(&name), copy.home.path().join(&name)).unwrap();
        }
        Ok(Bytes::new())
    })
    .unwrap();
    let wal = copy.home.path().join("out.sqlite-wal").metadata().unwrap().len();
    assert!(wal > 1_000_000, "nothing of the second batch was on its way: {wal}");
    let mut next = copy.open();
    assert_eq!((rows(&next), names(&next)), (1, 1));
    assert!(matches!(next.store(key(1), row).unwrap(), Stored::AlreadyThere { .. }));
    assert!(matches!(next.store(key(2), row).unwrap(), Stored::New { .. }));
}

/// Killed behind the commit, the WAL may hold what no device has: whatever a sink believes, it flushes first.
#[test]
fn what_a_killed_sink_left_in_the_wal_is_moved_into_the_database_before_it_is_believed() {
    let bed = Bed::new();
    let copy = Bed::new();
    let mut sink = bed.open();
    sink.store(key(1), row).unwrap();
    for end in ["", "-wal"] {
        let name = format!("out.sqlite{end}");
        std::fs::copy(bed.home.path().join(&name), copy.home.path().join(&name)).unwrap();
    }
    let next = copy.bare();
    // The database alone, without its WAL: what is in it was flushed behind the WAL.
    let alone = Bed::new();
    std::fs::copy(copy.path(), alone.path()).unwrap();
    assert_eq!((names(&next), names(&alone.bare())), (1, 1));
}

/// Where a reader keeps the WAL from being moved, a write flushes it.
#[test]
fn what_cannot_be_moved_into_the_database_is_flushed_by_a_write() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let reader = Connection::open(bed.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM seawall_batches").unwrap();
    sink.store(key(1), row).unwrap();
    let version = |sink: &SqliteSink| -> i64 {
        sink.connection().query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap()
    };
    let before = version(&sink);
    let mut next = bed.bare();
    assert_ne!(version(&sink), before, "nothing was written");
    assert!(matches!(next.store(key(1), row).unwrap(), Stored::AlreadyThere { .. }));
}

#[test]
fn many_short_lives_leave_a_short_wal() {
    let bed = Bed::new();
    // Open as long as the rest: whoever is last to close moves the WAL, whoever is killed does not.
    let other = bed.bare();
    for batch in 1..=100 {
        bed.open().store(key(batch), row).unwrap();
    }
    let wal = bed.home.path().join("out.sqlite-wal").metadata().unwrap().len();
    assert!(wal < 200_000, "{wal} bytes in the WAL");
    assert_eq!(rows(&other), 100);
}

#[test]
fn the_transaction_is_the_sinks() {
    let bed = Bed::new();
    let mut sink = bed.open();
    for end in ["COMMIT", "ROLLBACK", "END; BEGIN", "BEGIN"] {
        let stored = sink.store(key(1), |transaction| {
            row(transaction)?;
            transaction.execute_batch(end)?;
            Ok(Bytes::new())
        });
        assert!(stored.unwrap_err().to_string().contains("not authorized"), "{end}");
        assert_eq!((rows(&sink), names(&sink)), (0, 0), "{end}");
    }
    sink.store(key(1), |transaction| {
        transaction.execute_batch("SAVEPOINT a; CREATE TABLE gone (n); ROLLBACK TO a; RELEASE a")?;
        row(transaction)
    })
    .unwrap();
    assert_eq!((rows(&sink), names(&sink)), (1, 1));
}

#[test]
fn a_rollback_that_was_passed_over_is_no_batch() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let stored = sink.store(key(1), |transaction| {
        transaction.execute_batch("CREATE TABLE one (n UNIQUE); INSERT INTO one VALUES (1)")?;
        let _ = transaction.execute("INSERT OR ROLLBACK INTO one VALUES (1)", []);
        row(transaction)
    });
    let Err(SinkError::Other(error)) = stored else { panic!("{stored:?}") };
    assert!(error.downcast_ref::<Ended>().is_some_and(|ended| ended.key == key(1)), "{error}");
    assert_eq!(names(&sink), 0);
}

#[test]
fn fenced_and_stored_exclude_each_other() {
    let bed = Bed::new();
    let mut sink = bed.open();
    sink.store(key(1), row).unwrap();
    assert!(matches!(sink.fence(key(1)), Err(SinkError::AlreadyStored { key, .. }) if key == of(OURS, 1)));
    sink.fence(key(2)).unwrap();
    drop(sink);
    let mut sink = bed.open();
    sink.fence(key(2)).unwrap();
    let refused = sink.store(key(2), |_| panic!("it is fenced"));
    assert!(matches!(refused, Err(SinkError::Fenced { key, .. }) if key == of(OURS, 2)));
    assert_eq!((rows(&sink), names(&sink)), (1, 2));
}

#[test]
fn another_ledgers_database_is_refused_until_it_is_adopted() {
    let bed = Bed::new();
    let mut sink = bed.bare();
    assert!(matches!(sink.store(key(1), row), Err(SinkError::Unclaimed { .. })));
    assert!(matches!(sink.fence(key(1)), Err(SinkError::Unclaimed { .. })));
    sink.claim(OURS, false).unwrap();
    sink.store(key(1), row).unwrap();

    let mut theirs = bed.bare();
    let refused =
        |error| matches!(error, SinkError::OtherLedger { holds, ledger, .. } if (holds, ledger) == (OURS, THEIRS));
    assert!(refused(theirs.claim(THEIRS, false).unwrap_err()));
    assert!(refused(theirs.store(of(THEIRS, 1), row).unwrap_err()));
    assert!(refused(theirs.fence(of(THEIRS, 1)).unwrap_err()));
    theirs.claim(THEIRS, true).unwrap();
    assert!(matches!(theirs.store(of(THEIRS, 1), row).unwrap(), Stored::New { .. }), "batch 1 does not look done");

    // The old driver, still running, is refused from that moment on; given the database back, it finds its batch.
    assert!(matches!(sink.store(key(2), row), Err(SinkError::OtherLedger { holds: THEIRS, .. })));
    sink.claim(OURS, true).unwrap();
    assert!(matches!(sink.store(key(1), row).unwrap(), Stored::AlreadyThere { .. }));
    assert_eq!(rows(&sink), 2);
}

/// Two drivers of one ledger, of which one does not know yet that it was replaced.
#[test]
fn two_sinks_store_a_batch_once() {
    let bed = Bed::new();
    drop(bed.open());
    let run = |_| {
        let path = bed.path();
        std::thread::spawn(move || {
            let mut sink = SqliteSink::open(&path, SqliteConfig::default()).unwrap();
            (1..=20).filter(|batch| matches!(sink.store(key(*batch), row).unwrap(), Stored::New { .. })).count()
        })
    };
    let threads: Vec<_> = (0..2).map(run).collect();
    assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 20);
    assert_eq!(rows(&bed.open()), 20);
}

/// Nobody writes between what the sink reads and what it does about it.
#[test]
fn a_batch_is_decided_and_written_in_one_go() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let other = Connection::open(bed.path()).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let stored = sink.store(key(1), |_| {
        let error = other.execute_batch("UPDATE seawall_owner SET ledger = 'x'").unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
        Ok(Bytes::new())
    });
    assert!(matches!(stored.unwrap(), Stored::New { .. }));
}

#[test]
fn another_writer_is_waited_for_and_then_told() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let other = Connection::open(bed.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = sink.store(key(1), row).unwrap_err();
    assert!(error.to_string().contains("database is locked"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(matches!(sink.store(key(1), row).unwrap(), Stored::New { .. }));
}

#[test]
fn an_io_error_poisons() {
    let bed = Bed::new();
    let mut sink = bed.open();
    let broken = |_: &Transaction<'_>| {
        let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        Err(rusqlite::Error::SqliteFailure(error, None))
    };
    sink.store(key(1), broken).unwrap_err();
    assert!(matches!(sink.store(key(1), row), Err(SinkError::Poisoned { .. })));
    assert!(matches!(sink.fence(key(1)), Err(SinkError::Poisoned { .. })));
    assert!(matches!(sink.claim(OURS, false), Err(SinkError::Poisoned { .. })));
    assert!(matches!(bed.open().store(key(1), row).unwrap(), Stored::New { .. }));
}

/// No room is a plain no.
#[test]
fn a_full_database_does_not_poison() {
    let bed = Bed::new();
    let mut sink = bed.open();
    sink.connection().execute_batch("PRAGMA max_page_count = 20").unwrap();
    let big = |transaction: &Transaction<'_>| {
        row(transaction)?;
        transaction.execute("INSERT INTO seen VALUES (zeroblob(1000000))", [])?;
        Ok(Bytes::new())
    };
    let error = sink.store(key(1), big).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!((rows(&sink), names(&sink)), (0, 0));
    assert!(matches!(sink.store(key(1), row).unwrap(), Stored::New { .. }));
}

#[test]
fn the_wal_is_moved_into_the_database() {
    let bed = Bed::new();
    let mut sink = bed.open();
    sink.config.checkpoint_batches = 4;
    for batch in 1..=200 {
        sink.store(key(batch), row).unwrap();
    }
    let wal = bed.home.path().join("out.sqlite-wal").metadata().unwrap().len();
    assert!(wal < 300_000, "{wal} bytes in the WAL");
    assert_eq!(rows(&sink), 200);
}

#[test]
fn a_database_that_cannot_be_what_it_must_be_is_refused() {
    let refused = SqliteSink::open(Path::new(":memory:"), SqliteConfig::default()).unwrap_err();
    assert!(matches!(refused, SinkError::Config { field: "journal_mode", .. }), "{refused}");
}

#[test]
fn an_owner_that_is_no_ledger_is_damage() {
    let bed = Bed::new();
    let mut sink = bed.open();
    for text in ["x", "a", "0000000000000000000000000000000A"] {
        sink.connection().execute("UPDATE seawall_owner SET ledger = ?", [text]).unwrap();
        assert!(matches!(sink.store(key(1), row), Err(SinkError::Damaged { .. })), "{text}");
        assert!(matches!(sink.claim(OURS, true), Err(SinkError::Damaged { .. })), "{text}");
    }
}

#[test]
fn a_wait_without_end_is_as_long_as_sqlite_can_wait() {
    let bed = Bed::new();
    let config = SqliteConfig { busy_wait: Duration::MAX, ..SqliteConfig::default() };
    SqliteSink::open(&bed.path(), config).unwrap();
}
