//! Standard output for results, standard error for everything that is about them.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use serde::Serialize;

use crate::exit::Failure;

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object per result (per line, where there are many).
    Json,
    /// The bytes themselves, nothing around them (`dump` and `tail`).
    Raw,
}

/// Standard output, buffered. A reader that went away is [`Failure::OutputClosed`], never a panic.
pub(crate) struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    pub(crate) fn new() -> Out {
        Out(BufWriter::with_capacity(128 * 1024, io::stdout().lock()))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(failed)
    }

    pub(crate) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.0, "{line}").map_err(failed)
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.0, value).map_err(|e| failed(e.into()))?;
        self.bytes(b"\n")
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(failed)
    }
}

/// Writes a report whose exit code is the answer: what was found is no different when nobody reads on.
pub(crate) fn report(write: impl FnOnce(&mut Out) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = Out::new();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(Failure::OutputClosed) => Ok(()),
        written => written,
    }
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Output(error),
    }
}

/// True when a person looks at the results.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// One line on standard error. That it may have gone away is no reason to stop.
pub(crate) fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "seawall: {line}");
}

/// Bytes as a line of text: what a terminal might take for a command is escaped, text is left as it is.
pub(crate) fn printable(bytes: &[u8]) -> Cow<'_, str> {
    let harmless = |text: &str| !text.chars().any(|c| c.is_control() && c != '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if harmless(text) => Cow::Borrowed(text),
        _ => {
            let mut text = String::with_capacity(bytes.len() + 16);
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    if c.is_control() && c != '\t' { text.extend(c.escape_default()) } else { text.push(c) }
                }
                chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
            }
            Cow::Owned(text)
        }
    }
}

/// 1234567 as "1,234,567".
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size for people: "1.5 GiB".
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Microseconds for people: "310 µs", "1.24 ms", "3.1 s".
pub(crate) fn micros(micros: f64) -> String {
    match micros {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m if m < 1_000_000.0 => format!("{:.2} ms", m / 1e3),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// How long something took or is ago, for people: below a minute as [`micros`], then "2h 5m".
pub(crate) fn span(span_micros: u64) -> String {
    if span_micros < 60_000_000 {
        return micros(span_micros as f64);
    }
    let whole = humantime::format_duration(Duration::from_secs(span_micros / 1_000_000)).to_string();
    whole.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_text_only() {
        assert_eq!(printable("plain\tπ".as_bytes()), "plain\tπ");
        assert_eq!(printable(b"\x1b[31mred\xff\0"), "\\u{1b}[31mred\\xff\\u{0}");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(micros(310.2), "310 µs");
        assert_eq!(micros(1_240.0), "1.24 ms");
        assert_eq!(span(2_500_000), "2.50 s");
        assert_eq!(span(7_501_000_000), "2h 5m");
    }
}
