//! What a session may send and what the receiver holds of it: credit, room, the rate.

use std::time::Duration;

use bytes::Bytes;
use seawall::receiver::{
    Code, Hello, Intake, Message, Outbox, OutboxConfig, Poison, ReceiverConfig, Reservation, SessionKey, WaitFor,
};
use seawall::{Ballot, Lsn};

use crate::bed::{Bed, dense, hello, id, pass_by, ping, replay, roomy, seq, small};
use crate::outbox::said;

const SECOND: Duration = Duration::from_secs(1);

/// SENDs that are passed over gave their credit back in silence: a source without any left waited for the heartbeat.
#[test]
fn credit_that_comes_back_from_what_was_passed_over_is_told() {
    let mut bed = Bed::new(small());
    let (key, welcome) = bed.open(hello("s", 0));
    let record = [b'r'; 1000];
    for n in 0..4 {
        bed.send(key, dense(5 + n, &[&record]));
    }
    let ack = bed.last_ack(key).expect("an ACK");
    assert_eq!(ack.credit_bytes, welcome.credit_bytes + 4 * 1004);
}

/// Credit was told half a window at a time: less than a record might be left, and nothing moved before a heartbeat.
#[test]
fn a_source_that_waits_for_received_hears_of_credit_before_it_runs_out() {
    let mut bed = Bed::new(ReceiverConfig { session_window_bytes: 2048, ..small() });
    let (key, welcome) = bed.open(Hello { wait_for: WaitFor::Received, ..hello("s", 0) });
    bed.send(key, dense(0, &[&[b'r'; 996]]));
    assert_eq!(bed.last_ack(key).unwrap().credit_bytes, welcome.credit_bytes);
    bed.settle();
    let ack = bed.last_ack(key).expect("an ACK: the next SEND may need more than is left");
    assert_eq!(ack.credit_bytes, welcome.credit_bytes + 1000);
}

/// One part told all of a source's rejects, however many: more than the log takes as one record.
#[test]
fn no_block_is_longer_than_the_log_was_told() {
    let config = ReceiverConfig { rejects_unseen_max: 2000, poison: Poison::DeadLetter, ..small() };
    let mut bed = Bed::new(config.clone());
    let (key, _) = bed.open(hello("s", 0));
    for n in 0..2000 {
        bed.send(key, dense(n, &[b"x"]));
        bed.settle();
        assert!(bed.last_ack(key).is_some(), "of credit too");
    }
    bed.intake.request_snapshot(seawall::Lsn::MAX);
    bed.send(key, dense(2000, &[b"r"]));
    for _ in 0..50 {
        bed.append();
        bed.flush();
    }
    let longest = bed.blocks.iter().map(Bytes::len).max().unwrap() as u64;
    assert!(longest <= config.block_bytes_max + 256, "{longest}");
    assert!(longest <= config.frame_of_log_bytes_max());
    assert!(bed.intake.trim_bound() > Lsn::ZERO, "the snapshot is whole");
    let from = bed.intake.trim_bound().get() as usize - 1;
    let (sources, _) = replay(&[&vec![bed.blocks[from].clone(); from], &bed.blocks[from..]].concat());
    assert_eq!(sources.durable(&id("s")), Some(seq(2001)));
    let mut bed = bed.restart();
    let (_, welcome) = bed.open(hello("s", 0));
    assert_eq!(welcome.rejects.len(), 2000);
}

/// A session that waits for room was neither read nor spoken to: its source took the receiver for dead and reconnected.
#[test]
fn a_session_that_waits_for_room_is_spoken_to() {
    let mut bed = Bed::new(small());
    let heartbeat = bed.intake.config().heartbeat;
    let (key, _) = bed.open(hello("s", 0));
    bed.intake.set_rate(bed.now, Some(1.0));
    while bed.intake.reserve(bed.now, key, 1000) == Reservation::Granted {}
    for _ in 0..5 {
        bed.pass(heartbeat);
        assert!(bed.intake.next_deadline(key).unwrap() <= bed.now);
        bed.intake.tick(bed.now, key);
        let heard = bed.heard(key);
        assert!(heard.iter().any(|message| matches!(message, Message::Ping { .. })), "{heard:?}");
    }
    assert!(bed.intake.is_open(key), "its silence is the receiver's doing");
}

