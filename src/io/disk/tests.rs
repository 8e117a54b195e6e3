//! Real directories: the one for temporary files, and a memory file system where there is one.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};

use super::super::DriverConfig;
use super::super::skip::skipped;
use super::*;
use crate::config::BackendChoice;
use rustix::fs::{AtFlags, StatxFlags};

const RW: Access = Access::ReadWrite { create: true };

fn driver() -> Driver {
    Driver::start(DriverConfig { backend: BackendChoice::Pwrite, ..DriverConfig::default() }).unwrap()
}

fn open(dir: &Path, access: Access, direct: DirectIo) -> io::Result<Disk> {
    Disk::open(dir, &driver(), access, direct)
}

/// With and without O_DIRECT, where it works.
fn disks(test: impl Fn(&Path, Disk)) {
    for direct in [DirectIo::Auto, DirectIo::Never] {
        let dir = tempfile::tempdir().unwrap();
        test(dir.path(), open(dir.path(), RW, direct).unwrap());
    }
}

fn filled(fill: u8, bytes: usize) -> Arc<Buffer> {
    let mut buffer = Buffer::new(bytes);
    buffer.set_len(bytes);
    buffer.fill(fill);
    Arc::new(buffer)
}

#[test]
fn files_are_created_listed_renamed_and_removed() {
    disks(|path, disk| {
        assert_eq!(disk.list().unwrap(), [], "trying O_DIRECT leaves nothing behind");
        let file = disk.create("a").unwrap();
        assert_eq!(disk.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        disk.write_flushed(&file, 0, &[filled(1, 8192)]).unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        std::fs::write(path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")), b"x")
            .unwrap();
        for (to, name) in [("nowhere", "dangling"), ("loop", "loop"), ("a/b", "through-a-file")] {
            std::os::unix::fs::symlink(to, path.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("long".repeat(100), path.join("too-long")).unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 8192)]);
        disk.create("b").unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), [("b".to_owned(), 8192)]);
        assert_eq!(disk.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.remove("b").unwrap();
        assert_eq!(disk.list().unwrap(), []);
        assert_eq!(disk.len(&file).unwrap(), 8192, "an open file outlives its name");
        assert!(disk.free_bytes().unwrap() > 0);
        assert_eq!(disk.describe(), path.to_str().unwrap());
    });
}

