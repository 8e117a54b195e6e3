//! What happens to files by name: late, renamed, replaced, vanished, linked, ignored.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use seawall::ledger::{Part, PartKey, Parts, Replayable};
use seawall::node::{DirectorySource, DirectorySourceConfig, FilesBy};

use crate::bed::{Bed, Known, Ledger, all, is_directory, is_lost, prompt, read, share, tick};

#[test]
fn a_late_file_with_an_old_time_is_taken() {
    let mut bed = Bed::prompt();
    bed.append("new", "1\n");
    assert_eq!(bed.take(), ["1"]);
    bed.append("late", "2\n");
    let old = SystemTime::now() - Duration::from_secs(365 * 24 * 3600);
    fs::File::options().append(true).open(bed.path("late")).unwrap().set_modified(old).unwrap();
    assert_eq!(bed.take(), ["2"]);
    assert!(bed.take().is_empty());
}

#[test]
fn a_renamed_file_is_the_same_file() {
    let mut bed = Bed::new(DirectorySourceConfig { names: Some("*.log".into()), depth_max: 1, ..prompt() });
    fs::create_dir(bed.path("old")).unwrap();
    bed.append("a.log", "1\n2\n");
    let batch = bed.allocate().unwrap();
    bed.rename("a.log", "b.log");
    assert_eq!(bed.read(batch).unwrap(), ["1", "2"], "a pending batch follows it");
    bed.ledger.commit(batch);
    assert!(bed.take().is_empty(), "not read again");
    // Rotated away: what was written last is not left behind, under whatever name.
    bed.append("b.log", "3\n");
    bed.rename("b.log", "old/_b.1");
    fs::rename(bed.path("old/_b.1"), bed.path(".b")).unwrap();
    bed.append("b.log", "4\n");
    tick();
    assert_eq!(bed.take(), ["3", "4"]);
    assert!(bed.plan().gone.is_empty());
    // After a restart as well, when nothing but the ledger knows the names.
    bed.append(".b", "5\n");
    bed.restart(DirectorySourceConfig { names: Some("*.log".into()), depth_max: 1, ..prompt() });
    let batch = bed.allocate().unwrap();
    bed.restart(DirectorySourceConfig { names: Some("*.log".into()), depth_max: 1, ..prompt() });
    bed.rename(".b", "old/c");
    assert_eq!(bed.read(batch).unwrap(), ["5"]);
}

#[test]
fn only_new_bytes_of_an_appended_file_are_taken() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\n");
    let first = bed.allocate().unwrap();
    bed.append("a", "3\n");
    let second = bed.allocate().unwrap();
    bed.append("a", "4\n");
    assert_eq!(bed.read(second).unwrap(), ["3"]);
    assert_eq!(bed.read(first).unwrap(), ["1", "2"], "what is appended does not change it");
    let range = &bed.ledger.ranges(second)[0];
    assert_eq!((range.from, range.to, range.records, range.bytes, &range.opens), (4, 6, 1, 1, &None));
}

#[test]
fn a_file_that_replaces_another_is_another() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n2\n");
    let batch = bed.allocate().unwrap();
    bed.append("a.tmp", "new\n");
    bed.rename("a.tmp", "a");
    let told = is_lost(bed.read(batch));
    assert!(told.contains("/a, 0..4") && told.contains("not in the directory any more"), "{told}");
    let next = bed.allocate().unwrap();
    assert_eq!(bed.read(next).unwrap(), ["new"]);
    is_lost(bed.read(batch));
}

#[test]
fn a_replaced_file_with_another_name_is_still_read() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    fs::hard_link(bed.path("a"), bed.path("backup")).unwrap();
    let batch = bed.allocate().unwrap();
    bed.append("a.tmp", "new\n");
    bed.rename("a.tmp", "a");
    assert_eq!(bed.read(batch).unwrap(), ["1"]);
    assert_eq!(bed.take(), ["new"]);
}

#[test]
fn an_inode_used_again_is_another_file() {
    let mut bed = Bed::prompt();
    // ext4 gives the number again soon, tmpfs does not: the births differ in any case.
    for round in 0..20 {
        bed.append("a", format!("{round}\n"));
        assert_eq!(bed.take(), [round.to_string()]);
        bed.remove("a");
    }
}

#[test]
fn a_file_is_first_planned_when_its_birth_tick_is_over() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    let plan = bed.plan();
    let born = fs::metadata(bed.path("a")).unwrap().created().unwrap();
    assert!(born.elapsed().unwrap() >= Duration::from_millis(20), "another file may be born with this time");
    bed.ledger.allocate(plan);
}

