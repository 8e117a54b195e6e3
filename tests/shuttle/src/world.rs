//! A log, opened, with what every scenario asks of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use seawall::{Config, Error, Frame, Log, Lsn, Recovery, model};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::JoinHandle;

use crate::disk::{Disk, Image, Lie, mark_of, record};
use crate::driver::Driver;

pub(crate) type Pending = seawall::Pending<Disk>;

/// A patience that no scenario outlives.
pub(crate) const FOREVER: Duration = Duration::from_secs(3600);

/// A group that threads sleep for is written by the driver after so long: somebody ought to have been woken before.
const SWEPT_MICROS: u64 = 80_000;

/// How a scenario's log is opened.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) lie: Lie,
    /// See [`crate::driver`].
    pub(crate) is_patient: bool,
}

/// The least of everything: 64 KiB segments, no more in flight than that.
pub(crate) fn small() -> Config {
    Config {
        record_bytes_max: 48 << 10,
        in_flight_bytes_max: 64 << 10,
        group_bytes_max: 64 << 10,
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        memory_tail_bytes: 16 << 10,
        idle_proof_after: Duration::from_millis(20),
        // No schedule lasts long enough to find out by measuring.
        flush_depth_min: Config::default().flush_depth_max,
        ..Config::default()
    }
}

/// What threads of a scenario share.
pub(crate) struct World {
    pub(crate) log: Log<Disk>,
    pub(crate) disk: Disk,
    driver: Arc<Driver>,
    threads: [JoinHandle<()>; 2],
    marks: AtomicU32,
    is_patient: bool,
}

/// A log as it is created, made once: schedules begin behind that.
static FRESH: OnceLock<Image> = OnceLock::new();

/// Makes what all schedules begin with. Called once, in a schedule of its own.
pub(crate) fn prepare() {
    let (log, disk, driver, threads, _) = open(&Image::default(), Driver::new(false), small(), Lie::None);
    log.close(FOREVER).expect("a fresh log closes");
    end(&driver, threads);
    let _ = FRESH.set(disk.image());
}

type Opened = (Log<Disk>, Disk, Arc<Driver>, [JoinHandle<()>; 2], Recovery);

fn open(image: &Image, driver: Arc<Driver>, config: Config, lie: Lie) -> Opened {
    let disk = Disk::new(image, driver.clone(), lie);
    let threads = driver.start(&disk);
    let (log, recovery) = Log::open_on(disk.clone(), config).expect("the log opens");
    (log, disk, driver, threads, recovery)
}

fn end(driver: &Driver, threads: [JoinHandle<()>; 2]) {
    driver.end();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread below the log"));
}

/// One in so many.
pub(crate) fn one_in(count: u32) -> bool {
    thread_rng().gen_range(0..count) == 0
}

/// Any number below.
pub(crate) fn below(count: u32) -> u32 {
    thread_rng().gen_range(0..count)
}

/// A thread of the scenario.
pub(crate) fn spawn<T: Send + 'static>(
    world: &Arc<World>,
    run: impl FnOnce(&World) -> T + Send + 'static,
) -> JoinHandle<T> {
    let world = world.clone();
    shuttle::thread::spawn(move || run(&world))
}

/// Waits for all.
pub(crate) fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("a thread of the scenario")).collect()
}

impl World {
    pub(crate) fn open(setup: Setup) -> Arc<World> {
        model::reset_clock();
        let image = FRESH.get().expect("prepared");
        let driver = Driver::new(setup.is_patient);
        let (log, disk, driver, threads, _) = open(image, driver, setup.config, setup.lie);
        if one_in(2) {
            disk.picture_in(below(12));
        }
        Arc::new(World { log, disk, driver, threads, marks: AtomicU32::new(1), is_patient: setup.is_patient })
    }

    /// A record that was never there, and its mark.
    pub(crate) fn record(&self, bytes: usize) -> (Vec<u8>, u32) {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        (record(mark, bytes), mark)
    }

