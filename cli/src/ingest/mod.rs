//! `seawall ingest`: every line (or block) of a file becomes a durable record, once, however often the command is
//! killed on the way.
//!
//! A record carries its source's name and its offset ([`crate::envelope`]), so the log itself is the bookmark: a run
//! goes on behind the last record of its source, and nothing else has to be kept in step with the log.

mod flight;
mod resume;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use seawall::{Log, Lsn};

use crate::Global;
use crate::envelope::{Head, SOURCE_BYTES_MAX, Unit};
use crate::exit::{Ending, Failure, InLog};
use crate::interrupt::Interrupt;
use crate::open::{self, LogDir};
use crate::source::{Cut, Input, Pieces, Report, Run};
use flight::Flights;
use resume::Last;

/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for a stream's next bytes before looking whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Records between two looks at the clock while input is at hand.
const LOOK_TURNS: u64 = 64;

/// Append every line or block of a file, durably
///
/// Each line becomes one record that carries the source's name and the line's offset. After a crash or kill, run the
/// same command again: it goes on behind the last durable record, so that each byte is in the log exactly once. Works
/// with standard input too, when the same bytes are sent again: those that are durable already are skipped.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// The file to append; `-` is standard input.
    file: PathBuf,
    /// One record per line, its newline included (the default).
    #[arg(long, conflicts_with = "block")]
    lines: bool,
    /// One record per so many bytes ("64 KiB") instead.
    #[arg(long, value_name = "SIZE")]
    block: Option<ByteSize>,
    /// Records on their way to the device at the same time.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    outstanding: u32,
    /// The source's name in the log; by default the file's name without its directory, or "stdin".
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Begin a source that the log does not hold (or holds no more, after a trim) at this offset instead of 0.
    #[arg(long, value_name = "BYTES")]
    offset: Option<u64>,
    /// When the input ends, close the source: a record says that nothing follows, and later runs append nothing.
    #[arg(long)]
    close: bool,
    /// How often to say on standard output what is durable.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    report_every: Duration,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let interrupt = Interrupt::watch().map_err(|e| Failure::Usage(format!("signals cannot be watched: {e}")))?;
    let input = Input::open(&args.file, &interrupt)?;
    let config = open::config(global)?;
    let plan = Plan::new(args, config.record_bytes_max)?;
    let (log, recovery) = open::writable(&args.log.dir, config)?;
    open::tell_recovery(&recovery);
    let ended = Ingest { args, global, log: &log, plan, input, interrupt }.run();
    let closed = log.close(CLOSE_WITHIN).in_log(&args.log.dir);
    // What went wrong first says more than what the close makes of it.
    ended.and_then(|ending| closed.map(|()| ending))
}

/// What the arguments come to.
struct Plan {
    source: String,
    head: Head,
    cut: Cut,
    piece_bytes_max: usize,
}

impl Plan {
    fn new(args: &Args, record_bytes_max: u64) -> Result<Plan, Failure> {
        let source = args.source.clone().map_or_else(|| Input::source_name(&args.file), Ok)?;
        let head = Head::new(&source).ok_or_else(|| {
            Failure::Usage(format!(
                "a source's name has 1 to {SOURCE_BYTES_MAX} bytes, {source:?} has {}",
                source.len()
            ))
        })?;
        let piece_bytes_max = record_bytes_max.saturating_sub(head.bytes() as u64);
        if piece_bytes_max == 0 {
            let what = format!("record_bytes_max is {record_bytes_max}, an envelope alone has {} bytes", head.bytes());
            return Err(Failure::Usage(what));
        }
        let cut = match args.block {
            None => Cut::Lines,
            Some(ByteSize(bytes)) if (1..=piece_bytes_max).contains(&bytes) => Cut::Blocks(bytes as usize),
            Some(ByteSize(bytes)) => {
                return Err(Failure::Usage(format!(
                    "--block is {bytes} bytes, must be within 1 and {piece_bytes_max}"
                )));
            }
        };
        Ok(Plan { source, head, cut, piece_bytes_max: piece_bytes_max as usize })
    }
}

/// Where a run begins.
enum Begin {
    At(Lsn, u64),
    /// The source was closed there: nothing is left to do.
    Closed(Lsn, u64),
}

