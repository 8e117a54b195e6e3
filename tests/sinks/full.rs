//! A disk that is full: a memory file system of one MiB.

use std::path::Path;
use std::process::Command;

use super::skip::skipped;
use super::*;

const DISK_BYTES: u64 = 1 << 20;

#[test]
fn a_full_disk_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let size = format!("size={DISK_BYTES}");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skipped("no right to mount a small tmpfs");
    }
    let outcome = std::panic::catch_unwind(|| {
        // Whatever mount(8) says: nothing is filled that has no bound.
        let there = Command::new("df").args(["--output=size", "-B1"]).arg(dir.path()).output().unwrap();
        let size = String::from_utf8(there.stdout).unwrap().lines().last().unwrap().trim().to_owned();
        assert_eq!(size, DISK_BYTES.to_string(), "not the small disk that was mounted");
        fill(dir.path());
    });
    assert!(Command::new("umount").arg("-l").arg(dir.path()).status().unwrap().success());
    outcome.unwrap();
}

fn fill(dir: &Path) {
    let mut sink = open(dir);
    sink.store(key(1), &[1; 300_000]).unwrap();
    let full =
        |error: SinkError| matches!(error, SinkError::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
    let before = files(dir);
    assert!(full(sink.store(key(2), &[2; 2 << 20]).unwrap_err()));
    assert_eq!(files(dir), before, "nothing of it is left");
    // Nor does it help to ignore the answer.
    let ignores = |out: &mut dyn Write| {
        for _ in 0..2048 {
            let _ = out.write_all(&[2; 1024]);
        }
        Ok(())
    };
    assert!(full(sink.store_with(key(2), ignores).unwrap_err()));
    assert_eq!(files(dir), before);
    // Not even when there is room again before the end: a piece is missing.
    let stuffing = dir.join("stuffing");
    let recovers = |out: &mut dyn Write| {
        std::fs::write(&stuffing, vec![0; 2 << 20]).unwrap_err();
        let failed = (0..1024).filter(|_| out.write_all(&[2; 512]).is_err()).count();
        assert!(failed > 0, "the disk was not full");
        std::fs::remove_file(&stuffing)?;
        out.write_all(b"the end")
    };
    assert!(full(sink.store_with(key(2), recovers).unwrap_err()));
    assert_eq!(files(dir), before);
    // The room is there again, and the same sink goes on.
    assert!(is_new(&sink.store(key(2), &[2; 300_000]).unwrap()));
    assert!(!is_new(&sink.store(key(1), &[1; 300_000]).unwrap()));
    drop(sink);

    // With not one byte free it opens, and recognizes what it has.
    let stuffed = std::fs::write(&stuffing, vec![0; 2 << 20]);
    assert_eq!(stuffed.unwrap_err().kind(), ErrorKind::StorageFull);
    let mut sink = open(dir);
    assert!(!is_new(&sink.store(key(2), &[2; 300_000]).unwrap()));
    assert!(full(sink.store(key(3), b"three").unwrap_err()));
    std::fs::remove_file(&stuffing).unwrap();
    assert!(is_new(&sink.store(key(3), b"three").unwrap()));
}
