//! Names: lost, kept, half done.

use super::*;

fn names(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().map(|(name, _)| name).collect()
}

fn all_names(disk: &SimDisk) -> BTreeSet<Vec<String>> {
    disk.crash_states(CrashOptions::default()).map(|state| names(&state.disk)).collect()
}

fn set(all: &[&[&str]]) -> BTreeSet<Vec<String>> {
    all.iter().map(|names| names.iter().map(|name| name.to_string()).collect()).collect()
}

#[test]
fn a_new_name_may_be_lost_until_the_directory_is_synced() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let storage = disk.open();
    let file = storage.create("f").unwrap();
    storage.write_flushed(&file, 0, &[Arc::new(blocks(2, 1))]).unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![], vec![2]]), "its bytes are durable, its name is not");
    storage.sync_dir().unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![2]]));
}

#[test]
fn a_rename_is_old_or_new_or_half_done() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    disk.write_file("old", b"1");
    let storage = disk.open();
    storage.rename("old", "new").unwrap();
    assert_eq!(names(&disk), ["new"]);
    assert_eq!(all_names(&disk), set(&[&["old"], &["new"], &["new", "old"]]));
    let strict = CrashOptions { half_done_renames: false, ..CrashOptions::default() };
    assert!(disk.crash_states(strict).all(|state| names(&state.disk).len() == 1));
    storage.sync_dir().unwrap();
    assert_eq!(all_names(&disk), set(&[&["new"]]));
}

#[test]
fn a_rename_over_a_file_keeps_one_of_both() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    disk.write_file("a", b"1");
    disk.write_file("b", b"2");
    let storage = disk.open();
    storage.rename("a", "b").unwrap();
    for state in disk.crash_states(CrashOptions::default()) {
        let b = state.disk.read_file("b");
        let is_old = names(&state.disk) == ["a", "b"] && b == b"2";
        assert!(is_old || b == b"1", "{state}");
    }
}

#[test]
fn changes_of_names_become_durable_in_order() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    disk.write_file("c", b"3");
    let storage = disk.open();
    storage.create("a").unwrap();
    storage.create("b").unwrap();
    storage.remove("c").unwrap();
    assert_eq!(all_names(&disk), set(&[&["c"], &["a", "c"], &["a", "b", "c"], &["a", "b"]]));
}

#[test]
fn a_removed_file_may_come_back_with_what_was_written_to_it() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    storage.remove("f").unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![], vec![1, 1, 1, 1], vec![2, 1, 1, 1]]));
    storage.sync_dir().unwrap();
    assert_eq!(states(&disk), BTreeSet::from([vec![]]));
}

#[test]
fn a_failed_sync_of_names_is_never_made_good() {
    let disk = SimDisk::new(DiskOptions::DIRECT);
    let storage = disk.open();
    storage.create("a").unwrap();
    disk.fail(Fault::new(OpKind::SyncDir, 0, errno::EIO).effect(Effect::AfterPartial));
    assert_eq!(storage.sync_dir().unwrap_err().raw_os_error(), Some(errno::EIO));
    storage.create("b").unwrap();
    storage.sync_dir().unwrap();
    assert_eq!(all_names(&disk), set(&[&[], &["a"], &["a", "b"]]));
}

#[test]
fn names_and_bytes_are_lost_independently() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    storage.rename("f", "g").unwrap();
    let seen: BTreeSet<(Vec<String>, u8)> = disk
        .crash_states(CrashOptions { torn_writes: 0, half_done_renames: false, ..CrashOptions::default() })
        .map(|state| {
            let names = names(&state.disk);
            let head = state.disk.read_file(&names[0])[0];
            (names, head)
        })
        .collect();
    assert_eq!(seen.len(), 4, "{seen:?}");
}
