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
