//! Receivers that do not behave: what a client makes of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use seawall::net::{ClientTls, NetError, Pem};
use seawall::node::{Client, ClientConfig, ClientError, Disconnect, LinkStatus};
use seawall::receiver::{Code, Message, Nack, OutboxConfig, OutboxError, Welcome, encode};
use seawall::{Seq, SourceId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;

use crate::authority::Authority;
use crate::security::bytes_unsent_to;
use crate::{LONG, soon};

fn bytes_of(messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|message| encode(message, &mut bytes));
    bytes
}

fn welcome(heartbeat_millis: u32) -> Welcome {
    Welcome {
        version: 1,
        heartbeat_millis,
        credit_bytes: 1 << 40,
        record_bytes_max: 1 << 20,
        frame_bytes_max: 1 << 20,
        frame_records_max: 1000,
        ..Welcome::default()
    }
}

fn nack(code: Code, fatal: bool) -> Message {
    let text = "words".to_owned();
    Message::Nack(Nack { code, at: Seq::ZERO, expected: Seq::ZERO, retry_after_millis: 0, fatal, text })
}

/// What a receiver does behind its words.
#[derive(Clone, Copy)]
enum Then {
    Reads,
    Sleeps,
    Ends,
}

/// A receiver that says this to everybody.
async fn says(bytes: BytesMut, then: Then) -> ClientConfig {
    says_within(None, bytes, then).await
}

async fn says_within(tls: Option<TlsAcceptor>, bytes: BytesMut, then: Then) -> ClientConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, bytes) = (tls.clone(), bytes.clone());
            tokio::spawn(async move {
                match tls {
                    Some(tls) => talk(tls.accept(stream).await.unwrap(), &bytes, then).await,
                    None => talk(stream, &bytes, then).await,
                }
            });
        }
    });
    let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
    let welcome_timeout = Duration::from_secs(5);
    ClientConfig { welcome_timeout, ..ClientConfig::new(address.to_string(), outbox) }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8], then: Then) {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    match then {
        Then::Reads => {}
        Then::Sleeps => std::future::pending().await,
        Then::Ends => drop(stream.shutdown().await),
    }
    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
}

