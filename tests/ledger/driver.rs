//! What a driver does from day to day.

use seawall::ledger::{
    BatchLimits, BatchStatus, Identity, InputError, Latest, PartKey, Parts, Plan, Range, Replayable, ReplayedRecords,
    Share, SinkError,
};
use std::io::Write;
use std::sync::{Arc, Mutex};

use seawall::node::{
    DirectorySource, DirectorySourceConfig, Ledger, LedgerConfig, LedgerError, MemoryPartitions, Place,
};
use seawall::{BatchId, Config, InputId, Lsn, LsnRange};

use super::*;

#[test]
fn every_record_is_in_one_batch_with_its_address() {
    let bed = Bed::new();
    bed.stream.store("s", 0..5);
    let batch = bed.allocate().expect("something new");
    assert_eq!(records(&batch), numbered("s", 0..5));
    let all: Vec<_> = batch.read().unwrap().map(Result::unwrap).collect();
    assert_eq!(all[3].seq.get(), 4);
    assert!(matches!(all[3].place, Place::Stream { lsn, index: 0 } if lsn > Lsn::ZERO), "{:?}", all[3].place);
    assert!(all.iter().all(|record| record.time_micros > 0));
    assert!(bed.allocate().is_none(), "nothing new");
    bed.stream.store("s", 5..7);
    assert_eq!(records(&bed.allocate().expect("the rest")), numbered("s", 5..7));
    // Read again, also after it was committed: the same.
    bed.ledger.commit(batch.id(), "x").unwrap();
    assert_eq!(records(&batch), numbered("s", 0..5));
}

#[test]
fn records_are_lent_as_they_are_given() {
    let bed = Bed::new();
    let mut source = bed.stream.receiver.local_blocking("s").expect("a source");
    for block in 0..4 {
        let records: Vec<String> = (0..block * 3 + 1).map(|i| format!("{block}.{i}")).collect();
        source.store_blocking(&records).expect("stored");
    }
    drop(source);
    let partitions = MemoryPartitions::new(Identity(7));
    for record in ["a", "", "c"] {
        partitions.append(0, record);
    }
    bed.ledger.add_input("partitions", Arc::new(partitions)).unwrap();
    let batch = bed.allocate().expect("something new");
    let given: Vec<_> = batch.read().unwrap().map(Result::unwrap).collect();
    assert_eq!(given.len(), 22 + 3);
    let mut lent = Vec::new();
    let mut records = batch.read().unwrap();
    while let Some(record) = records.lend().unwrap() {
        let kept = record.to_record();
        assert_eq!(
            (record.record, record.source, record.place()),
            (&kept.record[..], kept.source.as_ref(), kept.place.clone())
        );
        lent.push(kept);
    }
    assert_eq!(lent, given);
    assert!(records.lend().unwrap().is_none() && records.next().is_none(), "the end is the end");
    // Both ways of one reader go on where the other stood.
    let mut records = batch.read().unwrap();
    assert_eq!(records.lend().unwrap().unwrap().to_record(), given[0]);
    assert_eq!(records.next().unwrap().unwrap(), given[1]);
}

/// Behind an error nothing looks like the batch's end.
#[test]
fn a_reader_that_has_failed_does_not_come_to_an_end() {
    let bed = Bed::new();
    bed.stream.store("s", 0..3);
    let batch = bed.allocate().expect("something new");
    let last = Lsn::new(batch.ranges()[0].to).previous();
    let second = last.previous();
    bed.stream.receiver.log().quarantine(LsnRange::inclusive(second, second)).unwrap();
    let mut lent = batch.read().unwrap();
    assert_eq!(lent.lend().unwrap().expect("the first one").record, b"0");
    assert!(
        matches!(lent.lend(), Err(error) if error.to_string().contains(&format!("stream stream: frames {second}..{last}")))
    );
    assert!(matches!(lent.lend(), Err(LedgerError::ReadFailed)));
    assert!(lent.next().is_none(), "an iterator ends after its error");
    let given: Vec<bool> = batch.read().unwrap().map(|record| record.is_ok()).collect();
    assert_eq!(given, [true, false]);
}

