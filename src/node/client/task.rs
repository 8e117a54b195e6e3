//! The client's task: connects, talks, and tries again.

use std::collections::hash_map::RandomState;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::error::{ClientError, Disconnect};
use super::shared::Shared;
use super::talk::{Talk, TalkEnd};
use super::{ClientConfig, LinkStatus};
use crate::net::{self, Backoff, Stream, is_loopback};
use crate::sync::now;

pub(super) async fn run(shared: Arc<Shared>, config: ClientConfig) {
    // However this ends, those who wait hear of it.
    let ending = Ending(shared.clone());
    let cause = Task { shared: &shared, config: &config }.run().await;
    shared.become_ended(cause);
    drop(ending);
}

struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.become_ended(ClientError::Closed);
    }
}

struct Task<'a> {
    shared: &'a Shared,
    config: &'a ClientConfig,
}

impl Task<'_> {
    /// Returns why nothing goes on.
    async fn run(&self) -> ClientError {
        let mut backoff = Backoff::new(self.config.backoff, RandomState::new().build_hasher().finish());
        let mut turn = 0;
        let mut redirected = None;
        loop {
            let address = redirected.take().unwrap_or_else(|| {
                turn += 1;
                self.config.addresses[(turn - 1) % self.config.addresses.len()].clone()
            });
            self.shared.tell(LinkStatus::Connecting { address: address.clone() }, None);
            let (disconnect, after) = match self.unless_done(self.connect(&address)).await {
                None => return ClientError::Closed,
                Some(Err(disconnect)) => (disconnect, Duration::ZERO),
                Some(Ok(stream)) => match self.talk(&address, stream, &mut backoff).await {
                    TalkEnd::Done => return ClientError::Closed,
                    TalkEnd::Failed(cause) => return cause,
                    TalkEnd::Lost { disconnect, after } => (disconnect, after),
                },
            };
            if let Disconnect::Redirected { address } = &disconnect {
                redirected = Some(address.clone());
            }
            let wait = after + backoff.ended(now());
            self.shared.tell(LinkStatus::Waiting { next_try: now() + wait }, Some(disconnect));
            if self.unless_done(tokio::time::sleep(wait)).await.is_none() {
                return ClientError::Closed;
            }
        }
    }

    async fn talk(&self, address: &str, stream: Stream, backoff: &mut Backoff) -> TalkEnd {
        let mut talk = Talk::new(self.shared, self.config, address, stream);
        let ended = poll_fn(|cx| talk.poll(cx)).await;
        if let Some(since) = talk.welcomed_at() {
            backoff.opened(since);
        }
        self.shared.work(|state| state.outbox.disconnected());
        ended
    }

    async fn connect(&self, address: &str) -> Result<Stream, Disconnect> {
        let within = self.config.connect_timeout;
        let stream = net::connect(address, within).await?;
        match &self.config.tls {
            Some(tls) => Ok(tls.connect(stream, address, within).await?),
            None => {
                let reaches = stream
                    .peer_addr()
                    .map_err(|e| net::NetError::Connect { address: address.to_owned(), source: Arc::new(e) })?;
                if !is_loopback(reaches.ip()) && !self.config.plaintext_beyond_loopback {
                    return Err(Disconnect::Plaintext { address: reaches.to_string() });
                }
                Ok(Stream::Plain(stream))
            }
        }
    }

    /// `None` when the client is closed and holds nothing, so that there is no need to go on.
    async fn unless_done<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let is_done = self.shared.work(|state| {
                state.task = Some(cx.waker().clone());
                state.is_closing && state.outbox.held_bytes() == 0
            });
            if is_done { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}
