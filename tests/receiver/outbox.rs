//! One story each of a source's end: what went wrong once, or would.

use std::time::Duration;

use bytes::Bytes;
use seawall::SourceEpoch;
use seawall::receiver::{
    Ack, Code, Hello, Lost, Message, Nack, Outbox, OutboxConfig, OutboxError, OutboxOutput, Reject, RejectReason,
    Sequences, WaitFor, Welcome,
};

use crate::bed::{Bed, carried, hello, id, seq, small};

const SECOND: Duration = Duration::from_secs(1);

/// The outbox of "s", whose connection stands.
fn connected(config: OutboxConfig) -> Outbox {
    let mut outbox = Outbox::new(OutboxConfig { source: Some(id("s")), ..config });
    outbox.connect();
    outbox
}

/// An outbox that was welcomed.
fn welcomed(bed: &Bed, config: OutboxConfig, welcome: Welcome) -> Outbox {
    let mut outbox = connected(config);
    outbox.handle(bed.now, Message::Welcome(welcome));
    outbox
}

/// Its connection is lost, and it is welcomed on another.
fn comes_back(bed: &Bed, outbox: &mut Outbox, welcome: Welcome) {
    outbox.disconnected();
    outbox.connect();
    outbox.handle(bed.now, Message::Welcome(welcome));
}

/// A receiver that has an earlier life's records up to `expected`.
fn mismatch(expected: u64) -> Message {
    let (at, expected) = (seq(10), seq(expected));
    Message::Nack(Nack { code: Code::Mismatch, at, expected, retry_after_millis: 0, fatal: false, text: String::new() })
}

fn welcome(durable: u64) -> Welcome {
    Welcome {
        version: 1,
        epoch: SourceEpoch::new(1),
        durable: seq(durable),
        credit_bytes: 4096,
        record_bytes_max: 1000,
        frame_bytes_max: 2048,
        frame_records_max: 100,
        heartbeat_millis: 10_000,
        ..Welcome::default()
    }
}

/// What the outbox says now.
pub(crate) fn said(bed: &Bed, outbox: &mut Outbox) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(OutboxOutput::Message(message)) = outbox.poll_output(bed.now) {
        all.push(carried(&message));
    }
    all
}

fn ack(received: u64, durable: u64) -> Message {
    Message::Ack(Ack { received: seq(received), durable: seq(durable), credit_bytes: 4096, ..Ack::default() })
}

/// A source that is told to go on elsewhere and asked for patience sent at once, and was refused at once, in a loop.
#[test]
fn an_outbox_waits_as_long_as_it_is_asked_to() {
    let mut bed = Bed::new(small());
    let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(0));
    outbox.push(Bytes::from_static(b"x")).unwrap();
    assert!(matches!(said(&bed, &mut outbox)[..], [Message::Send(_)]));
    let nack = Nack {
        code: Code::RejectsUnseen,
        at: seq(1),
        expected: seq(0),
        retry_after_millis: 100,
        fatal: false,
        text: String::new(),
    };
    outbox.handle(bed.now, Message::Nack(nack));
    assert_eq!(said(&bed, &mut outbox), []);
    let until = outbox.next_deadline().unwrap();
    assert_eq!(until, bed.now + Duration::from_millis(100));
    bed.now = until;
    assert!(matches!(said(&bed, &mut outbox)[..], [Message::Send(_)]));
    assert!(outbox.next_deadline().unwrap() > bed.now, "what has passed is no deadline");
}