#[test]
fn limits_hold_and_one_block_is_always_taken() {
    let bed = Bed::new();
    bed.stream.store("s", 0..10);
    let limited = |limits: BatchLimits| {
        let batch = bed.ledger.allocate(&limits).unwrap().expect("something");
        records(&batch).len()
    };
    assert_eq!(limited(BatchLimits { records_max: 3, ..ALL }), 3);
    assert_eq!(limited(BatchLimits { bytes_max: 1, ..ALL }), 1);
    assert_eq!(limited(BatchLimits { records_max: 0, ..ALL }), 1);
    assert_eq!(limited(ALL), 5);
    let empty = bed.ledger.allocate(&BatchLimits { allow_empty: true, ..ALL }).unwrap().expect("an empty one");
    assert_eq!((records(&empty).len(), empty.ranges().len()), (0, 0));
}

#[test]
fn an_empty_batch_costs_two_durable_appends() {
    let bed = Bed::new();
    let before = bed.ledger.events_written();
    let empty = bed.ledger.allocate(&BatchLimits { allow_empty: true, ..ALL }).unwrap().expect("an empty one");
    bed.ledger.commit(empty.id(), "").unwrap();
    assert_eq!(bed.ledger.events_written() - before, 2);
}

#[test]
fn inputs_share_a_batch_and_none_starves() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Stream::open(dir.path(), "a"), Stream::open(dir.path(), "b"));
    let ledger = open_ledger(dir.path());
    for stream in [&a, &b] {
        ledger.add_stream(&stream.name, stream.receiver.clone()).unwrap();
    }
    a.store("a", 0..30);
    b.store("b", 0..30);
    let mut found = Vec::new();
    for _ in 0..6 {
        let batch = ledger.allocate(&BatchLimits { records_max: 10, ..ALL }).unwrap().expect("more");
        let of_batch = records(&batch);
        assert_eq!(of_batch.len(), 10);
        assert_eq!(of_batch.iter().filter(|r| r.starts_with('a')).count(), 5);
        found.extend(of_batch);
    }
    assert!(ledger.allocate(&ALL).unwrap().is_none());
    // A limit below one piece each: they take turns.
    a.store("a", 30..33);
    b.store("b", 30..33);
    let firsts: Vec<String> = (0..6)
        .map(|_| {
            let batch = ledger.allocate(&BatchLimits { records_max: 1, ..ALL }).unwrap().expect("more");
            records(&batch).remove(0)
        })
        .collect();
    let of_a = firsts.iter().take(4).filter(|r| r.starts_with('a')).count();
    assert_eq!(of_a, 2, "{firsts:?}");
    found.extend(firsts);
    found.sort();
    let mut expected = [numbered("a", 0..33), numbered("b", 0..33)].concat();
    expected.sort();
    assert_eq!(found, expected);
    // What one leaves the other takes.
    a.store("a", 33..53);
    let batch = ledger.allocate(&BatchLimits { records_max: 15, ..ALL }).unwrap().expect("more");
    assert_eq!((records(&batch).len(), batch.ranges().len()), (15, 1));
}

#[test]
fn commits_are_said_once_and_never_taken_back() {
    let bed = Bed::new();
    bed.stream.store("s", 0..2);
    let batch = bed.allocate().unwrap();
    bed.ledger.commit(batch.id(), "one").unwrap();
    bed.ledger.commit(batch.id(), "one").unwrap();
    assert!(matches!(bed.ledger.commit(batch.id(), "two"), Err(LedgerError::Settled { .. })));
    let never = |_| -> Result<(), SinkError> { panic!("not asked") };
    assert!(matches!(bed.ledger.abandon(batch.id(), "no", never), Err(LedgerError::Settled { .. })));
    assert!(matches!(bed.ledger.commit(BatchId::new(9), "x"), Err(LedgerError::NotPending { .. })));
}

