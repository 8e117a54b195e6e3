//! Records too long to be held, and more connections than are taken.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use seawall::Seq;
use seawall::node::{Client, LinkStatus};
use seawall::receiver::{Code, Message, Poison, ReceiverConfig, RejectReason};

use crate::raw::{Raw, bytes_of, hello, send};
use crate::{LONG, Node, soon, until};

fn small() -> ReceiverConfig {
    ReceiverConfig {
        record_bytes_max: 10_000,
        frame_bytes_max: 10_000,
        poison: Poison::DeadLetter,
        ..ReceiverConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_too_long_passes_by_and_is_recorded_as_a_reject() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), small());
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    let long = vec![7; 5 << 20];
    raw.say(&send(0, &[b"before"])).await;
    raw.say(&send(1, &[&long])).await;
    raw.say(&send(2, &[b"behind"])).await;
    let ack = raw.durable(3).await;
    let rejects: Vec<_> = ack.rejects.iter().map(|reject| (reject.seq.get(), reject.reason, reject.bytes)).collect();
    assert_eq!(rejects, [(2, RejectReason::Oversized, 5 << 20)]);
    assert_eq!(node.seqs("a"), [1, 3]);
    // Damaged on its way, it is nothing.
    let mut damaged = bytes_of(&send(3, &[&long]));
    damaged[1 << 20] ^= 1;
    raw.say_bytes(&damaged).await;
    raw.is_refused(Code::Protocol).await;
    let (_, welcome) = Raw::welcomed(&node, hello("a")).await;
    assert_eq!((welcome.durable, welcome.rejects.len()), (Seq::new(3), 1), "told until it was taken note of");
    assert_eq!(node.receiver.stats().intake.charged_bytes, 0, "what was charged for them has come back");
    node.stop().await;
}

/// What is kept of long records is charged like everything else: with no room, they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_records_wait_for_room_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig { in_flight_bytes_max: 100 << 10, ..small() });
    let mut halves = Vec::new();
    for source in ["a", "b", "c"] {
        let (mut raw, _) = Raw::welcomed(&node, hello(source)).await;
        let bytes = bytes_of(&send(0, &[&[7; 200_000]]));
        raw.say_bytes(&bytes[..10_000]).await;
        halves.push((raw, bytes));
    }
    until("one has room", || node.receiver.stats().intake.charged_bytes > 64 << 10).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let charged = node.receiver.stats().intake.charged_bytes;
    assert!(charged < 100 << 10, "{charged}: only one of them has");
    for (raw, bytes) in &mut halves {
        raw.say_bytes(&bytes[10_000..]).await;
    }
    for (raw, _) in &mut halves {
        assert_eq!(raw.durable(1).await.rejects.len(), 1);
    }
    until("it has come back", || node.receiver.stats().intake.charged_bytes == 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_place_for_rejects_a_record_too_long_stops_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig { poison: Poison::Stop, ..small() });
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    raw.say(&send(0, &[&[7; 20_000]])).await;
    raw.is_refused(Code::Oversized).await;
    assert!(node.seqs("a").is_empty());
    node.serves_others().await;
    node.stop().await;
}

/// Only whole messages were heard: a source whose record takes longer than three heartbeats on its link was cut off, came
/// back, and never got any further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_steadily_is_no_silence() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { heartbeat: Duration::from_millis(50), ..small() };
    let node = Node::start(dir.path(), config);
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    let long = vec![7; 20_000];
    // One that is held, and one that passes by.
    for (n, message) in [send(0, &[&long[..9000]]), send(1, &[&long])].iter().enumerate() {
        let bytes = bytes_of(message);
        for piece in bytes.chunks(bytes.len().div_ceil(25)) {
            raw.say_bytes(piece).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        raw.durable(n as u64 + 1).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_record_that_stops_on_its_way_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { message_timeout: Duration::from_millis(100), ..small() };
    let node = Node::start(dir.path(), config);
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    let bytes = bytes_of(&send(0, &[&[7; 1 << 20]]));
    raw.say_bytes(&bytes[..600_000]).await;
    let nack = raw.is_refused(Code::Timeout).await;
    assert!(nack.text.contains("100ms"), "it is the message that took too long: {}", nack.text);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_sessions_than_are_taken_are_told_so_and_come_in_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig { sessions_max: 2, ..ReceiverConfig::default() });
    let (one, _) = Raw::welcomed(&node, hello("one")).await;
    let (_two, _) = Raw::welcomed(&node, hello("two")).await;
    // Far more than are let in for being refused.
    let mut refused = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(&node).await;
        refused.spawn(async move { raw.is_refused(Code::TooMany).await });
    }
    while let Some(done) = soon(refused.join_next()).await {
        done.unwrap();
    }
    let client = Client::connect(node.client_config("three")).unwrap();
    let mut status = client.status();
    soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap();
    drop(one);
    soon(status.wait_for(|status| matches!(status.link, LinkStatus::Connected { .. }))).await.unwrap();
    soon(client.close(LONG)).await.unwrap();
    until("they are gone", || node.watch.stats().connections == 1).await;
    node.stop().await;
}

/// More than the window at once: whoever does not keep to the credit is sent away, whoever does gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_is_kept_to() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig {
        record_bytes_max: 10_000,
        frame_bytes_max: 20_000,
        session_window_bytes: 20_000,
        in_flight_bytes_max: 64 << 10,
        ..ReceiverConfig::default()
    };
    let node = Node::start(dir.path(), config);
    let (mut raw, _) = Raw::welcomed(&node, hello("greedy")).await;
    let mut bytes = BytesMut::new();
    for seq in 0..100 {
        bytes.put_slice(&bytes_of(&send(seq, &[&[1; 9000]])));
    }
    raw.say_bytes(&bytes).await;
    raw.is_refused(Code::Credit).await;
    let client = node.client("modest");
    for _ in 0..200 {
        let _ticket = soon(client.push(vec![2; 9000])).await.unwrap();
    }
    soon(client.close(LONG)).await.unwrap();
    assert_eq!(node.seqs("modest"), (1..=200).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_with_positions() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let (mut raw, _) = Raw::welcomed(&node, hello("a")).await;
    raw.say(&Message::Ping { nonce: 77, rejects_seen: Seq::ZERO }).await;
    let (mut pong, mut ack) = (false, false);
    while !(pong && ack) {
        match raw.hear().await {
            Some(Message::Pong { nonce }) => pong = nonce == 77,
            Some(Message::Ack(_)) => ack = true,
            other => panic!("{other:?}"),
        }
    }
    node.stop().await;
}
