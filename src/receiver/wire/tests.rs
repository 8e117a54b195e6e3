//! The protocol's bytes are what `PROTOCOL.md` shows, and nothing else is taken for them.

use proptest::prelude::*;

use super::*;
use crate::receiver::PayloadBuilder;

const PAGE: &str = include_str!("../PROTOCOL.md");

fn seq(number: u64) -> Seq {
    Seq::new(number)
}

fn payload(sequences: Sequences, previous: u64, records: &[(u64, &[u8])]) -> Send {
    let mut payload = PayloadBuilder::new(sequences, seq(previous));
    records.iter().for_each(|(at, record)| payload.push(seq(*at), record).unwrap());
    payload.finish()
}

#[test]
fn a_send_in_parts_is_the_same_frame() {
    for bytes in [0, 1, 100_000] {
        let send = payload(Sequences::Dense, 41, &[(42, &vec![7; bytes])]);
        let (mut whole, mut parts) = (BytesMut::new(), BytesMut::new());
        let sum = encode_send_head(&send, &mut parts);
        parts.put_slice(&send.payload);
        parts.put_slice(&sum);
        encode(&Message::Send(send), &mut whole);
        assert_eq!(whole, parts);
    }
}

/// Every message of the protocol, under the name its bytes have in `PROTOCOL.md`.
fn examples() -> Vec<(&'static str, Message)> {
    let reject = Reject { seq: seq(40), reason: RejectReason::Poison, bytes: 9 };
    vec![
        (
            "HELLO",
            Message::Hello(Hello {
                version_min: 1,
                version_max: 1,
                features: 0,
                sequences: Sequences::Dense,
                wait_for: WaitFor::Durable,
                epoch: SourceEpoch::new(3),
                told_durable: seq(41),
                token: b"tk".to_vec(),
                stream: "in".to_owned(),
                source: b"meter-7".to_vec(),
            }),
        ),
        (
            "WELCOME",
            Message::Welcome(Welcome {
                version: 1,
                features: 0,
                session: 5,
                epoch: SourceEpoch::new(3),
                durable: seq(41),
                committed: seq(30),
                durable_lsn: Lsn::new(900),
                credit_bytes: 8 << 20,
                record_bytes_max: 4 << 20,
                frame_bytes_max: (4 << 20) + 8,
                frame_records_max: 10_000,
                heartbeat_millis: 10_000,
                rejects: vec![reject],
            }),
        ),
        ("REDIRECT", Message::Redirect { address: "b:7".to_owned(), retry_after_millis: 250 }),
        ("SEND dense", Message::Send(payload(Sequences::Dense, 41, &[(42, b"ab"), (43, b"")]))),
        ("SEND sparse", Message::Send(payload(Sequences::Sparse, 41, &[(500, b"ab"), (501, b"c")]))),
        ("SEND none", Message::Send(payload(Sequences::None, 41, &[(42, b"ab")]))),
        ("SKIP", Message::Skip { previous: seq(43), to: seq(99) }),
        (
            "ACK",
            Message::Ack(Ack {
                received: seq(43),
                durable: seq(42),
                committed: seq(30),
                durable_lsn: Lsn::new(901),
                credit_bytes: (8 << 20) + 10,
                duplicates: 2,
                rejects: vec![reject],
            }),
        ),
        (
            "NACK",
            Message::Nack(Nack {
                code: Code::Gap,
                fatal: false,
                at: seq(50),
                expected: seq(43),
                retry_after_millis: 0,
                text: "gap".to_owned(),
            }),
        ),
        ("PING", Message::Ping { nonce: 7, rejects_seen: seq(40) }),
        ("PONG", Message::Pong { nonce: 7 }),
        ("GOAWAY", Message::GoAway { code: Code::Draining, deadline_millis: 30_000, text: "restart".to_owned() }),
        ("BYE", Message::Bye),
    ]
}

fn bytes_of(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(message, &mut out);
    out.freeze()
}

