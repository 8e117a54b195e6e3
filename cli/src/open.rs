//! Opening a log the way a command needs it.

use std::path::{Path, PathBuf};

use seawall::{Config, Log, Recovery, RecoveryMode};

use crate::Global;
use crate::exit::{Failure, InLog};
use crate::output::tell;

/// `--log DIR`, the same for every command.
#[derive(clap::Args, Debug)]
pub(crate) struct LogDir {
    /// The log's directory.
    #[arg(long = "log", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// The configuration of `--config`, or the default.
pub(crate) fn config(global: &Global) -> Result<Config, Failure> {
    let Some(path) = &global.config else { return Ok(Config::default()) };
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, e))?;
    toml::from_str(&text).map_err(|e| Failure::Usage(format!("configuration {}: {}", path.display(), one_line(&e))))
}

/// What is wrong with a configuration file, without the drawing of the line.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

/// Opens for reading only: nothing is written or locked, so that it works beside a writer. What the writer has not
/// proven yet is not seen.
pub(crate) fn read_only(dir: &Path, global: &Global) -> Result<(Log, Recovery), Failure> {
    let config = Config { recovery: RecoveryMode::ReadOnly, create: false, ..config(global)? };
    Log::open(dir, for_any_record(config)).in_log(dir)
}

/// Whatever limits the writer had, its records are to be read.
pub(crate) fn for_any_record(config: Config) -> Config {
    let record_bytes_max = 1 << 30;
    Config { record_bytes_max, in_flight_bytes_max: config.in_flight_bytes_max.max(record_bytes_max), ..config }
}

/// True when an open met damage. A missing segment whose frames were set aside is still missing, so where something was
/// set aside it takes a check of everything to tell whether that explains it.
pub(crate) fn is_damaged(recovery: &Recovery) -> bool {
    !recovery.damage.is_empty() || (!recovery.missing_segments.is_empty() && recovery.quarantined.is_empty())
}

/// Tells what an open found wrong at the log's end, where no reader meets it; true when it found something.
pub(crate) fn tell_damaged_end(recovery: &Recovery) -> bool {
    if recovery.control_slot_lost {
        tell(CONTROL_SLOT_LOST);
    }
    recovery.damage.iter().for_each(|damage| tell(format_args!("damage at the log's end: {damage}")));
    !recovery.damage.is_empty()
}

/// Opens for appending.
pub(crate) fn writable(dir: &Path, config: Config) -> Result<(Log, Recovery), Failure> {
    Log::open(dir, config).in_log(dir)
}

/// Told wherever a log is looked at.
pub(crate) const CONTROL_SLOT_LOST: &str = "one of the control file's two slots is lost (a write that a power loss cut, or rot); \
    the other counts, and may be older: of a close, a trim or a truncation that it told nothing is known";

/// What is known of dropped frames.
pub(crate) fn never_acknowledged(recovery: &Recovery) -> &'static str {
    match recovery.control_slot_lost {
        true => "not acknowledged as far as anything tells",
        false => "never acknowledged",
    }
}

/// Tells, a line each, what an open found out that its user ought to know.
pub(crate) fn tell_recovery(recovery: &Recovery) {
    if let Some(lsns) = recovery.ambiguous_tail {
        tell(format_args!(
            "the last writer ended without a close; frames {lsns} ({}) were not proven durable by it",
            lsns.frames()
        ));
    }
    if let Some(lsns) = recovery.dropped {
        let acknowledged = never_acknowledged(recovery);
        tell(format_args!("frames {lsns} stood behind a hole, were {acknowledged} and are dropped"));
    }
    for damage in &recovery.damage {
        tell(format_args!("damage: {damage}"));
    }
    for number in &recovery.missing_segments {
        tell(format_args!("damage: segment {number} is missing"));
    }
    if recovery.control_slot_lost {
        tell(CONTROL_SLOT_LOST);
    }
    if recovery.control_rebuilt {
        tell("the control file was lost and was rebuilt from the segments");
    }
    if let Some(reason) = &recovery.medium.backend_reason {
        tell(format_args!("io_uring is not used: {reason}"));
    }
}
