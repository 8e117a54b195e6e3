//! `seawall send`: a file's lines (or blocks) go to a receiver, each durable there once, however often either end is
//! killed on the way.
//!
//! A record's sequence is the offset behind its last byte, so the receiver's own memory is the bookmark: a run asks where
//! the source stands, and goes on there.

mod files;
mod tracker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use seawall::net::{ClientTls, Pem};
use seawall::node::{Client, ClientConfig, ClientError, ClientStatus, Disconnect, LinkStatus};
use seawall::receiver::{Lost, OutboxConfig, OutboxError, Reject, Sequences, WaitFor};
use seawall::{Secret, Seq, SourceId};
use tokio::runtime::{Builder, Runtime};

use crate::Global;
use crate::exit::{Ending, Failure};
use crate::interrupt::Interrupt;
use crate::output::tell;
use crate::source::{Cut, Input, Pieces, Report};
use files::Job;
use tracker::Tracker;

/// How long to wait for a stream's next bytes, or for acknowledgments, before looking whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a goodbye may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Records between two looks at the clock while input is at hand.
const LOOK_TURNS: u64 = 64;
/// A piece is at most this long, whatever the receiver takes: one that takes less refuses or rejects it.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Send a file's lines or blocks to a receiver, each durable there once
///
/// Each line becomes one record, whose sequence is the offset behind it. After a crash or kill of either end, run the
/// same command again: it goes on where the receiver says, so that each byte is in its stream exactly once. Works with
/// standard input too, when the same bytes are sent again. Of a directory every file, or link to one, is a source of its own,
/// called NAME/path; links to directories and what else is no file are left out, and told.
///
/// A source is known by its name, the file's without its directory unless --source says another: what lies before the
/// offset at which a run goes on is not looked at. Another file of that name, or one that was written anew, is taken for
/// the rest of the first. Lines of more than 1 MiB are cut into records of that length; --block says how long records are
/// instead, up to as much.
///
/// What the receiver rejects, and keeps outside the data, is told by the run that hears of it, with the exit code for that,
/// and by no later run of the same file. `seawall verify` of the receiver's log lists what it keeps so.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The file or directory to send; `-` is standard input.
    file: PathBuf,
    /// The receiver, host:port; may be given again for others to try.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7311")]
    to: Vec<String>,
    /// The stream's name; by default the receiver's only one.
    #[arg(long, value_name = "NAME", default_value = "")]
    stream: String,
    /// The source's name, kept through restarts; by default the file's without its directory, or "stdin".
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// One record per line, its newline included (the default).
    #[arg(long, conflicts_with = "block")]
    lines: bool,
    /// One record per so many bytes ("64 KiB") instead.
    #[arg(long, value_name = "SIZE")]
    block: Option<ByteSize>,
    /// What counts as done: durable, committed (in a batch), or received: in the receiver's memory, may be lost with it.
    /// What was lost while this command could see it is told, never called durable, and gives the exit code for it.
    #[arg(long, value_enum, default_value_t = Wait::Durable)]
    wait: Wait,
    /// Bytes sent and not acknowledged, at most.
    #[arg(long, value_name = "SIZE", default_value = "16 MiB")]
    outstanding: ByteSize,
    /// Give up when the receiver was not reached for so long, at the beginning or since its connection was lost; by
    /// default never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    give_up_after: Option<Duration>,
    /// How often to say on standard output what is durable.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    report_every: Duration,
    #[command(flatten)]
    trust: Trust,
}

