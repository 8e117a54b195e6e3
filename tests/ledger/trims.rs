//! What a ledger gives up: of its streams, and of its own.

use seawall::ledger::BatchLimits;
use std::sync::Arc;

use seawall::node::{Ledger, LedgerConfig, LedgerError};
use seawall::{Config, Lsn, WhenFull};

use super::driver::{Plans, greedy};
use super::*;

#[test]
fn streams_are_trimmed_behind_commits_only() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let mut source = stream.receiver.local_blocking("s").unwrap();
    let record = vec![b'x'; 10_000];
    let mut held = None;
    for round in 0..30 {
        for _ in 0..20 {
            source.store_blocking(&[&record]).unwrap();
        }
        let batch = ledger.allocate(&ALL).unwrap().expect("something");
        if round == 20 {
            held = Some(batch);
        } else {
            ledger.commit(batch.id(), "").unwrap();
        }
    }
    let held = held.unwrap();
    let first = stream.receiver.log().first();
    assert!(first > Lsn::new(200), "most of what was committed is gone: {first}");
    assert!(first <= Lsn::new(held.ranges()[0].from), "what is pending stays");
    assert_eq!(held.read().unwrap().map(Result::unwrap).count(), 20);
}

#[test]
fn the_ledger_s_own_stream_stays_short_and_restarts_find_all() {
    let dir = tempfile::tempdir().unwrap();
    let config = LedgerConfig { checkpoint_interval_bytes: 4096, ..LedgerConfig::default() };
    let stream = Stream::open(dir.path(), "stream");
    let mut expected = 0;
    for life in 0..4 {
        let ledger = open_ledger_with(dir.path(), config.clone());
        ledger.add_stream("stream", stream.receiver.clone()).unwrap();
        assert_eq!(ledger.pending().len(), usize::from(life > 0), "life {life}");
        for batch in ledger.pending() {
            ledger.commit(batch.id(), "late").unwrap();
        }
        for round in 0..200 {
            stream.store("s", expected..expected + 1);
            expected += 1;
            let batch = ledger.allocate(&ALL).unwrap().expect("something");
            assert_eq!(records(&batch), numbered("s", expected - 1..expected));
            if round < 199 {
                ledger.commit(batch.id(), format!("{round}")).unwrap();
            }
        }
        let (first, end) = ledger.with_log(|log| (log.first(), log.flushed()));
        assert!(first > Lsn::new(1) && end.since(first) < 400, "{first}..{end}");
    }
}

#[test]
fn many_short_lives_leave_no_more_than_one_long_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = LedgerConfig { checkpoint_interval_bytes: 32 * 1024, ..LedgerConfig::default() };
    for life in 0..100 {
        let (ledger, opened) = Ledger::open(reopen(dir.path(), small_log()), config.clone()).unwrap();
        assert!(opened.events < 30, "life {life}: {} events since the newest checkpoint but one", opened.events);
        let batch = ledger.allocate(&BatchLimits { allow_empty: true, ..ALL }).unwrap().expect("an empty one");
        ledger.commit(batch.id(), "").unwrap();
    }
    let log = reopen(dir.path(), small_log());
    assert!(log.first() > Lsn::new(200), "{}", log.first());
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files < 20, "{files} files");
}

#[test]
fn a_ledger_fits_into_the_byte_limit_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Config { byte_limit: Some(1 << 20), ..small_log() };
    let (ledger, _) = Ledger::open(reopen(dir.path(), log.clone()), LedgerConfig::default()).unwrap();
    for round in 0..1000 {
        let batch = ledger.allocate(&BatchLimits { allow_empty: true, ..ALL });
        let batch = batch.unwrap_or_else(|error| panic!("batch {round}: {error}")).expect("an empty one");
        ledger.commit(batch.id(), "").unwrap_or_else(|error| panic!("batch {round}: {error}"));
    }
    drop(ledger);
    let (ledger, _) = Ledger::open(reopen(dir.path(), log.clone()), LedgerConfig::default()).unwrap();
    assert_eq!(ledger.with_state(|state| state.settled().get()), 1000);
    // Nobody but the ledger makes room there: it would wait for itself.
    drop(ledger);
    let waits = Config { when_full: WhenFull::Block, ..log };
    let refused = Ledger::open(reopen(dir.path(), waits), LedgerConfig::default());
    assert!(matches!(&refused, Err(LedgerError::Config { field: "when_full", .. })), "{refused:?}");
}

