//! File names of a log directory. What does not parse here is foreign: never read, never removed.

use std::fmt;

use crate::types::SegmentNumber;

/// A file of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileName {
    Control,
    /// A control file being created.
    ControlNew,
    Lock,
    Segment(SegmentNumber),
    /// A segment being prepared.
    SegmentNew(SegmentNumber),
}

const DIGITS: usize = 20;

impl FileName {
    /// What a directory entry is to us; `None` for foreign files.
    pub(crate) fn parse(name: &str) -> Option<FileName> {
        match name {
            "control" => return Some(FileName::Control),
            "control.new" => return Some(FileName::ControlNew),
            "lock" => return Some(FileName::Lock),
            _ => {}
        }
        let (digits, suffix) = name.split_at_checked(DIGITS)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok().filter(|n| *n > 0).map(SegmentNumber::new)?;
        match suffix {
            ".seg" => Some(FileName::Segment(number)),
            ".seg.new" => Some(FileName::SegmentNew(number)),
            _ => None,
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Control => f.write_str("control"),
            FileName::ControlNew => f.write_str("control.new"),
            FileName::Lock => f.write_str("lock"),
            FileName::Segment(n) => write!(f, "{:020}.seg", n.get()),
            FileName::SegmentNew(n) => write!(f, "{:020}.seg.new", n.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_names_do_not_parse() {
        let n = SegmentNumber::new(17);
        for name in
            [FileName::Control, FileName::ControlNew, FileName::Lock, FileName::Segment(n), FileName::SegmentNew(n)]
        {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for foreign in [
            "17.seg",
            "00000000000000000000.seg",
            "99999999999999999999.seg",
            "+0000000000000000017.seg",
            "00000000000000000017.seg~",
            "control~",
            "ééééééééééé.seg",
        ] {
            assert_eq!(FileName::parse(foreign), None, "{foreign}");
        }
    }
}
