//! Direct I/O, maps, locks and space.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use seawall_faultfs::Options;

use crate::bed::{Aligned, Bed, errno};

#[test]
fn direct_io_is_aligned_or_refused() {
    let Some(bed) = Bed::new(Options { direct_align_bytes: 4096, ..Options::default() }) else { return };
    bed.durable_file("file", &[1; 8192]);
    let open = || File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(bed.path("file")).unwrap();
    let (file, mut bytes) = (open(), Box::new(Aligned([2; 4096])));
    assert_eq!(errno(file.write_at(&bytes.0, 512)), libc::EINVAL);
    assert_eq!(errno(file.write_at(&bytes.0[..512], 0)), libc::EINVAL);
    assert_eq!(errno(file.read_at(&mut bytes.0[..100], 0)), libc::EINVAL);
    assert_eq!(file.write_at(&bytes.0, 4096).unwrap(), 4096);
    assert_eq!(file.read_at(&mut bytes.0, 0).unwrap(), 4096);
    assert_eq!(bytes.0, [1; 4096]);
}

#[test]
fn caches_and_maps_see_direct_writes() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let cached = bed.durable_file("file", &[1; 8192]);
    let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(bed.path("file")).unwrap();
    let mut bytes = Box::new(Aligned([2; 4096]));
    assert_eq!(bed.read("file"), [1; 8192]);
    direct.write_all_at(&bytes.0, 0).unwrap();
    assert_eq!(bed.read("file"), [[2; 4096], [1; 4096]].concat(), "the page cache was told");

    cached.write_all_at(&[3; 4096], 4096).unwrap();
    direct.read_exact_at(&mut bytes.0, 4096).unwrap();
    assert_eq!(bytes.0, [3; 4096], "the page cache writes through");

    for (file, kind) in [(&cached, "cached"), (&direct, "direct")] {
        assert_eq!(mapped(file, 8192), [[2; 4096], [3; 4096]].concat(), "a {kind} map");
    }
}

#[test]
fn a_full_file_system_says_so() {
    let Some(bed) = Bed::new(Options { capacity_bytes: 1 << 20, ..Options::default() }) else { return };
    let file = bed.durable_file("file", &[1; 512 << 10]);
    assert_eq!(errno(file.write_all_at(&[0; 640 << 10], 512 << 10)), libc::ENOSPC);
    assert!(fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).is_ok());
    assert_eq!(errno(std::fs::write(bed.path("other"), "x")), libc::ENOSPC);
    let space = rustix::fs::statvfs(bed.fs.path()).unwrap();
    assert_eq!((space.f_blocks, space.f_bavail), (256, 0));
    file.set_len(0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    std::fs::write(bed.path("other"), "x").unwrap();
    std::fs::remove_file(bed.path("file")).unwrap();
    drop(file);
    assert_eq!(rustix::fs::statvfs(bed.fs.path()).unwrap().f_bavail, 255);
}

#[test]
fn locks_are_the_kernels_own() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let one = bed.durable_file("file", b"x");
    let two = File::open(bed.path("file")).unwrap();
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(flock(&two, FlockOperation::NonBlockingLockShared).is_err());
    flock(&one, FlockOperation::Unlock).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
}

/// What a shared map of the file's first bytes holds.
#[allow(unsafe_code)]
fn mapped(file: &File, bytes: usize) -> Vec<u8> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: a new map of a file that is this long, and that nobody changes until it is unmapped.
    unsafe {
        let map = mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file, 0).unwrap();
        let seen = std::slice::from_raw_parts(map.cast::<u8>(), bytes).to_vec();
        munmap(map, bytes).unwrap();
        seen
    }
}
