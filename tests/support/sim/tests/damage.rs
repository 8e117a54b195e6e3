//! Damage, and the breaches that are noticed.

use seawall::storage::Hold;

use super::*;

#[test]
fn damage_is_done_to_what_readers_see_and_to_what_survives() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    storage.write(&file, 0, &blocks(2, 1)).unwrap();
    disk.flip_bit("f", 8 * 4097 + 2);
    assert_eq!(disk.read_file("f")[4096..4099], [1, 1 ^ 4, 1]);
    disk.copy_file("f", "old");
    disk.truncate("f", 5000);
    assert_eq!(disk.names(), [("f".to_owned(), 5000), ("old".to_owned(), 4 * 4096)]);
    disk.write_at("f", 6000, b"x");
    let bytes = disk.read_file("f");
    assert_eq!((bytes[4999], bytes[5000], bytes[6000], bytes.len()), (1, 0, b'x', 6001), "cut bytes do not return");
    let after = disk.crash(&CrashChoice::lost());
    assert_eq!(after.content_hash(), disk.content_hash());
    disk.copy_file("old", "f");
    disk.remove_file("old");
    assert_eq!(disk.read_file("f").len(), 4 * 4096);
    assert!(disk.violations().is_empty());
}

#[test]
fn an_unreadable_part_is_an_error_until_written() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    disk.make_unreadable("f", 4096..4608);
    let mut into = Buffer::new(4096);
    assert_eq!(storage.read_at(&file, 0, 4096, &mut into).unwrap(), 4096);
    assert_eq!(storage.read_at(&file, 4096, 4096, &mut into).unwrap_err().raw_os_error(), Some(errno::EIO));
    let map = storage.map(&file, 8192).unwrap();
    storage.populate(&map, 0..4096).unwrap();
    assert_eq!(storage.populate(&map, 4000..4097).unwrap_err().raw_os_error(), Some(errno::EIO));
    drop(map);
    storage.write(&file, 4096, &blocks(3, 1)).unwrap();
    assert_eq!(storage.read_at(&file, 4096, 4096, &mut into).unwrap(), 4096);
    assert!(disk.violations().is_empty());
}

#[test]
fn reads_end_where_the_file_ends() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT_512);
    disk.truncate("f", 700);
    let mut into = Buffer::new(4096);
    assert_eq!((storage.read_at(&file, 512, 1024, &mut into).unwrap(), into.len()), (188, 188));
    assert_eq!(storage.read_at(&file, 1024, 512, &mut into).unwrap(), 0);
    assert_eq!(storage.map(&file, 701).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_map_is_a_snapshot_and_a_write_under_it_is_noticed() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let map = storage.map(&file, 8192).unwrap();
    let slice = map.bytes().slice(10..20);
    drop(map);
    storage.write(&file, 8192, &blocks(2, 1)).unwrap();
    assert!(disk.violations().is_empty(), "beyond the mapped bytes");
    storage.write(&file, 4096, &blocks(2, 1)).unwrap();
    assert_eq!(kinds(&disk), [ViolationKind::WriteUnderMap]);
    assert_eq!(slice, [1; 10].as_slice());
    drop(slice);
    storage.write(&file, 4096, &blocks(2, 1)).unwrap();
    assert_eq!(kinds(&disk).len(), 1, "nobody looks any more");
}

#[test]
fn a_map_of_a_removed_file_stays_and_a_truncated_one_is_an_error() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let map = storage.map(&file, 8192).unwrap();
    drop(file);
    storage.remove("f").unwrap();
    storage.populate(&map, 0..8192).unwrap();
    assert_eq!(disk.used_bytes(), 4 * 4096, "a map keeps the space");
    disk.write_file("g", &[1; 8192]);
    let file = storage.open("g").unwrap();
    let map = storage.map(&file, 8192).unwrap();
    disk.truncate("g", 4096);
    storage.populate(&map, 0..4096).unwrap();
    assert_eq!(storage.populate(&map, 0..4097).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn unaligned_empty_and_foreign_calls_are_noticed() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    assert!(storage.write(&file, 512, &blocks(2, 1)).is_err());
    assert!(storage.write(&file, 0, &buffer(&[2; 512])).is_err());
    assert!(storage.read_at(&file, 0, 512, &mut Buffer::new(4096)).is_err());
    assert!(storage.read_at(&file, 0, 8192, &mut Buffer::new(4096)).is_err());
    storage.write(&file, 0, &buffer(&[])).unwrap();
    assert!(disk.open().write(&file, 0, &blocks(2, 1)).is_err());
    assert!(SimDisk::new(DiskOptions::DIRECT).open().len(&file).is_err());
    assert!(storage.rename("x", "y").is_err() && storage.remove("x").is_err() && storage.open("x").is_err());
    use ViolationKind::*;
    let expected = [
        UnalignedWrite,
        UnalignedWrite,
        UnalignedRead,
        UnalignedRead,
        EmptyWrite,
        ForeignFile,
        MissingName,
        MissingName,
    ];
    assert_eq!(kinds(&disk), expected);
}

#[test]
fn writes_that_meet_others_are_noticed() {
    let (disk, storage, file) = disk_with_file(DiskOptions::DIRECT);
    let file = Arc::new(file);
    submit(&storage, &file, 1, 0, 2);
    let _witness = Witness::attached(&storage);
    submit(&storage, &file, 1, 1, 2);
    submit(&storage, &file, 2, 1, 2);
    drop(storage.map(&file, 4096).unwrap());
    let reader = disk.open();
    let other = reader.open("f").unwrap();
    assert!(reader.hold(&other, Hold::Shared).unwrap());
    storage.write(&file, 3 * 4096, &blocks(2, 1)).unwrap();
    drop(other);
    storage.remove("f").unwrap();
    storage.write(&file, 3 * 4096, &blocks(2, 1)).unwrap();
    use ViolationKind::*;
    let expected = [NoClient, TokenInUse, OverlappingWrites, MapUnderWrite, WriteUnderSharedHold, WriteToRemoved];
    assert_eq!(kinds(&disk), expected);
}