/// How the two ends know each other.
#[derive(clap::Args, Debug)]
struct Trust {
    /// Encrypt, and trust receivers whose certificate these authorities signed (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate (PEM).
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Expect this name in the receiver's certificate instead of the address's.
    #[arg(long, value_name = "NAME", requires = "ca")]
    server_name: Option<String>,
    /// Show the token that this file holds.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send unencrypted to other machines, the token included.
    #[arg(long)]
    plaintext_beyond_loopback: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Wait {
    Received,
    Durable,
    Committed,
}

impl Wait {
    fn watermark(self) -> WaitFor {
        match self {
            Wait::Received => WaitFor::Received,
            Wait::Durable => WaitFor::Durable,
            Wait::Committed => WaitFor::Committed,
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let interrupt = Interrupt::watch().map_err(|e| Failure::Usage(format!("signals cannot be watched: {e}")))?;
    let cut = match args.block {
        None => Cut::Lines,
        Some(ByteSize(bytes)) if (1..=PIECE_BYTES_MAX as u64).contains(&bytes) => Cut::Blocks(bytes as usize),
        Some(ByteSize(bytes)) => {
            return Err(Failure::Usage(format!("--block is {bytes} bytes, must be within 1 and {PIECE_BYTES_MAX}")));
        }
    };
    let tls = args.trust.tls()?;
    let token = args.trust.token()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::Usage(format!("no threads to be had: {e}")))?;
    let mut ending = Ending::Done;
    let mut left_out = Vec::new();
    let jobs = files::jobs(&args.file, args.source.as_deref(), &mut left_out)?;
    let is_one = jobs.len() == 1 && left_out.is_empty();
    for job in jobs {
        let outbox = OutboxConfig {
            source: Some(job.source.clone()),
            stream: args.stream.clone(),
            token: token.clone(),
            sequences: Sequences::Sparse,
            wait_for: args.wait.watermark(),
            held_bytes_max: args.outstanding.0.max(1),
            ..OutboxConfig::default()
        };
        let config = ClientConfig {
            addresses: args.to.clone(),
            tls: tls.clone(),
            plaintext_beyond_loopback: args.trust.plaintext_beyond_loopback,
            ..ClientConfig::new(String::new(), outbox)
        };
        match (Sending { args, global, runtime: &runtime, interrupt: &interrupt, cut }).run(job, config) {
            Ok(Ending::Done) => {}
            // What was lost or rejected of one file is no reason to keep back the others.
            Ok(Ending::BrokenSequence) => ending = Ending::BrokenSequence,
            Ok(Ending::Rejected) if ending == Ending::Done => ending = Ending::Rejected,
            Ok(Ending::Rejected) => {}
            Ok(ended) => return Ok(ended),
            // Nor is a file that cannot be read, or is not what was sent before under its name.
            Err(failure @ (Failure::File { .. } | Failure::Refused(_))) if !is_one => {
                tell(format_args!("{failure}"));
                left_out.push(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    match left_out.into_iter().map(|failure| failure.code()).reduce(|worst, code| worst.max(code)) {
        Some(code) => Err(Failure::LeftOut { code }),
        None => Ok(ending),
    }
}

impl Trust {
    fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let ca = Pem::File(ca.clone());
        let tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                ClientTls::with_certificate(&ca, &Pem::File(cert.clone()), &Pem::File(key.clone()))
            }
            _ => ClientTls::new(&ca),
        };
        let usage = |e| Failure::Usage(format!("{e}"));
        let tls = tls.map_err(usage)?;
        let tls = match &self.server_name {
            Some(name) => tls.expecting(name).map_err(usage)?,
            None => tls,
        };
        Ok(Some(tls))
    }

    fn token(&self) -> Result<Secret, Failure> {
        let Some(file) = &self.token_file else { return Ok(Secret::default()) };
        let text = std::fs::read_to_string(file).map_err(|e| Failure::file("read", file, e))?;
        Ok(Secret::new(text.trim_end()))
    }
}

struct Sending<'a> {
    args: &'a Args,
    global: &'a Global,
    runtime: &'a Runtime,
    interrupt: &'a Interrupt,
    cut: Cut,
}

impl Sending<'_> {
    fn run(&self, job: Job, config: ClientConfig) -> Result<Ending, Failure> {
        let mut input = Input::open(&job.path, self.interrupt)?;
        let _context = self.runtime.enter();
        let client = Client::connect(config).map_err(|error| match error {
            ClientError::Config { field: "addresses", problem } => Failure::Usage(format!("--to {problem}")),
            error => receiver_failure(&error),
        })?;
        let mut reach = Reach::new(Instant::now());
        let Some(resume) = self.resume(&client, &mut reach)? else { return Ok(Ending::Interrupted) };
        let offset = resume.get();
        self.take_up(&mut input, offset, &job.source)?;
        let mut report = Report::new("send", input.length(), self.args.report_every, self.global);
        let tracker = Tracker::start(self.runtime, &client, offset, self.args.wait.watermark());
        report.start(&job.source.to_string(), crate::source::Run::durable(&tracker), offset == 0);
        let mut under_way = UnderWay { tracker, report, told: Told::default(), reach };
        let pumped = self.pump(&client, &mut input, &mut under_way, offset);
        // Whatever ended it, what is on its way may still arrive, and counts.
        let settled = match &pumped {
            Ok(ending) => self.settle(&client, &mut under_way, *ending),
            Err(_) => Ok(Ending::Done),
        };
        let ended =
            pumped.and_then(|ending| settled.map(|settled| if ending == Ending::Done { settled } else { ending }));
        let UnderWay { mut tracker, mut report, mut told, .. } = under_way;
        told.hear(&client, &mut report);
        let positions = client.watch();
        // Says goodbye, and that the rejects were taken note of.
        let _ = self.runtime.block_on(client.close(CLOSE_WITHIN));
        // Also what was heard on the way out.
        let positions = *positions.borrow();
        tracker.note(&positions, self.args.wait.watermark());
        tracker.catch_up();
        told.lost(positions.lost, &mut report);
        let outcome = match &ended {
            Ok(Ending::Interrupted) => "interrupted",
            Ok(_) if told.lost_to > Seq::ZERO || told.rejected > 0 => "incomplete",
            Ok(_) => "complete",
            Err(_) => "failed",
        };
        report.end(outcome, &tracker);
        if told.rejected > 0 {
            let what = input.describe();
            let count = told.rejected;
            tell(format_args!(
                "{count} records of {what} were rejected by the receiver, and are kept there outside the data"
            ));
        }
        match ended {
            Ok(Ending::Done) if told.lost_to > Seq::ZERO => Ok(Ending::BrokenSequence),
            Ok(Ending::Done) if told.rejected > 0 => Ok(Ending::Rejected),
            ended => ended,
        }
    }

