//! Errors that were asked for.

use super::*;

#[test]
fn the_nth_call_fails_once_or_for_ever() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.fail(Fault::new(OpKind::Write, 1, errno::EIO));
    let results: Vec<bool> = (0..3).map(|_| storage.write(&file, 0, &blocks(2, 1)).is_ok()).collect();
    assert_eq!(results, [true, false, true]);
    disk.fail(Fault::new(OpKind::Flush, 1, io::ErrorKind::Other).forever());
    let results: Vec<bool> = (0..3).map(|_| storage.flush(&file).is_ok()).collect();
    assert_eq!(results, [true, false, false]);
    disk.heal();
    assert!(storage.flush(&file).is_ok());
    assert_eq!((disk.count(OpKind::Write), disk.count(OpKind::Flush), disk.count(OpKind::Open)), (3, 4, 1));
    assert_eq!((disk.count(Target::Mutations), disk.count(Target::Any)), (7, 8));
    disk.fail(Fault::new(Target::Mutations, 0, errno::EROFS).forever());
    assert_eq!(storage.create("g").unwrap_err().raw_os_error(), Some(errno::EROFS));
    assert!(storage.allocate(&file, 1 << 20).is_err() && storage.sync_dir().is_err());
    assert!(storage.len(&file).is_ok() && storage.list().is_ok());
    disk.heal();
    disk.fail(Fault::new(Target::Any, 0, errno::EIO).on("g"));
    assert!(storage.open("f").is_ok() && storage.create("g").is_err() && storage.create("g").is_ok());
}

#[test]
fn every_kind_of_call_can_fail() {
    for kind in OpKind::ALL {
        let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
        let witness = Witness::attached(&storage);
        let file = Arc::new(file);
        let map = storage.map(&file, 4096).unwrap();
        disk.fail(Fault::new(kind, 0, errno::EIO));
        let failed = match kind {
            OpKind::List => storage.list().is_err(),
            OpKind::Create => storage.create("g").is_err(),
            OpKind::Open => storage.open("f").is_err(),
            OpKind::Rename => storage.rename("f", "g").is_err(),
            OpKind::Remove => storage.remove("f").is_err(),
            OpKind::SyncDir => storage.sync_dir().is_err(),
            OpKind::FreeBytes => storage.free_bytes().is_err(),
            OpKind::Len => storage.len(&file).is_err(),
            OpKind::Allocate => storage.allocate(&file, 1 << 20).is_err(),
            OpKind::Write => storage.write(&file, 8192, &blocks(2, 1)).is_err(),
            OpKind::Flush => storage.flush(&file).is_err(),
            OpKind::WriteFlushed => storage.write_flushed(&file, 8192, &[Arc::new(blocks(2, 1))]).is_err(),
            OpKind::Submit => {
                submit(&storage, &file, 1, 2, 2);
                disk.pump();
                witness.told.lock()[0].1.is_err()
            }
            OpKind::Read => storage.read_at(&file, 0, 4096, &mut Buffer::new(4096)).is_err(),
            OpKind::Map => storage.map(&file, 4096).is_err(),
            OpKind::Populate => storage.populate(&map, 0..1).is_err(),
            OpKind::Hold => storage.hold(&file, seawall::storage::Hold::Shared).is_err(),
            OpKind::Lock => storage.lock().is_err(),
        };
        assert!(failed, "{kind:?}");
        assert_eq!(disk.names(), [("f".to_owned(), 4 * 4096)], "{kind:?} has no effect");
        assert_eq!(heads(&disk), [1, 1, 1, 1], "{kind:?} has no effect");
    }
}

#[test]
fn an_error_can_come_after_the_effect_or_after_half_of_it() {
    let effects = [(Effect::Before, 0), (Effect::AfterFull, 16)];
    for (effect, sectors) in effects {
        let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
        disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).effect(effect));
        assert!(storage.write_flushed(&file, 0, &[Arc::new(blocks(2, 2))]).is_err());
        let new = disk.read_file("f").chunks(512).filter(|sector| sector[0] == 2).count();
        assert_eq!(new, sectors, "{effect:?}");
    }
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.fail(Fault::short(OpKind::Write, 0));
    let error = storage.write(&file, 0, &blocks(2, 2)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    let new = disk.read_file("f").chunks(512).filter(|sector| sector[0] == 2).count();
    assert!((1..16).contains(&new), "{new} of 16 sectors");
    disk.fail(Fault::new(OpKind::Rename, 0, errno::EIO).effect(Effect::AfterFull));
    assert!(storage.rename("f", "g").is_err());
    assert_eq!(disk.names()[0].0, "g");
}