#[test]
fn names_that_are_ignored_wait_for_their_rename() {
    let mut bed = Bed::prompt();
    for name in [".a", "_b", "c.tmp"] {
        bed.append(name, format!("{name}\n"));
    }
    assert!(bed.take().is_empty());
    bed.rename("_b", "b");
    bed.rename("c.tmp", "c");
    let mut taken = bed.take();
    taken.sort();
    assert_eq!(taken, ["_b", "c.tmp"]);
}

#[test]
fn patterns_filters_and_depth_choose_what_is_begun() {
    let config = DirectorySourceConfig { names: Some("*.log".into()), depth_max: 1, ..prompt() };
    let mut bed = Bed::new(config.clone());
    for dir in ["in", "in/deep", "_out", "no"] {
        fs::create_dir(bed.path(dir)).unwrap();
    }
    for name in ["a.log", "a.txt", "in/b.log", "in/deep/c.log", "_out/d.log", "no/e.log"] {
        bed.append(name, format!("{name}\n"));
        tick();
    }
    let filtered = DirectorySource::open(bed.dir.path(), config).unwrap().filtered(|path| !path.starts_with("no"));
    bed.source = filtered;
    let plan = bed.plan();
    let labels: Vec<_> = plan.ranges.iter().map(|range| range.opens.clone().unwrap()).collect();
    assert_eq!(labels, ["a.log", "in/b.log"], "labels are relative, the oldest comes first");
    bed.ledger.allocate(plan);
}

#[test]
fn a_vanished_file_is_forgotten_when_it_is_committed() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    bed.append("b", "1\n");
    let batch = bed.allocate().unwrap();
    bed.remove("a");
    tick();
    assert!(bed.plan().gone.is_empty(), "a batch needs it");
    is_lost(bed.read(batch));
    bed.ledger.commit(batch);
    let gone = bed.plan().gone;
    assert_eq!((gone.len(), bed.ledger.parts()), (1, 2));
    bed.allocate();
    assert_eq!(bed.ledger.parts(), 1);
    assert!(bed.plan().gone.is_empty());
    assert_eq!(bed.source.stats().vanished_files, 0, "all of it was in batches");
}

/// A file in "day1"; what it is found with, and what that directory is not entered with.
fn entered_no_more() -> impl Iterator<Item = (Bed, DirectorySourceConfig, DirectorySourceConfig)> {
    let entered = DirectorySourceConfig { depth_max: 1, ..prompt() };
    let narrower = [prompt(), DirectorySourceConfig { ignored_prefixes: vec!["day".into()], ..entered.clone() }];
    narrower.into_iter().map(move |narrower| {
        let bed = Bed::new(entered.clone());
        fs::create_dir(bed.path("day1")).unwrap();
        bed.append("day1/a", "1\n");
        (bed, entered.clone(), narrower)
    })
}

#[test]
fn what_is_below_a_directory_that_is_not_entered_any_more_is_not_gone() {
    for (mut bed, entered, config) in entered_no_more() {
        bed.append("b", "2\n");
        assert_eq!(bed.take().len(), 2);
        bed.remove("b");
        bed.restart(config.clone());
        tick();
        assert_eq!(bed.plan().gone.len(), 1, "only what was where the look has been");
        bed.restart(entered.clone());
        assert!(bed.take().is_empty());
        // With its directory it is.
        fs::remove_dir_all(bed.path("day1")).unwrap();
        bed.restart(config);
        tick();
        assert_eq!(bed.plan().gone.len(), 1);
    }
}

/// What the look saw decides, not what is there now.
#[test]
fn what_is_below_a_directory_that_is_renamed_after_the_look_is_not_gone() {
    struct Renames<'a>(Known<'a>, &'a Bed);
    impl Parts for Renames<'_> {
        fn get(&self, key: &PartKey) -> Option<Part> {
            self.0.get(key)
        }
        fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
            self.0.each(take);
            // It is asked for what is known when it has looked.
            self.1.rename("day1", "day2");
        }
        fn label(&self, key: &PartKey) -> Option<Bytes> {
            self.0.label(key)
        }
    }
    let mut bed = Bed::new(DirectorySourceConfig { depth_max: 1, ..prompt() });
    fs::create_dir(bed.path("day1")).unwrap();
    bed.append("day1/a", "1\n");
    assert_eq!(bed.take(), ["1"]);
    bed.restart(prompt());
    tick();
    let plan = bed.source.plan(&Renames(bed.ledger.known(), &bed), all()).unwrap();
    assert!(bed.path("day2/a").exists() && plan.gone.is_empty(), "{plan:?}");
}

