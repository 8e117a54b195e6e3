//! The cases that Spark's tracker of received blocks is tested with, and those in which it lost or doubled data.

use seawall::ledger::BatchLimits;
use seawall::node::LedgerError;
use seawall::{BatchId, Config, Error, Lsn, WhenFull};

use super::*;

#[test]
fn a_hundred_thousand_blocks_in_one_batch() {
    let bed = Bed::new();
    // Blocks are frames; they are written here without the sessions that would make them.
    let block = one_record_block();
    let payloads: Vec<_> = (0..100_000).map(|_| block.clone()).collect();
    for chunk in payloads.chunks(1000) {
        bed.stream.receiver.log().append_many(chunk).unwrap().wait().unwrap();
    }
    let bed = bed.restart();
    let batch = bed.allocate().expect("all of them");
    assert_eq!((batch.ranges().len(), batch.records()), (1, 100_000));
    assert_eq!(batch.read().unwrap().map(Result::unwrap).count(), 100_000);
    let id = batch.id();
    drop(batch);
    let bed = bed.restart();
    assert_eq!(bed.ledger.pending()[0].records(), 100_000);
    bed.ledger.commit(id, "").unwrap();
    assert!(bed.allocate().is_none());
}

fn one_record_block() -> bytes::Bytes {
    use seawall::receiver::{Block, PayloadBuilder, Range, RangeKind, Sequences};
    use seawall::{Seq, SourceEpoch};
    let mut payload = PayloadBuilder::new(Sequences::None, Seq::ZERO);
    payload.push(Seq::new(1), b"r").unwrap();
    let built = payload.finish();
    let range = Range {
        kind: RangeKind::Records,
        source: None,
        epoch: SourceEpoch::new(0),
        sequences: Sequences::None,
        records: 1,
        previous: Seq::ZERO,
        last: Seq::new(1),
    };
    Block { replay_from: Lsn::ZERO, ranges: vec![(range, built.payload.into_bytes())] }.encode()
}

#[test]
fn spark_23991_an_allocation_that_fails_to_log_keeps_the_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open(dir.path(), "stream");
    let config = Config { record_bytes_max: 16 << 10, when_full: WhenFull::Reject, ..Config::default() };
    let (ledger, _) = Ledger::open(reopen(&dir.path().join("ledger"), config), LedgerConfig::default()).unwrap();
    let second = Stream::open(dir.path(), "second");
    for stream in [&stream, &second] {
        ledger.add_stream(&stream.name, stream.receiver.clone()).unwrap();
        stream.store("s", 0..3);
    }
    // An input that plans more than it may: the event is too long for a frame.
    ledger.add_input("greedy", std::sync::Arc::new(super::driver::Plans(super::driver::greedy))).unwrap();
    let error = ledger.allocate(&ALL).unwrap_err();
    assert!(matches!(error, LedgerError::Log(Error::RecordTooLarge { .. })), "{error}");
    assert!(ledger.pending().is_empty());
    ledger.remove_input("greedy").unwrap();
    let one = BatchLimits { ranges_max: 1, ..ALL };
    let mut found = Vec::new();
    while let Some(batch) = ledger.allocate(&one).unwrap() {
        found.extend(records(&batch));
    }
    assert_eq!(found, [numbered("s", 0..3), numbered("s", 0..3)].concat());
}

#[test]
fn spark_23438_a_replay_keeps_what_is_not_allocated() {
    let bed = Bed::new();
    bed.stream.store("s", 0..3);
    let first = bed.allocate().unwrap().id();
    bed.stream.store("s", 3..8);
    let bed = bed.restart();
    assert_eq!(bed.ledger.pending().iter().map(|batch| batch.id()).collect::<Vec<_>>(), [first]);
    assert_eq!(records(&bed.allocate().unwrap()), numbered("s", 3..8));
}

