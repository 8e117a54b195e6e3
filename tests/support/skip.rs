//! A skip is never a pass: what was not tested is told where the output of a passing test would hide it.

use std::io::Write;

/// Tells that something was not tested, and why: on the standard error, and as a line of the file that
/// `SEAWALL_SKIPPED` names.
pub(crate) fn skipped(why: impl std::fmt::Display) {
    eprintln!("NOT TESTED: {why}");
    if let Some(path) = std::env::var_os("SEAWALL_SKIPPED") {
        let line = format!("{}: {why}\n", std::thread::current().name().unwrap_or("?"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skips is written");
    }
}