struct Ingest<'a> {
    args: &'a Args,
    global: &'a Global,
    log: &'a Log,
    plan: Plan,
    input: Input,
    interrupt: Interrupt,
}

impl Ingest<'_> {
    fn run(mut self) -> Result<Ending, Failure> {
        let last = resume::find_last(self.log, &self.args.log, &self.plan.source, self.global)?;
        let begin = self.begin(last.as_ref())?;
        let (Begin::At(lsn, offset) | Begin::Closed(lsn, offset)) = begin;
        let mut flights = Flights::new(self.log, self.args.outstanding as usize, offset, lsn);
        let mut report = Report::new("ingest", self.input.length(), self.args.report_every, self.global);
        report.start(&self.plan.source, flights.durable(), last.is_none());
        // It may be a map of a segment, which cannot be used again while we hold it.
        drop(last);
        if let Begin::Closed(..) = begin {
            report.end("closed already", &flights);
            return Ok(Ending::Done);
        }
        let pumped = self.pump(&mut flights, &mut report, offset);
        // Whatever ended it, what is on its way arrives and counts.
        let settled = flights.settle_all().in_log(&self.args.log.dir);
        let mut ended = pumped.and_then(|ending| settled.map(|()| ending));
        if self.args.close && matches!(ended, Ok(Ending::Done)) {
            let offset = flights.durable().offset;
            let closed = flights.append(self.plan.head.before(Unit::End, offset, &[]), &[], offset);
            ended = closed.and_then(|()| flights.settle_all()).in_log(&self.args.log.dir).map(|()| Ending::Done);
        }
        let outcome = match &ended {
            Ok(Ending::Interrupted) => "interrupted",
            Ok(_) => "complete",
            Err(_) => "failed",
        };
        report.end(outcome, &flights);
        ended
    }

    /// Moves the input to where this run begins.
    fn begin(&mut self, last: Option<&Last>) -> Result<Begin, Failure> {
        if let Some(last) = last {
            return Ok(match resume::take_up(&mut self.input, last)? {
                Some(offset) => Begin::At(last.lsn, offset),
                None => Begin::Closed(last.lsn, last.envelope().offset),
            });
        }
        let (what, source, first) = (self.input.describe(), &self.plan.source, self.log.first());
        if first > Lsn::FIRST && self.args.offset.is_none() {
            return Err(Failure::Refused(format!(
                "the log holds no record of source {source:?}, but its frames before {first} were trimmed: say with \
                 --offset where {what} is to begin (0 when it is new)"
            )));
        }
        let offset = self.args.offset.unwrap_or(0);
        let reached = self.input.skip_to(offset)?;
        if reached < offset {
            return Err(Failure::Refused(format!("{what} has {reached} bytes, it cannot begin at offset {offset}")));
        }
        Ok(Begin::At(Lsn::ZERO, offset))
    }

    /// Appends until the input ends or somebody wants an end.
    fn pump(&mut self, flights: &mut Flights<'_>, report: &mut Report, offset: u64) -> Result<Ending, Failure> {
        let Plan { cut, piece_bytes_max, .. } = self.plan;
        let unit = if cut == Cut::Lines { Unit::Line } else { Unit::Block };
        let mut pieces = Pieces::new(cut, piece_bytes_max, offset);
        for turn in 1_u64.. {
            if turn.is_multiple_of(LOOK_TURNS) {
                report.tick(flights, Instant::now());
            }
            if self.interrupt.is_asked() {
                return Ok(Ending::Interrupted);
            }
            if let Some(piece) = pieces.next() {
                let head = self.plan.head.before(unit, piece.offset, piece.data);
                flights.append(head, piece.data, piece.end()).in_log(&self.args.log.dir)?;
            } else if pieces.is_done() {
                break;
            } else if self.await_input(flights, report)? {
                self.input.fill(&mut pieces)?;
            }
        }
        Ok(Ending::Done)
    }

    /// Waits for a stream's next bytes; what is in flight is not kept waiting for them. False: look again.
    fn await_input(&self, flights: &mut Flights<'_>, report: &mut Report) -> Result<bool, Failure> {
        let patience = if flights.is_empty() { LOOK_EVERY } else { Duration::ZERO };
        if self.input.wait_ready(patience)? {
            return Ok(true);
        }
        flights.settle().in_log(&self.args.log.dir)?;
        report.tick(flights, Instant::now());
        Ok(false)
    }
}
