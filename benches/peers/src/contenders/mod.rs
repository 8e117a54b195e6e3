//! The logs that are compared, each made to acknowledge only what survives a power cut and set
//! up for its own best.

mod nano_wal;
mod okaywal;
mod raft_engine;
mod seawall;
mod sqlite;

use std::error::Error;
use std::path::Path;

use clap::ValueEnum;
use seawall_limit::Load;
use serde::Serialize;

/// Why a contender gave no result.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// A log under test. Dropping it closes it; its directory is removed afterwards.
pub(crate) trait Contender: Send + Sync {
    /// Returns once `payload` survives a power cut. Called by many threads at a time, each with
    /// its own `client`, counted from 0.
    fn append_durable(&self, client: usize, payload: &[u8]) -> Result<(), Failure>;

    /// Gives up old records, so that files stay bounded. Called between runs, not measured.
    fn trim(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Seawall,
    Okaywal,
    RaftEngine,
    NanoWal,
    Sqlite,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::Seawall, Kind::Okaywal, Kind::RaftEngine, Kind::NanoWal, Kind::Sqlite];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Seawall => "seawall",
            Kind::Okaywal => "okaywal",
            Kind::RaftEngine => "raft-engine",
            Kind::NanoWal => "nano-wal",
            Kind::Sqlite => "sqlite",
        }
    }

    /// Opens a new log in `dir`, which is empty.
    pub(crate) fn open(self, dir: &Path, load: Load) -> Result<Box<dyn Contender>, Failure> {
        Ok(match self {
            Kind::Seawall => Box::new(seawall::Seawall::open(dir)?),
            Kind::Okaywal => Box::new(okaywal::Okaywal::open(dir, load)?),
            Kind::RaftEngine => Box::new(raft_engine::RaftEngine::open(dir, load)?),
            Kind::NanoWal => Box::new(nano_wal::NanoWal::open(dir)?),
            Kind::Sqlite => Box::new(sqlite::Sqlite::open(dir, load)?),
        })
    }
}
