//! Real file systems on a recorded device.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use seawall_faultfs::machine::{FsKind, LoopDevice, Mount, Need, require};
use seawall_faultfs::{Choice, CrashImage, Recorder};
use tempfile::TempDir;

use crate::bed::sync_dir;
use crate::skip::skipped;

/// A recorded device with a loop device over it.
pub(crate) struct Device {
    // In this order: unmounted from the top.
    live: LoopDevice,
    pub(crate) recorder: Recorder,
    dirs: [TempDir; 3],
}

impl Device {
    fn new(needs: &[Need], bytes: u64) -> Option<Device> {
        if let Err(why) = require(&[&[Need::Root, Need::Fuse, Need::Loop], needs].concat()) {
            skipped(why);
            return None;
        }
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let recorder = Recorder::mount(dirs[0].path(), bytes, 256 << 20).unwrap();
        let live = LoopDevice::attach(&recorder.device(), true).unwrap();
        Some(Device { live, recorder, dirs })
    }

    pub(crate) fn with(kind: FsKind) -> Option<(Device, Mount)> {
        let device = Device::new(&[Need::Fs(kind)], kind.device_bytes())?;
        kind.make(device.live.path()).unwrap();
        let mount = Mount::new(device.live.path(), device.dirs[1].path(), kind, kind.options()).unwrap();
        device.recorder.forget();
        Some((device, mount))
    }

    /// Mounts an image and looks at it.
    pub(crate) fn look<T>(&self, image: CrashImage, kind: FsKind, look: impl FnOnce(&std::path::Path) -> T) -> T {
        let device = LoopDevice::attach(image.path(), true).unwrap();
        let mount = Mount::new(device.path(), self.dirs[2].path(), kind, kind.options()).unwrap();
        let seen = look(mount.path());
        mount.unmount().unwrap();
        seen
    }
}

#[test]
fn a_device_records_writes_flushes_and_discards() {
    let Some(device) = Device::new(&[], 8 << 20) else { return };
    let (recorder, raw) = (&device.recorder, File::options().read(true).write(true).open(device.live.path()).unwrap());
    raw.write_all_at(&[1; 8192], 4096).unwrap();
    raw.sync_all().unwrap();
    let flushed = recorder.position();
    let name = device.live.path().file_name().unwrap().to_str().unwrap();
    let is_direct = fs::read_to_string(format!("/sys/block/{name}/loop/dio")).unwrap();
    assert_eq!(is_direct.trim(), "1", "no page cache of the file in between");
    raw.write_all_at(&[2; 4096], 4096).unwrap();
    raw.sync_all().unwrap();
    assert!(recorder.flushes_between(0, recorder.position()) >= 2);

    let read = |position, choice| {
        let mut bytes = [0; 12288];
        File::open(recorder.image(position, choice).path()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        (bytes[0], bytes[4096], bytes[8192])
    };
    assert_eq!(read(0, Choice::AllKept), (0, 0, 0));
    assert_eq!(read(flushed, Choice::AllLost), (0, 1, 1));
    assert_eq!(read(recorder.position() - 1, Choice::AllLost), (0, 1, 1), "one step before the flush");
    assert_eq!(read(recorder.position() - 1, Choice::AllKept), (0, 2, 1));
    assert_eq!(read(recorder.position(), Choice::AllLost), (0, 2, 1));

    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&raw, hole, 8192, 4096).unwrap();
    raw.sync_all().unwrap();
    assert_eq!(read(recorder.position(), Choice::AllLost), (0, 2, 0));
}

#[test]
fn an_image_is_a_device_of_its_own() {
    let Some(device) = Device::new(&[], 8 << 20) else { return };
    let image = device.recorder.image(0, Choice::AllLost);
    let other = LoopDevice::attach(image.path(), true).unwrap();
    let raw = File::options().write(true).open(other.path()).unwrap();
    raw.write_all_at(&[7; 4096], 0).unwrap();
    raw.sync_all().unwrap();
    let mut bytes = [0; 4096];
    File::open(device.live.path()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 4096]);
    let saved = device.dirs[1].path().join("saved.img");
    image.save(&saved).unwrap();
    assert_eq!(fs::read(&saved).unwrap()[..8192], [[7; 4096], [0; 4096]].concat());
}

#[test]
fn ext4_keeps_what_was_flushed() {
    keeps_what_was_flushed(FsKind::Ext4);
}

#[test]
fn xfs_keeps_what_was_flushed() {
    keeps_what_was_flushed(FsKind::Xfs);
}

#[test]
fn btrfs_keeps_what_was_flushed() {
    keeps_what_was_flushed(FsKind::Btrfs);
}

fn keeps_what_was_flushed(kind: FsKind) {
    let Some((device, mount)) = Device::with(kind) else { return };
    let mut acknowledged = Vec::new();
    for nth in 0..40u8 {
        let path = mount.path().join(format!("file-{nth}"));
        fs::write(&path, [nth; 5000]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        sync_dir(mount.path());
        acknowledged.push(device.recorder.position());
    }
    fs::write(mount.path().join("late"), [9; 5000]).unwrap();
    mount.unmount().unwrap();

    let (mut cut, mut spent) = (0, Duration::ZERO);
    for (nth, position) in acknowledged.iter().enumerate() {
        for choice in [Choice::AllLost, Choice::Seeded(nth as u64)] {
            let start = Instant::now();
            let image = device.recorder.image(*position, choice);
            device.look(image, kind, |dir| {
                for nth in 0..=nth {
                    let bytes = fs::read(dir.join(format!("file-{nth}"))).unwrap();
                    assert!(bytes == [nth as u8; 5000], "{kind:?}, {choice:?}: file {nth} at {position}");
                }
                assert!(!dir.join("late").exists());
            });
            spent += start.elapsed();
            cut += 1;
        }
    }
    eprintln!("{kind:?}: {:?} per image", spent / cut);
}

/// The negative control: what nobody flushed is not there.
#[test]
fn what_was_never_flushed_is_lost() {
    let Some((device, mount)) = Device::with(FsKind::Ext4) else { return };
    fs::write(mount.path().join("file"), [1; 5000]).unwrap();
    let image = device.recorder.image(device.recorder.position(), Choice::AllLost);
    let there = device.look(image, FsKind::Ext4, |dir| dir.join("file").exists());
    assert!(!there);
}

/// Bug: one crash image in some thousands did not mount, because ext4 refuses a superblock torn between its two sectors; and
/// on a device below 128 MiB there was no copy of it to repair it from.
#[test]
fn a_torn_superblock_of_ext4_is_repaired() {
    let Some((device, mount)) = Device::with(FsKind::Ext4) else { return };
    fs::write(mount.path().join("file"), [1; 5000]).unwrap();
    mount.unmount().unwrap();
    let image = device.recorder.image(device.recorder.position(), Choice::AllKept);
    let (second_sector, path) = (1024 + 512, image.path());
    File::options().write(true).open(path).unwrap().write_all_at(&[7; 256], second_sector).unwrap();
    let torn = LoopDevice::attach(path, true).unwrap();
    assert!(Mount::new(torn.path(), device.dirs[2].path(), FsKind::Ext4, "").is_err());
    FsKind::Ext4.repair(torn.path()).unwrap();
    let mount = Mount::new(torn.path(), device.dirs[2].path(), FsKind::Ext4, "").unwrap();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), [1; 5000]);
}
