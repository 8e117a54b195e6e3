//! Which names survive.

use std::fs::{self, File};

use seawall_faultfs::{Choice, Options};

use crate::bed::{Bed, sync_dir};

#[test]
fn a_name_takes_a_flush_of_its_directory() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    File::create(bed.path("file")).unwrap().sync_all().unwrap();
    bed.fs.crash(Choice::AllLost);
    assert!(!bed.path("file").exists(), "fsync of a file keeps no name");

    File::create(bed.path("file")).unwrap();
    sync_dir(bed.fs.path());
    bed.fs.crash(Choice::AllLost);
    assert!(bed.path("file").exists());
    fs::remove_file(bed.path("file")).unwrap();
    bed.fs.crash(Choice::AllLost);
    assert!(bed.path("file").exists(), "an unflushed removal may be undone");
    fs::remove_file(bed.path("file")).unwrap();
    sync_dir(bed.fs.path());
    bed.fs.crash(Choice::AllLost);
    assert!(!bed.path("file").exists());
}

#[test]
fn a_file_may_keep_its_own_name_where_that_is_asked_for() {
    let Some(bed) = Bed::new(Options { file_sync_keeps_name: true, ..Options::default() }) else { return };
    fs::write(bed.path("file"), "x").unwrap();
    File::open(bed.path("file")).unwrap().sync_all().unwrap();
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("file"), b"x");
}

#[test]
fn a_directory_is_a_name_too() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let file = bed.path("dir/file");
    fs::create_dir(bed.path("dir")).unwrap();
    File::create(&file).unwrap();
    sync_dir(&bed.path("dir"));
    bed.fs.crash(Choice::AllLost);
    assert!(!bed.path("dir").exists(), "flushed within a directory that is lost itself");
    fs::create_dir(bed.path("dir")).unwrap();
    sync_dir(bed.fs.path());
    File::create(&file).unwrap();
    bed.fs.crash(Choice::AllLost);
    assert!(bed.path("dir").is_dir() && !file.exists());
}

#[test]
fn a_rename_happens_or_does_not() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let mut met = [0; 2];
    for seed in 0..16 {
        bed.durable_file("new", b"new");
        bed.durable_file("file", b"old");
        sync_dir(bed.fs.path());
        fs::rename(bed.path("new"), bed.path("file")).unwrap();
        assert_eq!(bed.read("file"), b"new");
        let survived = bed.fs.crash(Choice::Seeded(seed));
        let is_new = bed.read("file") == b"new";
        assert_eq!(survived.names_kept, u64::from(is_new));
        assert_eq!(bed.path("new").exists(), !is_new, "both names or neither changed");
        met[usize::from(is_new)] += 1;
    }
    assert!(met.iter().all(|times| *times > 0), "{met:?}");
}

#[test]
fn unflushed_names_survive_as_a_prefix() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..24 {
        let names = ["a", "b", "c"];
        names.iter().for_each(|name| drop(File::create(bed.path(name)).unwrap()));
        bed.fs.crash(Choice::Seeded(seed));
        let there = names.iter().filter(|name| bed.path(name).exists()).count();
        assert!(names[..there].iter().all(|name| bed.path(name).exists()), "seed {seed}: not a prefix");
        met.insert(there);
        names[..there].iter().for_each(|name| fs::remove_file(bed.path(name)).unwrap());
        sync_dir(bed.fs.path());
    }
    assert_eq!(met.len(), 4, "{met:?}");
}

#[test]
fn directories_list_what_they_hold() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    (0..300).for_each(|nth| drop(File::create(bed.path(&format!("file-{nth}"))).unwrap()));
    assert_eq!(fs::read_dir(bed.fs.path()).unwrap().count(), 300);
    assert!(fs::remove_dir(bed.fs.path().join("file-1")).is_err());
    fs::create_dir(bed.path("dir")).unwrap();
    fs::rename(bed.path("file-1"), bed.path("dir/one")).unwrap();
    assert!(fs::remove_dir(bed.path("dir")).is_err(), "not empty");
    fs::remove_file(bed.path("dir/one")).unwrap();
    fs::remove_dir(bed.path("dir")).unwrap();
    assert_eq!(fs::read_dir(bed.fs.path()).unwrap().count(), 299);
}
