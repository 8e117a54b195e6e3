//! The rows of the fault table, one by one.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use seawall::{BackendChoice, Config, DirectIo, Error, Log, Lsn, RecoveryMode, WhenFull};

use super::sim::{CrashChoice, DiskOptions, Effect, Fault, KillChoice, OpKind, Outcome, SimDisk, errno};
use super::skip::skipped;
use super::story::{SimLog, Story};

pub fn started(options: DiskOptions) -> (Story, SimLog) {
    let mut story = Story::new(options);
    let log = story.open();
    story.append(&log, &[100]);
    story.append(&log, &[200]);
    (story, log)
}

pub fn both(test: impl Fn(DiskOptions)) {
    [DiskOptions::DIRECT, DiskOptions::BUFFERED].into_iter().for_each(test);
}

/// The failure behind an error, with its operation, file and offset.
fn cause(error: &Error) -> (&'static str, String, Option<u64>, ErrorKind) {
    match error {
        Error::Poisoned { cause: inner, .. } => cause(inner),
        Error::Io { op, file, offset, source } => (op, file.clone(), *offset, source.kind()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_group_fails_its_waiters_and_all_later_ones_and_nothing_is_tried_again() {
    both(|options| {
        for fault in [
            Fault::new(OpKind::WriteFlushed, 0, errno::EIO),
            Fault::short(OpKind::WriteFlushed, 0),
            Fault::new(OpKind::WriteFlushed, 0, errno::ENOSPC),
        ] {
            let kind = fault.error.error().kind();
            let (mut story, log) = started(options);
            story.disk.fail(fault);
            let first = story.submit(&log, &[300]);
            let second = story.submit(&log, &[300]);
            let error = first.wait().unwrap_err();
            let (op, file, offset, source) = cause(&error);
            assert_eq!((op, file.as_str(), source), ("write and flush", "00000000000000000001.seg", kind), "{error:?}");
            assert!(offset.is_some_and(|offset| offset > 0 && offset % 4096 == 0), "{error:?}");
            assert_eq!(cause(&second.wait().unwrap_err()).3, kind);
            let writes = story.disk.count(OpKind::WriteFlushed) + story.disk.count(OpKind::Submit);
            let flushes = story.disk.count(OpKind::Flush);
            assert!(matches!(log.append(b"later").map(drop), Err(Error::Poisoned { from, .. }) if from == Lsn::new(3)));
            assert!(log.flush().is_err() && log.stats().poisoned);
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(2));
                story.disk.tick();
            }
            assert_eq!(log.flushed(), Lsn::new(2), "earlier acknowledgments stand");
            assert!(log.read(Lsn::new(2)).is_ok());
            let after = story.disk.count(OpKind::WriteFlushed) + story.disk.count(OpKind::Submit);
            assert_eq!((after, story.disk.count(OpKind::Flush)), (writes, flushes), "tried again");
        }
    });
}

#[test]
fn a_failed_write_of_the_driver_poisons_too() {
    both(|options| {
        for outcome in [Outcome::error(errno::EIO), Outcome::Short(512)] {
            let (mut story, log) = started(options);
            story.disk.set_manual(true);
            let pending = story.submit(&log, &[300]);
            while story.disk.pending().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
                story.disk.tick();
            }
            story.disk.complete(story.disk.pending()[0], outcome);
            assert!(matches!(pending.wait(), Err(Error::Poisoned { from, .. }) if from == Lsn::new(3)));
            assert!(matches!(log.append(b"later").map(drop), Err(Error::Poisoned { .. })));
            assert_eq!(log.flushed(), Lsn::new(2));
        }
    });
}

#[test]
fn a_completion_that_never_comes_is_unknown_at_the_deadline() {
    let (mut story, log) = started(DiskOptions::DIRECT);
    story.disk.set_manual(true);
    let pending = story.submit(&log, &[300]);
    while story.disk.pending().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
        story.disk.tick();
    }
    let waiting = std::thread::spawn(move || pending.wait());
    let other = log.clone();
    let closed = other.close(Duration::from_millis(50));
    assert!(matches!(closed, Err(Error::TimedOut { .. })), "{closed:?}");
    // The device has not answered to this hour.
    let waited = waiting.join().unwrap();
    assert!(matches!(waited, Err(Error::Unknown { .. })), "{waited:?}");
    story.disk.complete(story.disk.pending()[0], Outcome::error(errno::EIO));
}