async fn first_disconnect(client: &Client) -> Disconnect {
    let mut status = client.status();
    soon(status.wait_for(|status| status.disconnects > 0)).await.unwrap().last_disconnect.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_says_nothing_is_given_up() {
    let mut config = says(BytesMut::new(), Then::Reads).await;
    config.welcome_timeout = Duration::from_millis(50);
    let client = Client::connect(config).unwrap();
    let error = first_disconnect(&client).await;
    assert!(matches!(error, Disconnect::Net(NetError::TimedOut { .. })), "{error}");
    assert!(error.to_string().contains("WELCOME"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_falls_silent_is_given_up_and_asked_before() {
    let client = Client::connect(says(bytes_of(&[Message::Welcome(welcome(20))]), Then::Reads).await).unwrap();
    let error = first_disconnect(&client).await;
    assert!(matches!(error, Disconnect::Silent), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_read_is_given_up() {
    let client = Client::connect(says(bytes_of(&[Message::Welcome(welcome(50))]), Then::Sleeps).await).unwrap();
    let record = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..40 {
        let _ticket = soon(client.push(record.clone())).await.unwrap();
    }
    let error = first_disconnect(&client).await;
    assert!(matches!(error, Disconnect::Silent), "{error}");
}

/// TLS takes some bytes into a buffer of its own, and they counted as written: the client waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_tls_one_that_does_not_read_is_given_up() {
    let authority = Authority::new();
    let (Pem::Bytes(chain), Pem::Bytes(key)) = authority.issue("127.0.0.1") else { panic!("files") };
    let chain = vec![CertificateDer::from_pem_slice(&chain).unwrap()];
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_no_client_auth();
    let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap()).unwrap();
    let welcome = bytes_of(&[Message::Welcome(welcome(1500))]);
    let mut config = says_within(Some(TlsAcceptor::from(Arc::new(config))), welcome, Then::Sleeps).await;
    config.tls = Some(ClientTls::new(&authority.pem()).unwrap());
    let to = config.addresses[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let client = Client::connect(config).unwrap();
    // Until the kernel takes no more, and a little, which TLS takes.
    let (mut held, mut unchanged) = (0, 0);
    while unchanged < 2 {
        let _ticket = soon(client.push(vec![0; 10_000])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        let now = bytes_unsent_to(to);
        unchanged = if now > 50_000 && now == held { unchanged + 1 } else { 0 };
        held = now;
    }
    assert_eq!(client.status().borrow().disconnects, 0, "not yet");
    let error = first_disconnect(&client).await;
    assert!(matches!(error, Disconnect::Silent), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_speaks_something_else_is_told_apart() {
    let too_long: BytesMut = BytesMut::from(&[0xFF, 0xFF, 0xFF, 0xFF, 6, 0, 0, 0][..]);
    let mut damaged = bytes_of(&[Message::Welcome(welcome(1000))]);
    damaged[20] ^= 1;
    for bytes in [BytesMut::from(&b"220 mail.example ESMTP\r\n"[..]), too_long, damaged] {
        let client = Client::connect(says(bytes, Then::Reads).await).unwrap();
        let error = first_disconnect(&client).await;
        assert!(matches!(error, Disconnect::Wire(_)), "{error}");
    }
    // A message out of its place is not a matter of another try.
    let client = Client::connect(says(bytes_of(&[Message::Bye]), Then::Reads).await).unwrap();
    let error = soon(client.push("x")).await.unwrap_err();
    assert!(matches!(error, ClientError::Outbox(OutboxError::Protocol(_))), "{error}");
    let error = soon(client.close(LONG)).await.unwrap_err();
    assert!(matches!(error, ClientError::Outbox(OutboxError::Protocol(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_gives_as_its_reason_is_told() {
    for then in [Then::Reads, Then::Ends] {
        let client = Client::connect(says(bytes_of(&[nack(Code::Draining, true)]), then).await).unwrap();
        let error = first_disconnect(&client).await;
        assert!(matches!(&error, Disconnect::Told { code: Code::Draining, text } if text == "words"), "{error}");
    }
    let client = Client::connect(says(bytes_of(&[nack(Code::Unauthorized, true)]), Then::Reads).await).unwrap();
    let error = soon(client.resume()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Outbox(OutboxError::Refused { code: Code::Unauthorized, .. })),
        "a second try would not help: {error}"
    );
    assert!(matches!(client.status().borrow().link, LinkStatus::Ended { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_where_it_is_sent() {
    let there = says(bytes_of(&[Message::Welcome(welcome(60_000))]), Then::Reads).await;
    let address = there.addresses[0].clone();
    let redirect = Message::Redirect { address: address.clone(), retry_after_millis: 1 };
    let client = Client::connect(says(bytes_of(&[redirect]), Then::Reads).await).unwrap();
    soon(client.resume()).await.unwrap();
    let status = client.status().borrow().clone();
    assert!(matches!(status.link, LinkStatus::Connected { address: at } if at == address));
    assert!(matches!(status.last_disconnect, Some(Disconnect::Redirected { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_does_not_leave_the_machine_by_accident() {
    // An address of this machine that others can reach, if it has one.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|address| address.ip());
    let Some(own) = own.ok().filter(|own| !own.is_loopback() && !own.is_unspecified()) else {
        eprintln!("SKIP: this machine has no address but the loopback's");
        return;
    };
    let listener = std::net::TcpListener::bind((own, 0)).unwrap();
    let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
    let config = ClientConfig::new(listener.local_addr().unwrap().to_string(), outbox);
    let client = Client::connect(config.clone()).unwrap();
    let error = first_disconnect(&client).await;
    assert!(matches!(error, Disconnect::Plaintext { .. }), "{error}");
    drop(client);
    drop(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    listener.set_nonblocking(true).unwrap();
    while let Ok((mut accepted, _)) = listener.accept() {
        accepted.set_nonblocking(false).unwrap();
        assert_eq!(std::io::Read::read(&mut accepted, &mut [0]).unwrap(), 0, "not a byte was sent");
    }
    let _client = Client::connect(ClientConfig { plaintext_beyond_loopback: true, ..config }).unwrap();
    soon(async {
        while listener.accept().is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
