//! One frame, as text, JSON or bytes. Frames of `ingest` and of a receiver show the records they hold, others what they
//! are.

use seawall::Frame;
use serde::Serialize;

use crate::envelope::Unit;
use crate::exit::Failure;
use crate::output::{Format, Out, printable};
use crate::record::{Content, Record, Step};

/// What text shows beside the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Columns {
    /// Nothing: lines as they were.
    None,
    /// Lsn, time, and where in its source it was.
    Place,
}

/// A frame in JSON. Exactly one of `payload` and `payload_hex` is there: text when it is text.
#[derive(Serialize)]
struct Shown<'a> {
    lsn: u64,
    time: String,
    time_micros: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

/// Writes frames, those of one source only if one is given.
pub(crate) struct Show<'a> {
    pub(crate) format: Format,
    pub(crate) columns: Columns,
    pub(crate) source: Option<&'a str>,
}

impl Show<'_> {
    /// Writes what a frame holds; false when none of it is to be shown.
    pub(crate) fn frame(&self, frame: &Frame, out: &mut Out) -> Result<bool, Failure> {
        let steps = match Content::of(&frame.payload) {
            Content::Steps(steps) => steps,
            Content::Foreign if self.source.is_some() => return Ok(false),
            Content::Foreign => {
                self.one(frame, None, &frame.payload, out)?;
                return Ok(true);
            }
        };
        let mut any = false;
        for record in steps.into_iter().filter_map(Step::record) {
            if self.source.is_none_or(|source| source == record.source) {
                self.one(frame, Some(&record), &record.data, out)?;
                any = true;
            }
        }
        Ok(any)
    }

    fn one(&self, frame: &Frame, record: Option<&Record>, data: &[u8], out: &mut Out) -> Result<(), Failure> {
        match self.format {
            Format::Raw => out.bytes(data),
            Format::Json => out.json(&shown(frame, record, data)),
            Format::Text => self.text(frame, record, data, out),
        }
    }

    fn text(&self, frame: &Frame, record: Option<&Record>, data: &[u8], out: &mut Out) -> Result<(), Failure> {
        let line = data.strip_suffix(b"\n").unwrap_or(data);
        let is_end = record.is_some_and(Record::is_end);
        if self.columns == Columns::None {
            return if is_end { Ok(()) } else { out.line(printable(line)) };
        }
        let time = time(frame);
        let text = if is_end { "(the source ends)".into() } else { printable(line) };
        match record {
            Some(Record { source, from, .. }) => {
                out.line(format_args!("{}\t{time}\t{}@{from}\t{text}", frame.lsn, printable(source.as_bytes())))
            }
            None => out.line(format_args!("{}\t{time}\t-\t{text}", frame.lsn)),
        }
    }
}

fn time(frame: &Frame) -> String {
    humantime::format_rfc3339_micros(frame.time()).to_string()
}

fn shown<'a>(frame: &Frame, record: Option<&'a Record>, data: &'a [u8]) -> Shown<'a> {
    let payload = std::str::from_utf8(data).ok();
    let received = record.filter(|record| record.unit.is_none());
    Shown {
        lsn: frame.lsn.get(),
        time: time(frame),
        time_micros: frame.time_micros,
        source: record.map(|record| record.source.as_str()),
        offset: record.filter(|record| record.unit.is_some()).map(|record| record.from),
        seq: received.map(|record| record.to),
        unit: record.and_then(|record| record.unit).map(Unit::name),
        payload,
        payload_hex: payload.is_none().then(|| data.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}