#[test]
fn readers_never_see_a_frame_that_is_written_and_not_flushed() {
    both(|options| {
        let (mut story, log) = started(options);
        story.disk.set_manual(true);
        drop(story.submit(&log, &[300]));
        while story.disk.pending().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            story.disk.tick();
        }
        let lsn = Lsn::new(3);
        assert_eq!((log.watermarks().written, log.flushed()), (lsn, Lsn::new(2)));
        assert!(matches!(log.read(lsn), Err(Error::BeyondEnd { .. })));
        assert_eq!(log.reader(Lsn::FIRST).count(), 2);
        let mut tail = log.tail(lsn);
        assert!(tail.next_within(Duration::from_millis(20)).unwrap().is_none());
        assert!(matches!(log.trim(lsn), Err(Error::BeyondEnd { .. })));
        story.disk.complete(story.disk.pending()[0], Outcome::Ok);
        assert_eq!(tail.next_within(Duration::from_secs(5)).unwrap().unwrap().lsn, lsn);
    });
}

#[test]
fn a_real_write_that_fails_poisons_a_real_log_on_every_backend() {
    for backend in [BackendChoice::Auto, BackendChoice::Pwrite] {
        for direct_io in [DirectIo::Auto, DirectIo::Never] {
            for led in [true, false] {
                let case = format!("{backend:?}, {direct_io:?}, led {led}");
                let dir = tempfile::tempdir().unwrap();
                let config = Config { backend, direct_io, ..Config::default() };
                let (log, recovery) = Log::open(dir.path(), config.clone()).unwrap();
                assert!(direct_io != DirectIo::Never || !recovery.medium.direct, "{case}");
                if backend == BackendChoice::Pwrite {
                    assert_eq!(recovery.medium.backend, seawall::storage::Backend::Pwrite, "{case}");
                }
                let kept = log.append(b"kept").unwrap().wait().unwrap();
                break_descriptors_of(&dir.path().join("00000000000000000001.seg"));
                let pending = log.append(b"lost").unwrap();
                let error = if led {
                    pending.wait().unwrap_err()
                } else {
                    // Nobody waits: the driver writes it, by the ring or the pool.
                    while !pending.is_settled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    pending.wait().unwrap_err()
                };
                assert_eq!(cause(&error).1, "00000000000000000001.seg", "{case}: {error:?}");
                assert!(matches!(log.append(b"later").map(drop), Err(Error::Poisoned { .. })), "{case}");
                assert_eq!(log.flushed(), kept, "{case}");
                drop(log);
                let (log, recovery) = Log::open(dir.path(), config).unwrap();
                assert!(recovery.damage.is_empty() && recovery.end == kept, "{case}: {recovery:?}");
                assert_eq!(&log.read(kept).unwrap().payload[..], b"kept");
            }
        }
    }
}

/// Puts a file that cannot be written under every descriptor that this process has of `path`.
#[allow(unsafe_code)]
fn break_descriptors_of(path: &std::path::Path) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut broken = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap().path();
        if std::fs::read_link(&entry).is_ok_and(|target| target == path) {
            let descriptor: i32 = entry.file_name().unwrap().to_str().unwrap().parse().unwrap();
            // SAFETY: both descriptors are open; the number stays its owner's.
            assert_eq!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), descriptor) }, descriptor);
            broken += 1;
        }
    }
    assert!(broken > 0, "nobody has {} open", path.display());
}

#[test]
fn a_control_file_that_cannot_be_written_poisons() {
    both(|options| {
        let (mut story, log) = started(options);
        story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).on("control"));
        let error = story.try_trim(&log, 1).unwrap_err();
        assert_eq!(cause(&error).1, "control");
        let refused = log.append(b"later").map(drop).unwrap_err();
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused:?}");
        assert_eq!(cause(&refused).1, "control");
    });
}

