//! `seawall receive`: a receiver on sockets. Records of any number of sources become durable in one stream, and only
//! then are acknowledged.

mod doors;
mod say;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seawall::node::{Driver, Receiver, ReceiverError, Server, ServerConfig, run_loop};
use seawall::storage::{self, DriverConfig};
use seawall::{Config, Log, Recovery};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Global;
use crate::exit::{Ending, Failure, InLog};
use crate::interrupt::Interrupt;
use crate::open::{self, LogDir};
use crate::output::{Format, Out, tell};
use doors::Doors;
use say::Say;
use settings::Settings;

/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Receive records from sources, and acknowledge each when it is durable
///
/// Listens for the Seawall protocol (`seawall send` and the client library speak it). Ends in good order on Ctrl-C or
/// SIGTERM: sources are asked to finish. After a crash or kill, run the same command again: sources resume by themselves.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogDir,
    /// Listen here; may be given again. Beyond loopback TLS is needed.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Also take records over HTTP here: POST /v1/streams/NAME. With --cert within TLS; without, this machine only, unless
    /// plaintext is allowed.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Also take plain lines over TCP here, of 64 KiB or one longest record at most; nothing is answered. With --cert within
    /// TLS; without, this machine only, unless plaintext is allowed.
    #[arg(long, value_name = "ADDRESS")]
    lines: Option<SocketAddr>,
    /// Tell here how it goes: /metrics, /livez, /readyz, /v1/status. This machine only, unless plaintext is allowed.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The stream's name.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Show this certificate (PEM), and speak TLS 1.3 only.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Ask sources for a certificate that these authorities signed (PEM), in their own name.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Believe sources that show the token this file holds.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen unencrypted where other machines can connect.
    #[arg(long)]
    plaintext_beyond_loopback: bool,
    /// Print the whole configuration, and where each value comes from; do nothing else.
    #[arg(long)]
    explain_config: bool,
    /// How often to say on standard output how it goes; by default never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    report_every: Option<Duration>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Ending, Failure> {
    let (settings, origins) = settings::read(args, global)?;
    if args.explain_config {
        let mut out = Out::new();
        match global.format {
            Format::Json => out.json(&settings)?,
            _ => out.line(settings::explain(&settings, &origins)?)?,
        }
        out.flush()?;
        return Ok(Ending::Done);
    }
    let interrupt = Interrupt::watch().map_err(|e| Failure::Usage(format!("signals cannot be watched: {e}")))?;
    let server = settings.server()?;
    settings.check_log()?;
    // One may be held up by a device that hangs.
    let workers = std::thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2));
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Usage(format!("no threads to be had: {e}")))?;
    // Open before the log is: whoever asks is told how far its opening has come.
    let doors = Doors::open(&settings, &runtime)?;
    let receiving = Receiving { args, global, settings, interrupt };
    let opened = receiving.open_log(&runtime, &doors);
    let (log, recovery) = opened.inspect_err(|failure| doors.admin.failed(failure))?;
    open::tell_recovery(&recovery);
    let ended = receiving.run(&runtime, doors, &log, &recovery, server);
    let closed = log.close(CLOSE_WITHIN).in_log(&args.log.dir);
    ended.and_then(|ending| closed.map(|()| ending))
}

struct Receiving<'a> {
    args: &'a Args,
    global: &'a Global,
    settings: Settings,
    interrupt: Interrupt,
}

