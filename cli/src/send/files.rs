//! Which files are sent, and under which names.

use std::path::{Path, PathBuf};

use seawall::SourceId;

use crate::exit::Failure;
use crate::output::tell;
use crate::source::Input;

/// One file and its source.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) path: PathBuf,
    pub(super) source: SourceId,
}

/// A file, standard input, or every file below a directory in the order of their names; what cannot be looked at is told, and
/// left out.
pub(super) fn jobs(path: &Path, name: Option<&str>, left_out: &mut Vec<Failure>) -> Result<Vec<Job>, Failure> {
    if path == Path::new("-") || !path.is_dir() {
        let name = name.map_or_else(|| Input::source_name(path), |name| Ok(name.to_owned()))?;
        return Ok(vec![Job { path: path.to_owned(), source: source(&name)? }]);
    }
    let prefix = match (name, path.file_name().and_then(|name| name.to_str())) {
        (Some(name), _) | (None, Some(name)) => name.to_owned(),
        (None, None) => return Err(Failure::Usage(format!("{} has no name; give --source NAME", path.display()))),
    };
    let mut jobs = Vec::new();
    walk(path, &prefix, &mut jobs, left_out)?;
    if jobs.is_empty() && left_out.is_empty() {
        return Err(Failure::Usage(format!("{} holds no files", path.display())));
    }
    Ok(jobs)
}

fn walk(dir: &Path, name: &str, jobs: &mut Vec<Job>, left_out: &mut Vec<Failure>) -> Result<(), Failure> {
    let failed = |e| Failure::file("list", dir, e);
    let mut entries = std::fs::read_dir(dir).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Some(own) = entry.file_name().to_str().map(|own| format!("{name}/{own}")) else {
            return Err(Failure::Usage(format!("{} has no readable name", path.display())));
        };
        let kind = entry.file_type().map_err(|e| Failure::file("look at", &path, e))?;
        // A link may lead to a file, but not to a directory: that may be one it is in.
        let is_file = kind.is_file() || (kind.is_symlink() && path.is_file());
        if kind.is_dir() {
            match walk(&path, &own, jobs, left_out) {
                Err(failure @ Failure::File { .. }) => {
                    tell(format_args!("{failure}"));
                    left_out.push(failure);
                }
                walked => walked?,
            }
        } else if is_file {
            jobs.push(Job { source: source(&own)?, path });
        } else {
            tell(format_args!("{} is left out: it is no file, and no link to one", path.display()));
        }
    }
    Ok(())
}

fn source(name: &str) -> Result<SourceId, Failure> {
    let max = SourceId::BYTES_MAX;
    let wrong = || Failure::Usage(format!("a source's name has 1 to {max} bytes, {name:?} has {}", name.len()));
    SourceId::new(name).ok_or_else(wrong)
}