/// A source that leaves out what an earlier life had skipped was refused for ever: its record begins before that.
#[test]
fn an_outbox_goes_on_behind_what_an_earlier_life_had_skipped() {
    let mut bed = Bed::new(small());
    let sparsely = || Hello { sequences: Sequences::Sparse, ..hello("s", 7) };
    let (key, _) = bed.open(sparsely());
    bed.say(key, Message::Skip { previous: seq(0), to: seq(100) });
    let config = OutboxConfig { sequences: Sequences::Sparse, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    outbox.push_at(seq(120), Bytes::from_static(b"120")).unwrap();
    for _ in 0..2 {
        for message in said(&bed, &mut outbox) {
            bed.say(key, message);
        }
        for message in bed.heard(key) {
            outbox.handle(bed.now, message);
        }
    }
    assert_eq!(bed.intake.positions(key).unwrap().0, seq(120));
}

/// An earlier life's record that this one leaves out was received, and lost with the receiver's memory: the source took
/// that for a loss of its own, and gave up.
#[test]
fn an_outbox_goes_back_before_what_an_earlier_life_had_sent() {
    let bed = Bed::new(small());
    let config = OutboxConfig { sequences: Sequences::Sparse, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(10));
    outbox.push_at(seq(20), Bytes::from_static(b"20")).unwrap();
    said(&bed, &mut outbox);
    outbox.handle(bed.now, mismatch(15));
    let previous = |outbox: &mut Outbox| match &said(&bed, outbox)[..] {
        [Message::Send(send)] => send.previous,
        other => panic!("{other:?}"),
    };
    assert_eq!(previous(&mut outbox), seq(15));
    comes_back(&bed, &mut outbox, welcome(10));
    assert_eq!(outbox.failure(), None);
    assert_eq!(previous(&mut outbox), seq(10));
}

/// The same behind a record of this life, and in a SEND of its own: the receiver took it for one that was on its way, passed it
/// over, and the source waited for ever.
#[test]
fn an_outbox_forgets_where_an_earlier_life_had_been_when_the_receiver_does() {
    let bed = Bed::new(small());
    // One record a SEND.
    let config = OutboxConfig { sequences: Sequences::Sparse, send_bytes: 1, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(10));
    for n in [20, 60, 120] {
        outbox.push_at(seq(n), Bytes::from_static(b"record")).unwrap();
    }
    let chain = |outbox: &mut Outbox| -> Vec<u64> {
        let said = said(&bed, outbox);
        said.iter().filter_map(|m| if let Message::Send(send) = m { Some(send.previous.get()) } else { None }).collect()
    };
    assert_eq!(chain(&mut outbox), [10, 20, 60]);
    outbox.handle(bed.now, mismatch(100));
    assert_eq!(chain(&mut outbox), [100]);
    comes_back(&bed, &mut outbox, welcome(10));
    assert_eq!(chain(&mut outbox), [10, 20, 60]);
}

/// What was skipped on behalf of records that were let go was itself let go, unsent.
#[test]
fn a_bridge_over_records_lost_at_most_once_is_sent() {
    let mut bed = Bed::new(small());
    let config = OutboxConfig { wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    (0..3).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(2, 0));
    comes_back(&bed, &mut outbox, welcome(1));
    let [Message::Skip { previous, to }, Message::Send(send)] = &said(&bed, &mut outbox)[..] else { panic!() };
    assert_eq!((*previous, *to, send.previous), (seq(1), seq(2), seq(2)));
    bed.pass(SECOND);
}

/// The SKIP over lost records became durable, and the records were said to be.
#[test]
fn durable_is_not_said_of_records_lost_at_most_once() {
    let bed = Bed::new(small());
    let config = OutboxConfig { wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    let push = |outbox: &mut Outbox| assert!(outbox.push(Bytes::from_static(b"r")).is_ok());
    (0..3).for_each(|_| push(&mut outbox));
    said(&bed, &mut outbox);
    let meets_again = |outbox: &mut Outbox, durable| {
        outbox.disconnected();
        outbox.connect();
        let Message::Hello(hello) = outbox.hello() else { panic!() };
        outbox.handle(bed.now, Message::Welcome(welcome(durable)));
        said(&bed, outbox);
        hello.told_durable
    };
    outbox.handle(bed.now, ack(2, 0));
    assert_eq!(meets_again(&mut outbox, 1), seq(0));
    outbox.handle(bed.now, ack(3, 3));
    assert_eq!(outbox.positions().durable, seq(1), "2 is lost");
    assert_eq!((outbox.positions().received, outbox.positions().told_durable), (seq(3), seq(3)));
    assert_eq!(outbox.take_lost(), [Lost { previous: seq(1), to: seq(2) }]);
    assert_eq!(outbox.take_lost(), [], "told once");
    // A receiver that loses what it has told is found out all the same.
    assert_eq!(meets_again(&mut outbox, 3), seq(3));

    // Lost again, and once more before the SKIP was heard of: each record is told once.
    (0..3).for_each(|_| push(&mut outbox));
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(5, 3));
    meets_again(&mut outbox, 4);
    outbox.handle(bed.now, ack(6, 4));
    meets_again(&mut outbox, 4);
    outbox.handle(bed.now, ack(6, 6));
    assert_eq!(outbox.take_lost(), [Lost { previous: seq(4), to: seq(6) }]);
    assert_eq!(outbox.positions().durable, seq(1));
    assert_eq!(outbox.failure(), None);
}

/// Who never asks what was lost does not make the outbox remember all of it.
#[test]
fn losses_that_nobody_asks_for_grow_together() {
    let bed = Bed::new(small());
    let config = OutboxConfig { wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    for round in 0..1000 {
        (0..2).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
        said(&bed, &mut outbox);
        outbox.handle(bed.now, ack(2 * round + 2, 2 * round));
        comes_back(&bed, &mut outbox, welcome(2 * round + 1));
        said(&bed, &mut outbox);
        outbox.handle(bed.now, ack(2 * round + 2, 2 * round + 2));
    }
    let lost = outbox.take_lost();
    assert!(lost.len() < 100, "{}", lost.len());
    assert_eq!(lost[0], Lost { previous: seq(1), to: seq(2) });
    assert_eq!(lost.last().unwrap().to, seq(2000));
}

/// An earlier life's records that were still on their way were taken for a receiver that lies.
#[test]
fn an_outbox_that_goes_on_with_an_epoch_hears_of_records_it_never_sent() {
    let bed = Bed::new(small());
    let goes_on = OutboxConfig { epoch: SourceEpoch::new(1), ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, goes_on, welcome(5));
    outbox.handle(bed.now, ack(8, 5));
    outbox.handle(bed.now, ack(8, 8));
    assert_eq!(outbox.failure(), None);
    assert_eq!(outbox.push(Bytes::from_static(b"the sixth, again")), Ok(seq(6)));
    assert_eq!(outbox.held_bytes(), 0, "the receiver has it");
    // In an epoch of its own it is a lie.
    let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(5));
    outbox.handle(bed.now, ack(8, 5));
    assert!(matches!(outbox.failure(), Some(OutboxError::Protocol(_))));
}

/// Without sequences, a second session's count was added to records of the first of which nothing was known.
#[test]
fn durable_is_not_said_of_records_a_lost_session_left_behind() {
    let bed = Bed::new(small());
    let config = OutboxConfig { sequences: Sequences::None, wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    (0..3).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(3, 1));
    assert_eq!(outbox.positions().durable, seq(1));
    comes_back(&bed, &mut outbox, welcome(0));
    outbox.push(Bytes::from_static(b"r")).unwrap();
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(1, 1));
    assert_eq!(outbox.positions().durable, seq(1), "2 and 3 may be lost");
    assert_eq!(outbox.positions().received, seq(4));
}