/// It was seen each time, and had another name when it was to be opened.
#[test]
fn a_file_that_is_renamed_faster_than_it_is_opened_is_not_lost() {
    use std::sync::atomic::{AtomicU32, Ordering};
    // Each look sees it, or only the first: the others miss it on its way from one name to another.
    for is_missed in [false, true] {
        let config = DirectorySourceConfig { depth_max: 1, ..prompt() };
        let mut bed = Bed::new(config.clone());
        fs::create_dir(bed.path("below")).unwrap();
        bed.append("name", "1\n");
        let batch = bed.allocate().unwrap();
        bed.append("below/file", "");
        bed.rename("name", "name0");
        let (dir, renames) = (bed.dir.path().to_owned(), AtomicU32::new(0));
        let name = |number| format!("name{number}");
        bed.source = DirectorySource::open(bed.dir.path(), config.clone()).unwrap().filtered(move |path| {
            // Directories below are looked at last.
            if path.starts_with("below") {
                let number = renames.fetch_add(1, Ordering::Relaxed);
                fs::rename(dir.join(name(number)), dir.join(name(number + 1))).unwrap();
                return true;
            }
            !is_missed || renames.load(Ordering::Relaxed) == 0
        });
        match bed.read(batch) {
            Err(seawall::ledger::InputError::Io { op: "opening", what, .. }) => {
                assert!(what.contains("/name"), "{what}");
            }
            other => panic!("{is_missed}: {other:?}"),
        }
        bed.restart(config);
        assert_eq!(bed.read(batch).unwrap(), ["1"]);
    }
}

/// Whoever is told `Lost` gives the batch up.
#[test]
fn what_may_be_below_a_directory_that_is_not_entered_any_more_is_not_lost() {
    for (mut bed, entered, config) in entered_no_more() {
        assert_eq!(bed.take(), ["1"]);
        bed.append("day1/a", "2\n");
        // Only its first range tells its name.
        let batch = bed.allocate().unwrap();
        bed.restart(config.clone());
        let told = is_directory(bed.read(batch));
        assert!(told.contains("day1") && told.contains("depth_max"), "{told}");
        bed.restart(entered.clone());
        assert_eq!(bed.read(batch).unwrap(), ["2"]);
        // With its directory it is.
        fs::remove_dir_all(bed.path("day1")).unwrap();
        bed.restart(config);
        is_lost(bed.read(batch));
    }
}

#[test]
fn a_restless_directory_does_not_tell_what_is_gone() {
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    bed.take();
    bed.remove("a");
    // Within the tick: a rename may have hidden it.
    bed.append("b", "");
    assert!(bed.plan().gone.is_empty());
    assert!(bed.source.stats().restless_looks > 0);
    tick();
    assert_eq!(bed.plan().gone.len(), 1);
}

#[test]
fn a_directory_that_changes_during_the_look_does_not_tell_what_is_gone() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let mut bed = Bed::prompt();
    bed.append("a", "1\n");
    bed.append("b", "1\n");
    bed.take();
    bed.remove("a");
    tick();
    let (path, changes) = (bed.path("made"), AtomicU32::new(1));
    let filtered = DirectorySource::open(bed.dir.path(), prompt()).unwrap().filtered(move |_| {
        // In the middle of the look, once.
        if changes.swap(0, Ordering::Relaxed) == 1 {
            fs::write(&path, "").unwrap();
        }
        true
    });
    bed.source = filtered;
    assert!(bed.plan().gone.is_empty());
    assert_eq!(bed.source.stats().restless_looks, 1);
    tick();
    assert_eq!(bed.plan().gone.len(), 1);
}

