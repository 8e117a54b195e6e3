//! `batches`: a ledger and its streams, looked at beside a driver and without one.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall::ledger::{BatchLimits, Identity};
use seawall::node::{DriverThread, Ledger, LedgerConfig, MemoryPartitions, Receiver};
use seawall::receiver::ReceiverConfig;
use seawall::{BatchId, Config, Log, Lsn};
use serde_json::Value;
use support::{PATIENCE, Place, flip_bit_at, seawall, seawall_unread};

const ALL: BatchLimits =
    BatchLimits { records_max: u64::MAX, bytes_max: u64::MAX, ranges_max: usize::MAX, allow_empty: false };

/// A log that was there before: the thread that heard of its last flush may hold it for a moment.
fn open_log(dir: &Path) -> Log {
    let config = Config { segment_bytes_min: 64 * 1024, segment_bytes_max: 16 << 20, ..Config::default() };
    let began = Instant::now();
    loop {
        match Log::open(dir, config.clone()) {
            Ok((log, _)) => return log,
            Err(seawall::Error::Locked { .. }) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

struct Stream {
    receiver: Receiver,
    thread: DriverThread,
}

impl Stream {
    fn open(place: &Place, name: &str) -> Stream {
        let (receiver, driver, _) =
            Receiver::open(open_log(&place.path(name)), name, ReceiverConfig::default()).unwrap();
        Stream { receiver, thread: driver.spawn().unwrap() }
    }

    /// Stores records one block each, durable when it returns.
    fn store(&self, source: &str, count: usize) {
        let mut local = self.receiver.local_blocking(source).unwrap();
        (0..count).for_each(|i| drop(local.store_blocking(&[format!("{source} {i}")]).unwrap()));
    }

    fn close(self) {
        self.receiver.shut_down();
        self.thread.join().unwrap();
        self.receiver.log().clone().close(Duration::from_secs(30)).unwrap();
    }
}

fn open_ledger(place: &Place) -> Ledger {
    Ledger::open(open_log(&place.path("ledger")), LedgerConfig::default()).unwrap().0
}

fn close(ledger: Ledger) {
    ledger.with_log(|log| log.clone().close(Duration::from_secs(30)).unwrap());
}

fn allocate(ledger: &Ledger) -> BatchId {
    ledger.allocate(&ALL).unwrap().expect("something new").id()
}

/// A ledger with a stream: batch 1 committed, 2 pending, 3 committed before it, and records that no batch holds.
fn fill(place: &Place) -> (Ledger, Stream) {
    let (ledger, stream) = (open_ledger(place), Stream::open(place, "clicks"));
    ledger.add_stream("clicks", stream.receiver.clone()).unwrap();
    stream.store("a", 4);
    let one = allocate(&ledger);
    stream.store("b", 2);
    stream.store("c", 1);
    allocate(&ledger);
    stream.store("c", 3);
    let three = allocate(&ledger);
    ledger.commit(one, "token-1").unwrap();
    ledger.commit(three, vec![0xFF, 0]).unwrap();
    stream.store("a", 6);
    stream.store("b", 1);
    stream.store("d", 6);
    (ledger, stream)
}

fn stream_arg(place: &Place) -> String {
    format!("clicks={}", place.arg("clicks"))
}

fn json(args: &[&str], code: i32) -> Value {
    let ended = seawall(&[&["batches", "--format", "json"], args].concat()).expect(code);
    assert_eq!(ended.stderr, "");
    let mut objects = ended.json();
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

fn sources(stream: &Value) -> Vec<(String, u64, u64)> {
    let number = |source: &Value, key: &str| source[key].as_u64().unwrap();
    let row = |source: &Value| {
        let name = source["source"].as_str().unwrap().to_owned();
        (name, number(source, "unallocated_records"), number(source, "pending_records"))
    };
    stream["sources"].as_array().unwrap().iter().map(row).collect()
}

fn expected_sources() -> Vec<(String, u64, u64)> {
    // Batch 3 is done: what it holds of c waits for nothing but batch 2.
    [("a", 6, 0), ("d", 6, 0), ("b", 1, 2), ("c", 0, 1)].map(|(name, lag, pending)| (name.into(), lag, pending)).into()
}

#[test]
fn batches_inputs_and_lag_as_json() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    let (id, ballot) = (ledger.id().to_string(), ledger.ballot().to_string());
    close(ledger);
    stream.close();
    let (dir, stream) = (place.arg("ledger"), stream_arg(&place));

    let found = json(&[&dir, "--stream", &stream], 0);
    assert_eq!((&found["ledger"], &found["ballot"]), (&Value::from(id), &Value::from(ballot)));
    assert_eq!((&found["last_allocated"], &found["last_settled"]), (&3.into(), &1.into()));
    let pending = &found["pending"];
    assert_eq!(pending.as_array().unwrap().len(), 1);
    assert_eq!((&pending[0]["batch"], &pending[0]["status"]), (&2.into(), &"pending".into()));
    assert_eq!((&pending[0]["ranges"], &pending[0]["records"]), (&1.into(), &3.into()));
    assert!(pending[0]["bytes"].as_u64().unwrap() > 0 && pending[0]["took_micros"].is_null(), "{pending}");
    assert!(pending[0]["age_micros"].as_u64().unwrap() < 60_000_000 * 60);
    let early = &found["out_of_order"];
    assert_eq!((&early[0]["batch"], &early[0]["token_hex"], &early[1]), (&3.into(), &"ff00".into(), &Value::Null));
    let settled = &found["settled"];
    assert_eq!((&settled[0]["batch"], &settled[0]["token"], &settled[1]), (&1.into(), &"token-1".into(), &Value::Null));
    assert_eq!((&settled[0]["status"], &settled[0]["records"]), (&"committed".into(), &4.into()));
    assert!(settled[0]["took_micros"].as_u64().unwrap() > 0);
    let input = &found["inputs"][0];
    assert_eq!((&input["name"], &input["kind"], &input["parts"]), (&"clicks".into(), &"stream".into(), &1.into()));
    assert_eq!((&input["records_allocated"], &input["records_settled"]), (&10.into(), &4.into()));

    let lag = &found["streams"][0];
    assert_eq!((&lag["lag"]["records"], &lag["pending"]["records"]), (&13.into(), &3.into()));
    assert!(lag["lag"]["blocks"].as_u64().unwrap() >= 13, "a block each, and who came: {lag}");
    assert_eq!(lag["unreadable_frames"], 0);
    assert_eq!(sources(lag), expected_sources());

    assert_eq!(json(&[&dir, "--last", "0"], 0)["settled"], Value::Array(Vec::new()));
}

#[test]
fn the_same_for_people() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    // More sources than a screen has room for.
    (0..25).for_each(|i| stream.store(&format!("many-{i:02}"), 1));
    close(ledger);
    stream.close();
    let text = seawall(&["batches", &place.arg("ledger"), "--stream", &stream_arg(&place)]).expect(0).text();
    for line in [
        "batches      last allocated 3, last settled 1, 1 pending, 1 done before an older one",
        "settled, the last 1 of 1",
        "done, and waiting for an older one",
        "  source   in no batch  not committed",
        "  a                  6              0",
        "  b                  1              2",
        "  and 9 more (all with --format json)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
    for part in ["0xff00", "token-1", "with 38 records", "with 3 records", "clicks  stream"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("DAMAGE") && !text.lines().any(|line| line.ends_with(' ')), "{text}");
    let all = json(&[&place.arg("ledger"), "--stream", &stream_arg(&place)], 0);
    assert_eq!(all["streams"][0]["sources"].as_array().unwrap().len(), 29);
}

#[test]
fn beside_a_running_driver() {
    let place = Place::new();
    let (ledger, _stream) = fill(&place);
    let (dir, arg) = (place.arg("ledger"), stream_arg(&place));
    // What was flushed last is told to readers with the next group, or when the log has been idle for a while.
    let until = |is_there: &dyn Fn(&Value) -> bool| {
        let began = Instant::now();
        loop {
            let found = json(&[&dir, "--stream", &arg], 0);
            if is_there(&found) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let found = until(&|found| !found["out_of_order"][0].is_null() && found["streams"][0]["lag"]["records"] == 13);
    assert_eq!(sources(&found["streams"][0]), expected_sources());

    // The driver goes on, and gives up what is committed and the events before a checkpoint.
    ledger.commit(BatchId::new(2), "two").unwrap();
    ledger.checkpoint().unwrap();
    allocate(&ledger);
    let found = until(&|found| found["last_allocated"] == 4 && found["streams"][0]["pending"]["records"] == 13);
    assert_eq!((&found["last_settled"], &found["streams"][0]["lag"]["records"]), (&3.into(), &0.into()));
    assert!(found["checkpoint_lsn"].as_u64().unwrap() > 1);
    // What is committed goes with a later batch.
    assert!(found["inputs"][0]["trimmed"].as_u64() <= found["inputs"][0]["committed_lsn"].as_u64(), "{found}");
}

#[test]
fn while_a_driver_trims_what_is_looked_at() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    ledger.commit(BatchId::new(2), "two").unwrap();
    let (dir, arg) = (place.arg("ledger"), stream_arg(&place));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut local = stream.receiver.local_blocking("busy").unwrap();
            let record = "x".repeat(2_000);
            while !is_over.load(Ordering::Relaxed) {
                local.store_blocking(&[&record; 10]).unwrap();
                ledger.commit(allocate(&ledger), "done").unwrap();
                ledger.checkpoint().unwrap();
            }
        });
        let ended = std::panic::catch_unwind(|| {
            let mut before = 0;
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(2) || before < 20 {
                let found = json(&[&dir, "--stream", &arg], 0);
                let allocated = found["last_allocated"].as_u64().unwrap();
                assert!(allocated >= before && began.elapsed() < PATIENCE, "{before}, then {found}");
                before = allocated;
            }
        });
        is_over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn the_ranges_of_a_batch() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    let partitions = MemoryPartitions::new(Identity(1));
    partitions.append(2, "one");
    partitions.append(2, "two");
    ledger.add_input("topic", Arc::new(partitions)).unwrap();
    allocate(&ledger);
    ledger.abandon(BatchId::new(2), "poison", |_| Ok(())).unwrap();
    let ranges = ledger.pending()[0].ranges().to_vec();
    close(ledger);
    let dir = place.arg("ledger");

    let four = json(&[&dir, "--range", "4"], 0);
    assert_eq!((&four["batch"], &four["status"], &four["records"]), (&4.into(), &"pending".into(), &15.into()));
    let content = four["content"].as_array().unwrap();
    assert_eq!(content.len(), 2);
    let topic = content.iter().find(|range| range["input"] == "topic").unwrap();
    assert_eq!((&topic["from"], &topic["to"], &topic["records"]), (&0.into(), &2.into(), &2.into()));
    let digest = ranges.iter().find(|range| range.records == 2).unwrap().digest;
    assert_eq!(topic["digest"], format!("{digest:016x}"));
    assert!(topic["label"].is_string(), "{topic}");
    let clicks = content.iter().find(|range| range["input"] == "clicks").unwrap();
    let chain = stream.receiver.log().chain_at(Lsn::new(clicks["to"].as_u64().unwrap() - 1)).unwrap();
    assert_eq!((&clicks["part"], &clicks["digest"]), (&"".into(), &chain.to_string().into()));
    let text = seawall(&["batches", &dir, "--range", "4"]).expect(0).text();
    assert!(text.contains("content      2 ranges, 15 records") && text.contains(&chain.to_string()), "{text}");

    // Settled ones are told from the events that are there.
    let one = json(&[&dir, "--range", "1"], 0);
    assert_eq!(
        (&one["status"], &one["token"], &one["content"][0]["from"]),
        (&"committed".into(), &"token-1".into(), &1.into())
    );
    let two = json(&[&dir, "--range", "2"], 0);
    assert_eq!((&two["status"], &two["reason"], &two["records"]), (&"abandoned".into(), &"poison".into(), &3.into()));
    for (batch, why) in [("5", "is not allocated: the last one is 4"), ("0", "is not allocated")] {
        let ended = seawall(&["batches", &dir, "--range", batch]).expect(1);
        assert!(ended.stderr.contains(why) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
    let ledger = open_ledger(&place);
    ledger.checkpoint().unwrap();
    close(ledger);
    let ended = seawall(&["batches", &dir, "--range", "1"]).expect(1);
    assert!(ended.stderr.contains("is not written down any more"), "{}", ended.stderr);
    json(&[&dir, "--range", "4"], 0);
    stream.close();
}

#[test]
fn directories_that_hold_something_else() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    ledger.add_input("topic", Arc::new(MemoryPartitions::new(Identity(1)))).unwrap();
    close(ledger);
    stream.close();
    let other = Stream::open(&place, "other");
    other.store("x", 1);
    other.close();
    open_log(&place.path("empty")).close(Duration::from_secs(30)).unwrap();
    let lines = place.write("lines", "one\ntwo\n");
    seawall(&["ingest", "--log", &place.arg("ingested"), &lines]).expect(0);
    let ledger = place.arg("ledger");

    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        let ended = seawall(&[&["batches"], args].concat()).expect(code);
        assert_eq!((ended.stderr.lines().count(), ended.stdout.len()), (1, 0), "{}", ended.stderr);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part:?} in {}", ended.stderr);
        }
    };
    for (name, why) in [
        ("clicks", "holds no ledger, but a receiver's stream"),
        ("empty", "holds no ledger: its log is empty"),
        ("ingested", "holds no ledger, but what `seawall ingest` wrote"),
        ("nowhere", "holds no ledger: it holds no log"),
    ] {
        refused(&[&place.arg(name)], 1, &[&place.arg(name), why]);
    }
    assert!(!place.path("nowhere").exists());

    // A stream that is not the ledger's is refused with both names.
    let log =
        |name: &str| seawall(&["inspect", "--log", &place.arg(name), "--format", "json"]).expect(0).json().remove(0);
    let identities = [log("other")["log"].clone(), log("clicks")["log"].clone()];
    let [found, known] = identities.map(|id| id.as_str().unwrap().to_owned());
    refused(&[&ledger, "--stream", &format!("clicks={}", place.arg("other"))], 4, &["stream clicks", &found, &known]);
    refused(&[&ledger, "--stream", &format!("x={}", place.arg("clicks"))], 1, &["no input x", "clicks, topic"]);
    refused(&[&ledger, "--stream", &format!("topic={}", place.arg("clicks"))], 1, &["topic is no stream"]);
    refused(&[&ledger, "--stream", &format!("clicks={}", place.arg("nowhere"))], 1, &["holds no stream"]);
    let arg = stream_arg(&place);
    refused(&[&ledger, "--stream", &arg, "--stream", &arg], 1, &["given twice"]);
    for args in
        [&["--stream", "clicks"][..], &["--stream", "=x"], &["--range", "1", "--last", "2"], &["--format", "raw"]]
    {
        seawall(&[&["batches", &ledger], args].concat()).expect(1);
    }

    // A ledger whose events are damaged is damage.
    flip_bit_at(&place.path("ledger"), b"token-1");
    for repaired in [false, true] {
        let ended = seawall(&["batches", &ledger]).expect(2);
        assert!(ended.stderr.contains(&ledger) && ended.stderr.contains("restore it"), "{}", ended.stderr);
        // Set aside it is no less missing.
        if !repaired {
            seawall(&["repair", "--log", &ledger, "--quarantine"]).expect(0);
        }
    }
}