/// A GOAWAY before the WELCOME was taken for a breach of the protocol, and the source never came back.
#[test]
fn a_receiver_may_go_away_before_it_has_welcomed() {
    let mut bed = Bed::new(small());
    let mut outbox = connected(OutboxConfig::default());
    let key = bed.connect();
    bed.intake.drain(bed.now, SECOND, "restart");
    bed.say(key, outbox.hello());
    for message in bed.heard(key) {
        outbox.handle(bed.now, message);
    }
    assert_eq!(outbox.failure(), None);
    bed.pass(SECOND);
    bed.intake.tick(bed.now, key);
    for message in bed.heard(key) {
        outbox.handle(bed.now, message);
    }
    assert!(matches!(outbox.poll_output(bed.now), Some(OutboxOutput::Reconnect { .. })));
}

/// The other side of it: what is held is not done, whatever the receiver says.
#[test]
fn an_outbox_does_not_close_over_what_it_holds() {
    let bed = Bed::new(small());
    let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(0));
    outbox.push(Bytes::from_static(b"1")).unwrap();
    outbox.close();
    assert!(matches!(said(&bed, &mut outbox)[..], [Message::Send(_), Message::Bye]));
    outbox.handle(bed.now, Message::Bye);
    assert!(matches!(outbox.poll_output(bed.now), Some(OutboxOutput::Reconnect { .. })));
}

