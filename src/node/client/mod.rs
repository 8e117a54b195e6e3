//! A source's end on tokio: one task that connects, sends, reconnects and resumes, around an
//! [`Outbox`](crate::receiver::Outbox).
//!
//! ```text
//! push ─► Outbox ─► (task) ─► socket        Ticket ◄── Outbox ◄─ (task) ◄─ socket
//! ```
//!
//! Records that come while the task is busy gather in the outbox and go out together.

mod config;
mod error;
mod shared;
mod talk;
mod task;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex as TurnMutex, Notify, watch};
use tokio::task::JoinHandle;

pub use config::ClientConfig;
pub use error::{ClientError, Disconnect};
use shared::{Shared, Until};

use crate::receiver::{Lost, OutboxError, Positions, Reject};
use crate::types::{Seq, SourceEpoch};

/// Sends a source's records to a receiver. Dropping it stops it: what is not acknowledged is then unknown.
///
/// ```no_run
/// use seawall::SourceId;
/// use seawall::node::{Client, ClientConfig};
/// use seawall::receiver::OutboxConfig;
///
/// # async fn run() -> Result<(), seawall::node::ClientError> {
/// let outbox = OutboxConfig { source: SourceId::new("press-7"), ..OutboxConfig::default() };
/// let client = Client::connect(ClientConfig::new("localhost:7311", outbox))?;
/// let behind = client.resume().await?;         // go on behind this record of yours
/// let first = client.push("one").await?;       // waits for room only
/// let second = client.push("two").await?;
/// second.await?;                               // durable
/// first.await?;
/// client.close(std::time::Duration::from_secs(10)).await?;
/// # let _ = behind; Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    /// Those that found no room wait here, in their order.
    turn: TurnMutex<()>,
    in_line: AtomicUsize,
}

/// What the connection is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkStatus {
    /// A connection is being made.
    Connecting {
        /// Where to.
        address: String,
    },
    /// The receiver has said where to go on.
    Connected {
        /// Where to.
        address: String,
    },
    /// The last attempt failed.
    Waiting {
        /// When the next one is made.
        next_try: Instant,
    },
    /// There will be none any more.
    Ended {
        /// Why.
        cause: ClientError,
    },
}

/// What a progress display wants to know besides [`Positions`].
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// Now.
    pub link: LinkStatus,
    /// How often the receiver has said where to go on.
    pub welcomes: u64,
    /// How often a connection ended or was not made.
    pub disconnects: u64,
    /// Why, the last time.
    pub last_disconnect: Option<Disconnect>,
}

/// A record on its way. Awaiting it tells when the record has come as far as the source waits for; on an error whether
/// it arrived is unknown, unless the receiver rejected it.
#[must_use = "whether the record arrived is known only to who awaits its ticket"]
#[derive(Debug)]
pub struct Ticket {
    until: Until,
}

impl Ticket {
    /// The record's sequence.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.until.seq()
    }
}

impl Future for Ticket {
    type Output = Result<Seq, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.until.poll(cx)
    }
}

