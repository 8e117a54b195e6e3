//! The receiver on a real log, without a network.

mod restart;
mod store;
mod trouble;

use std::path::Path;

use seawall::node::{DriverThread, Receiver};
use seawall::receiver::{Block, ReceiverConfig};
use seawall::{Config, Log, Lsn};

/// A receiver whose driver runs on a thread.
struct Running {
    log: Log,
    receiver: Receiver,
    thread: DriverThread,
}

impl Running {
    fn open(dir: &Path, config: ReceiverConfig) -> Running {
        Running::open_log(reopen(dir, Config::default()), config)
    }

    fn open_log(log: Log, config: ReceiverConfig) -> Running {
        let (receiver, driver, replayed) = Receiver::open(log.clone(), "test", config).expect("the receiver opens");
        assert!(replayed.damaged.is_empty(), "{:?}", replayed.damaged);
        Running { log, receiver, thread: driver.spawn().expect("a thread") }
    }

    /// Where something is given up.
    fn open_damaged(log: Log, config: ReceiverConfig) -> Running {
        let (receiver, driver, replayed) = Receiver::open(log.clone(), "test", config).expect("the receiver opens");
        assert!(!replayed.damaged.is_empty());
        Running { log, receiver, thread: driver.spawn().expect("a thread") }
    }

    /// Ends in order.
    fn close(self) {
        self.receiver.shut_down();
        self.thread.join().expect("the driver ended in order");
        self.log.close(std::time::Duration::from_secs(10)).expect("the log closes");
    }

    /// Ends as a process that was killed: what is not flushed is left to its fate.
    fn abandon(self) {
        self.receiver.shut_down();
        self.thread.join().expect("the driver ended in order");
    }
}

/// A log that was there before: whoever dropped it, the thread that heard of its last flush may hold it for a moment.
fn reopen(dir: &Path, config: Config) -> Log {
    let began = std::time::Instant::now();
    loop {
        match Log::open(dir, config.clone()) {
            Ok((log, _)) => return log,
            Err(seawall::Error::Locked { .. }) if began.elapsed() < std::time::Duration::from_secs(30) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(error) => panic!("the log opens: {error}"),
        }
    }
}

/// Every record in the stream: (source, sequence, bytes).
fn records(log: &Log) -> Vec<(String, u64, Vec<u8>)> {
    let mut found = Vec::new();
    for frame in log.reader(log.first().max(Lsn::FIRST)) {
        let frame = frame.expect("frames can be read");
        let block = Block::read(&frame.payload).expect("a block");
        for record in block.records() {
            let record = record.expect("a record");
            let source = record.range.source.as_ref().map_or_else(String::new, ToString::to_string);
            found.push((source, record.seq.get(), record.record.to_vec()));
        }
    }
    found
}
