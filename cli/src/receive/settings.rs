//! What `receive` is configured with: defaults, then the file, then the command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seawall::net::{ClientCertificates, NetError, Pem, ServerTls};
use seawall::node::{HttpConfig, ServerConfig, TokenRule};
use seawall::receiver::ReceiverConfig;
use seawall::{Config, Error, Secret};
use serde::{Deserialize, Serialize};

use super::Args;
use crate::Global;
use crate::exit::Failure;

/// The whole configuration, as the file may hold it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// The stream's name.
    pub(super) stream: String,
    pub(super) server: ServerSettings,
    pub(super) receiver: ReceiverConfig,
    pub(super) log: Config,
}

/// Where it listens, and whom it believes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ServerSettings {
    listen: Vec<SocketAddr>,
    /// Records over HTTP, plain lines, and how it goes: each on an address of its own.
    pub(super) http: Option<SocketAddr>,
    pub(super) lines: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) plaintext_beyond_loopback: bool,
    /// With a certificate, HTTP and lines are encrypted as the protocol is; this leaves them as they are: for a proxy on this
    /// machine.
    pub(super) plaintext_doors: bool,
    /// Ways in that cannot ask for what the protocol asks for are open all the same.
    unauthenticated_doors: bool,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    /// A certificate is one way among others (tokens), not the only one.
    client_certificates_optional: bool,
    tokens: Vec<TokenSettings>,
    #[serde(with = "humantime_serde")]
    pub(super) handshake_timeout: Duration,
    /// The thread that hears a source, not over HTTP or lines, writes its records to the device itself while it is the only one
    /// there is, and waits for each.
    pub(super) lone_writes: bool,
    /// Of every door: sources and requests have so long to finish.
    #[serde(with = "humantime_serde")]
    pub(super) drain: Duration,
}

/// A token never stands in the configuration itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSettings {
    file: PathBuf,
    /// The source's name must begin with this.
    #[serde(default)]
    sources: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            stream: "default".into(),
            server: ServerSettings::default(),
            receiver: ReceiverConfig::default(),
            log: Config::default(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        let address = SocketAddr::from(([127, 0, 0, 1], 7311));
        let ServerConfig { handshake_timeout, drain, .. } = ServerConfig::new(address);
        ServerSettings {
            listen: vec![address],
            http: None,
            lines: None,
            admin: None,
            plaintext_beyond_loopback: false,
            plaintext_doors: false,
            unauthenticated_doors: false,
            cert: None,
            key: None,
            client_ca: None,
            client_certificates_optional: false,
            tokens: Vec::new(),
            lone_writes: true,
            handshake_timeout,
            drain,
        }
    }
}

/// Where values that are not defaults come from, by their path.
pub(super) type Origins = BTreeMap<String, String>;

pub(super) fn read(args: &Args, global: &Global) -> Result<(Settings, Origins), Failure> {
    let mut origins = Origins::new();
    let mut settings = Settings::default();
    if let Some(path) = &global.config {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, e))?;
        let place = path.display().to_string();
        let wrong = |e: toml::de::Error| Failure::Usage(format!("configuration {place}: {}", e.to_string().trim()));
        settings = toml::from_str(&text).map_err(wrong)?;
        let table: toml::Table = toml::from_str(&text).map_err(wrong)?;
        leaves("", &toml::Value::Table(table), &mut |path, _| {
            origins.insert(path.to_owned(), place.clone());
        });
    }
    let mut given = |path: &str, flag: &str| {
        origins.insert(path.to_owned(), flag.to_owned());
    };
    if !args.listen.is_empty() {
        settings.server.listen.clone_from(&args.listen);
        given("server.listen", "--listen");
    }
    if let Some(stream) = &args.stream {
        settings.stream.clone_from(stream);
        given("stream", "--stream");
    }
    let doors = [
        (args.http, &mut settings.server.http, "server.http", "--http"),
        (args.lines, &mut settings.server.lines, "server.lines", "--lines"),
        (args.admin, &mut settings.server.admin, "server.admin", "--admin"),
    ];
    for (argument, setting, path, flag) in doors {
        if argument.is_some() {
            *setting = argument;
            given(path, flag);
        }
    }
    let files = [
        (&args.cert, &mut settings.server.cert, "server.cert", "--cert"),
        (&args.key, &mut settings.server.key, "server.key", "--key"),
        (&args.client_ca, &mut settings.server.client_ca, "server.client_ca", "--client-ca"),
    ];
    for (argument, setting, path, flag) in files {
        if argument.is_some() {
            setting.clone_from(argument);
            given(path, flag);
        }
    }
    if let Some(file) = &args.token_file {
        settings.server.tokens = vec![TokenSettings { file: file.clone(), sources: String::new() }];
        given("server.tokens", "--token-file");
    }
    if args.plaintext_beyond_loopback {
        settings.server.plaintext_beyond_loopback = true;
        given("server.plaintext_beyond_loopback", "--plaintext-beyond-loopback");
    }
    Ok((settings, origins))
}

