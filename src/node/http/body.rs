//! Records out of a request's body, as it comes: laid out at once as a SEND's payload, so that they are held once.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde::de::IgnoredAny;
use tokio::time::timeout_at;

use super::answer::{Answer, Outcome};
use crate::node::split::{Line, Splitter};
use crate::receiver::{PayloadBuilder, ReceiverConfig, Send, Sequences};
use crate::sync::now;
use crate::types::Seq;

/// While others wait for room, a body must come this fast, once it has had its grace.
const CONTENDED_BYTES_PER_SECOND: u64 = 64 << 10;
const CONTENDED_GRACE: Duration = Duration::from_secs(1);
/// What a body brings that was refused from its head is read and forgotten, up to here and so long: an answer to one
/// who is still writing would be lost with the connection.
const FORGOTTEN_BYTES_MAX: usize = 8 << 20;
const FORGOTTEN_TIME_MAX: Duration = Duration::from_secs(2);

/// How a body holds records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// One a line; blank lines are none.
    Json,
    /// One a line, empty ones too.
    Lines,
    /// The body is the record.
    Whole,
}

/// What is asked of a body.
pub(super) struct Terms {
    pub(super) kind: Kind,
    pub(super) check_json: bool,
    pub(super) body_bytes_max: u64,
    /// The payload gets so much room at once, where the body says how long it is; it is charged for that.
    pub(super) room_bytes: usize,
    /// `u64::MAX` where the receiver itself judges records that are too long.
    pub(super) record_bytes_max: u64,
    pub(super) sequences: Sequences,
    /// The sequence before the first record.
    pub(super) previous: Seq,
}

/// Why a body gives no records.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum BodyError {
    TooLong { limit_bytes: u64 },
    TooManyRecords { limit: u32 },
    PayloadTooLong { limit_bytes: u64 },
    Record { number: u64, bytes: u64, limit_bytes: u64 },
    NotJson { number: u64, text: String },
    Sequences,
    Empty,
    TimedOut { within: Duration },
    TooSlow,
    Broken(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::TooLong { limit_bytes } => write!(f, "the body is longer than {limit_bytes} bytes"),
            BodyError::TooManyRecords { limit } => write!(f, "more than {limit} records in one request"),
            BodyError::PayloadTooLong { limit_bytes } => {
                write!(f, "the records with 4 bytes each for their lengths are longer than {limit_bytes} bytes")
            }
            BodyError::Record { number, bytes, limit_bytes } => {
                write!(f, "record {number} of the request has at least {bytes} bytes; {limit_bytes} are taken")
            }
            BodyError::NotJson { number, text } => write!(f, "record {number} of the request is no JSON: {text}"),
            BodyError::Sequences => f.write_str("the last record's sequence would be beyond 2^64 - 1"),
            BodyError::Empty => f.write_str("the body holds no record"),
            BodyError::TimedOut { within } => write!(f, "the body was not complete within {within:?}"),
            BodyError::TooSlow => {
                write!(f, "others wait for room, and the body came slower than {CONTENDED_BYTES_PER_SECOND} B/s")
            }
            BodyError::Broken(text) => write!(f, "the body broke off: {text}"),
        }
    }
}

impl BodyError {
    pub(super) fn into_answer(self) -> Answer {
        let (status, error) = match &self {
            BodyError::TooLong { .. } | BodyError::PayloadTooLong { .. } => (413, "body_too_long"),
            BodyError::TooManyRecords { .. } => (413, "too_many_records"),
            BodyError::Record { .. } => (413, "oversized"),
            BodyError::NotJson { .. } => (422, "not_json"),
            BodyError::Sequences | BodyError::Empty | BodyError::Broken(_) => (400, "malformed"),
            BodyError::TimedOut { .. } | BodyError::TooSlow => (408, "too_slow"),
        };
        let answer = Answer::failed(status, error, Outcome::NothingTaken, self.to_string());
        match &self {
            BodyError::Record { number, .. } | BodyError::NotJson { number, .. } => answer.with("record", *number),
            BodyError::TimedOut { .. } | BodyError::TooSlow | BodyError::Broken(_) => answer.closing(),
            _ => answer,
        }
    }
}

