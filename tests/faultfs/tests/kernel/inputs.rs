//! What a directory input has told a ledger survives.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::syncfs;
use rustix::io::Errno;
use seawall::ledger::{BatchLimits, InputError, Part, PartKey, Parts, Replayable, Share};
use seawall::node::{BadFiles, DirectorySource, DirectorySourceConfig, FilesBy};
use seawall_faultfs::machine::{FsKind, LoopDevice, Mount, Need, require};
use seawall_faultfs::{Choice, Fault, Op, Options};
use tempfile::TempDir;

use crate::bed::{Aligned, Bed, sync_dir};
use crate::blocks::Device;
use crate::skip::skipped;

/// A ledger that has no batch yet.
struct Nothing;

impl Parts for Nothing {
    fn get(&self, _: &PartKey) -> Option<Part> {
        None
    }

    fn each(&self, _: &mut dyn FnMut(&PartKey, &Part)) {}
}

/// One that has committed all of two bytes.
struct Committed(PartKey);

impl Parts for Committed {
    fn get(&self, key: &PartKey) -> Option<Part> {
        (*key == self.0).then_some(Part { allocated: 2, digest: 0, committed: 2 })
    }

    fn each(&self, take: &mut dyn FnMut(&PartKey, &Part)) {
        take(&self.0, &self.get(&self.0).unwrap());
    }
}

/// How a flush fails: the second is of a file system that became read-only by an error of its own, with bytes in caches that
/// are written nowhere.
const FAILED: [Errno; 2] = [Errno::IO, Errno::ROFS];

fn config() -> DirectorySourceConfig {
    DirectorySourceConfig { files_by: FilesBy::Inode, bad_files: BadFiles::Skip, ..DirectorySourceConfig::default() }
}

/// Otherwise the file comes back shorter than its batch is, and what is written there next is in no batch.
#[test]
fn bytes_that_are_planned_are_flushed_whoever_wrote_them() {
    for count in [1, 40] {
        let Some(bed) = Bed::new(Options::default()) else { return };
        let names: Vec<String> = (0..count).map(|i| format!("{i}")).collect();
        for name in &names {
            drop(bed.durable_file(name, b"durable\n"));
            let mut appends = std::fs::File::options().append(true).open(bed.path(name)).unwrap();
            appends.write_all(b"in a cache\n").unwrap();
        }
        let source = DirectorySource::open(bed.fs.path(), config()).unwrap();
        let plan = source.plan(&Nothing, Share::of(&BatchLimits::default())).unwrap();
        assert_eq!(plan.ranges.len(), names.len());
        assert!(plan.ranges.iter().all(|range| range.to == 19));
        bed.fs.crash(Choice::AllLost);
        for name in &names {
            assert_eq!(String::from_utf8(bed.read(name)).unwrap(), "durable\nin a cache\n", "{name}");
        }
    }
}

/// More files than are flushed each by itself.
const MANY: usize = 40;

/// All of them durable, and behind the first ones each with some bytes more in a cache.
fn many_files(dir: &Path, first: usize) -> Vec<String> {
    let names: Vec<String> = (0..MANY).map(|i| format!("{i:02}")).collect();
    for name in &names {
        std::fs::write(dir.join(name), "durable\n").unwrap();
    }
    syncfs(File::open(dir).unwrap()).unwrap();
    for name in &names[first..] {
        File::options().append(true).open(dir.join(name)).unwrap().write_all(b"in a cache\n").unwrap();
    }
    names
}

/// With names, on real file systems that are known to be flushed so.
#[test]
fn bytes_of_many_files_are_flushed_on_each_file_system_that_is_flushed_as_a_whole() {
    for kind in FsKind::ALL {
        let Some((device, mount)) = Device::with(kind) else { continue };
        let names = many_files(mount.path(), 0);
        let before = device.recorder.position();
        let by_birth = DirectorySourceConfig { files_by: FilesBy::Birth, ..config() };
        let source = DirectorySource::open(mount.path(), by_birth).unwrap();
        let plan = source.plan(&Nothing, Share::of(&BatchLimits::default())).unwrap();
        assert_eq!(plan.ranges.iter().map(|range| range.to).collect::<Vec<_>>(), [19; MANY]);
        let position = device.recorder.position();
        assert!(position > before, "{kind:?}: nothing was written before");
        let image = device.recorder.image(position, Choice::AllLost);
        device.look(image, kind, |dir| {
            for name in &names {
                let found = std::fs::read_to_string(dir.join(name)).unwrap();
                assert_eq!(found, "durable\nin a cache\n", "{kind:?}, {name}");
            }
        });
        mount.unmount().unwrap();
    }
}