/// The bytes the page gives for a message: of each line of the block, what stands before the bar.
fn shown_on_the_page(name: &str) -> Vec<u8> {
    let mut lines = PAGE.lines().skip_while(|line| *line != format!("```text {name}"));
    assert!(lines.next().is_some(), "PROTOCOL.md shows no {name}");
    let digits: String = lines
        .take_while(|line| *line != "```")
        .flat_map(|line| line.split('|').next().unwrap_or("").chars().filter(|c| !c.is_whitespace()))
        .collect();
    let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_else(|e| panic!("{name}: {e}"));
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// The bytes are frozen: peers that speak this version are out there.
#[test]
fn golden_bytes_are_those_of_the_page() {
    for (name, message) in examples() {
        let bytes = bytes_of(&message);
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, shown_on_the_page(name), "{name} is {}", hex.join(" "));
        assert_eq!(decode(bytes), Ok(message), "{name}");
    }
}

#[test]
fn every_type_of_message_has_an_example() {
    let shown: std::collections::BTreeSet<u8> = examples().iter().map(|(_, message)| bytes_of(message)[4]).collect();
    assert_eq!(shown.into_iter().collect::<Vec<_>>(), (HELLO..=BYE).collect::<Vec<_>>());
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    for (name, message) in examples() {
        let bytes = bytes_of(&message);
        for cut in 0..bytes.len() {
            assert!(decode(bytes.slice(..cut)).is_err(), "{name} cut to {cut}");
        }
        let longer = [&bytes[..], b"\0"].concat();
        assert!(decode(longer.into()).is_err(), "{name} with a byte more");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = BytesMut::from(&bytes[..]);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(flipped.freeze()).is_err(), "{name} with bit {bit} flipped");
        }
    }
}

/// Behind a right checksum, fields still have to add up: these bytes were made by somebody, not damaged.
#[test]
fn lengths_and_values_that_mean_nothing_are_refused() {
    let reseal = |mut bytes: Vec<u8>| {
        let end = bytes.len();
        bytes[..4].copy_from_slice(&((end - HEADER_BYTES) as u32).to_le_bytes());
        bytes.extend(crc32c(&bytes).to_le_bytes());
        decode(bytes.into())
    };
    for (name, message) in examples() {
        let whole = bytes_of(&message);
        let frame = &whole[..whole.len() - 4];
        assert_eq!(reseal(frame.to_vec()), Ok(message.clone()), "{name}");
        if matches!(message, Message::Send(_)) {
            continue; // Its payload is looked at where its numbering is known.
        }
        for cut in HEADER_BYTES..frame.len() {
            assert!(reseal(frame[..cut].to_vec()).is_err(), "{name} cut to {cut}");
        }
        assert!(reseal([frame, b"\0"].concat()).is_err(), "{name} with a byte more");
    }
    let changed = |name: &str, at: usize, to: u8| {
        let (_, message) = examples().into_iter().find(|(shown, _)| *shown == name).unwrap();
        let whole = bytes_of(&message);
        let mut frame = whole[..whole.len() - 4].to_vec();
        frame[at] = to;
        reseal(frame)
    };
    assert_eq!(changed("HELLO", 8, b'X'), Err(WireError::Magic));
    assert_eq!(changed("HELLO", 24, 3), Err(WireError::Field { what: "HELLO" }), "numbering");
    assert_eq!(changed("HELLO", 25, 3), Err(WireError::Field { what: "HELLO" }), "watermark");
    assert_eq!(changed("HELLO", 48, 0xFF), Err(WireError::Field { what: "HELLO" }), "a stream that is no UTF-8");
    assert_eq!(changed("NACK", 10, 2), Err(WireError::Field { what: "NACK" }), "fatal is neither 0 nor 1");
    assert_eq!(changed("ACK", 66, 0), Err(WireError::Field { what: "ACK" }), "a reject's reason");
    assert_eq!(changed("SEND dense", 20, 1), Err(WireError::Reserved), "a codec");
    assert_eq!(changed("BYE", 4, 12), Err(WireError::Type { number: 12 }));
    assert_eq!(changed("BYE", 4, 0), Err(WireError::Type { number: 0 }));
    assert_eq!(changed("BYE", 5, 1), Err(WireError::Reserved), "a flag");
    assert_eq!(changed("BYE", 7, 1), Err(WireError::Reserved), "padding");
}