/// A request's body. Who has asked whether to send it (`Expect`) is told to by the first look at it.
pub(super) struct Arriving {
    body: Incoming,
    is_looked_at: bool,
}

impl Arriving {
    pub(super) fn new(body: Incoming) -> Arriving {
        Arriving { body, is_looked_at: false }
    }

    /// Reads on what nobody wants any more, if it is under way: so that its sender gets to reading the answer.
    pub(super) fn forget(self, is_asked: bool) {
        if !self.body.is_end_stream() && (self.is_looked_at || !is_asked) {
            tokio::spawn(forget(self.body));
        }
    }
}

/// Reads a body to its end. Holds no more than a SEND and one piece of the body.
pub(super) async fn read(
    body: &mut Arriving,
    terms: &Terms,
    limits: &ReceiverConfig,
    is_contended: impl Fn() -> bool,
) -> Result<Send, BodyError> {
    let began = now();
    let mut records = Records::new(terms, limits);
    let mut bytes = 0u64;
    while let Some(piece) = piece(body, began, bytes, limits.message_timeout, &is_contended).await? {
        bytes += piece.len() as u64;
        if bytes > terms.body_bytes_max {
            return Err(BodyError::TooLong { limit_bytes: terms.body_bytes_max });
        }
        records.take(&piece)?;
    }
    records.finish()
}

/// The next piece of the body, if it comes in time.
async fn piece(
    body: &mut Arriving,
    began: Instant,
    bytes: u64,
    within: Duration,
    is_contended: &impl Fn() -> bool,
) -> Result<Option<Bytes>, BodyError> {
    body.is_looked_at = true;
    loop {
        let look = (began + within).min(now() + CONTENDED_GRACE);
        match timeout_at(look.into(), body.body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // Trailers say nothing here.
                let Ok(piece) = frame.into_data() else { continue };
                // Pieces that are short and many are looked at as well.
                check_pace(began, bytes + piece.len() as u64, within, is_contended)?;
                return Ok(Some(piece));
            }
            Ok(Some(Err(error))) => return Err(BodyError::Broken(error.to_string())),
            Err(_) => check_pace(began, bytes, within, is_contended)?,
        }
    }
}

fn check_pace(began: Instant, bytes: u64, within: Duration, is_contended: &impl Fn() -> bool) -> Result<(), BodyError> {
    let passed = now().saturating_duration_since(began);
    if passed >= within {
        return Err(BodyError::TimedOut { within });
    }
    let counted = passed.saturating_sub(CONTENDED_GRACE).as_secs_f64();
    if (bytes as f64) < counted * CONTENDED_BYTES_PER_SECOND as f64 && is_contended() {
        return Err(BodyError::TooSlow);
    }
    Ok(())
}

async fn forget(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > FORGOTTEN_BYTES_MAX {
                break;
            }
        }
    };
    let _enough = tokio::time::timeout(FORGOTTEN_TIME_MAX, read).await;
}

/// Records as they are found.
struct Records<'a> {
    terms: &'a Terms,
    limits: &'a ReceiverConfig,
    splitter: Splitter,
    payload: Payload,
}

struct Payload {
    builder: PayloadBuilder,
    last: Seq,
}

