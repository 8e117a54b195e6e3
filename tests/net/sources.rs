//! Sources that behave.

use std::collections::VecDeque;
use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use seawall::node::{Client, ClientConfig, ClientError, Disconnect, LinkStatus, ServerConfig, Ticket};
use seawall::receiver::{Code, OutboxConfig, OutboxError, Poison, ReceiverConfig, RejectReason, Sequences, WaitFor};
use seawall::{Seq, SourceId};

use crate::{LONG, Node, soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_durable_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let client = node.client("a");
    assert_eq!(soon(client.resume()).await.unwrap(), Seq::ZERO);
    let mut tickets = VecDeque::new();
    for number in 1..=500u64 {
        let ticket = soon(client.push(number.to_string())).await.unwrap();
        assert_eq!(ticket.seq(), Seq::new(number));
        tickets.push_back(ticket);
        if tickets.len() == 64 {
            let seq = soon(tickets.pop_front().unwrap()).await.unwrap();
            assert!(client.positions().durable >= seq, "a ticket ends when its record is durable");
            assert!(node.receiver.source(&SourceId::new("a").unwrap()).unwrap().durable >= seq);
        }
    }
    let positions = soon(client.flush()).await.unwrap();
    assert_eq!(positions.durable, Seq::new(500));
    soon(client.watch().wait_for(|positions| positions.durable == Seq::new(500))).await.unwrap();
    for ticket in tickets {
        assert!(soon(ticket).await.is_ok());
    }
    let records = node.records();
    assert_eq!(records.len(), 500);
    for (number, (source, seq, record)) in (1u64..).zip(records) {
        assert_eq!((source.as_str(), seq, record), ("a", number, number.to_string().into_bytes()));
    }
    soon(client.close(LONG)).await.unwrap();
    let again = node.client("a");
    assert_eq!(soon(again.resume()).await.unwrap(), Seq::new(500), "who comes back hears where it was");
    drop(again);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sparse_sequences_keep_their_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut config = node.client_config("a");
    config.outbox.sequences = Sequences::Sparse;
    let client = Client::connect(config).unwrap();
    soon(client.resume()).await.unwrap();
    let seqs = [3, 4, 1000, 1 << 40, (1 << 40) + 7];
    for seq in seqs {
        let _ticket = soon(client.push_at(Seq::new(seq), seq.to_string())).await.unwrap();
    }
    let error = soon(client.push_at(Seq::new(5), "back")).await.unwrap_err();
    assert!(matches!(error, ClientError::Outbox(OutboxError::Sequence { .. })), "{error}");
    let skipped = soon(client.skip(Seq::new(1 << 41))).await.unwrap();
    assert_eq!(soon(skipped).await.unwrap(), Seq::new(1 << 41));
    assert_eq!(node.seqs("a"), seqs);
    soon(client.close(LONG)).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sequences_records_are_counted_by_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let outbox = OutboxConfig { sequences: Sequences::None, ..OutboxConfig::default() };
    let client = Client::connect(ClientConfig::new(node.address.to_string(), outbox)).unwrap();
    for _ in 0..3 {
        let _ticket = soon(client.push("x")).await.unwrap();
    }
    assert_eq!(soon(client.flush()).await.unwrap().durable, Seq::new(3));
    assert_eq!(node.records().len(), 3);
    soon(client.close(LONG)).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sources_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = node.client(&format!("source-{number}"));
        tasks.spawn(async move {
            for _ in 0..50 {
                let _ticket = client.push(vec![7; 100]).await.unwrap();
            }
            client.close(LONG).await.unwrap();
        });
    }
    while let Some(done) = soon(tasks.join_next()).await {
        done.unwrap();
    }
    for number in 0..40 {
        assert_eq!(node.seqs(&format!("source-{number}")), (1..=50).collect::<Vec<_>>());
    }
    assert_eq!(node.receiver.stats().intake.charged_bytes, 0);
    node.stop().await;
}

