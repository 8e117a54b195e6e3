//! `seawall tail`: the newest records, and those that come.
//!
//! The log may be another process's. A read-only open shows what that process has proven; following it is opening
//! again, a few times a second, and going on behind what was printed.
//!
//! Its writer may truncate it meanwhile and give the numbers to other records. The chain tells: what was read is in the
//! log as long as the last frame's chain is.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use seawall::{Chain, Error, Log, LogId, Lsn, LsnRange, Recovery};

use crate::Global;
use crate::dump::parse_lsn;
use crate::exit::{Ending, Failure};
use crate::open::{self, LogDir};
use crate::output::{Out, tell};
use crate::show::{Columns, Show};
use crate::walk::{Met, Walk};

/// Opening takes at most this share of the time: the unsealed tail is read each time, and the device has other work.
const OPEN_SHARE: u32 = 10;

/// Frames whose chains are remembered: a truncation that goes back further is told from there on.
const REMEMBERED_FRAMES_MAX: usize = 65_536;

/// Print the newest records, and with --follow those that come
///
/// Records that were ingested or sent print as their lines. A record shows up once its writer has proven it durable: at once under
/// load, 100 ms after the last one otherwise.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// Begin with this frame.
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    from: Option<Lsn>,
    /// Begin with the last N frames.
    #[arg(short = 'n', long = "frames", value_name = "N", default_value_t = 10, conflicts_with = "from")]
    frames: u64,
    /// Go on for ever: print records as they become durable. Waits for the log if there is none yet; where it is
    /// truncated, says so and goes on with what is appended instead.
    #[arg(long, short)]
    follow: bool,
    /// How often to look for new records.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Records of this source only, ingested or received.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let show = Show { format: global.format, columns: Columns::None, source: args.source.as_deref() };
    let mut tail = Tail {
        dir: &args.log.dir,
        show,
        out: Out::new(),
        next: args.from,
        known: VecDeque::new(),
        id: None,
        ending: Ending::Done,
    };
    let (mut waiting, mut failed_at) = (false, None);
    loop {
        let began = Instant::now();
        match open::read_only(tail.dir, global) {
            Ok((log, recovery)) => {
                tail.look_for_truncation(&log, &recovery)?;
                let open_time = began.elapsed();
                match tail.print(&log, args, global) {
                    Ok(()) => failed_at = None,
                    // Its writer may have removed what was being read. The next look tells.
                    Err(Failure::Log { .. }) if args.follow && failed_at != Some(tail.next) => {
                        failed_at = Some(tail.next)
                    }
                    Err(failure) => return Err(failure),
                }
                drop(log);
                if !args.follow {
                    return Ok(if open::tell_damaged_end(&recovery) { Ending::Damage } else { tail.ending });
                }
                std::thread::sleep(args.every.max(open_time * OPEN_SHARE));
            }
            Err(Failure::Log { source: Error::NotALog { .. }, .. }) if args.follow => {
                if !std::mem::replace(&mut waiting, true) {
                    tell(format_args!("{} holds no log yet, waiting for one", tail.dir.display()));
                }
                std::thread::sleep(args.every);
            }
            Err(failure) => return Err(failure),
        }
    }
}

struct Tail<'a> {
    dir: &'a Path,
    show: Show<'a>,
    out: Out,
    /// The frame to print next, once that is known.
    next: Option<Lsn>,
    /// The chains at the newest frames that were read, and before the first of them.
    known: VecDeque<(Lsn, Chain)>,
    id: Option<LogId>,
    ending: Ending,
}

impl Tail<'_> {
    /// Prints what is there and was not printed yet.
    fn print(&mut self, log: &Log, args: &Args, global: &Global) -> Result<(), Failure> {
        if *self.id.get_or_insert(log.id()) != log.id() {
            return Err(Failure::Usage(format!("{} holds another log now: {}", self.dir.display(), log.id())));
        }
        let newest = Lsn::new((log.flushed().get() + 1).saturating_sub(args.frames));
        let first = *self.next.get_or_insert(newest.max(log.first()));
        if args.follow
            && self.known.is_empty()
            && let Ok(chain) = log.chain_at(first.previous())
        {
            self.remember(first.previous(), chain);
        }
        for met in Walk::read_only(log, self.dir, LsnRange::inclusive(first, log.flushed()), global) {
            let (next, what) = match met? {
                Met::Frame(frame) => {
                    self.show.frame(&frame, &mut self.out)?;
                    self.next = Some(frame.lsn.next());
                    self.remember(frame.lsn, frame.chain);
                    continue;
                }
                Met::Damage(lsns, error) => {
                    self.ending = Ending::Damage;
                    (lsns.end, format!("frames {lsns} cannot be read: {error}"))
                }
                Met::SetAside(lsns) => (lsns.end, format!("frames {lsns} are quarantined and left out")),
                Met::Trimmed(lsns) => (lsns.end, format!("frames {lsns} were trimmed before they were printed")),
            };
            // In order with what went before it, where both go to one terminal.
            self.out.flush()?;
            tell(what);
            self.next = Some(next);
        }
        self.out.flush()
    }

    fn remember(&mut self, lsn: Lsn, chain: Chain) {
        if self.known.len() == REMEMBERED_FRAMES_MAX {
            self.known.pop_front();
        }
        self.known.push_back((lsn, chain));
    }

    /// Goes back to where the log was truncated since the last look, and says so.
    fn look_for_truncation(&mut self, log: &Log, recovery: &Recovery) -> Result<(), Failure> {
        // Damage hides frames that are still the log's.
        if log.id() != *self.id.get_or_insert(log.id()) || !recovery.damage.is_empty() {
            return Ok(());
        }
        let (Some(end), Some(last)) = (self.next, self.known.back()) else { return Ok(()) };
        // Nothing came: no frame is read for that.
        if (recovery.end, recovery.chain) == *last && recovery.end == log.flushed() && end == last.0.next() {
            return Ok(());
        }
        // A chain that cannot be read tells nothing: the next one does. Beside a writer that has just come what was shown before
        // may have no proof for a moment, and is there.
        let is_gone = |at: usize| {
            let told = self.known.iter().skip(at).find_map(|&(lsn, chain)| match lsn > recovery.end {
                true => Some(true),
                false => log.chain_at(lsn).ok().map(|now| now != chain),
            });
            told.unwrap_or(false)
        };
        let known = self.known.len();
        // What was stepped over may have been cut as well.
        if !is_gone(known - 1) && end.previous() <= recovery.end {
            return Ok(());
        }
        let (mut kept, mut gone) = (0, known);
        while kept < gone {
            let middle = usize::midpoint(kept, gone);
            if is_gone(middle) {
                gone = middle;
            } else {
                kept = middle + 1;
            }
        }
        let next = match kept.checked_sub(1) {
            Some(at) => self.known[at].0.next(),
            None => self.known[0].0.min(recovery.end.next()),
        };
        self.known.truncate(kept);
        self.next = Some(next);
        self.out.flush()?;
        tell(format_args!("frames {} were truncated, going on with frame {next}", LsnRange::new(next, end)));
        Ok(())
    }
}