    /// Waits for the receiver to say where the source stands; `None`: interrupted.
    fn resume(&self, client: &Client, reach: &mut Reach) -> Result<Option<Seq>, Failure> {
        loop {
            let waited = self.runtime.block_on(async { tokio::time::timeout(LOOK_EVERY, client.resume()).await });
            match waited {
                Ok(resume) => return resume.map(Some).map_err(|e| receiver_failure(&e)),
                Err(_) if self.interrupt.is_asked() => return Ok(None),
                Err(_) => {
                    self.check_plaintext(client)?;
                    reach.look(&client.status().borrow(), self.args.give_up_after, Instant::now())?;
                }
            }
        }
    }

    /// What this command was not allowed to do will not be allowed at the next attempt either; another address may do.
    fn check_plaintext(&self, client: &Client) -> Result<(), Failure> {
        match &client.status().borrow().last_disconnect {
            Some(Disconnect::Plaintext { address }) if self.args.to.len() == 1 => Err(Failure::Usage(format!(
                "{address} is not on this machine, and what is sent would not be encrypted: give --ca for TLS, or \
                 --plaintext-beyond-loopback"
            ))),
            _ => Ok(()),
        }
    }

    /// Moves the input to where the receiver has it.
    fn take_up(&self, input: &mut Input, offset: u64, source: &SourceId) -> Result<(), Failure> {
        if offset == 0 {
            return Ok(());
        }
        let what = input.describe();
        let refused = |why: String| {
            Err(Failure::Refused(format!(
                "the receiver has {offset} bytes of source {source:?}, {why}: give another --source if {what} is another \
                 source"
            )))
        };
        let reached = input.skip_to(offset - 1)?;
        if reached < offset - 1 {
            return refused(format!("but {what} has {reached}"));
        }
        let is_at_end = input.length() == Some(offset);
        let mut last = [0];
        let read = input.read_next(&mut last)?;
        if read == 0 {
            return refused(format!("but {what} has {reached}"));
        }
        if self.cut == Cut::Lines && last != *b"\n" && !is_at_end {
            tell(format_args!(
                "{what} has no line end at offset {offset}, where the receiver goes on: a long line, or another file"
            ));
        }
        Ok(())
    }

