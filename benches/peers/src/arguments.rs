//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::contenders::Kind;

/// Durable appends by several logs and by the bare device, interleaved.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Directory on the device in question; a subdirectory is created in it and removed.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Rounds per cell; each runs every contender once.
    #[arg(long, default_value = "7")]
    pub(crate) rounds: NonZeroUsize,
    /// Seconds per contender, cell and round, after a warm-up of a tenth of that.
    #[arg(long, default_value = "1", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,
    /// Seconds per method and depth when the device limit's best is looked for, once per cell.
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    pub(crate) limit_seconds: Duration,
    /// Client threads, each a closed loop of one append at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    pub(crate) threads: Vec<NonZeroUsize>,
    /// Record sizes in bytes.
    #[arg(long, value_delimiter = ',', default_value = "1024,1048576")]
    pub(crate) records: Vec<NonZeroUsize>,
    /// Only these contenders; the device limit always runs.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    pub(crate) only: Vec<Kind>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a positive duration".into()),
    }
}
