//! A log whose writes are carried by the runtime that has the sockets.

use std::time::Instant;

use seawall::RecoveryMode;
use seawall::storage::{Driver, DriverConfig, DriverLoop};
use tokio::runtime::{Builder, Runtime};

use super::skip::skipped;
use super::*;

fn in_event_loop() -> Option<(Driver, DriverLoop)> {
    Driver::in_event_loop(DriverConfig::default())
        .inspect_err(|e| skipped(format_args!("an event loop, which needs io_uring: {e}")))
        .ok()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// How far a reader of another process sees: as far as the log has proven.
fn proven(dir: &Path) -> u64 {
    let config = Config { recovery: RecoveryMode::ReadOnly, ..Config::default() };
    Log::open(dir, config).expect("a log").1.end.get()
}

/// Source, receiver, log and device: one thread. Records one at a time, so that each is a group and an acknowledgment; many at
/// once; and a pause in which the log proves its end, which nobody asks for.
#[test]
fn one_thread_does_it_all_and_behind_it_another_goes_on() {
    let Some((driver, driver_loop)) = in_event_loop() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = one_thread().block_on(async {
        tokio::spawn(run_loop(driver_loop));
        let node = Node::start_by(
            &driver,
            dir.path(),
            ReceiverConfig::default(),
            ServerConfig::new(([127, 0, 0, 1], 0).into()),
        );
        let client = node.client("a");
        for _ in 0..200 {
            soon(soon(client.push("one at a time")).await.unwrap()).await.unwrap();
        }
        for _ in 0..20_000 {
            drop(soon(client.push("one of many")).await.unwrap());
        }
        soon(client.flush()).await.unwrap();
        until("the log has proven its end", || proven(dir.path()) == node.log.flushed().get()).await;
        soon(client.close(LONG)).await.unwrap();
        node.log
    });
    // The runtime is gone, and with it the loop's task.
    assert_eq!(streams::records(&log).len(), 20_200);
    log.append(b"behind it").unwrap().wait().unwrap();
    log.close(LONG).unwrap();
}

/// The runtime goes away with writes in the ring, others that wait for their turn, and appends that come meanwhile.
#[test]
fn a_runtime_that_ends_takes_nothing_with_it() {
    for round in 0..20 {
        let Some((driver, driver_loop)) = in_event_loop() else { return };
        let runtime = Builder::new_multi_thread().worker_threads(1 + round % 2).enable_all().build().unwrap();
        runtime.spawn(run_loop(driver_loop));
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open_with(dir.path(), Config::default(), &driver).unwrap();
        std::thread::scope(|scope| {
            let appends = scope.spawn(|| {
                let pendings: Vec<_> = (0..2000).map(|_| log.append(&[7; 900]).unwrap()).collect();
                pendings.into_iter().for_each(|pending| _ = pending.wait().unwrap());
            });
            while log.flushed().get() < 100 {
                std::thread::yield_now();
            }
            drop(runtime);
            appends.join().unwrap();
        });
        let record = log.append(b"behind it").unwrap();
        let by = Instant::now() + LONG;
        while log.flushed() < record.lsn() {
            assert!(Instant::now() < by, "nobody writes what nobody waits for");
            std::thread::yield_now();
        }
        log.close(LONG).unwrap();
    }
}
