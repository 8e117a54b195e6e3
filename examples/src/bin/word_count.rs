//! Network word count, each word once, whatever crashes.
//!
//! ```text
//! word_count run DIR [--listen ADDRESS] [--files DIR] [--interval MILLIS] [--until-idle SECONDS]
//! word_count show DIR [COUNT]      what is counted so far
//! word_count direct FILE...        the same, from files: to compare with
//! ```
//!
//! `run` receives lines and counts their words in batches, for ever, or until nothing has come for so long.
//!
//! Send with `seawall send FILE --to ADDRESS`. Kill either side whenever you like, and run it again.

use std::error::Error;
use std::io::{BufRead, BufReader, BufWriter, Write, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall::ledger::BatchLimits;
use seawall::node::{
    Batch, DirectorySource, DirectorySourceConfig, Ledger, LedgerConfig, Receiver, Server, ServerConfig,
};
use seawall::receiver::{PidConfig, ReceiverConfig};
use seawall::{Config, Log};
use seawall_examples::sqlite::{SqliteConfig, SqliteSink};
use seawall_examples::word_count::{Counts, run_batch, top};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "word_count run DIR [--listen ADDRESS] [--files DIR] [--interval MILLIS] [--until-idle SECONDS] | show DIR [COUNT] | direct FILE...";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", dir, ref options @ ..] => run(Path::new(dir), &Options::read(options)?),
        ["show", dir] => show(Path::new(dir), u32::MAX),
        ["show", dir, count] => show(Path::new(dir), count.parse()?),
        ["direct", ref files @ ..] if !files.is_empty() => direct(files),
        _ => Err(USAGE.into()),
    }
}

struct Options {
    listen: SocketAddr,
    files: Option<PathBuf>,
    interval: Duration,
    until_idle: Option<Duration>,
}

/// Of one batch: counts are held in memory while it runs.
const BATCH_BYTES_MAX: u64 = 16 << 20;

impl Options {
    fn read(words: &[&str]) -> Result<Options> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 7311));
        let mut options = Options { listen, files: None, interval: Duration::from_millis(500), until_idle: None };
        for pair in words.chunks(2) {
            match *pair {
                ["--listen", address] => options.listen = address.parse()?,
                ["--files", dir] => options.files = Some(dir.into()),
                ["--interval", millis] => options.interval = Duration::from_millis(millis.parse()?),
                ["--until-idle", seconds] => options.until_idle = Some(Duration::from_secs(seconds.parse()?)),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

/// Receiver and driver in one process.
fn run(dir: &Path, options: &Options) -> Result<()> {
    // Lines become durable in the stream, and are acknowledged then.
    let (log, _) = Log::open(dir.join("lines"), Config::default())?;
    let (receiver, driver, _) = Receiver::open(log, "lines", ReceiverConfig::default())?;
    driver.spawn()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let server = runtime.block_on(async { Server::bind(receiver.clone(), ServerConfig::new(options.listen)) })?;
    runtime.spawn(server.run(std::future::pending()));

    // The ledger says which of them are in which batch.
    let (log, _) = Log::open(dir.join("ledger"), Config::default())?;
    let config = LedgerConfig {
        rate: Some(PidConfig { records_per_second_first: 1e6, records_per_second_min: 1e4, ..PidConfig::default() }),
        batch_interval: options.interval,
        ..LedgerConfig::default()
    };
    let (ledger, opened) = Ledger::open(log, config)?;
    ledger.add_stream("lines", receiver)?;
    if let Some(files) = &options.files {
        ledger.add_input("files", Arc::new(DirectorySource::open(files, DirectorySourceConfig::default())?))?;
    }

    // The database takes each batch once.
    let mut sink = SqliteSink::open(&dir.join("words.sqlite"), SqliteConfig::default())?;
    sink.claim(ledger.id(), false)?;
    println!("listening on {}, {} batches pending", options.listen, opened.pending);

    for batch in ledger.pending() {
        count(&ledger, &mut sink, &batch)?;
    }
    let mut since = Instant::now();
    while options.until_idle.is_none_or(|idle| since.elapsed() < idle) {
        match ledger.allocate(&BatchLimits::bytes(BATCH_BYTES_MAX))? {
            Some(batch) => {
                count(&ledger, &mut sink, &batch)?;
                since = Instant::now();
            }
            None => std::thread::sleep(options.interval),
        }
    }
    println!("idle: the end");
    Ok(())
}

/// A batch: read, count, store, commit. Killed anywhere in between, it runs again, with the same records.
fn count(ledger: &Ledger, sink: &mut SqliteSink, batch: &Batch) -> Result<()> {
    let lines = batch.read()?.map(|record| Ok(record?.record));
    let stored = run_batch::<_, Box<dyn Error>>(sink, batch.key(), lines)?;
    ledger.commit(batch.id(), stored.token().clone())?;
    println!("batch {}: {} lines, {}", batch.id(), batch.records(), stored.token().escape_ascii());
    Ok(())
}

fn show(dir: &Path, count: u32) -> Result<()> {
    let sink = SqliteSink::open(&dir.join("words.sqlite"), SqliteConfig::default())?;
    let mut out = BufWriter::new(stdout().lock());
    for (word, count) in top(sink.connection(), count)? {
        write_word(&mut out, count, &word)?;
    }
    Ok(out.flush()?)
}

fn direct(files: &[&str]) -> Result<()> {
    let mut counts = Counts::default();
    for file in files {
        let mut lines = BufReader::new(std::fs::File::open(file)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            counts.add(&line);
            line.clear();
        }
    }
    let mut out = BufWriter::new(stdout().lock());
    for (word, count) in counts.top() {
        write_word(&mut out, count, word)?;
    }
    Ok(out.flush()?)
}

fn write_word(out: &mut impl Write, count: i64, word: &[u8]) -> Result<()> {
    write!(out, "{count}\t")?;
    out.write_all(word)?;
    Ok(out.write_all(b"\n")?)
}
