//! Providers: each takes a credential and says who calls, or why it does not believe it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use serde_json::{Value, json};

use super::Defect;
use super::api_key::{self, ApiKeyProvider};
use super::cache::{self, Known};
use super::introspection::Introspection;
use super::jwks::Jwks;
use super::key::KeySet;
use super::mtls::MtlsProvider;
use super::token::{Token, looks_signed};
use super::verify::{Rules, issuer};
use crate::exchange::{Certificate, Identity, Reason, Rejection};
use crate::telemetry::metrics::IdentityMetrics;

/// Who may vouch for a caller.
pub enum Provider {
    /// An issuer of signed tokens.
    Jwt(Box<JwtProvider>),
    /// An issuer that is asked about each token.
    Opaque(OpaqueProvider),
    /// Those who may call by an API key.
    ApiKeys(ApiKeyProvider),
    /// Authorities behind the certificates of clients.
    Mtls(MtlsProvider),
}

impl Provider {
    /// The keys that it fetches, if it does.
    pub fn jwks(&self) -> Option<&Arc<Jwks>> {
        match self {
            Self::Jwt(provider) => match &provider.keys {
                Keys::Fetched { jwks, .. } => Some(jwks),
                Keys::Given(_) => None,
            },
            Self::Opaque(_) | Self::ApiKeys(_) | Self::Mtls(_) => None,
        }
    }

    /// For operators.
    pub fn shown(&self, now: Instant) -> Value {
        match self {
            Self::Jwt(provider) => match &provider.keys {
                Keys::Fetched { jwks, .. } => jwks.shown(now),
                Keys::Given(keys) => json!({"provider": &*provider.name, "kind": "given", "keys": keys.json()}),
            },
            Self::Opaque(provider) => provider.state.shown(),
            Self::ApiKeys(provider) => {
                json!({"provider": &*provider.name, "kind": "api_keys", "keys": provider.callers.len()})
            }
            Self::Mtls(provider) => json!({"provider": &*provider.name, "kind": "mtls"}),
        }
    }

    /// Whether it looks at what stands where tokens do.
    pub fn takes_tokens(&self) -> bool {
        match self {
            Self::Jwt(_) | Self::Opaque(_) => true,
            Self::ApiKeys(provider) => provider.bearer,
            Self::Mtls(_) => false,
        }
    }

    /// The issuers of signed tokens for which it decides.
    pub fn issuers(&self) -> &[String] {
        match self {
            Self::Jwt(provider) => &provider.rules.issuers,
            Self::Opaque(_) | Self::ApiKeys(_) | Self::Mtls(_) => &[],
        }
    }

    /// The header of its own in which credentials for it stand.
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::ApiKeys(provider) => provider.header.as_ref(),
            Self::Jwt(_) | Self::Opaque(_) | Self::Mtls(_) => None,
        }
    }
}

