//! Connections on a listener: each its task, a bounded number of them, and an end in order.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listener::{Accepted, Listener};
#[cfg(feature = "net")]
use crate::events::event;
#[cfg(feature = "net")]
use crate::net::{NetError, ServerTls, Stream};

/// Says to a connection that it is to end.
#[derive(Clone, Debug)]
pub(super) struct Closing(Option<watch::Receiver<()>>);

impl Closing {
    /// Never.
    pub(super) fn never() -> Closing {
        Closing(None)
    }

    /// Returns when it is to end.
    pub(super) async fn wait(&mut self) {
        match &mut self.0 {
            // The sender says nothing; it goes.
            Some(closing) => while closing.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

/// Agrees with a peer upon TLS; `None`, and nothing more is to be done for it, where that fails or the door is `closing`.
#[cfg(feature = "net")]
pub(super) async fn within_tls(
    tls: &ServerTls,
    stream: TcpStream,
    peer: SocketAddr,
    within: Duration,
    closing: &mut Closing,
) -> Option<Stream> {
    let peer = peer.to_string();
    // On the heap: the handshake is large and short, the connection small and long.
    let agreed = tokio::select! {
        agreed = Box::pin(tls.accept(stream, &peer, within)) => agreed,
        () = closing.wait() => return None,
    };
    let note = |_error: &NetError| {
        event!(debug, %peer, error = %_error, "TLS was not agreed upon");
    };
    agreed.inspect_err(note).ok()
}

/// Accepts connections until `shutdown`, at most `connections_max` at once: others wait in the kernel. Those that are
/// there then are told, and cut after `drain`.
pub(super) async fn accept<F, Fut>(
    mut listener: Listener,
    connections_max: u32,
    drain: Duration,
    shutdown: impl Future<Output = ()>,
    serve: F,
) where
    F: Fn(TcpStream, SocketAddr, Closing) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (running, closing) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let has_room = tasks.len() < connections_max as usize;
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_ended) = tasks.join_next(), if !tasks.is_empty() => {}
            accepted = poll_fn(|cx| listener.poll_accept(cx, || {})), if has_room => {
                let Accepted { stream, peer, descriptor } = accepted;
                // Answers are short, and waited for.
                let _best_effort = stream.set_nodelay(true);
                let served = serve(stream, peer, Closing(Some(closing.clone())));
                tasks.spawn(async move {
                    let _held = descriptor;
                    served.await;
                });
            }
        }
    }
    drop((listener, running));
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(drain, ended).await.is_err() {
        tasks.shutdown().await;
    }
}
