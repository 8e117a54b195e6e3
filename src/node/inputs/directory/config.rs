//! What can be chosen about a directory, with its limits.

use std::time::Duration;

use crate::config::{Unusable, spans, within};
use crate::error::{Error, Result};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// How a directory is read. Every field has a default; [`DirectorySourceConfig::validate`] says what is not usable.
///
/// With the `serde` feature, sizes read and write as `"64 MiB"` and times as `"100ms"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct DirectorySourceConfig {
    /// What is a record. Default lines. Another rule than the one a pending batch was planned with makes its ranges
    /// `Changed`: commit first.
    pub records: RecordRule,
    /// A record may be this long: 1 byte to 1 GiB. So much is held while a range is planned. Default 4 MiB.
    #[cfg_attr(feature = "serde", serde(with = "crate::config::size"))]
    pub record_bytes_max: u64,
    /// Which files are begun: `*` and `?` in the file's name, not its path. What is begun is followed under any name.
    /// Default all.
    pub names: Option<String>,
    /// Files whose name begins so are not begun, and directories not entered: what was begun there before is neither read on nor
    /// forgotten. Default `.` and `_`.
    pub ignored_prefixes: Vec<String>,
    /// The same for how names end. Default `.tmp`.
    pub ignored_suffixes: Vec<String>,
    /// Directories below are entered this deep: 0 to 64. What was begun deeper, when this was more, is neither read on nor
    /// forgotten. Default 0: files of the directory itself.
    pub depth_max: u32,
    /// When a record that has no end yet ends with the file. Default never.
    pub finished: Finished,
    /// What becomes of a file that cannot be read, was shortened, or holds a record above the limit. Default stop.
    pub bad_files: BadFiles,
    /// What a file is recognized by. Default inode and birth time.
    pub files_by: FilesBy,
    /// A file that is gone, and all of it committed, is forgotten after this: up to 365 days. Back after that, it is a new
    /// file and read anew. Default 1 minute.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub gone_after: Duration,
    /// Files in the directory, also those that are not begun: 1 to 100 million. Each costs about 300 bytes of memory.
    /// Default 1 million.
    pub files_max: u64,
    /// Directories below it, also those that are not entered: 1 to 100 million. Each costs its path and about 100 bytes of
    /// memory. Default 1 million.
    pub directories_max: u64,
}

/// What is a record of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum RecordRule {
    /// Bytes up to this one, which is not in the record. A carriage return before it is.
    Lines {
        /// What ends a line.
        delimiter: u8,
    },
    /// So many bytes each. The last one of a finished file may be shorter.
    Fixed {
        /// How many.
        bytes: u64,
    },
    /// A finished file. An empty one is no record.
    Whole,
}

impl RecordRule {
    /// Lines as Unix has them.
    pub const LINES: RecordRule = RecordRule::Lines { delimiter: b'\n' };
}

/// When a file's last record ends although nothing in the file says so. What is appended after that is a record of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Finished {
    /// Never: it waits.
    Never,
    /// When the file has not changed for this long, told by its change time, which a writer cannot set: up to 365 days. The clock
    /// tells it: one that is set ahead by as much while a file is written ends its last record in the middle.
    UnchangedFor(#[cfg_attr(feature = "serde", serde(with = "humantime_serde"))] Duration),
    /// When there is a file `NAME.done` beside it, or `_SUCCESS` in its directory, that is not older than the file is; with
    /// [`FilesBy::Inode`], which knows no age, than its last modification: what is appended later waits for a new marker.
    Marker,
}

/// What becomes of a file that cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum BadFiles {
    /// Nothing is planned until somebody has looked.
    #[default]
    Stop,
    /// The others go on. It is counted in the statistics, tried again each time, and taken when it can be. Not so one that cannot
    /// be flushed: that may be all that tells of others' loss, and stops the plan.
    Skip,
}

/// What a file is recognized by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum FilesBy {
    /// Inode and birth time. A file system that keeps no birth time is refused.
    #[default]
    Birth,
    /// The inode alone. A file that gets the inode of one that was removed is taken for it: usable where nothing is
    /// removed before it is forgotten.
    Inode,
}

impl Default for DirectorySourceConfig {
    fn default() -> DirectorySourceConfig {
        DirectorySourceConfig {
            records: RecordRule::LINES,
            record_bytes_max: 4 * MIB,
            names: None,
            ignored_prefixes: vec![".".into(), "_".into()],
            ignored_suffixes: vec![".tmp".into()],
            depth_max: 0,
            finished: Finished::Never,
            bad_files: BadFiles::Stop,
            files_by: FilesBy::Birth,
            gone_after: Duration::from_secs(60),
            files_max: 1_000_000,
            directories_max: 1_000_000,
        }
    }
}