#[test]
fn a_full_disk_is_told_and_appends_go_on_when_there_is_room() {
    both(|options| {
        for errno in [errno::ENOSPC, errno::EDQUOT] {
            let (mut story, log) = started(options);
            story.disk.set_capacity(Some((story.disk.used_bytes(), errno)));
            let mut appended = 0;
            let error = loop {
                match story.try_append(&log, &[20_000]) {
                    Ok(()) => appended += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Full { .. }), "{error:?}");
            assert!(appended >= 3, "what still fitted did not go on: {appended}");
            assert!(!log.stats().poisoned && log.stats().full.is_some());
            assert!(log.stats().spare_segments >= 1, "no reserve for the next open");
            // Room by a trim, still on the full disk.
            story.trim(&log, 2 + appended);
            std::thread::sleep(Duration::from_millis(30));
            story.append(&log, &[20_000]);
            // Room on the disk.
            while story.try_append(&log, &[20_000]).is_ok() {}
            story.disk.set_capacity(None);
            std::thread::sleep(Duration::from_millis(30));
            for _ in 0..5 {
                story.append(&log, &[20_000]);
            }
            assert_eq!(log.stats().full, None);
            let at = story.disk.note(0u64) + 1;
            story.kill(log);
            story.survives(&story.disk, &story.allowed(at)).unwrap();
        }
    });
}

#[test]
fn a_log_opens_and_trims_with_no_free_byte() {
    both(|options| {
        let (mut story, log) = started(options);
        while story.disk.used_bytes() < 1 << 20 {
            story.append(&log, &[20_000]);
        }
        story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
        while story.try_append(&log, &[20_000]).is_ok() {}
        story.kill(log);
        story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
        let log = story.open();
        assert!(matches!(story.try_append(&log, &[20_000]), Ok(()) | Err(Error::Full { .. })));
        let flushed = log.flushed().get();
        story.trim(&log, flushed);
        std::thread::sleep(Duration::from_millis(30));
        story.append(&log, &[20_000]);
    });
}

/// The open before it carried the tail into the reserve, so this one has no segment to write to. It freed nothing when
/// everything was trimmed.
#[test]
fn a_log_without_a_segment_to_write_to_is_trimmed_and_goes_on() {
    both(|options| {
        let (mut story, log) = started(options);
        while story.disk.used_bytes() < 1 << 20 {
            story.append(&log, &[20_000]);
        }
        story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
        while story.try_append(&log, &[20_000]).is_ok() {}
        let mut log = log;
        for _ in 0..2 {
            story.kill(log);
            story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
            log = story.open();
        }
        assert_eq!(log.stats().spare_segments, 0);
        let told = story.try_append(&log, &[20_000]);
        assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
        let flushed = log.flushed().get();
        story.trim(&log, flushed);
        std::thread::sleep(Duration::from_millis(30));
        story.append(&log, &[20_000]);
        let at = story.disk.note(0u64) + 1;
        story.kill(log);
        story.survives(&story.disk, &story.allowed(at)).unwrap();
    });
}

#[test]
fn a_record_larger_than_the_disk_takes_nothing_from_smaller_ones() {
    both(|options| {
        for when_full in [WhenFull::Reject, WhenFull::DropOldest] {
            let mut story = Story::new(options);
            story.config.when_full = when_full;
            let log = story.open();
            for _ in 0..20 {
                story.append(&log, &[20_000]);
            }
            let capacity = story.disk.used_bytes() + (512 << 10);
            story.disk.set_capacity(Some((capacity, errno::ENOSPC)));
            for _ in 0..3 {
                let told = story.try_append(&log, &[4 << 20]);
                assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
                std::thread::sleep(Duration::from_millis(30));
                story.disk.pump();
            }
            assert_eq!(log.stats().dropped_frames, 0);
            // Two to a segment.
            for _ in 0..12 {
                story.append(&log, &[20_000]);
            }
            assert_eq!(log.stats().dropped_frames, 0);
            assert!(story.disk.used_bytes() > capacity - (192 << 10), "{} of {capacity}", story.disk.used_bytes());
        }
    });
}

/// Only a lack of space passes.
#[test]
fn who_waits_for_room_is_told_of_what_no_waiting_mends() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.when_full = WhenFull::Block;
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
    let appending = log.clone();
    let appending = std::thread::spawn(move || {
        // By the second spare at the latest.
        (0..20).try_for_each(|_| appending.append(&[1; 30_000])?.wait().map(drop))
    });
    let began = std::time::Instant::now();
    while !appending.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(20), "it waits for ever");
        std::thread::sleep(Duration::from_millis(2));
        story.disk.pump();
    }
    let told = appending.join().unwrap();
    assert!(matches!(told, Err(Error::Io { .. })), "{told:?}");
    let mut reserving = std::pin::pin!(log.reserve(30_000));
    use std::future::Future;
    let polled = reserving.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(polled, std::task::Poll::Ready(Err(Error::Io { .. }))));
    assert!(!log.stats().poisoned);
}

