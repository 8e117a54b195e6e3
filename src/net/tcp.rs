//! TCP connections, plain or within TLS. No keepalive: both ends ask each other, see `receiver`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::error::NetError;
use crate::sync::now;

/// Connections the kernel keeps for a listener that is busy.
const BACKLOG: u32 = 1024;

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Connects to `host:port`, within the time: to the first of its addresses that answers.
pub(crate) async fn connect(address: &str, within: Duration) -> Result<TcpStream, NetError> {
    let until = now() + within;
    let failed = |source| NetError::Connect { address: address.to_owned(), source: Arc::new(source) };
    let timed_out = |_| NetError::TimedOut { what: "connecting", after: within };
    let found = timeout(within, lookup_host(address)).await.map_err(timed_out)?.map_err(failed)?;
    let stream = connect_to_one(&found.collect::<Vec<_>>(), until).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// One after the other. Each has its share of the time that is left: one that does not answer leaves some to the next.
async fn connect_to_one(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut failures = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let left = addresses.len() - at;
        let share = until.saturating_duration_since(now()) / left as u32;
        let error = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {share:?}")),
        };
        failures.push((address, error));
    }
    if let [(_, _)] = &failures[..] {
        return Err(failures.remove(0).1);
    }
    let kind = failures.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
    let told: Vec<String> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    Err(io::Error::new(kind, if told.is_empty() { "the name has no address".into() } else { told.join("; ") }))
}

/// Listens.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, NetError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| NetError::Listen { address: address.to_string(), source: Arc::new(source) })
}

/// Whether nobody beyond this machine can reach the address, an IPv6 one in IPv4's clothes included.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_listened_on_or_reached_is_named() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("listen on {address}: ")), "{error}");
        drop(first);
        let error = connect(&address.to_string(), Duration::from_secs(10)).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("connect to {address}: ")), "{error}");
    }

    /// A listener whose queue is full: the kernel drops what comes then.
    async fn mute() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        (listener, queued)
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_tried() {
        let (mute, _queued) = mute().await;
        let open = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (closed, mute) = ("127.0.0.1:1".parse().unwrap(), mute.local_addr().unwrap());
        let open = open.local_addr().unwrap();
        let until = |millis| now() + Duration::from_millis(millis);
        let stream = connect_to_one(&[closed, mute, open], until(600)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = connect_to_one(&[mute, closed], until(1000)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{mute}: no answer")) && error.contains(&format!("; {closed}: ")), "{error}");
        assert!(!error.contains("within 9"), "one leaves nothing to the next: {error}");
        assert_eq!(connect_to_one(&[], until(1)).await.unwrap_err().to_string(), "the name has no address");
    }

    #[test]
    fn loopback_is_known_in_every_form() {
        for (address, is) in
            [("127.8.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("::", false)]
        {
            assert_eq!(is_loopback(address.parse().unwrap()), is, "{address}");
        }
    }
}