#[test]
fn the_head_of_a_long_send_is_read_before_its_payload() {
    let send = bytes_of(&Message::Send(payload(Sequences::Dense, 41, &[(42, b"ab"), (43, b"")])));
    let header = FrameHeader::read(send[..HEADER_BYTES].try_into().unwrap()).unwrap();
    assert!(header.is_send() && !header.is_hello());
    assert_eq!(header.frame_bytes(), send.len());
    let head = send[HEADER_BYTES..HEADER_BYTES + Preview::BYTES].try_into().unwrap();
    assert_eq!(preview(head), Ok(Preview { previous: seq(41), records: 2 }));
}

/// The checksum of a long payload is computed apart from the rest.
#[test]
fn any_bit_of_a_long_send_counts() {
    let whole = bytes_of(&Message::Send(payload(Sequences::Dense, 41, &[(42, &[7; 5000]), (43, &[8; 4000])])));
    let Ok(Message::Send(send)) = decode(whole.clone()) else { panic!("it is whole") };
    assert_eq!(send.payload.crc(), Some(crc32c(&send.payload)));
    assert!(send.payload.len() > 9000 && send.payload[4..5004] == [7; 5000]);
    let payload_at = whole.len() - 4 - send.payload.len();
    for at in [HEADER_BYTES, payload_at - 5, payload_at, payload_at + 4500, whole.len() - 5, whole.len() - 1] {
        for bit in 0..8 {
            let mut changed = whole.to_vec();
            changed[at] ^= 1 << bit;
            assert_eq!(decode(changed.into()), Err(WireError::Checksum), "bit {bit} of byte {at}");
        }
    }
}

/// Other implementations act on these numbers.
#[test]
fn numbers_of_codes_and_reasons_are_frozen() {
    use Code::*;
    let frozen = [
        (Protocol, 1),
        (Version, 2),
        (Unauthorized, 3),
        (UnknownStream, 4),
        (OldEpoch, 5),
        (Replaced, 6),
        (Retired, 7),
        (Gap, 8),
        (Mismatch, 9),
        (AckedLoss, 10),
        (Oversized, 11),
        (Poison, 12),
        (Credit, 13),
        (TooMany, 14),
        (RejectsUnseen, 15),
        (Full, 16),
        (Draining, 17),
        (Timeout, 18),
        (Unavailable, 19),
        (Limit, 20),
    ];
    assert_eq!(frozen.map(|(code, _)| code), Code::ALL);
    for (code, number) in frozen {
        assert_eq!((code as u16, Code::from_number(number)), (number, code));
        assert!(PAGE.contains(&format!("| {number} | {code:?} |")), "PROTOCOL.md does not tell of {number} {code:?}");
    }
    assert_eq!(Code::from_number(21), Code::Other);
    assert_eq!([Sequences::Dense as u8, Sequences::Sparse as u8, Sequences::None as u8], [0, 1, 2]);
    assert_eq!([WaitFor::Received as u8, WaitFor::Durable as u8, WaitFor::Committed as u8], [0, 1, 2]);
    assert_eq!([RejectReason::Oversized as u8, RejectReason::Poison as u8], [1, 2]);
}

/// Words for people may be cut, but not in the middle of a letter: the message would be refused as a whole.
#[test]
fn a_long_text_is_cut_between_letters() {
    let text = "x".to_owned() + &"ü".repeat(40_000);
    let message = Message::GoAway { code: Code::Draining, deadline_millis: 1, text: text.clone() };
    let Ok(Message::GoAway { text: cut, .. }) = decode(bytes_of(&message)) else { panic!("refused") };
    assert!(cut.len() >= 65_530 && text.starts_with(&cut), "{}", cut.len());
}

fn any_seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq::new)
}

fn any_code() -> impl Strategy<Value = Code> {
    (1..=20u16).prop_map(Code::from_number)
}

fn any_rejects() -> impl Strategy<Value = Vec<Reject>> {
    let one = (any_seq(), any::<bool>(), any::<u64>()).prop_map(|(seq, poison, bytes)| {
        let reason = if poison { RejectReason::Poison } else { RejectReason::Oversized };
        Reject { seq, reason, bytes }
    });
    prop::collection::vec(one, 0..5)
}

