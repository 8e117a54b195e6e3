//! A handful of threads over one log, and what must be true of it whatever the scheduler does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use seawall::{Config, Error, Lsn};
use shuttle::future::block_on;

use crate::disk::Lie;
use crate::world::{FOREVER, Pending, Setup, World, below, join, one_in, small, spawn};

/// One of them.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// All of them.
pub(crate) const ALL: [Scenario; 12] = [
    Scenario { name: "led", run: || led(Lie::None) },
    Scenario { name: "tasks", run: || tasks(Lie::None) },
    Scenario { name: "rotation", run: rotation },
    Scenario { name: "head", run: head },
    Scenario { name: "tail", run: tail },
    Scenario { name: "stream", run: stream },
    Scenario { name: "truncate", run: truncate },
    Scenario { name: "trim", run: trim },
    Scenario { name: "close", run: close },
    Scenario { name: "failing-write", run: failing_write },
    Scenario { name: "batches", run: batches },
    Scenario { name: "room", run: room },
];

/// Seeded faults: each must be noticed.
pub(crate) const CONTROLS: [Scenario; 2] = [
    Scenario { name: "control: told before flushed", run: || led(Lie::ToldBeforeFlushed) },
    Scenario { name: "control: a kick lost", run: || tasks(Lie::KickLost) },
];

fn setup() -> Setup {
    Setup { config: small(), lie: Lie::None, is_patient: false }
}

/// One of so many writes in flight at the most.
fn up_to(writes: u32) -> Config {
    let depth = 1 + below(writes) as usize;
    Config { flush_depth_max: depth, flush_depth_min: depth, ..small() }
}

fn open() -> Arc<World> {
    World::open(setup())
}

/// Threads that wait for their own records, and write them in groups.
fn led(lie: Lie) {
    let config = Config { gather: one_in(2), ..up_to(3) };
    let world = World::open(Setup { config, lie, is_patient: one_in(2) });
    let threads = (0..3).map(|_| {
        let records = 1 + below(3);
        spawn(&world, move |world| (0..records).map(|_| world.append_and_wait(32)).collect::<Vec<_>>())
    });
    let lsns = join(threads.collect::<Vec<_>>());
    assert!(lsns.iter().all(|lsns| lsns.is_sorted()), "one thread's records are in order: {lsns:?}");
    let records = lsns.concat().len() as u64;
    assert_eq!(world.log.flushed(), Lsn::new(records), "positions are dense");
    World::end(world);
}

/// Tasks that hold their records, one that lets go of its own, and a thread that waits.
fn tasks(lie: Lie) {
    let world = World::open(Setup { lie, ..setup() });
    let task = spawn(&world, |world| {
        let held: Vec<(Pending, u32)> = (0..2).map(|_| world.append(32).expect("appended")).collect();
        for (pending, mark) in held {
            let lsn = pending.lsn();
            world.told(lsn, mark, &block_on(pending));
        }
    });
    let dropped = spawn(&world, |world| {
        let (mut pending, _) = world.append(32).expect("appended");
        // Polled once by a task that then goes away.
        if one_in(2) {
            let waker = std::task::Waker::noop();
            let _ = Pin::new(&mut pending).poll(&mut std::task::Context::from_waker(waker));
        }
        drop(pending);
    });
    let thread = spawn(&world, |world| world.append_and_wait_for(1, 32));
    join([task, dropped, thread]);
    World::end(world);
}

/// Records that fill segments: groups end around a change of segments, and nobody is told before what the new one's seal
/// rests on is flushed.
fn rotation() {
    let world = World::open(Setup { config: up_to(4), ..setup() });
    let waiting = spawn(&world, |world| {
        for _ in 0..3 {
            let lsn = world.append_and_wait(14 << 10);
            let frame = world.log.read(lsn).expect("what is flushed can be read");
            world.seen(&frame);
        }
    });
    let held = spawn(&world, |world| {
        let held: Vec<(Pending, u32)> = (0..3).map(|_| world.append(14 << 10).expect("appended")).collect();
        for (pending, mark) in held {
            let lsn = pending.lsn();
            world.told(lsn, mark, &block_on(pending));
        }
    });
    join([waiting, held]);
    World::end(world);
}

