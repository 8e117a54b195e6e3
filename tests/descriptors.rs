//! A log without file descriptors: a process of its own, because they are the whole process's.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use seawall::{Config, Error, Log, Lsn, LsnRange, WhenFull};

const RECORD_BYTES: usize = 16 << 10;

/// Every descriptor this process may still have.
struct Taken(Vec<File>);

impl Taken {
    fn all() -> Taken {
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        Taken(files)
    }
}

/// One test: the limit is the process's.
#[test]
fn a_log_without_descriptors_waits_as_for_space_and_is_never_poisoned() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(200);
    setrlimit(Resource::Nofile, limit).unwrap();
    for when_full in [WhenFull::Reject, WhenFull::Block, WhenFull::DropOldest] {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config { segment_bytes_min: 128 << 10, segment_bytes_max: 128 << 10, when_full, ..Config::default() };
        let (log, _) = Log::open(dir.path(), config.clone()).unwrap();
        let mut last = log.append(&record(Lsn::FIRST)).unwrap().wait().unwrap();

        let taken = Taken::all();
        assert!(!taken.0.is_empty());
        // What is prepared is used up, and then there is no next segment.
        let by = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < by, "{:?}", log.stats());
            match append(&log, last) {
                Ok(lsn) => last = lsn,
                // The next segment is on its way, or was.
                Err(Error::Busy { .. }) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => {
                    assert!(matches!(error, Error::Full { .. }), "{error:?}");
                    break;
                }
            }
        }
        let full = log.stats().full.unwrap();
        assert!(full.contains("open files"), "{full}");
        assert!(!log.stats().poisoned);
        assert_eq!(log.stats().dropped_frames, 0, "dropping frames gives no descriptor to a log");
        // The control file is written nevertheless.
        let upto = Lsn::new(5);
        log.trim(upto).unwrap();
        assert_eq!(log.watermarks().trimmed, upto);

        drop(taken);
        let by = Instant::now() + Duration::from_secs(20);
        let mut more = 0;
        while more < 40 {
            assert!(Instant::now() < by, "{:?}", log.stats());
            match append(&log, last) {
                Ok(lsn) => (last, more) = (lsn, more + 1),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert_eq!(log.stats().full, None);
        let taken = Taken::all();
        log.close(Duration::from_secs(10)).unwrap();
        drop(taken);

        let (log, recovery) = Log::open(dir.path(), config).unwrap();
        assert!(recovery.clean, "{recovery:?}");
        assert_eq!(recovery.end, last);
        for frame in log.range(LsnRange::new(upto.next(), last.next())) {
            let frame = frame.unwrap();
            assert_eq!(frame.payload, record(frame.lsn));
        }
    }
}

/// Appends the next record, durable when this returns.
fn append(log: &Log, last: Lsn) -> Result<Lsn, Error> {
    let next = last.next();
    let lsn = log.try_append(&record(next))?.wait()?;
    assert_eq!(lsn, next);
    Ok(lsn)
}

fn record(lsn: Lsn) -> Vec<u8> {
    (0..RECORD_BYTES as u64).map(|at| (lsn.get() * 31 + at) as u8).collect()
}
