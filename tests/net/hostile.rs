//! Peers that do not behave: each gets a clear answer, holds little, and disturbs nobody.

use std::time::Duration;

use seawall::receiver::{Code, Hello, Message, ReceiverConfig};
use seawall::{Seq, SourceId};
use tokio::io::AsyncWriteExt;

use crate::raw::{HELLO, Raw, SEND, at_most_once, bytes_of, head, hello, in_epoch, send};
use crate::{Node, until};

fn quick() -> ReceiverConfig {
    ReceiverConfig {
        hello_timeout: Duration::from_millis(100),
        message_timeout: Duration::from_millis(100),
        heartbeat: Duration::from_millis(50),
        ..ReceiverConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_answered_and_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut damaged = bytes_of(&Message::Hello(hello("a")));
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    let mut reserved = bytes_of(&Message::Hello(hello("a")));
    reserved[5] = 1;
    let first_words: [(&[u8], Code); 7] = [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Code::Protocol),
        (&[0xFF; 4096], Code::Protocol),
        (&damaged, Code::Protocol),
        (&reserved, Code::Protocol),
        (&bytes_of(&send(0, &[b"x"])), Code::Protocol),
        (&bytes_of(&Message::Bye), Code::Protocol),
        (&bytes_of(&Message::Hello(Hello { version_min: 2, version_max: 9, ..hello("a") })), Code::Version),
    ];
    for (bytes, code) in first_words {
        let mut raw = Raw::connect(&node).await;
        raw.say_bytes(bytes).await;
        raw.is_refused(code).await;
    }
    // And behind a HELLO.
    let mut flipped = bytes_of(&send(0, &[b"some record"]));
    flipped[30] ^= 0x40;
    let more: [(&[u8], Code); 4] = [
        (&flipped, Code::Protocol),
        (&bytes_of(&Message::Hello(hello("a"))), Code::Protocol),
        (&bytes_of(&Message::Pong { nonce: 0 })[..8].iter().map(|b| b ^ 0x80).collect::<Vec<_>>(), Code::Protocol),
        (&head(1 << 20, 8), Code::Limit),
    ];
    for (bytes, code) in more {
        let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
        raw.say_bytes(bytes).await;
        raw.is_refused(code).await;
    }
    assert!(node.seqs("a").is_empty());
    node.serves_others().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_refused_from_the_head_alone() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut raw = Raw::connect(&node).await;
    raw.say_bytes(&head(u32::MAX, HELLO)).await;
    let nack = raw.is_refused(Code::Limit).await;
    assert!(nack.text.contains("4294967295") && nack.text.contains("65536"), "{}", nack.text);
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    let mut claim = head(u32::MAX, SEND);
    claim.extend(0u64.to_le_bytes());
    claim.extend(1u32.to_le_bytes());
    claim.extend([0; 4]);
    raw.say_bytes(&claim).await;
    raw.is_refused(Code::Oversized).await;
    node.serves_others().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), quick());
    let mut mute = Raw::connect(&node).await;
    let (mut silent, _) = Raw::welcomed(&node, hello("a")).await;
    mute.is_refused(Code::Timeout).await;
    let mut pinged = false;
    loop {
        match silent.hear().await {
            Some(Message::Ping { .. }) => pinged = true,
            Some(Message::Nack(nack)) => break assert_eq!(nack.code, Code::Timeout),
            Some(Message::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(pinged, "it is asked before");
    assert_eq!(node.receiver.stats().intake.timed_out, 2);
    // Who answers stays, though it has nothing to send.
    let (mut idle, _) = Raw::welcomed(&node, hello("b")).await;
    for _ in 0..5 {
        let nonce = loop {
            if let Message::Ping { nonce, .. } = idle.hear().await.expect("it stays") {
                break nonce;
            }
        };
        idle.say(&Message::Pong { nonce }).await;
    }
    node.serves_others().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_never_finished_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { heartbeat: Duration::from_secs(10), ..quick() };
    let node = Node::start(dir.path(), config);
    // In the middle of a HELLO, of a head, and of a body that dribbles.
    for start in [&bytes_of(&Message::Hello(hello("a")))[..20], &[8, 0, 0]] {
        let mut raw = Raw::connect(&node).await;
        raw.say_bytes(start).await;
        raw.is_refused(Code::Timeout).await;
    }
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    raw.say(&send(0, &[b"good"])).await;
    raw.durable(1).await;
    raw.say_bytes(&head(4 << 20, SEND)).await;
    let (read, mut write) = raw.stream.into_split();
    let dribbles = tokio::spawn(async move {
        while write.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await
        }
    });
    let held = node.receiver.stats().intake.charged_bytes;
    assert!(held <= (4 << 20) + 1024, "{held}");
    // The dribbling goes on while it is told; what it hears is the NACK, unless its own bytes reset the connection.
    until("it is sent away", || node.receiver.stats().intake.timed_out >= 3).await;
    assert_eq!(node.receiver.stats().intake.timed_out, 3, "each is counted once");
    drop(read);
    dribbles.await.unwrap();
    until("nothing is held", || node.receiver.stats().intake.charged_bytes == 0).await;
    assert_eq!(node.seqs("a"), [1]);
    node.serves_others().await;
    node.stop().await;
}

/// One that holds room and does not use it is sent away when others need it, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_not_held_against_those_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig {
        frame_bytes_max: 100 << 10,
        record_bytes_max: 100 << 10,
        in_flight_bytes_max: 128 << 10,
        session_window_bytes: 1 << 20,
        ..ReceiverConfig::default()
    };
    let node = Node::start(dir.path(), config);
    let (mut slow, _) = Raw::welcomed(&node, hello("slow")).await;
    slow.say_bytes(&head(100 << 10, SEND)).await;
    slow.say_bytes(&[0; 10]).await;
    until("it has room", || node.receiver.stats().intake.charged_bytes > 100 << 10).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(node.receiver.stats().intake.timed_out, 0, "nobody else wants it");
    let (mut other, _) = Raw::welcomed(&node, hello("other")).await;
    other.say(&send(0, &[&[7; 90 << 10]])).await;
    other.durable(1).await;
    let nack = slow.is_refused(Code::Timeout).await;
    assert!(nack.text.contains("others wait for room"), "{}", nack.text);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_middle_of_a_frame_loses_nothing_that_was_whole() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    let mut bytes = bytes_of(&send(0, &[b"one", b"two"]));
    bytes.extend_from_slice(&bytes_of(&send(2, &[&[3; 1000]]))[..500]);
    raw.say_bytes(&bytes).await;
    raw.durable(2).await;
    raw.stream.set_zero_linger().unwrap();
    drop(raw);
    until("it is noticed", || node.watch.stats().broken == 1).await;
    until("nothing is held", || node.receiver.stats().intake.charged_bytes == 0).await;
    let (mut raw, welcome) = Raw::welcomed(&node, hello("a")).await;
    assert_eq!(welcome.durable, Seq::new(2));
    raw.say(&send(2, &[b"three"])).await;
    raw.durable(3).await;
    assert_eq!(node.seqs("a"), [1, 2, 3]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_is_acknowledged_and_not_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    raw.say(&send(0, &[b"1", b"2", b"3"])).await;
    raw.durable(3).await;
    raw.say(&send(0, &[b"1", b"2", b"3"])).await;
    raw.say(&send(1, &[b"2", b"3", b"4"])).await;
    assert_eq!(raw.durable(4).await.duplicates, 5);
    // Out of order: told once where to go on, and the rest is passed over.
    raw.say(&send(9, &[b"10"])).await;
    raw.say(&send(10, &[b"11"])).await;
    match raw.hear().await {
        Some(Message::Nack(nack)) => {
            assert_eq!((nack.code, nack.expected, nack.fatal), (Code::Gap, Seq::new(4), false))
        }
        other => panic!("{other:?}"),
    }
    raw.say(&send(4, &[b"5"])).await;
    raw.durable(5).await;
    // The whole session again, on another connection, as a replaying proxy would.
    let (mut again, welcome) = Raw::welcomed(&node, hello("a")).await;
    assert_eq!(welcome.durable, Seq::new(5));
    again.say(&send(0, &[b"1", b"2", b"3", b"4", b"5"])).await;
    assert_eq!(again.durable(5).await.duplicates, 5);
    assert_eq!(node.seqs("a"), [1, 2, 3, 4, 5]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_with_one_name_are_visible_and_old_lives_are_over() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let (mut first, welcome) = Raw::welcomed(&node, hello("a")).await;
    assert_eq!(welcome.epoch.get(), 1);
    // In the same life: the newer connection has it.
    let (mut second, _) = Raw::welcomed(&node, in_epoch("a", 1)).await;
    first.is_refused(Code::Replaced).await;
    // In the next one.
    let (mut third, welcome) = Raw::welcomed(&node, hello("a")).await;
    assert_eq!(welcome.epoch.get(), 2);
    second.is_refused(Code::OldEpoch).await;
    // The old one comes back.
    let mut old = Raw::connect(&node).await;
    old.say(&Message::Hello(in_epoch("a", 1))).await;
    old.is_refused(Code::OldEpoch).await;
    third.say(&send(0, &[b"x"])).await;
    third.durable(1).await;
    assert_eq!(node.receiver.stats().intake.replaced, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_told_more_than_there_is_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut raw = Raw::connect(&node).await;
    raw.say(&Message::Hello(Hello { told_durable: Seq::new(7), ..hello("a") })).await;
    raw.is_refused(Code::AckedLoss).await;
    node.stop().await;
}

/// Acknowledgments nobody reads: the session goes on to read, others are served, and what waits is one buffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_never_reads_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let (mut raw, _) = Raw::welcomed(&node, at_most_once("deaf")).await;
    // Every PING is answered with a PONG and an ACK: enough of them to fill every buffer on the way.
    let pings: Vec<u8> =
        (0..2000).flat_map(|nonce| bytes_of(&Message::Ping { nonce, rejects_seen: Seq::ZERO })).collect();
    for _ in 0..100 {
        raw.say_bytes(&pings).await;
    }
    raw.say(&send(0, &[b"the last thing"])).await;
    let id = SourceId::new("deaf").unwrap();
    until("it is read to the end", || node.receiver.source(&id).is_some_and(|source| source.durable == Seq::new(1)))
        .await;
    node.serves_others().await;
    drop(raw);
    node.stop().await;
}

/// With its peer not reading for three heartbeats, a session is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_never_reads_is_given_up_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig { heartbeat: Duration::from_millis(50), ..Default::default() });
    let mut raw = Raw::connect(&node).await;
    raw.say(&Message::Hello(hello("deaf"))).await;
    let pings: Vec<u8> =
        (0..2000).flat_map(|nonce| bytes_of(&Message::Ping { nonce, rejects_seen: Seq::ZERO })).collect();
    let writer = tokio::spawn(async move { while raw.stream.write_all(&pings).await.is_ok() {} });
    until("it is given up", || node.watch.stats().unread == 1).await;
    writer.await.unwrap();
    until("its session ended", || node.receiver.stats().intake.sessions == 0).await;
    node.stop().await;
}