/// As few steps as there can be, all of them around a reader's sleep: nothing else wakes it.
fn head() {
    let world = World::open(Setup { config: Config { idle_proof_after: FOREVER, ..small() }, ..setup() });
    let reader = spawn(&world, |world| {
        let mut tail = world.log.tail(Lsn::FIRST);
        for _ in 0..2 {
            world.seen(&tail.next().expect("the log is open").expect("read"));
        }
    });
    let writer = spawn(&world, |world| world.append_and_wait_for(2, 32));
    join([reader, writer]);
    World::end(world);
}

/// A reader at the head sees every frame, once, in order, and none that is not flushed.
fn tail() {
    let memory_tail_bytes = if one_in(2) { 0 } else { 16 << 10 };
    // The proof that is written when nothing else is wakes readers as well, and would hide that they were missed before.
    let idle_proof_after = if one_in(2) { FOREVER } else { small().idle_proof_after };
    let config = Config { memory_tail_bytes, idle_proof_after, ..small() };
    let world = World::open(Setup { config, ..setup() });
    let reader = spawn(&world, |world| {
        let mut tail = world.log.tail(Lsn::FIRST);
        for expected in 1..=4 {
            let frame = if one_in(3) {
                loop {
                    if let Some(frame) = tail.next_within(Duration::from_millis(1)).expect("read") {
                        break frame;
                    }
                }
            } else {
                tail.next().expect("the log is open").expect("read")
            };
            assert_eq!(frame.lsn, Lsn::new(expected), "the next frame");
            world.seen(&frame);
        }
    });
    let poller = spawn(&world, |world| {
        let flushed = world.log.flushed();
        match world.log.read(flushed.next()) {
            Ok(frame) => assert!(world.seen(&frame) > 0),
            Err(Error::BeyondEnd { .. }) => {}
            Err(error) => panic!("a read at the head: {error}"),
        }
        if flushed > Lsn::ZERO {
            world.seen(&world.log.read(flushed).expect("what is flushed can be read"));
        }
    });
    let bytes = if one_in(2) { 32 } else { 14 << 10 };
    let writer = spawn(&world, move |world| world.append_and_wait_for(1, bytes));
    let writers = spawn(&world, move |world| {
        let held: Vec<Pending> = (0..3).map(|_| world.append(bytes).expect("appended").0).collect();
        drop(held);
    });
    join([reader, poller, writer, writers]);
    World::end(world);
}

/// A task at the head: as a reader there, and it ends when the log is closed and everything flushed has been read.
fn stream() {
    let world = open();
    let reader = spawn(&world, |world| {
        let mut stream = world.log.stream(Lsn::FIRST);
        let mut seen = 0;
        while let Some(frame) = block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context))) {
            let frame = frame.expect("read");
            seen += 1;
            assert_eq!(frame.lsn.get(), seen, "the next frame");
            world.seen(&frame);
        }
        seen
    });
    let writer = spawn(&world, |world| {
        world.append_and_wait(32);
        let (pending, _) = world.append(32).expect("appended");
        drop(pending);
        world.log.clone().close(FOREVER).expect("closed");
        2
    });
    assert_eq!(join([reader, writer]), [2, 2], "everything was read");
    World::abandon(world);
}

