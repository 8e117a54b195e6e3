//! What a receiver knows after it was opened again.

use std::time::Duration;

use seawall::node::{Receiver, ReceiverError};
use seawall::receiver::{Code, ReceiverConfig};
use seawall::{Config, Log, Lsn, Seq, SourceId};

use crate::{Running, records, reopen};

#[test]
fn sources_go_on_where_they_were_and_epochs_go_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut epochs = Vec::new();
    for round in 0..4u64 {
        let running = Running::open(dir.path(), ReceiverConfig::default());
        let mut source = running.receiver.local_blocking("a").unwrap();
        assert_eq!(source.resume(), Seq::new(round * 2));
        epochs.push(source.epoch().get());
        source.store_blocking(&["x", "y"]).unwrap();
        drop(source);
        if round % 2 == 0 { running.close() } else { running.abandon() }
    }
    assert_eq!(epochs, [1, 2, 3, 4]);
    let running = Running::open(dir.path(), ReceiverConfig::default());
    assert_eq!(records(&running.log).iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    running.close();
}

#[test]
fn a_retired_source_is_refused_for_ever_and_never_taken_as_new() {
    let dir = tempfile::tempdir().unwrap();
    let config = || ReceiverConfig { snapshot_interval_bytes: 1024, ..Default::default() };
    let id = SourceId::new("a").unwrap();
    let running = Running::open(dir.path(), config());
    running.receiver.local_blocking("a").unwrap().store_blocking(&["x"]).unwrap();
    running.receiver.retire(&id).unwrap();
    assert!(running.receiver.retire(&SourceId::new("b").unwrap()).is_err());
    // Snapshots must carry it on.
    let mut other = running.receiver.local_blocking("other").unwrap();
    for _ in 0..40 {
        other.store_blocking(&[[0u8; 200]]).unwrap();
    }
    assert!(running.receiver.source(&id).unwrap().retired);
    let durable = running.log.flushed();
    assert!(running.receiver.trim(durable).unwrap() > Lsn::FIRST, "snapshots let the stream be trimmed");
    drop(other);
    running.close();
    let running = Running::open(dir.path(), config());
    let error = running.receiver.local_blocking("a").unwrap_err();
    assert!(matches!(error, ReceiverError::Refused { code: Code::Retired, .. }), "{error}");
    running.close();
}

#[test]
fn an_open_replays_no_more_than_since_the_last_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let config = || ReceiverConfig { snapshot_interval_bytes: 16 << 10, ..Default::default() };
    let running = Running::open(dir.path(), config());
    let mut source = running.receiver.local_blocking("a").unwrap();
    for _ in 0..200 {
        source.store_blocking(&[[7u8; 1000]]).unwrap();
    }
    drop(source);
    running.close();
    let log = reopen(dir.path(), &Config::default());
    let (_receiver, _driver, replayed) = Receiver::open(log, "test", config()).unwrap();
    assert!(replayed.bytes < 64 << 10, "{replayed:?}");
    assert_eq!(replayed.sources, 1);
}

#[test]
fn trimming_keeps_what_is_needed_to_know_the_sources() {
    let dir = tempfile::tempdir().unwrap();
    let config = || ReceiverConfig { snapshot_interval_bytes: 8 << 10, ..Default::default() };
    for round in 0..5u64 {
        let running = Running::open(dir.path(), config());
        // One that never sends again must not be forgotten.
        if round == 0 {
            running.receiver.local_blocking("quiet").unwrap().store_blocking(&["only"]).unwrap();
        }
        let mut source = running.receiver.local_blocking("a").unwrap();
        assert_eq!(source.resume(), Seq::new(round * 100));
        for _ in 0..100 {
            source.store_blocking(&[[7u8; 500]]).unwrap();
            let durable = running.log.flushed();
            running.receiver.trim(durable).unwrap();
        }
        assert_eq!(running.receiver.source(&SourceId::new("quiet").unwrap()).unwrap().durable, Seq::new(1));
        drop(source);
        if round % 2 == 0 { running.close() } else { running.abandon() }
    }
    let log = reopen(dir.path(), &Config::default());
    assert!(log.first() > Lsn::new(300), "most of it was trimmed: {}", log.first());
    // Behind the receiver's back it may not be trimmed.
    let end = log.flushed();
    log.trim(end).unwrap();
    let error = Receiver::open(log, "test", config()).unwrap_err();
    assert!(matches!(error, ReceiverError::StateLost { .. }), "{error}");
}

/// What a receiver before this one had appended became durable after it was opened: its sources' records were taken again.
#[test]
fn what_is_on_its_way_when_a_receiver_opens_is_known_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), ReceiverConfig::default());
    running.receiver.local_blocking("a").unwrap().store_blocking(&["one"]).unwrap();
    let blocks: Vec<_> = running.log.reader(Lsn::FIRST).map(|frame| frame.unwrap().payload).collect();
    running.close();
    let dir = tempfile::tempdir().unwrap();
    // What nobody waits for stays where it is for so long.
    let config = Config { sweep_interval: Duration::from_secs(1), ..Config::default() };
    let log = Log::open(dir.path(), config).unwrap().0;
    blocks.iter().for_each(|block| drop(log.append(block).unwrap()));
    let running = Running::open_log(log, ReceiverConfig::default());
    let source = running.receiver.local_blocking("a").unwrap();
    assert_eq!((source.resume(), source.epoch().get()), (Seq::new(1), 2));
    drop(source);
    running.close();
}
