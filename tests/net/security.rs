//! Who is believed.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use seawall::Secret;
use seawall::net::{ClientCertificates, ClientTls, NetError, Pem, ServerTls};
use seawall::node::{Client, ClientError, Disconnect, ServerConfig, ServerError, TokenRule};
use seawall::receiver::{Code, HEADER_BYTES, Hello, Message, OutboxError, ReceiverConfig};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::authority::Authority;
use crate::raw::{Raw, bytes_of, hello};
use crate::{LONG, Node, soon, until};

fn local() -> ServerConfig {
    ServerConfig::new(([127, 0, 0, 1], 0).into())
}

fn with_tls(authority: &Authority, clients: &ClientCertificates) -> ServerConfig {
    let (chain, key) = authority.issue("127.0.0.1");
    ServerConfig { tls: Some(ServerTls::new(&chain, &key, clients).unwrap()), ..local() }
}

/// Sends one record and says goodbye.
async fn sends(node: &Node, source: &str, tls: Option<ClientTls>, token: &str) -> Result<(), ClientError> {
    let mut config = node.client_config(source);
    config.tls = tls;
    config.outbox.token = Secret::new(token);
    let client = Client::connect(config).unwrap();
    let ticket = soon(client.push("x")).await?;
    soon(ticket).await?;
    soon(client.close(LONG)).await.map(drop)
}

/// Why the client's first attempt did not succeed.
async fn fails(node: &Node, source: &str, tls: Option<ClientTls>) -> Disconnect {
    let mut config = node.client_config(source);
    config.tls = tls;
    let client = Client::connect(config).unwrap();
    let mut status = client.status();
    soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap().last_disconnect.clone().unwrap()
}

