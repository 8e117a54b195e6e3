//! The rate that a ledger sets its streams.

use seawall::node::LedgerConfig;
use seawall::receiver::PidConfig;

use super::watched::Watched;
use super::*;

#[test]
fn rate_is_bounded_from_the_first_batch_and_follows_batch_times() {
    let dir = tempfile::tempdir().unwrap();
    let pid = PidConfig { records_per_second_first: 500.0, ..PidConfig::default() };
    let config = LedgerConfig { rate: Some(pid), record_bytes_first: 100, ..LedgerConfig::default() };
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger_with(dir.path(), config);
    let watched = Watched::new(&stream);
    let rates = watched.rates.clone();
    ledger.add_stream("stream", watched).unwrap();
    assert_eq!(*rates.lock().unwrap(), [Some(50_000.0)]);
    stream.store("s", 0..20);
    let batch = ledger.allocate(&ALL).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    ledger.commit(batch.id(), "").unwrap();
    // 20 records in a tenth of a second or more; never below the floor of 100 records a second.
    let (rate, record) = (rates.lock().unwrap()[1].unwrap(), batch.ranges()[0].bytes as f64 / 20.0);
    assert!(rate <= 200.0 * record && rate >= 100.0 * record, "{rate} with {record} bytes each");
    ledger.remove_input("stream").unwrap();
    assert_eq!(rates.lock().unwrap().last(), Some(&None), "what is removed is not held back");
}

#[test]
fn without_a_rate_of_its_own_a_ledger_leaves_limits_alone() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger(dir.path());
    let watched = Watched::new(&stream);
    let rates = watched.rates.clone();
    ledger.add_stream("stream", watched).unwrap();
    stream.store("s", 0..1);
    ledger.commit(ledger.allocate(&ALL).unwrap().unwrap().id(), "").unwrap();
    // It says that it has none, which lifts only what a driver has set.
    assert!(rates.lock().unwrap().iter().all(Option::is_none));
}

#[test]
fn the_rate_of_a_ledger_that_is_gone_holds_nobody_back() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let watched = Watched::new(&stream);
    let config = LedgerConfig { rate: Some(PidConfig::default()), ..LedgerConfig::default() };
    let ledger = open_ledger_with(dir.path(), config);
    ledger.add_stream("stream", watched.clone()).unwrap();
    drop(ledger);
    let rates = watched.rates.lock().unwrap();
    assert!(matches!(rates[..], [Some(_), None]), "{rates:?}");
}
