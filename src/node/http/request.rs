//! What a request asks for: its path, and its headers as types.

use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::{Method, Uri};

use super::answer::Answer;
use super::body::Kind;
use crate::types::{Seq, SourceEpoch, SourceId};

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// Take records into this stream.
    Post { stream: Vec<u8> },
    /// Where a source stands.
    Source { stream: Vec<u8>, source: Vec<u8> },
}

impl Route {
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Route, Answer> {
        let unknown = || {
            Answer::error(
                404,
                "unknown_path",
                "there are POST /v1/streams/NAME and GET /v1/streams/NAME/sources/ID".to_owned(),
            )
        };
        let parts: Vec<&str> = uri.path().split('/').collect();
        let named = |part: &str| percent_decode(part).ok_or_else(unknown);
        let (allowed, route) = match parts[..] {
            ["", "v1", "streams", stream] => (Method::POST, Route::Post { stream: named(stream)? }),
            ["", "v1", "streams", stream, "sources", source] => {
                (Method::GET, Route::Source { stream: named(stream)?, source: named(source)? })
            }
            _ => return Err(unknown()),
        };
        if *method != allowed {
            let text = format!("this path takes {allowed}");
            return Err(Answer::error(405, "method", text).with_allow(allowed.to_string()));
        }
        Ok(route)
    }
}

/// `%41` is `A`; `None` when it is not whole or nothing is left.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut found = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            found.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        rest = behind;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        found.push((digit(0)? * 16 + digit(1)?) as u8);
    }
    Some(found).filter(|found| !found.is_empty())
}

/// Who sends, and where in its sequence. `None` without a name: then nothing can be told from its repetition.
pub(super) struct Sender {
    pub(super) id: SourceId,
    pub(super) epoch: Option<SourceEpoch>,
    pub(super) first: Seq,
    pub(super) rejects_seen: Option<Seq>,
}

/// The headers and the query of a POST.
pub(super) struct Post {
    pub(super) sender: Option<Sender>,
    pub(super) kind: Kind,
    pub(super) check_json: bool,
    pub(super) content_length: Option<u64>,
}

impl Post {
    pub(super) fn of(headers: &HeaderMap, query: Option<&str>) -> Result<Post, Answer> {
        let malformed = |text: String| Answer::error(400, "malformed", text);
        let content_type = single(headers, &CONTENT_TYPE)?.unwrap_or_default();
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let kind = match &essence.to_ascii_lowercase()[..] {
            b"application/x-ndjson" | b"application/ndjson" => Kind::Json,
            b"text/plain" => Kind::Lines,
            b"application/octet-stream" => Kind::Whole,
            _ => {
                let text = "Content-Type is to be application/x-ndjson or text/plain (a record a line), or \
                            application/octet-stream (one record)";
                return Err(Answer::error(415, "content_type", text.to_owned()));
            }
        };
        if single(headers, &CONTENT_ENCODING)?.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Err(Answer::error(415, "content_encoding", "bodies are taken as they are".to_owned()));
        }
        let mut check_json = false;
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match (pair, kind) {
                ("check=json", Kind::Json) => check_json = true,
                _ => {
                    let text = format!("{pair:?} means nothing here; `check=json` does, with application/x-ndjson");
                    return Err(malformed(text));
                }
            }
        }
        let epoch = number(headers, "source-epoch")?;
        let first = number(headers, "first-seq")?;
        let rejects_seen = number(headers, "rejects-seen")?;
        let sender = match (source_of(headers)?, first) {
            (Some(id), Some(first)) => {
                if first == 0 || epoch == Some(0) {
                    return Err(malformed("sequences and epochs begin at 1".to_owned()));
                }
                Some(Sender {
                    id,
                    epoch: epoch.map(SourceEpoch::new),
                    first: Seq::new(first),
                    rejects_seen: rejects_seen.map(Seq::new),
                })
            }
            (Some(_), None) => {
                return Err(malformed("with Source-Id, First-Seq says which record of the source is the first".into()));
            }
            (None, None) if epoch.is_none() && rejects_seen.is_none() => None,
            (None, _) => {
                let text = "Source-Epoch, First-Seq and Rejects-Seen mean nothing without Source-Id";
                return Err(malformed(text.to_owned()));
            }
        };
        let content_length = number(headers, CONTENT_LENGTH.as_str())?;
        Ok(Post { sender, kind, check_json, content_length })
    }
}

/// The name in `Source-Id`, byte for byte.
pub(super) fn source_of(headers: &HeaderMap) -> Result<Option<SourceId>, Answer> {
    match single(headers, &HeaderName::from_static("source-id"))? {
        None => Ok(None),
        Some(name) => SourceId::new(name).map(Some).ok_or_else(|| {
            let text = format!("Source-Id is 1 to {} bytes long, this one {}", SourceId::BYTES_MAX, name.len());
            Answer::error(400, "malformed", text)
        }),
    }
}