#[test]
fn frames_that_cannot_be_read_are_counted() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    stream.store("marked", 3);
    close(ledger);
    stream.close();
    flip_bit_at(&place.path("clicks"), b"marked 1");
    let (dir, arg) = (place.arg("ledger"), stream_arg(&place));
    let found = json(&[&dir, "--stream", &arg], 2);
    let lag = &found["streams"][0];
    assert_eq!((&lag["unreadable_frames"], &lag["lag"]["records"]), (&1.into(), &15.into()));
    assert_eq!(lag["damage"].as_array().unwrap().len(), 1, "{lag}");
    assert!(sources(lag).contains(&("marked".into(), 2, 0)), "{lag}");
    let text = seawall(&["batches", &dir, "--stream", &arg]).expect(2).text();
    seawall_unread(&["batches", &dir, "--stream", &arg]).expect(2);
    assert!(text.contains("NOT READ     1 frames") && text.contains("DAMAGE "), "{text}");

    // Set aside it is no damage any more, and still not counted.
    seawall(&["repair", "--log", &place.arg("clicks"), "--quarantine"]).expect(0);
    let lag = json(&[&dir, "--stream", &arg], 0)["streams"][0].clone();
    assert_eq!(
        (&lag["set_aside_frames"], &lag["unreadable_frames"], &lag["lag"]["records"]),
        (&1.into(), &0.into(), &15.into())
    );
}

#[test]
fn a_stream_that_was_cut_off_is_damage() {
    let place = Place::new();
    let (ledger, stream) = fill(&place);
    close(ledger);
    stream.close();
    let log = open_log(&place.path("clicks"));
    log.truncate(Lsn::new(3)).unwrap();
    log.close(Duration::from_secs(30)).unwrap();
    let lag = json(&[&place.arg("ledger"), "--stream", &stream_arg(&place)], 2)["streams"][0].clone();
    assert!(lag["damage"][0].as_str().unwrap().contains("it ends at frame 3"), "{lag}");
    assert!(lag["unseen_frames"].as_u64().unwrap() > 0 && lag["lag"]["records"] == 0, "{lag}");
}
