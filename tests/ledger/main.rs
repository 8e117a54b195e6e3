//! The ledger over real logs: streams in, batches out.

mod damage;
mod driver;
mod fenced;
mod rates;
mod spark;
mod trims;
mod watched;

use std::path::Path;
use std::time::{Duration, Instant};

use seawall::ledger::BatchLimits;
use seawall::node::{Batch, DriverThread, Ledger, LedgerConfig, LedgerError, Receiver};
use seawall::receiver::ReceiverConfig;
use seawall::{Config, Log};
use tempfile::TempDir;

const ALL: BatchLimits =
    BatchLimits { records_max: u64::MAX, bytes_max: u64::MAX, ranges_max: usize::MAX, allow_empty: false };

fn small_log() -> Config {
    Config { segment_bytes_min: 64 * 1024, segment_bytes_max: 256 * 1024, ..Config::default() }
}

/// A stream whose receiver runs on a thread.
struct Stream {
    receiver: Receiver,
    thread: DriverThread,
    name: String,
}

impl Stream {
    fn open(dir: &Path, name: &str) -> Stream {
        Stream::open_with(dir, name, Config { segment_bytes_max: 16 << 20, ..small_log() })
    }

    fn open_with(dir: &Path, name: &str, config: Config) -> Stream {
        let log = reopen(&dir.join(name), config);
        let (receiver, driver, _) = Receiver::open(log, name, ReceiverConfig::default()).expect("the receiver opens");
        let thread = driver.spawn().expect("a thread");
        Stream { receiver, thread, name: name.to_owned() }
    }

    /// Stores records one block each, durable when it returns.
    fn store(&self, source: &str, records: std::ops::Range<u64>) {
        let mut source = self.receiver.local_blocking(source).expect("a source");
        for i in records {
            source.store_blocking(&[format!("{i}")]).expect("stored");
        }
    }

    fn close(self) {
        self.receiver.shut_down();
        self.thread.join().expect("the receiver ended in order");
        self.receiver.log().clone().close(Duration::from_secs(10)).expect("the log closes");
    }

    /// Ends as a killed process does.
    fn abandon(self) {
        self.receiver.shut_down();
        self.thread.join().expect("the receiver ended in order");
    }
}

fn open_ledger(dir: &Path) -> Ledger {
    open_ledger_with(dir, LedgerConfig::default())
}

fn open_ledger_with(dir: &Path, config: LedgerConfig) -> Ledger {
    Ledger::open(reopen(&dir.join("ledger"), Config::default()), config).expect("the ledger opens").0
}

/// A stream and a ledger over it.
struct Bed {
    dir: TempDir,
    stream: Stream,
    ledger: Ledger,
}

impl Bed {
    fn new() -> Bed {
        Bed::on(tempfile::tempdir().expect("a directory"))
    }

    fn on(dir: TempDir) -> Bed {
        let stream = Stream::open(dir.path(), "stream");
        let ledger = open_ledger(dir.path());
        ledger.add_stream("stream", stream.receiver.clone()).expect("the stream is known again");
        Bed { dir, stream, ledger }
    }

    /// Everything ends as in a killed process, and begins again.
    fn restart(self) -> Bed {
        let Bed { dir, stream, ledger } = self;
        drop(ledger);
        stream.abandon();
        Bed::on(dir)
    }

    fn allocate(&self) -> Option<Batch> {
        self.ledger.allocate(&ALL).expect("allocates")
    }
}

/// A log that was there before: whoever dropped it, the thread that heard of its last flush may hold it for a moment.
fn reopen(dir: &Path, config: Config) -> Log {
    let began = Instant::now();
    loop {
        match Log::open(dir, config.clone()) {
            Ok((log, _)) => return log,
            Err(seawall::Error::Locked { .. }) if began.elapsed() < Duration::from_secs(30) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("the log opens: {error}"),
        }
    }
}

/// The records of a batch, each with its source.
fn records(batch: &Batch) -> Vec<String> {
    let all: Result<Vec<_>, LedgerError> = batch.read().expect("it can be read").collect();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    all.expect("every record")
        .iter()
        .map(|r| format!("{}:{}", r.source.as_ref().map_or("?".into(), ToString::to_string), text(&r.record)))
        .collect()
}

fn numbered(source: &str, records: std::ops::Range<u64>) -> Vec<String> {
    records.map(|i| format!("{source}:{i}")).collect()
}