/// The server dies again and again, and comes back at the same address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_resumes_by_itself_and_nothing_is_lost_or_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), ReceiverConfig::default());
    let address = node.address;
    let client = std::sync::Arc::new(node.client("a"));
    let pusher = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut tickets: Vec<Ticket> = Vec::new();
            for number in 1..=3000u64 {
                tickets.push(client.push(number.to_string()).await.unwrap());
                if number % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        })
    };
    let mut restarts = 0;
    while !pusher.is_finished() && restarts < 5 {
        let before = client.positions().durable;
        until("records go on", || client.positions().durable > before || pusher.is_finished()).await;
        node.kill(dir.path()).await;
        node = Node::start_with(dir.path(), ReceiverConfig::default(), ServerConfig::new(address));
        restarts += 1;
    }
    soon(pusher).await.unwrap();
    assert!(restarts >= 2, "it was too fast to be interrupted");
    let status = client.status().borrow().clone();
    assert!(status.welcomes > 1 && status.disconnects > 0, "{status:?}");
    let records = node.records();
    assert_eq!(records.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), (1..=3000).collect::<Vec<_>>());
    assert!(records.iter().all(|(_, seq, record)| *record == seq.to_string().into_bytes()));
    drop(client);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_server_lets_sources_finish_and_sends_them_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
    config.drain = Duration::from_millis(200);
    let node = Node::start_with(dir.path(), ReceiverConfig::default(), config);
    let client = node.client("a");
    let ticket = soon(client.push("x")).await.unwrap();
    soon(ticket).await.unwrap();
    let mut status = client.status();
    node.stop().await;
    let last = soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap().last_disconnect.clone();
    assert!(matches!(last, Some(Disconnect::Told { code: Code::Draining, .. })), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_when_a_client_goes_is_unknown() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outbox = OutboxConfig { sequences: Sequences::None, ..OutboxConfig::default() };
    let config = ClientConfig::new(nobody.to_string(), outbox);
    let client = Client::connect(config.clone()).unwrap();
    let ticket = soon(client.push("x")).await.unwrap();
    let mut status = client.status();
    let last = soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap().clone();
    assert!(matches!(last.last_disconnect, Some(Disconnect::Net(_))), "{last:?}");
    drop(client);
    let error = soon(ticket).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { seq, .. } if seq == Seq::new(1)), "{error}");
    assert!(matches!(status.borrow().link, LinkStatus::Ended { .. }));

    let client = Client::connect(config.clone()).unwrap();
    let _ticket = soon(client.push("x")).await.unwrap();
    let error = soon(client.close(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, ClientError::Unacknowledged { records_bytes } if records_bytes > 0), "{error}");

    let client = Client::connect(config).unwrap();
    soon(client.close(LONG)).await.expect("with nothing to send there is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_makes_its_source_wait_in_line() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut config = node.client_config("a");
    config.outbox.held_bytes_max = 4096;
    let client = std::sync::Arc::new(Client::connect(config).unwrap());
    soon(client.resume()).await.unwrap();
    let mut full = false;
    for _ in 0..100 {
        full |= matches!(client.try_push(vec![0; 1000]), Err(ClientError::Outbox(OutboxError::Full { .. })));
    }
    assert!(full, "100 KiB do not fit into 4 KiB");
    soon(client.flush()).await.unwrap();
    let before = client.positions().pushed.get();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                client.push(vec![0; 1000]).await.unwrap().await.unwrap();
            }
        });
    }
    while let Some(done) = soon(tasks.join_next()).await {
        done.unwrap();
    }
    assert_eq!(client.positions().durable.get(), before + 400);
    drop(client);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_rejected_is_told_to_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { record_bytes_max: 1000, poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let node = Node::start(dir.path(), config);
    let client = node.client("a");
    // Given before the receiver has said how long a record may be.
    let (_, resumed) = tokio::join!(tokio::task::yield_now(), client.resume());
    assert_eq!(soon(async { resumed }).await.unwrap(), Seq::ZERO);
    let error = soon(client.push(vec![0; 1001])).await.unwrap_err();
    assert!(matches!(error, ClientError::Outbox(OutboxError::TooLarge { limit_bytes: 1000, .. })), "{error}");
    drop(client);
    node.stop().await;

    let dir = tempfile::tempdir().unwrap();
    let poison = |record: &[u8]| if record == b"poison" { Err("it is poison".to_owned()) } else { Ok(()) };
    let log = seawall::Log::open(dir.path(), seawall::Config::default()).unwrap().0;
    let config = ReceiverConfig { poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let check = Some(seawall::receiver::RecordCheck::new(poison));
    let (receiver, driver, _) = seawall::node::Receiver::open_with(log, "test", config, check, &|_, _| {}).unwrap();
    tokio::spawn(driver.run());
    let server = seawall::node::Server::bind(receiver, ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap();
    let address = server.addresses()[0].to_string();
    let server = tokio::spawn(server.run(std::future::pending()));
    let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
    let client = Client::connect(ClientConfig::new(address, outbox)).unwrap();
    let good = soon(client.push("good")).await.unwrap();
    let bad = soon(client.push("poison")).await.unwrap();
    let last = soon(client.push("good")).await.unwrap();
    assert!(soon(good).await.is_ok() && soon(last).await.is_ok());
    let error = soon(bad).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Rejected(reject) if reject.reason == RejectReason::Poison && reject.seq == Seq::new(2)),
        "{error}"
    );
    assert_eq!(client.take_rejects().iter().map(|reject| reject.seq.get()).collect::<Vec<_>>(), [2]);
    soon(client.close(LONG)).await.unwrap();
    server.abort();
}

