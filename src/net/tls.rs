//! TLS 1.3 between sources and receivers, and what a source's certificate allows.
//!
//! A certificate speaks for the source that is called like one of its DNS names, and for those whose names go on from
//! there with a `/`: `press-7.plant.example` for `press-7.plant.example` and `press-7.plant.example/temperature`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{Resumption, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::error::NetError;
use super::tcp::Stream;

/// Where certificates or a key come from.
#[derive(Clone)]
pub enum Pem {
    /// A PEM file.
    File(PathBuf),
    /// What would be in one.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Pem {
    /// A key is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({})", self.place())
    }
}

impl From<&Path> for Pem {
    fn from(file: &Path) -> Pem {
        Pem::File(file.into())
    }
}

impl From<PathBuf> for Pem {
    fn from(file: PathBuf) -> Pem {
        Pem::File(file)
    }
}

impl Pem {
    fn place(&self) -> String {
        match self {
            Pem::File(file) => file.display().to_string(),
            Pem::Bytes(_) => "memory".to_owned(),
        }
    }

    fn problem(&self, what: &'static str, problem: impl fmt::Display) -> NetError {
        NetError::Tls { what, place: self.place(), problem: problem.to_string() }
    }

    fn read(&self, what: &'static str) -> Result<Vec<u8>, NetError> {
        match self {
            Pem::File(file) => std::fs::read(file).map_err(|e| self.problem(what, format!("cannot be read: {e}"))),
            Pem::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    fn certificates(&self, what: &'static str) -> Result<Vec<CertificateDer<'static>>, NetError> {
        let bytes = self.read(what)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|e| self.problem(what, format!("is no PEM: {e}")))?;
        if found.is_empty() { Err(self.problem(what, "holds no CERTIFICATE")) } else { Ok(found) }
    }

    fn key(&self, what: &'static str) -> Result<PrivateKeyDer<'static>, NetError> {
        PrivateKeyDer::from_pem_slice(&self.read(what)?).map_err(|e| match e {
            pem::Error::NoItemsFound => self.problem(what, "holds no PRIVATE KEY"),
            e => self.problem(what, format!("is no PEM: {e}")),
        })
    }

    fn roots(&self, what: &'static str) -> Result<Arc<RootCertStore>, NetError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(what)? {
            roots.add(certificate).map_err(|e| self.problem(what, format!("is not usable: {e}")))?;
        }
        Ok(Arc::new(roots))
    }
}

/// What a receiver asks of a source's certificate.
#[derive(Clone, Debug, Default)]
pub enum ClientCertificates {
    /// Nothing: tokens say who is who.
    #[default]
    NotAsked,
    /// One that these authorities signed, or a token.
    Optional(Pem),
    /// One that these authorities signed.
    Required(Pem),
}

/// The receiving end's TLS.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Whether certificates are looked at, and whether one is needed.
    pub(crate) asks: bool,
    pub(crate) requires: bool,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerTls { asks, requires, .. } = self;
        f.debug_struct("ServerTls").field("asks", asks).field("requires", requires).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// A receiver that shows `chain`, its own certificate first, and holds its `key`.
    ///
    /// # Errors
    /// [`NetError::Tls`] names what is not usable, and where it came from.
    pub fn new(chain: &Pem, key: &Pem, clients: &ClientCertificates) -> Result<ServerTls, NetError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("ring speaks TLS 1.3");
        let what = "list of client authorities";
        let verifier = |pem: &Pem, is_optional: bool| {
            let builder = WebPkiClientVerifier::builder_with_provider(pem.roots(what)?, provider.clone());
            let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|e: VerifierBuilderError| pem.problem(what, format!("is not usable: {e}")))
        };
        let builder = match clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            ClientCertificates::Optional(pem) => builder.with_client_cert_verifier(verifier(pem, true)?),
            ClientCertificates::Required(pem) => builder.with_client_cert_verifier(verifier(pem, false)?),
        };
        let mut config = builder
            .with_single_cert(chain.certificates("certificate")?, key.key("key")?)
            .map_err(|e| key.problem("key", format!("does not go with the certificate in {}: {e}", chain.place())))?;
        // A session that is resumed looks at no certificate: one that has expired since would go on being believed.
        config.send_tls13_tickets = 0;
        Ok(ServerTls {
            config: Arc::new(config),
            asks: !matches!(clients, ClientCertificates::NotAsked),
            requires: matches!(clients, ClientCertificates::Required(_)),
        })
    }

    /// Agrees upon TLS with a source that has connected.
    pub(crate) async fn accept(&self, stream: TcpStream, peer: &str, within: Duration) -> Result<Stream, NetError> {
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream);
        let stream = tokio::time::timeout(within, handshake)
            .await
            .map_err(|_| NetError::TimedOut { what: "the TLS handshake", after: within })?
            .map_err(|e| NetError::Handshake { peer: peer.to_owned(), source: Arc::new(e) })?;
        Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// The sending end's TLS.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// A source that trusts receivers whose certificates these `authorities` signed.
    ///
    /// # Errors
    /// [`NetError::Tls`] names what is not usable, and where it came from.
    pub fn new(authorities: &Pem) -> Result<ClientTls, NetError> {
        let builder = client_builder().with_root_certificates(authorities.roots("list of authorities")?);
        Ok(ClientTls::of(builder.with_no_client_auth()))
    }

    /// The same, and it shows `chain` itself, its own certificate first, and holds its `key`.
    ///
    /// # Errors
    /// [`NetError::Tls`] names what is not usable, and where it came from.
    pub fn with_certificate(authorities: &Pem, chain: &Pem, key: &Pem) -> Result<ClientTls, NetError> {
        let builder = client_builder().with_root_certificates(authorities.roots("list of authorities")?);
        let config = builder
            .with_client_auth_cert(chain.certificates("certificate")?, key.key("key")?)
            .map_err(|e| key.problem("key", format!("does not go with the certificate in {}: {e}", chain.place())))?;
        Ok(ClientTls::of(config))
    }

    /// Each connection looks at the receiver's certificate, as it is then.
    fn of(mut config: ClientConfig) -> ClientTls {
        config.resumption = Resumption::disabled();
        ClientTls { config: Arc::new(config), name: None }
    }

    /// Expects this name in the receiver's certificate, whatever the address is.
    ///
    /// # Errors
    /// [`NetError::Name`].
    pub fn expecting(mut self, name: &str) -> Result<ClientTls, NetError> {
        self.name = Some(server_name(name)?);
        Ok(self)
    }

    /// Agrees upon TLS with the receiver at `address`, `host:port`.
    pub(crate) async fn connect(&self, stream: TcpStream, address: &str, within: Duration) -> Result<Stream, NetError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host_of(address))?,
        };
        let handshake = TlsConnector::from(self.config.clone()).connect(name, stream);
        let stream = tokio::time::timeout(within, handshake)
            .await
            .map_err(|_| NetError::TimedOut { what: "the TLS handshake", after: within })?
            .map_err(|e| NetError::Handshake { peer: address.to_owned(), source: Arc::new(e) })?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }
}