/// Whoever waits while the log is cut is told what became of its record.
fn truncate() {
    let world = open();
    let waiter = |count| {
        spawn(&world, move |world: &World| {
            for _ in 0..count {
                let (pending, mark) = world.append(32).expect("appended");
                let lsn = pending.lsn();
                match if one_in(2) { pending.wait() } else { block_on(pending) } {
                    // It may have been cut since.
                    Ok(told) => {
                        assert_eq!(told, lsn);
                        world.disk.expect_flushed(mark);
                    }
                    Err(Error::Truncated { requested, end }) => assert!(requested == lsn && end < lsn),
                    Err(error) => panic!("{lsn}: {error}"),
                }
            }
        })
    };
    let cutter = spawn(&world, |world| {
        let end = Lsn::new(u64::from(below(3)));
        match world.log.truncate(end) {
            Ok(_) | Err(Error::BeyondEnd { .. }) => {}
            Err(error) => panic!("a truncation to {end}: {error}"),
        }
    });
    let batch = spawn(&world, |world| {
        let records = [world.record(32).0, world.record(32).0];
        let pending = world.log.append_many(&records).expect("appended");
        let lsns = pending.lsns();
        assert_eq!(lsns.end.get() - lsns.start.get(), 2, "consecutive");
        match pending.wait() {
            Ok(_) | Err(Error::Truncated { .. }) => {}
            Err(error) => panic!("a batch: {error}"),
        }
    });
    join([waiter(2), cutter, batch]);
    // From here on nothing is cut.
    world.append_and_wait(32);
    World::end(world);
}

/// What is given up goes, what is not stays, whoever reads or appends meanwhile.
fn trim() {
    let world = open();
    world.append_and_wait_for(3, 14 << 10);
    let trimmer = spawn(&world, |world| {
        let upto = world.log.flushed();
        world.log.trim(upto).expect("trimmed");
        assert!(world.log.first() > upto);
    });
    let writer = spawn(&world, |world| world.append_and_wait_for(2, 14 << 10));
    let reader = spawn(&world, |world| {
        for frame in world.log.reader(Lsn::FIRST).take(4) {
            match frame {
                Ok(frame) => assert!(world.seen(&frame) > 0),
                Err(Error::Trimmed { .. }) => {}
                Err(error) => panic!("a reader beside a trim: {error}"),
            }
        }
    });
    join([trimmer, writer, reader]);
    let watermarks = world.log.watermarks();
    assert!(watermarks.trimmed >= Lsn::new(3) && watermarks.flushed == Lsn::new(5), "{watermarks:?}");
    World::end(world);
}

/// A close with any deadline answers everybody, and what it answers is true.
fn close() {
    let world = open();
    let answered = |world: &World, lsn: Lsn, mark: u32, answer: Result<Lsn, Error>| match answer {
        Ok(_) => world.acknowledged(lsn, mark),
        Err(Error::Unknown { .. } | Error::Closed | Error::Poisoned { .. }) => {}
        Err(error) => panic!("{lsn} beside a close: {error}"),
    };
    let ask = move |world: &World, as_task: bool| {
        for _ in 0..2 {
            match world.append(32) {
                Ok((pending, mark)) => {
                    let lsn = pending.lsn();
                    let answer = if as_task { block_on(pending) } else { pending.wait() };
                    answered(world, lsn, mark, answer);
                }
                Err(Error::Closed | Error::Poisoned { .. }) => return,
                Err(error) => panic!("an append beside a close: {error}"),
            }
        }
    };
    let waiter = spawn(&world, move |world| ask(world, false));
    let task = spawn(&world, move |world| ask(world, true));
    let closer = spawn(&world, |world| {
        let (pending, mark) = world.append(32).expect("appended");
        let deadline = [Duration::ZERO, Duration::from_micros(200), FOREVER][below(3) as usize];
        let closed = world.log.clone().close(deadline);
        match &closed {
            Ok(()) => assert!(pending.is_settled(), "closed, and a record is not"),
            Err(Error::TimedOut { .. }) => assert!(deadline < FOREVER),
            Err(error) => panic!("closed with {deadline:?}: {error}"),
        }
        let lsn = pending.lsn();
        match pending.wait() {
            Ok(_) => world.acknowledged(lsn, mark),
            Err(error) => assert!(closed.is_err(), "closed, and a record is unknown: {error}"),
        }
        closed.is_ok()
    });
    join([waiter, task]);
    let is_clean = join([closer])[0];
    assert!(world.log.append(b"late").is_err(), "appended behind a close");
    let (disk, acknowledged) = (world.disk.clone(), world.disk.acknowledged());
    World::abandon(world);
    if is_clean {
        assert!(World::reopen(&disk.image(), &acknowledged).clean, "a close that was no clean one");
    }
}

