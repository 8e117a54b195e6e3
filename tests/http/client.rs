//! As little of an HTTP client as the tests need: every byte is theirs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    behind: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or_else(|| panic!("no number {name}: {self:?}"))
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, behind: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// The head of a POST whose body is to follow.
    pub(crate) fn head(path: &str, headers: &[(&str, &str)]) -> String {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("POST {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
    }

    pub(crate) fn post(&mut self, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.post_to("/v1/streams/test", headers, body)
    }

    pub(crate) fn post_to(&mut self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", &length));
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type", "text/plain"));
        }
        self.send([Client::head(path, &headers).as_bytes(), body].concat());
        self.answer()
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub(crate) fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Client::head(path, headers).replacen("POST", "GET", 1));
        self.answer()
    }

    /// The next answer; those that say only "go on" are passed over.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer before the end")
    }

    /// The status of an answer that is only a word in between.
    pub(crate) fn interim(&mut self) -> u16 {
        while !self.behind.ends_with(b"\r\n\r\n") {
            assert!(self.read(), "the end instead of a word");
        }
        let head = String::from_utf8(std::mem::take(&mut self.behind)).unwrap();
        head[9..12].parse().unwrap()
    }

    /// As `answer`; `None` when the connection ends before one.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let head_end = loop {
            match self.behind.windows(4).position(|part| part == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.read() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.behind.drain(..head_end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        if status == 100 {
            return self.try_answer();
        }
        let mut answer = Answer { status, head, text: String::new(), json: Value::Null };
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.behind.len() < length {
            assert!(self.read(), "the answer is cut: {}", answer.head);
        }
        answer.text = String::from_utf8(self.behind.drain(..length).collect()).unwrap();
        answer.json = serde_json::from_str(&answer.text).unwrap_or_default();
        Some(answer)
    }

    /// Whether the server closes, within the read timeout.
    pub(crate) fn is_closed(&mut self) -> bool {
        !self.read()
    }

    fn read(&mut self) -> bool {
        let mut some = [0; 4096];
        match self.stream.read(&mut some) {
            Ok(0) => false,
            Ok(bytes) => {
                self.behind.extend_from_slice(&some[..bytes]);
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("nothing comes: {e}"),
        }
    }
}
