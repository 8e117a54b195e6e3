//! One story each of the receiving end: what went wrong once, or would.

use std::time::Duration;

use bytes::Bytes;
use seawall::receiver::{
    Block, Code, Hello, Intake, Message, Outbox, OutboxConfig, Oversized, Poison, Preview, RangeKind, ReceiverConfig,
    RecordCheck, Reject, RejectReason, Reservation, Sequences, SessionKey, SessionOutput, WaitFor,
};
use seawall::{Ballot, Lsn, SourceEpoch};

use crate::bed::{Bed, dense, hello, id, replay, seq, small, sparse};
use crate::outbox::said;

const SECOND: Duration = Duration::from_secs(1);

fn ping(seen: u64) -> Message {
    Message::Ping { nonce: 1, rejects_seen: seq(seen) }
}

/// The NACK of a full disk took the place of the one that says where to go on: the source waited for ever.
#[test]
fn a_full_disk_does_not_hide_where_to_go_on() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.send(key, dense(5, &[b"6"]));
    assert!(bed.intake.take_block().is_some());
    bed.intake.put_back(true);
    let mut nacks = bed.nacks(key);
    nacks.sort_by_key(|(code, _)| *code as u16);
    assert_eq!(nacks, [(Code::Gap, 1), (Code::Full, 0)]);
}

/// A source that was told where to go on, did, and was refused again, was told nothing: it waited for ever.
#[test]
fn a_source_whose_second_try_is_refused_is_told_again() {
    let mut bed = Bed::new(ReceiverConfig { rejects_unseen_max: 1, poison: Poison::DeadLetter, ..small() });
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"x1", b"x2", b"3"]));
    bed.send(key, dense(3, &[b"4"]));
    assert_eq!(bed.nacks(key), [(Code::RejectsUnseen, 1)], "once, for everything that was on its way");
    bed.send(key, dense(1, &[b"x2", b"3"]));
    assert_eq!(bed.nacks(key), [(Code::RejectsUnseen, 1)], "and once for the second try");
    bed.settle();
    bed.say(key, ping(1));
    bed.send(key, dense(1, &[b"x2", b"3"]));
    assert_eq!(bed.nacks(key), []);
    assert_eq!(bed.intake.positions(key), Some((seq(3), seq(1))));
}

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

/// A PING before the WELCOME brought an ACK before the WELCOME.
#[test]
fn nothing_is_acknowledged_before_the_welcome() {
    let mut bed = Bed::new(small());
    let key = bed.connect();
    bed.say(key, Message::Hello(hello("s", 0)));
    bed.say(key, ping(0));
    assert_eq!(bed.heard(key), [Message::Pong { nonce: 1 }]);
    bed.settle();
    assert!(matches!(bed.heard(key)[..], [Message::Welcome(_)]));
}

/// A source that says BYE while it has to send something again was told that everything is as it wanted.
#[test]
fn a_bye_behind_a_gap_is_not_answered() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.send(key, dense(2, &[b"3"]));
    bed.say(key, Message::Bye);
    bed.settle();
    let heard = bed.heard(key);
    assert!(!heard.contains(&Message::Bye), "{heard:?}");
    bed.send(key, dense(1, &[b"2", b"3"]));
    bed.say(key, Message::Bye);
    assert!(!bed.heard(key).contains(&Message::Bye), "not before it is durable");
    bed.settle();
    assert!(bed.heard(key).contains(&Message::Bye));
}

#[test]
fn nothing_comes_behind_a_bye() {
    for message in [Message::Send(dense(0, &[b"1"])), Message::Skip { previous: seq(0), to: seq(9) }] {
        let mut bed = Bed::new(small());
        let (key, _) = bed.open(Hello { wait_for: WaitFor::Received, ..hello("s", 0) });
        bed.say(key, Message::Bye);
        bed.say(key, message);
        assert_eq!(bed.nacks(key), [(Code::Protocol, 0)]);
    }
}

/// Nobody would ever say that its records are committed.
#[test]
fn a_source_without_sequences_cannot_wait_for_committed() {
    let mut bed = Bed::new(small());
    let key = bed.connect();
    let hopeless = Hello { sequences: Sequences::None, wait_for: WaitFor::Committed, ..hello("", 0) };
    bed.say(key, Message::Hello(hopeless));
    assert_eq!(bed.nacks(key), [(Code::Limit, 0)]);
}

