//! The `seawall` command: text in, text out, around one durable log.
//!
//! | module | command |
//! |---|---|
//! | [`ingest`] | a file's lines become durable records, once |
//! | [`receive`], [`send`] | the same from elsewhere: a receiver, and a file's way to one |
//! | [`tail`], [`dump`] | records back out |
//! | [`inspect`] | what a log is and how far it has come |
//! | [`batches`] | which records are in which batch, and how far behind the batches are |
//! | [`verify`], [`repair`] | every byte checked; what is damaged is set aside |
//! | [`mod@rescue`] | a copy off a device that cannot read all of it |
//! | [`mod@bench`] | the log against the device, in the same run |
//! | [`manual`] | shell completions and manual pages |
//!
//! Exit codes: [`exit`]. What a record of `ingest` looks like: [`envelope`].

mod batches;
mod bench;
mod dump;
mod envelope;
mod exit;
mod ingest;
mod inspect;
mod interrupt;
mod manual;
mod open;
mod output;
mod progress;
mod receive;
mod record;
mod repair;
mod rescue;
mod send;
mod sequence;
mod show;
mod source;
mod table;
mod tail;
mod verify;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use exit::{EXIT_CODES, Ending, Failure};
use output::Format;

/// A durable log on this machine: fill it, follow it, check it, measure it
#[derive(Parser)]
#[command(name = "seawall", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What may be given to every command.
#[derive(clap::Args, Debug)]
struct Global {
    /// How results are written.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The configuration, in TOML: the log's fields, or for `receive` the tables [log], [receiver] and [server]. Every
    /// field has a default. `send`, `completions` and `man` have none to read.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    Ingest(ingest::Args),
    Receive(receive::Args),
    Send(send::Args),
    Tail(tail::Args),
    Dump(dump::Args),
    Inspect(inspect::Args),
    Batches(batches::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Rescue(rescue::Args),
    Bench(bench::Args),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Standard output may be closed (`seawall --help | head -1`).
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(&cli) {
        Ok(ending) => ending.into(),
        Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            output::tell(format_args!("{failure}"));
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: &Cli) -> Result<Ending, Failure> {
    let global = &cli.global;
    if global.format == Format::Raw && !matches!(cli.command, Command::Dump(_) | Command::Tail(_)) {
        return Err(Failure::Usage("--format raw is for dump and tail".into()));
    }
    match &cli.command {
        Command::Ingest(args) => ingest::run(args, global),
        Command::Receive(args) => receive::run(args, global),
        Command::Send(args) => send::run(args, global),
        Command::Tail(args) => tail::run(args, global),
        Command::Dump(args) => dump::run(args, global),
        Command::Inspect(args) => inspect::run(args, global),
        Command::Batches(args) => batches::run(args, global),
        Command::Verify(args) => verify::run(args, global),
        Command::Repair(args) => repair::run(args, global),
        Command::Rescue(args) => rescue::run(args, global),
        Command::Bench(args) => bench::run(args, global),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}