/// The token in `Authorization: Bearer …`; empty when there is none.
pub(super) fn token_of(headers: &HeaderMap) -> Result<&[u8], Answer> {
    let Some(value) = single(headers, &AUTHORIZATION)? else { return Ok(b"") };
    let scheme_bytes = b"bearer ".len();
    match value.split_at_checked(scheme_bytes) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        // Another scheme shows no token.
        _ => Ok(b""),
    }
}

/// A header that may stand there once. Which of two is meant cannot be known.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Answer> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.as_bytes())),
        (Some(_), Some(_)) => Err(Answer::error(400, "malformed", format!("{name} stands there more than once"))),
    }
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Answer> {
    let Some(value) = single(headers, &HeaderName::from_static(name))? else { return Ok(None) };
    // `+1` is a number to Rust.
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => {
            let text = format!("{name} is to be a number up to 2^64 - 1, not {:?}", value.escape_ascii().to_string());
            Err(Answer::error(400, "malformed", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: Method, path: &str) -> Result<Route, u16> {
        Route::of(&method, &path.parse().unwrap()).map_err(|answer| answer.status())
    }

    #[test]
    fn paths_name_streams_and_sources_byte_for_byte() {
        let post = |stream: &str| Ok(Route::Post { stream: stream.into() });
        assert_eq!(route(Method::POST, "/v1/streams/clicks"), post("clicks"));
        assert_eq!(route(Method::POST, "/v1/streams/a%2Fb%20c?check=json"), post("a/b c"));
        assert_eq!(
            route(Method::GET, "/v1/streams/s/sources/%ff%0A"),
            Ok(Route::Source { stream: b"s".to_vec(), source: b"\xff\n".to_vec() })
        );
        for path in
            ["/", "/v1/streams", "/v1/streams/", "/v1/streams/a/", "/v2/streams/a", "/v1/streams/%4", "/v1/streams/%zz"]
        {
            assert_eq!(route(Method::POST, path), Err(404), "{path}");
        }
        assert_eq!(route(Method::GET, "/v1/streams/a"), Err(405));
        assert_eq!(route(Method::DELETE, "/v1/streams/s/sources/x"), Err(405));
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_is_malformed_is_not_guessed() {
        const LINES: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
        const ID: (&str, &str) = ("source-id", "a");
        let refused = |lines: &[(&'static str, &'static str)], query| {
            Post::of(&headers(lines), query).err().map(|answer| answer.status())
        };
        assert_eq!(refused(&[LINES], None), None);
        assert_eq!(refused(&[LINES, ID, ("first-seq", "1"), ("source-epoch", "7")], None), None);
        assert_eq!(refused(&[("content-type", "application/x-ndjson")], Some("check=json")), None);
        for lines in [
            &[LINES, ID][..],
            &[LINES, ID, ("first-seq", "0")],
            &[LINES, ID, ("first-seq", "-1")],
            &[LINES, ID, ("first-seq", "+1")],
            &[LINES, ID, ("first-seq", "")],
            &[LINES, ID, ("first-seq", "18446744073709551616")],
            &[LINES, ID, ("first-seq", "1"), ("first-seq", "2")],
            &[LINES, ID, ("first-seq", "1"), ("source-epoch", "0")],
            &[LINES, ID, ID, ("first-seq", "1")],
            &[LINES, ("source-id", ""), ("first-seq", "1")],
            &[LINES, ("first-seq", "1")],
            &[LINES, ("source-epoch", "1")],
            &[LINES, ("rejects-seen", "1")],
        ] {
            assert_eq!(refused(lines, None), Some(400), "{lines:?}");
        }
        assert_eq!(refused(&[LINES], Some("check=json")), Some(400), "nothing is silently left unchecked");
        assert_eq!(refused(&[("content-type", "application/x-ndjson")], Some("check=jsn")), Some(400));
        assert_eq!(refused(&[("content-type", "text/html")], None), Some(415));
        assert_eq!(refused(&[], None), Some(415));
        assert_eq!(refused(&[LINES, ("content-encoding", "gzip")], None), Some(415));
    }

    #[test]
    fn a_token_is_what_stands_behind_bearer() {
        let token = |value| token_of(&headers(&[("authorization", value)])).unwrap().to_vec();
        assert_eq!(token("Bearer abc"), b"abc");
        assert_eq!(token("bearer  abc "), b"abc");
        assert_eq!(token("Basic abc"), b"");
        assert_eq!(token("Bear"), b"");
        assert!(token_of(&headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")])).is_err());
    }
}
