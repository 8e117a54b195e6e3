//! `seawall completions` and `seawall man`: what packagers install beside the binary.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::exit::{Ending, Failure};
use crate::output::Out;

/// Print a shell's completion script
#[derive(clap::Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Write manual pages, one per command
#[derive(clap::Args, Debug)]
pub(crate) struct ManArgs {
    /// Where to; created if it is missing.
    dir: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<Ending, Failure> {
    // Into memory first: the generator panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seawall", &mut script);
    let mut out = Out::new();
    out.bytes(&script)?;
    out.flush()?;
    Ok(Ending::Done)
}

pub(crate) fn man(args: &ManArgs) -> Result<Ending, Failure> {
    let failed = |e| Failure::file("write manual pages to", &args.dir, e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    Ok(Ending::Done)
}