#[test]
fn what_is_abandoned_is_fenced_first_and_comes_in_no_batch() {
    let bed = Bed::new();
    bed.stream.store("s", 0..2);
    let batch = bed.allocate().unwrap();
    let refused = SinkError::AlreadyStored { sink: "test".into(), key: batch.key() };
    let error = bed.ledger.abandon(batch.id(), "poison", |_| Err(refused)).unwrap_err();
    assert!(matches!(error, LedgerError::Sink { .. }), "{error}");
    assert_eq!(bed.ledger.pending().len(), 1);
    let mut fenced = None;
    bed.ledger
        .abandon(batch.id(), "poison", |key| {
            fenced = Some(key);
            Ok(())
        })
        .unwrap();
    assert_eq!(fenced, Some(batch.key()));
    bed.stream.store("s", 2..3);
    let id = batch.id();
    drop(batch);
    let bed = bed.restart();
    assert!(bed.ledger.pending().is_empty());
    assert_eq!(records(&bed.allocate().unwrap()), numbered("s", 2..3));
    let lost = bed.ledger.with_state(|state| state.inputs().map(|(_, input)| input.records_lost).sum::<u64>());
    assert_eq!(lost, 2);
    assert!(matches!(bed.ledger.commit(id, "late"), Err(LedgerError::Settled { .. })));
}

#[test]
fn sources_that_wait_for_committed_are_told() {
    let bed = Bed::new();
    bed.stream.store("s", 0..3);
    let committed = || bed.stream.receiver.sources().first().map(|source| source.committed.get());
    let batch = bed.allocate().unwrap();
    assert_eq!(committed(), Some(0));
    bed.ledger.commit(batch.id(), "").unwrap();
    assert_eq!(committed(), Some(3));
}

#[test]
fn too_many_pending_batches_are_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let ledger = open_ledger_with(dir.path(), LedgerConfig { pending_batches_max: 2, ..LedgerConfig::default() });
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    for i in 0..3 {
        stream.store("s", i..i + 1);
        match ledger.allocate(&ALL) {
            Ok(batch) => assert!(i < 2 && batch.is_some()),
            Err(error) => assert!(i == 2 && matches!(error, LedgerError::TooManyPending { limit: 2, .. }), "{error}"),
        }
    }
    ledger.commit(BatchId::new(1), "").unwrap();
    assert_eq!(records(&ledger.allocate(&ALL).unwrap().unwrap()), numbered("s", 2..3));
}

#[test]
fn a_ledger_is_seen_beside_its_driver() {
    let bed = Bed::new();
    bed.stream.store("s", 0..4);
    let one = bed.allocate().unwrap();
    bed.stream.store("s", 4..5);
    bed.allocate().unwrap();
    bed.ledger.commit(one.id(), "token").unwrap();
    let config = Config { recovery: seawall::RecoveryMode::ReadOnly, create: false, ..Config::default() };
    let open = || seawall::Log::open(bed.dir.path().join("ledger"), config.clone()).unwrap().0;
    let mut log = open();
    // What was flushed last is told to readers beside the writer with the next group, or when the log has been idle a while.
    let began = Instant::now();
    let view = loop {
        let view = seawall::node::read_ledger(&log).unwrap();
        if view.state.settled() == one.id() || began.elapsed() > Duration::from_secs(30) {
            break view;
        }
        std::thread::sleep(Duration::from_millis(20));
        log = open();
    };
    assert_eq!((view.state.settled().get(), view.state.allocated().get()), (1, 2));
    assert_eq!(view.state.batches().map(|(id, batch)| (id.get(), batch.records())).collect::<Vec<_>>(), [(2, 1)]);
    let settled: Vec<_> = view.state.recent().collect();
    assert!(
        matches!(&settled[..], [one] if one.records == 4 && matches!(&one.status, BatchStatus::Committed { token, .. } if token == "token"))
    );
    // Also what is written when nothing new comes.
    assert!(bed.allocate().is_none());
    let began = Instant::now();
    while seawall::node::read_ledger(&open()).unwrap().state.inputs().all(|(_, input)| input.trimmed == 0) {
        assert!(began.elapsed() < Duration::from_secs(30), "it is never shown");
        std::thread::sleep(Duration::from_millis(20));
    }
    let latest = bed.ledger.latest().unwrap();
    assert_eq!((latest[0].records_allocated, latest[0].records_settled), (5, 4));
}

