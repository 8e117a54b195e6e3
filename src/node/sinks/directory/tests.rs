//! Every step of the sink refused, and every step its last.

use std::io::ErrorKind;

use super::*;
use crate::types::BatchId;

const LEDGER: LedgerId = LedgerId::new(0xa);
const STEPS: [&str; 7] = ["list", "look for", "create", "write", "flush", "rename", "flush directory"];

fn key(batch: u64) -> BatchKey {
    BatchKey { ledger: LEDGER, batch: BatchId::new(batch) }
}

fn config(on_rerun: OnRerun) -> DirectorySinkConfig {
    DirectorySinkConfig { on_rerun, ..DirectorySinkConfig::default() }
}

fn open(dir: &Path, on_rerun: OnRerun) -> DirectorySink {
    let mut sink = DirectorySink::open(dir, config(on_rerun)).unwrap();
    sink.claim(LEDGER, false).unwrap();
    sink
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != names::LOCK && name != names::OWNER)
        .collect();
    names.sort();
    names
}

#[test]
fn a_name_comes_after_the_flush_and_the_answer_after_the_directorys() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path(), OnRerun::Keep);
    sink.directory.script.steps.clear();
    sink.store(key(1), b"x").unwrap();
    let (name, temp, fence) = (names::output(key(1), "out"), names::temp(key(1)), names::fence(key(1)));
    let asked = [
        format!("look for {name}"),
        format!("look for {fence}"),
        format!("remove {temp}"),
        format!("create {temp}"),
        format!("write {temp}"),
        format!("flush {temp}"),
        format!("rename {name}"),
        "flush directory ".into(),
    ];
    assert_eq!(sink.directory.script.steps, asked);

    // What is believed at open was flushed by that open: a killed sink may have left the name and no more.
    drop(sink);
    let mut sink = DirectorySink::open(dir.path(), config(OnRerun::Keep)).unwrap();
    let flushed = sink.directory.script.steps.iter().position(|step| step == "flush directory ");
    let believed = sink.directory.script.steps.iter().position(|step| step == "read _ledger");
    assert!(flushed.is_some() && flushed < believed, "{:?}", sink.directory.script.steps);
    assert!(matches!(sink.store(key(1), b"x").unwrap(), Stored::AlreadyThere { .. }));
}

/// Killed before any step of anything: the next sink goes on from there, and the bytes are the same.
#[test]
fn killed_at_every_step_a_sink_is_taken_over() {
    for on_rerun in [OnRerun::Keep, OnRerun::Replace] {
        let mut kills = 0;
        for step in STEPS {
            for nth in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let mut sink = DirectorySink::open(dir.path(), config(on_rerun)).unwrap();
                sink.directory.script.refuse = Some((step, nth, ErrorKind::Other));
                sink.directory.script.dies = true;
                let outcome = sink
                    .claim(LEDGER, false)
                    .and_then(|()| sink.store(key(1), b"one"))
                    .and_then(|_| sink.fence(key(2)));
                drop(sink);
                let mut next = open(dir.path(), on_rerun);
                assert!(!names(dir.path()).iter().any(|name| names::is_temp(name)), "{:?}", names(dir.path()));
                next.store(key(1), b"one").unwrap();
                next.fence(key(2)).unwrap();
                assert_eq!(names(dir.path()), [names::output(key(1), "out"), names::fence(key(2))], "{step} {nth}");
                assert_eq!(std::fs::read(next.path(key(1))).unwrap(), b"one");
                if outcome.is_ok() {
                    break;
                }
                kills += 1;
            }
        }
        assert!(kills >= 16, "{kills}");
    }
}

/// A flush that failed is not asked again: nothing is taken, by whatever name, until the directory is opened again.
#[test]
fn a_failed_flush_poisons() {
    for step in ["flush", "rename", "flush directory"] {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = open(dir.path(), OnRerun::Keep);
        sink.directory.script.refuse = Some((step, 0, ErrorKind::Other));
        assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Io { op, .. }) if op == step));
        let asked = sink.directory.script.steps.len();
        assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Poisoned { .. })), "{step}");
        assert!(matches!(sink.store(key(2), b"two"), Err(SinkError::Poisoned { .. })), "{step}");
        assert!(matches!(sink.fence(key(2)), Err(SinkError::Poisoned { .. })), "{step}");
        assert!(matches!(sink.claim(LEDGER, false), Err(SinkError::Poisoned { .. })), "{step}");
        assert_eq!(sink.directory.script.steps.len(), asked, "{step}: it was asked again");
        assert!(!names(dir.path()).contains(&names::temp(key(1))), "{step}");
        drop(sink);
        open(dir.path(), OnRerun::Keep).store(key(1), b"one").unwrap();
    }
}

/// No room is a plain no: nothing is left, and the same sink stores the batch when there is room.
#[test]
fn a_full_disk_does_not_poison() {
    for step in ["create", "write", "rename"] {
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let dir = tempfile::tempdir().unwrap();
            let mut sink = open(dir.path(), OnRerun::Keep);
            sink.directory.script.refuse = Some((step, 0, kind));
            match sink.store(key(1), b"one") {
                Err(SinkError::Io { op, source, .. }) => assert_eq!((op, source.kind()), (step, kind)),
                other => panic!("{step}: {other:?}"),
            }
            assert_eq!(names(dir.path()), [""; 0], "{step}");
            assert!(matches!(sink.store(key(1), b"one").unwrap(), Stored::New { .. }));
        }
    }
}

/// What the claim could not write down, it does not believe.
#[test]
fn a_claim_that_failed_is_no_claim() {
    for step in ["create", "write"] {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
        sink.directory.script.refuse = Some((step, 0, ErrorKind::StorageFull));
        sink.claim(LEDGER, false).unwrap_err();
        assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Unclaimed { .. })));
    }
}

#[test]
fn an_open_that_cannot_flush_the_directory_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = Directory::open(dir.path()).unwrap();
    directory.script.refuse = Some(("flush directory", 0, ErrorKind::Other));
    let opened = DirectorySink::recover(directory, DirectorySinkConfig::default());
    assert!(matches!(opened, Err(SinkError::Io { op: "flush directory", .. })));
}

#[test]
fn an_old_output_that_cannot_be_read_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path(), OnRerun::Replace);
    sink.store(key(1), b"one").unwrap();
    sink.directory.script.refuse = Some(("read", 0, ErrorKind::Other));
    sink.store(key(1), b"two").unwrap_err();
    assert_eq!(names(dir.path()), [names::output(key(1), "out")]);
    assert!(matches!(sink.store(key(1), b"two").unwrap(), Stored::New { .. }));
}

#[test]
fn where_two_ledgers_have_written_and_nobody_claims_it_neither_passes_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let ledgers = [LEDGER, LedgerId::new(0xb)];
    for ledger in ledgers {
        let key = BatchKey { ledger, batch: BatchId::new(1) };
        std::fs::write(dir.path().join(names::output(key, "out")), "").unwrap();
    }
    for ledger in ledgers {
        let mut sink = DirectorySink::open(dir.path(), config(OnRerun::Keep)).unwrap();
        let refused = sink.claim(ledger, false);
        assert!(matches!(refused, Err(SinkError::OtherLedger { holds, .. }) if holds != ledger), "{refused:?}");
    }
}