/// The connection may be gone before anybody asks the outbox what its last words mean: it said HELLO and BYE for ever.
#[test]
fn an_outbox_that_is_done_stays_done() {
    let bed = Bed::new(small());
    let config = OutboxConfig { wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    outbox.push(Bytes::from_static(b"1")).unwrap();
    outbox.close();
    assert!(matches!(said(&bed, &mut outbox)[..], [Message::Send(_), Message::Bye]));
    outbox.handle(bed.now, ack(1, 0));
    outbox.handle(bed.now, Message::Bye);
    outbox.disconnected();
    assert_eq!(outbox.positions().received, seq(1), "and does not take back what it said");
    assert_eq!(outbox.poll_output(bed.now), Some(OutboxOutput::Close));
    assert_eq!(outbox.failure(), None);
}

/// A receiver that has less than it said, and does not find out itself.
#[test]
fn an_outbox_does_not_go_on_behind_a_loss() {
    let bed = Bed::new(small());
    let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(0));
    (0..3).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(3, 2));
    comes_back(&bed, &mut outbox, welcome(1));
    assert!(matches!(outbox.failure(), Some(OutboxError::AckedLoss { .. })), "{:?}", outbox.failure());
    assert_eq!(outbox.poll_output(bed.now), Some(OutboxOutput::Close));
}

/// The word that a reject was seen was lost with a connection, and never said again: no more were recorded.
#[test]
fn an_outbox_repeats_that_it_has_seen_a_reject() {
    let bed = Bed::new(small());
    let told = Reject { seq: seq(5), reason: RejectReason::Poison, bytes: 1 };
    let again = || Welcome { rejects: vec![told], ..welcome(5) };
    let mut outbox = welcomed(&bed, OutboxConfig::default(), again());
    assert_eq!(outbox.take_rejects(), [told]);
    let seen = Message::Ping { nonce: 1, rejects_seen: seq(5) };
    assert_eq!(said(&bed, &mut outbox), std::slice::from_ref(&seen));
    comes_back(&bed, &mut outbox, again());
    assert_eq!(said(&bed, &mut outbox), [seen]);
    assert_eq!(outbox.take_rejects(), [], "told once");
}

/// Without sequences every life counts its own records from 1: what an earlier one was told to be durable was taken for this
/// one's first records, which were let go of unsent, as stored.
#[test]
fn what_an_earlier_life_was_told_is_not_this_one_s_without_sequences() {
    let bed = Bed::new(small());
    for wait_for in [WaitFor::Received, WaitFor::Durable] {
        let config = OutboxConfig { sequences: Sequences::None, told_durable: seq(3), wait_for, ..Default::default() };
        let mut outbox = Outbox::new(config);
        assert_eq!(outbox.push(Bytes::from_static(b"x")), Ok(seq(1)));
        assert!(outbox.held_bytes() > 0, "nobody was ever connected");
        comes_back(&bed, &mut outbox, welcome(0));
        assert_eq!((outbox.positions().durable, outbox.positions().received), (seq(0), seq(0)));
        assert!(matches!(said(&bed, &mut outbox)[..], [Message::Send(_)]));
    }
}

/// Somebody else sent in the epoch that was given to this outbox: their record was taken for the one of that sequence that it
/// held or was given then, which was let go of unsent, as stored.
#[test]
fn an_outbox_does_not_take_what_somebody_else_sent_for_its_own() {
    let bed = Bed::new(small());
    let has_sent_six = || {
        let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(5));
        outbox.push(Bytes::from_static(b"6")).unwrap();
        said(&bed, &mut outbox);
        outbox.handle(bed.now, ack(6, 6));
        assert_eq!(outbox.failure(), None);
        outbox
    };
    let is_told = |outbox: &Outbox| matches!(outbox.failure(), Some(OutboxError::Protocol(_)));

    let mut outbox = has_sent_six();
    outbox.disconnected();
    outbox.push(Bytes::from_static(b"7")).unwrap();
    outbox.connect();
    outbox.handle(bed.now, Message::Welcome(welcome(7)));
    assert!(is_told(&outbox), "7 was never sent");
    assert!(outbox.held_bytes() > 0);
    assert_eq!(outbox.positions().durable, seq(6));

    // It was given behind the WELCOME.
    let mut outbox = has_sent_six();
    comes_back(&bed, &mut outbox, welcome(7));
    assert!(is_told(&outbox) && outbox.push(Bytes::from_static(b"7")).is_err());

    // Or it waits for credit.
    let mut outbox = welcomed(&bed, OutboxConfig::default(), Welcome { credit_bytes: 5, ..welcome(5) });
    (0..2).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
    assert!(matches!(&said(&bed, &mut outbox)[..], [Message::Send(send)] if send.records == 1));
    outbox.handle(bed.now, ack(7, 7));
    assert!(is_told(&outbox), "7 was never sent");

    // What was sent, or skipped, and not heard of is its own, whatever came of the connection.
    let mut outbox = has_sent_six();
    outbox.push(Bytes::from_static(b"7")).unwrap();
    outbox.skip(seq(9)).unwrap();
    said(&bed, &mut outbox);
    comes_back(&bed, &mut outbox, welcome(9));
    assert_eq!((outbox.failure(), outbox.held_bytes()), (None, 0));
}