/// While others waited for room, who gave it back without having been asked did not let them in.
#[test]
fn room_that_a_redirected_session_had_is_given_to_those_who_wait() {
    let mut bed = Bed::new(small());
    let ((one, _), (two, _)) = (bed.open(hello("one", 0)), bed.open(hello("two", 0)));
    assert_eq!(bed.intake.reserve(bed.now, one, 64 << 10), Reservation::Granted);
    assert_eq!(bed.intake.reserve(bed.now, two, 100), Reservation::Waiting);
    bed.intake.redirect(one, "elsewhere:1", SECOND);
    assert!(bed.intake.is_granted(two));
}

/// Records that pass by had counted against the source's credit, and never came back.
#[test]
fn a_record_too_long_to_be_held_needs_no_credit() {
    let mut bed = roomy();
    let (key, welcome) = bed.open(hello("s", 1));
    let mut outbox = Outbox::new(OutboxConfig { source: Some(id("s")), ..OutboxConfig::default() });
    for n in 1..=5 {
        outbox.push_at(seq(n), vec![b'r'; 5000].into()).unwrap();
    }
    outbox.connect();
    outbox.handle(bed.now, Message::Welcome(welcome));
    for message in said(&bed, &mut outbox) {
        let Message::Send(send) = message else { panic!("{message:?}") };
        pass_by(&mut bed, key, &send.payload, send.previous.get()).unwrap();
    }
    bed.settle();
    let ack = bed.last_ack(key).expect("an ACK");
    assert_eq!((ack.durable, ack.rejects.len()), (seq(5), 5));
    let record = [b'r'; 1000];
    bed.send(key, dense(5, &[&record, &record]));
    assert_eq!(bed.nacks(key), []);
}

/// The room that is kept to read a record that passes by counted against the rate as if all of it had come: 64 KiB for a
/// record of one, and a slow engine's sources waited seconds for each.
#[test]
fn a_record_that_passes_by_counts_against_the_rate_as_what_is_kept_of_it() {
    let mut bed = roomy();
    let (key, _) = bed.open(hello("s", 1));
    bed.intake.set_rate(bed.now, Some(10_000.0));
    let payload = [&1001_u32.to_le_bytes()[..], &[b'r'; 1001]].concat();
    pass_by(&mut bed, key, &payload, 0).unwrap();
    let kept = bed.intake.stats().charged_bytes;
    assert!((1001..2000).contains(&kept), "{kept} bytes are held until it is durable");
    bed.settle();
    bed.pass(SECOND);
    assert_eq!(bed.intake.reserve(bed.now, key, 100), Reservation::Granted);
}

/// What is read and not taken counted against the rate: a source that had sent all it had before it heard where to go on
/// used up the engine's time for records that never reached it, and its PING behind them waited as long.
#[test]
fn what_is_passed_over_does_not_count_against_the_rate() {
    let mut bed = Bed::new(small());
    let ((key, _), (other, _)) = (bed.open(hello("s", 1)), bed.open(hello("other", 1)));
    bed.intake.set_rate(bed.now, Some(1000.0));
    let record = [b'r'; 1000];
    (1..4).for_each(|previous| bed.send(key, dense(previous, &[&record])));
    assert_eq!(bed.nacks(key), [(Code::Gap, 0)]);
    bed.say(key, ping(0));
    // Nor does room that was claimed and not used.
    assert_eq!(bed.intake.reserve(bed.now, key, 50_000), Reservation::Granted);
    bed.intake.disconnect(bed.now, key);
    bed.send(other, dense(0, &[&record]));
    // What is taken does.
    assert_eq!(bed.intake.reserve(bed.now, other, 100), Reservation::Waiting);
    bed.settle();
    bed.pass(2 * SECOND);
    bed.intake.admit_waiting(bed.now);
    assert!(bed.intake.is_granted(other));
}

/// A driver that was about to set its rate when another one claimed the stream held everybody back for ever.
#[test]
fn a_rate_is_the_drivers_that_is_obeyed() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 1));
    let [old, new] = [1, 2].map(|round| Ballot { round, proposer: 1 });
    bed.intake.obey(old);
    bed.intake.set_rate_by(bed.now, old, Some(1.0)).unwrap();
    bed.send(key, dense(0, &[&[b'r'; 1000]]));
    bed.settle();
    assert_eq!(bed.intake.reserve(bed.now, key, 100), Reservation::Waiting);
    bed.intake.obey(new);
    assert!(!bed.intake.is_granted(key), "the new one has said nothing yet");
    bed.intake.set_rate_by(bed.now, new, None).unwrap();
    assert!(bed.intake.is_granted(key));
    assert_eq!(bed.intake.set_rate_by(bed.now, old, Some(1.0)), Err(new));
    bed.send(key, dense(1, &[b"2"]));
    assert_eq!(bed.intake.reserve(bed.now, key, 100), Reservation::Granted);
}