/// A source that waits for commits and ends with a skip or a reject is done as well.
#[test]
fn what_a_block_reaches_is_what_commits_are_told_of() {
    let mut bed = Bed::with_poison(Poison::DeadLetter);
    let (key, _) = bed.open(Hello { wait_for: WaitFor::Committed, ..hello("s", 0) });
    bed.send(key, dense(0, &[b"1", b"x2"]));
    bed.say(key, Message::Skip { previous: seq(2), to: seq(9) });
    bed.say(key, Message::Bye);
    bed.settle();
    assert!(!bed.heard(key).contains(&Message::Bye));
    let mut reached = Vec::new();
    for block in &bed.blocks {
        let block = Block::read(block).unwrap();
        reached.extend(block.reached().map(|(id, seq)| (id.clone(), seq)));
    }
    assert_eq!(reached.iter().map(|(_, seq)| seq.get()).collect::<Vec<_>>(), [1, 2, 9]);
    bed.intake.committed(Lsn::new(bed.blocks.len() as u64), reached);
    assert!(bed.heard(key).contains(&Message::Bye));
}

/// Between the retirement and its durability the source could come back.
#[test]
fn a_source_that_is_being_retired_does_not_come_back() {
    let mut bed = Bed::new(small());
    let (first, _) = bed.open(hello("s", 0));
    bed.intake.retire(&id("s")).unwrap();
    assert_eq!(bed.nacks(first), [(Code::Retired, 0)]);
    let second = bed.connect();
    bed.say(second, Message::Hello(hello("s", 0)));
    assert_eq!(bed.nacks(second), [(Code::Retired, 0)]);
    bed.settle();
    let mut bed = bed.restart();
    let third = bed.connect();
    bed.say(third, Message::Hello(hello("s", 0)));
    assert_eq!(bed.nacks(third), [(Code::Retired, 0)]);
}

/// Who hears what is durable may be faster than who hears where a block is: the block's sources would never have moved,
/// and a snapshot begun meanwhile would have left them out.
#[test]
fn a_block_that_is_durable_before_it_is_placed_counts() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.blocks.push(bed.intake.take_block().unwrap().concat().into());
    bed.flush();
    bed.intake.placed(Lsn::new(bed.blocks.len() as u64));
    assert_eq!(bed.intake.positions(key), Some((seq(1), seq(1))));
    assert_eq!(bed.last_ack(key).map(|ack| ack.durable), Some(seq(1)));
    assert!(bed.intake.is_settled());
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

/// That rejects were seen was forgotten at every restart: a replay brought back all of them, more than there may be.
#[test]
fn rejects_that_were_seen_are_not_told_after_a_restart() {
    let mut bed = Bed::new(ReceiverConfig { rejects_unseen_max: 2, poison: Poison::DeadLetter, ..small() });
    let (key, _) = bed.open(hello("s", 1));
    for n in 0..5 {
        bed.send(key, dense(n, &[b"x"]));
        bed.settle();
        bed.say(key, ping(n));
    }
    bed.settle();
    let seen = bed.ranges().iter().filter(|range| range.kind == RangeKind::Seen).count();
    assert_eq!(seen, 4, "once for each that is news");
    let (_, welcome) = bed.restart().open(hello("s", 1));
    let told = Reject { seq: seq(5), reason: RejectReason::Poison, bytes: 1 };
    assert_eq!(welcome.rejects, [told]);
}

/// A source that does not wait for the device never heard of its rejects, and had to take note of them to go on.
#[test]
fn a_source_that_waits_for_received_hears_of_its_rejects() {
    let mut bed = Bed::new(ReceiverConfig { rejects_unseen_max: 1, poison: Poison::DeadLetter, ..small() });
    let (key, _) = bed.open(Hello { wait_for: WaitFor::Received, ..hello("s", 0) });
    bed.send(key, dense(0, &[b"x"]));
    bed.heard(key);
    bed.settle();
    assert_eq!(bed.last_ack(key).expect("an ACK").rejects.len(), 1);
}

