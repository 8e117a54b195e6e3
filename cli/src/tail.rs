//! `seawall tail`: the newest records, and those that come.
//!
//! The log may be another process's. A read-only open shows what that process has proven; following it is opening
//! again, a few times a second, and going on behind what was printed.

use std::path::Path;
use std::time::{Duration, Instant};

use seawall::{Error, Log, LogId, Lsn, LsnRange};

use crate::Global;
use crate::dump::parse_lsn;
use crate::exit::{Ending, Failure};
use crate::open::{self, LogDir};
use crate::output::{Out, tell};
use crate::show::{Columns, Show};
use crate::walk::{Met, Walk};

/// Opening takes at most this share of the time: the unsealed tail is read each time, and the device has other work.
const OPEN_SHARE: u32 = 10;

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
    /// Go on for ever: print records as they become durable. Waits for the log if there is none yet.
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
    let mut tail = Tail { dir: &args.log.dir, show, out: Out::new(), next: args.from, id: None, ending: Ending::Done };
    let mut waiting = false;
    loop {
        let began = Instant::now();
        match open::read_only(tail.dir, global) {
            Ok((log, recovery)) => {
                let open_time = began.elapsed();
                tail.print(&log, args, global)?;
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
        for met in Walk::read_only(log, self.dir, LsnRange::inclusive(first, log.flushed()), global) {
            let (next, what) = match met? {
                Met::Frame(frame) => {
                    self.show.frame(&frame, &mut self.out)?;
                    self.next = Some(frame.lsn.next());
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
}
