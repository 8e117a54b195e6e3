//! The driver with real files, both ways of writing, with and without O_DIRECT.

#[cfg(feature = "io-uring")]
mod ring;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Weak, mpsc};
use std::time::{Duration, Instant};

#[cfg(feature = "io-uring")]
use super::super::Hold;
use super::super::disk::{Access, Disk, DiskFile};
use super::super::futex::Futex;
use super::super::skip::skipped;
use super::super::{Buffer, Client, GroupWrite, Storage, WriteTimes};
use super::*;
use crate::config::DirectIo;

const BLOCK: usize = 4096;
const MS: Duration = Duration::from_millis(1);

/// A client that writes down what it is told.
#[derive(Default)]
struct Recorder {
    ends: Mutex<BTreeMap<u64, io::Result<WriteTimes>>>,
    /// Ends told, for waiting.
    told: Futex,
    drives: Futex,
    /// What `drive` answers, once.
    again: Mutex<Option<Duration>>,
    panics: AtomicBool,
    panicked: AtomicU32,
}

impl Client<DiskFile> for Recorder {
    fn complete(&self, write: GroupWrite<DiskFile>, result: io::Result<WriteTimes>) {
        assert_called_by_the_carrier();
        let twice = self.ends.lock().insert(write.token, result);
        assert!(twice.is_none(), "told twice");
        drop(write);
        self.told.bump();
        self.told.wake_all();
        assert!(!self.panics.load(Ordering::Relaxed), "a bug in a client");
    }

    fn drive(&self) -> Option<Duration> {
        assert_called_by_the_carrier();
        // Before anybody hears of it: what is set then is for the next time.
        let again = self.again.lock().take();
        self.drives.bump();
        self.drives.wake_all();
        assert!(!self.panics.load(Ordering::Relaxed), "a bug in a client");
        again
    }

    fn panicked(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
        panic!("one more bug in a client");
    }
}

fn assert_called_by_the_carrier() {
    let thread = std::thread::current();
    assert!(matches!(thread.name(), Some(THREAD_NAME | LOOP_NAME)), "called by {:?}", thread.name());
}

/// The thread of an event loop that has nothing else to do.
const LOOP_NAME: &str = "test-loop";

/// Turns the loop on a thread, until `is_over` or nobody needs it.
#[cfg(feature = "io-uring")]
fn turn_on_a_thread(mut driver_loop: DriverLoop, is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    struct Bell(std::os::fd::OwnedFd);
    impl std::task::Wake for Bell {
        fn wake(self: Arc<Self>) {
            rustix::io::write(&self.0, &1u64.to_ne_bytes()).unwrap();
        }
    }
    let turns = move || {
        use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
        let bell = Arc::new(Bell(eventfd(0, EventfdFlags::NONBLOCK).unwrap()));
        // As an executor watches it: by edges.
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&edges, &driver_loop, epoll::EventData::new_u64(0), flags).unwrap();
        let waker = std::task::Waker::from(bell.clone());
        while driver_loop.turn(&waker).is_pending() && !is_over.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(&edges, PollFlags::IN), PollFd::new(&bell.0, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let _ = rustix::io::read(&bell.0, &mut [0; 8]);
            let mut events = Vec::with_capacity(1);
            epoll::wait(&edges, rustix::buffer::spare_capacity(&mut events), Some(&Default::default())).unwrap();
        }
    };
    std::thread::Builder::new().name(LOOP_NAME.to_owned()).spawn(turns).unwrap()
}

fn wait_for(word: &Futex, at_least: u32) {
    let start = Instant::now();
    loop {
        let value = word.load();
        if value >= at_least {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long: {value} of {at_least}");
        word.wait(value, Some(100 * MS));
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited too long until {what}");
        std::thread::sleep(MS);
    }
}

struct Place {
    disk: Disk,
    client: Arc<Recorder>,
    _dir: tempfile::TempDir,
}

fn place(driver: &Driver, direct: DirectIo) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), driver, Access::ReadWrite { create: false }, direct).unwrap();
    let client = Arc::new(Recorder::default());
    disk.attach(weak(&client));
    Place { disk, client, _dir: dir }
}

fn weak(client: &Arc<Recorder>) -> Weak<dyn Client<DiskFile>> {
    let client: Arc<dyn Client<DiskFile>> = client.clone();
    Arc::downgrade(&client)
}