/// A file that is moved from where a look has not been yet to where it has been is not in that look.
#[test]
fn a_file_that_a_rename_hides_from_a_look_is_not_lost() {
    use std::sync::{Arc, Mutex};
    let config = DirectorySourceConfig { depth_max: 1, ..prompt() };
    let mut bed = Bed::new(config.clone());
    bed.append("x", "1\n");
    let batch = bed.allocate().unwrap();
    for dir in ["p", "q", "r"] {
        fs::create_dir(bed.path(dir)).unwrap();
        bed.append(&format!("{dir}/trigger"), "");
    }
    // The order in which a look comes through.
    let order = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&order);
    let source = DirectorySource::open(bed.dir.path(), config.clone()).unwrap().filtered(move |path| {
        record
            .lock()
            .unwrap()
            .extend(path.parent().filter(|dir| !dir.as_os_str().is_empty()).map(|dir| dir.to_owned()));
        true
    });
    bed.source = source;
    bed.plan();
    let order = order.lock().unwrap().clone();
    let at = |dir: &std::path::Path| bed.dir.path().join(dir).join("x");
    let (seen, between, unseen) = (at(&order[0]), order[1].clone(), at(&order[2]));
    fs::rename(bed.path("x"), &unseen).unwrap();
    tick();
    let source = DirectorySource::open(bed.dir.path(), config).unwrap().filtered(move |path| {
        if path.starts_with(&between) && unseen.exists() {
            fs::rename(&unseen, &seen).unwrap();
        }
        true
    });
    bed.source = source;
    assert_eq!(bed.read(batch).unwrap(), ["1"]);
    assert_eq!(bed.source.stats().looks, 2, "the first did not see it");
}

#[test]
fn bytes_that_seem_to_vanish_in_a_restless_directory_are_not_counted_yet() {
    let bed = Bed::prompt();
    bed.append("a", "half");
    bed.plan();
    bed.remove("a");
    bed.plan();
    assert_eq!(bed.source.stats().vanished_files, 0, "a rename may have hidden it");
    tick();
    bed.plan();
    assert_eq!(bed.source.stats().vanished_bytes, 4);
}

#[test]
fn a_vanished_file_is_kept_as_long_as_configured() {
    let mut bed = Bed::new(DirectorySourceConfig { gone_after: Duration::from_millis(200), ..prompt() });
    bed.append("a", "1\n");
    bed.take();
    bed.rename("a", "../seawall-away");
    let away = bed.dir.path().parent().unwrap().join("seawall-away");
    let _cleanup = Removes(away.clone());
    tick();
    assert!(bed.plan().gone.is_empty());
    fs::rename(&away, bed.path("a")).unwrap();
    assert!(bed.take().is_empty(), "it is back before it was forgotten");
    bed.remove("a");
    tick();
    assert!(bed.plan().gone.is_empty());
    std::thread::sleep(Duration::from_millis(220));
    assert_eq!(bed.plan().gone.len(), 1);
}

struct Removes(std::path::PathBuf);

impl Drop for Removes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn bytes_that_vanish_before_a_batch_has_them_are_counted() {
    let mut bed = Bed::prompt();
    bed.append("never", "12345\n");
    tick();
    bed.append("half", "1\n2\nrest");
    let plan = bed.try_plan(share(1, 100, 1)).unwrap();
    assert_eq!(plan.ranges[0].opens.as_deref(), Some(&b"never"[..]));
    bed.remove("never");
    let batch = bed.allocate().unwrap();
    bed.ledger.commit(batch);
    bed.remove("half");
    tick();
    bed.plan();
    let stats = bed.source.stats();
    assert_eq!((stats.vanished_files, stats.vanished_bytes), (2, 6 + 4));
    bed.plan();
    assert_eq!(bed.source.stats().vanished_files, 2, "counted once");
}

#[test]
fn links_and_pipes_are_counted_and_left_alone() {
    let mut bed = Bed::prompt();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "outside\n").unwrap();
    symlink(outside.path().join("x"), bed.path("link")).unwrap();
    symlink(outside.path(), bed.path("dir")).unwrap();
    make_pipe(&bed.path("pipe"));
    bed.append("a", "1\n");
    fs::hard_link(bed.path("a"), bed.path("b")).unwrap();
    assert_eq!(bed.take(), ["1"], "hard links are one file");
    let stats = bed.source.stats();
    assert_eq!((stats.files, stats.links, stats.others), (1, 2, 1));
    // A file that becomes a link to itself elsewhere is not followed either.
    bed.append("c", "2\n");
    let batch = bed.allocate().unwrap();
    fs::rename(bed.path("c"), outside.path().join("c")).unwrap();
    symlink(outside.path().join("c"), bed.path("c")).unwrap();
    is_lost(bed.read(batch));
}

