//! What can be chosen about the HTTP gateway.

use std::time::Duration;

use crate::config::{Unusable, spans, within};
use crate::node::error::ReceiverError;
use crate::node::tokens::TokenRule;

/// Limits of the HTTP gateway, and whom it believes.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Sources that show one of these are believed; without any, everybody is where no certificate is asked for.
    pub tokens: Vec<TokenRule>,
    /// A body may be this long, and no longer than the receiver's longest SEND: 1 byte to 1 GiB. Default 4 MiB.
    pub body_bytes_max: u64,
    /// A body that does not say how long it is may be this long, and is charged with all of it: 1 byte to
    /// `body_bytes_max`. Default 1 MiB.
    pub unannounced_bytes_max: u64,
    /// Connections at once: 1 to 1 million. More wait in the kernel. Default 1024.
    pub connections_max: u32,
    /// Sources whose session is kept for their next request: 1 to 1 million, and no more than half of what the receiver has
    /// ([`crate::receiver::ReceiverConfig::sessions_max`]). One more takes the place of the one that was silent longest; so does
    /// any request where the receiver has no more. Default 1000.
    pub sources_kept_max: u32,
    /// A source's session is kept so long after its last request: 1 ms to 1 day. Default 5 min.
    pub source_idle: Duration,
    /// A request waits so long for its turn and for room, then it is answered 429: 1 ms to 1 h. Default 2 s.
    pub room_wait: Duration,
    /// A request waits so long for its records to become durable, then it is answered 503, outcome unknown: 1 ms to 1 h.
    /// Default 30 s.
    pub durable_wait: Duration,
    /// A request's head is complete within this, also the next one on a connection, and an answer makes progress within
    /// it: 1 ms to 1 h. Default 30 s. (Bodies have [`crate::receiver::ReceiverConfig::message_timeout`].)
    pub head_timeout: Duration,
    /// Requests that are there when the gateway is asked to end have so long: 0 to 1 h. Default 10 s.
    pub drain: Duration,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            tokens: Vec::new(),
            body_bytes_max: 4 << 20,
            unannounced_bytes_max: 1 << 20,
            connections_max: 1024,
            sources_kept_max: 1000,
            source_idle: Duration::from_secs(300),
            room_wait: Duration::from_secs(2),
            durable_wait: Duration::from_secs(30),
            head_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

impl HttpConfig {
    /// [`HttpConfig::body_bytes_max`] may be this at most.
    pub const BODY_BYTES_MAX: u64 = 1 << 30;

    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`ReceiverError::Config`], naming the first such field.
    pub fn validate(&self) -> Result<(), ReceiverError> {
        self.check().map_err(|Unusable { field, problem }| ReceiverError::Config { field, problem })
    }

    fn check(&self) -> Result<(), Unusable> {
        const HOUR: Duration = Duration::from_secs(3600);
        TokenRule::validate(&self.tokens).map_err(|problem| Unusable { field: "tokens", problem })?;
        within("body_bytes_max", self.body_bytes_max, 1, HttpConfig::BODY_BYTES_MAX)?;
        within("unannounced_bytes_max", self.unannounced_bytes_max, 1, self.body_bytes_max)?;
        within("connections_max", self.connections_max.into(), 1, 1_000_000)?;
        within("sources_kept_max", self.sources_kept_max.into(), 1, 1_000_000)?;
        let milli = Duration::from_millis(1);
        spans("source_idle", self.source_idle, milli, 24 * HOUR)?;
        spans("room_wait", self.room_wait, milli, HOUR)?;
        spans("durable_wait", self.durable_wait, milli, HOUR)?;
        spans("head_timeout", self.head_timeout, milli, HOUR)?;
        spans("drain", self.drain, Duration::ZERO, HOUR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usable_is_named() {
        assert!(HttpConfig::default().validate().is_ok());
        type Spoil = fn(&mut HttpConfig);
        let cases: [(&str, Spoil); 6] = [
            ("body_bytes_max", |c| c.body_bytes_max = 0),
            ("unannounced_bytes_max", |c| c.unannounced_bytes_max = c.body_bytes_max + 1),
            ("connections_max", |c| c.connections_max = 0),
            ("sources_kept_max", |c| c.sources_kept_max = 0),
            ("room_wait", |c| c.room_wait = Duration::ZERO),
            ("durable_wait", |c| c.durable_wait = Duration::from_secs(3601)),
        ];
        for (expected, spoil) in cases {
            let mut config = HttpConfig::default();
            spoil(&mut config);
            assert!(matches!(config.validate(), Err(ReceiverError::Config { field, .. }) if field == expected));
        }
    }
}