impl Client {
    /// Begins to connect, on the tokio runtime this is called in.
    ///
    /// # Errors
    /// [`ClientError::Config`]. Everything else is told by [`Client::status`] and by those who wait.
    pub fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        config.validate()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| ClientError::Config { field: "runtime", problem: format!("is needed, of tokio: {e}") })?;
        let shared = Arc::new(Shared::new(&config));
        let task = runtime.spawn(task::run(shared.clone(), config));
        Ok(Client { shared, task, turn: TurnMutex::new(()), in_line: AtomicUsize::new(0) })
    }

    // --- records ---------------------------------------------------------------------------------------------------

    /// Waits until the receiver has said, for the first time, where to begin: the sequence behind which the next record
    /// belongs.
    ///
    /// # Errors
    /// Why nothing goes on.
    pub async fn resume(&self) -> Result<Seq, ClientError> {
        let mut status = self.shared.status.subscribe();
        loop {
            if let Some(pushed) = self.shared.welcomed()? {
                return Ok(pushed);
            }
            status.changed().await.map_err(|_| ClientError::Closed)?;
        }
    }

    /// Gives the next record (dense sequences, or none), once there is room for it. Dropping this before it ends gives
    /// nothing.
    ///
    /// # Errors
    /// The record is too long, or nothing goes on any more.
    pub async fn push(&self, record: impl Into<Bytes>) -> Result<Ticket, ClientError> {
        let record = record.into();
        self.when_there_is_room(|| self.shared.push(record.clone())).await
    }

    /// Gives a record with its sequence, once there is room for it.
    ///
    /// # Errors
    /// As [`Client::push`], or the sequence does not follow.
    pub async fn push_at(&self, seq: Seq, record: impl Into<Bytes>) -> Result<Ticket, ClientError> {
        let record = record.into();
        self.when_there_is_room(|| self.shared.push_at(seq, record.clone())).await
    }

    /// Says that the sequences up to `to` will never come, once there is room to.
    ///
    /// # Errors
    /// As [`Client::push_at`].
    pub async fn skip(&self, to: Seq) -> Result<Ticket, ClientError> {
        self.when_there_is_room(|| self.shared.skip(to)).await
    }

    /// Gives the next record, or not.
    ///
    /// # Errors
    /// [`OutboxError::Full`], [`OutboxError::NotWelcomed`], and as [`Client::push`].
    pub fn try_push(&self, record: impl Into<Bytes>) -> Result<Ticket, ClientError> {
        self.shared.push(record.into()).map(|until| Ticket { until })
    }

    /// Gives a record with its sequence, or not.
    ///
    /// # Errors
    /// [`OutboxError::Full`], and as [`Client::push_at`].
    pub fn try_push_at(&self, seq: Seq, record: impl Into<Bytes>) -> Result<Ticket, ClientError> {
        self.shared.push_at(seq, record.into()).map(|until| Ticket { until })
    }

    async fn when_there_is_room(
        &self,
        try_once: impl Fn() -> Result<Until, ClientError>,
    ) -> Result<Ticket, ClientError> {
        let is_no_room = |error: &ClientError| {
            matches!(error, ClientError::Outbox(OutboxError::Full { .. } | OutboxError::NotWelcomed))
        };
        // Nobody overtakes those in line.
        if self.in_line.load(Ordering::Relaxed) == 0 {
            match try_once() {
                Err(error) if is_no_room(&error) => {}
                tried => return tried.map(|until| Ticket { until }),
            }
        }
        let _in_line = InLine::new(&self.in_line);
        let _turn = self.turn.lock().await;
        loop {
            let room = self.shared.room.notified();
            match try_once() {
                Err(error) if is_no_room(&error) => room.await,
                tried => return tried.map(|until| Ticket { until }),
            }
        }
    }

    /// Waits until everything given so far has come as far as the source waits for.
    ///
    /// # Errors
    /// Why that is unknown.
    pub async fn flush(&self) -> Result<Positions, ClientError> {
        let mut until = self.shared.until_all();
        std::future::poll_fn(|cx| until.poll_position(cx)).await?;
        Ok(self.positions())
    }

    // --- how it goes -----------------------------------------------------------------------------------------------

    /// How far the records have come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.shared.positions()
    }

    /// The positions as of the last acknowledgment, and every change. `pushed` may be behind.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Positions> {
        self.shared.acknowledged.subscribe()
    }

    /// What the connection is doing, and every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.shared.status.subscribe()
    }

    /// The source's life, once the receiver has said it.
    #[must_use]
    pub fn epoch(&self) -> SourceEpoch {
        self.shared.epoch()
    }

    /// Bytes of records that are not acknowledged, and records that were sent more than once.
    #[must_use]
    pub fn held_and_resent(&self) -> (u64, u64) {
        self.shared.held_and_resent()
    }

    /// Records the receiver keeps as rejects, each once: the receiver is told that they were taken note of.
    pub fn take_rejects(&self) -> Vec<Reject> {
        self.shared.take_rejects()
    }

    /// Records that were received, and lost with the receiver's memory, each once: see [`Outbox::take_lost`].
    ///
    /// [`Outbox::take_lost`]: crate::receiver::Outbox::take_lost
    pub fn take_lost(&self) -> Vec<Lost> {
        self.shared.take_lost()
    }

    /// Takes leave once everything is acknowledged.
    ///
    /// # Errors
    /// [`ClientError::Unacknowledged`] after `within`; or why nothing goes on.
    pub async fn close(mut self, within: Duration) -> Result<Positions, ClientError> {
        self.shared.close();
        let ended = tokio::time::timeout(within, &mut self.task).await;
        match (ended, self.shared.end()) {
            (Err(_), _) => Err(ClientError::Unacknowledged { records_bytes: self.shared.held_and_resent().0 }),
            (Ok(_), Some(ClientError::Closed) | None) => Ok(self.positions()),
            (Ok(_), Some(cause)) => Err(cause),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.become_ended(ClientError::Closed);
    }
}

struct InLine<'a>(&'a AtomicUsize);

impl<'a> InLine<'a> {
    fn new(count: &'a AtomicUsize) -> InLine<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        InLine(count)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One permit is remembered: there is one at most that waits, see `turn`.
type Room = Notify;
