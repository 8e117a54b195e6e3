//! Outputs in a directory: what a batch that runs twice leaves, whoever died in between, and whose directory it is.
#![allow(missing_docs, reason = "a test")]

#[path = "../support/skip.rs"]
mod skip;

mod full;

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use seawall::ledger::{BatchKey, Sink, SinkError, SinkKind, Stored};
use seawall::node::{DirectorySink, DirectorySinkConfig, OnRerun, OutputSum, Outputs, Writing};
use seawall::{BatchId, LedgerId};

const OURS: LedgerId = LedgerId::new(0xa);
const THEIRS: LedgerId = LedgerId::new(0xb);

fn key(batch: u64) -> BatchKey {
    of(OURS, batch)
}

fn of(ledger: LedgerId, batch: u64) -> BatchKey {
    BatchKey { ledger, batch: BatchId::new(batch) }
}

fn open(dir: &Path) -> DirectorySink {
    open_with(dir, OnRerun::Keep)
}

fn open_with(dir: &Path, on_rerun: OnRerun) -> DirectorySink {
    let config = DirectorySinkConfig { on_rerun, ..DirectorySinkConfig::default() };
    let mut sink = DirectorySink::open(dir, config).expect("the directory opens");
    sink.claim(OURS, false).expect("the directory is ours");
    sink
}

/// Names that are no secret of the sink.
fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !matches!(name.as_str(), "_ledger" | "_lock")).collect();
    names.sort();
    names
}

fn is_new(stored: &Stored) -> bool {
    matches!(stored, Stored::New { .. })
}

/// The lock is the parent's, and so are the temporary names.
#[test]
#[allow(unsafe_code)]
fn a_forked_child_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    sink.store(key(1), b"x").unwrap();
    let before = files(dir.path());
    // SAFETY: the child uses nothing that another thread may hold, and leaves without unwinding.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = [sink.store(key(1), b"x").is_ok(), sink.store(key(2), b"y").is_ok(), sink.fence(key(3)).is_ok()];
        // SAFETY: it never returns.
        unsafe { libc::_exit(i32::from(done.contains(&true))) };
    }
    let mut status = 0;
    // SAFETY: the status is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    // One that was ended by a signal has tried nothing.
    assert!(libc::WIFEXITED(status), "{status}");
    assert_eq!((libc::WEXITSTATUS(status), files(dir.path())), (0, before));
    sink.store(key(2), b"y").unwrap();
}

// --- a batch that runs again ---------------------------------------------------------------------------------------

#[test]
fn however_often_a_batch_runs_the_directory_is_the_same() {
    for on_rerun in [OnRerun::Keep, OnRerun::Replace] {
        let dir = tempfile::tempdir().unwrap();
        let first = open_with(dir.path(), on_rerun).store(key(42), b"forty-two\n").unwrap();
        assert!(is_new(&first));
        let name = "00000000000000000042-0000000000000000000000000000000a.out";
        for run in 0..5 {
            let mut sink = open_with(dir.path(), on_rerun);
            let again = if run % 2 == 0 {
                sink.store(key(42), b"forty-two\n").unwrap()
            } else {
                sink.store_with(key(42), |out| b"forty-two\n".iter().try_for_each(|byte| out.write_all(&[*byte])))
                    .unwrap()
            };
            assert!(!is_new(&again), "{on_rerun:?}");
            assert_eq!(again.token(), first.token());
            assert_eq!(files(dir.path()), [name]);
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"forty-two\n");
        }
    }
}

/// Whoever has read the file has read what stays: another run's other bytes are not even asked for.
#[test]
fn the_first_output_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    assert_eq!(sink.kind(), SinkKind::Transactional);
    let first = sink.store(key(1), b"first").unwrap();
    let again = sink.store_with(key(1), |_| panic!("the output is there")).unwrap();
    assert!(!is_new(&again));
    assert_eq!(again.token(), first.token());
    assert_eq!(std::fs::read(sink.path(key(1))).unwrap(), b"first");
}

