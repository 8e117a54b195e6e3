//! A receiver's stream, for those who stand before it: opened again, read whole, and one that is soon full.

use std::path::Path;
use std::time::{Duration, Instant};

use seawall::receiver::Block;
use seawall::{Config, Error, Log, Lsn};

/// A log that was there before: whoever dropped it, the thread that heard of its last flush may hold it for a moment.
pub(crate) fn reopen(dir: &Path, config: &Config) -> Log {
    let began = Instant::now();
    loop {
        match Log::open(dir, config.clone()) {
            Ok((log, _)) => return log,
            Err(Error::Locked { .. }) if began.elapsed() < Duration::from_secs(30) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("the log opens: {error}"),
        }
    }
}

/// Every record in the stream: (source, sequence, bytes).
pub(crate) fn records(log: &Log) -> Vec<(String, u64, Vec<u8>)> {
    let mut found = Vec::new();
    for frame in log.reader(log.first().max(Lsn::FIRST)) {
        let frame = frame.expect("frames can be read");
        let block = Block::read(&frame.payload).expect("a block");
        for record in block.records() {
            let record = record.expect("a record");
            let source = record.range.source.as_ref().map_or_else(String::new, ToString::to_string);
            found.push((source, record.seq.get(), record.record.to_vec()));
        }
    }
    found
}

/// A log that is full behind 256 KiB.
pub(crate) fn small() -> Config {
    Config {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        byte_limit: Some(256 << 10),
        ..Config::default()
    }
}

/// A check that refuses records.
pub(crate) fn even_length(record: &[u8]) -> Result<(), String> {
    if record.len().is_multiple_of(2) { Ok(()) } else { Err("an odd length".into()) }
}
