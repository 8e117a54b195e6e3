//! Gateways within TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use seawall::Secret;
use seawall::net::{ClientCertificates, Pem, ServerTls};
use seawall::node::{HttpConfig, HttpGateway, LinesConfig, LinesGateway, TokenRule};
use seawall::receiver::ReceiverConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::authority::Authority;
use super::{World, records};

/// No wait of a test is longer.
const LONG: Duration = Duration::from_secs(20);

fn server(authority: &Authority, clients: &ClientCertificates) -> ServerTls {
    let (chain, key) = authority.issue("127.0.0.1");
    ServerTls::new(&chain, &key, clients).unwrap()
}

fn bytes(pem: &Pem) -> &[u8] {
    let Pem::Bytes(bytes) = pem else { panic!("a file: {pem:?}") };
    bytes
}

/// What a peer that trusts the authority gets for its bytes, to the connection's end, which has to be said.
fn exchange(
    address: SocketAddr,
    authority: &Authority,
    certificate: Option<(Pem, Pem)>,
    sent: &[u8],
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bytes(&authority.pem())).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(bytes(&chain)).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(bytes(&key)).unwrap()).unwrap()
        }
    };
    let connection = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(LONG)).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    stream.write_all(sent)?;
    // HTTP takes a peer that says goodbye before it has its answer for one that does not want it.
    if !sent.starts_with(b"POST") && !sent.starts_with(b"GET") {
        stream.conn.send_close_notify();
    }
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

/// A request with one record.
fn post(headers: &str) -> Vec<u8> {
    format!(
        "POST /v1/streams/test HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n{headers}\
         Content-Length: 4\r\n\r\none\n"
    )
    .into_bytes()
}

/// The status of an answer.
fn status(answer: std::io::Result<String>) -> u16 {
    answer.expect("an answer")["HTTP/1.1 ".len()..][..3].parse().expect("a status")
}

struct Https {
    world: World,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

fn https(tls: ServerTls, config: HttpConfig) -> Https {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let (listener, address) = world.listen();
    let gateway = HttpGateway::new(world.receiver.clone(), config).unwrap();
    world.runtime.spawn(gateway.serve_tls(listener, tls, LONG, std::future::pending()));
    Https { world, address, _dir: dir }
}

#[test]
fn records_over_https_are_durable_and_in_the_open_nothing_is_taken() {
    let authority = Authority::new();
    let Https { world, address, _dir } =
        https(server(&authority, &ClientCertificates::NotAsked), HttpConfig::default());
    let request = post("Source-Id: a\r\nFirst-Seq: 1\r\n");
    assert_eq!(status(exchange(address, &authority, None, &request)), 201);

    let mut open = TcpStream::connect(address).unwrap();
    open.set_read_timeout(Some(LONG)).unwrap();
    open.write_all(&post("Source-Id: b\r\nFirst-Seq: 1\r\n")).unwrap();
    let mut answer = Vec::new();
    let _cut = open.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");

    let stranger = Authority::new();
    assert!(exchange(address, &stranger, None, &request).is_err(), "nobody it trusts signed the certificate");
    assert_eq!(records(&world.log), [("a".into(), 1, "one".into())]);
    world.close();
}

#[test]
fn a_certificate_is_for_its_own_sources_over_http_too() {
    let authority = Authority::new();
    let tls = server(&authority, &ClientCertificates::Required(authority.pem()));
    let Https { world, address, _dir } = https(tls, HttpConfig::default());
    let certificate = || Some(authority.issue("press-7"));
    let of = |source: &str| post(&format!("Source-Id: {source}\r\nFirst-Seq: 1\r\n"));
    assert_eq!(status(exchange(address, &authority, certificate(), &of("press-7"))), 201);
    assert_eq!(status(exchange(address, &authority, certificate(), &of("press-7/heat"))), 201);
    assert_eq!(status(exchange(address, &authority, certificate(), &of("press-8"))), 403);
    assert_eq!(status(exchange(address, &authority, certificate(), &post(""))), 403, "a request of nobody");
    let look = b"GET /v1/streams/test/sources/press-8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(status(exchange(address, &authority, certificate(), look)), 403);
    assert!(exchange(address, &authority, None, &of("press-7")).is_err(), "no certificate");
    let other = Authority::new();
    assert!(exchange(address, &authority, Some(other.issue("press-7")), &of("press-7")).is_err());
    let names: Vec<_> = records(&world.log).into_iter().map(|(source, _, _)| source).collect();
    assert_eq!(names, ["press-7", "press-7/heat"]);
    world.close();
}

#[test]
fn where_certificates_are_optional_a_token_stands_for_one() {
    let authority = Authority::new();
    let tls = server(&authority, &ClientCertificates::Optional(authority.pem()));
    let rule = TokenRule { token: Secret::new("plant-plant-plant"), sources: "plant/".to_owned() };
    let Https { world, address, _dir } = https(tls.clone(), HttpConfig { tokens: vec![rule], ..HttpConfig::default() });
    let with = |token: &str| post(&format!("Source-Id: plant/1\r\nFirst-Seq: 1\r\nAuthorization: Bearer {token}\r\n"));
    assert_eq!(status(exchange(address, &authority, None, &with("plant-plant-plant"))), 201);
    assert_eq!(status(exchange(address, &authority, None, &with("guess-guess-guess"))), 401);
    assert_eq!(status(exchange(address, &authority, Some(authority.issue("plant")), &with("guess-guess-guess"))), 200);
    world.close();

    // Without tokens there is nothing else to show.
    let Https { world, address, _dir } = https(tls, HttpConfig::default());
    assert_eq!(status(exchange(address, &authority, None, &with("plant-plant-plant"))), 401);
    world.close();
}

/// Each request of a connection is looked at for itself.
#[test]
fn a_connection_is_believed_for_each_of_its_requests() {
    let authority = Authority::new();
    let tls = server(&authority, &ClientCertificates::Required(authority.pem()));
    let Https { world, address, _dir } = https(tls, HttpConfig::default());
    let first = post("Source-Id: a\r\nFirst-Seq: 1\r\n");
    let first = String::from_utf8(first).unwrap().replace("Connection: close\r\n", "");
    let second = post("Source-Id: b\r\nFirst-Seq: 1\r\n");
    let certificate = Some(authority.issue("a"));
    let answers = exchange(address, &authority, certificate, &[first.as_bytes(), &second].concat()).unwrap();
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["201", "403"], "{answers}");
    world.close();
}

