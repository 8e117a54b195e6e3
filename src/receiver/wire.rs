//! The protocol's messages as bytes.
//!
//! ```text
//! frame    0  u32 body length, at most the limit the reader has at that moment
//!          4  u8  type: 1 HELLO 2 WELCOME 3 REDIRECT 4 SEND 5 SKIP 6 ACK 7 NACK 8 PING 9 PONG 10 GOAWAY 11 BYE
//!          5  u8  flags, 0
//!          6  u16 0
//!          8  body
//!          …  u32 CRC-32C of everything before it
//!
//! HELLO    u32 magic "SWL1" · u16 oldest version · u16 newest · u64 features · u8 sequences · u8 waits for · u64 epoch
//!          · u64 told durable · text token · text stream · text source
//! WELCOME  u16 version · u64 features · u64 session · u64 epoch · u64 durable · u64 committed · u64 durable Lsn
//!          · u64 credit · u32 record max · u32 frame max · u32 records max · u32 heartbeat ms · rejects
//! REDIRECT text address · u32 retry ms
//! SEND     u64 previous · u32 records · u8 codec, 0 · u8 0 · u16 0 · payload
//! SKIP     u64 previous · u64 to
//! ACK      u64 received · u64 durable · u64 committed · u64 durable Lsn · u64 credit · u64 duplicates · rejects
//! NACK     u16 code · u8 fatal · u64 at · u64 expected · u32 retry ms · text
//! PING     u64 nonce · u64 rejects seen
//! PONG     u64 nonce
//! GOAWAY   u16 code · u32 deadline ms · text
//! BYE      nothing
//!
//! text     u16 length · bytes          rejects   u16 count · (u64 seq · u8 reason · u64 bytes) each
//! ```
//!
//! Little-endian. A body that is longer or shorter than its fields is refused.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{Ack, Code, Hello, Message, Nack, Reject, RejectReason, Send, Sequences, WaitFor, Welcome};
#[cfg(any(feature = "net", test))]
use crate::codec::Crc32c;
use crate::codec::{Checksummed, Reader, Truncated, crc32c};
use crate::types::{Lsn, Seq, SourceEpoch};

/// Bytes before a body.
pub const HEADER_BYTES: usize = 8;
/// Bytes that a frame has besides its body.
pub const FRAME_OVERHEAD_BYTES: usize = HEADER_BYTES + 4;
/// Bytes of a SEND's body before its payload.
pub(crate) const SEND_HEADER_BYTES: usize = 16;
/// An ACK's frame: the longest of those that are common, but for payloads.
const ACK_BYTES: usize = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"SWL1");
const REJECT_BYTES: usize = 17;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REDIRECT: u8 = 3;
const SEND: u8 = 4;
const SKIP: u8 = 5;
const ACK: u8 = 6;
const NACK: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;
const GOAWAY: u8 = 10;
const BYE: u8 = 11;

/// Why bytes are not taken as a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// More than the reader takes at this moment; nothing was buffered.
    #[error("a message of {bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLong {
        /// The body's length by its header.
        bytes: u64,
        /// What is taken.
        limit_bytes: u64,
    },
    /// The checksum is another.
    #[error("a message's checksum is wrong: the bytes were damaged on their way, or this is another protocol")]
    Checksum,
    /// No message has this type.
    #[error("{number} is no type of message")]
    Type {
        /// The type's number.
        number: u8,
    },
    /// Flags or padding that must be 0 are not.
    #[error("reserved bits are set: the other end speaks a version that was not agreed upon")]
    Reserved,
    /// A HELLO without the magic.
    #[error("this is no HELLO of the protocol")]
    Magic,
    /// Fields and body differ in length.
    #[error("a {what} has another length than its fields")]
    Length {
        /// The message.
        what: &'static str,
    },
    /// A field has a value that means nothing.
    #[error("a {what} has a field without a meaning")]
    Field {
        /// The message.
        what: &'static str,
    },
}

/// What the first bytes of a frame say, before anything else is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The body's length in bytes.
    pub body_bytes: u32,
    kind: u8,
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// [`WireError::Type`] and [`WireError::Reserved`].
    pub fn read(bytes: [u8; HEADER_BYTES]) -> Result<FrameHeader, WireError> {
        let [a, b, c, d, kind, flags, reserved @ ..] = bytes;
        if !(HELLO..=BYE).contains(&kind) {
            return Err(WireError::Type { number: kind });
        }
        if flags != 0 || reserved != [0, 0] {
            return Err(WireError::Reserved);
        }
        Ok(FrameHeader { body_bytes: u32::from_le_bytes([a, b, c, d]), kind })
    }

    /// Whether this is a HELLO, the only thing a session may begin with.
    #[must_use]
    pub fn is_hello(&self) -> bool {
        self.kind == HELLO
    }

    /// Whether this is a SEND.
    #[must_use]
    pub fn is_send(&self) -> bool {
        self.kind == SEND
    }

    /// Whether this is a SKIP.
    #[must_use]
    pub fn is_skip(&self) -> bool {
        self.kind == SKIP
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.body_bytes as usize + FRAME_OVERHEAD_BYTES
    }
}

