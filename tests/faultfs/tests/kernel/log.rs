//! The real log over it, on four media: what it acknowledged is there after the power was cut.

use std::collections::BTreeMap;
use std::time::Instant;

use seawall::{BackendChoice, Config, DirectIo, Log};
use seawall_faultfs::{Choice, Options};

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
        drop(Log::open(&dir, config.clone()).unwrap());
        bed.fs.crash(Choice::Seeded(seed));
        left += count_probes();
    }
    assert!(left > 0, "no crash left the file: nothing was tested");
    drop(Log::open(&dir, config).unwrap());
    assert_eq!(count_probes(), 0);
}