impl Settings {
    /// What the server takes: files are read now.
    pub(super) fn server(&self) -> Result<ServerConfig, Failure> {
        let config = ServerConfig {
            listen: self.server.listen.clone(),
            tls: self.tls()?,
            tokens: self.tokens()?,
            plaintext_beyond_loopback: self.server.plaintext_beyond_loopback,
            handshake_timeout: self.server.handshake_timeout,
            drain: self.server.drain,
        };
        config.validate().map_err(|e| Failure::Usage(e.to_string()))?;
        Ok(config)
    }

    /// Whether the log and what is written in it are usable, and go together: before there is a log.
    pub(super) fn check_log(&self) -> Result<(), Failure> {
        let wrong = |table: &'static str| {
            move |error| match error {
                Error::Config { field, problem } => {
                    Failure::Usage(format!("configuration: {table}.{field} {problem}; see --config"))
                }
                error => Failure::Usage(error.to_string()),
            }
        };
        self.receiver.validate().map_err(wrong("receiver"))?;
        self.log.validate().map_err(wrong("log"))?;
        self.receiver.validate_log(&self.log).map_err(wrong("log"))
    }

    /// What HTTP is configured with: a body may be as long as a SEND.
    pub(super) fn http(&self) -> Result<HttpConfig, Failure> {
        let by_default = HttpConfig::default();
        let body_bytes_max = self.receiver.payload_bytes_max().min(HttpConfig::BODY_BYTES_MAX);
        let unannounced_bytes_max = by_default.unannounced_bytes_max.min(body_bytes_max);
        let (tokens, drain) = (self.tokens()?, self.server.drain);
        Ok(HttpConfig { tokens, body_bytes_max, unannounced_bytes_max, drain, ..by_default })
    }

    /// What HTTP and lines are encrypted with.
    pub(super) fn doors_tls(&self) -> Result<Option<ServerTls>, Failure> {
        if self.server.plaintext_doors { Ok(None) } else { self.tls() }
    }

    fn tls(&self) -> Result<Option<ServerTls>, Failure> {
        let ServerSettings { cert, key, client_ca, .. } = &self.server;
        let usage = |e: NetError| Failure::Usage(e.to_string());
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let clients = match client_ca.clone().map(Pem::File) {
                    None => ClientCertificates::NotAsked,
                    Some(ca) if self.server.client_certificates_optional => ClientCertificates::Optional(ca),
                    Some(ca) => ClientCertificates::Required(ca),
                };
                ServerTls::new(&Pem::File(cert.clone()), &Pem::File(key.clone()), &clients).map(Some).map_err(usage)
            }
            (None, None) if client_ca.is_none() => Ok(None),
            _ => Err(Failure::Usage("configuration: server.cert and server.key are needed for TLS".into())),
        }
    }
}

impl Settings {
    /// Where sources have to say who they are, no door may let them in without: lines knows nobody, and HTTP without TLS no
    /// certificates.
    pub(super) fn check_doors(&self) -> Result<(), Failure> {
        let ServerSettings { http, lines, client_ca, tokens, .. } = &self.server;
        let ServerSettings { plaintext_doors, unauthenticated_doors, client_certificates_optional, .. } = &self.server;
        let asks = client_ca.is_some() || !tokens.is_empty();
        let needs_certificate = client_ca.is_some() && !client_certificates_optional;
        let open = match (http, lines) {
            _ if !asks || *unauthenticated_doors => return Ok(()),
            (_, Some(_)) => "lines knows no source's name",
            (Some(_), None) if *plaintext_doors && (needs_certificate || tokens.is_empty()) => {
                "http without TLS sees no certificates"
            }
            _ => return Ok(()),
        };
        Err(Failure::Usage(format!(
            "configuration: sources must show who they are, but server.{open}: leave it out, or set \
             `server.unauthenticated_doors`"
        )))
    }

    /// The tokens, read from their files.
    pub(super) fn tokens(&self) -> Result<Vec<TokenRule>, Failure> {
        let token = |rule: &TokenSettings| {
            let text = std::fs::read_to_string(&rule.file).map_err(|e| Failure::file("read", &rule.file, e))?;
            Ok(TokenRule { token: Secret::new(text.trim_end()), sources: rule.sources.clone() })
        };
        self.server.tokens.iter().map(token).collect()
    }
}

/// The configuration as a file that says the same, with where each value comes from.
pub(super) fn explain(settings: &Settings, origins: &Origins) -> Result<String, Failure> {
    let table = toml::Value::try_from(settings).map_err(|e| Failure::Usage(format!("configuration: {e}")))?;
    let mut lines = vec!["# Sizes and times may be given in human units. What is not listed is not set.".to_owned()];
    let mut section = String::new();
    leaves("", &table, &mut |path, value| {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        if table != section {
            table.clone_into(&mut section);
            lines.push(format!("\n[{section}]"));
        }
        let origin = origins.get(path).map_or("default", String::as_str);
        lines.push(format!("{:<60} # {origin}", format!("{key} = {value}")));
    });
    Ok(lines.join("\n"))
}

/// Calls `each` with every value that is no table, plain values of a table before its tables.
fn leaves(path: &str, value: &toml::Value, each: &mut dyn FnMut(&str, &toml::Value)) {
    let toml::Value::Table(table) = value else { return each(path, value) };
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let (tables, plain): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| value.is_table());
    for (key, value) in plain.into_iter().chain(tables) {
        leaves(&inner(key), value, each);
    }
}