/// A gateway that did not know a body's length reserved the most it could have, and a hundred bytes counted as a mebibyte:
/// against the rate, and against the memory of all until they were durable.
#[test]
fn what_was_reserved_and_did_not_come_is_given_back() {
    let mut bed = Bed::new(ReceiverConfig { in_flight_bytes_max: 4 << 20, ..small() });
    let ((key, _), (other, _)) = (bed.open(hello("s", 1)), bed.open(hello("other", 1)));
    bed.intake.set_rate(bed.now, Some(20_000.0));
    assert_eq!(bed.intake.reserve(bed.now, key, 1 << 20), Reservation::Granted);
    bed.intake.handle(bed.now, key, Message::Send(dense(0, &[&[b'r'; 100]])));
    let charged = bed.intake.stats().charged_bytes;
    assert!((100..1000).contains(&charged), "{charged} bytes are held for a record of 100");
    assert_eq!(bed.intake.reserve(bed.now, other, 100), Reservation::Granted);
    bed.settle();
    assert_eq!(bed.intake.stats().charged_bytes, 100, "what the other one reserved");
}

/// The answer to the PING that those in line are told gave back the room they were granted meanwhile: what they then read
/// was charged to nobody, and counted against no rate.
#[test]
fn what_is_said_besides_leaves_the_room_that_was_granted() {
    let mut bed = Bed::new(small());
    let ((one, _), (two, _)) = (bed.open(hello("one", 0)), bed.open(hello("two", 0)));
    assert_eq!(bed.intake.reserve(bed.now, one, 64 << 10), Reservation::Granted);
    assert_eq!(bed.intake.reserve(bed.now, two, 10_000), Reservation::Waiting);
    bed.pass(bed.intake.config().heartbeat);
    bed.intake.tick(bed.now, two);
    let heard = bed.heard(two);
    assert!(heard.iter().any(|message| matches!(message, Message::Ping { .. })), "{heard:?}");
    bed.intake.disconnect(bed.now, one);
    for besides in [Message::Pong { nonce: 0 }, ping(0)] {
        bed.intake.handle(bed.now, two, besides);
        assert_eq!(bed.intake.reservation(two), Some(Reservation::Granted));
        assert_eq!(bed.intake.stats().charged_bytes, 10_000);
    }
    bed.intake.handle(bed.now, two, Message::Send(dense(0, &[b"1"])));
    assert_eq!(bed.intake.reservation(two), None, "the SEND has used it");
    bed.settle();
    assert_eq!(bed.intake.stats().charged_bytes, 0);
}

/// What is held besides what was read, for each record that is refused, came on top of the limit for every session that had
/// been granted room: many small SENDs together held any amount.
#[test]
fn what_many_hold_besides_stays_near_the_limit() {
    for (poison, wait_for) in [(Poison::DeadLetter, WaitFor::Durable), (Poison::Drop, WaitFor::Received)] {
        let mut bed = Bed::with_poison(poison);
        let limit = bed.intake.config().in_flight_bytes_max;
        let records: Vec<&[u8]> = (0..100).map(|n| if n % 2 == 0 { &b"1"[..] } else { b"x" }).collect();
        let all: Vec<SessionKey> =
            (0..50).map(|n| bed.open(Hello { wait_for, ..hello(&format!("s{n}"), 0) }).0).collect();
        let mut left = all.clone();
        for round in 0.. {
            assert!(round < 50, "{} are never taken", left.len());
            for &key in &left {
                assert_eq!(bed.intake.reserve(bed.now, key, 800), Reservation::Granted);
            }
            for &key in &left {
                let (received, _) = bed.intake.positions(key).unwrap();
                let rest = &records[received.get() as usize..];
                bed.intake.handle(bed.now, key, Message::Send(dense(received.get(), rest)));
                let charged = bed.intake.stats().charged_bytes;
                assert!(charged < 2 * limit, "{charged} bytes");
                let nacks = bed.nacks(key);
                assert!(nacks.iter().all(|(code, _)| *code == Code::RejectsUnseen), "{nacks:?}");
            }
            left.retain(|key| bed.intake.positions(*key).unwrap().0 < seq(100));
            if left.is_empty() {
                break;
            }
            assert!(round > 0 || left.len() < all.len(), "some are taken");
            bed.settle();
        }
        bed.settle();
        assert_eq!(bed.intake.stats().charged_bytes, 0);
        let stats = bed.intake.stats();
        assert_eq!(stats.rejected + stats.dropped, 50 * 50);
    }
}