    /// Sends until the input ends or somebody wants an end.
    fn pump(
        &self,
        client: &Client,
        input: &mut Input,
        under_way: &mut UnderWay,
        offset: u64,
    ) -> Result<Ending, Failure> {
        let mut pieces = Pieces::new(self.cut, PIECE_BYTES_MAX, offset);
        for turn in 1_u64.. {
            if turn.is_multiple_of(LOOK_TURNS) {
                self.look(client, under_way)?;
            }
            if self.interrupt.is_asked() {
                return Ok(Ending::Interrupted);
            }
            if let Some(piece) = pieces.next() {
                let (seq, record) = (Seq::new(piece.end()), Bytes::copy_from_slice(piece.data));
                under_way.tracker.sent(seq);
                let failed = |error: ClientError| push_failure(&error, input, seq, &record);
                while !self.push(client, seq, &record).map_err(failed)? {
                    self.look(client, under_way)?;
                    if self.interrupt.is_asked() {
                        return Ok(Ending::Interrupted);
                    }
                }
            } else if pieces.is_done() {
                break;
            } else if input.wait_ready(LOOK_EVERY)? {
                input.fill(&mut pieces)?;
            } else {
                self.look(client, under_way)?;
            }
        }
        Ok(Ending::Done)
    }

    /// Tells what has come of what is under way, and gives up when that is due.
    fn look(&self, client: &Client, under_way: &mut UnderWay) -> Result<(), Failure> {
        let UnderWay { tracker, report, told, reach } = under_way;
        let now = Instant::now();
        tracker.catch_up();
        told.hear(client, report);
        report.tick(tracker, now);
        reach.look(&client.status().borrow(), self.args.give_up_after, now)
    }

