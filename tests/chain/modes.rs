//! What each mode promises, on a disk that loses everything it was not told to keep: each test shows the promise, and that the
//! mode one level down does not give it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use seawall::ledger::BatchLimits;
use seawall::node::{Ledger, LedgerConfig, Receiver};
use seawall::receiver::{ReceiverConfig, Sequences, WaitFor};
use seawall::{Config, Log, SourceId};

use super::sim::{CrashChoice, DiskOptions, SimDisk, SimStorage};

/// A receiver's process.
struct Life {
    disk: SimDisk,
    receiver: Receiver<SimStorage>,
    driver: std::pin::Pin<Box<dyn Future<Output = ()>>>,
}

impl Life {
    fn open(disk: SimDisk) -> Life {
        let (log, _) = Log::open_on(disk.open(), Config::default()).expect("the log opens");
        disk.pump();
        let (receiver, driver, _) = Receiver::open(log, "stream", ReceiverConfig::default()).expect("it opens");
        Life { disk, receiver, driver: Box::pin(async { drop(driver.run().await) }) }
    }

    /// Runs something to its end; the disk flushes only if it is `served`.
    fn run<T>(&mut self, work: impl Future<Output = T>, served: bool) -> Option<T> {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            if let Poll::Ready(out) = work.as_mut().poll(&mut context) {
                return Some(out);
            }
            if served {
                let _ = self.driver.as_mut().poll(&mut context);
                self.disk.tick();
            }
        }
        None
    }

    /// Sends one record and returns when the mode says so.
    fn send(&mut self, name: Option<&str>, sequences: Sequences, wait_for: WaitFor) {
        let receiver = self.receiver.clone();
        let name = name.and_then(SourceId::new);
        let mut source =
            self.run(receiver.local_with(name, sequences, wait_for), true).expect("welcomed").expect("taken");
        // From here on the disk is served only for those who wait for it.
        let told = self.run(source.receive(&["record"]), wait_for != WaitFor::Received);
        told.expect("taken").expect("in memory");
        let told = self.run(source.settle(), wait_for != WaitFor::Received);
        told.expect("told").expect("as the mode says");
    }

    /// Nothing that was not flushed is there afterwards.
    fn lose_power(self) -> Life {
        Life::open(self.disk.crash(&CrashChoice::lost()))
    }

    fn records(&self) -> usize {
        let log = self.receiver.log();
        let blocks = log.reader(log.first()).map(|frame| frame.expect("a frame").payload);
        blocks.map(|payload| seawall::receiver::Block::gist(&payload).expect("a block").records as usize).sum()
    }
}

fn new_life() -> Life {
    Life::open(SimDisk::new(DiskOptions::DIRECT))
}

#[test]
fn received_is_told_from_memory_and_lost_with_it() {
    let mut life = new_life();
    life.send(Some("s"), Sequences::Dense, WaitFor::Received);
    assert_eq!(life.lose_power().records(), 0, "one level below durable");
}

#[test]
fn durable_survives_a_power_loss() {
    let mut life = new_life();
    life.send(Some("s"), Sequences::Dense, WaitFor::Durable);
    assert_eq!(life.lose_power().records(), 1);
}

#[test]
fn with_a_name_and_sequences_what_is_sent_again_is_there_once() {
    let twice = |name: Option<&str>, sequences| {
        let mut life = new_life();
        life.send(name, sequences, WaitFor::Durable);
        // The source never heard of it: it sends its first record again, to the receiver of after a power loss.
        let mut life = life.lose_power();
        let receiver = life.receiver.clone();
        let id = name.and_then(SourceId::new);
        let mut source = life.run(receiver.local_with(id, sequences, WaitFor::Durable), true).unwrap().unwrap();
        if source.resume().get() == 0 {
            life.run(source.store(&["record"]), true).unwrap().unwrap();
        }
        life.records()
    };
    assert_eq!(twice(Some("s"), Sequences::Dense), 1);
    assert_eq!(twice(None, Sequences::None), 2, "one level down: at least once");
}

#[test]
fn committed_is_told_when_no_batch_will_bring_it_again() {
    let mut life = new_life();
    life.send(Some("s"), Sequences::Dense, WaitFor::Durable);
    let ledger_disk = SimDisk::new(DiskOptions::DIRECT);
    let open = |disk: &SimDisk, life: &Life| {
        let (log, _) = Log::open_on(disk.open(), Config::default()).expect("the log opens");
        disk.pump();
        let (ledger, _) = Ledger::open(log, LedgerConfig::default()).expect("the ledger opens");
        ledger.add_stream("stream", life.receiver.clone()).expect("it is the stream");
        ledger
    };
    let committed = |life: &Life| life.receiver.sources()[0].committed.get();
    let ledger = open(&ledger_disk, &life);
    ledger.allocate(&BatchLimits::default()).unwrap().expect("the record");
    assert_eq!((life.receiver.sources()[0].durable.get(), committed(&life)), (1, 0));
    // Durable is one level down: after a crash the batch comes again.
    drop(ledger);
    let ledger_disk = ledger_disk.crash(&CrashChoice::lost());
    let ledger = open(&ledger_disk, &life);
    let again = ledger.pending();
    assert_eq!(again.len(), 1);
    ledger.commit(again[0].id(), "").unwrap();
    assert_eq!(committed(&life), 1);
    drop((again, ledger));
    let ledger = open(&ledger_disk.crash(&CrashChoice::lost()), &life);
    assert!(ledger.pending().is_empty() && ledger.allocate(&BatchLimits::default()).unwrap().is_none());
}