#[test]
fn where_it_is_wanted_the_last_output_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_with(dir.path(), OnRerun::Replace);
    assert_eq!(sink.kind(), SinkKind::Idempotent);
    sink.store(key(1), b"first").unwrap();
    let mut reader = std::fs::File::open(sink.path(key(1))).unwrap();
    let second = sink.store(key(1), b"second, longer").unwrap();
    assert!(is_new(&second));
    assert_eq!(second.token(), "14 bytes, crc32c 69bd03ec");
    assert_eq!(std::fs::read(sink.path(key(1))).unwrap(), b"second, longer");
    assert_eq!(io::read_to_string(&mut reader).unwrap(), "first", "what was opened stays what it was");
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn the_token_says_which_bytes_were_meant() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7) as u8).collect();
    let write = |out: &mut dyn Write| bytes.chunks(999).try_for_each(|chunk| out.write_all(chunk));
    let stored = Sink::store(&mut sink, key(1), Writing(write)).unwrap();
    let token = OutputSum::from_token(stored.token()).unwrap();
    assert_eq!(token.bytes, 1_000_000);
    let output = Outputs::open(dir.path()).unwrap().after(BatchId::ZERO).next().unwrap().unwrap();
    assert_eq!(output.sum().unwrap(), token);
    let handed_over = Sink::store(&mut sink, key(2), &bytes).unwrap();
    assert_eq!(handed_over.token(), stored.token());
    // An output that rots is noticed by whoever asks.
    let mut rotten = bytes;
    rotten[500_000] ^= 1;
    std::fs::write(&output.path, rotten).unwrap();
    assert_ne!(output.sum().unwrap(), token);
}

#[test]
fn an_output_without_a_byte_is_an_output() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    assert!(is_new(&sink.store(key(1), b"").unwrap()));
    assert!(!is_new(&sink.store(key(1), b"").unwrap()));
    assert_eq!(std::fs::read(sink.path(key(1))).unwrap(), b"");
}

// --- an output that is not whole -----------------------------------------------------------------------------------

#[test]
fn an_engine_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    let half = |out: &mut dyn Write| {
        out.write_all(&[7; 1 << 20])?;
        Err(io::Error::new(ErrorKind::InvalidData, "the second half is missing"))
    };
    let error = sink.store_with(key(1), half).unwrap_err();
    assert!(error.to_string().contains("the second half is missing"), "{error}");
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(is_new(&sink.store(key(1), b"whole").unwrap()));
}

#[test]
fn an_engine_that_panics_leaves_the_batch_to_be_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    let panics = std::panic::AssertUnwindSafe(|| {
        sink.store_with(key(1), |out| {
            out.write_all(b"half").unwrap();
            panic!("in the engine")
        })
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert!(!sink.path(key(1)).exists());
    assert!(is_new(&sink.store(key(1), b"whole").unwrap()));
    assert_eq!(files(dir.path()).len(), 1);
}

/// Every state that a sink can die in, made by hand.
#[test]
fn what_a_sink_that_died_has_left_is_taken_up() {
    let stem = "00000000000000000001-0000000000000000000000000000000a";
    let (name, temp) = (format!("{stem}.out"), format!("_{stem}.tmp"));
    // Half a temporary file, all of one, one next to the output of an earlier run, and a name without a flushed directory.
    let states: [&[(&str, &[u8])]; 4] =
        [&[(&temp, b"on")], &[(&temp, b"one")], &[(&temp, b"on"), (&name, b"one")], &[(&name, b"one")]];
    for (number, state) in states.into_iter().enumerate() {
        for on_rerun in [OnRerun::Keep, OnRerun::Replace] {
            let dir = tempfile::tempdir().unwrap();
            drop(open_with(dir.path(), on_rerun));
            for (name, bytes) in state {
                std::fs::write(dir.path().join(name), bytes).unwrap();
            }
            let mut sink = open_with(dir.path(), on_rerun);
            assert!(!dir.path().join(&temp).exists(), "state {number}");
            let stored = sink.store(key(1), b"one").unwrap();
            assert_eq!(is_new(&stored), number < 2, "state {number}");
            assert_eq!(files(dir.path()), std::slice::from_ref(&name));
            assert_eq!(std::fs::read(dir.path().join(&name)).unwrap(), b"one");
        }
    }
    // While the first claim was being written.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("_ledger.tmp"), b"seawall outp").unwrap();
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    assert_eq!(sink.ledger(), None);
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Unclaimed { .. })));
}

#[test]
fn other_peoples_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = ["_SUCCESS", "_notes.tmp", "notes.tmp", "part-0.parquet", "00000000000000000001.out"];
    theirs.iter().for_each(|name| std::fs::write(dir.path().join(name), b"theirs").unwrap());
    let mut sink = open(dir.path());
    sink.store(key(1), b"ours").unwrap();
    for name in theirs {
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"theirs", "{name}");
    }
    assert_eq!(Outputs::open(dir.path()).unwrap().all().unwrap().len(), 1);
}

// --- abandoned batches ---------------------------------------------------------------------------------------------

