//! Records that are refused, and how their sources hear of it.

use std::time::Duration;

use seawall::Lsn;
use seawall::receiver::{
    Block, Code, Hello, Message, Poison, RangeKind, ReceiverConfig, RecordCheck, Reject, RejectReason, Sequences,
    WaitFor,
};

use crate::bed::{Bed, dense, hello, id, ping, seq, small};

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

/// Where a source without sequences is to go on was said to be 0, whatever was taken.
#[test]
fn without_sequences_a_refusal_says_how_many_were_taken() {
    let mut bed = Bed::new(small());
    let (key, _) = bed.open(Hello { sequences: Sequences::None, ..hello("", 0) });
    bed.send(key, dense(0, &[b"1", b"2", b"x"]));
    assert_eq!(bed.nacks(key), [(Code::Poison, 2)]);
}