#[test]
fn cleanup_is_logged_before_deletion_and_old_files_that_reappear_are_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    let mut source = stream.receiver.local_blocking("s").unwrap();
    let first_segment = || {
        std::fs::read_dir(dir.path().join("stream"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "seg"))
            .min()
            .unwrap()
    };
    let (oldest, copy) = (first_segment(), std::fs::read(first_segment()).unwrap());
    for i in 0..60 {
        source.store_blocking(&[vec![b'x'; 20_000], format!("{i}").into_bytes()]).unwrap();
        let batch = ledger.allocate(&ALL).unwrap().unwrap();
        ledger.commit(batch.id(), "").unwrap();
        // Whatever is gone is in the ledger as trimmed, durable.
        let (trimmed, gone) = (ledger.with_state(trimmed), stream.receiver.log().first().previous().get());
        assert!(gone <= trimmed, "{gone} are gone, the ledger says {trimmed}");
    }
    assert!(stream.receiver.log().first() > Lsn::new(20) && !oldest.exists());
    drop((source, ledger));
    stream.close();
    std::fs::write(&oldest, copy).unwrap();
    let stream = Stream::open_with(dir.path(), "stream", small_log());
    let ledger = open_ledger(dir.path());
    ledger.add_stream("stream", stream.receiver.clone()).unwrap();
    assert!(ledger.allocate(&ALL).unwrap().is_none(), "nothing old comes again");
}

fn trimmed(state: &seawall::ledger::State) -> u64 {
    state.inputs().next().expect("the stream").1.trimmed
}

#[test]
fn add_allocate_and_clean_across_four_restarts() {
    let mut bed = Bed::new();
    let mut expected = 0;
    for life in 0..4u64 {
        bed.stream.store("s", expected..expected + 10);
        let one = bed.ledger.allocate(&BatchLimits { records_max: 6, ..ALL }).unwrap().unwrap();
        assert_eq!(one.id(), BatchId::new(2 * life + 1));
        assert_eq!(records(&one), numbered("s", expected..expected + 6));
        let first = one.id();
        drop(one);
        bed = bed.restart();
        // Pending, with the content it had.
        let pending = bed.ledger.pending();
        assert_eq!(pending.iter().map(records).collect::<Vec<_>>(), [numbered("s", expected..expected + 6)]);
        let two = bed.allocate().unwrap();
        assert_eq!(records(&two), numbered("s", expected + 6..expected + 10));
        let second = two.id();
        drop((pending, two));
        bed.ledger.commit(first, "").unwrap();
        bed.ledger.commit(second, "").unwrap();
        bed = bed.restart();
        assert!(bed.ledger.pending().is_empty() && bed.allocate().is_none());
        expected += 10;
    }
}

#[test]
fn spark_6222_an_unfinished_batch_is_kept_while_later_ones_complete() {
    let mut bed = Bed::new();
    let mut batches = Vec::new();
    for i in 0..4 {
        bed.stream.store("s", i..i + 1);
        batches.push(bed.allocate().unwrap().id());
    }
    for batch in &batches[1..] {
        bed.ledger.commit(*batch, "").unwrap();
    }
    for _ in 0..2 {
        // Nothing of the first, nor of what comes after it, may go: committed is the gap-free prefix.
        let committed = bed.stream.receiver.sources()[0].committed;
        assert_eq!((bed.ledger.with_state(trimmed), committed.get()), (0, 0));
        let pending = bed.ledger.pending();
        assert_eq!(pending.iter().map(records).collect::<Vec<_>>(), [numbered("s", 0..1)]);
        drop(pending);
        bed = bed.restart();
    }
    bed.ledger.checkpoint().unwrap();
    bed = bed.restart();
    assert_eq!(bed.ledger.pending().len(), 1);
    bed.ledger.commit(batches[0], "").unwrap();
    assert_eq!(bed.ledger.with_state(|state| state.settled()), batches[3]);
    assert_eq!(bed.stream.receiver.sources()[0].committed.get(), 4);
}