/// A SEND that came before its session's epoch was durable was taken, if it was long enough.
#[test]
fn a_record_too_long_is_taken_in_an_open_session_only() {
    let mut bed = roomy();
    let key = bed.connect();
    bed.say(key, Message::Hello(hello("s", 0)));
    let payload = [&5000u32.to_le_bytes()[..], &[0; 5000]].concat();
    assert_eq!(pass_by(&mut bed, key, &payload, 0), None);
    assert_eq!(bed.nacks(key), [(Code::Protocol, 0)]);
}

/// Bytes kept of refused records, and many small parts of one SEND, were not charged.
#[test]
fn what_is_held_besides_the_message_is_charged() {
    let mut bed = roomy();
    let (key, _) = bed.open(hello("s", 0));
    let charged = |bed: &Bed| bed.intake.stats().charged_bytes;
    assert_eq!(charged(&bed), 0);
    bed.send(key, dense(0, &[b"1", b"x2", b"3", b"x4"]));
    // Four parts, two copies with 42 bytes and a reason each.
    assert!(charged(&bed) >= 4 * 256 + 2 * (42 + 4), "{}", charged(&bed));
    bed.settle();
    assert_eq!(charged(&bed), 0);
    let payload = [&5000u32.to_le_bytes()[..], &[0; 5000]].concat();
    pass_by(&mut bed, key, &payload, 4).unwrap();
    assert!(charged(&bed) >= 5000 + 256, "{}", charged(&bed));
    bed.settle();
    assert_eq!(charged(&bed), 0);
    let other = bed.connect();
    bed.say(other, Message::Hello(hello("other", 0)));
    assert!(charged(&bed) > 0, "a new name is on its way as well");
    bed.settle();
    assert_eq!(charged(&bed), 0);
}

#[test]
fn more_than_the_credit_ends_the_session() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    let record = [b'r'; 1000];
    (0..4).for_each(|n| bed.send(key, dense(n, &[&record])));
    assert_eq!(bed.nacks(key), []);
    bed.send(key, dense(4, &[&record]));
    assert_eq!(bed.nacks(key), [(Code::Credit, 4)]);
}

#[test]
fn a_session_that_is_gone_leaves_its_bytes_charged_until_they_are_durable() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[&[b'r'; 1000]]));
    bed.append();
    bed.intake.disconnect(bed.now, key);
    assert!(bed.intake.stats().charged_bytes >= 1004);
    bed.flush();
    assert_eq!(bed.intake.stats().charged_bytes, 0);
    assert_eq!(bed.intake.poll_output(key), None);
}

/// Everybody who waited for the rate was to be looked at whenever it let one in.
#[test]
fn only_the_first_in_line_is_looked_at_when_the_rate_lets_one_in() {
    let mut bed = roomy();
    let keys: Vec<_> = ["a", "b", "c"].into_iter().map(|name| bed.open(hello(name, 0)).0).collect();
    bed.intake.set_rate(bed.now, Some(1000.0));
    let cost = Intake::cost_bytes(5000);
    assert_eq!(bed.intake.reserve(bed.now, keys[0], cost), Reservation::Granted);
    assert_eq!(bed.intake.reserve(bed.now, keys[1], cost), Reservation::Waiting);
    assert_eq!(bed.intake.reserve(bed.now, keys[2], cost), Reservation::Waiting);
    let next = bed.intake.next_admission().expect("the rate keeps them out");
    assert_eq!(bed.intake.next_deadline(keys[1]), Some(next));
    assert!(bed.intake.next_deadline(keys[2]).unwrap() > next, "nobody else can be let in then");
    bed.intake.disconnect(bed.now, keys[1]);
    assert_eq!(bed.intake.next_deadline(keys[2]), bed.intake.next_admission());
}
