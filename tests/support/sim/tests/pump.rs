//! Submitted writes, driving, jobs.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn the_pump_ends_writes_in_order_and_drives_who_kicks() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    let file = Arc::new(file);
    for token in 0..4 {
        submit(&storage, &file, token, token, 2);
    }
    assert!(witness.tokens().is_empty(), "never from within submit");
    assert_eq!(disk.pump(), 4);
    assert_eq!((witness.tokens(), heads(&disk)), (vec![0, 1, 2, 3], vec![2; 4]));
    storage.kick();
    storage.kick();
    assert_eq!((disk.pump(), *witness.drives.lock()), (1, 1));
    assert_eq!(disk.pump(), 0);
}

#[test]
fn a_test_ends_writes_in_any_order_and_way() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    disk.set_manual(true);
    let file = Arc::new(file);
    for token in 0..4 {
        submit(&storage, &file, token, token, 2);
    }
    assert_eq!((disk.pump(), disk.pending()), (0, vec![0, 1, 2, 3]));
    disk.complete(2, Outcome::Ok);
    disk.complete(0, Outcome::Error(errno::EIO, Landed::Full));
    disk.complete(3, Outcome::Short(1024));
    disk.complete(1, Outcome::Missing(Landed::Nothing));
    let told = witness.told.lock().clone();
    assert_eq!(told.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 0, 3], "the missing one never");
    assert!(told[0].1.is_ok() && told[1].1.is_err() && told[2].1 == Err(io::ErrorKind::WriteZero));
    assert_eq!(heads(&disk), [2, 1, 2, 2]);
    storage.flush(&file).unwrap();
    let heads: BTreeSet<Vec<u8>> = states(&disk);
    assert!(heads.iter().all(|heads| heads[2] == 2), "{heads:?}");
    assert!(heads.contains(&[1, 1, 2, 1][..]), "failed writes stay unknown: {heads:?}");
}

#[test]
fn an_injected_error_is_told_like_any_end() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    let file = Arc::new(file);
    disk.fail(Fault::new(OpKind::Submit, 1, errno::ENOSPC));
    disk.fail(Fault::short(OpKind::Submit, 2));
    for token in 0..3 {
        submit(&storage, &file, token, token, 2);
    }
    disk.pump();
    let told = witness.told.lock().clone();
    assert_eq!(told, [(0, Ok(())), (1, Err(io::ErrorKind::StorageFull)), (2, Err(io::ErrorKind::WriteZero))]);
    assert_eq!(heads(&disk)[..2], [2, 1]);
}

#[test]
fn a_refused_write_is_told_by_the_pump() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    disk.set_capacity(Some((4 * 4096, errno::ENOSPC)));
    submit(&storage, &Arc::new(file), 1, 4, 2);
    assert!(disk.pending().is_empty() && witness.tokens().is_empty());
    disk.run();
    assert_eq!(*witness.told.lock(), [(1, Err(io::ErrorKind::StorageFull))]);
}

#[test]
fn jobs_run_in_order_from_the_pump_or_at_once() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let done = Arc::new(Mutex::new(Vec::new()));
    let run = |storage: &SimStorage, number: u32| {
        let (done, storage_in_job) = (done.clone(), storage.clone());
        storage.background(Box::new(move || {
            storage_in_job.kick();
            done.lock().push(number);
        }));
    };
    let storage = disk.open();
    (0..3).for_each(|number| run(&storage, number));
    assert!(done.lock().is_empty());
    disk.pump();
    assert_eq!(*done.lock(), [0, 1, 2]);
    run(&disk.open().inline_jobs(), 3);
    assert_eq!(*done.lock(), [0, 1, 2, 3]);
}

#[test]
fn a_tick_drives_who_asked_for_it() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let storage = disk.open();
    let witness = Arc::new(Witness { again: Some(Duration::from_secs(3600)), ..Witness::default() });
    let client: Arc<dyn Client<SimFile>> = witness.clone();
    storage.attach(Arc::downgrade(&client));
    assert_eq!(disk.tick(), 0);
    storage.kick();
    assert_eq!((disk.pump(), disk.tick(), disk.tick(), *witness.drives.lock()), (1, 1, 1, 3));
}

#[test]
fn a_schedule_is_the_same_for_the_same_seed() {
    let order = |seed: u64| {
        let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
        let witness = Witness::attached(&storage);
        disk.set_schedule(seed);
        let file = Arc::new(file);
        for token in 0..4 {
            submit(&storage, &file, token, token, 2);
        }
        disk.pump();
        (witness.tokens(), disk.trace_hash())
    };
    let all: BTreeSet<Vec<u64>> = (0..64).map(|seed| order(seed).0).collect();
    assert!(all.len() > 12, "of 24 orders: {}", all.len());
    assert_eq!(order(5), order(5));
    assert_eq!(order(5).0 == order(6).0, order(5).1 == order(6).1, "the trace tells orders apart");
}

#[test]
fn threads_end_writes_run_jobs_and_stop() {
    let (disk, _, _) = disk_with_file(DiskOptions::DIRECT);
    let storage = disk.open().threaded();
    let file = Arc::new(storage.open("f").unwrap());
    let witness = Witness::attached(&storage);
    disk.set_latency(Duration::from_micros(50));
    let jobs = Arc::new(AtomicUsize::new(0));
    for token in 0..200 {
        submit(&storage, &file, token, token % 4, 2);
        let jobs = jobs.clone();
        storage.background(Box::new(move || {
            jobs.fetch_add(1, Ordering::SeqCst);
        }));
        storage.kick();
        while token % 4 == 3 && !disk.pending().is_empty() {
            std::thread::yield_now();
        }
    }
    while witness.tokens().len() < 200 || jobs.load(Ordering::SeqCst) < 200 || *witness.drives.lock() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(witness.tokens(), (0..200).collect::<Vec<u64>>());
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    submit(&storage, &file, 200, 0, 2);
    disk.kill(&KillChoice::Random(1));
    drop(storage);
}

/// A job that owns its storage must not keep the disk alive for ever.
#[test]
fn the_last_handle_takes_unfinished_work_with_it() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let alive = Arc::new(());
    let (own, in_job) = (alive.clone(), storage.clone());
    storage.background(Box::new(move || drop((own, in_job))));
    submit(&storage, &Arc::new(file), 1, 0, 2);
    drop(storage);
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(disk);
    assert_eq!(Arc::strong_count(&alive), 1);
}