/// One driver of each kind that works here.
fn drivers(ring_entries: u32) -> Vec<Driver> {
    let start = |backend| Driver::start(DriverConfig { backend, ring_entries, ..DriverConfig::default() });
    let mut drivers = vec![start(BackendChoice::Pwrite).unwrap()];
    match start(BackendChoice::IoUring) {
        Ok(driver) => drivers.push(driver),
        Err(e) => skipped(format_args!("io_uring: {e}")),
    }
    #[cfg(feature = "io-uring")]
    match Driver::in_event_loop(DriverConfig { ring_entries, ..DriverConfig::default() }) {
        Ok((driver, driver_loop)) => {
            _ = turn_on_a_thread(driver_loop, Arc::default());
            drivers.push(driver);
        }
        Err(e) => skipped(format_args!("an event loop, which needs io_uring: {e}")),
    }
    drivers
}

fn everywhere(test: impl Fn(&Place)) {
    for driver in drivers(256) {
        for direct in [DirectIo::Auto, DirectIo::Never] {
            test(&place(&driver, direct));
        }
    }
}

fn block(fill: u8) -> Arc<Buffer> {
    let mut buffer = Buffer::new(BLOCK);
    buffer.set_len(BLOCK);
    buffer.fill(fill);
    Arc::new(buffer)
}

fn write(file: &Arc<DiskFile>, number: u64, parts: Vec<Arc<Buffer>>) -> GroupWrite<DiskFile> {
    GroupWrite { file: file.clone(), offset: number * BLOCK as u64, parts, token: number }
}

#[test]
fn submitted_writes_complete_and_can_be_read() {
    everywhere(|Place { disk, client, .. }| {
        let file = Arc::new(disk.create("a").unwrap());
        disk.allocate(&file, 64 * BLOCK as u64).unwrap();
        for number in 0..16 {
            let parts = (0..number % 4 + 1).map(|part| block((number * 4 + part) as u8)).collect();
            disk.submit(write(&file, number * 4, parts));
        }
        wait_for(&client.told, 16);
        for result in client.ends.lock().values() {
            let times = result.as_ref().unwrap();
            assert_eq!(times.write.is_zero(), disk.medium().direct);
            assert!(!times.flush.is_zero());
        }
        let mut read = Buffer::new(64 * BLOCK);
        assert_eq!(disk.read_at(&file, 0, 64 * BLOCK, &mut read).unwrap(), 64 * BLOCK);
        for number in 0..64 {
            let (write, part) = (number / 4, number % 4);
            let fill = if part <= write % 4 { number as u8 } else { 0 };
            assert!(read[number * BLOCK..][..BLOCK].iter().all(|byte| *byte == fill), "block {number}");
        }
    });
}

#[test]
fn ten_thousand_submits_at_once_all_complete() {
    for driver in drivers(16) {
        let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
        let file = Arc::new(disk.create("a").unwrap());
        disk.allocate(&file, 64 * BLOCK as u64).unwrap();
        let parts = vec![block(1)];
        for number in 0..10_000 {
            let offset = number % 64 * BLOCK as u64;
            disk.submit(GroupWrite { offset, token: number, ..write(&file, 0, parts.clone()) });
        }
        wait_for(&client.told, 10_000);
        assert!(client.ends.lock().values().all(Result::is_ok));
    }
}

/// Threads are started for writes only where trying them was not ruled out.
#[cfg(feature = "io-uring")]
#[test]
fn both_ways_are_tried_unless_one_was_chosen() {
    for (backend, is_tried) in [(BackendChoice::Auto, true), (BackendChoice::IoUring, false)] {
        let driver = match Driver::start(DriverConfig { backend, ..DriverConfig::default() }) {
            Ok(driver) if driver.running().unwrap().has_ring.load(Ordering::Relaxed) => driver,
            _ => return skipped(format_args!("no io_uring")),
        };
        let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
        let file = Arc::new(disk.create("a").unwrap());
        disk.allocate(&file, 64 * BLOCK as u64).unwrap();
        for number in 0..200 {
            let offset = number % 64 * BLOCK as u64;
            disk.submit(GroupWrite { offset, ..write(&file, number, vec![block(number as u8)]) });
            wait_for(&client.told, number as u32 + 1);
        }
        assert_eq!(driver.running().unwrap().writers.threads() > 0, is_tried, "{backend:?}");
        let mut read = Buffer::new(64 * BLOCK);
        assert_eq!(disk.read_at(&file, 0, 64 * BLOCK, &mut read).unwrap(), 64 * BLOCK);
        for number in 136..200usize {
            assert!(read[number % 64 * BLOCK..][..BLOCK].iter().all(|byte| *byte == number as u8), "block {number}");
        }
    }
}

