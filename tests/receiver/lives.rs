//! Sessions and the lives of their sources: epochs, goodbyes, retirements, silence.

use std::time::Duration;

use seawall::SourceEpoch;
use seawall::receiver::{Code, Hello, Intake, Message, Poison, ReceiverConfig, Sequences, SessionOutput, WaitFor};

use crate::bed::{Bed, dense, hello, id, pass_by, ping, roomy, seq, small};

const SECOND: Duration = Duration::from_secs(1);

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

/// An orderly end tells what is durable, but to nobody who has not heard its WELCOME: an ACK before that is no protocol, and a
/// client would not come back.
#[test]
fn the_end_of_a_receiver_tells_what_is_durable_behind_the_welcome_only() {
    for has_heard in [true, false] {
        let mut bed = Bed::new(small());
        let key = bed.connect();
        bed.say(key, Message::Hello(Hello { sequences: Sequences::None, ..hello("", 0) }));
        if has_heard {
            assert!(matches!(bed.heard(key)[..], [Message::Welcome(_)]));
        }
        bed.send(key, dense(0, &[b"1"]));
        bed.settle();
        bed.intake.end_in_order("it ends");
        let heard = bed.heard(key);
        assert_eq!(matches!(&heard[0], Message::Ack(ack) if ack.durable == seq(1)), has_heard, "{heard:?}");
        assert!(matches!(heard.last(), Some(Message::Nack(nack)) if nack.code == Code::Unavailable), "{heard:?}");
        assert_eq!(heard.len(), 1 + usize::from(has_heard), "{heard:?}");
    }
}