fn is_unauthorized(result: Result<(), ClientError>) -> bool {
    matches!(result, Err(ClientError::Outbox(OutboxError::Refused { code: Code::Unauthorized, .. })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_hides_records_from_others_and_strangers_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node =
        Node::start_with(dir.path(), ReceiverConfig::default(), with_tls(&authority, &ClientCertificates::NotAsked));
    sends(&node, "a", Some(ClientTls::new(&authority.pem()).unwrap()), "").await.unwrap();
    let large = "x".repeat(1 << 20);
    let mut config = node.client_config("b");
    config.tls = Some(ClientTls::new(&authority.pem()).unwrap());
    let client = Client::connect(config).unwrap();
    for _ in 0..20 {
        let _ticket = soon(client.push(large.clone())).await.unwrap();
    }
    soon(client.close(LONG)).await.unwrap();
    assert_eq!((node.seqs("a").len(), node.seqs("b").len()), (1, 20));

    let error = fails(&node, "c", Some(ClientTls::new(&stranger.pem()).unwrap())).await;
    assert!(matches!(error, Disconnect::Net(NetError::Handshake { .. })), "{error}");
    let named = ClientTls::new(&authority.pem()).unwrap().expecting("another.example").unwrap();
    let error = fails(&node, "c", Some(named)).await;
    assert!(matches!(error, Disconnect::Net(NetError::Handshake { .. })), "{error}");
    let error = fails(&node, "c", None).await;
    assert!(!matches!(error, Disconnect::Told { .. }), "plain text is not answered: {error}");
    until("failed handshakes are counted", || node.watch.stats().handshakes_failed >= 3).await;
    assert!(node.seqs("c").is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_for_its_own_sources() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let config = with_tls(&authority, &ClientCertificates::Required(authority.pem()));
    let node = Node::start_with(dir.path(), ReceiverConfig::default(), config);
    let shows = |issuer: &Authority| {
        let (chain, key) = issuer.issue("press.example");
        Some(ClientTls::with_certificate(&authority.pem(), &chain, &key).unwrap())
    };
    sends(&node, "press.example", shows(&authority), "").await.unwrap();
    sends(&node, "press.example/temperature", shows(&authority), "").await.unwrap();
    for other in ["press.example2", "other.example", "press"] {
        assert!(is_unauthorized(sends(&node, other, shows(&authority), "").await), "{other}");
    }
    assert_eq!(node.watch.stats().unauthorized, 3);
    // Without one, or with one of another authority, there is no connection.
    for tls in [Some(ClientTls::new(&authority.pem()).unwrap()), shows(&stranger)] {
        let error = fails(&node, "press.example", tls).await;
        assert!(!matches!(error, Disconnect::Told { .. }), "{error}");
    }
    until("failed handshakes are counted", || node.watch.stats().handshakes_failed >= 2).await;
    assert_eq!(node.records().len(), 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_certificates_are_optional_a_token_is_needed_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut config = with_tls(&authority, &ClientCertificates::Optional(authority.pem()));
    config.tokens = vec![TokenRule { token: Secret::new("a-long-enough-token"), sources: "device/".into() }];
    let node = Node::start_with(dir.path(), ReceiverConfig::default(), config);
    let anonymous = || Some(ClientTls::new(&authority.pem()).unwrap());
    let (chain, key) = authority.issue("press.example");
    let shows = Some(ClientTls::with_certificate(&authority.pem(), &chain, &key).unwrap());
    sends(&node, "press.example", shows.clone(), "").await.unwrap();
    sends(&node, "device/7", anonymous(), "a-long-enough-token").await.unwrap();
    assert!(is_unauthorized(sends(&node, "device/7", anonymous(), "").await));
    assert!(is_unauthorized(sends(&node, "device/7", shows, "a-long-enough-token").await), "a certificate binds");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_for_its_own_sources() {
    let dir = tempfile::tempdir().unwrap();
    let token = "a-long-enough-token";
    let rule = TokenRule { token: Secret::new(token), sources: "plant/".into() };
    let node = Node::start_with(dir.path(), ReceiverConfig::default(), ServerConfig { tokens: vec![rule], ..local() });
    sends(&node, "plant/1", None, token).await.unwrap();
    for (source, token) in [("plan", token), ("plant/1", ""), ("plant/1", "a-long-enough-tokem")] {
        assert!(is_unauthorized(sends(&node, source, None, token).await), "{source} {token}");
    }
    let mut raw = Raw::connect(&node).await;
    raw.say(&Message::Hello(Hello { token: b"a guess".to_vec(), ..hello("plant/1") })).await;
    let nack = raw.is_refused(Code::Unauthorized).await;
    assert!(!nack.text.contains("guess") && !nack.text.contains(token), "{nack:?}");
    assert_eq!((node.records().len(), node.watch.stats().unauthorized), (1, 4));
    node.stop().await;
}

/// A connection on which TLS is never begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_begin_tls_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = with_tls(&Authority::new(), &ClientCertificates::NotAsked);
    config.handshake_timeout = std::time::Duration::from_millis(50);
    let node = Node::start_with(dir.path(), ReceiverConfig::default(), config);
    let mut mute = Raw::connect(&node).await;
    assert_eq!(mute.hear().await, None, "it is closed");
    until("it is counted", || node.watch.stats().handshakes_failed == 1).await;
    assert_eq!(node.receiver.stats().intake.sessions, 0);
    node.stop().await;
}

#[tokio::test]
async fn nobody_listens_in_the_open_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let log = seawall::Log::open(dir.path(), seawall::Config::default()).unwrap().0;
    let (receiver, _driver, _) = seawall::node::Receiver::open(log, "test", ReceiverConfig::default()).unwrap();
    let open = ServerConfig::new(([0, 0, 0, 0], 0).into());
    let error = seawall::node::Server::bind(receiver.clone(), open.clone()).unwrap_err();
    assert!(matches!(error, ServerError::Config { field: "listen", .. }), "{error}");
    assert!(seawall::node::Server::bind(receiver, ServerConfig { plaintext_beyond_loopback: true, ..open }).is_ok());
}

/// TLS took the last words into a buffer of its own, and they counted as written: nothing ended the connection any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_tls_who_reads_nothing_is_cut_off_when_its_session_has_ended() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let node =
        Node::start_with(dir.path(), ReceiverConfig::default(), with_tls(&authority, &ClientCertificates::NotAsked));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = soon(socket.connect(node.address)).await.unwrap().into_std().unwrap();
    tcp.set_nonblocking(false).unwrap();
    let port = tcp.local_addr().unwrap().port();
    let Pem::Bytes(pem) = authority.pem() else { panic!("a file") };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    let deaf = tokio::task::spawn_blocking(move || {
        let mut stream = StreamOwned::new(connection, tcp);
        stream.write_all(&bytes_of(&Message::Hello(hello("deaf")))).unwrap();
        let mut welcome = [0; HEADER_BYTES];
        stream.read_exact(&mut welcome).unwrap();
        let ping = bytes_of(&Message::Ping { nonce: 7, rejects_seen: seawall::Seq::ZERO });
        // Answers pile up until the kernel takes no more of them: then what comes next waits within TLS.
        let (mut waiting, mut unchanged) = (0, 0);
        while unchanged < 5 {
            stream.write_all(&ping.repeat(2000)).unwrap();
            std::thread::sleep(Duration::from_millis(3));
            let now = bytes_unsent_to(port);
            unchanged = if now > 50_000 && now == waiting { unchanged + 1 } else { 0 };
            waiting = now;
        }
        // A message that there is not: the last words follow.
        stream.write_all(&[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        stream
    });
    let _deaf = soon(deaf).await.unwrap();
    until("its session has ended", || node.receiver.stats().intake.sessions == 0).await;
    until("it is cut off", || node.watch.stats().connections == 0).await;
    node.stop().await;
}

/// What the kernel holds of what was written to this port.
pub(crate) fn bytes_unsent_to(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    let queues = table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let is_it = fields.next()?.ends_with(&to);
        is_it.then(|| fields.nth(1).map(str::to_owned))?
    });
    queues.map_or(0, |queues| u64::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap())
}