#[test]
fn many_directories_share_one_driver() {
    for driver in drivers(2) {
        let places: Vec<Place> = (0..20).map(|_| place(&driver, DirectIo::Auto)).collect();
        for Place { disk, .. } in &places {
            let file = Arc::new(disk.create("a").unwrap());
            for number in 0..20 {
                disk.submit(write(&file, number, vec![block(1)]));
            }
        }
        for Place { client, .. } in &places {
            wait_for(&client.told, 20);
            assert!(client.ends.lock().values().all(Result::is_ok));
        }
    }
}

#[test]
fn more_parts_than_one_system_call_takes() {
    everywhere(|Place { disk, client, .. }| {
        let file = Arc::new(disk.create("a").unwrap());
        let parts: Vec<_> = (0..1500u32).map(|part| block(part as u8)).collect();
        disk.submit(write(&file, 0, parts));
        wait_for(&client.told, 1);
        client.ends.lock()[&0].as_ref().unwrap();
        let mut read = Buffer::new(BLOCK);
        for part in [0, 1023, 1024, 1499] {
            disk.read_at(&file, part * BLOCK as u64, BLOCK, &mut read).unwrap();
            assert_eq!(read[0], part as u8);
        }
        assert_eq!(disk.len(&file).unwrap(), 1500 * BLOCK as u64);
    });
}

#[test]
fn a_refused_write_is_an_error_and_only_its_own() {
    everywhere(|Place { disk, client, _dir }| {
        let file = Arc::new(disk.create("a").unwrap());
        let driver = Driver::shared();
        let reader = Disk::open(_dir.path(), &driver, Access::ReadOnly, DirectIo::Auto).unwrap();
        let read_only = Arc::new(reader.open("a").unwrap());
        disk.submit(write(&read_only, 1, vec![block(1)]));
        disk.submit(write(&file, 2, vec![block(2)]));
        wait_for(&client.told, 2);
        let ends = client.ends.lock();
        let error = ends[&1].as_ref().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        assert!(ends[&2].is_ok());
        drop(ends);
        if disk.medium().direct {
            disk.submit(GroupWrite { offset: 100, ..write(&file, 3, vec![block(3)]) });
            wait_for(&client.told, 3);
            // A file system that takes O_DIRECT and does not care for alignment is none of our business.
            if let Err(error) = &client.ends.lock()[&3] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        }
    });
}

/// The limit on a file's size cuts a write that crosses it, without a signal, and refuses one beyond it, with one
/// (SIGXFSZ, ignored here). It is the whole process's, so the test runs itself again as a process of its own.
#[test]
fn a_short_write_is_an_error() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", &format!("{module}::short_writes_in_a_process_of_its_own")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "run by a_short_write_is_an_error"]
#[allow(unsafe_code)]
fn short_writes_in_a_process_of_its_own() {
    // SAFETY: as the system's headers declare it.
    unsafe extern "C" {
        safe fn signal(number: i32, handler: usize) -> usize;
    }
    const SIGXFSZ: i32 = 25;
    const SIG_IGN: usize = 1;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    everywhere(|Place { disk, client, .. }| {
        let file = Arc::new(disk.create("a").unwrap());
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(2 * BLOCK as u64), maximum: before.maximum }).unwrap();
        // Refused by ourselves: SIGXFSZ would end the process at this point.
        let error = disk.allocate(&file, 3 * BLOCK as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::FBIG.raw_os_error()));
        signal(SIGXFSZ, SIG_IGN);
        disk.submit(write(&file, 0, vec![block(1), block(2), block(3)]));
        disk.submit(write(&file, 1, vec![block(2), block(3)]));
        disk.submit(write(&file, 2, vec![block(3)]));
        wait_for(&client.told, 3);
        let short = disk.write_flushed(&file, 0, &[block(1), block(2), block(3)]).unwrap_err();
        setrlimit(Resource::Fsize, before).unwrap();
        assert_eq!(short.to_string(), "short write: 8192 of 12288 bytes");
        let ends = client.ends.lock();
        assert_eq!(ends[&0].as_ref().unwrap_err().to_string(), "short write: 8192 of 12288 bytes");
        assert_eq!(ends[&1].as_ref().unwrap_err().to_string(), "short write: 4096 of 8192 bytes");
        assert_eq!(ends[&2].as_ref().unwrap_err().raw_os_error(), Some(rustix::io::Errno::FBIG.raw_os_error()));
    });
}