/// Every commit told every source, moved or not.
#[test]
fn a_commit_is_told_to_those_it_moves() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(Hello { wait_for: WaitFor::Committed, ..hello("s", 0) });
    bed.send(key, dense(0, &[b"1"]));
    bed.settle();
    let end = Lsn::new(bed.blocks.len() as u64);
    bed.heard(key);
    bed.intake.committed(end, [(id("s"), seq(1))]);
    assert_eq!(bed.last_ack(key).map(|ack| ack.committed), Some(seq(1)));
    bed.intake.committed(end, [(id("s"), seq(1))]);
    assert_eq!(bed.heard(key), []);
}

/// Rejects on their way were counted by session: a source that reconnected could have any number of them unseen.
#[test]
fn rejects_on_their_way_count_whatever_session_they_came_by() {
    let config =
        ReceiverConfig { rejects_unseen_max: 1, poison: Poison::DeadLetter, welcome_wait: Duration::ZERO, ..small() };
    let mut bed = Bed::new(config);
    let (first, _) = bed.open(hello("s", 1));
    bed.send(first, dense(0, &[b"x"]));
    bed.append();
    let second = bed.connect();
    bed.say(second, Message::Hello(hello("s", 1)));
    assert!(matches!(bed.heard(second)[..], [Message::Welcome(_)]));
    bed.send(second, dense(1, &[b"x"]));
    assert_eq!(bed.nacks(second), [(Code::RejectsUnseen, 1)]);
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

/// Several records that pass by have room at once.
fn roomy() -> Bed {
    Bed::new(ReceiverConfig { poison: Poison::DeadLetter, in_flight_bytes_max: 1 << 20, ..small() })
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

/// A check that panicked took the room of the message with it, for ever.
#[test]
fn a_check_that_panics_has_refused_the_record() {
    let check = RecordCheck::new(|record| if record == b"boom" { panic!("a check with an error") } else { Ok(()) });
    let mut bed = Bed::with_poison(Poison::DeadLetter);
    bed.intake = bed.intake.with_check(check);
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1", b"boom", b"3"]));
    bed.settle();
    let ack = bed.last_ack(key).expect("an ACK");
    let told = Reject { seq: seq(2), reason: RejectReason::Poison, bytes: 4 };
    assert_eq!((ack.durable, ack.rejects), (seq(3), vec![told]));
    assert_eq!(bed.intake.stats().charged_bytes, 0);
}

/// Each HELLO of a higher epoch left something in what waits for the log, however many came while it took nothing.
#[test]
fn epochs_that_grow_while_the_disk_is_full_leave_little_behind() {
    let mut bed = Bed::new(small());
    bed.open(hello("s", 1));
    let before = bed.ranges().len();
    for epoch in 2..10_000 {
        let key = bed.connect();
        bed.intake.handle(bed.now, key, Message::Hello(hello("s", epoch)));
        if bed.intake.take_block().is_some() {
            bed.intake.put_back(true);
        }
        bed.intake.disconnect(bed.now, key);
    }
    let stale = bed.connect();
    bed.say(stale, Message::Hello(hello("s", 9_998)));
    assert_eq!(bed.nacks(stale), [(Code::OldEpoch, 0)], "fenced at once, in memory");
    let key = bed.connect();
    bed.say(key, Message::Hello(hello("s", 9_999)));
    bed.settle();
    let Some(Message::Welcome(welcome)) = bed.heard(key).into_iter().next() else { panic!("no WELCOME") };
    assert_eq!(welcome.epoch, SourceEpoch::new(9_999));
    assert!(bed.ranges().len() - before <= 2, "{} ranges", bed.ranges().len() - before);
    let mut bed = bed.restart();
    let stale = bed.connect();
    bed.say(stale, Message::Hello(hello("s", 9_998)));
    assert_eq!(bed.nacks(stale), [(Code::OldEpoch, 0)], "and for ever, in the stream");
}

/// Whoever is given an epoch believes that nobody else sends in it; clients behind gateways share theirs.
#[test]
fn gateways_go_on_in_epochs_that_gateways_began() {
    let mut bed = Bed::new(small());
    let said = |bed: &mut Bed, is_gateways: bool, epoch| {
        let key = bed.connect();
        if is_gateways {
            bed.intake.become_gateways(key);
        }
        bed.say(key, Message::Hello(hello("s", epoch)));
        key
    };
    let given = |bed: &mut Bed, is_gateways, epoch| {
        let key = said(bed, is_gateways, epoch);
        bed.settle();
        match bed.heard(key).first() {
            Some(Message::Welcome(welcome)) => welcome.epoch.get(),
            other => panic!("{other:?} instead of a WELCOME"),
        }
    };
    assert_eq!([given(&mut bed, false, 0), given(&mut bed, true, 0), given(&mut bed, true, 0)], [1, 2, 2]);
    assert_eq!([given(&mut bed, false, 0), given(&mut bed, false, 3), given(&mut bed, true, 0)], [3, 3, 4]);
    // One that was chosen for a gateway's session as well; one that another session chose is not theirs.
    assert_eq!([given(&mut bed, true, 7), given(&mut bed, true, 0), given(&mut bed, false, 7)], [7, 7, 7]);
    assert_eq!([given(&mut bed, false, 9), given(&mut bed, true, 9), given(&mut bed, true, 0)], [9, 9, 10]);
    // One that was never told to anybody belongs to whoever comes next.
    said(&mut bed, false, 0);
    assert_eq!([given(&mut bed, true, 0), given(&mut bed, true, 0)], [11, 11]);
    said(&mut bed, true, 0);
    said(&mut bed, false, 0);
    assert_eq!([given(&mut bed, false, 0), given(&mut bed, true, 0)], [12, 13]);
}

/// Behind the last epoch came the same one again: no life of the source was fenced any more.
#[test]
fn no_session_has_an_epoch_that_nothing_can_follow() {
    let mut bed = Bed::new(small());
    let refused = |bed: &mut Bed, epoch| {
        let key = bed.connect();
        bed.say(key, Message::Hello(hello("s", epoch)));
        assert_eq!(bed.nacks(key), [(Code::Limit, 0)]);
    };
    refused(&mut bed, u64::MAX);
    let (_, welcome) = bed.open(hello("s", 0));
    assert_eq!(welcome.epoch, SourceEpoch::new(1));
    let (_, welcome) = bed.open(hello("s", u64::MAX - 1));
    assert_eq!(welcome.epoch, SourceEpoch::new(u64::MAX - 1));
    refused(&mut bed, 0);
}

/// Feeds a SEND of one record that is too long, in pieces.
fn pass_by(bed: &mut Bed, key: SessionKey, payload: &[u8], previous: u64) -> Option<()> {
    assert_eq!(bed.intake.reserve(bed.now, key, Oversized::COST_BYTES), Reservation::Granted);
    let head = Preview { previous: seq(previous), records: 1 };
    let mut oversized = bed.intake.begin_oversized(key, head, payload.len() as u64)?;
    payload.chunks(700).for_each(|piece| oversized.update(piece));
    bed.intake.end_oversized(key, oversized);
    Some(())
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

/// A session at its end had a deadline in the past: whoever waits for it never sleeps.
#[test]
fn a_session_at_its_end_has_no_deadline() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.intake.drain(bed.now, SECOND, "restart");
    bed.pass(SECOND);
    assert_eq!(bed.intake.next_deadline(key), Some(bed.now));
    bed.intake.tick(bed.now, key);
    assert_eq!(bed.intake.next_deadline(key), None);
    while bed.intake.poll_noisy().is_some() {}
    bed.intake.tick(bed.now, key);
    assert_eq!(bed.intake.poll_noisy(), None, "there is nothing new to say");
}

#[test]
fn a_duplicate_is_acknowledged_when_its_original_is_durable() {
    let config = ReceiverConfig { welcome_wait: Duration::ZERO, ..small() };
    let mut bed = Bed::new(config);
    let (first, _) = bed.open(hello("s", 1));
    bed.send(first, dense(0, &[b"1", b"2"]));
    bed.append();
    let second = bed.connect();
    bed.say(second, Message::Hello(hello("s", 1)));
    assert_eq!(bed.nacks(first), [(Code::Replaced, 2)]);
    let Message::Welcome(welcome) = &bed.heard(second)[0] else { panic!() };
    assert_eq!(welcome.durable, seq(0), "what is on its way is not promised");
    bed.send(second, dense(0, &[b"1", b"2", b"3"]));
    assert!(bed.last_ack(second).is_none_or(|ack| ack.durable == seq(0)));
    bed.flush();
    let ack = bed.last_ack(second).unwrap();
    assert_eq!((ack.durable, ack.duplicates), (seq(2), 2));
    bed.settle();
    let counts: Vec<_> = bed
        .ranges()
        .iter()
        .filter(|range| range.kind == RangeKind::Records)
        .map(|r| (r.previous.get(), r.last.get()))
        .collect();
    assert_eq!(counts, [(0, 2), (2, 3)], "each record is in the stream once");
}

#[test]
fn an_older_epoch_is_refused_and_a_newer_one_fences() {
    let mut bed = Bed::new(small());
    let (first, welcome) = bed.open(hello("s", 0));
    assert_eq!(welcome.epoch.get(), 1);
    bed.send(first, dense(0, &[b"1"]));
    let second = bed.connect();
    bed.say(second, Message::Hello(hello("s", 0)));
    assert_eq!(bed.nacks(first), [(Code::OldEpoch, 1)]);
    assert_eq!(bed.heard(second), [], "not before the epoch is durable");
    bed.send(first, dense(1, &[b"from the dead"]));
    bed.settle();
    let Message::Welcome(welcome) = &bed.heard(second)[0] else { panic!() };
    assert_eq!((welcome.epoch.get(), welcome.durable), (2, seq(1)));
    let mut bed = bed.restart();
    let zombie = bed.connect();
    bed.say(zombie, Message::Hello(hello("s", 1)));
    assert_eq!(bed.nacks(zombie), [(Code::OldEpoch, 0)]);
}

/// Without any patience for what is on its way no new epoch, which has to become durable, was ever welcomed.
#[test]
fn a_new_epoch_is_welcomed_without_patience_for_the_rest() {
    let mut bed = Bed::new(ReceiverConfig { welcome_wait: Duration::ZERO, ..small() });
    let (_, welcome) = bed.open(hello("s", 0));
    assert_eq!(welcome.epoch, SourceEpoch::new(1));
}

#[test]
fn an_epoch_that_does_not_become_durable_opens_no_session() {
    let mut bed = Bed::new(small());
    let key = bed.connect();
    bed.say(key, Message::Hello(hello("s", 0)));
    bed.append();
    bed.pass(bed.intake.config().hello_timeout);
    assert_eq!(bed.intake.next_deadline(key), Some(bed.now));
    bed.intake.tick(bed.now, key);
    assert_eq!(bed.nacks(key), [(Code::Unavailable, 0)]);
}

#[test]
fn less_than_the_source_was_told_is_told_as_loss() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.settle();
    let again = bed.connect();
    bed.say(again, Message::Hello(Hello { told_durable: seq(2), ..hello("s", 0) }));
    assert_eq!(bed.nacks(again), [(Code::AckedLoss, 1)]);
    assert_eq!(bed.intake.stats().acked_losses, 1);
    let stranger = bed.connect();
    bed.say(stranger, Message::Hello(Hello { told_durable: seq(1), ..hello("never seen", 0) }));
    assert_eq!(bed.nacks(stranger), [(Code::AckedLoss, 0)]);
}

#[test]
fn sparse_sequences_are_taken_where_they_meet_only() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(Hello { sequences: Sequences::Sparse, ..hello("s", 0) });
    bed.send(key, sparse(0, &[(10, b"10"), (20, b"20")]));
    bed.send(key, sparse(25, &[(30, b"30")]));
    assert_eq!(bed.nacks(key), [(Code::Gap, 20)]);
    bed.send(key, sparse(10, &[(15, b"15"), (30, b"30")]));
    assert_eq!(bed.nacks(key), [(Code::Mismatch, 20)]);
    bed.send(key, sparse(10, &[(20, b"20"), (30, b"30")]));
    assert_eq!(bed.nacks(key), []);
    assert_eq!(bed.intake.positions(key).unwrap().0, seq(30));
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
fn nothing_is_acknowledged_once_the_log_has_failed() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.append();
    bed.flush();
    bed.send(key, dense(1, &[b"2"]));
    bed.append();
    bed.intake.fail("the disk is gone");
    let heard = bed.heard(key);
    assert!(matches!(&heard[..], [Message::Nack(nack)] if nack.code == Code::Unavailable && nack.fatal), "{heard:?}");
    bed.intake.durable(bed.now, Lsn::new(99));
    assert_eq!(bed.heard(key), []);
    assert_eq!(bed.intake.source(&id("s")).unwrap().durable, seq(1));
    assert!(bed.intake.connect(bed.now).is_err());
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

#[test]
fn what_the_poison_policies_do() {
    let send = || dense(0, &[b"1", b"x2", b"3"]);
    let mut stop = Bed::with_poison(Poison::Stop);
    let (key, _) = stop.open(hello("s", 0));
    stop.send(key, send());
    assert_eq!(stop.nacks(key), [(Code::Poison, 1)]);

    let mut keep = Bed::with_poison(Poison::DeadLetter);
    let (key, _) = keep.open(hello("s", 0));
    keep.send(key, send());
    keep.settle();
    let told = Reject { seq: seq(2), reason: RejectReason::Poison, bytes: 2 };
    assert_eq!(keep.last_ack(key).unwrap().rejects, [told]);

    let mut drop = Bed::with_poison(Poison::Drop);
    let (durable, _) = drop.open(hello("s", 0));
    drop.send(durable, send());
    assert_eq!(drop.nacks(durable), [(Code::Poison, 1)], "only a source that waits for nothing may lose it");
    let (received, _) = drop.open(Hello { wait_for: WaitFor::Received, ..hello("r", 0) });
    drop.send(received, send());
    drop.settle();
    assert_eq!(drop.intake.positions(received), Some((seq(3), seq(3))));
    assert_eq!(drop.intake.stats().dropped, 1);
    let block = Block::read(drop.blocks.last().unwrap()).unwrap();
    assert_eq!(block.records().map(|r| r.unwrap().seq.get()).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_silent_session_is_asked_and_then_ended() {
    let mut bed = Bed::new(small());
    let heartbeat = bed.intake.config().heartbeat;
    let (key, _) = bed.open(hello("s", 0));
    bed.pass(heartbeat);
    bed.intake.tick(bed.now, key);
    assert!(bed.heard(key).iter().any(|message| matches!(message, Message::Ping { .. })));
    bed.pass(heartbeat * 2);
    bed.intake.tick(bed.now, key);
    assert_eq!(bed.nacks(key), [(Code::Timeout, 0)]);
    assert_eq!(bed.intake.poll_output(key), Some(SessionOutput::Close));
    let mute = bed.connect();
    bed.pass(bed.intake.config().hello_timeout);
    bed.intake.tick(bed.now, mute);
    assert_eq!(bed.nacks(mute), [(Code::Timeout, 0)]);
    assert_eq!(Intake::cost_bytes(0), 256);
}

/// One record of a source, up to where it is with the device, and whether whoever brought it may write it as well.
fn is_lone(bed: &mut Bed, key: SessionKey, previous: u64) -> bool {
    bed.send(key, dense(previous, &[b"r"]));
    bed.append();
    bed.intake.is_lone()
}

#[test]
fn a_source_is_alone_that_waits_for_each_of_its_blocks() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    let mut sent = 0;
    let mut waited = |bed: &mut Bed, hears: bool| {
        let is_lone = is_lone(bed, key, sent);
        sent += 1;
        bed.flush();
        if hears {
            assert!(bed.last_ack(key).is_some());
        }
        is_lone
    };
    assert_eq!([(); 6].map(|()| waited(&mut bed, true)), [false, false, false, false, true, true]);
    // It sends on before it is told: this one it has waited for, the next one not.
    assert!(waited(&mut bed, false));
    assert_eq!([(); 6].map(|()| waited(&mut bed, true)), [false, false, false, false, false, true]);
    // Nobody else may be made to wait.
    let other = bed.connect();
    assert!(!waited(&mut bed, true));
    bed.intake.disconnect(bed.now, other);
    assert_eq!([(); 5].map(|()| waited(&mut bed, true)), [false, false, false, false, true]);
    // Two on their way.
    bed.send(key, dense(sent, &[b"r"]));
    bed.append();
    bed.send(key, dense(sent + 1, &[b"r"]));
    bed.append();
    assert!(!bed.intake.is_lone());
}

#[test]
fn a_source_that_does_not_wait_for_the_device_is_never_alone() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(Hello { wait_for: WaitFor::Received, ..hello("s", 0) });
    for sent in 0..10 {
        assert!(!is_lone(&mut bed, key, sent));
        bed.flush();
        bed.heard(key);
    }
}

/// A source that had said goodbye stayed connected for as long as the receiver ran, and its next session was counted as one
/// that takes over.
#[test]
fn a_source_that_has_said_goodbye_is_not_connected() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    bed.send(key, dense(0, &[b"1"]));
    bed.settle();
    bed.say(key, Message::Bye);
    assert!(bed.intake.source(&id("s")).unwrap().is_connected, "it is not answered yet");
    assert_eq!(bed.heard(key).last(), Some(&Message::Bye));
    assert_eq!(bed.intake.poll_output(key), Some(SessionOutput::Close));
    assert!(!bed.intake.source(&id("s")).unwrap().is_connected);
    let (again, _) = bed.open(hello("s", 0));
    assert_eq!(bed.intake.stats().replaced, 0);
    // The older one's end is not the newer one's.
    bed.intake.disconnect(bed.now, key);
    assert!(bed.intake.source(&id("s")).unwrap().is_connected);
    bed.intake.disconnect(bed.now, again);
    assert!(!bed.intake.source(&id("s")).unwrap().is_connected);
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

/// A snapshot that was written in parts said of rejects what stood when its first part was laid out: behind it they were unseen
/// again, more of them than there may be, and told to whoever came next.
#[test]
fn rejects_seen_while_a_snapshot_is_written_stay_seen() {
    let mut bed = Bed::new(ReceiverConfig { poison: Poison::DeadLetter, rejects_unseen_max: 2000, ..small() });
    let (key, _) = bed.open(hello("s", 0));
    for n in 0..150 {
        bed.send(key, dense(n, &[b"x"]));
        bed.settle();
    }
    bed.intake.request_snapshot(Lsn::MAX);
    let parts_before = bed.blocks.len();
    let take_one = |bed: &mut Bed| {
        let pieces = bed.intake.take_block().expect("there is one");
        bed.blocks.push(pieces.concat().into());
        bed.intake.placed(Lsn::new(bed.blocks.len() as u64));
    };
    take_one(&mut bed);
    bed.say(key, ping(150));
    assert_eq!(bed.intake.source(&id("s")).unwrap().rejects_unseen, 0);
    bed.settle();
    let kinds = bed.ranges();
    assert!(kinds.iter().any(|range| matches!(range.kind, RangeKind::Unseen { .. })), "the snapshot spoke of some");
    assert!(bed.blocks.len() > parts_before + 2, "in parts");
    assert_eq!(bed.intake.source(&id("s")).unwrap().rejects_unseen, 0);
    assert_eq!(bed.intake.trim_bound(), Lsn::new(parts_before as u64 + 1), "it is whole");
    let mut bed = bed.restart();
    let (_, welcome) = bed.open(hello("s", 0));
    assert_eq!(welcome.rejects, []);
}

/// A source that was retired came back under its name without sequences.
#[test]
fn a_retired_name_is_refused_without_sequences_too() {
    let mut bed = Bed::new(small());
    let nameless = || Hello { sequences: Sequences::None, ..hello("s", 0) };
    let (named, _) = bed.open(hello("s", 0));
    let (loose, _) = bed.open(nameless());
    let (other, _) = bed.open(Hello { sequences: Sequences::None, ..hello("t", 0) });
    bed.intake.retire(&id("s")).unwrap();
    for key in [named, loose] {
        assert!(matches!(bed.nacks(key)[..], [(Code::Retired, _)]), "it sends no more");
    }
    assert!(bed.intake.is_open(other));
    for _ in 0..2 {
        let key = bed.connect();
        bed.say(key, Message::Hello(nameless()));
        assert!(matches!(bed.nacks(key)[..], [(Code::Retired, _)]));
        bed.settle();
    }
    let mut bed = bed.restart();
    let key = bed.connect();
    bed.say(key, Message::Hello(nameless()));
    assert!(matches!(bed.nacks(key)[..], [(Code::Retired, _)]));
}

/// Where a source without sequences is to go on was said to be 0, whatever was taken.
#[test]
fn without_sequences_a_refusal_says_how_many_were_taken() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(Hello { sequences: Sequences::None, ..hello("", 0) });
    bed.send(key, dense(0, &[b"1", b"2", b"x"]));
    assert_eq!(bed.nacks(key), [(Code::Poison, 2)]);
}