/// The receiver's limit was forgotten with a connection: a record that is too long was taken meanwhile, and what was to be an
/// error for whoever pushed it ended the outbox with all that it held.
#[test]
fn a_record_too_long_is_refused_also_between_two_connections() {
    let bed = Bed::new(small());
    let mut outbox = welcomed(&bed, OutboxConfig::default(), welcome(0));
    let long = || Bytes::from(vec![7; 1001]);
    let expected = Err(OutboxError::TooLarge { bytes: 1001, limit_bytes: 1000 });
    assert_eq!(outbox.push(long()), expected);
    outbox.disconnected();
    assert_eq!(outbox.push(long()), expected);
    outbox.connect();
    assert_eq!(outbox.push(long()), expected);
    outbox.handle(bed.now, Message::Welcome(Welcome { record_bytes_max: 1001, ..welcome(0) }));
    assert_eq!(outbox.push(long()), Ok(seq(1)));
}

/// Before the first WELCOME there is no limit of the receiver's: a record that no message can carry was taken, and the sender
/// panicked, or sent a message without records.
#[test]
fn a_record_that_no_message_carries_is_never_taken() {
    let config = OutboxConfig { sequences: Sequences::None, held_bytes_max: u64::MAX, ..OutboxConfig::default() };
    let mut outbox = Outbox::new(config);
    let limit_bytes = u64::from(u32::MAX) - 64;
    // Nothing of it is touched, so that it takes no memory.
    let bytes = limit_bytes + 1;
    let map = memmap2::MmapOptions::new().len(bytes as usize).no_reserve_swap().map_anon().unwrap();
    let record = Bytes::from_owner(map);
    assert_eq!(outbox.push(record.clone()), Err(OutboxError::TooLarge { bytes, limit_bytes }));
    assert_eq!(outbox.push(record.slice(1..)), Ok(seq(1)));
}

/// Without sequences, a source that waits for `received` and had let go of everything was told nothing until the receiver spoke
/// of itself, a heartbeat later.
#[test]
fn what_was_let_go_of_had_been_received_also_behind_a_reconnect() {
    let bed = Bed::new(small());
    let config = OutboxConfig { sequences: Sequences::None, wait_for: WaitFor::Received, ..OutboxConfig::default() };
    let mut outbox = welcomed(&bed, config, welcome(0));
    (0..3).for_each(|_| assert!(outbox.push(Bytes::from_static(b"r")).is_ok()));
    said(&bed, &mut outbox);
    outbox.handle(bed.now, ack(2, 0));
    comes_back(&bed, &mut outbox, welcome(0));
    assert_eq!((outbox.positions().received, outbox.positions().durable), (seq(2), seq(0)));
}

/// 256 records of 1 KiB were two SENDs, of 255 and 1: two blocks, and two writes of the device.
#[test]
fn a_short_rest_goes_with_the_send_before_it() {
    let bed = Bed::new(small());
    let sends = |records: usize| -> Vec<u32> {
        let config = OutboxConfig { send_bytes: 400, ..OutboxConfig::default() };
        let mut outbox = welcomed(&bed, config, welcome(0));
        // 40 bytes each, with what stands before it.
        (0..records).for_each(|_| _ = outbox.push(vec![7; 36].into()).unwrap());
        let records = |message| if let Message::Send(send) = message { send.records } else { 0 };
        said(&bed, &mut outbox).into_iter().map(records).collect()
    };
    assert_eq!(sends(10), [10]);
    assert_eq!(sends(11), [11]);
    assert_eq!(sends(12), [10, 2]);
    assert_eq!(sends(31), [10, 10, 11]);
}