#[test]
fn streams_of_sources_without_names_are_trimmed_too() {
    use seawall::receiver::{Sequences, WaitFor};
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let open = stream.receiver.local_with(None, Sequences::None, WaitFor::Durable);
    let mut source = crate::spark::block_on(open).unwrap();
    for _ in 0..60 {
        source.store_blocking(&[vec![b'x'; 20_000]]).unwrap();
    }
    ledger.commit(ledger.allocate(&ALL).unwrap().unwrap().id(), "").unwrap();
    let began = Instant::now();
    while stream.receiver.log().first() < Lsn::new(50) && began.elapsed() < Duration::from_secs(20) {
        assert!(ledger.allocate(&ALL).unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(stream.receiver.log().first() >= Lsn::new(50), "{}", stream.receiver.log().first());
    // And then there is rest: an idle ledger writes nothing, and asks for nothing.
    let end = stream.receiver.log().flushed();
    for _ in 0..20 {
        assert!(ledger.allocate(&ALL).unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(stream.receiver.log().flushed().since(end) <= 1, "{end} to {}", stream.receiver.log().flushed());
    drop((source, ledger));
    stream.close();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    assert!(stream.receiver.sources().is_empty());
}

#[test]
fn what_tells_of_many_sources_is_not_written_for_its_own_sake() {
    use seawall::receiver::{Block, Range, RangeKind, Sequences};
    use seawall::{Seq, SourceEpoch, SourceId};
    let bed = Bed::new();
    // To write all of these sources down takes more than what makes a batch without records.
    let session = |i: u32| Range {
        kind: RangeKind::Session,
        source: Some(SourceId::new(format!("{i:0>128}").as_bytes()).unwrap()),
        epoch: SourceEpoch::new(1),
        sequences: Sequences::Dense,
        records: 0,
        previous: Seq::ZERO,
        last: Seq::ZERO,
    };
    for block in 0..110 {
        let ranges = (block * 1000..(block + 1) * 1000).map(|i| (session(i), bytes::Bytes::new())).collect();
        bed.stream.receiver.log().append(&Block { replay_from: Lsn::ZERO, ranges }.encode()).unwrap().wait().unwrap();
    }
    let bed = bed.restart();
    let (mut batches, mut idle_since) = (0, Instant::now());
    while idle_since.elapsed() < Duration::from_secs(2) {
        if let Some(batch) = bed.allocate() {
            assert_eq!(batch.records(), 0);
            bed.ledger.commit(batch.id(), "").unwrap();
            (batches, idle_since) = (batches + 1, Instant::now());
        }
        assert!(batches < 6, "they feed each other");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(batches > 0 && bed.stream.receiver.log().first() > Lsn::new(1), "the sessions are trimmed: {batches}");
}

#[test]
fn what_is_committed_goes_also_when_nothing_new_comes() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let mut source = stream.receiver.local_blocking("s").unwrap();
    for _ in 0..100 {
        source.store_blocking(&[vec![b'x'; 20_000]]).unwrap();
    }
    let batch = ledger.allocate(&ALL).unwrap().unwrap();
    ledger.commit(batch.id(), "").unwrap();
    let began = Instant::now();
    while stream.receiver.log().first() < Lsn::new(90) && began.elapsed() < Duration::from_secs(20) {
        assert!(ledger.allocate(&ALL).unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(stream.receiver.log().first() >= Lsn::new(90), "{}", stream.receiver.log().first());
}

#[test]
fn a_log_that_trims_by_itself_is_no_place_for_a_ledger() {
    let dir = tempfile::tempdir().unwrap();
    for config in [
        Config { retain_bytes: Some(1 << 30), ..Config::default() },
        Config { retain_for: Some(Duration::from_secs(1)), ..Config::default() },
        Config { when_full: seawall::WhenFull::DropOldest, byte_limit: Some(1 << 30), ..Config::default() },
    ] {
        let error = Ledger::open(reopen(&dir.path().join("ledger"), config), LedgerConfig::default()).unwrap_err();
        assert!(matches!(error, LedgerError::Config { .. }), "{error}");
    }
}

#[test]
fn what_may_go_goes_also_when_the_next_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let config = Config { record_bytes_max: 16 << 10, ..small_log() };
    let (ledger, _) = Ledger::open(reopen(&dir.path().join("ledger"), config), LedgerConfig::default()).unwrap();
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let mut source = stream.receiver.local_blocking("s").unwrap();
    for _ in 0..7 {
        for _ in 0..20 {
            source.store_blocking(&[vec![b'x'; 20_000]]).unwrap();
        }
        let batch = ledger.allocate(&ALL).unwrap().unwrap();
        ledger.commit(batch.id(), "").unwrap();
    }
    ledger.add_input("greedy", Arc::new(Plans(greedy))).unwrap();
    let began = Instant::now();
    while stream.receiver.log().first() < Lsn::new(100) && began.elapsed() < Duration::from_secs(20) {
        let error = ledger.allocate(&ALL).unwrap_err();
        assert!(matches!(error, LedgerError::Log(seawall::Error::RecordTooLarge { .. })), "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(stream.receiver.log().first() >= Lsn::new(100), "{}", stream.receiver.log().first());
}
