//! Answers, and which one a refusal of the receiver is.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::node::talk::TalkError;
use crate::receiver::{Code, Nack, Reject, RejectReason, SourceStatus};
use crate::types::Seq;

/// What became of the records of a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// None of them is in the stream because of this request.
    NothingTaken,
    /// Those before the one named are taken, and become durable unless the receiver fails.
    InPart,
    /// They may be in the stream, now or later, or not.
    Unknown,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::NothingTaken => "nothing_taken",
            Outcome::InPart => "in_part",
            Outcome::Unknown => "unknown",
        }
    }
}

/// One answer: a status, and JSON.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    body: Value,
    retry_after_seconds: Option<u32>,
    allow: Option<String>,
    closes: bool,
}

impl Answer {
    pub(super) fn new(status: u16, body: Value) -> Answer {
        Answer { status, body, retry_after_seconds: None, allow: None, closes: false }
    }

    /// A refusal before anything was taken.
    pub(super) fn error(status: u16, error: &str, text: String) -> Answer {
        Answer::failed(status, error, Outcome::NothingTaken, text)
    }

    pub(super) fn failed(status: u16, error: &str, outcome: Outcome, text: String) -> Answer {
        Answer::new(status, json!({ "error": error, "outcome": outcome.name(), "text": text }))
    }

    /// 429: come again; nothing was taken.
    pub(super) fn busy(error: &str, text: String) -> Answer {
        Answer { retry_after_seconds: Some(1), ..Answer::error(429, error, text) }
    }

    /// 503: whether the records are, or become, durable is not known.
    pub(super) fn unknown(error: &str, text: String) -> Answer {
        Answer { retry_after_seconds: Some(1), ..Answer::failed(503, error, Outcome::Unknown, text) }
    }

    pub(super) fn with_allow(self, allow: String) -> Answer {
        Answer { allow: Some(allow), ..self }
    }

    /// The connection is not used again.
    pub(super) fn closing(self) -> Answer {
        Answer { closes: true, ..self }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Answer {
        self.body[name] = value.into();
        self
    }

    /// Where the source stands, so that it can go on without asking again.
    pub(super) fn with_source(self, source: Option<&SourceStatus>) -> Answer {
        let (received, durable, epoch) =
            source.map_or((Seq::ZERO, Seq::ZERO, 0), |source| (source.received, source.durable, source.epoch.get()));
        self.with("expected", next(received)).with("durable", durable.get()).with("epoch", epoch)
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut text = self.body.to_string();
        text.push('\n');
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow.and_then(|allow| allow.parse().ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The First-Seq that continues behind `seq`.
pub(super) fn next(seq: Seq) -> u64 {
    seq.get().saturating_add(1)
}

/// The answer to what the receiver would not do; `is_sent`: records had been handed over.
pub(super) fn refused(error: TalkError, is_sent: bool) -> Answer {
    let nack = match error {
        TalkError::Refused(nack) => nack,
        TalkError::TimedOut if is_sent => {
            return Answer::unknown("timeout", "the records were taken, but did not become durable in time".to_owned());
        }
        TalkError::TimedOut => return Answer::busy("no_room", "there was no room in time".to_owned()),
        TalkError::Ended(failure) => {
            let text = failure.map_or_else(|| "the session has ended".to_owned(), |failure| failure.to_string());
            return Answer::unknown("unavailable", text);
        }
    };
    let Nack { code, at, text, retry_after_millis, .. } = nack;
    let unless_sent = if is_sent { Outcome::Unknown } else { Outcome::NothingTaken };
    let in_part = if is_sent { Outcome::InPart } else { Outcome::NothingTaken };
    let answer = match code {
        Code::Gap | Code::Mismatch => Answer::error(409, "gap", text),
        Code::OldEpoch => Answer::failed(409, "old_epoch", unless_sent, text),
        Code::Replaced => Answer::failed(409, "replaced", unless_sent, text),
        Code::RejectsUnseen => Answer::failed(409, "rejects_unseen", in_part, text).with("at", at.get()),
        Code::Retired => Answer::failed(410, "retired", unless_sent, text),
        Code::Oversized => Answer::failed(413, "oversized", in_part, text).with("at", at.get()),
        Code::Poison => Answer::failed(422, "poison", in_part, text).with("at", at.get()),
        Code::TooMany => Answer::busy("too_many", text),
        Code::UnknownStream => Answer::error(404, "unknown_stream", text),
        Code::Limit => Answer::error(400, "limit", text),
        Code::Draining => Answer::failed(503, "draining", unless_sent, text),
        _ => Answer::unknown("unavailable", text),
    };
    let seconds = retry_after_millis.div_ceil(1000);
    Answer { retry_after_seconds: answer.retry_after_seconds.or((seconds > 0).then_some(seconds)), ..answer }
}

pub(super) fn rejects(rejects: &[Reject]) -> Value {
    let one = |reject: &Reject| {
        let reason = match reject.reason {
            RejectReason::Oversized => "oversized",
            RejectReason::Poison => "poison",
        };
        json!({ "seq": reject.seq.get(), "reason": reason, "bytes": reject.bytes })
    };
    rejects.iter().map(one).collect()
}
