//! Other ways into a receiver than its own protocol, and the one on which it tells how it goes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use seawall::net::ServerTls;
use seawall::node::{Admin, HttpConfig, HttpGateway, LinesConfig, LinesGateway, Receiver, ReceiverError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::settings::Settings;
use crate::exit::Failure;

/// Listeners, and what is behind them.
pub(super) struct Doors {
    pub(super) admin: Admin,
    http: Option<TcpListener>,
    lines: Option<TcpListener>,
    http_config: HttpConfig,
    lines_config: LinesConfig,
    /// Of HTTP and lines; it is agreed upon within the time.
    tls: Option<(ServerTls, Duration)>,
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// Ends what tells how it goes, with the last of the doors.
    _open: watch::Sender<bool>,
}

impl Doors {
    /// Listens on all of them; how it goes can be asked at once, records are taken later.
    pub(super) fn open(settings: &Settings, runtime: &Runtime) -> Result<Doors, Failure> {
        let mut addresses = BTreeMap::new();
        let tls = settings.doors_tls()?;
        let mut listen = |name: &'static str, field: &str, address: Option<SocketAddr>, is_encrypted: bool| {
            let Some(address) = address else { return Ok(None) };
            let is_on_loopback = address.ip().to_canonical().is_loopback();
            if !is_encrypted && !settings.server.plaintext_beyond_loopback && !is_on_loopback {
                let remedy = match name {
                    "admin" => "",
                    _ if settings.server.plaintext_doors => "leave out `plaintext_doors`, ",
                    _ => "set `cert` and `key` for TLS, ",
                };
                return Err(Failure::Usage(format!(
                    "configuration: {field} is {address}, which other machines can reach, and it is not encrypted: {remedy}put \
                     a proxy with TLS before a loopback address, or set `plaintext_beyond_loopback`"
                )));
            }
            let failed = |e| Failure::Usage(format!("listen on {address}: {e}"));
            let listener = runtime.block_on(TcpListener::bind(address)).map_err(failed)?;
            addresses.insert(name, listener.local_addr().map_err(failed)?);
            Ok(Some(listener))
        };
        settings.check_doors()?;
        let http = listen("http", "server.http", settings.server.http, tls.is_some())?;
        let lines = listen("lines", "server.lines", settings.server.lines, tls.is_some())?;
        let (open, closed) = watch::channel(false);
        let admin = Admin::new();
        if let Some(listener) = listen("admin", "server.admin", settings.server.admin, false)? {
            runtime.spawn(admin.clone().serve(listener, until_true(closed)));
        }
        let tls = tls.map(|tls| (tls, settings.server.handshake_timeout));
        let by_default = LinesConfig::default();
        // A line is a record: where those are shorter than a line may be by default, so are lines.
        let line_bytes_max = by_default.line_bytes_max.min(settings.receiver.record_bytes_max);
        let drain = settings.server.drain;
        let lines_config = LinesConfig { line_bytes_max, drain, ..by_default };
        let http_config = settings.http()?;
        Ok(Doors { admin, http, lines, http_config, lines_config, tls, addresses, _open: open })
    }

    /// Where they are, by their names.
    pub(super) fn addresses(&self) -> BTreeMap<&'static str, String> {
        self.addresses.iter().map(|(name, address)| (*name, address.to_string())).collect()
    }

    /// Takes records for this receiver, until `stopped` is true.
    pub(super) fn serve(
        &mut self,
        receiver: &Receiver,
        stopped: &watch::Receiver<bool>,
    ) -> Result<JoinSet<()>, ReceiverError> {
        let mut serving = JoinSet::new();
        if let Some(listener) = self.http.take() {
            let gateway = HttpGateway::new(receiver.clone(), self.http_config.clone())?;
            self.admin.show_http("http", gateway.watch());
            let stopped = until_true(stopped.clone());
            match self.tls.clone() {
                Some((tls, within)) => serving.spawn(gateway.serve_tls(listener, tls, within, stopped)),
                None => serving.spawn(gateway.serve(listener, stopped)),
            };
        }
        if let Some(listener) = self.lines.take() {
            let gateway = LinesGateway::new(receiver.clone(), self.lines_config.clone())?;
            self.admin.show_lines("lines", gateway.watch());
            let stopped = until_true(stopped.clone());
            match self.tls.clone() {
                Some((tls, within)) => serving.spawn(gateway.serve_tls(listener, tls, within, stopped)),
                None => serving.spawn(gateway.serve(listener, stopped)),
            };
        }
        self.admin.ready(receiver.clone());
        Ok(serving)
    }
}

/// Ready when it is true, or nobody can make it so any more.
pub(super) async fn until_true(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}
