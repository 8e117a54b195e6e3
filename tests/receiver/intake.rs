//! One story each of the receiving end: what went wrong once, or would.

use std::time::Duration;

use seawall::Lsn;
use seawall::receiver::{Block, Code, Hello, Message, Poison, RangeKind, ReceiverConfig, Sequences, WaitFor};

use crate::bed::{Bed, dense, hello, id, ping, seq, small, sparse};

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