/// Lines within TLS, with `OK`s.
fn lines(clients: &ClientCertificates, authority: &Authority) -> Https {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let (listener, address) = world.listen();
    let config = LinesConfig { ack: true, ..LinesConfig::default() };
    let gateway = LinesGateway::new(world.receiver.clone(), config).unwrap();
    world.runtime.spawn(gateway.serve_tls(listener, server(authority, clients), LONG, std::future::pending()));
    Https { world, address, _dir: dir }
}

#[test]
fn lines_come_within_tls_and_their_end_is_said() {
    let authority = Authority::new();
    let Https { world, address, _dir } = lines(&ClientCertificates::NotAsked, &authority);
    let mut open = TcpStream::connect(address).unwrap();
    open.write_all(b"in the open\n").unwrap();
    let answer = exchange(address, &authority, None, b"one\ntwo\nwithout an end").unwrap();
    assert!(answer.ends_with("OK 3\n"), "{answer}");
    let texts: Vec<_> = records(&world.log).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(texts, ["one", "two", "without an end"]);
    world.close();
}

/// Also where another way in would believe a token instead: lines can show none.
#[test]
fn lines_without_a_certificate_that_is_asked_for_are_not_taken() {
    let authority = Authority::new();
    let pem = || authority.pem();
    for clients in [ClientCertificates::Required(pem()), ClientCertificates::Optional(pem())] {
        let Https { world, address, _dir } = lines(&clients, &authority);
        match exchange(address, &authority, None, b"of nobody\n") {
            Ok(answer) => assert_eq!(answer, ""),
            Err(e) => assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "it was not cut"),
        }
        assert_eq!(exchange(address, &authority, Some(authority.issue("x")), b"one\n").unwrap(), "OK 1\n");
        assert_eq!(records(&world.log).len(), 1);
        world.close();
    }
}

/// A door that is asked to end does not wait for those who have yet to agree upon TLS.
#[test]
fn a_silent_peer_does_not_hold_up_the_end() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let (listener, address) = world.listen();
    let hour = Duration::from_secs(3600);
    let config = HttpConfig { drain: hour, ..HttpConfig::default() };
    let gateway = HttpGateway::new(world.receiver.clone(), config).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let tls = server(&authority, &ClientCertificates::NotAsked);
    let served = world.runtime.spawn(gateway.serve_tls(listener, tls, hour, async { drop(stopped.await) }));
    let silent = TcpStream::connect(address).unwrap();
    // Behind it in line, so that it is there.
    assert_eq!(status(exchange(address, &authority, None, &post(""))), 201);
    drop(stop);
    let ended = world.runtime.block_on(async { tokio::time::timeout(LONG, served).await });
    ended.expect("it is waited for").unwrap();
    drop(silent);
    world.close();
}
