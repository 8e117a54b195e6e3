//! Processes: locks, claims, kills.

use seawall::storage::{Hold, LockFailed};

use super::*;

#[test]
fn there_is_one_lock() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let (first, second) = (disk.open(), disk.open());
    let lock = first.lock().unwrap();
    assert!(matches!(second.lock(), Err(LockFailed::Held(Some(1000)))));
    assert!(matches!(first.lock(), Err(LockFailed::Held(_))), "not even its own process");
    drop(lock);
    let lock = second.lock().unwrap();
    second.kill(&KillChoice::Lost);
    let own = first.lock().unwrap();
    drop(lock);
    assert!(matches!(first.lock(), Err(LockFailed::Held(_))), "a dead lock's end releases nobody else's");
    drop(own);
    disk.fail(Fault::new(OpKind::Lock, 0, errno::EIO));
    assert!(matches!(first.lock(), Err(LockFailed::Io(_))));
}

#[test]
fn claims_conflict_across_handles_and_end_with_them() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let reader = disk.open();
    let (one, two) = (reader.open("f").unwrap(), reader.open("f").unwrap());
    assert!(reader.hold(&one, Hold::Shared).unwrap() && reader.hold(&two, Hold::Shared).unwrap());
    assert!(!storage.hold(&file, Hold::Exclusive).unwrap());
    drop(one);
    assert!(!storage.hold(&file, Hold::Exclusive).unwrap());
    assert!(reader.hold(&two, Hold::Exclusive).unwrap(), "the only one left may raise its claim");
    assert!(reader.hold(&two, Hold::Released).unwrap());
    assert!(storage.hold(&file, Hold::Exclusive).unwrap());
    drop(two);
    disk.kill(&KillChoice::Lost);
    let storage = disk.open();
    let again = storage.open("f").unwrap();
    assert!(storage.hold(&again, Hold::Exclusive).unwrap());
}

#[test]
fn a_kill_keeps_what_is_volatile_and_ends_what_is_in_flight() {
    for options in [DiskOptions::DIRECT, DiskOptions::BUFFERED] {
        let (disk, storage, file) = disk_with_file(options);
        let witness = Witness::attached(&storage);
        let file = Arc::new(file);
        storage.write(&file, 0, &blocks(2, 1)).unwrap();
        submit(&storage, &file, 1, 1, 3);
        submit(&storage, &file, 2, 2, 4);
        disk.kill(&KillChoice::Each(vec![(1, Landed::Full)]));
        assert_eq!(witness.tokens(), [1, 2]);
        assert!(witness.told.lock().iter().all(|(_, result)| result.is_err()));
        assert!(disk.pending().is_empty());
        assert_eq!(heads(&disk), [2, 3, 1, 1]);
        assert_eq!(states(&disk).len(), 4, "what landed is volatile");
        // The next process sees it, and a flush of its own makes it durable.
        let storage = disk.open();
        let file = storage.open("f").unwrap();
        storage.flush(&file).unwrap();
        assert_eq!(states(&disk), BTreeSet::from([vec![2, 3, 1, 1]]));
    }
}

#[test]
fn a_killed_write_may_land_in_part() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
        submit(&storage, &Arc::new(file), 1, 0, 2);
        disk.kill(&KillChoice::Random(seed));
        let sectors: Vec<u8> = disk.read_file("f")[..4096].chunks(512).map(|sector| sector[0]).collect();
        seen.insert(sectors);
    }
    assert!(seen.contains(&[1; 8][..]) && seen.contains(&[2; 8][..]) && seen.len() > 8, "{seen:?}");
}

#[test]
fn the_dead_are_refused() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    disk.kill(&KillChoice::Lost);
    let end = disk.journal().end();
    assert!(storage.write(&file, 0, &blocks(2, 1)).is_err() && storage.flush(&file).is_err());
    assert!(storage.create("g").is_err() && storage.list().is_err() && storage.lock().is_err());
    submit(&storage, &Arc::new(file), 9, 0, 2);
    disk.pump();
    assert_eq!(witness.tokens(), [9], "and told so, once");
    assert_eq!(disk.journal().end(), end, "nothing was done");
}

#[test]
fn a_write_of_a_dead_process_may_land_later_and_keeps_its_claim() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let witness = Witness::attached(&storage);
    let file = Arc::new(file);
    assert!(storage.hold(&file, Hold::Exclusive).unwrap());
    submit(&storage, &file, 1, 0, 2);
    drop(file);
    disk.kill(&KillChoice::Linger);
    let next = disk.open();
    let again = next.open("f").unwrap();
    disk.pump();
    assert_eq!(disk.pending(), [1]);
    assert_eq!(heads(&disk), [1, 1, 1, 1]);
    assert!(!next.hold(&again, Hold::Exclusive).unwrap());
    disk.complete(1, Outcome::Ok);
    assert_eq!(heads(&disk), [2, 1, 1, 1]);
    assert!(next.hold(&again, Hold::Exclusive).unwrap());
    assert!(witness.tokens().is_empty(), "nobody is left to be told");
}

#[test]
fn one_process_can_die_alone() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let other = disk.open();
    other.kill(&KillChoice::Lost);
    assert!(other.list().is_err());
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    assert!(disk.violations().is_empty());
}
