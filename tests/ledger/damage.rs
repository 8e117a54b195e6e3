//! Blocks that say nothing, and frames that cannot be read.

use seawall::ledger::{BatchLimits, Identity};
use std::sync::Arc;

use seawall::node::{Ledger, LedgerError, MemoryPartitions};
use seawall::{Lsn, LsnRange};

use super::watched::Watched;
use super::*;

#[test]
fn blocks_without_records_do_not_pile_up() {
    let bed = Bed::new();
    let before = bed.stream.receiver.log().flushed();
    let mut batch = None;
    for n in 0..3000 {
        drop(bed.stream.receiver.local_blocking(&format!("s{n}")).unwrap());
        batch = if n % 100 == 99 { bed.allocate() } else { None };
        if batch.is_some() {
            break;
        }
    }
    let batch = batch.expect("a thousand of them are a batch");
    assert_eq!((batch.records(), records(&batch).len()), (0, 0));
    assert!(batch.ranges()[0].to - batch.ranges()[0].from >= 1000, "{before}: {:?}", batch.ranges());
    bed.ledger.commit(batch.id(), "").unwrap();
}

#[test]
fn frames_that_cannot_be_read_stop_batches_until_they_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    stream.store("s", 0..6);
    let last = stream.receiver.log().flushed();
    let bad = seawall::LsnRange::inclusive(Lsn::new(last.get() - 2), Lsn::new(last.get() - 2));
    stream.receiver.log().quarantine(bad).unwrap();
    // What stands before comes first.
    let batch = ledger.allocate(&ALL).unwrap().expect("what can be read");
    assert_eq!(records(&batch), numbered("s", 0..3));
    let error = ledger.allocate(&ALL).unwrap_err();
    assert!(matches!(&error, LedgerError::Unreadable { lsns, .. } if *lsns == bad), "{error}");
    ledger.drop_range("stream", bad.start, "quarantined").unwrap();
    assert_eq!(records(&ledger.allocate(&ALL).unwrap().unwrap()), numbered("s", 4..6));
    assert!(ledger.allocate(&ALL).unwrap().is_none());
    drop((ledger, batch));
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    assert_eq!(ledger.pending().iter().flat_map(records).count(), 5);
}

#[test]
fn a_block_that_says_nothing_does_not_keep_out_one_that_fits_no_limit() {
    let bed = Bed::new();
    let mut source = bed.stream.receiver.local_blocking("s").unwrap();
    // The session is a block of its own; the records are one piece, larger than any limit.
    let ten: Vec<String> = (0..10).map(|i| format!("{i}")).collect();
    source.store_blocking(&ten).unwrap();
    for limits in [BatchLimits { records_max: 3, ..ALL }, BatchLimits { bytes_max: 1, ..ALL }] {
        let batch = bed.ledger.allocate(&limits).unwrap().expect("one piece is always taken");
        assert_eq!(records(&batch).len(), 10);
        source.store_blocking(&ten).unwrap();
        bed.stream.receiver.local_blocking("t").unwrap();
    }
}

#[test]
fn damage_behind_a_block_that_says_nothing_is_told() {
    let bed = Bed::new();
    bed.stream.store("s", 0..1);
    bed.ledger.commit(bed.allocate().unwrap().id(), "").unwrap();
    // Another source's session, then its records, which rot.
    let mut source = bed.stream.receiver.local_blocking("t").unwrap();
    let before = bed.stream.receiver.log().flushed();
    source.store_blocking(&["lost"]).unwrap();
    let last = bed.stream.receiver.log().flushed();
    assert_eq!(last, before.next(), "a block of its own");
    bed.stream.receiver.log().quarantine(LsnRange::inclusive(last, last)).unwrap();
    assert!(matches!(bed.ledger.allocate(&ALL), Err(LedgerError::Unreadable { .. })));
}

#[test]
fn what_is_given_up_is_counted_or_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let watched = Watched::new(&stream);
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", watched.clone()).unwrap();
    stream.store("s", 0..4);
    let last = stream.receiver.log().flushed();
    for fails_at in [last, last.previous()] {
        *watched.fails_at.lock().unwrap() = Some(fails_at);
        let error = ledger.drop_range("stream", last, "in the way").unwrap_err();
        assert!(error.to_string().contains("stream stream: read"), "{error}");
    }
    *watched.fails_at.lock().unwrap() = None;
    ledger.drop_range("stream", last, "in the way").unwrap();
    assert_eq!(ledger.latest().unwrap()[0].records_lost, 4);
}

#[test]
fn a_stream_that_cannot_be_read_is_not_added_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let watched = Watched::new(&stream);
    stream.store("s", 0..4);
    let named = |ledger: &Ledger| {
        let error = ledger.add_stream("stream", watched.clone()).unwrap_err();
        assert!(error.to_string().contains("stream stream: read"), "{error}");
    };
    let ledger = open_ledger(dir.path());
    *watched.fails_at.lock().unwrap() = Some(Lsn::ZERO);
    named(&ledger);
    *watched.fails_at.lock().unwrap() = None;
    ledger.add_stream("stream", watched.clone()).unwrap();
    ledger.allocate(&ALL).unwrap().expect("four records");
    *watched.fails_at.lock().unwrap() = Some(stream.receiver.log().flushed());
    named(&ledger);
}

#[test]
fn of_an_input_that_is_no_stream_there_is_nothing_to_drop() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open_ledger(dir.path());
    ledger.add_input("partitions", Arc::new(MemoryPartitions::new(Identity(7)))).unwrap();
    let told = ledger.drop_range("partitions", Lsn::new(1), "").unwrap_err().to_string();
    assert!(told.contains("partitions is no stream"), "{told}");
}

#[test]
fn blocks_that_say_nothing_are_looked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let watched = Watched::new(&stream);
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", watched.clone()).unwrap();
    for n in 0..10 {
        drop(stream.receiver.local_blocking(&format!("s{n}")).unwrap());
    }
    let asked = || {
        assert!(ledger.allocate(&ALL).unwrap().is_none());
        std::mem::take(&mut *watched.frames.lock().unwrap()).iter().map(LsnRange::frames).sum::<u64>()
    };
    assert!(asked() >= 10);
    assert_eq!(asked(), 0);
    drop(stream.receiver.local_blocking("one more").unwrap());
    assert_eq!(asked(), 1);
    // They are in the batch of those behind them all the same, and nothing is remembered beyond that.
    stream.store("s", 0..1);
    let batch = ledger.allocate(&ALL).unwrap().expect("a record");
    assert_eq!((batch.ranges()[0].from, records(&batch)), (1, numbered("s", 0..1)));
    watched.frames.lock().unwrap().clear();
    assert_eq!(asked(), 0);
}

/// A batch that holds one could not be read, and nothing of it could be dropped any more.
#[test]
fn blocks_that_say_nothing_are_looked_at_again_before_they_are_in_a_batch() {
    let bed = Bed::new();
    drop(bed.stream.receiver.local_blocking("silent").unwrap());
    let silent = bed.stream.receiver.log().flushed();
    assert!(bed.allocate().is_none());
    bed.stream.receiver.log().quarantine(LsnRange::inclusive(silent, silent)).unwrap();
    bed.stream.store("s", 0..1);
    let told = bed.ledger.allocate(&ALL);
    assert!(matches!(&told, Err(LedgerError::Unreadable { lsns, .. }) if lsns.contains(silent)), "{told:?}");
    bed.ledger.drop_range("stream", silent, "set aside").unwrap();
    assert_eq!(records(&bed.allocate().expect("the record behind it")), numbered("s", 0..1));
}
