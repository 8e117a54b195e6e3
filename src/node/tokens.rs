//! Who is believed to be which source: bearer tokens, each with the names it allows, and certificates.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::types::Secret;

/// A token, and what it allows.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// What the source has to show; at least 16 bytes.
    pub token: Secret,
    /// The source's name must begin with this; empty: any source, and those without a name.
    pub sources: String,
}

/// Why a source is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unbelieved {
    /// No token was shown.
    NoToken,
    /// Nobody has this one.
    UnknownToken,
    /// It is for other sources.
    OtherSources,
    /// The certificate that was shown is for other sources.
    CertificateForOthers,
    /// Nothing but a certificate is believed, and none was shown.
    NoCertificate,
}

/// What a connection itself says of who is at its other end.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    /// Certificates are asked for.
    pub(super) asks: bool,
    #[cfg(feature = "net")]
    certificate: Option<std::sync::Arc<crate::net::PeerCertificate>>,
}

impl Identity {
    /// Of a connection within TLS.
    #[cfg(feature = "net")]
    pub(super) fn of(tls: &crate::net::ServerTls, stream: &crate::net::Stream) -> Identity {
        Identity { asks: tls.asks, certificate: stream.peer_certificate().map(std::sync::Arc::new) }
    }

    /// Whether the certificate is for this source; `None` without one.
    fn speaks_for(&self, _source: &[u8]) -> Option<bool> {
        #[cfg(feature = "net")]
        return self.certificate.as_ref().map(|certificate| certificate.speaks_for(_source));
        #[cfg(not(feature = "net"))]
        None
    }

    /// Whether this connection may send as `source`, by its certificate or a token. Where neither is asked for, everybody may.
    pub(super) fn authorize(&self, rules: &[TokenRule], token: &[u8], source: &[u8]) -> Result<(), Unbelieved> {
        match self.speaks_for(source) {
            _ if rules.is_empty() && !self.asks => Ok(()),
            Some(true) => Ok(()),
            Some(false) => Err(Unbelieved::CertificateForOthers),
            None if rules.is_empty() => Err(Unbelieved::NoCertificate),
            None => authorize(rules, token, source),
        }
    }
}

impl TokenRule {
    /// A guess at a shorter one may succeed.
    pub const TOKEN_BYTES_MIN: usize = 16;

    /// What is wrong with the rules, if something is.
    pub(super) fn validate(rules: &[TokenRule]) -> Result<(), String> {
        let min = TokenRule::TOKEN_BYTES_MIN;
        match rules.iter().position(|rule| rule.token.reveal().len() < min) {
            None => Ok(()),
            Some(at) => Err(format!("holds one of less than {min} bytes, the one at place {at}")),
        }
    }
}

impl fmt::Display for Unbelieved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unbelieved::NoToken => "a token or a certificate is needed",
            Unbelieved::UnknownToken => "the token is not known here",
            Unbelieved::OtherSources => "the token is for other sources",
            Unbelieved::CertificateForOthers => "the certificate is for other sources",
            Unbelieved::NoCertificate => "a certificate is needed",
        })
    }
}

/// Whether `token` allows to send as `source`; without rules everybody is believed.
fn authorize(rules: &[TokenRule], token: &[u8], source: &[u8]) -> Result<(), Unbelieved> {
    if rules.is_empty() {
        return Ok(());
    }
    // All of them are compared, whichever fits: the time says nothing of them.
    let (mut is_known, mut is_allowed) = (false, false);
    for rule in rules {
        let fits = bool::from(rule.token.reveal().ct_eq(token));
        is_known |= fits;
        is_allowed |= fits && source.starts_with(rule.sources.as_bytes());
    }
    match (is_known, is_allowed) {
        (_, true) => Ok(()),
        (true, false) => Err(Unbelieved::OtherSources),
        (false, false) if token.is_empty() => Err(Unbelieved::NoToken),
        (false, false) => Err(Unbelieved::UnknownToken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_allows_what_its_rule_says() {
        let rule = |token: &str, sources: &str| TokenRule { token: Secret::new(token), sources: sources.to_owned() };
        assert_eq!(authorize(&[], b"", b"x"), Ok(()), "nothing is asked for");
        let rules = [rule("plant-plant-plant", "plant/"), rule("admin-admin-admin", "")];
        for (token, source, expected) in [
            ("plant-plant-plant", "plant/7", Ok(())),
            ("plant-plant-plant", "plan", Err(Unbelieved::OtherSources)),
            ("plant-plant-plant", "", Err(Unbelieved::OtherSources)),
            ("admin-admin-admin", "anything", Ok(())),
            ("admin-admin-admin", "", Ok(())),
            ("admin-admin-admi", "anything", Err(Unbelieved::UnknownToken)),
            ("", "plant/7", Err(Unbelieved::NoToken)),
        ] {
            assert_eq!(authorize(&rules, token.as_bytes(), source.as_bytes()), expected, "{token:?} {source:?}");
        }
        assert!(!format!("{rules:?}").contains("admin"), "tokens are not shown");
        assert!(TokenRule::validate(&rules).is_ok());
        assert!(TokenRule::validate(&[rule("short", "")]).is_err());
    }
}