#[test]
fn a_fenced_batch_is_never_stored() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).fence(key(3)).unwrap();
    let mut sink = open(dir.path());
    sink.fence(key(3)).unwrap();
    for _ in 0..2 {
        let error = sink.store_with(key(3), |_| panic!("the batch is fenced")).unwrap_err();
        assert!(matches!(error, SinkError::Fenced { key, .. } if key == of(OURS, 3)), "{error}");
    }
    assert!(!sink.path(key(3)).exists());
    assert!(is_new(&sink.store(key(4), b"four").unwrap()));
}

#[test]
fn a_stored_batch_is_not_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    sink.store(key(1), b"one").unwrap();
    assert!(matches!(sink.fence(key(1)), Err(SinkError::AlreadyStored { key, .. }) if key == of(OURS, 1)));
    assert_eq!(files(dir.path()).len(), 1);
    assert!(!is_new(&sink.store(key(1), b"one").unwrap()));
}

/// No sink leaves both; whoever copied files together is told.
#[test]
fn a_batch_both_stored_and_fenced_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    sink.fence(key(1)).unwrap();
    std::fs::write(sink.path(key(1)), b"from a copy").unwrap();
    assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Damaged { .. })));
    assert!(matches!(sink.fence(key(1)), Err(SinkError::Damaged { .. })));
}

// --- whose directory it is -----------------------------------------------------------------------------------------

#[test]
fn nobodys_directory_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    assert!(matches!(sink.store(key(1), b"one"), Err(SinkError::Unclaimed { .. })));
    assert!(matches!(sink.fence(key(1)), Err(SinkError::Unclaimed { .. })));
    assert!(matches!(Outputs::open(dir.path()), Err(SinkError::Unclaimed { .. })));
}

#[test]
fn another_ledgers_directory_is_refused_until_it_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    sink.store(key(1), b"old").unwrap();
    sink.fence(key(2)).unwrap();
    drop(sink);

    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    let refused =
        |error| matches!(error, SinkError::OtherLedger { holds, ledger, .. } if (holds, ledger) == (OURS, THEIRS));
    assert!(refused(sink.claim(THEIRS, false).unwrap_err()));
    assert!(refused(sink.store(of(THEIRS, 1), b"new").unwrap_err()));
    assert!(refused(sink.fence(of(THEIRS, 3)).unwrap_err()));

    // A new ledger's batch 1 does not look done, its batch 2 not abandoned.
    sink.claim(THEIRS, true).unwrap();
    assert!(is_new(&sink.store(of(THEIRS, 1), b"new").unwrap()));
    assert!(is_new(&sink.store(of(THEIRS, 2), b"new too").unwrap()));
    assert!(matches!(sink.store(key(3), b"late"), Err(SinkError::OtherLedger { .. })), "the old driver is refused");
    drop(sink);

    let outputs = Outputs::open(dir.path()).unwrap();
    assert_eq!(outputs.ledger(), THEIRS);
    assert_eq!(outputs.all().unwrap().len(), 2);
    let old = outputs.of(OURS).all().unwrap();
    assert_eq!((old.len(), std::fs::read(&old[0].path).unwrap()), (1, b"old".to_vec()));

    // Given back, the old ledger finds what it stored and what it fenced.
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    sink.claim(OURS, true).unwrap();
    assert!(!is_new(&sink.store(key(1), b"old").unwrap()));
    assert!(matches!(sink.store(key(2), b"old"), Err(SinkError::Fenced { .. })));
}

/// A copy may lack `_ledger`; the names still say whose the files are.
#[test]
fn a_directory_that_lost_its_owner_is_still_not_anybodys() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store(key(1), b"one").unwrap();
    std::fs::remove_file(dir.path().join("_ledger")).unwrap();
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    assert!(matches!(sink.claim(THEIRS, false), Err(SinkError::OtherLedger { holds: OURS, .. })));
    sink.claim(OURS, false).unwrap();
    assert!(!is_new(&sink.store(key(1), b"one").unwrap()));
}

#[test]
fn an_owner_that_cannot_be_read_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store(key(1), b"one").unwrap();
    let path = dir.path().join("_ledger");
    let bytes = std::fs::read(&path).unwrap();
    for bad in [&bytes[..bytes.len() - 1], b"", &[b'x'; 100_000]] {
        std::fs::write(&path, bad).unwrap();
        let error = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap_err();
        assert!(matches!(&error, SinkError::Damaged { what } if what.contains("_ledger")), "{error}");
        assert!(matches!(Outputs::open(dir.path()), Err(SinkError::Damaged { .. })));
    }
    // What the error says to do.
    std::fs::remove_file(&path).unwrap();
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    sink.claim(OURS, true).unwrap();
    assert!(!is_new(&sink.store(key(1), b"one").unwrap()));
}