/// A write fails: nothing in it or behind it is acknowledged, and everybody is answered.
fn failing_write() {
    let config = up_to(3);
    let world = World::open(Setup { config, ..setup() });
    world.disk.fail_in(below(4));
    let ask = |as_task: bool| {
        spawn(&world, move |world: &World| {
            let mut places = Vec::new();
            for _ in 0..2 {
                let Ok((pending, mark)) = world.append(9 << 10) else { break };
                let lsn = pending.lsn();
                places.push((lsn, mark));
                match if as_task { block_on(pending) } else { pending.wait() } {
                    Ok(_) => world.acknowledged(lsn, mark),
                    Err(Error::Poisoned { .. } | Error::Unknown { .. }) => {}
                    Err(error) => panic!("{lsn} beside a failure: {error}"),
                }
            }
            places
        })
    };
    let places: Vec<(Lsn, u32)> = join([ask(false), ask(true), ask(false)]).concat();
    let (failed, acknowledged) = (world.disk.failed(), world.disk.acknowledged());
    for (lsn, _) in places.iter().filter(|(_, mark)| failed.contains(mark)) {
        let later = acknowledged.iter().find(|(told, _)| told >= &lsn.get());
        assert!(later.is_none(), "{lsn} failed, {later:?} was acknowledged");
        assert!(world.log.append(b"late").is_err(), "appended behind a failure");
    }
    let disk = world.disk.clone();
    World::abandon(world);
    World::reopen(&disk.image(), &acknowledged);
}

/// Batches are whole and consecutive beside others.
fn batches() {
    let world = open();
    let batch = |bytes: usize| {
        spawn(&world, move |world: &World| {
            let (records, marks): (Vec<Vec<u8>>, Vec<u32>) = (0..3).map(|_| world.record(bytes)).unzip();
            let pending = world.log.append_many(&records).expect("appended");
            let lsns = pending.lsns();
            assert_eq!(lsns.end.get() - lsns.start.get(), 3, "consecutive");
            pending.wait().expect("flushed");
            for (at, mark) in marks.iter().enumerate() {
                let lsn = Lsn::new(lsns.start.get() + at as u64);
                world.acknowledged(lsn, *mark);
                assert_eq!(world.seen(&world.log.read(lsn).expect("read")), *mark, "somebody came in between");
            }
        })
    };
    // The second's records do not fit into what may be in flight at once.
    let large = if one_in(2) { 32 } else { 24 << 10 };
    let single = spawn(&world, |world| world.append_and_wait_for(1, 32));
    join([batch(32), batch(large), single]);
    assert_eq!(world.log.flushed(), Lsn::new(7), "positions are dense");
    World::end(world);
}

/// Whoever waits for room gets it: threads, tasks, and those who were told that there is none.
fn room() {
    let world = open();
    let hold = |bytes: usize| {
        spawn(&world, move |world: &World| {
            for _ in 0..2 {
                let (pending, mark) = world.append(bytes).expect("appended");
                let lsn = pending.lsn();
                if one_in(2) {
                    world.told(lsn, mark, &block_on(pending));
                }
            }
        })
    };
    let task = spawn(&world, |world| {
        let (record, mark) = world.record(40 << 10);
        let pending = loop {
            let permit = block_on(world.log.reserve(record.len() as u64)).expect("room");
            match permit.append(&record) {
                Ok(pending) => break pending,
                // Others took it.
                Err(Error::Busy { .. }) => {}
                Err(error) => panic!("with a permit: {error}"),
            }
        };
        let lsn = pending.lsn();
        world.told(lsn, mark, &block_on(pending));
    });
    let hasty = spawn(&world, |world| {
        let (record, mark) = world.record(24 << 10);
        match world.log.try_append(&record) {
            Ok(pending) => {
                let lsn = pending.lsn();
                world.told(lsn, mark, &pending.wait());
            }
            Err(Error::Busy { .. }) => {}
            Err(error) => panic!("a hasty append: {error}"),
        }
    });
    join([hold(30 << 10), hold(20 << 10), task, hasty]);
    World::end(world);
}