impl DirectorySourceConfig {
    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`Error::Config`], naming the first such field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|Unusable { field, problem }| Error::Config { field, problem })
    }

    fn check(&self) -> Result<(), Unusable> {
        let wrong = |field, problem: String| Err(Unusable { field, problem });
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let brief = |field, value| spans(field, value, Duration::ZERO, YEAR);
        within("record_bytes_max", self.record_bytes_max, 1, 1024 * MIB)?;
        within("depth_max", self.depth_max.into(), 0, 64)?;
        within("files_max", self.files_max, 1, 100_000_000)?;
        within("directories_max", self.directories_max, 1, 100_000_000)?;
        match self.records {
            RecordRule::Fixed { bytes } => within("records", bytes, 1, self.record_bytes_max)?,
            RecordRule::Whole if self.finished == Finished::Never => {
                return wrong("finished", "is never, but a whole file is a record only when it is finished".into());
            }
            _ => {}
        }
        if let Finished::UnchangedFor(time) = self.finished {
            brief("finished", time)?;
        }
        let empty = |names: &[String]| names.iter().any(String::is_empty);
        if empty(&self.ignored_prefixes) {
            return wrong("ignored_prefixes", "has an empty one, which every name begins with".into());
        }
        if empty(&self.ignored_suffixes) {
            return wrong("ignored_suffixes", "has an empty one, which every name ends with".into());
        }
        if self.names.as_deref() == Some("") {
            return wrong("names", "is empty, which no name matches".into());
        }
        brief("gone_after", self.gone_after)
    }

    pub(super) fn is_ignored(&self, name: &[u8]) -> bool {
        self.ignored_prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
            || self.ignored_suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
    }

    /// Whether a file of this name is begun.
    pub(super) fn is_begun(&self, name: &[u8]) -> bool {
        let is_marker = name.ends_with(MARKER_SUFFIX) || name == MARKER_OF_ALL;
        let marks = self.finished == Finished::Marker && is_marker;
        !marks && !self.is_ignored(name) && self.names.as_ref().is_none_or(|pattern| matches(pattern.as_bytes(), name))
    }
}

pub(super) const MARKER_SUFFIX: &[u8] = b".done";
pub(super) const MARKER_OF_ALL: &[u8] = b"_SUCCESS";

/// `*` and `?`. Only the last star is tried again, so it takes pattern × name steps at most.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name) in [("*", ""), ("*.log", "a.log"), ("a?c", "abc"), ("*a*b", "xaayab"), ("x", "x")] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("?", ""), ("*.log", "a.log.1"), ("a?c", "ac"), ("*a*b", "xaaya"), ("x", "xx")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_not_usable_is_named() {
        DirectorySourceConfig::default().validate().unwrap();
        type Spoil = fn(&mut DirectorySourceConfig);
        let cases: [(&str, Spoil); 10] = [
            ("record_bytes_max", |c| c.record_bytes_max = 0),
            ("depth_max", |c| c.depth_max = 65),
            ("files_max", |c| c.files_max = 0),
            ("directories_max", |c| c.directories_max = 0),
            ("records", |c| c.records = RecordRule::Fixed { bytes: c.record_bytes_max + 1 }),
            ("finished", |c| c.records = RecordRule::Whole),
            ("finished", |c| c.finished = Finished::UnchangedFor(Duration::MAX)),
            ("ignored_suffixes", |c| c.ignored_suffixes.push(String::new())),
            ("names", |c| c.names = Some(String::new())),
            ("gone_after", |c| c.gone_after = Duration::MAX),
        ];
        for (expected, spoil) in cases {
            let mut config = DirectorySourceConfig::default();
            spoil(&mut config);
            match config.validate() {
                Err(Error::Config { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn human_units_are_read_and_written() {
        let text = r#"{"record_bytes_max": "1 MiB", "gone_after": "5s", "finished": {"unchanged-for": "2m"},
            "records": {"fixed": {"bytes": 16}}, "bad_files": "skip"}"#;
        let config: DirectorySourceConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.record_bytes_max, config.gone_after), (MIB, Duration::from_secs(5)));
        assert_eq!(config.finished, Finished::UnchangedFor(Duration::from_secs(120)));
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DirectorySourceConfig>(&written).unwrap(), config);
    }
}