#[test]
fn a_second_sink_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap_err();
    let us = std::process::id();
    assert!(matches!(second, SinkError::InUse { pid, .. } if pid == Some(us)), "{second}");
    assert!(second.to_string().contains(&format!("in use by process {us}")), "{second}");
    drop(first);
    open(dir.path());
}

/// Nor does it remove what the first one is writing.
#[test]
fn a_second_sink_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = open(dir.path());
    let stored = first.store_with(key(1), |out| {
        out.write_all(b"one")?;
        assert!(DirectorySink::open(dir.path(), DirectorySinkConfig::default()).is_err());
        Ok(())
    });
    assert!(is_new(&stored.unwrap()));
}

#[test]
fn configurations_that_would_hide_outputs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).store(key(1), b"one").unwrap();
    let open = |dir: &Path, config: DirectorySinkConfig| match DirectorySink::open(dir, config) {
        Err(SinkError::Config { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let csv = DirectorySinkConfig { extension: "csv".into(), ..DirectorySinkConfig::default() };
    assert_eq!(open(dir.path(), csv.clone()), "extension");
    // Also where nothing but the names says what they end with.
    std::fs::remove_file(dir.path().join("_ledger")).unwrap();
    assert_eq!(open(dir.path(), csv), "extension");
    // A file beside an output, of somebody else's making, hides nothing.
    std::fs::write(dir.path().join(format!("{}.sum", files(dir.path())[0])), "").unwrap();
    let mut sink = DirectorySink::open(dir.path(), DirectorySinkConfig::default()).unwrap();
    sink.claim(OURS, false).unwrap();
    assert!(!is_new(&sink.store(key(1), b"one").unwrap()));
    drop(sink);
    let missing = dir.path().join("missing");
    let refused = |config| open(&missing, config);
    for extension in ["", "../out", "a/b"] {
        let config = DirectorySinkConfig { extension: extension.into(), ..DirectorySinkConfig::default() };
        assert_eq!(refused(config), "extension", "{extension}");
    }
    for write_buffer_bytes in [0, u64::MAX] {
        assert_eq!(
            refused(DirectorySinkConfig { write_buffer_bytes, ..DirectorySinkConfig::default() }),
            "write_buffer_bytes"
        );
    }
    assert_eq!(files(dir.path()).len(), 2, "nothing was made");
}

#[test]
fn an_outputs_name_that_is_no_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    std::fs::create_dir(sink.path(key(1))).unwrap();
    std::os::unix::fs::symlink("elsewhere", sink.path(key(2))).unwrap();
    for batch in [1, 2] {
        assert!(matches!(sink.store(key(batch), b"x"), Err(SinkError::Damaged { .. })));
        assert!(matches!(sink.fence(key(batch)), Err(SinkError::Damaged { .. })));
    }
}

#[test]
fn a_missing_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("a/b/c");
    open(&below).store(key(1), b"one").unwrap();
    assert_eq!(files(&below).len(), 1);
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(DirectorySink::open(&file, DirectorySinkConfig::default()), Err(SinkError::Io { .. })));
}

// --- readers -------------------------------------------------------------------------------------------------------

#[test]
fn readers_see_batches_in_order_and_stop_at_the_first_hole() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(dir.path());
    for batch in [10, 1, 5, 2] {
        sink.store(key(batch), batch.to_string().as_bytes()).unwrap();
    }
    sink.fence(key(3)).unwrap();
    let outputs = Outputs::open(dir.path()).unwrap();
    let after = |batch: u64| -> Vec<u64> {
        outputs.after(BatchId::new(batch)).map(|output| output.unwrap().key.batch.get()).collect()
    };
    assert_eq!(after(0), [1, 2]);
    sink.store(key(4), b"4").unwrap();
    assert_eq!(after(2), [4, 5], "a fenced batch is passed over");
    assert_eq!(after(5), [0; 0]);
    assert_eq!(after(9), [10]);
    assert_eq!(after(u64::MAX - 1), [0; 0]);
    let all: Vec<u64> = outputs.all().unwrap().iter().map(|output| output.key.batch.get()).collect();
    assert_eq!(all, [1, 2, 4, 5, 10]);
    for output in outputs.all().unwrap() {
        assert_eq!(std::fs::read_to_string(&output.path).unwrap(), output.key.batch.to_string());
    }
    // While a file is being written, it is not there.
    sink.store_with(key(6), |out| {
        out.write_all(b"half")?;
        assert_eq!(after(5), [0; 0]);
        out.write_all(b"whole")
    })
    .unwrap();
    assert_eq!(after(5), [6]);
}