/// What the other end has shown of itself.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// Whether it speaks for the source with this name.
    pub(crate) fn speaks_for(&self, source: &[u8]) -> bool {
        let Ok(source) = std::str::from_utf8(source) else { return false };
        let name = source.split_once('/').map_or(source, |(name, _)| name);
        let Ok(name @ ServerName::DnsName(_)) = ServerName::try_from(name) else { return false };
        ParsedCertificate::try_from(&self.0).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }
}

impl Stream {
    /// The certificate the other end has shown and that was found good.
    pub(crate) fn peer_certificate(&self) -> Option<PeerCertificate> {
        let Stream::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        session.peer_certificates()?.first().map(|certificate| PeerCertificate(certificate.clone()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn client_builder() -> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).expect("ring speaks TLS 1.3")
}

fn server_name(name: &str) -> Result<ServerName<'static>, NetError> {
    ServerName::try_from(name.to_owned()).map_err(|_| NetError::Name { name: name.to_owned() })
}

/// `host:port` or `[host]:port` without the port.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::HandshakeKind;

    use super::*;

    fn certificate(names: &[&str]) -> (Pem, Pem, PeerCertificate) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let chain = Pem::Bytes(made.cert.pem().into_bytes());
        let key = Pem::Bytes(made.signing_key.serialize_pem().into_bytes());
        (chain, key, PeerCertificate(made.cert.der().clone()))
    }

    #[test]
    fn a_certificate_speaks_for_its_names_and_what_is_below_them() {
        let (_, _, certificate) = certificate(&["press.example", "*.line.example", "10.0.0.1"]);
        for (source, speaks) in [
            ("press.example", true),
            ("press.example/temperature/3", true),
            ("a.line.example/x", true),
            ("line.example", false),
            ("press.example2", false),
            ("press.example.com", false),
            ("press", false),
            ("x/press.example", false),
            ("/press.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(certificate.speaks_for(source.as_bytes()), speaks, "{source:?}");
        }
        assert!(!certificate.speaks_for(b"press.example\xff"));
    }

    #[test]
    fn what_is_not_usable_is_named_with_its_place() {
        let (chain, key, _) = certificate(&["a.example"]);
        let (_, other_key, _) = certificate(&["a.example"]);
        let (none, missing) = (Pem::Bytes(b"nothing".to_vec()), Pem::from(Path::new("no/such.pem")));
        let not_asked = ClientCertificates::NotAsked;
        assert!(ServerTls::new(&chain, &key, &not_asked).is_ok());
        for (made, expected) in [
            (ServerTls::new(&none, &key, &not_asked), "the certificate in memory holds no CERTIFICATE"),
            (ServerTls::new(&chain, &none, &not_asked), "the key in memory holds no PRIVATE KEY"),
            (ServerTls::new(&chain, &missing, &not_asked), "the key in no/such.pem cannot be read"),
            (ServerTls::new(&chain, &other_key, &not_asked), "the key in memory does not go with the certificate"),
            (
                ServerTls::new(&chain, &key, &ClientCertificates::Required(missing.clone())),
                "the list of client authorities in no/such.pem cannot be read",
            ),
        ] {
            let told = made.unwrap_err().to_string();
            assert!(told.starts_with(&format!("TLS: {expected}")), "{told}");
        }
        assert!(matches!(ClientTls::new(&none), Err(NetError::Tls { what: "list of authorities", .. })));
        assert!(matches!(ClientTls::new(&chain).unwrap().expecting("no name"), Err(NetError::Name { .. })));
    }

    /// Two connections, one after the other, and whether the second one was a whole handshake.
    async fn is_second_whole(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> bool {
        let mut is_whole = false;
        for _ in 0..2 {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let name = ServerName::try_from("a.example").unwrap();
            let accepted = TlsAcceptor::from(server.clone()).accept(theirs);
            let connected = TlsConnector::from(client.clone()).connect(name, ours);
            let (accepted, connected) = tokio::join!(accepted, connected);
            let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
            // Tickets come with what is said.
            accepted.write_all(b"x").await.unwrap();
            accepted.flush().await.unwrap();
            connected.read_exact(&mut [0]).await.unwrap();
            is_whole = connected.get_ref().1.handshake_kind() == Some(HandshakeKind::Full);
        }
        is_whole
    }

    #[tokio::test]
    async fn no_session_is_resumed_by_either_end() {
        let (chain, key, certificate) = certificate(&["a.example"]);
        let ours = ServerTls::new(&chain, &key, &ClientCertificates::NotAsked).unwrap().config;
        let client = ClientTls::new(&chain).unwrap().config;
        let others = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
        let others =
            others.with_no_client_auth().with_single_cert(vec![certificate.0], key.key("key").unwrap()).unwrap();
        let eager = client_builder().with_root_certificates(chain.roots("").unwrap()).with_no_client_auth();
        let (others, eager) = (Arc::new(others), Arc::new(eager));
        assert!(!is_second_whole(others.clone(), eager.clone()).await, "what there is to prevent");
        assert!(is_second_whole(ours, eager).await);
        assert!(is_second_whole(others, client).await);
    }

    #[test]
    fn keys_are_not_shown() {
        let (chain, key, _) = certificate(&["a.example"]);
        assert_eq!(format!("{key:?}"), "Pem(memory)");
        let tls = ServerTls::new(&chain, &key, &ClientCertificates::NotAsked).unwrap();
        assert_eq!(format!("{tls:?}"), "ServerTls { asks: false, requires: false, .. }");
    }

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        for (address, host) in [("a.example:7", "a.example"), ("[::1]:7", "::1"), ("10.0.0.1:7", "10.0.0.1")] {
            assert_eq!(host_of(address), host);
        }
    }
}
