//! What only a ring does: it breaks, is forbidden, or turns in an event loop.

use super::*;
use std::os::fd::{FromRawFd, OwnedFd};

fn driver() -> Option<Driver> {
    Driver::start(DriverConfig { backend: BackendChoice::IoUring, ..DriverConfig::default() })
        .inspect_err(|e| skipped(format_args!("io_uring: {e}")))
        .ok()
}

/// Puts another file under the ring's descriptor, so that the next wait on it fails.
#[allow(unsafe_code)]
fn break_ring(driver: &Driver) {
    let fd = driver.0.running.get().unwrap().0.ring_fd.load(Ordering::Relaxed);
    // SAFETY: the descriptor is open and stays its owner's: this value is forgotten.
    let mut fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::dup2(std::fs::File::open("/dev/null").unwrap(), &mut fd).unwrap();
    std::mem::forget(fd);
}

#[test]
fn a_broken_ring_tells_every_write_and_the_pool_goes_on() {
    let Some(driver) = driver() else { return };
    let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
    let file = Arc::new(disk.create("a").unwrap());
    let buffers: Vec<_> = (0..2000).map(|_| block(1)).collect();
    for (number, buffer) in buffers.iter().enumerate() {
        disk.submit(write(&file, number as u64, vec![buffer.clone()]));
    }
    break_ring(&driver);
    disk.kick();
    wait_for(&client.told, 2000);
    let mut failed = 0;
    for (number, result) in &*client.ends.lock() {
        let is_leaked = Arc::strong_count(&buffers[*number as usize]) > 1;
        match result {
            Ok(_) => assert!(!is_leaked),
            Err(e) => {
                failed += 1;
                assert!(is_leaked, "the kernel may still read a buffer whose write ended unseen");
                assert!(e.to_string().starts_with("the ring failed"), "{e}");
            }
        }
    }
    assert!(failed <= 128, "one directory has half of the ring");
    wait_until("the ring is given up", || !driver.0.running.get().unwrap().0.has_ring.load(Ordering::Relaxed));

    let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
    let medium = disk.medium();
    assert_eq!(medium.backend, Backend::Pwrite);
    assert!(medium.backend_reason.unwrap().starts_with("the ring failed"));
    let file = Arc::new(disk.create("a").unwrap());
    disk.submit(write(&file, 0, vec![block(1)]));
    disk.kick();
    wait_for(&client.told, 1);
    wait_for(&client.drives, 1);
    assert!(client.ends.lock()[&0].is_ok());
}

fn in_event_loop() -> Option<(Driver, DriverLoop)> {
    Driver::in_event_loop(DriverConfig::default())
        .inspect_err(|e| skipped(format_args!("an event loop, which needs io_uring: {e}")))
        .ok()
}

#[test]
fn a_loop_whose_ring_breaks_goes_on_in_a_thread() {
    let Some((driver, driver_loop)) = in_event_loop() else { return };
    let turning = turn_on_a_thread(driver_loop, Arc::default());
    let Place { disk, client, _dir } = place(&driver, DirectIo::Require);
    let file = Arc::new(disk.create("a").unwrap());
    assert!(disk.hold(&file, Hold::Exclusive).unwrap());
    disk.submit(write(&file, 0, vec![block(1)]));
    wait_for(&client.told, 1);
    break_ring(&driver);
    let buffer = block(1);
    disk.submit(write(&file, 1, vec![buffer.clone()]));
    wait_for(&client.told, 2);
    let failed = client.ends.lock()[&1].as_ref().unwrap_err().to_string();
    assert!(failed.starts_with("the ring failed"), "{failed}");
    assert!(Arc::strong_count(&buffer) > 1, "the kernel may still read a buffer whose write ended unseen");
    for hold in [Hold::Shared, Hold::Released] {
        disk.hold(&file, hold).unwrap();
        let other = disk.open("a").unwrap();
        assert!(!disk.hold(&other, Hold::Shared).unwrap(), "the kernel may still write to the file");
    }
    turning.join().unwrap();
    disk.submit(write(&file, 2, vec![block(1)]));
    wait_for(&client.told, 3);
    assert!(client.ends.lock()[&2].is_ok());
    client.ends.lock().clear();
    drop(file);
    let other = disk.open("a").unwrap();
    wait_until("the claim ends with its file", || disk.hold(&other, Hold::Exclusive).unwrap());
    assert_eq!(driver.connect(true).unwrap().1, Backend::Pwrite);
}

