//! Errors on demand reach whoever asks, by whatever way.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;
use seawall_faultfs::{Choice, Fault, FsyncFailure, Op, Options};

use crate::bed::{Aligned, Bed, errno};
use crate::skip::skipped;

#[test]
fn the_nth_call_fails_once_or_for_ever() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", b"old");
    bed.fs.fail(Fault::once(Op::Write, 2, Errno::DQUOT));
    file.write_all_at(b"1", 0).unwrap();
    assert_eq!(errno(file.write_at(b"2", 0)), libc::EDQUOT);
    file.write_all_at(b"3", 0).unwrap();
    assert_eq!(bed.read("file"), b"3ld");

    bed.fs.fail(Fault { forever: true, name: Some(".seg".to_owned()), ..Fault::once(Op::Create, 1, Errno::ROFS) });
    File::create(bed.path("another")).unwrap();
    for _ in 0..2 {
        assert_eq!(errno(File::create(bed.path("1.seg"))), libc::EROFS);
    }
    assert_eq!(bed.fs.faults_fired(), 3);
    bed.fs.clear_faults();
    File::create(bed.path("1.seg")).unwrap();
}

#[test]
fn every_operation_can_fail() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", b"old");
    let path = |name| bed.path(name);
    let dir = File::open(bed.fs.path()).unwrap();
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(path("file")).unwrap();
    let mut bytes = Box::new(Aligned([0; 4096]));
    let check = |op, call: &mut dyn FnMut() -> std::io::Result<()>| {
        bed.fs.fail(Fault::once(op, 1, Errno::IO));
        assert_eq!(errno(call()), libc::EIO, "{op:?}");
        call().unwrap_or_else(|e| panic!("{op:?} again: {e}"));
    };
    check(Op::Read, &mut || direct.read_at(&mut bytes.0, 0).map(drop));
    check(Op::Write, &mut || file.write_all_at(b"x", 0));
    check(Op::Fsync, &mut || file.sync_data());
    check(Op::SyncDir, &mut || dir.sync_all());
    check(Op::Create, &mut || File::create_new(path("new")).map(drop));
    check(Op::Open, &mut || File::open(path("file")).map(drop));
    check(Op::Rename, &mut || std::fs::rename(path("new"), path("newer")));
    check(Op::Unlink, &mut || std::fs::remove_file(path("newer")));
    check(Op::MakeDir, &mut || std::fs::create_dir(path("dir")));
    check(Op::SetLen, &mut || file.set_len(77));
    check(Op::Fallocate, &mut || Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8192)?));
}

#[test]
fn a_write_can_be_cut() {
    let Some(bed) = Bed::new(Options { sector_bytes: 512, ..Options::default() }) else { return };
    bed.durable_file("file", &[1; 4096]);
    for flags in [0, libc::O_DIRECT] {
        let file = File::options().write(true).custom_flags(flags).open(bed.path("file")).unwrap();
        let bytes = Box::new(Aligned([2; 4096]));
        bed.fs.fail(Fault::once(Op::CutWrite, 1, Errno::IO));
        assert_eq!(file.write_at(&bytes.0, 0).unwrap(), 2048, "with flags {flags:#o}");
        assert_eq!(file.write_at(&bytes.0, 0).unwrap(), 4096);
    }
    assert_eq!(bed.fs.faults_fired(), 2);
}

#[test]
fn a_failed_fsync_is_followed_by_a_lie() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", b"old");
    file.write_all_at(b"new", 0).unwrap();
    bed.fs.fail(Fault::once(Op::Fsync, 1, Errno::IO));
    assert_eq!(errno(file.sync_data()), libc::EIO);
    file.sync_data().expect("the next fsync has nothing to do");
    assert_eq!(bed.read("file"), b"new", "and readers see what is lost");
    bed.fs.crash(Choice::AllKept);
    assert_eq!(bed.read("file"), b"old");
}

