//! When a source is alone, and its blocks are written by who brings them.

use std::time::Duration;

use seawall::receiver::{Hello, Message, SessionKey, WaitFor};

use crate::bed::{Bed, dense, hello, small};

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