/// With writes in the ring and others that nobody has taken yet.
#[test]
fn a_loop_that_is_dropped_goes_on_in_a_thread() {
    let Some((driver, driver_loop)) = in_event_loop() else { return };
    let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
    let file = Arc::new(disk.create("a").unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let turning = turn_on_a_thread(driver_loop, is_over.clone());
    for number in 0..2000 {
        if number == 1000 {
            is_over.store(true, Ordering::Relaxed);
            disk.kick();
        }
        disk.submit(write(&file, number, vec![block(1)]));
    }
    turning.join().unwrap();
    wait_for(&client.told, 2000);
    assert!(client.ends.lock().values().all(Result::is_ok));
    *client.again.lock() = Some(10 * MS);
    let drives = client.drives.load();
    disk.kick();
    wait_for(&client.drives, drives + 2);
}

#[test]
fn an_alarm_is_moved_to_an_earlier_time() {
    let Some((driver, driver_loop)) = in_event_loop() else { return };
    let _turning = turn_on_a_thread(driver_loop, Arc::default());
    let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
    for number in 0..300 {
        let drives = client.drives.load();
        *client.again.lock() = Some(Duration::from_secs(3600));
        disk.kick();
        wait_for(&client.drives, drives + 1);
        *client.again.lock() = Some(Duration::from_micros(number % 200));
        disk.kick();
        wait_for(&client.drives, drives + 3);
    }
}

/// It slept without an alarm where one had gone off between the look at the deadlines and the look at the ring.
#[test]
fn an_alarm_that_goes_off_while_the_loop_is_busy_is_not_lost() {
    let Some((driver, driver_loop)) = in_event_loop() else { return };
    let _turning = turn_on_a_thread(driver_loop, Arc::default());
    let (late, busy) = (place(&driver, DirectIo::Auto), place(&driver, DirectIo::Auto));
    for number in 0..20_000 {
        let drives = late.client.drives.load();
        *late.client.again.lock() = Some(Duration::from_micros(20));
        late.disk.kick();
        for _ in 0..number % 40 {
            busy.disk.kick();
        }
        wait_for(&late.client.drives, drives + 2);
    }
}

#[test]
fn positional_writes_have_no_event_loop() {
    let config = DriverConfig { backend: BackendChoice::Pwrite, ..DriverConfig::default() };
    assert_eq!(Driver::in_event_loop(config).unwrap_err().kind(), io::ErrorKind::Unsupported);
}

/// A filter that answers EPERM to io_uring_setup, for this thread and those it starts.
#[allow(unsafe_code)]
fn forbid_io_uring() {
    #[repr(C)]
    struct Instruction(u16, u8, u8, u32);
    #[repr(C)]
    struct Program(u16, *const Instruction);
    // SAFETY: as the system's headers declare it.
    unsafe extern "C" {
        fn prctl(option: i32, ...) -> i32;
    }
    const PR_SET_SECCOMP: i32 = 22;
    const SECCOMP_MODE_FILTER: usize = 2;
    const IO_URING_SETUP: u32 = 425;
    let program = [
        Instruction(0x20, 0, 0, 0),              // load the system call's number
        Instruction(0x15, 0, 1, IO_URING_SETUP), // another one: skip the next
        Instruction(0x06, 0, 0, 0x0005_0001),    // EPERM
        Instruction(0x06, 0, 0, 0x7fff_0000),    // allow
    ];
    let program = Program(program.len() as u16, program.as_ptr());
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the program outlives the call, which copies it.
    assert_eq!(unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) }, 0);
}

#[test]
fn a_forbidden_ring_is_reported_and_replaced() {
    std::thread::spawn(|| {
        forbid_io_uring();
        let start = |backend| Driver::start(DriverConfig { backend, ..DriverConfig::default() });
        assert_eq!(start(BackendChoice::IoUring).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let driver = start(BackendChoice::Auto).unwrap();
        let Place { disk, client, _dir } = place(&driver, DirectIo::Auto);
        let medium = disk.medium();
        assert_eq!(medium.backend, Backend::Pwrite);
        assert!(medium.backend_reason.unwrap().contains("not permitted"));
        let file = Arc::new(disk.create("a").unwrap());
        disk.submit(write(&file, 0, vec![block(1)]));
        wait_for(&client.told, 1);
        assert!(client.ends.lock()[&0].is_ok());
    })
    .join()
    .unwrap();
}