#[test]
fn kicks_are_coalesced_and_deadlines_fire() {
    everywhere(|Place { disk, client, .. }| {
        *client.again.lock() = Some(30 * MS);
        let start = Instant::now();
        disk.kick();
        wait_for(&client.drives, 1);
        assert!(start.elapsed() < 20 * MS || client.drives.load() == 1);
        wait_for(&client.drives, 2);
        let took = start.elapsed();
        assert!(took >= 30 * MS, "{took:?}");
        std::thread::sleep(20 * MS);
        assert_eq!(client.drives.load(), 2, "no answer, no further drive");
        let before = client.drives.load();
        for _ in 0..100_000 {
            disk.kick();
        }
        wait_until("the last kick is served", || client.drives.load() > before);
        std::thread::sleep(5 * MS);
        assert!(client.drives.load() - before <= 100_000);
    });
}

/// A client that writes blocks one after another from within its callbacks, as a log does.
struct Chain {
    place: std::sync::OnceLock<(Weak<Disk>, Arc<DiskFile>)>,
    left: AtomicUsize,
    in_flight: AtomicBool,
    drives: AtomicU32,
    done: Futex,
}

impl Client<DiskFile> for Chain {
    fn panicked(&self) {}

    fn complete(&self, _: GroupWrite<DiskFile>, result: io::Result<WriteTimes>) {
        result.unwrap();
        self.in_flight.store(false, Ordering::Relaxed);
        self.place.get().unwrap().0.upgrade().unwrap().kick();
    }

    fn drive(&self) -> Option<Duration> {
        self.drives.fetch_add(1, Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            self.done.bump();
            self.done.wake_all();
        } else if !self.in_flight.swap(true, Ordering::Relaxed) {
            self.left.store(left - 1, Ordering::Relaxed);
            let (disk, file) = self.place.get().unwrap();
            let disk = disk.upgrade().unwrap();
            disk.submit(write(file, left as u64 % 64, vec![block(1)]));
            assert!(self.in_flight.load(Ordering::Relaxed), "an end told from within submit");
        }
        None
    }
}

#[test]
fn a_client_can_submit_and_kick_from_its_callbacks() {
    for driver in drivers(256) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), &driver, Access::ReadWrite { create: true }, DirectIo::Auto).unwrap();
        let disk = Arc::new(disk);
        let chain = Arc::new(Chain {
            place: std::sync::OnceLock::new(),
            left: AtomicUsize::new(200),
            in_flight: AtomicBool::new(false),
            drives: AtomicU32::new(0),
            done: Futex::new(0),
        });
        chain.place.set((Arc::downgrade(&disk), Arc::new(disk.create("a").unwrap()))).ok().unwrap();
        let client: Arc<dyn Client<DiskFile>> = chain.clone();
        disk.attach(Arc::downgrade(&client));
        disk.kick();
        wait_for(&chain.done, 1);
        assert!(chain.drives.load(Ordering::Relaxed) <= 202);
    }
}

#[test]
fn a_dropped_client_is_forgotten_and_its_writes_finish() {
    everywhere(|Place { disk, client, .. }| {
        let file = Arc::new(disk.create("a").unwrap());
        let gone = Arc::new(Recorder::default());
        *gone.again.lock() = Some(MS);
        disk.attach(weak(&gone));
        disk.kick();
        let buffer = block(9);
        for number in 0..50 {
            disk.submit(write(&file, number, vec![buffer.clone()]));
        }
        drop(gone);
        wait_until("the buffers come back", || Arc::strong_count(&buffer) == 1);
        let mut read = Buffer::new(50 * BLOCK);
        assert_eq!(disk.read_at(&file, 0, 50 * BLOCK, &mut read).unwrap(), 50 * BLOCK);
        assert!(read.iter().all(|byte| *byte == 9));
        disk.attach(weak(client));
        disk.kick();
        wait_for(&client.drives, 1);
    });
}