/// Added to the time of day, it was a panic.
#[test]
fn a_drain_may_take_for_ever() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 0));
    let before = bed.intake.next_deadline(key);
    bed.intake.drain(bed.now, Duration::MAX, "later");
    assert!(bed.heard(key).iter().any(|message| matches!(message, Message::GoAway { .. })));
    assert_eq!(bed.intake.next_deadline(key), before);
    bed.intake.tick(bed.now, key);
    assert!(bed.intake.is_open(key));
}

/// Sources that went on sending kept a receiver that was to end from ending.
#[test]
fn a_receiver_that_ends_takes_nothing_more() {
    let mut bed = roomy();
    let keys: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|name| bed.open(hello(name, 0)).0).collect();
    keys.iter().for_each(|key| bed.send(*key, dense(0, &[b"1"])));
    let late = bed.connect();
    bed.intake.take_no_more("the receiver ends");
    assert!(bed.intake.connect(bed.now).is_err());
    bed.say(late, Message::Hello(hello("e", 0)));
    assert_eq!(bed.nacks(late), [(Code::Draining, 0)]);
    bed.send(keys[0], dense(1, &[b"2"]));
    bed.say(keys[1], Message::Skip { previous: seq(1), to: seq(9) });
    assert_eq!(pass_by(&mut bed, keys[2], &[0; 3000], 1), None::<()>);
    for key in &keys[..3] {
        assert_eq!(bed.nacks(*key), [(Code::Draining, 1)]);
    }
    bed.settle();
    assert_eq!(bed.last_ack(keys[3]).unwrap().durable, seq(1), "what was received is acknowledged");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(bed.intake.source(&id(name)).unwrap().durable, seq(1));
    }
    assert_eq!(bed.intake.stats().charged_bytes, 0);
}