/// ext4 on a device that fails on demand.
struct Failing {
    // In this order: unmounted from the top.
    mount: Mount,
    device: LoopDevice,
    on: TempDir,
    below: Bed,
}

impl Failing {
    fn new() -> Option<Failing> {
        if let Err(why) = require(&[Need::Loop, Need::Fs(FsKind::Ext4)]) {
            skipped(why);
            return None;
        }
        let below = Bed::new(Options::default())?;
        let (image, on) = (below.path("device"), tempfile::tempdir().unwrap());
        File::create(&image).unwrap().set_len(FsKind::Ext4.device_bytes()).unwrap();
        sync_dir(below.fs.path());
        let device = LoopDevice::attach(&image, true).unwrap();
        FsKind::Ext4.make(device.path()).unwrap();
        // Its journal writes nothing of its own accord.
        let mount = Mount::new(device.path(), on.path(), FsKind::Ext4, "commit=300").unwrap();
        Some(Failing { mount, device, on, below })
    }
}

/// The same as after a flush of one file that failed.
#[test]
fn after_a_flush_of_a_whole_file_system_that_failed_nothing_is_planned() {
    let Some(Failing { mount, below, .. }) = &Failing::new() else { return };
    many_files(mount.path(), 16);
    let source = DirectorySource::open(mount.path(), config()).unwrap();
    let plan = |source: &DirectorySource| source.plan(&Nothing, Share::of(&BatchLimits::default()));
    // A file's: those that were flushed before had nothing left to write.
    below.fs.fail(Fault::once(Op::Write, 1, Errno::IO));
    for _ in 0..2 {
        match plan(&source) {
            Err(InputError::Io { op: "flushing the file system of", .. }) => {}
            other => panic!("{:?}", other.map(|plan| plan.ranges.len())),
        }
    }
    let again = DirectorySource::open(mount.path(), config()).unwrap();
    assert_eq!(plan(&again).unwrap().ranges.len(), MANY);
}

/// Why one file's failed flush stops all, also where bad files are skipped: what failed may be the cache of the device, with
/// another file's bytes in it, whose own flush then has nothing left to tell.
#[test]
fn a_failed_flush_of_one_file_may_be_all_that_tells_of_another_s_loss() {
    let Some(failing) = Failing::new() else { return };
    let Failing { mount, below, .. } = &failing;
    let files = ["a", "b"].map(|name| {
        let path = mount.path().join(name);
        std::fs::write(&path, [1; 4096]).unwrap();
        // Past the cache of the file system, into that of the device.
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        File::options().read(true).write(true).custom_flags(direct).open(path).unwrap()
    });
    syncfs(&files[0]).unwrap();
    files.iter().for_each(|file| file.write_all_at(&Box::new(Aligned([2; 4096])).0, 0).unwrap());
    below.fs.fail(Fault::once(Op::Fsync, 1, Errno::IO));
    files[0].sync_data().unwrap_err();
    files[1].sync_data().unwrap();
    below.fs.crash(Choice::AllLost);
    // Whatever is open ends with the power.
    drop((files, failing.mount, failing.device));
    let device = LoopDevice::attach(&failing.below.path("device"), true).unwrap();
    let mount = Mount::new(device.path(), failing.on.path(), FsKind::Ext4, "").unwrap();
    assert_eq!(std::fs::read(mount.path().join("b")).unwrap(), [1; 4096]);
}

