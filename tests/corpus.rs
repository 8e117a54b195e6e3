//! Replays the fuzzers' corpus through their own targets, so that what they once found stays found.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

#[path = "../fuzz/bodies/mod.rs"]
#[allow(unreachable_pub, missing_docs, reason = "shared with the fuzz crate")]
mod bodies;

/// An input that takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(30);

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, run: fn(&[u8])) {
    let dir = corpus(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let (tell, told) = mpsc::channel();
        let running = std::thread::spawn(move || {
            run(&input);
            let _ = tell.send(());
        });
        match told.recv_timeout(PATIENCE) {
            Ok(()) => running.join().unwrap(),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("corpus file {} fails", path.display()),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("corpus file {} does not end", path.display()),
        }
        replayed += 1;
    }
    assert!(replayed >= 12, "{} holds {replayed} files", dir.display());
    println!("{target}: {replayed} inputs");
}

#[test]
fn frame() {
    replay("frame", bodies::frame::run);
}

#[test]
fn scanner() {
    replay("scanner", bodies::scanner::run);
}

#[test]
fn recovery() {
    replay("recovery", bodies::recovery::run);
}

#[cfg(feature = "receiver")]
#[test]
fn wire() {
    replay("wire", bodies::wire::run);
}

#[cfg(feature = "receiver")]
#[test]
fn block() {
    replay("block", bodies::block::run);
}

#[cfg(feature = "receiver")]
#[test]
fn sessions() {
    replay("sessions", bodies::sessions::run);
}

#[cfg(feature = "ledger")]
#[test]
fn ledger() {
    replay("ledger", bodies::ledger::run);
}

/// `cargo test --features internals,ledger --test corpus -- --ignored` writes the inputs the fuzzers start from.
#[test]
#[ignore = "writes fuzz/corpus"]
fn write_the_seeds() {
    for (target, inputs) in bodies::seeds::all() {
        std::fs::create_dir_all(corpus(target)).unwrap();
        for (name, bytes) in inputs {
            std::fs::write(corpus(target).join(name), bytes).unwrap();
        }
    }
}