/// What the head of a SEND says that is too long to be buffered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preview {
    /// The sequence before the first record.
    pub previous: Seq,
    /// How many records.
    pub records: u32,
}

impl Preview {
    /// How many bytes of the body [`preview`] needs.
    pub const BYTES: usize = SEND_HEADER_BYTES;
}

/// Reads the fixed part of a SEND's body.
///
/// # Errors
/// [`WireError::Reserved`].
pub fn preview(head: [u8; Preview::BYTES]) -> Result<Preview, WireError> {
    let mut reader = Reader::new(&head);
    read_send_head(&mut reader)
}

/// The first part of a SEND's frame appended to `out`, for those who need not copy the payload: it comes next, and the
/// returned checksum ends the frame.
#[cfg(any(feature = "net", test))]
pub(crate) fn encode_send_head(send: &Send, out: &mut BytesMut) -> [u8; 4] {
    let start = out.len();
    out.reserve(SEND_HEADER_BYTES + FRAME_OVERHEAD_BYTES);
    let body = u32::try_from(SEND_HEADER_BYTES + send.payload.len()).expect("messages are below 4 GiB: limits are u32");
    out.put_u32_le(body);
    out.put_slice(&[SEND, 0, 0, 0]);
    put_send_head(send, out);
    let mut sum = Crc32c::default();
    sum.update(&out[start..]);
    sum.update(&send.payload);
    sum.finish().to_le_bytes()
}

fn put_send_head(send: &Send, out: &mut BytesMut) {
    out.put_u64_le(send.previous.get());
    out.put_u32_le(send.records);
    out.put_u32_le(0);
}

/// Appends the message's frame to `out`.
pub fn encode(message: &Message, out: &mut BytesMut) {
    let start = out.len();
    out.reserve(ACK_BYTES + if let Message::Send(send) = message { send.payload.len() } else { 0 });
    out.put_bytes(0, HEADER_BYTES);
    let kind = match message {
        Message::Hello(hello) => {
            out.put_u32_le(MAGIC);
            out.put_u16_le(hello.version_min);
            out.put_u16_le(hello.version_max);
            out.put_u64_le(hello.features);
            out.put_u8(hello.sequences as u8);
            out.put_u8(hello.wait_for as u8);
            out.put_u64_le(hello.epoch.get());
            out.put_u64_le(hello.told_durable.get());
            put_bytes(out, &hello.token);
            put_text(out, &hello.stream);
            put_bytes(out, &hello.source);
            HELLO
        }
        Message::Welcome(welcome) => {
            out.put_u16_le(welcome.version);
            out.put_u64_le(welcome.features);
            out.put_u64_le(welcome.session);
            out.put_u64_le(welcome.epoch.get());
            out.put_u64_le(welcome.durable.get());
            out.put_u64_le(welcome.committed.get());
            out.put_u64_le(welcome.durable_lsn.get());
            out.put_u64_le(welcome.credit_bytes);
            out.put_u32_le(welcome.record_bytes_max);
            out.put_u32_le(welcome.frame_bytes_max);
            out.put_u32_le(welcome.frame_records_max);
            out.put_u32_le(welcome.heartbeat_millis);
            put_rejects(out, &welcome.rejects);
            WELCOME
        }
        Message::Redirect { address, retry_after_millis } => {
            put_text(out, address);
            out.put_u32_le(*retry_after_millis);
            REDIRECT
        }
        Message::Send(send) => {
            put_send_head(send, out);
            out.put_slice(&send.payload);
            SEND
        }
        Message::Skip { previous, to } => {
            out.put_u64_le(previous.get());
            out.put_u64_le(to.get());
            SKIP
        }
        Message::Ack(ack) => {
            out.put_u64_le(ack.received.get());
            out.put_u64_le(ack.durable.get());
            out.put_u64_le(ack.committed.get());
            out.put_u64_le(ack.durable_lsn.get());
            out.put_u64_le(ack.credit_bytes);
            out.put_u64_le(ack.duplicates);
            put_rejects(out, &ack.rejects);
            ACK
        }
        Message::Nack(nack) => {
            out.put_u16_le(nack.code as u16);
            out.put_u8(u8::from(nack.fatal));
            out.put_u64_le(nack.at.get());
            out.put_u64_le(nack.expected.get());
            out.put_u32_le(nack.retry_after_millis);
            put_text(out, &nack.text);
            NACK
        }
        Message::Ping { nonce, rejects_seen } => {
            out.put_u64_le(*nonce);
            out.put_u64_le(rejects_seen.get());
            PING
        }
        Message::Pong { nonce } => {
            out.put_u64_le(*nonce);
            PONG
        }
        Message::GoAway { code, deadline_millis, text } => {
            out.put_u16_le(*code as u16);
            out.put_u32_le(*deadline_millis);
            put_text(out, text);
            GOAWAY
        }
        Message::Bye => BYE,
    };
    let body = u32::try_from(out.len() - start - HEADER_BYTES).expect("messages are below 4 GiB: limits are u32");
    out[start..start + 4].copy_from_slice(&body.to_le_bytes());
    out[start + 4] = kind;
    let sum = crc32c(&out[start..]);
    out.put_u32_le(sum);
}