#[test]
fn a_panic_in_one_client_is_not_felt_by_another() {
    for driver in drivers(256) {
        let (bad, good) = (place(&driver, DirectIo::Auto), place(&driver, DirectIo::Auto));
        let (bad_file, good_file) = (Arc::new(bad.disk.create("a").unwrap()), Arc::new(good.disk.create("a").unwrap()));
        bad.client.panics.store(true, Ordering::Relaxed);
        bad.disk.kick();
        wait_for(&bad.client.drives, 1);
        good.disk.kick();
        wait_for(&good.client.drives, 1);
        bad.disk.submit(write(&bad_file, 0, vec![block(1)]));
        bad.disk.kick();
        good.disk.submit(write(&good_file, 0, vec![block(1)]));
        wait_for(&good.client.told, 1);
        assert_eq!((bad.client.drives.load(), bad.client.told.load()), (1, 0), "it is not called again");
        assert_eq!(bad.client.panicked.load(Ordering::Relaxed), 1, "but for being told so");

        // It panics while it is told.
        bad.disk.attach(weak(&bad.client));
        bad.disk.submit(write(&bad_file, 1, vec![block(1)]));
        wait_for(&bad.client.told, 1);
        good.disk.submit(write(&good_file, 1, vec![block(1)]));
        wait_for(&good.client.told, 2);
    }
}

#[test]
fn background_jobs_of_a_directory_run_in_order_and_survive_a_panic() {
    let driver = Driver::start(DriverConfig { backend: BackendChoice::Pwrite, ..DriverConfig::default() }).unwrap();
    let places: Vec<Place> = (0..8).map(|_| place(&driver, DirectIo::Never)).collect();
    let (done, ends) = mpsc::channel();
    let running: Arc<[AtomicU32; 8]> = Arc::default();
    for number in 0..200 {
        for (which, Place { disk, .. }) in places.iter().enumerate() {
            let (done, running) = (done.clone(), running.clone());
            disk.background(Box::new(move || {
                assert_eq!(running[which].fetch_add(1, Ordering::Relaxed), 0);
                assert_eq!(std::thread::current().name(), Some("seawall-bg"));
                done.send((which, number)).unwrap();
                running[which].fetch_sub(1, Ordering::Relaxed);
                assert!(number != 100, "a bug in a job");
            }));
        }
    }
    drop(done);
    let mut next = [0; 8];
    for (which, number) in ends {
        assert_eq!(number, next[which]);
        next[which] += 1;
    }
    assert_eq!(next, [200; 8]);
}

#[test]
fn threads_end_with_the_last_handle_but_not_before_the_last_write() {
    for driver in drivers(256) {
        let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
        let shared = Arc::downgrade(&driver.0.running.get().unwrap().0);
        let file = Arc::new(disk.create("a").unwrap());
        for number in 0..100 {
            disk.submit(write(&file, number, vec![block(1)]));
        }
        let (ran, runs) = mpsc::channel();
        disk.background(Box::new(move || {
            std::thread::sleep(20 * MS);
            ran.send(()).unwrap();
        }));
        drop(driver);
        drop(disk);
        drop(file);
        wait_for(&client.told, 100);
        assert!(client.ends.lock().values().all(Result::is_ok));
        runs.recv().unwrap();
        wait_until("the threads are gone", || shared.strong_count() == 0);
    }
}

#[test]
fn an_unused_driver_ends_as_well() {
    for driver in drivers(256) {
        let shared = Arc::downgrade(&driver.0.running.get().unwrap().0);
        let another = driver.clone();
        drop(driver);
        std::thread::sleep(5 * MS);
        assert!(shared.strong_count() > 0);
        drop(another);
        wait_until("the thread is gone", || shared.strong_count() == 0);
    }
}

#[test]
fn the_shared_driver_is_one() {
    let (a, b) = (Driver::shared(), Driver::shared());
    assert!(Arc::ptr_eq(&a.0, &b.0));
    let Place { disk, client, _dir } = place(&a, DirectIo::Auto);
    disk.kick();
    wait_for(&client.drives, 1);
}

#[test]
fn pwrite_by_choice_gives_no_reason() {
    let driver = Driver::start(DriverConfig { backend: BackendChoice::Pwrite, ..DriverConfig::default() }).unwrap();
    let medium = place(&driver, DirectIo::Auto).disk.medium();
    assert_eq!((medium.backend, medium.backend_reason), (Backend::Pwrite, None));
}