#[test]
fn a_panic_in_the_engine_leaves_the_batch_pending() {
    let bed = Bed::new();
    bed.stream.store("s", 0..2);
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let batch = bed.allocate().unwrap();
        records(&batch).into_iter().for_each(|record| assert_ne!(record, "s:1", "the engine fails"));
        bed.ledger.commit(batch.id(), "").unwrap();
    }));
    assert!(ran.is_err());
    let pending = bed.ledger.pending();
    assert_eq!(pending.iter().map(records).collect::<Vec<_>>(), [numbered("s", 0..2)]);
    bed.ledger.commit(pending[0].id(), "").unwrap();
}

#[test]
fn configurations_that_make_no_sense_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = [
        LedgerConfig { pending_batches_max: 0, ..LedgerConfig::default() },
        LedgerConfig { checkpoint_interval_bytes: 1, ..LedgerConfig::default() },
        LedgerConfig { batch_interval: Duration::ZERO, ..LedgerConfig::default() },
        LedgerConfig { record_bytes_first: 0, ..LedgerConfig::default() },
    ];
    for config in wrong {
        let log = reopen(&dir.path().join("ledger"), Config::default());
        assert!(matches!(Ledger::open(log, config), Err(LedgerError::Config { .. })));
    }
}

#[test]
fn a_file_that_grows_while_it_is_looked_at_was_not_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("a");
    std::fs::write(&path, "1\n").unwrap();
    let ledger = open_ledger(dir.path());
    let meanwhile: Arc<Mutex<Option<Ledger>>> = Arc::default();
    let beside = Arc::clone(&meanwhile);
    let source = DirectorySource::open(files.path(), DirectorySourceConfig::default()).unwrap().filtered(move |_| {
        // After its size was seen, once.
        let ledger = beside.lock().unwrap().take();
        if let Some(ledger) = ledger {
            std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"2\n").unwrap();
            assert_eq!(ledger.allocate(&ALL).unwrap().expect("the new line").records(), 1);
        }
        true
    });
    ledger.add_input("files", Arc::new(source)).unwrap();
    ledger.allocate(&ALL).unwrap().expect("the first line");
    *meanwhile.lock().unwrap() = Some(ledger.clone());
    let status = ledger.latest().expect("nothing was shortened");
    assert!(meanwhile.lock().unwrap().is_none(), "a batch was allocated during the look");
    assert_eq!(status[0].latest.unwrap().bytes, 0, "all of it is in batches");
}

#[test]
fn one_stream_is_one_input_and_goes_on_where_it_was_removed() {
    let bed = Bed::new();
    bed.stream.store("s", 0..3);
    let error = bed.ledger.add_stream("again", bed.stream.receiver.clone()).unwrap_err();
    assert!(error.to_string().contains("under another name"), "{error}");
    let batch = bed.allocate().unwrap();
    assert!(bed.ledger.remove_input("stream").is_err(), "its batch is pending");
    bed.ledger.commit(batch.id(), "").unwrap();
    bed.ledger.remove_input("stream").unwrap();
    bed.stream.store("s", 3..5);
    assert!(bed.allocate().is_none());
    bed.ledger.checkpoint().unwrap();
    drop(batch);
    let Bed { dir, stream, ledger } = bed;
    drop(ledger);
    let ledger = open_ledger(dir.path());
    assert!(ledger.with_state(|state| state.inputs().all(|(_, input)| input.is_removed)));
    assert!(ledger.add_stream("again", stream.receiver.clone()).is_err());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    assert_eq!(records(&ledger.allocate(&ALL).unwrap().unwrap()), numbered("s", 3..5));
}