/// An issuer that is asked about each token.
pub struct OpaqueProvider {
    /// What is known of its tokens.
    pub state: Arc<Introspection>,
    /// How long a request waits for a word.
    pub wait: Duration,
    /// Bytes of a token, at most.
    pub token_max: usize,
    /// Where its words are counted.
    pub metrics: IdentityMetrics,
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
    /// From the issuer.
    Fetched {
        /// What was fetched.
        jwks: Arc<Jwks>,
        /// How long a request waits for a key that is not known.
        wait: Duration,
    },
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

/// Finds out whose bearer token it is: the first of `providers` that vouches for its issuer decides. What no issuer of
/// signed tokens has to do with goes to those that must be asked.
///
/// # Errors
/// It is nobody's, it is not good, or that cannot be found out now.
pub async fn bearer(providers: &[Arc<Provider>], text: &str, now: Now) -> Result<Arc<Identity>, Refusal> {
    let most = providers.iter().map(|provider| provider.token_max()).max().unwrap_or(0);
    if text.len() > most {
        return Err(Defect::TooLarge.into());
    }
    if let Some(identity) = jwt(providers).find_map(|provider| provider.known(text, now)) {
        return Ok(identity);
    }
    // Made where somebody goes by it: it costs more than all else that is done for a known token.
    let mut made = None;
    let mut digest = || *made.get_or_insert_with(|| cache::digest(text));
    if let Some(identity) = opaque(providers).find_map(|provider| provider.known(&digest(), now)) {
        return Ok(identity);
    }
    let refusal = match signed(providers, text, most) {
        Ok((provider, token)) => {
            // In a box, as below: known tokens need neither, and their requests would carry it about.
            let outcome = Box::pin(provider.verify(text, token, now)).await;
            provider.metrics.judged(outcome.as_ref().map_or_else(|refusal| refusal.cause, |_| "verified"));
            return outcome;
        }
        Err(defect) => Refusal::from(defect),
    };
    let mut last = refusal;
    for provider in api_keys(providers).filter(|provider| provider.bearer && text.len() <= api_key::MOST) {
        match provider.find(&digest(), now.wall) {
            Err(refusal) if refusal.cause == api_key::UNKNOWN => last = refusal,
            decided => return decided,
        }
    }
    for provider in opaque(providers) {
        let outcome = Box::pin(provider.ask(text, digest(), now)).await;
        provider.metrics.judged(outcome.as_ref().map_or_else(|refusal| refusal.cause, |_| "verified"));
        match outcome {
            // Another may know it.
            Err(refusal) if refusal.reason == Reason::TokenInvalid => last = refusal,
            decided => return decided,
        }
    }
    Err(last)
}

/// What would be said of a signed token if its signature were good, where the keys are fetched and nobody is there to ask:
/// the provider, and its word. `None`: it is for no such provider. Nobody may be let in by it.
pub fn unsigned(providers: &[Arc<Provider>], text: &str, now: Now) -> Option<(Arc<str>, Result<Identity, Refusal>)> {
    let most = providers.iter().map(|provider| provider.token_max()).max().unwrap_or(0);
    let (provider, token) = signed(providers, text, most).ok()?;
    if !matches!(provider.keys, Keys::Fetched { .. }) {
        return None;
    }
    let word = match text.len() > provider.token_max {
        true => Err(Defect::TooLarge),
        false => provider.rules.unsigned(&provider.name, token, now.wall),
    };
    Some((provider.name.clone(), word.map_err(Refusal::from)))
}

/// Those that would be asked about a token, as nobody here can say anything of it. Empty: somebody can.
pub fn asked(providers: &[Arc<Provider>], text: &str, now: Now) -> Vec<Arc<str>> {
    let most = providers.iter().map(|provider| provider.token_max()).max().unwrap_or(0);
    if text.len() > most || signed(providers, text, most).is_ok() {
        return Vec::new();
    }
    let digest = cache::digest(text);
    let mut keys = api_keys(providers).filter(|provider| provider.bearer && text.len() <= api_key::MOST);
    let is_key = |refusal: &Refusal| refusal.cause != api_key::UNKNOWN;
    if keys.any(|provider| provider.find(&digest, now.wall).as_ref().map_or_else(is_key, |_| true)) {
        return Vec::new();
    }
    opaque(providers).filter(|provider| provider.fits(text).is_ok()).map(|provider| provider.state.provider()).collect()
}

/// Finds out whose API key stands in this header.
///
/// # Errors
/// It is nobody's, or is good no more.
pub fn key(providers: &[Arc<Provider>], header: &HeaderName, text: &str, now: Now) -> Result<Arc<Identity>, Refusal> {
    let mut last = Refusal::invalid(api_key::UNKNOWN);
    if text.len() > api_key::MOST {
        return Err(last);
    }
    let digest = cache::digest(text);
    for provider in api_keys(providers).filter(|provider| provider.header.as_ref() == Some(header)) {
        match provider.find(&digest, now.wall) {
            Err(refusal) if refusal.cause == api_key::UNKNOWN => last = refusal,
            decided => return decided,
        }
    }
    Err(last)
}

fn api_keys(providers: &[Arc<Provider>]) -> impl Iterator<Item = &ApiKeyProvider> {
    providers.iter().filter_map(|provider| match &**provider {
        Provider::ApiKeys(provider) => Some(provider),
        Provider::Jwt(_) | Provider::Opaque(_) | Provider::Mtls(_) => None,
    })
}

fn jwt(providers: &[Arc<Provider>]) -> impl Iterator<Item = &JwtProvider> {
    providers.iter().filter_map(|provider| match &**provider {
        Provider::Jwt(provider) => Some(&**provider),
        Provider::Opaque(_) | Provider::ApiKeys(_) | Provider::Mtls(_) => None,
    })
}

fn opaque(providers: &[Arc<Provider>]) -> impl Iterator<Item = &OpaqueProvider> {
    providers.iter().filter_map(|provider| match &**provider {
        Provider::Opaque(provider) => Some(provider),
        Provider::Jwt(_) | Provider::ApiKeys(_) | Provider::Mtls(_) => None,
    })
}

/// Finds out whose certificate it is: the first of `providers` that takes it decides. `None`: none of them has to do with
/// certificates.
///
/// # Errors
/// None of them takes it.
pub fn certificate(providers: &[Arc<Provider>], shown: &Certificate) -> Option<Result<Arc<Identity>, Refusal>> {
    let mut last = None;
    for provider in providers {
        let Provider::Mtls(provider) = &**provider else { continue };
        let outcome = shown.stands_for(&provider.name, |peer| {
            let outcome = provider.identify(peer);
            provider.metrics.judged(outcome.as_ref().map_or_else(|refusal| refusal.cause, |_| "verified"));
            outcome
        });
        if outcome.is_ok() {
            return Some(outcome);
        }
        last = Some(outcome);
    }
    last
}

/// The provider that knows the issuer of a signed token.
fn signed<'p, 't>(
    providers: &'p [Arc<Provider>],
    text: &'t str,
    most: usize,
) -> Result<(&'p JwtProvider, Token<'t>), Defect> {
    let mut signers = jwt(providers).peekable();
    if !looks_signed(text) || signers.peek().is_none() {
        return Err(Defect::Malformed);
    }
    let token = Token::read(text, most)?;
    let named = issuer(&token)?;
    let provider = signers.find(|provider| provider.rules.is_issuer(named)).ok_or(Defect::Issuer)?;
    Ok((provider, token))
}

impl Provider {
    fn token_max(&self) -> usize {
        match self {
            Self::Jwt(provider) => provider.token_max,
            Self::Opaque(provider) => provider.token_max,
            Self::ApiKeys(provider) => {
                if provider.bearer {
                    api_key::MOST
                } else {
                    0
                }
            }
            // Never sees one.
            Self::Mtls(_) => 0,
        }
    }
}

impl OpaqueProvider {
    fn known(&self, digest: &cache::Digest, now: Now) -> Option<Arc<Identity>> {
        let identity = self.state.known(digest, now.wall)?.ok()?;
        self.metrics.known();
        Some(identity)
    }