    /// Gives a record to the client; false when there was no room for a while.
    fn push(&self, client: &Client, seq: Seq, record: &Bytes) -> Result<bool, ClientError> {
        match client.try_push_at(seq, record.clone()) {
            Ok(ticket) => {
                // The watermark says it, for all records at once.
                drop(ticket);
                return Ok(true);
            }
            Err(ClientError::Outbox(OutboxError::Full { .. })) => {}
            Err(error) => return Err(error),
        }
        let pushed = self
            .runtime
            .block_on(async { tokio::time::timeout(LOOK_EVERY, client.push_at(seq, record.clone())).await });
        match pushed {
            Ok(Ok(ticket)) => {
                drop(ticket);
                Ok(true)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Waits for what is on its way. Interrupted, only for what comes at once.
    fn settle(&self, client: &Client, under_way: &mut UnderWay, ending: Ending) -> Result<Ending, Failure> {
        loop {
            let flushed = self.runtime.block_on(async { tokio::time::timeout(LOOK_EVERY, client.flush()).await });
            if let Ok(result) = flushed {
                return result.map(|_| ending).map_err(|e| receiver_failure(&e));
            }
            self.look(client, under_way)?;
            if self.interrupt.is_asked() {
                return Ok(Ending::Interrupted);
            }
        }
    }
}

/// What is known of records that were given to the client.
struct UnderWay {
    tracker: Tracker,
    report: Report,
    told: Told,
    reach: Reach,
}

/// Whether the receiver is reached, as of the last look.
struct Reach {
    /// When it was last seen to be, or the beginning.
    seen: Instant,
    welcomes: u64,
    disconnects: u64,
}

impl Reach {
    fn new(now: Instant) -> Reach {
        Reach { seen: now, welcomes: 0, disconnects: 0 }
    }

    /// Tells when it is not, and gives up when that has lasted too long.
    fn look(&mut self, status: &ClientStatus, give_up_after: Option<Duration>, now: Instant) -> Result<(), Failure> {
        // Whoever waits for more input would not hear of it.
        if let LinkStatus::Ended { cause } = &status.link {
            return Err(receiver_failure(cause));
        }
        let is_connected = matches!(status.link, LinkStatus::Connected { .. });
        // Also for a moment between two looks.
        if is_connected || status.welcomes > self.welcomes {
            (self.seen, self.welcomes) = (now, status.welcomes);
        }
        let why = || status.last_disconnect.as_ref().map_or_else(|| "no answer yet".to_owned(), ToString::to_string);
        if give_up_after.is_some_and(|limit| !is_connected && now.saturating_duration_since(self.seen) >= limit) {
            return Err(Failure::Receiver(format!("not reached within the time given: {}", why())));
        }
        if status.disconnects > self.disconnects {
            self.disconnects = status.disconnects;
            tell(format_args!("the receiver is not reached ({}); trying again", why()));
        }
        Ok(())
    }
}

/// What was told of records that are not where they were sent.
#[derive(Clone, Copy, Default)]
struct Told {
    /// Records that the receiver keeps as rejects.
    rejected: u64,
    /// The last record that was lost with the receiver's memory.
    lost_to: Seq,
}

impl Told {
    /// Tells of what was rejected or lost since.
    fn hear(&mut self, client: &Client, report: &mut Report) {
        for Reject { seq, bytes, reason } in client.take_rejects() {
            self.rejected += 1;
            tell(format_args!("the receiver rejected the record of {bytes} bytes up to offset {seq} ({reason:?})"));
        }
        client.take_lost().into_iter().for_each(|lost| self.lost(Some(lost), report));
    }

    /// Tells of what is lost and was not told yet.
    fn lost(&mut self, lost: Option<Lost>, report: &mut Report) {
        if let Some(Lost { previous, to }) = lost
            && to > self.lost_to
        {
            report.lost(previous.max(self.lost_to).get(), to.get());
            self.lost_to = to;
        }
    }
}

/// What became of the record before `seq`: whose it is, where it cannot be sent as it is.
fn push_failure(error: &ClientError, input: &Input, seq: Seq, record: &Bytes) -> Failure {
    match error {
        ClientError::Outbox(OutboxError::TooLarge { limit_bytes, .. }) => Failure::Receiver(format!(
            "{error}, and {} has that one at offset {}: give --block {limit_bytes} for records of that length at most",
            input.describe(),
            seq.get().saturating_sub(record.len() as u64)
        )),
        error => receiver_failure(error),
    }
}

fn receiver_failure(error: &ClientError) -> Failure {
    Failure::Receiver(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(link: LinkStatus, welcomes: u64) -> ClientStatus {
        ClientStatus { link, welcomes, disconnects: 0, last_disconnect: None }
    }

    /// A run that had lasted as long gave up at the first loss of its connection.
    #[test]
    fn patience_begins_when_the_receiver_is_lost() {
        const SECOND: Duration = Duration::from_secs(1);
        let began = Instant::now();
        let mut reach = Reach::new(began);
        let connected = |welcomes| status(LinkStatus::Connected { address: String::new() }, welcomes);
        let waiting = |welcomes| status(LinkStatus::Waiting { next_try: began }, welcomes);
        let mut gives_up =
            |status: &ClientStatus, after: u32| reach.look(status, Some(10 * SECOND), began + after * SECOND).is_err();
        assert!(!gives_up(&waiting(0), 9));
        assert!(!gives_up(&connected(1), 100));
        assert!(!gives_up(&waiting(1), 109));
        // It was there between two looks.
        assert!(!gives_up(&waiting(2), 115));
        assert!(!gives_up(&waiting(2), 124));
        assert!(gives_up(&waiting(2), 125));
    }
}