fn make_pipe(path: &std::path::Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn another_directory_under_the_path_is_refused() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("in");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a"), "1\n").unwrap();
    let source = DirectorySource::open(&path, prompt()).unwrap();
    let identity = seawall::ledger::Replayable::identity(&source).unwrap();
    let mut ledger = Ledger::new(identity);
    let bed =
        |source: &DirectorySource, ledger: &Ledger| seawall::ledger::Replayable::plan(source, &ledger.known(), all());
    let batch = ledger.allocate(bed(&source, &ledger).unwrap()).unwrap();
    ledger.commit(batch);
    // As an empty mount point would.
    fs::rename(&path, above.path().join("away")).unwrap();
    fs::create_dir(&path).unwrap();
    tick();
    let told = is_directory(bed(&source, &ledger));
    assert!(told.contains("mounted?"), "{told}");
    is_directory(seawall::ledger::Replayable::latest(&source, &ledger.known()));
    assert_ne!(seawall::ledger::Replayable::identity(&source).unwrap(), identity, "the ledger sees it at open, too");
    // Back, under a new time of change: the same directory.
    fs::remove_dir(&path).unwrap();
    fs::rename(above.path().join("away"), &path).unwrap();
    tick();
    assert!(bed(&source, &ledger).unwrap().gone.is_empty());
    fs::remove_dir_all(&path).unwrap();
    assert!(matches!(bed(&source, &ledger), Err(seawall::ledger::InputError::Io { .. })));
}

#[test]
fn the_way_files_are_recognized_is_part_of_the_identity() {
    let mut bed = Bed::new(DirectorySourceConfig { files_by: FilesBy::Inode, ..prompt() });
    bed.append("a", "1\n");
    bed.append("b", "2\n");
    let mut taken = bed.take();
    taken.sort();
    assert_eq!(taken, ["1", "2"]);
    bed.rename("a", "c");
    bed.append("c", "3\n");
    assert_eq!(bed.take(), ["3"]);
    let by_birth = DirectorySource::open(bed.dir.path(), prompt()).unwrap();
    assert_ne!(by_birth.identity().unwrap(), bed.source.identity().unwrap(), "or every file would be read again");
}

#[test]
fn no_file_starves() {
    let mut bed = Bed::prompt();
    bed.append("big", "x\n".repeat(100));
    for i in 0..5 {
        tick();
        bed.append(&format!("{i}"), format!("{i}\n"));
    }
    let mut first = Vec::new();
    for _ in 0..12 {
        bed.append("big", "x\n".repeat(10));
        let plan = bed.try_plan(share(2, 100, 10)).unwrap();
        assert!(plan.has_more);
        first.extend(plan.ranges.iter().filter_map(|range| range.opens.clone()));
        bed.ledger.allocate(plan);
    }
    assert_eq!(first, ["big", "0", "1", "2", "3", "4"], "oldest first, and all of them");
}

#[test]
fn ranges_are_limited_and_the_rest_comes() {
    let mut bed = Bed::prompt();
    let names: Vec<String> = (0..250).map(|i| format!("{i:03}")).collect();
    for name in &names {
        bed.append(name, format!("{name}\n"));
    }
    let mut taken = Vec::new();
    loop {
        let plan = bed.try_plan(share(1_000, 10_000, 100)).unwrap();
        assert!(plan.ranges.len() <= 100);
        let has_more = plan.has_more;
        let batch = bed.ledger.allocate(plan).unwrap();
        taken.extend(bed.read(batch).unwrap());
        bed.ledger.commit(batch);
        if !has_more {
            break;
        }
    }
    taken.sort();
    assert_eq!(taken, names);
}

#[test]
fn a_plan_that_was_not_written_down_is_made_again() {
    let bed = Bed::prompt();
    bed.append("a", "1\n2\n");
    tick();
    bed.append("b", "3\n");
    let plan = bed.plan();
    assert_eq!(bed.plan(), plan);
    let records: Vec<_> = plan.ranges.iter().flat_map(|range| read(&bed.source, range).unwrap()).collect();
    assert_eq!(records, ["1", "2", "3"]);
}

#[test]
fn a_backlog_is_not_looked_through_for_every_batch() {
    // Where flushes take time, looks may too.
    let mut bed = Bed::in_memory(prompt());
    let files = 2_000;
    (0..files).for_each(|i| bed.append(&format!("{i}"), "1\n"));
    let mut taken = 0;
    for plans in 1.. {
        let plan = bed.try_plan(share(1_000, 10_000, 40)).unwrap();
        let has_more = plan.has_more;
        // Longer than at the look: the next plan must not take the older look's size for a shortened file.
        taken += plan.ranges.len() as u64;
        (0..80).for_each(|i| bed.append(&format!("{}", (taken + i) % files), "2\n"));
        bed.ledger.allocate(plan);
        if !has_more || taken >= files {
            assert!(bed.source.stats().looks < plans / 2, "{} looks, {plans} plans", bed.source.stats().looks);
            break;
        }
    }
}