/// A receiver offers again what found no segment; but not where only reopening helps.
#[cfg(feature = "receiver")]
#[test]
fn a_receiver_ends_where_no_segment_is_prepared_any_more() {
    use seawall::node::{Receiver, ReceiverError};
    use seawall::receiver::ReceiverConfig;

    let mut story = Story::new(DiskOptions::DIRECT);
    let log = story.open();
    let config = ReceiverConfig { record_bytes_max: 30_000, block_bytes_max: 32 << 10, ..ReceiverConfig::default() };
    let (receiver, driver, _) = Receiver::open(log.clone(), "test", config).unwrap();
    let thread = driver.spawn().unwrap();
    story.disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO));
    let stores = std::thread::spawn(move || -> Result<(), ReceiverError> {
        let mut source = receiver.local_blocking("a")?;
        (0..40).try_for_each(|_| source.store_blocking(&[[7; 30_000]]).map(drop))
    });
    let began = std::time::Instant::now();
    while !stores.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(20), "it waits for ever");
        std::thread::sleep(Duration::from_millis(2));
        story.disk.pump();
    }
    assert!(matches!(stores.join().unwrap(), Err(ReceiverError::Log(Error::Io { .. }))));
    assert!(matches!(thread.join(), Err(ReceiverError::Log(Error::Io { .. }))));
    assert!(!log.stats().poisoned);
}

/// What it waits for is more than others have need of: it is asked for again all the same.
#[test]
fn a_task_that_waits_for_room_for_a_large_record_goes_on_when_the_disk_has_some() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.when_full = WhenFull::Block;
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.set_capacity(Some((story.disk.used_bytes() + (256 << 10), errno::ENOSPC)));
    let mut reserving = std::pin::pin!(log.reserve(1 << 20));
    let woken = std::sync::Arc::new(Woken::default());
    let waker = woken.clone().into();
    let mut context = std::task::Context::from_waker(&waker);
    use std::future::Future;
    let mut wait = |turns: u32| {
        for _ in 0..turns {
            story.disk.tick();
            story.disk.pump();
            std::thread::sleep(Duration::from_millis(5));
            if woken.0.swap(false, std::sync::atomic::Ordering::Relaxed)
                && let std::task::Poll::Ready(permit) = reserving.as_mut().poll(&mut context)
            {
                drop(permit.unwrap().append(&vec![1; 1 << 20]).unwrap());
                return true;
            }
        }
        false
    };
    woken.0.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!wait(20), "there is no room");
    story.disk.set_capacity(None);
    assert!(wait(100), "it waits for ever");
}

#[test]
fn too_many_files_or_too_large_ones_at_rotation_leave_the_segment_intact() {
    both(|options| {
        let faults = [
            (OpKind::Create, errno::EMFILE),
            (OpKind::Open, errno::EMFILE),
            (OpKind::Allocate, errno::EFBIG),
            (OpKind::Write, errno::EFBIG),
        ];
        for (kind, code) in faults {
            let (mut story, log) = started(options);
            story.disk.fail(Fault::new(kind, 0, code).forever().on(".seg"));
            let mut told = None;
            for _ in 0..12 {
                if let Err(error) = story.try_append(&log, &[20_000]) {
                    told = Some(error);
                    break;
                }
            }
            let fits = told.is_none() && kind == OpKind::Open;
            let is_told = match told {
                // Waited for as space is.
                Some(Error::Full { .. }) => code == errno::EMFILE,
                Some(Error::Io { .. }) => code != errno::EMFILE,
                _ => false,
            };
            assert!(fits || is_told, "{kind:?}: {told:?}");
            assert!(!log.stats().poisoned, "{kind:?}");
            let flushed = log.flushed();
            assert!(log.read(flushed).is_ok());
            story.disk.heal();
            std::thread::sleep(Duration::from_millis(30));
            // The last failure may be told once more, while preparation is tried again.
            let _ = story.try_append(&log, &[20_000]);
            story.disk.pump();
            for _ in 0..6 {
                story.append(&log, &[20_000]);
            }
            let at = story.disk.note(0u64) + 1;
            story.kill(log);
            story.survives(&story.disk, &story.allowed(at)).unwrap();
        }
    });
}