/// A file that was moved there is nowhere else after a power loss, nor one that was removed there again.
#[test]
fn names_that_are_planned_or_gone_are_flushed_whoever_changed_them() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    let make = |path: &str| std::fs::create_dir(bed.path(path)).unwrap();
    ["in", "staging"].into_iter().for_each(make);
    drop(bed.durable_file("staging/a", b"1\n"));
    sync_dir(&bed.path("staging"));
    let deep = DirectorySourceConfig { depth_max: 2, gone_after: Duration::ZERO, ..config() };
    let source = || DirectorySource::open(bed.path("in"), deep.clone()).unwrap();
    let plan = |source: &DirectorySource, known: &dyn Parts| source.plan(known, Share::of(&BatchLimits::default()));
    // Its directory is no older than it.
    make("in/b");
    std::fs::rename(bed.path("staging/a"), bed.path("in/b/a")).unwrap();
    let planned = plan(&source(), &Nothing).unwrap();
    assert_eq!(planned.ranges.len(), 1);
    bed.fs.crash(Choice::AllLost);
    assert_eq!(bed.read("in/b/a"), b"1\n");

    let now = source();
    let part = plan(&now, &Nothing).unwrap().ranges.remove(0).part;
    std::fs::remove_file(bed.path("in/b/a")).unwrap();
    // A rename within a tick might hide it.
    std::thread::sleep(Duration::from_millis(45));
    assert_eq!(plan(&now, &Committed(part.clone())).unwrap().gone, [part]);
    bed.fs.crash(Choice::AllLost);
    assert!(!bed.path("in/b/a").exists());
}

/// The same as after a flush of bytes that failed.
#[test]
fn after_a_flush_of_names_that_failed_nothing_is_planned() {
    for errno in FAILED {
        let Some(bed) = Bed::new(Options::default()) else { return };
        std::fs::write(bed.path("file"), "1\n").unwrap();
        let source = DirectorySource::open(bed.fs.path(), config()).unwrap();
        bed.fs.fail(Fault::once(Op::SyncDir, 1, errno));
        for _ in 0..2 {
            let plan = source.plan(&Nothing, Share::of(&BatchLimits::default()));
            assert!(matches!(plan, Err(InputError::Io { op: "flushing", .. })), "{errno}: {plan:?}");
        }
    }
}

/// After a flush that failed, one that succeeds says nothing of the bytes before it.
#[test]
fn after_a_flush_that_failed_nothing_is_planned() {
    for errno in FAILED {
        let Some(bed) = Bed::new(Options::default()) else { return };
        std::fs::write(bed.path("file"), "in a cache\n").unwrap();
        let source = DirectorySource::open(bed.fs.path(), config()).unwrap();
        bed.fs.fail(Fault::once(Op::Fsync, 1, errno));
        for _ in 0..2 {
            let plan = source.plan(&Nothing, Share::of(&BatchLimits::default()));
            assert!(matches!(plan, Err(InputError::Io { op: "flushing", .. })), "{errno}: {plan:?}");
        }
        let again = DirectorySource::open(bed.fs.path(), config()).unwrap();
        assert_eq!(again.plan(&Nothing, Share::of(&BatchLimits::default())).unwrap().ranges.len(), 1);
    }
}

/// What has a name that nobody can look at hides no other, and what is not entered is not looked at.
#[test]
fn an_entry_that_cannot_be_looked_at_is_one_file_s_trouble() {
    let Some(bed) = Bed::new(Options::default()) else { return };
    std::fs::create_dir(bed.path("dir")).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(bed.path(name), "1\n").unwrap();
    }
    let plan = |config| {
        let source = DirectorySource::open(bed.fs.path(), config).unwrap();
        let plan = source.plan(&Nothing, Share::of(&BatchLimits::default()));
        (plan.map(|plan| plan.ranges.len()), source.stats().skipped)
    };
    bed.fs.fail(Fault { forever: true, name: Some("dir".to_owned()), ..Fault::once(Op::Look, 1, Errno::ACCESS) });
    let stopping = DirectorySourceConfig { bad_files: BadFiles::Stop, ..config() };
    assert!(matches!(plan(stopping), (Ok(3), 0)));
    assert!(matches!(plan(DirectorySourceConfig { depth_max: 1, ..config() }), (Ok(3), 1)));
    bed.fs.fail(Fault { forever: true, name: Some("a".to_owned()), ..Fault::once(Op::Look, 1, Errno::IO) });
    assert!(matches!(plan(config()), (Ok(2), 1)));
}