/// A retried flush says yes, readers see the bytes, and they may be gone all the same.
#[test]
fn a_failed_flush_is_never_made_good() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let (disk, storage, file) = disk_with_file(options);
        storage.write(&file, 0, &blocks(2, 1)).unwrap();
        disk.fail(Fault::new(OpKind::Flush, 0, errno::EIO));
        assert!(storage.flush(&file).is_err());
        storage.flush(&file).unwrap();
        assert_eq!(heads(&disk), [2, 1, 1, 1]);
        assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1], vec![2, 1, 1, 1]]));
        let copy = disk.crash(&CrashChoice::kept());
        assert_eq!(heads(&copy), [2, 1, 1, 1]);
        disk.drop_caches(false);
        assert_eq!(heads(&disk), [1, 1, 1, 1], "the cache's lie is out");
        assert_eq!(states(&disk), BTreeSet::from([vec![1, 1, 1, 1]]));
        // Written again, it can be flushed again.
        storage.write(&file, 0, &blocks(3, 1)).unwrap();
        storage.flush(&file).unwrap();
        assert_eq!(states(&disk), BTreeSet::from([vec![3, 1, 1, 1]]));
    }
}

#[test]
fn a_failed_buffered_group_takes_the_files_other_bytes_with_it() {
    let (disk, storage, file) = disk_with_file(DiskOptions::BUFFERED);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    disk.fail(Fault::new(OpKind::WriteFlushed, 0, errno::EIO).effect(Effect::AfterFull));
    assert!(storage.write_flushed(&file, 4096, &[Arc::new(blocks(3, 1))]).is_err());
    storage.flush(&file).unwrap();
    assert_eq!(states(&disk).len(), 4);
    disk.drop_caches(true);
    assert_eq!(states(&disk), BTreeSet::from([vec![2, 3, 1, 1]]));
}

/// Two blocks, one to each of two writes in flight.
fn two_in_flight(options: DiskOptions) -> (SimDisk, Arc<Witness>) {
    let (disk, storage, file) = disk_with_file(options);
    let witness = Witness::attached(&storage);
    disk.set_manual(true);
    let file = Arc::new(file);
    submit(&storage, &file, 0, 0, 2);
    submit(&storage, &file, 1, 1, 3);
    (disk, witness)
}

/// What a page cache does to writes in flight together: the flush that failed is told once, and the others' say yes.
#[test]
fn a_failed_flush_takes_what_others_have_in_the_cache() {
    for both_cached in [false, true] {
        let (disk, witness) = two_in_flight(DiskOptions::BUFFERED);
        assert!(disk.cache(0) && !disk.cache(0), "once");
        assert!(!both_cached || disk.cache(1));
        disk.complete(1, Outcome::Error(errno::EIO, Landed::Full));
        disk.complete(0, Outcome::Ok);
        let told = witness.told.lock().clone();
        assert_eq!(told, [(1, Err(io::Error::from_raw_os_error(errno::EIO).kind())), (0, Ok(()))]);
        assert!(states(&disk).contains(&[1, 1, 1, 1][..]), "said to be flushed, and may be gone");
    }
}

#[test]
fn what_was_not_in_the_cache_when_a_flush_failed_is_flushed_by_its_own() {
    for options in [DiskOptions::BUFFERED, DiskOptions::DIRECT] {
        let (disk, _witness) = two_in_flight(options);
        assert!(!options.direct || !disk.cache(0), "no cache to come into");
        disk.complete(1, Outcome::error(errno::EIO));
        disk.complete(0, Outcome::Ok);
        assert_eq!(states(&disk), BTreeSet::from([vec![2, 1, 1, 1]]));
    }
}

#[test]
fn a_flush_is_one_of_all_that_is_in_the_cache() {
    let (disk, _witness) = two_in_flight(DiskOptions::BUFFERED);
    assert!(disk.cache(0) && disk.cache(1));
    disk.complete(1, Outcome::Ok);
    assert_eq!(states(&disk), BTreeSet::from([vec![2, 3, 1, 1]]));
}

#[test]
fn space_ends_and_comes_back() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.set_capacity(Some((5 * 4096, errno::ENOSPC)));
    assert_eq!((disk.used_bytes(), storage.free_bytes().unwrap()), (4 * 4096, 4096));
    let error = storage.write(&file, 4 * 4096, &blocks(2, 2)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    storage.write(&file, 4 * 4096, &blocks(2, 1)).unwrap();
    storage.write(&file, 0, &blocks(2, 5)).unwrap();
    disk.set_capacity(Some((5 * 4096, errno::EDQUOT)));
    assert_eq!(storage.allocate(&file, 6 * 4096).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    let _witness = Witness::attached(&storage);
    let other = storage.create("g").unwrap();
    assert!(storage.write_flushed(&other, 0, &[Arc::new(blocks(2, 1))]).is_err());
    storage.remove("f").unwrap();
    assert!(storage.write(&other, 0, &blocks(2, 1)).is_err(), "an open file keeps its space");
    drop(file);
    storage.write(&other, 0, &blocks(2, 1)).unwrap();
    assert_eq!(disk.used_bytes(), 4096);
    disk.set_capacity(None);
    storage.allocate(&other, 1 << 30).unwrap();
}

#[test]
fn a_lying_disk_loses_what_it_said_it_had() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.set_flushes_lie(true);
    storage.write_flushed(&file, 0, &[Arc::new(blocks(2, 1))]).unwrap();
    storage.flush(&file).unwrap();
    assert_eq!(states(&disk).len(), 2);
}