fn any_message() -> impl Strategy<Value = Message> {
    let short = || prop::collection::vec(any::<u8>(), 0..40);
    let text = || ".{0,20}";
    let numbers = || any::<[u64; 6]>();
    prop_oneof![
        (numbers(), 0..3u8, 0..3u8, short(), text(), short()).prop_map(
            |(n, numbering, waits, token, stream, source)| {
                let wait_for = [WaitFor::Received, WaitFor::Durable, WaitFor::Committed][usize::from(waits)];
                Message::Hello(Hello {
                    version_min: n[0] as u16,
                    version_max: n[1] as u16,
                    features: n[2],
                    sequences: sequences(numbering).unwrap(),
                    wait_for,
                    epoch: SourceEpoch::new(n[3]),
                    told_durable: seq(n[4]),
                    token,
                    stream,
                    source,
                })
            }
        ),
        (numbers(), numbers(), any_rejects()).prop_map(|(n, m, rejects)| {
            Message::Welcome(Welcome {
                version: n[0] as u16,
                features: n[1],
                session: n[2],
                epoch: SourceEpoch::new(n[3]),
                durable: seq(n[4]),
                committed: seq(n[5]),
                durable_lsn: Lsn::new(m[0]),
                credit_bytes: m[1],
                record_bytes_max: m[2] as u32,
                frame_bytes_max: m[3] as u32,
                frame_records_max: m[4] as u32,
                heartbeat_millis: m[5] as u32,
                rejects,
            })
        }),
        (text(), any::<u32>())
            .prop_map(|(address, retry_after_millis)| Message::Redirect { address, retry_after_millis }),
        (any_seq(), any::<u32>(), short()).prop_map(|(previous, records, payload)| Message::Send(Send {
            previous,
            records,
            payload: Bytes::from(payload).into()
        })),
        (any_seq(), any_seq()).prop_map(|(previous, to)| Message::Skip { previous, to }),
        (numbers(), any_rejects()).prop_map(|(n, rejects)| {
            Message::Ack(Ack {
                received: seq(n[0]),
                durable: seq(n[1]),
                committed: seq(n[2]),
                durable_lsn: Lsn::new(n[3]),
                credit_bytes: n[4],
                duplicates: n[5],
                rejects,
            })
        }),
        (any_code(), any::<bool>(), any_seq(), any_seq(), any::<u32>(), text()).prop_map(
            |(code, fatal, at, expected, retry_after_millis, text)| {
                Message::Nack(Nack { code, at, expected, retry_after_millis, fatal, text })
            }
        ),
        (any::<u64>(), any_seq()).prop_map(|(nonce, rejects_seen)| Message::Ping { nonce, rejects_seen }),
        any::<u64>().prop_map(|nonce| Message::Pong { nonce }),
        (any_code(), any::<u32>(), text()).prop_map(|(code, deadline_millis, text)| Message::GoAway {
            code,
            deadline_millis,
            text
        }),
        Just(Message::Bye),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in any_message(), before in 0..3usize) {
        let mut out = BytesMut::from(&[0xAA; 3][..before]);
        encode(&message, &mut out);
        prop_assert_eq!(decode(out.freeze().slice(before..)), Ok(message));
    }

    /// Bytes with a right checksum are a message, or refused: and a message has one form only.
    #[test]
    fn whatever_is_decoded_is_encoded_the_same(kind in 1..=11u8, body in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut frame = BytesMut::new();
        frame.put_u32_le(body.len() as u32);
        frame.put_slice(&[kind, 0, 0, 0]);
        frame.put_slice(&body);
        let sum = crc32c(&frame);
        frame.put_u32_le(sum);
        let frame = frame.freeze();
        if let Ok(message) = decode(frame.clone())
            && !matches!(message, Message::Nack(Nack { code: Code::Other, .. }) | Message::GoAway { code: Code::Other, .. })
        {
            prop_assert_eq!(bytes_of(&message), frame);
        }
    }
}