/// A reject that was taken note of before the record had come as far as its source waits for was forgotten: its ticket said
/// that it was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_rejected_is_never_told_to_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { record_bytes_max: 1000, poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let node = Node::start(dir.path(), config);
    let outbox = OutboxConfig {
        source: SourceId::new("a"),
        sequences: Sequences::Sparse,
        wait_for: WaitFor::Committed,
        ..OutboxConfig::default()
    };
    let client = Client::connect(ClientConfig::new(node.address.to_string(), outbox)).unwrap();
    // Given before the receiver has said how long a record may be.
    let rejected = client.try_push_at(Seq::new(1), vec![0; 1001]).unwrap();
    let mut taken = Vec::new();
    until("it is told", || {
        taken.extend(client.take_rejects());
        !taken.is_empty()
    })
    .await;
    assert_eq!((taken[0].seq, taken[0].reason), (Seq::new(1), RejectReason::Oversized));
    let id = SourceId::new("a").unwrap();
    until("it was taken note of", || node.receiver.source(&id).unwrap().rejects_unseen == 0).await;
    node.receiver.committed(node.receiver.durable()).unwrap();
    let error = soon(rejected).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(reject) if reject.seq == Seq::new(1)), "{error}");
    soon(client.close(LONG)).await.unwrap();
    node.stop().await;
}

/// More of them than are remembered once their records have come as far as the source waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_are_rejected_none_is_told_to_be_committed() {
    const REJECTS: u64 = 10_100;
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { rejects_unseen_max: 10_000, poison: Poison::DeadLetter, ..ReceiverConfig::default() };
    let check = Some(seawall::receiver::RecordCheck::new(|record| match record {
        b"good" => Ok(()),
        _ => Err("all others".into()),
    }));
    let log = seawall::Log::open(dir.path(), seawall::Config::default()).unwrap().0;
    let (receiver, driver, _) =
        seawall::node::Receiver::open_with(log.clone(), "test", config, check, &|_, _| {}).unwrap();
    tokio::spawn(driver.run());
    let server = seawall::node::Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap();
    let address = server.addresses()[0].to_string();
    let server = tokio::spawn(server.run(std::future::pending()));
    let outbox = OutboxConfig { source: SourceId::new("a"), wait_for: WaitFor::Committed, ..OutboxConfig::default() };
    let client = Client::connect(ClientConfig::new(address, outbox)).unwrap();
    let good = soon(client.push("good")).await.unwrap();
    let first = soon(client.push("refused")).await.unwrap();
    let late = soon(client.push("refused")).await.unwrap();
    for _ in 2..REJECTS {
        drop(soon(client.push("refused")).await.unwrap());
    }
    let mut taken = 0;
    until("all are told", || {
        taken += client.take_rejects().len() as u64;
        taken >= REJECTS
    })
    .await;
    // They are awaited, and do not get to look before others need the room.
    let (mut good, mut first) = (std::pin::pin!(good), std::pin::pin!(first));
    assert!(good.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    receiver.committed(receiver.durable()).unwrap();
    let last = soon(client.push("refused")).await.unwrap();
    until("it is told", || !client.take_rejects().is_empty()).await;
    receiver.committed(receiver.durable()).unwrap();
    assert!(matches!(soon(last).await, Err(ClientError::Rejected(_))));
    assert_eq!(soon(good).await.unwrap(), Seq::new(1), "awaited in time, and nothing was said against it");
    let error = soon(first).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected(reject) if reject.seq == Seq::new(2)), "{error}");
    // Awaited later than there is memory for, it does not say that all is well either.
    let error = soon(late).await.unwrap_err();
    assert!(matches!(error, ClientError::Forgotten { seq } if seq == Seq::new(3)), "{error}");
    soon(client.close(LONG)).await.unwrap();
    server.abort();
}

/// Told is told: a source that waits for received, and whose receiver goes away for good, waited for ever for what it had heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_received_stays_told_when_the_receiver_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut config = node.client_config("a");
    config.outbox.wait_for = WaitFor::Received;
    let client = Client::connect(config).unwrap();
    let ticket = soon(client.push("x")).await.unwrap();
    until("it is received", || client.positions().received == Seq::new(1)).await;
    let mut status = client.status();
    node.kill(dir.path()).await;
    soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap();
    assert_eq!(soon(ticket).await.unwrap(), Seq::new(1));
    soon(client.flush()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_once_is_what_was_received() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let mut config = node.client_config("a");
    config.outbox.wait_for = WaitFor::Received;
    let client = Client::connect(config).unwrap();
    let ticket = soon(client.push("x")).await.unwrap();
    soon(ticket).await.unwrap();
    assert_eq!(client.positions().received, Seq::new(1));
    soon(client.close(LONG)).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), ReceiverConfig::default());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = node.client_config("a");
    config.addresses.insert(0, nobody.to_string());
    let client = Client::connect(config).unwrap();
    soon(client.resume()).await.unwrap();
    let status = client.status().borrow().clone();
    assert!(matches!(status.link, LinkStatus::Connected { address } if address == node.address.to_string()));
    assert_eq!((status.welcomes, status.disconnects), (1, 1));
    drop(client);
    node.stop().await;
}