/// Its client is promised an answer in time, whatever the device does.
#[test]
fn a_gateway_is_never_alone() {
    let mut bed = Bed::new(small());
    let key = bed.connect();
    bed.intake.become_gateways(key);
    bed.say(key, Message::Hello(hello("s", 0)));
    bed.settle();
    bed.heard(key);
    for sent in 0..10 {
        assert!(!is_lone(&mut bed, key, sent));
        bed.flush();
        assert!(bed.last_ack(key).is_some());
    }
}

/// Where the device, or other programs' time slices, take long, a block goes the usual way; and it is tried again.
#[test]
fn who_waits_long_for_its_own_writes_leaves_them_to_others_for_a_while() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(hello("s", 1));
    let mut sent = 0;
    let mut next = |bed: &mut Bed| {
        let is_lone = is_lone(bed, key, sent);
        sent += 1;
        bed.flush();
        assert!(bed.last_ack(key).is_some());
        is_lone
    };
    while !next(&mut bed) {}
    let [quick, slow] = [Duration::from_micros(999), Duration::from_millis(3)];
    // Never four slow ones more than quick ones.
    for took in [slow, slow, slow, quick, quick, slow, quick, slow, slow] {
        bed.intake.wrote_lone(took);
        assert!(next(&mut bed));
    }
    bed.intake.wrote_lone(slow);
    let blocks = (1..).take_while(|_| !next(&mut bed)).count();
    assert_eq!(blocks, 1023);
}
