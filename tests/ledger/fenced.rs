//! Two drivers, other ledgers, other streams: who is refused.

use seawall::node::{Ledger, LedgerError};
use seawall::receiver::PidConfig;
use seawall::{Config, Error, Log, Lsn};

use super::*;

#[test]
fn a_driver_that_was_taken_over_from_neither_allocates_nor_settles_nor_trims() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let (old, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    old.add_stream("stream", stream.receiver.clone()).unwrap();
    stream.store("s", 0..3);
    let batch = old.allocate(&ALL).unwrap().unwrap();
    let (new, opened) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    assert_eq!(opened.pending, 1);
    assert!(new.ballot() > old.ballot());
    let events = log.flushed();
    // Nor is the output asked to refuse what the other driver may be about to store.
    let abandoned = old.abandon(batch.id(), "x", |_| panic!("the output is fenced"));
    for refused in [abandoned, old.allocate(&ALL).map(drop), old.commit(batch.id(), "x"), old.checkpoint()] {
        let error = refused.unwrap_err();
        assert!(matches!(error, LedgerError::Fenced { .. }), "{error}");
    }
    assert_eq!(log.flushed(), events, "nothing was written");
    stream.store("s", 3..4);
    new.add_stream("stream", stream.receiver.clone()).unwrap();
    assert_eq!(new.pending().len(), 1);
    new.commit(batch.id(), "y").unwrap();
    assert_eq!(records(&new.allocate(&ALL).unwrap().unwrap()), numbered("s", 3..4));
    // The stream obeys the new one only.
    let port: &dyn seawall::node::StreamPort = &stream.receiver;
    assert!(port.trim(old.ballot(), Lsn::new(1)).unwrap_err().to_string().contains("fenced"));
    assert!(port.set_rate(old.ballot(), None).is_err());
    assert!(port.committed(old.ballot(), Lsn::new(1)).is_err());
    assert!(port.set_rate(new.ballot(), None).is_ok());
}

/// Nobody lifted it: streams do not obey the driver that had set it any more, and the next one knows nothing of it.
#[test]
fn a_rate_ends_with_the_driver_that_set_it() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let mut source = stream.receiver.local_blocking("s").unwrap();
    let watch = stream.receiver.connect().unwrap();
    let slow = PidConfig { records_per_second_first: 1.0, records_per_second_min: 1.0, ..PidConfig::default() };
    let (old, _) =
        Ledger::open(log.clone(), LedgerConfig { rate: Some(slow), record_bytes_first: 1, ..LedgerConfig::default() })
            .unwrap();
    old.add_stream("stream", stream.receiver.clone()).unwrap();
    // It opens again in hours.
    source.store_blocking(&[[7; 10_000]]).unwrap();
    let waits = std::thread::spawn(move || source.store_blocking(&["waits"]).map(|_| source));
    until("it waits", || watch.is_contended());
    let (new, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    assert!(watch.is_contended(), "the stream obeys the old one");
    new.add_stream("stream", stream.receiver.clone()).unwrap();
    assert!(!watch.is_contended());
    let mut source = waits.join().unwrap().unwrap();
    // A limit that was set by somebody else is not a driver's to lift.
    stream.receiver.set_rate(Some(1.0));
    source.store_blocking(&[[7; 10_000]]).unwrap();
    let waits = std::thread::spawn(move || source.store_blocking(&["waits"]));
    until("it waits", || watch.is_contended());
    let (third, _) = Ledger::open(log, LedgerConfig::default()).unwrap();
    third.add_stream("stream", stream.receiver.clone()).unwrap();
    assert!(watch.is_contended());
    stream.receiver.set_rate(None);
    waits.join().unwrap().unwrap();
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_fenced_driver_still_wrote_does_not_count() {
    use seawall::ledger::{Envelope, Event};
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let (old, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    let (new, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    // As if its append had been under way when the new one began.
    let event = Event::BatchAllocated { batch: seawall::BatchId::new(1), ranges: Vec::new() };
    let late = Envelope { ballot: old.ballot(), time_micros: 0, event };
    log.append(&late.encode()).unwrap().wait().unwrap();
    drop((old, new));
    let (third, opened) = Ledger::open(log, LedgerConfig::default()).unwrap();
    assert_eq!((opened.fenced_events, opened.pending), (1, 0));
    assert_eq!(third.with_state(|state| state.allocated().get()), 0);
}

#[test]
fn a_stream_has_one_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let (other, _) =
        Ledger::open(reopen(&dir.path().join("other"), Config::default()), LedgerConfig::default()).unwrap();
    let error = other.add_stream("stream", stream.receiver.clone()).unwrap_err();
    let LedgerError::Stream { name, source: Error::OtherLedger { .. } } = &error else { panic!("{error}") };
    assert_eq!(name, "stream");
    // Nor is another stream taken for it.
    let second = Stream::open(dir.path(), "second");
    let error = ledger.add_stream("stream", second.receiver.clone()).unwrap_err();
    assert!(matches!(error, LedgerError::OtherInput { .. }), "{error}");
}

#[test]
fn a_stream_that_is_not_what_was_allocated_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    stream.store("s", 0..4);
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let allocated = ledger.allocate(&ALL).unwrap().unwrap().ranges()[0].to;
    drop(ledger);
    stream.close();
    // Shorter.
    let log = reopen(&dir.path().join("stream"), small_log());
    let end = log.flushed();
    log.truncate(end.previous()).unwrap();
    log.close(Duration::from_secs(5)).unwrap();
    let refused = |what: &str| {
        let stream = Stream::open(dir.path(), "stream");
        let ledger = open_ledger(dir.path());
        let error = ledger.add_stream("stream", stream.receiver.clone()).unwrap_err();
        assert!(matches!(&error, LedgerError::StreamDamaged { .. }) && error.to_string().contains(what), "{error}");
        assert!(matches!(ledger.pending()[0].read(), Err(LedgerError::NotAttached { .. })));
        drop(ledger);
        stream.close();
    };
    refused("it ends at frame");
    // As long as before, with another content.
    let stream = Stream::open(dir.path(), "stream");
    stream.store("other", 0..1);
    stream.close();
    refused("was allocated");
    // Trimmed beyond what was allocated.
    let stream = Stream::open(dir.path(), "stream");
    stream.store("s", 4..9);
    let last = stream.receiver.log().flushed();
    assert!(last > Lsn::new(allocated));
    stream.receiver.log().trim(last.previous()).unwrap();
    let ledger = open_ledger(dir.path());
    let error = ledger.add_stream("stream", stream.receiver.clone()).unwrap_err();
    assert!(error.to_string().contains("it was trimmed"), "{error}");
}

#[test]
fn a_log_of_something_else_is_no_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
    log.append(b"not an event").unwrap().wait().unwrap();
    let error = Ledger::open(log.clone(), LedgerConfig::default()).unwrap_err();
    assert!(matches!(error, LedgerError::Replay { .. }), "{error}");
    assert_eq!((log.promised(), log.flushed()), (None, Lsn::new(1)), "nothing was changed");
}

