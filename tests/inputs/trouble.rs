//! Files and directories that cannot be taken: told, or skipped and counted, never silently.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use seawall::ledger::{InputError, Replayable};
use seawall::node::{BadFiles, DirectorySource, DirectorySourceConfig};

use crate::bed::{Bed, Ledger, all, is_changed, is_directory, is_lost, prompt, tick};
use crate::skip::skipped;

fn skipping() -> DirectorySourceConfig {
    DirectorySourceConfig { bad_files: BadFiles::Skip, depth_max: 1, ..prompt() }
}

/// On a thread that is not root, which may read everything.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let drop_rights = || {
        let nobody = rustix::process::Uid::from_raw(65534);
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_rights();
            work()
        });
        thread.join().unwrap()
    })
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_unreadable_file_stops_the_plan() {
    let bed = Bed::prompt();
    mode(bed.dir.path(), 0o755);
    bed.append("a", "1\n");
    bed.append("b", "2\n");
    mode(&bed.path("a"), 0);
    let told = match as_nobody(|| bed.try_plan(all())) {
        Err(e @ InputError::Io { .. }) => e.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(told.contains("opening") && told.contains("/a"), "{told}");
}

#[test]
fn an_unreadable_file_is_skipped_counted_and_taken_later() {
    let mut bed = Bed::new(skipping());
    mode(bed.dir.path(), 0o755);
    bed.append("a", "1\n");
    bed.append("b", "2\n");
    mode(&bed.path("a"), 0);
    let plan = as_nobody(|| bed.plan());
    let batch = bed.ledger.allocate(plan).unwrap();
    assert_eq!(bed.read(batch).unwrap(), ["2"]);
    let stats = bed.source.stats();
    assert_eq!(stats.skipped, 1);
    assert!(stats.trouble.unwrap().contains("/a"));
    mode(&bed.path("a"), 0o644);
    let plan = as_nobody(|| bed.plan());
    let batch = bed.ledger.allocate(plan).unwrap();
    assert_eq!(bed.read(batch).unwrap(), ["1"]);
    assert_eq!((bed.source.stats().skipped, bed.source.stats().trouble), (0, None));
}

#[test]
fn files_of_an_unreadable_directory_are_not_gone() {
    let mut bed = Bed::new(skipping());
    mode(bed.dir.path(), 0o755);
    fs::create_dir(bed.path("in")).unwrap();
    bed.append("in/a", "1\n");
    assert_eq!(bed.take(), ["1"]);
    mode(&bed.path("in"), 0);
    tick();
    let plan = as_nobody(|| bed.plan());
    assert!(plan.gone.is_empty());
    assert_eq!(bed.source.stats().skipped, 1);
    mode(&bed.path("in"), 0o755);
    assert!(bed.take().is_empty());
    // Nor is what a batch needs of them lost, also when nobody remembers where it was.
    bed.append("in/a", "2\n");
    let batch = bed.allocate().unwrap();
    mode(&bed.path("in"), 0);
    bed.restart(skipping());
    tick();
    match as_nobody(|| bed.read(batch)) {
        Err(e @ InputError::Io { .. }) => assert!(e.to_string().contains("/in"), "{e}"),
        other => panic!("{other:?}"),
    }
    mode(&bed.path("in"), 0o755);
    assert_eq!(bed.read(batch).unwrap(), ["2"]);
}

#[test]
fn a_renamed_file_is_found_behind_one_that_cannot_be_opened_under_its_old_name() {
    let mut bed = Bed::new(DirectorySourceConfig { depth_max: 1, ..prompt() });
    mode(bed.dir.path(), 0o755);
    bed.append("a", "1\n");
    let batch = bed.allocate().unwrap();
    bed.rename("a", "b");
    bed.append("a", "2\n");
    mode(&bed.path("a"), 0);
    // Nor does a directory stop it in which it is not.
    fs::create_dir(bed.path("closed")).unwrap();
    mode(&bed.path("closed"), 0);
    bed.restart(DirectorySourceConfig { depth_max: 1, ..prompt() });
    let found = as_nobody(|| bed.read(batch));
    // It may be there.
    bed.remove("b");
    tick();
    let hidden = as_nobody(|| bed.read(batch));
    mode(&bed.path("closed"), 0o755);
    assert_eq!(found.unwrap(), ["1"]);
    assert!(matches!(&hidden, Err(e @ InputError::Io { .. }) if e.to_string().contains("/closed")), "{hidden:?}");
    is_lost(as_nobody(|| bed.read(batch)));
}

/// What stands under its name by now is another file, as the look has seen: that this one cannot be opened says nothing of it.
#[test]
fn a_file_that_is_gone_is_not_told_by_the_trouble_of_another_under_its_name() {
    let mut bed = Bed::prompt();
    mode(bed.dir.path(), 0o755);
    fs::create_dir(bed.path("_not-entered")).unwrap();
    bed.append("a", "1\n");
    let batch = bed.allocate().unwrap();
    bed.remove("a");
    bed.append("a", "2\n");
    mode(&bed.path("a"), 0);
    tick();
    let told = is_directory(as_nobody(|| bed.read(batch)));
    assert!(told.contains("/_not-entered"), "{told}");
    fs::remove_dir(bed.path("_not-entered")).unwrap();
    tick();
    is_lost(as_nobody(|| bed.read(batch)));
}

#[test]
fn shortened_files_and_long_records_are_skipped_and_counted() {
    let mut bed = Bed::new(DirectorySourceConfig { record_bytes_max: 4, ..skipping() });
    bed.append("short", "1\n2\n");
    assert_eq!(bed.take(), ["1", "2"]);
    fs::File::options().write(true).open(bed.path("short")).unwrap().set_len(1).unwrap();
    bed.append("long", "12345\n");
    bed.append("good", "3\n");
    assert_eq!(bed.take(), ["3"]);
    assert_eq!(bed.source.stats().skipped, 2);
    // Longer again than batches have of it: what is there now is taken, from there on.
    bed.append("short", "\n2\n4\n");
    assert_eq!(bed.take(), ["4"]);
}

#[test]
fn a_file_system_mounted_below_is_refused() {
    let (dev, shm) = (Path::new("/dev"), Path::new("/dev/shm"));
    let device = |path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    if !shm.is_dir() || device(dev) == device(shm) {
        skipped("/dev/shm is no mount here");
        return;
    }
    let plan = |config| {
        let source =
            DirectorySource::open(dev, DirectorySourceConfig { names: Some("none".into()), ..config }).unwrap();
        let ledger = Ledger::new(source.identity().unwrap());
        let plan = source.plan(&ledger.known(), all());
        (plan, source.stats())
    };
    let told = is_directory(plan(DirectorySourceConfig { depth_max: 1, ..prompt() }).0);
    assert!(told.contains("/dev/") && told.contains("an input of its own"), "{told}");
    let (skipped, stats) = plan(skipping());
    skipped.unwrap();
    assert!(stats.skipped > 0 && stats.trouble.is_some());
    plan(prompt()).0.unwrap();
}

#[test]
fn a_file_system_without_birth_times_is_refused() {
    let sys = Path::new("/sys/kernel");
    if !sys.join("uevent_seqnum").exists() || fs::metadata(sys.join("uevent_seqnum")).unwrap().created().is_ok() {
        skipped("no file system without birth times at hand");
        return;
    }
    for bad_files in [BadFiles::Stop, BadFiles::Skip] {
        let source = DirectorySource::open(sys, DirectorySourceConfig { bad_files, ..prompt() }).unwrap();
        let ledger = Ledger::new(source.identity().unwrap());
        let told = is_directory(source.plan(&ledger.known(), all()));
        assert!(told.contains("files_by"), "{told}");
    }
}

#[test]
fn more_files_than_memory_was_promised_for_are_refused() {
    for bad_files in [BadFiles::Stop, BadFiles::Skip] {
        let bed = Bed::new(DirectorySourceConfig { files_max: 2, bad_files, ..prompt() });
        bed.append("a", "1\n");
        bed.append("b", "1\n");
        bed.plan();
        bed.append("c", "1\n");
        let told = is_directory(bed.try_plan(all()));
        assert!(told.contains("files_max"), "{told}");
    }
}

/// Entered or not: what is below one that is not entered is never gone, so it is remembered.
#[test]
fn more_directories_than_memory_was_promised_for_are_refused() {
    for (bad_files, depth_max) in [(BadFiles::Stop, 0), (BadFiles::Skip, 0), (BadFiles::Stop, 9), (BadFiles::Skip, 9)] {
        let config = DirectorySourceConfig { directories_max: 3, bad_files, depth_max, ..prompt() };
        let mut bed = Bed::new(config.clone());
        let make = |path: &str| fs::create_dir(bed.path(path)).unwrap();
        ["_hidden", "a", "b"].into_iter().for_each(make);
        bed.append("file", "1\n");
        bed.plan();
        let stats = bed.source.stats();
        assert_eq!((stats.directories, stats.unentered), if depth_max == 0 { (1, 3) } else { (3, 1) });
        // Deep below counts as well.
        make(if depth_max == 0 { "c" } else { "b/c" });
        bed.restart(config);
        let told = is_directory(bed.try_plan(all()));
        assert!(told.contains("more than 3") && told.contains("directories_max"), "{told}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = DirectorySourceConfig { files_max: 0, ..prompt() };
    let told = is_directory(DirectorySource::open(dir.path(), config));
    assert!(told.contains("files_max"), "{told}");
    let missing = DirectorySource::open(dir.path().join("no"), prompt());
    assert!(matches!(missing.map(drop), Err(InputError::Io { op: "opening", .. })));
}

#[test]
fn a_key_of_something_else_is_lost_not_guessed() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    let batch = bed.allocate().unwrap();
    let mut range = bed.ledger.ranges(batch)[0].clone();
    range.part = seawall::ledger::PartKey::new(&b"other"[..]).unwrap();
    assert!(matches!(bed.source.read(&range).map(drop), Err(InputError::Lost { .. })));
    range = bed.ledger.ranges(batch)[0].clone();
    range.digest ^= 1;
    is_changed(bed.source.read(&range));
}

/// Without its mount another file is there, and it looks removed.
#[test]
fn a_file_that_is_mounted_by_itself_is_refused() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "outside\n").unwrap();
    let mut bed = Bed::prompt();
    for name in ["a", "b", ".ignored"] {
        bed.append(name, "1\n");
    }
    let mount = |name: &str| Mounted::new(outside.path(), &bed.path(name));
    let (Some(ignored), Some(mounted)) = (mount(".ignored"), mount("b")) else {
        return skipped("nothing can be mounted here");
    };
    let told = is_directory(bed.try_plan(all()));
    assert!(told.contains("/b: "), "{told}");
    bed.restart(DirectorySourceConfig { bad_files: BadFiles::Skip, ..prompt() });
    assert_eq!(bed.take(), ["1"]);
    assert_eq!(bed.source.stats().skipped, 1);
    drop(mounted);
    bed.restart(prompt());
    assert_eq!(bed.take(), ["1"]);
    drop(ignored);
}

/// A file, mounted on another one.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(file: &Path, on: &Path) -> Option<Mounted> {
        let mut mount = std::process::Command::new("mount");
        let done = mount.arg("--bind").args([file, on]).stderr(std::process::Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then(|| Mounted(on.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// The name that a batch knows tells more than that it may be anywhere.
#[test]
fn a_file_below_a_directory_that_is_not_entered_any_more_cannot_be_read_for_its_own_reason() {
    let entered = DirectorySourceConfig { depth_max: 1, ..prompt() };
    let mut bed = Bed::new(entered);
    mode(bed.dir.path(), 0o755);
    fs::create_dir(bed.path("day1")).unwrap();
    bed.append("day1/a", "1\n");
    let batch = bed.allocate().unwrap();
    bed.restart(prompt());
    mode(&bed.path("day1"), 0);
    match as_nobody(|| bed.read(batch)) {
        Err(e @ InputError::Io { .. }) => assert!(e.to_string().contains("/day1/a"), "{e}"),
        other => panic!("{other:?}"),
    }
    mode(&bed.path("day1"), 0o755);
    assert_eq!(bed.read(batch).unwrap(), ["1"]);
}
