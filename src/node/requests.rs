//! One HTTP/1.1 connection, to its end in order: what the gateway and the admin port have in common.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::accept::Closing;
use super::impatient::Impatient;
use crate::events::event;

/// Answers requests until the peer closes, or `closing`: then the one that is there is answered. A request's head comes,
/// and an answer makes progress, within `patience`.
pub(super) async fn serve_requests<I, Answered>(
    io: I,
    patience: Duration,
    read_buffer_bytes: usize,
    mut closing: Closing,
    answer: impl Fn(Request<Incoming>) -> Answered,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Answered: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(read_buffer_bytes)
        .serve_connection(TokioIo::new(Impatient::new(io, patience)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(_error) = ended {
        event!(debug, error = %_error, "an HTTP connection ended");
    }
}