    /// What no bearer token can be nobody need be asked about (RFC 6750 §2.1).
    fn fits(&self, text: &str) -> Result<(), Defect> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(Defect::Malformed);
        }
        if text.len() > self.token_max {
            return Err(Defect::TooLarge);
        }
        Ok(())
    }

    async fn ask(&self, text: &str, digest: cache::Digest, now: Now) -> Result<Arc<Identity>, Refusal> {
        self.fits(text)?;
        match self.state.known(&digest, now.wall) {
            Some(word) => word,
            None => Box::pin(self.state.ask(digest, text, self.wait)).await,
        }
    }
}

impl JwtProvider {
    fn known(&self, token: &str, now: Now) -> Option<Arc<Identity>> {
        let stamp = match &self.keys {
            Keys::Given(keys) => keys.stamp(),
            Keys::Fetched { jwks, .. } => jwks.stamp()?,
        };
        let identity = self.known.find(token, stamp, now.wall)?;
        self.metrics.known();
        Some(identity)
    }

    async fn verify(&self, text: &str, token: Token<'_>, now: Now) -> Result<Arc<Identity>, Refusal> {
        if text.len() > self.token_max {
            return Err(Defect::TooLarge.into());
        }
        let keys = match &self.keys {
            Keys::Given(keys) => keys.clone(),
            Keys::Fetched { jwks, wait } => {
                // What no key could make good fetches none.
                let algorithm = self.rules.algorithm(&token)?;
                let id = token.header.key.as_deref();
                match jwks.keys_that_have(id, algorithm) {
                    Some(keys) => keys,
                    // In a box: the future of each exchange would have room for it.
                    None => Box::pin(jwks.keys_with(id, algorithm, now.instant, *wait)).await?,
                }
            }
        };
        let verified = self.rules.verify(&self.name, token, &keys, now.wall)?;
        Ok(self.known.remember(text, keys.stamp(), verified))
    }
}