impl<'a> Records<'a> {
    fn new(terms: &'a Terms, limits: &'a ReceiverConfig) -> Records<'a> {
        let longest = usize::try_from(terms.record_bytes_max.min(terms.body_bytes_max)).unwrap_or(usize::MAX - 1);
        let builder = PayloadBuilder::new(terms.sequences, terms.previous);
        let payload = Payload { builder, last: terms.previous };
        Records { terms, limits, splitter: Splitter::new(longest), payload }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let Records { terms, limits, splitter, payload } = self;
        if terms.kind == Kind::Whole {
            return payload.go_on(piece, terms, limits);
        }
        splitter.feed(piece, |line| payload.line(line, terms, limits))?;
        match splitter.is_too_long() {
            true => Err(payload.too_long(terms, terms.record_bytes_max + 1)),
            false => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Send, BodyError> {
        let Records { terms, limits, splitter, payload } = &mut self;
        splitter.finish(|line| payload.line(line, terms, limits))?;
        if payload.builder.records() == 0 { Err(BodyError::Empty) } else { Ok(self.payload.builder.finish()) }
    }
}

impl Payload {
    fn line(&mut self, line: Line<'_>, terms: &Terms, limits: &ReceiverConfig) -> Result<(), BodyError> {
        match line {
            Line::TooLong(bytes) => Err(self.too_long(terms, bytes)),
            Line::Whole(line) if terms.kind == Kind::Json && line.trim_ascii().is_empty() => Ok(()),
            Line::Whole(line) => {
                if terms.check_json {
                    self.check_json(line)?;
                }
                self.push(line, terms, limits)
            }
        }
    }

    /// The body is the record: it is laid out as it comes, and held once.
    fn go_on(&mut self, piece: &[u8], terms: &Terms, limits: &ReceiverConfig) -> Result<(), BodyError> {
        if self.builder.records() == 0 {
            return if piece.is_empty() { Ok(()) } else { self.push(piece, terms, limits) };
        }
        let (bytes, limit_bytes) = ((self.builder.bytes() + piece.len()) as u64, limits.payload_bytes_max());
        if bytes - 4 > terms.record_bytes_max {
            return Err(BodyError::Record { number: 1, bytes: bytes - 4, limit_bytes: terms.record_bytes_max });
        }
        if bytes > limit_bytes {
            return Err(BodyError::PayloadTooLong { limit_bytes });
        }
        self.builder.lengthen(piece).map_err(|_| BodyError::PayloadTooLong { limit_bytes })
    }

    fn number(&self) -> u64 {
        u64::from(self.builder.records()) + 1
    }

    fn too_long(&self, terms: &Terms, bytes: u64) -> BodyError {
        BodyError::Record { number: self.number(), bytes, limit_bytes: terms.record_bytes_max }
    }

    fn check_json(&self, line: &[u8]) -> Result<(), BodyError> {
        let number = self.number();
        // A parser that throws the values away does not look at their encoding.
        let text = std::str::from_utf8(line).map_err(|e| BodyError::NotJson { number, text: e.to_string() })?;
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Ok(()),
            Err(e) => Err(BodyError::NotJson { number, text: e.to_string() }),
        }
    }

