//! Which bytes survive.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::io::ReadWriteFlags;
use seawall_faultfs::{Choice, Op, Options};

use crate::bed::{Aligned, Bed, errno, sync_dir};

#[test]
fn unflushed_bytes_are_lost_and_flushed_ones_stay() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", &[1; 8192]);
    file.write_all_at(&[2; 4096], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[3; 4096], 4096).unwrap();
    file.write_all_at(&[4; 4096], 8192).unwrap();
    assert_eq!(bed.read("file").len(), 12288, "readers see what is not flushed");

    let survived = bed.fs.crash(Choice::AllLost);
    assert_eq!((survived.sectors_kept, survived.sectors_lost), (0, 16));
    assert_eq!(bed.read("file"), [[2; 4096], [1; 4096]].concat());
    assert_eq!(errno(file.write_at(&[5; 10], 0)), libc::EIO, "handles from before are dead");
    assert_eq!(errno(file.sync_all()), libc::EIO);
}

#[test]
fn everything_may_also_survive() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", &[1; 4096]);
    file.write_all_at(&[2; 8192], 0).unwrap();
    bed.fs.crash(Choice::AllKept);
    assert_eq!(bed.read("file"), [2; 8192]);
}

#[test]
fn a_seed_tears_at_sectors_and_replays() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let mut torn = 0;
    for seed in 0..20 {
        let outcome = || {
            let file = bed.durable_file("file", &[1; 8192]);
            file.write_all_at(&[2; 8192], 0).unwrap();
            bed.fs.crash(Choice::Seeded(seed));
            let bytes = bed.read("file");
            for sector in bytes.chunks(512) {
                assert!(sector == [1; 512] || sector == [2; 512], "a sector is old or new as a whole");
            }
            bytes
        };
        let first = outcome();
        assert_eq!(first, outcome(), "seed {seed} gives the same twice");
        torn += usize::from(first.contains(&1) && first.contains(&2));
    }
    assert!(torn > 5, "only {torn} of 20 seeds tore the write");
}

#[test]
fn an_older_unflushed_version_may_survive() {
    let Some(bed) = Bed::new(Options { sector_bytes: 4096, ..Options::default() }) else { return };
    let mut met = [0; 4];
    for seed in 0..40 {
        let file = bed.durable_file("file", &[0; 4096]);
        for version in 1..=3 {
            file.write_all_at(&[version; 4096], 0).unwrap();
        }
        bed.fs.crash(Choice::Seeded(seed));
        let bytes = bed.read("file");
        assert_eq!(bytes, [bytes[0]; 4096]);
        met[bytes[0] as usize] += 1;
    }
    assert!(met.iter().all(|times| *times > 0), "{met:?}");
}

#[test]
fn an_unflushed_cut_or_growth_may_be_lost() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    bed.durable_file("file", &[1; 8192]).set_len(100).unwrap();
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), [1; 8192]);
    let file = bed.durable_file("file", &[1; 8192]);
    file.set_len(100).unwrap();
    file.set_len(200).unwrap();
    file.sync_all().unwrap();
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), [[1; 100], [0; 100]].concat());
}

/// Through the page cache the kernel makes two requests of it, past it one.
#[test]
fn a_durable_write_survives_by_every_way() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    for direct in [0, libc::O_DIRECT] {
        for (by_flag_of_file, sync) in [(true, libc::O_DSYNC), (true, libc::O_SYNC), (false, 0)] {
            bed.durable_file("file", &[1; 8192]);
            let flags = if by_flag_of_file { direct | sync } else { direct };
            let file = File::options().write(true).custom_flags(flags).open(bed.path("file")).unwrap();
            let bytes = Box::new(Aligned([2; 4096]));
            let fsyncs = bed.fs.count(Op::Fsync);
            if by_flag_of_file {
                file.write_all_at(&bytes.0, 4096).unwrap();
            } else {
                let parts = [IoSlice::new(&bytes.0)];
                rustix::io::pwritev2(&file, &parts, 4096, ReadWriteFlags::DSYNC).unwrap();
            }
            assert_eq!(bed.fs.count(Op::Fsync), fsyncs + 1, "direct {direct:#o} flags {flags:#o}: one flush");
            bed.fs.crash(Choice::AllLost);
            assert_eq!(bed.read("file"), [[1; 4096], [2; 4096]].concat(), "direct {direct:#o} flags {flags:#o}");
        }
    }
}

#[test]
fn a_durable_direct_write_flushes_nothing_else() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", &[1; 8192]);
    file.write_all_at(&[3; 4096], 0).unwrap();
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(bed.path("file"));
    direct.unwrap().write_all_at(&Box::new(Aligned([2; 4096])).0, 4096).unwrap();
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), [[1; 4096], [2; 4096]].concat());
}

#[test]
fn nothing_is_durable_after_the_power_is_cut() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.durable_file("file", b"old");
    file.write_all_at(b"new", 0).unwrap();
    bed.fs.cut_power();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert_eq!(errno(file.write_at(b"newer", 0)), libc::EIO);
    assert_eq!(errno(File::create(bed.path("other"))), libc::EIO);
    bed.fs.reboot(Choice::AllLost);
    assert_eq!(bed.read("file"), b"old");
    let mut file = File::options().append(true).open(bed.path("file")).unwrap();
    file.write_all(b"er").unwrap();
    file.sync_all().unwrap();
    sync_dir(bed.fs.path());
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), b"older");
}
