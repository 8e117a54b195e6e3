//! What can be chosen about a client.

use std::time::Duration;

use super::error::ClientError;
use crate::net::{BackoffConfig, ClientTls};
use crate::receiver::{OutboxConfig, Sequences};

/// No wait is longer: a moment that much later must be one that can be named.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where a source sends to, and how. No time is longer than a day.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Receivers, `host:port` each, tried in turn.
    pub addresses: Vec<String>,
    /// Encrypts. Without it only addresses on this machine are connected to.
    pub tls: Option<ClientTls>,
    /// Sends unencrypted to other machines, tokens included. Default no.
    pub plaintext_beyond_loopback: bool,
    /// Who sends, and what counts as done.
    pub outbox: OutboxConfig,
    /// A connection is made, and TLS agreed upon, within this each. Default 10 s.
    pub connect_timeout: Duration,
    /// A receiver answers a HELLO within this. Default 30 s.
    pub welcome_timeout: Duration,
    /// Waits between attempts.
    pub backoff: BackoffConfig,
}

impl ClientConfig {
    /// A source that sends to `address`, `host:port`.
    #[must_use]
    pub fn new(address: impl Into<String>, outbox: OutboxConfig) -> ClientConfig {
        ClientConfig {
            addresses: vec![address.into()],
            tls: None,
            plaintext_beyond_loopback: false,
            outbox,
            connect_timeout: Duration::from_secs(10),
            welcome_timeout: Duration::from_secs(30),
            backoff: BackoffConfig::default(),
        }
    }

    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`ClientError::Config`], naming the first such field.
    pub fn validate(&self) -> Result<(), ClientError> {
        let refuse = |field, problem: &str| Err(ClientError::Config { field, problem: problem.to_owned() });
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        if self.addresses.is_empty() {
            return refuse("addresses", "is empty, must name a receiver");
        }
        if let Some(wrong) = self.addresses.iter().find(|a| !a.rsplit_once(':').is_some_and(|(_, port)| is_port(port)))
        {
            return refuse("addresses", &format!("holds {wrong:?}, must be host:port"));
        }
        if self.outbox.source.is_none() && self.outbox.sequences != Sequences::None {
            return refuse("outbox.source", "is absent, must be given for records with sequences");
        }
        if self.backoff.min.is_zero() || self.backoff.min > self.backoff.max {
            return refuse("backoff.min", "must be above 0 and at most backoff.max");
        }
        if self.connect_timeout.is_zero() || self.welcome_timeout.is_zero() {
            return refuse("connect_timeout, welcome_timeout", "must be above 0");
        }
        let spans = [
            ("connect_timeout", self.connect_timeout),
            ("welcome_timeout", self.welcome_timeout),
            ("backoff.max", self.backoff.max),
            ("backoff.healthy_after", self.backoff.healthy_after),
        ];
        if let Some((field, span)) = spans.into_iter().find(|(_, span)| *span > SPAN_MAX) {
            return refuse(field, &format!("is {span:?}, must be at most {SPAN_MAX:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SourceId;

    #[test]
    fn what_is_not_usable_is_named() {
        let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
        let good = ClientConfig::new("localhost:7", outbox);
        assert!(good.validate().is_ok());
        type Spoil = fn(&mut ClientConfig);
        let cases: [(&str, Spoil); 10] = [
            ("addresses", |c| c.addresses.clear()),
            ("addresses", |c| c.addresses.push("localhost".into())),
            ("addresses", |c| c.addresses.push("localhost:70000".into())),
            ("outbox.source", |c| c.outbox.source = None),
            ("backoff.min", |c| c.backoff.min = Duration::ZERO),
            ("connect_timeout, welcome_timeout", |c| c.welcome_timeout = Duration::ZERO),
            // Added to the time of day, each was a panic.
            ("connect_timeout", |c| c.connect_timeout = Duration::MAX),
            ("welcome_timeout", |c| c.welcome_timeout = Duration::MAX),
            ("backoff.healthy_after", |c| c.backoff.healthy_after = Duration::MAX),
            ("backoff.max", |c| (c.backoff.min, c.backoff.max) = (Duration::MAX, Duration::MAX)),
        ];
        for (expected, spoil) in cases {
            let mut config = good.clone();
            spoil(&mut config);
            assert!(matches!(config.validate(), Err(ClientError::Config { field, .. }) if field == expected));
        }
    }
}