#[test]
fn texts_are_as_long_as_they_are_written_down() {
    let bed = Bed::new();
    let second = Stream::open(bed.dir.path(), "second");
    assert!(bed.ledger.add_stream(&"n".repeat(1100), second.receiver.clone()).is_err());
    bed.stream.store("s", 0..2);
    let batch = bed.allocate().unwrap().id();
    bed.ledger.abandon(batch, &"because ".repeat(400), |_| Ok(())).unwrap();
    // A checkpoint, and the events before it still there: both must say the same.
    bed.ledger.with_log(|log| {
        for event in bed.ledger.with_state(|state| state.checkpoint(1 << 16)) {
            let envelope = seawall::ledger::Envelope { ballot: bed.ledger.ballot(), time_micros: 0, event };
            log.append(&envelope.encode()).unwrap().wait().unwrap();
        }
    });
    let bed = bed.restart();
    assert!(bed.ledger.pending().is_empty());
}

/// An input that only plans, what it is told to, and has nothing to read.
pub(super) struct Plans(pub(super) fn(&dyn Parts) -> Plan);

impl Replayable for Plans {
    fn identity(&self) -> Result<Identity, InputError> {
        Ok(Identity(77))
    }
    fn latest(&self, _: &dyn Parts) -> Result<Latest, InputError> {
        Ok(Latest::default())
    }
    fn plan(&self, known: &dyn Parts, _: Share) -> Result<Plan, InputError> {
        Ok(self.0(known))
    }
    fn read(&self, _: &Range) -> Result<ReplayedRecords, InputError> {
        Ok(Box::new(std::iter::empty()))
    }
}

/// One unit of a part, from `from` on.
fn unit(part: PartKey, opens: bool, from: u64) -> Range {
    let opens = opens.then(|| bytes::Bytes::from_static(b"part"));
    Range { input: InputId::default(), part, opens, from, to: from + 1, digest: 1, records: 0, bytes: 0 }
}

/// Says that a part is gone, and plans it.
fn contrary(known: &dyn Parts) -> Plan {
    let part = PartKey::default();
    let from = known.get(&part).map(|part| part.allocated);
    let range = unit(part.clone(), from.is_none(), from.unwrap_or(0));
    Plan { ranges: vec![range], gone: vec![part], has_more: false }
}

/// Plans more ranges than it may, and than an event has room for.
pub(super) fn greedy(_: &dyn Parts) -> Plan {
    let range = |part: u32| unit(PartKey::new(part.to_le_bytes().to_vec()).unwrap(), true, 0);
    Plan { ranges: (0..1000).map(range).collect(), gone: Vec::new(), has_more: false }
}

#[test]
fn a_part_that_is_planned_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..3 {
        let ledger = open_ledger(dir.path());
        ledger.add_input("contrary", Arc::new(Plans(contrary))).unwrap();
        for round in 0..3 {
            let batch = ledger.allocate(&ALL).unwrap().expect("a range");
            assert_eq!(batch.ranges()[0].from, life * 3 + round);
            ledger.commit(batch.id(), "").unwrap();
        }
    }
}

#[test]
fn a_batch_is_no_longer_than_an_event_of_the_ledger_s_log() {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    for i in 0..300 {
        std::fs::write(files.path().join(format!("{i:0>100}")), "1\n").unwrap();
    }
    let config = Config { record_bytes_max: 16 << 10, ..small_log() };
    let log = |config| reopen(&dir.path().join("ledger"), config);
    let (ledger, _) = Ledger::open(log(config.clone()), LedgerConfig::default()).unwrap();
    let source = DirectorySource::open(files.path(), DirectorySourceConfig::default()).unwrap();
    ledger.add_input("files", Arc::new(source)).unwrap();
    let mut taken = 0;
    while let Some(batch) = ledger.allocate(&BatchLimits::default()).unwrap() {
        taken += batch.records();
    }
    assert_eq!(taken, 300);
    drop(ledger);
    // Where one range may not fit, nobody's limits help.
    let refused = Ledger::open(log(Config { record_bytes_max: 1024, ..config }), LedgerConfig::default());
    assert!(matches!(&refused, Err(LedgerError::Config { field: "record_bytes_max", .. })), "{refused:?}");
}