    fn push(&mut self, record: &[u8], terms: &Terms, limits: &ReceiverConfig) -> Result<(), BodyError> {
        if record.len() as u64 > terms.record_bytes_max {
            return Err(self.too_long(terms, record.len() as u64));
        }
        if self.builder.records() >= limits.frame_records_max {
            return Err(BodyError::TooManyRecords { limit: limits.frame_records_max });
        }
        let limit_bytes = limits.payload_bytes_max();
        if self.builder.bytes() as u64 + record.len() as u64 + 4 > limit_bytes {
            return Err(BodyError::PayloadTooLong { limit_bytes });
        }
        let seq = self.last.checked_add(1).ok_or(BodyError::Sequences)?;
        // Not before: a line that is on its way is held until its end comes.
        if self.builder.records() == 0 {
            self.builder.reserve(terms.room_bytes);
        }
        self.builder.push(seq, record).map_err(|_| BodyError::Sequences)?;
        self.last = seq;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(terms: &Terms, limits: &ReceiverConfig, body: &[u8], piece: usize) -> Result<Send, BodyError> {
        let mut records = Records::new(terms, limits);
        for piece in body.chunks(piece) {
            records.take(piece)?;
        }
        records.finish()
    }

    fn terms(kind: Kind) -> Terms {
        Terms {
            kind,
            check_json: false,
            body_bytes_max: 1000,
            room_bytes: 0,
            record_bytes_max: 10,
            sequences: Sequences::Dense,
            previous: Seq::new(4),
        }
    }

    #[test]
    fn records_are_laid_out_once_however_the_body_comes() {
        let limits = ReceiverConfig { record_bytes_max: 10, frame_records_max: 3, ..ReceiverConfig::default() };
        for piece in [1, 2, 7, 100] {
            let run = |kind, body: &[u8]| records(&terms(kind), &limits, body, piece);
            let send = run(Kind::Json, b"{}\n \r\n\n[1]").unwrap();
            assert_eq!((send.previous.get(), send.records), (4, 2), "blank lines are no records");
            assert_eq!(&send.payload[..], b"\x02\0\0\0{}\x03\0\0\0[1]");
            let send = run(Kind::Lines, b"a\n\n \r\n").unwrap();
            assert_eq!((send.records, &send.payload[..]), (3, &b"\x01\0\0\0a\0\0\0\0\x01\0\0\0 "[..]));
            let send = run(Kind::Whole, b"a\nb\r\n").unwrap();
            assert_eq!((send.records, &send.payload[..]), (1, &b"\x05\0\0\0a\nb\r\n"[..]));
            assert_eq!(run(Kind::Lines, b"1\n2\n3\n4\n"), Err(BodyError::TooManyRecords { limit: 3 }));
            for kind in [Kind::Json, Kind::Lines, Kind::Whole] {
                assert_eq!(run(kind, b""), Err(BodyError::Empty));
                assert!(matches!(run(kind, b"0123456789a"), Err(BodyError::Record { number: 1, .. })));
                assert_eq!(run(kind, b"0123456789").unwrap().records, 1);
            }
        }
        let high = Terms { previous: Seq::new(u64::MAX - 1), ..terms(Kind::Lines) };
        assert_eq!(records(&high, &limits, b"a\n", 9).unwrap().records, 1);
        assert_eq!(records(&high, &limits, b"a\nb", 9), Err(BodyError::Sequences));
        let narrow = ReceiverConfig { frame_bytes_max: 10, ..limits };
        assert_eq!(
            records(&terms(Kind::Lines), &narrow, b"123456789\n1234567\n", 99),
            Err(BodyError::PayloadTooLong { limit_bytes: 18 })
        );
    }

    /// The room for all records was taken beside the one line that had begun to come, and was charged once.
    #[test]
    fn a_long_line_is_held_once_while_it_comes() {
        const LONG: usize = 1 << 20;
        let terms = Terms {
            body_bytes_max: LONG as u64,
            room_bytes: LONG,
            record_bytes_max: LONG as u64,
            ..terms(Kind::Lines)
        };
        let limits = ReceiverConfig::default();
        let mut records = Records::new(&terms, &limits);
        let mut came = 0;
        for piece in [b'a'; LONG - 1].chunks(16 << 10) {
            records.take(piece).unwrap();
            came += piece.len();
            let held = records.splitter.capacity() + records.payload.builder.capacity();
            assert!(held <= came + came / 4, "{held} bytes are held for {came}");
        }
        assert_eq!(records.finish().unwrap().payload.len(), LONG + 3);
    }

    #[test]
    fn json_is_checked_to_the_letter() {
        let terms = Terms { check_json: true, record_bytes_max: 1 << 20, body_bytes_max: 1 << 20, ..terms(Kind::Json) };
        let limits = ReceiverConfig::default();
        for good in ["{}", "[1,2.5e3]", " \"a\" ", "null", "{\"a\":[{}]}", "\"\u{e9}\""] {
            assert!(records(&terms, &limits, good.as_bytes(), 99).is_ok(), "{good}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(records(&terms, &limits, deep.as_bytes(), 999).is_ok(), "depth takes no stack");
        for bad in [&b"{"[..], b"{} {}", b"{'a':1}", b"nul", b"01", b"\"\xff\"", b"\"\t\"", b"[1,]", b"\xef\xbb\xbf{}"]
        {
            let body = [b"{}\n", bad].concat();
            assert!(
                matches!(records(&terms, &limits, &body, 99), Err(BodyError::NotJson { number: 2, .. })),
                "{}",
                bad.escape_ascii()
            );
        }
    }
}