#[test]
fn a_ledger_whose_events_were_given_up_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let (ledger, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    drop(ledger);
    log.trim(log.flushed()).unwrap();
    let error = Ledger::open(log, LedgerConfig::default()).unwrap_err();
    assert!(matches!(error, LedgerError::Replay { .. }), "{error}");
}

#[test]
fn two_drivers_that_find_a_ledger_empty_have_the_same_one() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let log = reopen(&dir.path().join("ledger"), Config::default());
        let open = |log: Log| std::thread::spawn(move || Ledger::open(log, LedgerConfig::default()).ok());
        let both = [open(log.clone()), open(log.clone())].map(|thread| thread.join().unwrap());
        assert!(both.iter().any(Option::is_some));
        drop(both);
        Ledger::open(log, LedgerConfig::default()).expect("whoever came last, it opens");
    }
}

#[test]
fn a_ledger_that_cannot_be_read_whole_does_not_open() {
    let bed = Bed::new();
    bed.stream.store("s", 0..3);
    bed.allocate().unwrap();
    let Bed { dir, stream, ledger } = bed;
    drop(ledger);
    let log = reopen(&dir.path().join("ledger"), Config::default());
    log.quarantine(seawall::LsnRange::inclusive(Lsn::new(2), Lsn::new(2))).unwrap();
    let error = Ledger::open(log, LedgerConfig::default()).unwrap_err();
    assert!(matches!(error, LedgerError::Replay { .. }), "{error}");
    assert!(error.to_string().contains("frames 2..3") && error.to_string().contains("restore it"), "{error}");
    stream.close();
}

#[test]
fn a_takeover_succeeds_beside_a_driver_that_writes_and_trims() {
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let mut driver = Ledger::open(log.clone(), LedgerConfig::default()).unwrap().0;
    let mut committed = 0;
    for _ in 0..20 {
        let busy = std::thread::spawn(move || {
            let mut committed = 0;
            let empty = BatchLimits { allow_empty: true, ..ALL };
            while let Ok(Some(batch)) = driver.allocate(&empty) {
                if driver.commit(batch.id(), "").is_err() {
                    break;
                }
                committed += 1;
                if driver.checkpoint().is_err() {
                    break;
                }
            }
            committed
        });
        std::thread::sleep(Duration::from_millis(5));
        let (next, _) = Ledger::open(log.clone(), LedgerConfig::default()).expect("it takes over");
        committed += busy.join().unwrap();
        let settled = next.with_state(|state| state.settled().get());
        assert!(settled >= committed, "{settled} are settled, {committed} were told to be");
        for batch in next.pending() {
            next.commit(batch.id(), "").unwrap();
        }
        committed = next.with_state(|state| state.settled().get());
        driver = next;
    }
}

#[test]
fn a_driver_that_is_fenced_at_its_checkpoint_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let (old, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    Ledger::open(log, LedgerConfig::default()).unwrap();
    // To open again what was taken over from is to fence who took over.
    for _ in 0..2 {
        assert!(matches!(old.checkpoint(), Err(LedgerError::Fenced { .. })));
    }
}

/// A ledger there would have the name of the one that the stream belongs to: outputs would take its batches for that one's.
#[test]
fn a_stream_that_is_claimed_is_no_place_for_a_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let owner = ledger.id();
    drop(ledger);
    stream.close();
    let log = reopen(&dir.path().join("stream"), small_log());
    assert_eq!(log.flushed(), Lsn::ZERO, "no source has written");
    let error = Ledger::open(log.clone(), LedgerConfig::default()).unwrap_err();
    assert!(error.to_string().contains(&format!("a stream of ledger {owner}")), "{error}");
    assert_eq!(log.flushed(), Lsn::ZERO, "nothing was changed");
}

#[test]
fn a_ledger_that_ended_before_it_wrote_its_beginning_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let log = reopen(dir.path(), Config::default());
    let (ledger, _) = Ledger::open(log.clone(), LedgerConfig::default()).unwrap();
    let id = ledger.id();
    drop(ledger);
    log.truncate(Lsn::ZERO).unwrap();
    let (ledger, opened) = Ledger::open(log, LedgerConfig::default()).unwrap();
    assert!(opened.created && ledger.id() == id);
}