    pub(crate) fn append(&self, bytes: usize) -> Result<(Pending, u32), Error> {
        let (record, mark) = self.record(bytes);
        Ok((self.log.append(&record)?, mark))
    }

    /// Appends and waits; judges the answer.
    pub(crate) fn append_and_wait(&self, bytes: usize) -> Lsn {
        let (pending, mark) = self.append(bytes).expect("appended");
        let lsn = pending.lsn();
        self.told(lsn, mark, &pending.wait());
        lsn
    }

    /// One record after the other.
    pub(crate) fn append_and_wait_for(&self, records: u32, bytes: usize) {
        for _ in 0..records {
            self.append_and_wait(bytes);
        }
    }

    /// An answer to an append: it is `Ok` and true.
    pub(crate) fn told(&self, lsn: Lsn, mark: u32, answer: &Result<Lsn, Error>) {
        assert_eq!(*answer.as_ref().expect("nothing failed"), lsn, "the answer to another record");
        self.acknowledged(lsn, mark);
    }

    /// An answer that is `Ok` is true.
    pub(crate) fn acknowledged(&self, lsn: Lsn, mark: u32) {
        self.disk.acknowledge(lsn.get(), mark);
        assert!(
            self.log.flushed() >= lsn || self.log.watermarks().appended < lsn,
            "{lsn} is acknowledged, not flushed"
        );
    }

    /// A frame was shown to somebody; its mark.
    pub(crate) fn seen(&self, frame: &Frame) -> u32 {
        let mark = mark_of(&frame.payload);
        self.disk.expect_flushed(mark);
        mark
    }

    /// Everything acknowledged stands at its place, and frames follow each other.
    fn judge(log: &Log<Disk>, acknowledged: &[(u64, u32)]) {
        let mut frames = Vec::new();
        for frame in log.reader(log.first()) {
            let frame = frame.expect("what is there can be read");
            frames.push((frame.lsn.get(), mark_of(&frame.payload)));
        }
        let first = log.first().get();
        assert!(frames.iter().zip(first..).all(|((lsn, _), expected)| *lsn == expected), "not dense: {frames:?}");
        for told in acknowledged.iter().filter(|(lsn, _)| *lsn >= first) {
            assert!(frames.contains(told), "{told:?} was acknowledged, and is not among {frames:?}");
        }
    }

    /// Ends the scenario with everything flushed, and judges what is there now and what a crash would have left.
    pub(crate) fn end(world: Arc<World>) {
        let end = world.log.watermarks().appended;
        assert!(world.log.flush().expect("flushed") >= end, "a flush ended too soon");
        let marks = world.log.watermarks();
        assert_eq!((marks.appended, marks.written), (marks.flushed, marks.flushed), "nothing is queued: {marks:?}");
        Self::judge(&world.log, &world.disk.acknowledged());
        world.missed_nobody();
        Self::abandon(world);
    }

    /// With a patient timer: every group was written by somebody who was awake, not by a sweep.
    fn missed_nobody(&self) {
        let waited = self.log.stats().queue_wait_micros.max;
        assert!(
            !self.is_patient || waited < SWEPT_MICROS,
            "a group was missed for {waited} us, until the driver swept it up"
        );
    }

    /// Ends the scenario as it is.
    pub(crate) fn abandon(world: Arc<World>) {
        let Ok(world) = Arc::try_unwrap(world) else { panic!("a thread still has the log") };
        let World { log, disk, driver, threads, .. } = world;
        drop(log);
        end(&driver, threads);
        if let Some((image, acknowledged)) = disk.picture() {
            Self::reopen(&image, &acknowledged);
        }
    }

    /// Opens what a crash left, and judges it.
    pub(crate) fn reopen(image: &Image, acknowledged: &[(u64, u32)]) -> Recovery {
        let (log, _, driver, threads, recovery) = open(image, Driver::new(false), small(), Lie::None);
        Self::judge(&log, acknowledged);
        drop(log);
        end(&driver, threads);
        recovery
    }
}
