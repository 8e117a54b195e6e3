//! A peer that says whatever a test wants.

use bytes::{Bytes, BytesMut};
use seawall::receiver::{
    Ack, Code, FRAME_OVERHEAD_BYTES, FrameHeader, HEADER_BYTES, Hello, Message, Nack, PayloadBuilder, Sequences,
    WaitFor, Welcome, decode, encode,
};
use seawall::{Seq, SourceEpoch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Node, soon};

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

pub(crate) fn hello(source: &str) -> Hello {
    Hello { version_min: 1, version_max: 1, source: source.into(), ..Hello::default() }
}

pub(crate) fn send(previous: u64, records: &[&[u8]]) -> Message {
    let mut payload = PayloadBuilder::new(Sequences::Dense, Seq::new(previous));
    for (seq, record) in (previous + 1..).zip(records) {
        payload.push(Seq::new(seq), record).unwrap();
    }
    Message::Send(payload.finish())
}

pub(crate) fn bytes_of(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    bytes
}

/// The head of a frame, which may lie.
pub(crate) fn head(body_bytes: u32, kind: u8) -> Vec<u8> {
    let mut head = body_bytes.to_le_bytes().to_vec();
    head.extend([kind, 0, 0, 0]);
    head
}

pub(crate) const HELLO: u8 = 1;
pub(crate) const SEND: u8 = 4;

impl Raw {
    pub(crate) async fn connect(node: &Node) -> Raw {
        let stream = TcpStream::connect(node.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream }
    }

    /// Connects and is welcomed.
    pub(crate) async fn welcomed(node: &Node, hello: Hello) -> (Raw, Welcome) {
        let mut raw = Raw::connect(node).await;
        raw.say(&Message::Hello(hello)).await;
        match raw.hear().await {
            Some(Message::Welcome(welcome)) => (raw, welcome),
            other => panic!("instead of a WELCOME: {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, message: &Message) {
        self.say_bytes(&bytes_of(message)).await;
    }

    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.expect("it takes what is said");
    }

    /// The next message; `None` at the end of the connection, which must be an orderly one.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        let mut frame = vec![0; HEADER_BYTES];
        let first = soon(self.stream.read(&mut frame)).await.expect("no reset");
        if first == 0 {
            return None;
        }
        soon(self.stream.read_exact(&mut frame[first..])).await.expect("a whole head");
        let header = FrameHeader::read(frame[..].try_into().unwrap()).expect("a head");
        assert!(header.frame_bytes() >= FRAME_OVERHEAD_BYTES);
        frame.resize(header.frame_bytes(), 0);
        soon(self.stream.read_exact(&mut frame[HEADER_BYTES..])).await.expect("a whole frame");
        Some(decode(Bytes::from(frame)).expect("a message"))
    }

    /// The next ACK that says at least this much is durable.
    pub(crate) async fn durable(&mut self, seq: u64) -> Ack {
        loop {
            match self.hear().await {
                Some(Message::Ack(ack)) if ack.durable.get() >= seq => return ack,
                Some(Message::Ack(_) | Message::Ping { .. }) => {}
                other => panic!("instead of an ACK of {seq}: {other:?}"),
            }
        }
    }

    /// The session is ended with this code, and then the connection.
    pub(crate) async fn is_refused(&mut self, code: Code) -> Nack {
        loop {
            match self.hear().await {
                Some(Message::Nack(nack)) if nack.fatal => {
                    assert_eq!(nack.code, code, "{nack:?}");
                    assert!(!nack.text.is_empty());
                    assert_eq!(self.hear().await, None, "the connection ends behind a fatal NACK");
                    return nack;
                }
                Some(Message::Ack(_) | Message::Ping { .. } | Message::Nack(_)) => {}
                other => panic!("instead of {code:?}: {other:?}"),
            }
        }
    }
}

/// A HELLO in a certain life.
pub(crate) fn in_epoch(source: &str, epoch: u64) -> Hello {
    Hello { epoch: SourceEpoch::new(epoch), ..hello(source) }
}

/// A HELLO that waits for the receiver's memory only.
pub(crate) fn at_most_once(source: &str) -> Hello {
    Hello { wait_for: WaitFor::Received, ..hello(source) }
}
