//! One frame, as text, JSON or bytes. Frames of `ingest` show the piece of the source they hold, others what they are.

use seawall::Frame;
use serde::Serialize;

use crate::envelope::{Envelope, Unit};
use crate::exit::Failure;
use crate::output::{Format, Out, printable};

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
    /// Writes a frame; false when it is none of those to be shown.
    pub(crate) fn frame(&self, frame: &Frame, out: &mut Out) -> Result<bool, Failure> {
        let envelope = Envelope::decode(&frame.payload);
        if self.source.is_some() && self.source != envelope.map(|envelope| envelope.source) {
            return Ok(false);
        }
        let data = envelope.map_or(&frame.payload[..], |envelope| envelope.data);
        match self.format {
            Format::Raw => out.bytes(data)?,
            Format::Json => out.json(&shown(frame, envelope, data))?,
            Format::Text => self.text(frame, envelope, data, out)?,
        }
        Ok(true)
    }

    fn text(&self, frame: &Frame, envelope: Option<Envelope<'_>>, data: &[u8], out: &mut Out) -> Result<(), Failure> {
        let line = data.strip_suffix(b"\n").unwrap_or(data);
        let is_end = envelope.is_some_and(|envelope| envelope.unit == Unit::End);
        if self.columns == Columns::None {
            return if is_end { Ok(()) } else { out.line(printable(line)) };
        }
        let time = time(frame);
        let text = if is_end { "(the source ends)".into() } else { printable(line) };
        match envelope {
            Some(Envelope { source, offset, .. }) => {
                out.line(format_args!("{}\t{time}\t{}@{offset}\t{text}", frame.lsn, printable(source.as_bytes())))
            }
            None => out.line(format_args!("{}\t{time}\t-\t{text}", frame.lsn)),
        }
    }
}

fn time(frame: &Frame) -> String {
    humantime::format_rfc3339_micros(frame.time()).to_string()
}

fn shown<'a>(frame: &Frame, envelope: Option<Envelope<'a>>, data: &'a [u8]) -> Shown<'a> {
    let payload = std::str::from_utf8(data).ok();
    Shown {
        lsn: frame.lsn.get(),
        time: time(frame),
        time_micros: frame.time_micros,
        source: envelope.map(|envelope| envelope.source),
        offset: envelope.map(|envelope| envelope.offset),
        unit: envelope.map(|envelope| envelope.unit.name()),
        payload,
        payload_hex: payload.is_none().then(|| data.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}
