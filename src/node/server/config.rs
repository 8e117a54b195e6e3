//! What can be chosen about a server.

use std::net::SocketAddr;
use std::time::Duration;

use super::ServerError;
use crate::net::{ServerTls, is_loopback};
use crate::node::tokens::{Identity, TokenRule, Unbelieved};
use crate::receiver::Hello;

/// No wait of a server is longer.
const SPAN_MAX: Duration = Duration::from_secs(3600);

/// Where a server listens, and whom it believes.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0: any.
    pub listen: Vec<SocketAddr>,
    /// Encrypts, and asks for certificates if it is configured to.
    pub tls: Option<ServerTls>,
    /// Sources that show one of these are believed. With neither tokens nor certificates asked for, everybody is.
    pub tokens: Vec<TokenRule>,
    /// Listens unencrypted where other machines can connect. Default no.
    pub plaintext_beyond_loopback: bool,
    /// TLS is agreed upon within this: above 0, to 1 h. Default 10 s.
    pub handshake_timeout: Duration,
    /// Sources have so long to finish when the server is asked to end: 0 to 1 h. Default 10 s.
    pub drain: Duration,
}

impl ServerConfig {
    /// Listens on `address`, unencrypted, and believes everybody: for this machine only.
    #[must_use]
    pub fn new(address: SocketAddr) -> ServerConfig {
        ServerConfig {
            listen: vec![address],
            tls: None,
            tokens: Vec::new(),
            plaintext_beyond_loopback: false,
            handshake_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }

    /// Says which field is not usable and what would be.
    ///
    /// # Errors
    /// [`ServerError::Config`], naming the first such field.
    pub fn validate(&self) -> Result<(), ServerError> {
        let refuse = |field, problem| Err(ServerError::Config { field, problem });
        if self.listen.is_empty() {
            return refuse("listen", "is empty, must name an address".to_owned());
        }
        let is_open = |address: &&SocketAddr| !is_loopback(address.ip());
        if self.tls.is_none()
            && !self.plaintext_beyond_loopback
            && let Some(address) = self.listen.iter().find(is_open)
        {
            let problem = format!(
                "holds {address}, which other machines can reach; configure TLS, or set `plaintext_beyond_loopback`"
            );
            return refuse("listen", problem);
        }
        if let Err(problem) = TokenRule::validate(&self.tokens) {
            return refuse("tokens", problem);
        }
        if self.handshake_timeout.is_zero() {
            return refuse("handshake_timeout", "is 0, must be longer".to_owned());
        }
        for (field, span) in [("handshake_timeout", self.handshake_timeout), ("drain", self.drain)] {
            if span > SPAN_MAX {
                return refuse(field, format!("is {span:?}, must be at most {SPAN_MAX:?}"));
            }
        }
        Ok(())
    }

    /// Whether the source is who it says it is.
    pub(super) fn authorize(&self, hello: &Hello, identity: &Identity) -> Result<(), Unbelieved> {
        identity.authorize(&self.tokens, &hello.token, &hello.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn config() -> ServerConfig {
        ServerConfig::new("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn what_is_not_usable_is_named() {
        assert!(config().validate().is_ok());
        type Spoil = fn(&mut ServerConfig);
        let cases: [(&str, Spoil); 7] = [
            ("listen", |c| c.listen.clear()),
            ("listen", |c| c.listen.push("0.0.0.0:7".parse().unwrap())),
            ("listen", |c| c.listen.push("[::]:7".parse().unwrap())),
            ("tokens", |c| c.tokens.push(TokenRule { token: Secret::new("short"), sources: String::new() })),
            ("handshake_timeout", |c| c.handshake_timeout = Duration::ZERO),
            // Added to the time of day, it was a panic.
            ("handshake_timeout", |c| c.handshake_timeout = Duration::MAX),
            ("drain", |c| c.drain = Duration::MAX),
        ];
        for (expected, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            assert!(matches!(config.validate(), Err(ServerError::Config { field, .. }) if field == expected));
        }
        let open = ServerConfig { plaintext_beyond_loopback: true, ..ServerConfig::new("0.0.0.0:7".parse().unwrap()) };
        assert!(open.validate().is_ok());
    }
}
