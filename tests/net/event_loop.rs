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

/// A log opened for a loop that one thread turns, the test's own, and what tells that the loop is over.
fn on_this_thread() -> Option<(Runtime, tokio::task::JoinHandle<()>, Log, tempfile::TempDir)> {
    let (driver, driver_loop) = in_event_loop()?;
    let (runtime, dir) = (one_thread(), tempfile::tempdir().unwrap());
    let turning = runtime.spawn(run_loop(driver_loop));
    let config = Config { in_flight_bytes_max: 20 << 20, ..Config::default() };
    let (log, _) = Log::open_with(dir.path(), config, &driver).unwrap();
    // The loop has turned before.
    runtime.block_on(async { placed(&log, b"first").await.await.unwrap() });
    Some((runtime, turning, log, dir))
}

async fn placed(log: &Log, record: &[u8]) -> seawall::Pending {
    log.reserve(record.len() as u64).await.unwrap().append(record).unwrap()
}

/// Handed to the ring by the loop, and its end is not heard of before the loop turns again.
async fn in_the_ring(log: &Log) -> seawall::Pending {
    let driven = log.stats().groups_driven;
    let mut record = placed(log, b"a record").await;
    // Polled once, it asks for the driver.
    std::future::poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut record).poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    while log.stats().groups_driven == driven {
        tokio::task::yield_now().await;
    }
    record
}

/// Every wait that holds the loop up ends, as the work goes on in a thread. Each of these waited for ever (dropping the log: 10 s)
/// where nobody turned the loop.
#[test]
fn who_waits_on_the_loop_s_own_thread_is_served_by_another() {
    type Wait = fn(Log, seawall::Pending);
    let waits: [(&str, Wait); 6] = [
        ("wait", |_log, record| _ = record.wait().unwrap()),
        ("append", |log, _record| (0..600).for_each(|_| drop(log.append(&[7; 60_000]).unwrap()))),
        ("tail", |log, record| {
            let mut tail = log.tail(record.lsn());
            assert_eq!(tail.next_within(LONG).unwrap().unwrap().payload, &b"a record"[..]);
        }),
        ("truncate", |log, _record| _ = log.truncate(seawall::Lsn::new(1)).unwrap()),
        ("close", |log, _record| log.close(LONG).unwrap()),
        ("drop", |log, record| {
            let began = Instant::now();
            drop((record, log));
            assert!(began.elapsed() < LONG / 2, "the directory is given back when the write has ended");
        }),
    ];
    for (name, wait) in waits {
        let Some((runtime, turning, log, dir)) = on_this_thread() else { return };
        runtime.block_on(async {
            let record = in_the_ring(&log).await;
            wait(log, record);
            // What is left of the loop ends.
            soon(turning).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        });
        drop(runtime);
        let (log, _) = Log::open(dir.path(), Config::default()).unwrap();
        assert_eq!(log.flushed().get() > 1, name != "truncate", "{name}");
    }
}

/// A thread that waits long for a loop with nothing to do is no reason to end it, nor is one that waits for a device.
#[test]
fn a_loop_that_has_nothing_to_do_is_left_alone() {
    let Some((runtime, turning, log, _dir)) = on_this_thread() else { return };
    let mut tail = log.tail(log.flushed().next());
    let waiting = std::thread::spawn(move || tail.next_within(LONG).unwrap().unwrap().lsn);
    runtime.block_on(async {
        for _ in 0..5 {
            tokio::time::sleep(std::time::Duration::from_millis(900)).await;
            assert!(!turning.is_finished());
        }
        let last = placed(&log, b"news").await.await.unwrap();
        assert_eq!(
            soon(async { tokio::task::spawn_blocking(move || waiting.join().unwrap()).await.unwrap() }).await,
            last
        );
        assert!(!turning.is_finished());
    });
}