#[test]
fn or_by_the_truth_where_that_is_asked_for() {
    let options = Options { fsync_failure: FsyncFailure::KeepsPages, ..Options::default() };
    let Some(bed) = Bed::new(options) else { return };
    let file = bed.durable_file("file", b"old");
    file.write_all_at(b"new", 0).unwrap();
    bed.fs.fail(Fault::once(Op::Fsync, 1, Errno::IO));
    assert_eq!(errno(file.sync_data()), libc::EIO);
    file.sync_data().unwrap();
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), b"new");
}

#[test]
#[allow(unsafe_code)]
fn io_uring_is_told_too() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let mut ring = match IoUring::new(4) {
        Ok(ring) => ring,
        Err(e) => return skipped(format!("no io_uring: {e}")),
    };
    bed.durable_file("file", &[1; 4096]);
    for flags in [0, libc::O_DIRECT] {
        let file = File::options().write(true).custom_flags(flags).open(bed.path("file")).unwrap();
        let bytes = Box::new(Aligned([2; 4096]));
        let fd = types::Fd(file.as_raw_fd());
        let mut run = |entry: squeue::Entry| {
            // SAFETY: the file and the bytes outlive the call, which waits for the completion.
            unsafe { ring.submission().push(&entry).unwrap() };
            ring.submit_and_wait(1).unwrap();
            ring.completion().next().unwrap().result()
        };
        let plain = || opcode::Write::new(fd, bytes.0.as_ptr(), 4096).build();
        let durable = || opcode::Write::new(fd, bytes.0.as_ptr(), 4096).rw_flags(libc::RWF_DSYNC).build();
        let flush = || opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let cases = [
            (Op::Write, Errno::NOSPC, &plain as &dyn Fn() -> squeue::Entry),
            (Op::Write, Errno::IO, &durable),
            (Op::Fsync, Errno::IO, &durable),
            (Op::Fsync, Errno::DQUOT, &flush),
        ];
        for (op, errno, entry) in cases {
            bed.fs.fail(Fault::once(op, 1, errno));
            assert_eq!(run(entry()), -errno.raw_os_error(), "{op:?} with flags {flags:#o}");
            assert!(run(entry()) >= 0);
        }
        assert_eq!(run(durable()), 4096);
        bed.fs.crash(Choice::AllLost);
        assert_eq!(bed.read("file"), [2; 4096]);
    }
}

/// Through the page cache a cut write ends short. A direct one the kernel continues by itself, and tells as whole; on 6.18
/// it writes the rest where the beginning belongs. What a file holds then is no fault of who believed it.
#[test]
#[allow(unsafe_code)]
fn a_cut_write_of_io_uring_is_told_where_the_page_cache_is() {
    let Some(bed) = Bed::new(Options { sector_bytes: 512, ..Options::default() }) else { return };
    let mut ring = match IoUring::new(4) {
        Ok(ring) => ring,
        Err(e) => return skipped(format!("no io_uring: {e}")),
    };
    for flags in [0, libc::O_DIRECT] {
        bed.durable_file("file", &[1; 4096]);
        let file = File::options().write(true).custom_flags(flags).open(bed.path("file")).unwrap();
        let bytes = Box::new(Aligned([2; 4096]));
        bed.fs.fail(Fault::once(Op::CutWrite, 1, Errno::IO));
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.0.as_ptr(), 4096).build();
        // SAFETY: the file and the bytes outlive the call, which waits for the completion.
        unsafe { ring.submission().push(&entry).unwrap() };
        ring.submit_and_wait(1).unwrap();
        let result = ring.completion().next().unwrap().result();
        if flags == 0 {
            assert_eq!(result, 2048);
        } else {
            let half = bed.read("file").iter().filter(|byte| **byte == 2).count();
            println!("a direct one: told {result}, {half} bytes were written");
        }
    }
    assert_eq!(bed.fs.faults_fired(), 2);
}