/// Reads one whole frame, as long as its header says. A SEND's payload is a part of it, not a copy.
///
/// # Errors
/// See [`WireError`]. The checksum is looked at before any field.
pub fn decode(frame: Bytes) -> Result<Message, WireError> {
    let what = "frame";
    let (head, _) = frame.split_first_chunk::<HEADER_BYTES>().ok_or(WireError::Length { what })?;
    let header = FrameHeader::read(*head)?;
    if header.frame_bytes() != frame.len() {
        return Err(WireError::Length { what });
    }
    let end = frame.len() - 4;
    let sum: [u8; 4] = frame[end..].try_into().map_err(|_| WireError::Length { what })?;
    // A SEND's payload is summed up by itself: its checksum goes with it, to the log.
    let payload_at = if header.kind == SEND { end.min(HEADER_BYTES + SEND_HEADER_BYTES) } else { end };
    let (payload, computed) = Checksummed::behind(crc32c(&frame[..payload_at]), frame.slice(payload_at..end));
    if computed != u32::from_le_bytes(sum) {
        return Err(WireError::Checksum);
    }
    let body = &frame[HEADER_BYTES..end];
    match header.kind {
        HELLO => read_hello(body).map(Message::Hello),
        WELCOME => read("WELCOME", body, |r| {
            Ok(Message::Welcome(Welcome {
                version: r.u16()?,
                features: r.u64()?,
                session: r.u64()?,
                epoch: SourceEpoch::new(r.u64()?),
                durable: Seq::new(r.u64()?),
                committed: Seq::new(r.u64()?),
                durable_lsn: Lsn::new(r.u64()?),
                credit_bytes: r.u64()?,
                record_bytes_max: r.u32()?,
                frame_bytes_max: r.u32()?,
                frame_records_max: r.u32()?,
                heartbeat_millis: r.u32()?,
                rejects: rejects(r)?,
            }))
        }),
        REDIRECT => {
            read("REDIRECT", body, |r| Ok(Message::Redirect { address: string(r)?, retry_after_millis: r.u32()? }))
        }
        SEND => {
            let mut reader = Reader::new(body);
            let Preview { previous, records } = read_send_head(&mut reader)?;
            Ok(Message::Send(Send { previous, records, payload }))
        }
        SKIP => read("SKIP", body, |r| Ok(Message::Skip { previous: Seq::new(r.u64()?), to: Seq::new(r.u64()?) })),
        ACK => read("ACK", body, |r| {
            Ok(Message::Ack(Ack {
                received: Seq::new(r.u64()?),
                durable: Seq::new(r.u64()?),
                committed: Seq::new(r.u64()?),
                durable_lsn: Lsn::new(r.u64()?),
                credit_bytes: r.u64()?,
                duplicates: r.u64()?,
                rejects: rejects(r)?,
            }))
        }),
        NACK => read("NACK", body, |r| {
            Ok(Message::Nack(Nack {
                code: Code::from_number(r.u16()?),
                fatal: flag(r)?,
                at: Seq::new(r.u64()?),
                expected: Seq::new(r.u64()?),
                retry_after_millis: r.u32()?,
                text: string(r)?,
            }))
        }),
        PING => read("PING", body, |r| Ok(Message::Ping { nonce: r.u64()?, rejects_seen: Seq::new(r.u64()?) })),
        PONG => read("PONG", body, |r| Ok(Message::Pong { nonce: r.u64()? })),
        GOAWAY => read("GOAWAY", body, |r| {
            Ok(Message::GoAway { code: Code::from_number(r.u16()?), deadline_millis: r.u32()?, text: string(r)? })
        }),
        BYE => read("BYE", body, |_| Ok(Message::Bye)),
        number => Err(WireError::Type { number }),
    }
}

