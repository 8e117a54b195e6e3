//! The real log over it, on four media: what it acknowledged is there after the power was cut.

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::io::Errno;
use seawall::{BackendChoice, Config, DirectIo, Log, Lsn};
use seawall_faultfs::{Choice, Fault, Op, Options};

use crate::bed::Bed;
use crate::skip::skipped;

#[test]
fn a_log_keeps_what_it_acknowledged() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    for backend in [BackendChoice::Pwrite, BackendChoice::IoUring] {
        for direct_io in [DirectIo::Require, DirectIo::Never] {
            let config = Config { backend, direct_io, segment_bytes_min: 64 << 10, ..Config::default() };
            let dir = bed.path(&format!("{backend:?}-{direct_io:?}"));
            let start = Instant::now();
            let cycles = 20;
            let mut acknowledged = BTreeMap::new();
            for cycle in 0..cycles {
                let log = match Log::open(&dir, config.clone()) {
                    Ok((log, _)) => log,
                    Err(e) if cycle == 0 && backend == BackendChoice::IoUring => {
                        skipped(format!("io_uring over FUSE: {e}"));
                        break;
                    }
                    Err(e) => panic!("{backend:?}, {direct_io:?}, cycle {cycle}: {e}"),
                };
                for (lsn, record) in &acknowledged {
                    assert_eq!(&log.read(*lsn).unwrap().payload[..], record, "cycle {cycle}");
                }
                for nth in 0..8 {
                    let record = format!("{cycle}, {nth}").into_bytes();
                    let lsn = log.append(&record).unwrap().wait().unwrap();
                    acknowledged.insert(lsn, record);
                }
                bed.fs.cut_power();
                drop(log);
                bed.fs.reboot(if cycle % 2 == 0 { Choice::AllLost } else { Choice::Seeded(cycle) });
            }
            eprintln!("{backend:?}, {direct_io:?}: {:?} per crash", start.elapsed() / cycles as u32);
        }
    }
}

/// Bug: the file that direct I/O is tried on had the process's id in its name, and a power loss can undo its removal. The
/// next process with that id (in a container, always the same) found it there, and could never open the log again.
#[test]
fn a_file_left_by_the_try_of_direct_io_is_no_obstacle() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let (dir, config) = (bed.path("log"), Config { direct_io: DirectIo::Require, ..Config::default() });
    drop(Log::open(&dir, config.clone()).unwrap());
    let count_probes = || {
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("probe")).count()
    };
    let mut left = 0;
    for seed in 0..100 {
        // Not to where the names in the directory are made durable: that of the file, too, is gone then.
        bed.fs.fail(Fault::once(Op::SyncDir, 2, Errno::IO));
        assert!(Log::open(&dir, config.clone()).is_err());
        bed.fs.clear_faults();
        bed.fs.crash(Choice::Seeded(seed));
        left += count_probes();
    }
    assert!(left > 0, "no crash left the file: nothing was tested");
    drop(Log::open(&dir, config).unwrap());
    assert_eq!(count_probes(), 0);
}

/// Whoever serves a file system in user space may have a cache of his own, whatever he says of direct I/O.
#[test]
fn a_file_system_that_does_not_state_its_direct_io_is_not_believed_to_have_no_cache() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    for (direct_io, past_caches) in [(DirectIo::Auto, false), (DirectIo::Require, false), (DirectIo::Trust, true)] {
        let config = Config { direct_io, ..Config::default() };
        let (log, recovery) = Log::open(bed.path(&format!("{direct_io:?}")), config).unwrap();
        assert_eq!((recovery.medium.direct, recovery.medium.past_caches), (true, past_caches), "{direct_io:?}");
        log.append(b"written").unwrap().wait().unwrap();
    }
}

/// Bug: two groups were on their way to one file through the page cache. The flush of one failed, the kernel gave up the
/// pages of both and told only whoever asked first, and the flush of the other one succeeded: it was acknowledged, and
/// gone. Each thread has one record on its way, so that groups are many and small.
#[test]
fn a_flush_that_failed_takes_nothing_with_it_that_is_acknowledged() {
    const THREADS: u64 = 4;
    let Some(bed) = Bed::new(Options::default()) else { return };
    for backend in [BackendChoice::Pwrite, BackendChoice::Auto] {
        for direct_io in [DirectIo::Trust, DirectIo::Never] {
            let config = Config {
                backend,
                direct_io,
                flush_depth_min: THREADS as usize,
                gather: false,
                segment_bytes_min: 64 << 10,
                ..Config::default()
            };
            for round in 0..100 {
                let what = format!("{backend:?}-{direct_io:?}-{round}");
                let dir = bed.path(&what);
                let (log, _) = Log::open(&dir, config.clone()).unwrap();
                let fired = bed.fs.faults_fired();
                let fault = Fault::once(Op::Fsync, 8 + round % 24, rustix::io::Errno::IO);
                bed.fs.fail(Fault { name: Some(".seg".to_owned()), ..fault });
                let acknowledged: BTreeMap<Lsn, Vec<u8>> = std::thread::scope(|scope| {
                    let append = |thread: u64| {
                        let record = |nth: u64| format!("{thread}, {nth}").into_bytes();
                        // Until the log is poisoned, long before this many.
                        (0..1_000)
                            .map(record)
                            .map_while(|record| Some((log.append(&record).ok()?.wait().ok()?, record)))
                            .collect()
                    };
                    let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || append(thread))).collect();
                    threads.into_iter().flat_map(|thread| -> Vec<_> { thread.join().unwrap() }).collect()
                });
                assert_eq!(bed.fs.faults_fired(), fired + 1, "{what}: nothing was tested");
                bed.fs.cut_power();
                drop(log);
                bed.fs.reboot(Choice::AllLost);
                let (log, recovery) = Log::open(&dir, config.clone()).unwrap();
                for (lsn, record) in &acknowledged {
                    assert!(*lsn <= recovery.end, "{what}: {lsn} was acknowledged and is gone: {recovery:?}");
                    assert_eq!(&log.read(*lsn).unwrap().payload[..], record, "{what}: {lsn}");
                }
                drop(log);
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
    }
}