#[test]
fn spark_19347_a_retried_add_is_not_a_duplicate() {
    use seawall::Seq;
    let bed = Bed::new();
    let records_of = |from: u64| (from..from + 3).map(|i| (Seq::new(i), format!("{i}"))).collect::<Vec<_>>();
    block_on(bed.stream.receiver.local_blocking("s").unwrap().store_at(&records_of(1))).unwrap();
    // A source that does not know what became of its records is told, and what it repeats all the same is not taken.
    let mut source = bed.stream.receiver.local_blocking("s").unwrap();
    assert_eq!(source.resume(), Seq::new(3));
    assert!(block_on(source.store_at(&records_of(2))).is_err());
    block_on(bed.stream.receiver.local_blocking("s").unwrap().store_at(&records_of(4))).unwrap();
    let all: Vec<String> = std::iter::from_fn(|| bed.allocate()).flat_map(|batch| records(&batch)).collect();
    assert_eq!(all, numbered("s", 1..7));
}

/// Runs a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let thread = std::thread::current();
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(thread)));
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(out) => return out,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn spark_21525_a_failed_add_is_an_error_to_the_receiver() {
    let bed = Bed::new();
    let mut source = bed.stream.receiver.local_blocking("s").unwrap();
    for i in 0..3 {
        source.store_blocking(&[format!("{i}")]).unwrap();
    }
    // The log goes away under it.
    bed.stream.receiver.log().clone().close(Duration::from_secs(5)).unwrap();
    assert!(source.store_blocking(&["3"]).is_err());
    drop(source);
    let Bed { dir, stream, ledger } = bed;
    drop((ledger, stream));
    // What was told to be stored is in a batch; what failed is not.
    let bed = Bed::on(dir);
    assert_eq!(records(&bed.allocate().unwrap()), numbered("s", 0..3));
}

#[test]
fn spark_11267_an_older_checkpoint_never_replaces_a_newer_one() {
    let bed = Bed::new();
    bed.stream.store("s", 0..1);
    let batch = bed.allocate().unwrap().id();
    bed.ledger.checkpoint().unwrap();
    bed.ledger.commit(batch, "").unwrap();
    // What was true then, written after what is true now, is damage: it is never believed.
    let old = bed.ledger.with_state(Clone::clone);
    bed.stream.store("s", 1..2);
    bed.allocate().unwrap();
    bed.ledger.with_log(|log| {
        for event in old.checkpoint(1 << 16) {
            let envelope = seawall::ledger::Envelope { ballot: bed.ledger.ballot(), time_micros: 0, event };
            log.append(&envelope.encode()).unwrap().wait().unwrap();
        }
    });
    let Bed { dir, stream, ledger } = bed;
    drop(ledger);
    let log = reopen(&dir.path().join("ledger"), Config::default());
    let error = Ledger::open(log, LedgerConfig::default()).unwrap_err();
    assert!(error.to_string().contains("is not what the events before it say"), "{error}");
    stream.close();
}

#[test]
fn a_graceful_stop_drains_a_slow_receiver() {
    let bed = Bed::new();
    let receiver = bed.stream.receiver.clone();
    let slow = std::thread::spawn(move || {
        let mut source = receiver.local_blocking("slow").unwrap();
        let mut stored = 0;
        while stored < 20 && source.store_blocking(&[format!("{stored}")]).is_ok() {
            stored += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        stored
    });
    std::thread::sleep(Duration::from_millis(30));
    bed.stream.receiver.drain(Duration::from_secs(10), "stopping");
    let stored = slow.join().unwrap();
    // What was told durable before the end is in a batch after it.
    bed.stream.receiver.shut_down();
    let Bed { dir: _dir, stream, ledger } = bed;
    stream.thread.join().unwrap();
    let mut found = Vec::new();
    while let Some(batch) = ledger.allocate(&ALL).unwrap() {
        found.extend(records(&batch));
        ledger.commit(batch.id(), "").unwrap();
    }
    assert!(stored > 0);
    assert_eq!(found, numbered("slow", 0..stored));
}