/// A field is wrong in length, or in what it says.
enum FieldError {
    Length,
    Meaning,
}

impl From<Truncated> for FieldError {
    fn from(_: Truncated) -> FieldError {
        FieldError::Length
    }
}

fn read<T>(
    what: &'static str,
    body: &[u8],
    fields: impl FnOnce(&mut Reader<'_>) -> Result<T, FieldError>,
) -> Result<T, WireError> {
    let mut reader = Reader::new(body);
    let value = fields(&mut reader).map_err(|e| match e {
        FieldError::Length => WireError::Length { what },
        FieldError::Meaning => WireError::Field { what },
    })?;
    reader.finish().map_err(|_| WireError::Length { what })?;
    Ok(value)
}

fn read_hello(body: &[u8]) -> Result<Hello, WireError> {
    if body.get(..4) != Some(&MAGIC.to_le_bytes()[..]) {
        return Err(WireError::Magic);
    }
    read("HELLO", &body[4..], |r| {
        Ok(Hello {
            version_min: r.u16()?,
            version_max: r.u16()?,
            features: r.u64()?,
            sequences: sequences(r.u8()?).ok_or(FieldError::Meaning)?,
            wait_for: match r.u8()? {
                0 => WaitFor::Received,
                1 => WaitFor::Durable,
                2 => WaitFor::Committed,
                _ => return Err(FieldError::Meaning),
            },
            epoch: SourceEpoch::new(r.u64()?),
            told_durable: Seq::new(r.u64()?),
            token: text(r)?.to_vec(),
            stream: string(r)?,
            source: text(r)?.to_vec(),
        })
    })
}

fn read_send_head(reader: &mut Reader<'_>) -> Result<Preview, WireError> {
    let what = "SEND";
    let mut fields = || Ok::<_, Truncated>((reader.u64()?, reader.u32()?, reader.u32()?));
    let (previous, records, reserved) = fields().map_err(|_| WireError::Length { what })?;
    if reserved != 0 {
        return Err(WireError::Reserved);
    }
    Ok(Preview { previous: Seq::new(previous), records })
}

/// The way of numbering with this number.
pub(crate) fn sequences(number: u8) -> Option<Sequences> {
    [Sequences::Dense, Sequences::Sparse, Sequences::None].into_iter().find(|sequences| *sequences as u8 == number)
}

/// The reason with this number.
pub(crate) fn reject_reason(number: u8) -> Option<RejectReason> {
    [RejectReason::Oversized, RejectReason::Poison].into_iter().find(|reason| *reason as u8 == number)
}

/// Longer texts are for people and may be cut, between letters.
fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(usize::from(u16::MAX))]);
}

/// Names and tokens, which are never that long: a HELLO would be refused.
fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.put_u16_le(bytes.len() as u16);
    out.put_slice(bytes);
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], FieldError> {
    let length = reader.u16()?;
    Ok(reader.bytes(usize::from(length))?)
}

fn string(reader: &mut Reader<'_>) -> Result<String, FieldError> {
    String::from_utf8(text(reader)?.to_vec()).map_err(|_| FieldError::Meaning)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, FieldError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FieldError::Meaning),
    }
}

fn put_rejects(out: &mut BytesMut, rejects: &[Reject]) {
    let rejects = &rejects[..rejects.len().min(usize::from(u16::MAX))];
    out.put_u16_le(rejects.len() as u16);
    for reject in rejects {
        out.put_u64_le(reject.seq.get());
        out.put_u8(reject.reason as u8);
        out.put_u64_le(reject.bytes);
    }
}

fn rejects(reader: &mut Reader<'_>) -> Result<Vec<Reject>, FieldError> {
    let count = usize::from(reader.u16()?);
    if reader.remaining() < count * REJECT_BYTES {
        return Err(FieldError::Length);
    }
    let one = |r: &mut Reader<'_>| {
        Ok(Reject {
            seq: Seq::new(r.u64()?),
            reason: reject_reason(r.u8()?).ok_or(FieldError::Meaning)?,
            bytes: r.u64()?,
        })
    };
    (0..count).map(|_| one(reader)).collect()
}

#[cfg(test)]
mod tests;
