//! The receiver on a real log, without a network.

mod restart;
#[path = "../support/skip.rs"]
mod skip;
mod store;
#[path = "../support/streams.rs"]
mod streams;
mod trouble;

use std::path::Path;

use seawall::node::{DriverThread, Receiver};
use seawall::receiver::ReceiverConfig;
use seawall::{Config, Log};

use streams::{even_length, records, reopen, small};

/// A receiver whose driver runs on a thread.
struct Running {
    log: Log,
    receiver: Receiver,
    thread: DriverThread,
}

impl Running {
    fn open(dir: &Path, config: ReceiverConfig) -> Running {
        Running::open_log(reopen(dir, &Config::default()), config)
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