#[test]
fn an_unreadable_sector_is_this_reader_s_error_only() {
    both(|options| {
        let (mut story, log) = started(options);
        for _ in 0..6 {
            story.append(&log, &[30_000]);
        }
        story.disk.make_unreadable("00000000000000000002.seg", 8192..12288);
        let reads: Vec<_> = (1..=log.flushed().get()).map(|lsn| log.read(Lsn::new(lsn))).collect();
        let failed = reads.iter().filter(|read| read.is_err()).count();
        assert!(failed >= 1, "nothing was unreadable");
        assert!(reads.iter().all(|read| matches!(read, Ok(_) | Err(Error::Io { .. }))), "{reads:?}");
        assert!(reads[0].is_ok() && reads[reads.len() - 1].is_ok());
        story.append(&log, &[100]);
        assert!(!log.stats().poisoned);
    });
}

#[test]
fn a_real_disk_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped("no right to mount a small tmpfs");
    }
    let outcome = std::panic::catch_unwind(|| full_disk(dir.path()));
    assert!(Command::new("umount").arg("-l").arg(dir.path()).status().unwrap().success());
    outcome.unwrap();
}

fn full_disk(dir: &std::path::Path) {
    let segment = 64 << 10;
    let config = Config { segment_bytes_min: segment, segment_bytes_max: segment, ..Config::default() };
    let open = || Log::open_with(dir, config.clone(), &config.driver().unwrap()).unwrap();
    let (log, _) = open();
    let mut acknowledged = 0;
    let error = loop {
        match log.append(&[acknowledged as u8; 10_000]).and_then(|pending| pending.wait()) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(acknowledged > 50, "{acknowledged}");
    // Not one byte is left.
    let filler = std::fs::write(dir.join("filler"), vec![1; 1 << 20]);
    assert!(filler.is_err());
    drop(log);
    let (log, recovery) = open();
    assert!(recovery.damage.is_empty() && recovery.end == Lsn::new(acknowledged), "{recovery:?}");
    assert!(log.reader(Lsn::FIRST).enumerate().all(|(i, frame)| frame.unwrap().payload[0] == i as u8));
    std::fs::remove_file(dir.join("filler")).unwrap();
    log.trim(Lsn::new(acknowledged)).unwrap();
    let mut tries = 0;
    while let Err(error) = log.append(&[7; 10_000]).and_then(|pending| pending.wait()) {
        assert!(matches!(error, Error::Full { .. }) && tries < 200, "{error:?}");
        tries += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_task_that_waits_for_room_goes_on_when_the_disk_has_some() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.when_full = WhenFull::Block;
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.set_capacity(Some((story.disk.used_bytes(), errno::ENOSPC)));
    while story.try_append(&log, &[20_000]).is_ok() {}
    let mut reserving = std::pin::pin!(log.reserve(20_000));
    let woken = std::sync::Arc::new(Woken::default());
    let waker = woken.clone().into();
    let mut context = std::task::Context::from_waker(&waker);
    use std::future::Future;
    let polled = reserving.as_mut().poll(&mut context);
    assert!(polled.is_pending(), "{:?}", polled.map(|permit| permit.map(drop)));
    story.disk.set_capacity(None);
    // Nothing else happens to this log: only its driver can notice.
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(5));
        story.disk.tick();
        if woken.0.swap(false, std::sync::atomic::Ordering::Relaxed)
            && let std::task::Poll::Ready(permit) = reserving.as_mut().poll(&mut context)
        {
            drop(permit.unwrap().append(&[1; 20_000]).unwrap());
            return;
        }
    }
    panic!("it waits for ever");
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn who_follows_a_log_is_not_left_waiting_when_it_is_poisoned() {
    let (mut story, log) = started(DiskOptions::DIRECT);
    let tail = log.tail(Lsn::FIRST);
    let following = std::thread::spawn(move || tail.filter(Result::is_ok).count());
    story.disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO));
    assert!(story.try_append(&log, &[300]).is_err());
    assert_eq!(following.join().unwrap(), 2);
}

#[test]
fn a_preparation_that_fails_half_way_leaves_no_file_behind() {
    both(|options| {
        for kind in [OpKind::SyncDir, OpKind::Hold] {
            let (mut story, log) = started(options);
            story.disk.fail(Fault::new(kind, 0, errno::EIO));
            for _ in 0..8 {
                let _ = story.try_append(&log, &[30_000]);
                std::thread::sleep(Duration::from_millis(25));
                story.disk.pump();
            }
            story.disk.heal();
            let flushed = log.flushed().get();
            story.trim(&log, flushed - 1);
            let used = log.stats().used_bytes;
            let files: u64 = seawall::storage::Storage::list(&story.disk.open())
                .unwrap()
                .iter()
                .filter(|(name, _)| name.ends_with(".seg"))
                .map(|(_, bytes)| bytes)
                .sum();
            assert_eq!(files, used, "{kind:?}: files that nobody counts");
        }
    });
}