#[test]
fn what_is_written_is_read_up_to_the_end() {
    disks(|_, disk| {
        let file = disk.create("a").unwrap();
        disk.write(&file, 0, &filled(1, 4096)).unwrap();
        disk.flush(&file).unwrap();
        let times = disk.write_flushed(&file, 4096, &[filled(2, 4096), filled(3, 8192)]).unwrap();
        assert_eq!(times.write.is_zero(), disk.medium().direct);
        let mut read = Buffer::new(65536);
        assert_eq!(disk.read_at(&file, 0, 65536, &mut read).unwrap(), 16384);
        assert_eq!((read[0], read[4096], read[8192], read[16383], read.len()), (1, 2, 3, 3, 16384));
        assert_eq!(disk.read_at(&file, 8192, 4096, &mut read).unwrap(), 4096);
        assert_eq!((read[0], read.len()), (3, 4096));
        assert_eq!(disk.read_at(&file, 16384, 4096, &mut read).unwrap(), 0);
        assert_eq!(disk.read_at(&file, 0, 65537, &mut read).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_that_ends_within_a_block_is_read_to_its_end() {
    disks(|path, disk| {
        std::fs::write(path.join("a"), [5; 5000]).unwrap();
        let file = disk.open("a").unwrap();
        let mut read = Buffer::new(65536);
        assert_eq!(disk.read_at(&file, 0, 65536, &mut read).unwrap(), 5000);
        assert!(read.iter().all(|byte| *byte == 5));
    });
}

#[test]
fn allocated_space_is_reserved_zeros() {
    disks(|path, disk| {
        let file = disk.create("a").unwrap();
        disk.allocate(&file, 1 << 20).unwrap();
        disk.allocate(&file, 4096).unwrap();
        disk.allocate(&file, 0).unwrap();
        assert_eq!(disk.len(&file).unwrap(), 1 << 20);
        let read = std::fs::read(path.join("a")).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        let huge = disk.allocate(&file, 1 << 60).unwrap_err();
        assert!(matches!(huge.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge), "{huge}");
    });
}

#[test]
fn zeros_are_written_where_nothing_can_be_reserved() {
    disks(|path, disk| {
        std::fs::write(path.join("a"), [7; 5000]).unwrap();
        let file = disk.open("a").unwrap();
        file.write_zeros(5000, 3 << 20).unwrap();
        let read = std::fs::read(path.join("a")).unwrap();
        assert_eq!(read.len(), 3 << 20);
        assert!(read[..5000].iter().all(|byte| *byte == 7));
        assert!(read[5000..].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_sealed_file_is_mapped_and_a_truncated_one_is_an_error() {
    disks(|path, disk| {
        let file = disk.create("a").unwrap();
        disk.write_flushed(&file, 0, &[filled(1, 65536)]).unwrap();
        disk.rename("a", "b").unwrap();
        let map = disk.map(&file, 65536).unwrap();
        disk.populate(&map, 0..65536).unwrap();
        assert!(map.bytes().iter().all(|byte| *byte == 1));
        std::fs::OpenOptions::new().write(true).open(path.join("b")).unwrap().set_len(4096).unwrap();
        disk.populate(&map, 0..4096).unwrap();
        assert_eq!(disk.populate(&map, 0..8192).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.map(&file, 8192).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_recycled_file_is_mapped_with_its_new_bytes() {
    disks(|_, disk| {
        let file = disk.create("a").unwrap();
        for fill in 1..10 {
            disk.write_flushed(&file, 0, &[filled(fill, 65536)]).unwrap();
            let map = disk.map(&file, 65536).unwrap();
            disk.populate(&map, 0..65536).unwrap();
            assert!(map.bytes().iter().all(|byte| *byte == fill), "the page cache gives what it had before");
            let watch = map.watch();
            drop(map);
            assert!(!watch.is_alive());
        }
    });
}

#[test]
fn claims_conflict_and_last_as_long_as_a_map() {
    disks(|_, disk| {
        let ours = disk.create("a").unwrap();
        disk.write_flushed(&ours, 0, &[filled(1, 4096)]).unwrap();
        let theirs = disk.open("a").unwrap();
        assert!(disk.hold(&ours, Hold::Exclusive).unwrap());
        assert!(!disk.hold(&theirs, Hold::Shared).unwrap());
        assert!(disk.hold(&ours, Hold::Shared).unwrap());
        assert!(disk.hold(&theirs, Hold::Shared).unwrap());
        assert!(!disk.hold(&ours, Hold::Exclusive).unwrap());
        // What was refused took nothing away.
        let third = disk.open("a").unwrap();
        drop(theirs);
        assert!(!disk.hold(&third, Hold::Exclusive).unwrap());
        let map = disk.map(&ours, 4096).unwrap();
        drop(ours);
        assert!(!disk.hold(&third, Hold::Exclusive).unwrap(), "its map is alive");
        let slice = map.bytes().slice(1..2);
        drop(map);
        assert!(!disk.hold(&third, Hold::Exclusive).unwrap(), "a slice of its map is alive");
        drop(slice);
        // Children that other tests start have a copy of the descriptor between fork and exec.
        let start = std::time::Instant::now();
        while !disk.hold(&third, Hold::Exclusive).unwrap() {
            assert!(start.elapsed().as_secs() < 10);
        }
    });
}

#[test]
fn there_is_one_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (open(dir.path(), RW, DirectIo::Auto).unwrap(), open(dir.path(), RW, DirectIo::Auto).unwrap());
    let lock = ours.lock().unwrap();
    match theirs.lock() {
        Err(LockFailed::Held(pid)) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(lock);
    drop(theirs.lock().unwrap());
    // Somebody tidied up: a lock on the nameless file must not count.
    let first = ours.lock().unwrap();
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    let _second = theirs.lock().unwrap();
    drop(first);
    assert!(matches!(ours.lock(), Err(LockFailed::Held(_))));
}

#[test]
fn another_process_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), RW, DirectIo::Auto).unwrap();
    drop(disk.lock().unwrap());
    let held = Command::new("flock")
        .args(["-n", "-x", "lock", "sh", "-c", "echo held; read line"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut holder) = held else { return skipped("there is no flock command") };
    let mut held = [0; 5];
    io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    assert!(matches!(disk.lock(), Err(LockFailed::Held(Some(_)))));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    disk.lock().unwrap();
}

#[test]
fn read_only_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = open(dir.path(), RW, DirectIo::Auto).unwrap();
    let file = writer.create("a").unwrap();
    writer.write_flushed(&file, 0, &[filled(1, 8192)]).unwrap();
    let reader = open(dir.path(), Access::ReadOnly, DirectIo::Auto).unwrap();
    assert_eq!(reader.medium().direct, writer.medium().direct, "found out by reading");
    assert_eq!(reader.create("b").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(reader.rename("a", "b").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(reader.remove("a").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(matches!(reader.lock(), Err(LockFailed::Io(e)) if e.kind() == io::ErrorKind::PermissionDenied));
    let file = reader.open("a").unwrap();
    assert!(reader.write_flushed(&file, 0, &[filled(2, 4096)]).is_err());
    assert!(reader.write(&file, 0, &filled(2, 4096)).is_err());
    assert!(reader.hold(&file, Hold::Shared).unwrap());
    let mut read = Buffer::new(8192);
    assert_eq!(reader.read_at(&file, 0, 8192, &mut read).unwrap(), 8192);
    assert!(read.iter().all(|byte| *byte == 1));
    assert_eq!(reader.map(&file, 8192).unwrap().bytes(), &read[..]);
    assert_eq!(reader.list().unwrap().len(), 1);

    let missing = dir.path().join("missing");
    assert_eq!(open(&missing, Access::ReadOnly, DirectIo::Auto).unwrap_err().kind(), io::ErrorKind::NotFound);
    let not_create = Access::ReadWrite { create: false };
    assert_eq!(open(&missing, not_create, DirectIo::Auto).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!missing.exists());
}

#[test]
fn directories_are_made_with_those_above_them() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    drop(open(&deep, RW, DirectIo::Auto).unwrap());
    drop(open(&deep, RW, DirectIo::Auto).unwrap());
    assert!(deep.is_dir());
    std::fs::write(dir.path().join("file"), b"").unwrap();
    assert!(open(&dir.path().join("file"), RW, DirectIo::Auto).is_err());
}

#[test]
fn direct_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let never = open(dir.path(), RW, DirectIo::Never).unwrap().medium();
    assert_eq!((never.direct, never.past_caches, never.device_block_bytes), (false, false, 4096));
    let auto = open(dir.path(), RW, DirectIo::Auto).unwrap();
    // Known of these two where the kernel states the alignment, and otherwise of nothing that is tried here but F2FS.
    let file = auto.create("stated").unwrap();
    let stated = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).unwrap();
    let is_stated = stated.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    match rustix::fs::fstatfs(&file).unwrap().f_type as u32 {
        0xef53 | 0x5846_5342 => assert_eq!(auto.medium().past_caches, auto.medium().direct && is_stated),
        0xf2f5_2010 => skipped("whether F2FS has a cache"),
        _ => assert!(!auto.medium().past_caches),
    }
    let trusted = open(dir.path(), RW, DirectIo::Trust).map(|trusted| trusted.medium());
    assert_eq!(
        trusted.ok().map(|trusted| (trusted.direct, trusted.past_caches)),
        auto.medium().direct.then_some((true, true))
    );
    let is_direct = |file: &DiskFile| {
        let flags = rustix::fs::fcntl_getfl(file).unwrap();
        assert!(!flags.intersects(OFlags::DSYNC));
        flags.contains(OFlags::DIRECT)
    };
    assert_eq!(is_direct(&auto.create("a").unwrap()), auto.medium().direct);
    assert_eq!(open(dir.path(), RW, DirectIo::Require).is_ok(), auto.medium().direct);
    let block_bytes = auto.medium().device_block_bytes;
    assert!(block_bytes.is_power_of_two() && (4096..=65536).contains(&block_bytes));
}

/// Memory file systems refuse O_DIRECT before Linux 6.6 and take it since.
#[test]
fn a_memory_file_system_works_either_way() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return skipped("no /dev/shm") };
    for direct in [DirectIo::Auto, DirectIo::Never, DirectIo::Require] {
        let disk = match open(dir.path(), RW, direct) {
            Ok(disk) => disk,
            Err(e) => {
                assert_eq!((direct, e.kind()), (DirectIo::Require, io::ErrorKind::Unsupported));
                continue;
            }
        };
        let name = format!("{direct:?}");
        let file = disk.create(&name).unwrap();
        disk.allocate(&file, 1 << 20).unwrap();
        disk.write_flushed(&file, 4096, &[filled(3, 4096)]).unwrap();
        let mut read = Buffer::new(8192);
        assert_eq!(disk.read_at(&file, 0, 8192, &mut read).unwrap(), 8192);
        assert_eq!((read[4095], read[4096]), (0, 3));
        let map = disk.map(&file, 8192).unwrap();
        disk.populate(&map, 0..8192).unwrap();
        assert_eq!(map.bytes(), &read[..]);
    }
}

/// Where O_DIRECT is refused at open; /proc does so on every kernel.
#[test]
fn a_refusal_is_not_an_error_unless_direct_is_required() {
    let proc_self = Path::new("/proc/self");
    let auto = open(proc_self, Access::ReadOnly, DirectIo::Auto).unwrap();
    assert!(!auto.medium().direct);
    let required = open(proc_self, Access::ReadOnly, DirectIo::Require).unwrap_err();
    assert_eq!(required.kind(), io::ErrorKind::Unsupported);
}

/// No nameless file, no room, no right to write: what is there already is tried instead.
#[test]
fn an_existing_file_answers_as_well_as_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap();
    let inconclusive = probe::probe(fd.as_fd(), Access::ReadOnly).unwrap();
    assert!(matches!(&inconclusive, Direct::Refused(reason) if reason.contains("no file")), "{inconclusive:?}");
    let by_writing = probe::probe(fd.as_fd(), RW).unwrap();
    std::fs::write(dir.path().join("a"), [1; 70_000]).unwrap();
    let by_reading = probe::probe(fd.as_fd(), Access::ReadOnly).unwrap();
    let found = |direct: &Direct| match direct {
        Direct::Works { block_bytes, is_past_caches } => Some((*block_bytes, *is_past_caches)),
        Direct::Refused(_) => None,
    };
    assert_eq!(found(&by_writing), found(&by_reading));
}

#[test]
fn a_file_is_closed_on_exec() {
    disks(|_, disk| {
        let file = disk.create("a").unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert_ne!(u32::from_str_radix(flags, 8).unwrap() & OFlags::CLOEXEC.bits(), 0);
    });
}

#[test]
fn a_write_beside_the_handle_is_seen() {
    disks(|path, disk| {
        let file = disk.create("a").unwrap();
        disk.write_flushed(&file, 0, &[filled(1, 8192)]).unwrap();
        // A page cache that another process filled and dirtied must not hide the device, nor be hidden by it.
        let other = std::fs::OpenOptions::new().read(true).write(true).custom_flags(0).open(path.join("a")).unwrap();
        let mut byte = [0];
        other.read_exact_at(&mut byte, 0).unwrap();
        disk.write_flushed(&file, 0, &[filled(2, 4096)]).unwrap();
        other.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [2]);
        other.write_all_at(&[3], 4096).unwrap();
        let mut read = Buffer::new(8192);
        disk.read_at(&file, 0, 8192, &mut read).unwrap();
        assert_eq!((read[0], read[4096]), (2, 3));
    });
}

/// Where nothing can be reserved a file is lengthened by writing, and a full disk takes a part of a write before it says
/// so.
#[test]
fn zeros_on_a_full_disk_say_that_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |size: &str| {
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(dir.path()).status()
    };
    if !mount("size=3500k").is_ok_and(|status| status.success()) {
        return skipped("no right to mount a small tmpfs");
    }
    let told = open(dir.path(), RW, DirectIo::Never)
        .and_then(|disk| disk.create("a"))
        .map(|file| file.write_zeros(0, 8 << 20));
    assert!(std::process::Command::new("umount").arg("-l").arg(dir.path()).status().unwrap().success());
    assert_eq!(told.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_directory_above_that_cannot_be_flushed_is_others_business() {
    for (error, existed, is_passed) in [
        (Errno::ACCESS, true, true),
        // Of a file system without a flush of directories, or that nobody writes to: an image.
        (Errno::INVAL, true, true),
        (Errno::ROFS, true, true),
        (Errno::IO, true, false),
        (Errno::ACCESS, false, false),
        (Errno::INVAL, false, false),
    ] {
        assert_eq!(is_others_business(existed, &error.into()), is_passed, "{error} {existed}");
    }
}