impl Receiving<'_> {
    fn open_log(&self, runtime: &Runtime, doors: &Doors) -> Result<(Log, Recovery), Failure> {
        let config: Config = self.settings.log.clone();
        let dir = &self.args.log.dir;
        // The thread that hears a source then writes, hears that the write has ended, and answers.
        let in_loop =
            storage::Driver::in_event_loop(DriverConfig { backend: config.backend, ..DriverConfig::default() });
        let driver = match in_loop {
            Ok((driver, driver_loop)) => {
                runtime.spawn(run_loop(driver_loop));
                driver
            }
            // Without io_uring: as configured, or why not.
            Err(_) => config.driver().in_log(dir)?,
        };
        let tell = |progress: seawall::RecoveryProgress| {
            doors.admin.starting("scanning the log's tail", progress.scanned_bytes, progress.file_bytes);
        };
        Log::open_watched(dir, config, &driver, tell).in_log(dir)
    }

    fn run(
        &self,
        runtime: &Runtime,
        doors: Doors,
        log: &Log,
        recovery: &Recovery,
        server: ServerConfig,
    ) -> Result<Ending, Failure> {
        let Settings { stream, receiver: limits, .. } = &self.settings;
        let tell_frames = |done, total| doors.admin.starting("reading what sources have sent", done, total);
        let opened = Receiver::open_with(log.clone(), stream, limits.clone(), None, &tell_frames);
        let (receiver, driver, replayed) = opened.map_err(|e| self.failed(e))?;
        for lsns in &replayed.damaged {
            tell(format_args!(
                "frames {lsns} cannot be read: what sources sent in them is given up, as accept_damage says"
            ));
        }
        let bound = runtime.block_on(async { Server::bind(receiver.clone(), server) });
        let server = bound.map_err(|e| Failure::Usage(e.to_string()))?;
        let mut say = Say::new(self.global, self.args.report_every);
        say.listening(stream, server.addresses(), &doors, replayed.sources, recovery.end);
        receiver.set_lone_writes(self.settings.server.lone_writes);
        let ended = self.serve(runtime, &receiver, driver, server, doors, &mut say);
        say.end(&receiver, ended.is_ok());
        ended.map(|()| Ending::Interrupted).map_err(|e| self.failed(e))
    }

    /// Until somebody wants an end, or the log fails.
    fn serve(
        &self,
        runtime: &Runtime,
        receiver: &Receiver,
        driver: Driver,
        server: Server,
        mut doors: Doors,
        say: &mut Say,
    ) -> Result<(), ReceiverError> {
        let counts = server.watch();
        let (stop, stopped) = watch::channel(false);
        let mut serving = {
            let _within = runtime.enter();
            doors.serve(receiver, &stopped)?
        };
        serving.spawn_on(server.run(doors::until_true(stopped)), runtime.handle());
        let mut serving = runtime.spawn(to_the_end(receiver.clone(), driver, serving, stop.clone()));
        while !serving.is_finished() {
            std::thread::sleep(LOOK_EVERY);
            if self.interrupt.is_asked() {
                stop.send_replace(true);
            }
            // A worker that a device holds up does not look after sockets and clocks, and wakes no other one to do so.
            runtime.spawn(async {});
            say.tick(receiver, &counts);
        }
        runtime.block_on(&mut serving).unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn failed(&self, error: ReceiverError) -> Failure {
        let dir = self.args.log.dir.display().to_string();
        match error {
            ReceiverError::Log(source) => Failure::Log { dir, source },
            error @ (ReceiverError::StateLost { .. } | ReceiverError::StateDamaged { .. }) => {
                Failure::Stream(format!("log {dir}: {error}"))
            }
            error @ ReceiverError::NotABlock { .. } => Failure::Refused(format!("log {dir}: {error}")),
            error => Failure::Usage(format!("log {dir}: {error}")),
        }
    }
}

/// Until `stop` is true, or the log fails; then in good order.
async fn to_the_end(
    receiver: Receiver,
    driver: Driver,
    mut serving: JoinSet<()>,
    stop: watch::Sender<bool>,
) -> Result<(), ReceiverError> {
    let mut driver = tokio::spawn(driver.run());
    let ended = tokio::select! {
        ended = &mut driver => Some(ended),
        () = doors::until_true(stop.subscribe()) => None,
    };
    // Sessions are told why before they are closed; what was received goes to the device.
    stop.send_replace(true);
    while serving.join_next().await.is_some() {}
    receiver.shut_down();
    let ended = match ended {
        Some(ended) => ended,
        None => driver.await,
    };
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
