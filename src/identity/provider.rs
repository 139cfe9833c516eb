//! Providers: each takes a credential and says who calls, or why it does not believe it.

use std::sync::Arc;
use std::time::Instant;

use super::Defect;
use super::cache::{self, Known};
use super::key::KeySet;
use super::token::{Token, looks_signed};
use super::verify::{Rules, issuer};
use crate::exchange::{Identity, Reason, Rejection};
use crate::telemetry::metrics::IdentityMetrics;

/// Who may vouch for a caller.
pub enum Provider {
    /// An issuer of signed tokens.
    Jwt(JwtProvider),
}

/// An issuer of signed tokens.
pub struct JwtProvider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What must hold of a token.
    pub rules: Rules,
    /// What checks its signature.
    pub keys: Keys,
    /// Tokens that were found good.
    pub known: Arc<Known>,
    /// Bytes of a token, at most.
    pub token_max: usize,
    /// Where its words are counted.
    pub metrics: IdentityMetrics,
}

/// Where keys come from.
pub enum Keys {
    /// From the configuration.
    Given(Arc<KeySet>),
}

/// Why a caller is not believed.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told.
    pub reason: Reason,
    /// What the operator is told.
    pub cause: &'static str,
    /// When it may be worth another try, in seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// There is a credential, and it is not good.
    pub const fn invalid(cause: &'static str) -> Self {
        Self { reason: Reason::TokenInvalid, cause, retry_after: None }
    }

    /// Whether it is good cannot be found out now.
    pub const fn unavailable(cause: &'static str, retry_after: u64) -> Self {
        Self { reason: Reason::IdentityUnavailable, cause, retry_after: Some(retry_after) }
    }
}

impl From<Defect> for Refusal {
    fn from(defect: Defect) -> Self {
        Self::invalid(defect.code())
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let rejection = Rejection::from(refusal.reason).cause(refusal.cause);
        match refusal.retry_after {
            Some(seconds) => rejection.header(http::header::RETRY_AFTER, seconds.max(1).into()),
            None => rejection,
        }
    }
}

/// The time of a request, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Seconds since 1970.
    pub wall: i64,
    /// For waits.
    pub instant: Instant,
}

/// Finds out whose bearer token it is: the first of `providers` that vouches for its issuer decides.
///
/// # Errors
/// It is nobody's, it is not good, or that cannot be found out now.
pub async fn bearer(providers: &[Arc<Provider>], text: &str, now: Now) -> Result<Arc<Identity>, Refusal> {
    let signed = || {
        providers.iter().map(|provider| match &**provider {
            Provider::Jwt(provider) => provider,
        })
    };
    let most = signed().map(|provider| provider.token_max).max().unwrap_or(0);
    if text.len() > most {
        return Err(Defect::TooLarge.into());
    }
    if !looks_signed(text) {
        return Err(Defect::Malformed.into());
    }
    let digest = cache::digest(text);
    for provider in signed() {
        if let Some(identity) = provider.known(&digest, now) {
            return Ok(identity);
        }
    }
    let token = Token::read(text, most)?;
    let named = issuer(&token)?;
    let Some(provider) = signed().find(|provider| provider.rules.is_issuer(named)) else {
        return Err(Defect::Issuer.into());
    };
    let outcome = provider.verify(text, token, digest, now).await;
    provider.metrics.judged(outcome.as_ref().map_or_else(|refusal| refusal.cause, |_| "verified"));
    outcome
}

impl JwtProvider {
    fn known(&self, digest: &cache::Digest, now: Now) -> Option<Arc<Identity>> {
        let stamp = match &self.keys {
            Keys::Given(keys) => keys.stamp(),
        };
        let identity = self.known.find(digest, stamp, now.wall)?;
        self.metrics.known();
        Some(identity)
    }

    async fn verify(
        &self,
        text: &str,
        token: Token<'_>,
        digest: cache::Digest,
        now: Now,
    ) -> Result<Arc<Identity>, Refusal> {
        if text.len() > self.token_max {
            return Err(Defect::TooLarge.into());
        }
        let keys = match &self.keys {
            Keys::Given(keys) => keys.clone(),
        };
        let verified = self.rules.verify(&self.name, token, &keys, now.wall)?;
        Ok(self.known.remember(digest, text.len(), keys.stamp(), verified))
    }
}