#[test]
fn large_device_blocks_work() {
    for block_bytes in [8 << 10, 32 << 10] {
        let mut story = Story::new(DiskOptions { direct: true, block_bytes });
        let log = story.open();
        for round in 0..40 {
            story.append(&log, &[100, 3000 * round, 1]);
        }
        let end = log.flushed().get();
        story.trim(&log, end / 2);
        let at = story.disk.note(0u64) + 1;
        story.kill(log);
        story.survives(&story.disk, &story.allowed(at)).unwrap();
    }
}

/// A segment that could not be given its name spent its number all the same. Until a later seal explained the gap, the
/// next open took that number for a segment that is gone, and refused appends.
#[test]
fn a_preparation_that_failed_leaves_no_gap() {
    both(|options| {
        for kind in [OpKind::Rename, OpKind::Flush, OpKind::Hold] {
            let mut story = Story::new(options);
            let (log, _) = Log::open_on(story.disk.open(), story.config.clone()).unwrap();
            story.disk.fail(Fault::new(kind, 0, errno::ENOSPC).on("00000000000000000002.seg"));
            story.disk.pump();
            std::thread::sleep(Duration::from_millis(25));
            story.append(&log, &[100]);
            let _ = story.try_append(&log, &[60_000]);
            story.kill(log);
            story.disk.heal();
            let at = story.disk.note(0u64) + 1;
            story.survives(&story.disk, &story.allowed(at)).unwrap();
        }
    });
}

/// A file that may not become so large does not become it by waiting.
#[test]
fn who_waits_for_room_for_a_large_record_is_told_of_what_no_waiting_mends() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.when_full = WhenFull::Block;
    let log = story.open();
    story.append(&log, &[100]);
    story.disk.fail(Fault::new(OpKind::Allocate, 0, errno::EFBIG).forever());
    let told = (0..200).find_map(|_| {
        let mut reserving = std::pin::pin!(log.reserve(200_000));
        use std::future::Future;
        let polled = reserving.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        story.disk.pump();
        std::thread::sleep(Duration::from_millis(1));
        match polled {
            std::task::Poll::Ready(told) => Some(told.map(drop)),
            std::task::Poll::Pending => None,
        }
    });
    assert!(matches!(told, Some(Err(Error::Io { .. }))), "{told:?}");
    assert!(!log.stats().poisoned);
}

/// An operator made room by hand: what is not there any more takes none.
#[test]
fn segments_that_were_removed_by_hand_are_no_used_bytes() {
    both(|options| {
        let mut story = Story::new(options);
        story.config.byte_limit = Some(6 * (64 << 10));
        let log = story.open();
        let mut appended = 0;
        while story.try_append(&log, &[20_000]).is_ok() {
            appended += 1;
        }
        for number in 1..=2 {
            story.disk.remove_file(&format!("{number:020}.seg"));
        }
        story.trim(&log, appended - 2);
        let on_disk = |story: &Story| {
            let files = story.disk.names();
            files.iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes).sum::<u64>()
        };
        assert_eq!(log.stats().used_bytes, on_disk(&story));
        std::thread::sleep(Duration::from_millis(30));
        story.append(&log, &[20_000]);
    });
}

/// The file has its new length, whatever failed behind that.
#[test]
fn what_an_enlarging_that_failed_has_taken_is_counted() {
    both(|options| {
        for (kind, behind) in [(OpKind::Write, 0), (OpKind::Flush, 0)] {
            let (mut story, log) = started(options);
            story.disk.fail(Fault::new(kind, behind, errno::EIO));
            assert!(story.try_append(&log, &[100_000]).is_err());
            let files = story.disk.names();
            let on_disk: u64 = files.iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes).sum();
            assert!(on_disk > 3 * (64 << 10), "nothing was enlarged: {files:?}");
            assert_eq!(log.stats().used_bytes, on_disk, "{kind:?}");
            // The file is longer than this one needs.
            story.append(&log, &[70_000]);
            let files = story.disk.names();
            let on_disk: u64 = files.iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes).sum();
            assert_eq!(log.stats().used_bytes, on_disk, "{kind:?}, used for less than it has");
        }
    });
}

