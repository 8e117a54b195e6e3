//! The protocol's messages on arbitrary bytes, which get the length and the checksum they need to be believed: what is
//! taken has one form only.
//!
//! ```text
//! input | what to make valid: 1 the length, 2 the checksum, 4 the reserved bytes | frame … |
//! ```

use bytes::{Bytes, BytesMut};
use seawall::internals as door;
use seawall::receiver::{Code, FrameHeader, HEADER_BYTES, Message, Nack, Preview, decode, encode, preview};

use super::Input;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let repair = input.byte();
    let mut frame = input.rest().to_vec();
    if frame.len() >= HEADER_BYTES + 4 {
        let end = frame.len() - 4;
        if repair & 1 != 0 {
            frame[..4].copy_from_slice(&((end - HEADER_BYTES) as u32).to_le_bytes());
        }
        if repair & 4 != 0 {
            frame[5..8].fill(0);
        }
        if repair & 2 != 0 {
            let sum = door::crc32c(&frame[..end]);
            frame[end..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    if let Some(head) = frame.get(HEADER_BYTES..HEADER_BYTES + Preview::BYTES) {
        let _ = preview(head.try_into().expect("as long as it is"));
    }
    let frame = Bytes::from(frame);
    let Ok(message) = decode(frame.clone()) else { return };
    let head = FrameHeader::read(frame[..HEADER_BYTES].try_into().expect("it was decoded")).expect("it was decoded");
    assert_eq!(head.frame_bytes(), frame.len());
    assert_eq!(head.is_send(), matches!(message, Message::Send(_)));
    assert_eq!(head.is_hello(), matches!(message, Message::Hello(_)));
    let mut again = BytesMut::new();
    encode(&message, &mut again);
    match message {
        // Numbers this version does not know become one.
        Message::Nack(Nack { code: Code::Other, .. }) | Message::GoAway { code: Code::Other, .. } => {
            assert_eq!(decode(again.freeze()), Ok(message));
        }
        _ => assert_eq!(again, frame, "one message has one form"),
    }
}
