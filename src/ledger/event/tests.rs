use super::*;

fn range_of(input: u32, part: &'static [u8], from: u64, to: u64) -> Range {
    let opens = (from == 0).then(|| Bytes::from_static(b"a.txt"));
    Range {
        input: InputId::new(input),
        part: PartKey::new(part).unwrap(),
        opens,
        from,
        to,
        digest: 0x1122_3344_5566_7788,
        records: 3,
        bytes: to - from,
    }
}

fn every_event() -> Vec<Event> {
    let (input, batch) = (InputId::new(7), BatchId::new(9));
    vec![
        Event::LedgerCreated { ledger: LedgerId::new(0xABCD) },
        Event::DriverBegan,
        Event::InputAdded {
            input,
            kind: InputKind::Stream,
            identity: Identity(5),
            name: Bytes::from_static(b"clicks"),
            start: 1,
            digest: 2,
        },
        Event::InputRemoved { input },
        Event::PartsForgotten { input, parts: vec![PartKey::new(&b"p"[..]).unwrap(), PartKey::default()] },
        Event::BatchAllocated { batch, ranges: vec![range_of(7, b"", 1, 4), range_of(8, b"p", 0, 99)] },
        Event::BatchCommitted { batch, token: Bytes::from_static(b"token") },
        Event::BatchAbandoned { batch, reason: Bytes::from_static(b"why") },
        Event::RangeDropped { range: range_of(7, b"", 4, 6), reason: Bytes::from_static(b"rot") },
        Event::Trimmed { input, upto: 3 },
        Event::Checkpoint { index: 0, count: 2, piece: Bytes::from_static(b"state") },
        Event::InputAdopted { input, identity: Identity(6) },
    ]
}

fn envelope(event: Event) -> Envelope {
    Envelope { ballot: Ballot { round: 3, proposer: 4 }, time_micros: 5, event }
}

#[test]
fn what_is_written_is_read_back_and_nothing_less_or_more() {
    for event in every_event() {
        let bytes = envelope(event.clone()).encode();
        assert_eq!(Envelope::decode(&bytes), Ok(envelope(event.clone())));
        for cut in 0..bytes.len() {
            assert!(Envelope::decode(&bytes.slice(..cut)).is_err(), "{event:?} cut to {cut}");
        }
        let mut longer = BytesMut::from(&bytes[..]);
        longer.put_u8(0);
        assert_eq!(Envelope::decode(&longer.freeze()), Err(EventError::Length), "{event:?}");
    }
}

#[test]
fn golden_bytes() {
    // The format of ledgers that are on disks: these bytes may never change.
    let head = |kind: u8| {
        let mut head = b"SWL1".to_vec();
        head.extend([kind, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        head
    };
    let bodies: [&[u8]; 12] = [
        b"\xcd\xab\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"",
        b"\x07\0\0\0\x01\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0clicks\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
        b"\x07\0\0\0",
        b"\x07\0\0\0\x02\0\0\0\x01p\0",
        b"\x09\0\0\0\0\0\0\0\x02\0\0\0\
          \x07\0\0\0\0\0\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\
          \x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\
          \x08\0\0\0\x01p\x01\x05\0a.txt\0\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\
          \x03\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0",
        b"\x09\0\0\0\0\0\0\0\x05\0\0\0token",
        b"\x09\0\0\0\0\0\0\0\x03\0why",
        b"\x07\0\0\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\
          \x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0rot",
        b"\x07\0\0\0\x03\0\0\0\0\0\0\0",
        b"\0\0\0\0\x02\0\0\0\x05\0\0\0state",
        b"\x07\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    for (i, (event, body)) in every_event().into_iter().zip(bodies).enumerate() {
        let bytes = envelope(event).encode();
        let expected = [&head(i as u8 + 1), body].concat();
        assert_eq!(&bytes[..], &expected[..], "kind {}: {}", i + 1, bytes.escape_ascii());
    }
}

#[test]
fn what_means_nothing_is_refused() {
    let mut bytes = BytesMut::from(&envelope(Event::DriverBegan).encode()[..]);
    bytes[4] = 99;
    assert_eq!(Envelope::decode(&bytes.clone().freeze()), Err(EventError::Kind(99)));
    bytes[4] = 2;
    bytes[6] = 1;
    assert_eq!(Envelope::decode(&bytes.clone().freeze()), Err(EventError::Field));
    bytes[0] = b'X';
    assert_eq!(Envelope::decode(&bytes.freeze()), Err(EventError::Magic));
    // A count that no bytes stand behind costs no memory.
    let mut claim =
        BytesMut::from(&envelope(Event::BatchAllocated { batch: BatchId::ZERO, ranges: vec![] }).encode()[..]);
    let at = claim.len() - 4;
    claim[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Envelope::decode(&claim.freeze()), Err(EventError::Length));
}

#[test]
fn as_many_ranges_as_are_promised_have_room_in_an_event() {
    let longest = Range {
        input: InputId::new(u32::MAX),
        part: PartKey::new(vec![1; PartKey::BYTES_MAX]).unwrap(),
        opens: Some(Bytes::from(vec![b'x'; TEXT_BYTES_MAX + 1])),
        from: u64::MAX,
        to: u64::MAX,
        digest: u64::MAX,
        records: u64::MAX,
        bytes: u64::MAX,
    };
    for bytes in [4096, 16 << 10, 1 << 20] {
        let encoded = |ranges| {
            let event = Event::BatchAllocated { batch: BatchId::new(1), ranges: vec![longest.clone(); ranges] };
            Envelope { ballot: Ballot::ZERO, time_micros: 0, event }.encode().len() as u64
        };
        let most = ranges_max(bytes);
        assert!(most > 0 && encoded(most) <= bytes && encoded(most + 1) > bytes);
    }
    assert_eq!(ranges_max(0), 0);
}