/// What a failed enlarging has left is the file's also behind a smaller one that went well. Forgotten, it stood against the limit
/// beside itself, and a large record found no room where there was enough.
#[test]
fn a_large_record_finds_what_an_enlarging_that_failed_has_left_also_behind_a_smaller_one() {
    both(|options| {
        let segment = 64 << 10;
        let mut story = Story::new(options);
        // The one in use, the one in reserve, and one of 256 KiB.
        story.config.byte_limit = Some(6 * segment);
        let log = story.open();
        story.append(&log, &[100]);
        story.disk.fail(Fault::new(OpKind::Flush, 0, errno::EIO));
        assert!(matches!(log.try_append(&[1; 200_000]).map(drop), Err(Error::Busy { .. })));
        story.disk.pump();
        assert_eq!(log.stats().used_bytes, 6 * segment, "the large one is as long as it was to be");
        // A smaller one goes well; who asked for it does not come back.
        assert!(matches!(log.try_append(&[1; 70_000]).map(drop), Err(Error::Busy { .. })));
        story.disk.pump();
        story.append(&log, &[200_000]);
        assert_eq!(log.stats().used_bytes, 6 * segment);
    });
}

/// A file that an enlarging left longer than it is used to takes all of it along, under whatever name it goes.
#[test]
fn what_an_enlarging_that_failed_has_left_goes_with_its_file() {
    both(|options| {
        let segment = 64 << 10;
        // Under a limit a long segment is removed when it was trimmed; else it is used again first.
        for limit in [Some(15 * segment), None] {
            let mut story = Story::new(options);
            story.config.byte_limit = limit;
            let log = story.open();
            story.disk.fail(Fault::new(OpKind::Flush, 0, errno::EIO));
            assert!(matches!(log.try_append(&[1; 200_000]).map(drop), Err(Error::Busy { .. })));
            story.disk.pump();
            story.append(&log, &[70_000]);
            for round in 0..2 {
                for _ in 0..16 {
                    story.append(&log, &[20_000]);
                }
                if round == 1 {
                    story.disk.fail(Fault::new(OpKind::Hold, 0, errno::EIO).forever());
                }
                story.trim(&log, log.flushed().get());
                story.disk.heal();
                let files = story.disk.names();
                let on_disk: u64 =
                    files.iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes).sum();
                assert_eq!(log.stats().used_bytes, on_disk, "{limit:?}, round {round}: {files:?}");
            }
        }
    });
}

/// A write that meets the disk's end is short, and only the next one is told why.
#[test]
fn zeros_that_meet_the_disk_s_end_tell_that_it_is_full() {
    both(|options| {
        let (mut story, log) = started(options);
        story.disk.fail(Fault::short(OpKind::Write, 0).on(".seg.new"));
        story.disk.fail(Fault::new(OpKind::Write, 1, errno::ENOSPC).forever().on(".seg.new"));
        let told = (0..12).find_map(|_| story.try_append(&log, &[20_000]).err());
        assert!(matches!(told, Some(Error::Full { .. })), "{told:?}");
    });
}

/// The segment in use is no part of what is retained: counted with it, a limit of one segment kept none.
#[test]
fn retained_bytes_are_those_of_sealed_segments() {
    let mut story = Story::new(DiskOptions::DIRECT);
    story.config.retain_bytes = Some(2 * (64 << 10));
    let log = story.open();
    for _ in 0..30 {
        story.append(&log, &[20_000]);
    }
    let sealed = log.stats().segments - 1;
    assert_eq!(sealed, 2, "{:?}", log.stats());
}

/// A read that fails once is no damage: nothing may be set aside for it.
#[test]
fn what_could_not_be_read_is_no_damage_to_set_aside() {
    let (mut story, log) = started(DiskOptions::DIRECT);
    for _ in 0..6 {
        story.append(&log, &[25_000]);
    }
    story.disk.fail(Fault::new(OpKind::Read, 2, errno::EIO).on("00000000000000000002.seg"));
    let report = log.verify(|_, _| ()).unwrap();
    assert!(report.findings.iter().all(|finding| finding.unread) && !report.is_sound(), "{:?}", report.findings);
    assert!(log.verify(|_, _| ()).unwrap().is_sound());
}
