//! `identity`: who calls, and whether somebody vouches for it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::{HeaderName, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::exact;
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::load::unknown_name;
use crate::config::value::Mode;
use crate::config::{Issue, KeyPath};
use crate::exchange::identity::query_pairs;
use crate::exchange::{Caller, Challenges, Exchange, Identity, Place, Reason, Rejection, Verdict};
use crate::http::headers::{COOKIE_NAME_HINT, is_cookie_name};
use crate::identity::provider::{self, Now};
use crate::identity::{Provider, Refusal};

/// Who calls. A provider of the section `identity` must vouch for the caller: without a credential the answer is a 401
/// (`token-missing`), with one that is not good a 401 (`token-invalid`), and while that cannot be found out a 503
/// (`identity-unavailable`). Why a credential is not good stands in the log, and nowhere else.
///
/// ```yaml
/// identity: {providers: [staff]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "IdentityPolicy")]
pub struct Config {
    /// Names of providers. Of several, the one decides that knows the token's issuer.
    pub providers: Vec<String>,
    /// Whether there must be a caller.
    pub caller: Demand,
    /// Where requests carry their credential; API keys stand in their provider's `header` besides. In two of these places at once, or twice in one, it is a 400
    /// (`credential-ambiguous`): the next reader might take the other one.
    pub from: Sources,
    /// What becomes of the credential. Default: `forward`, and `strip` on the way to an upstream that is a `third_party`.
    /// To send another instead, strip it and set `authorization` under `headers.request.set`.
    pub credential: Option<Credential>,
    /// How long an answer without an end of its own (events, gRPC streams, whatever has no `Content-Length`) may go on.
    pub stream_max_life: StreamLife,
    /// Whether it is enforced. In `shadow` nobody is refused, and nobody's name is known to other policies.
    pub mode: Mode,
}

/// Whether there must be a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Yes.
    #[default]
    Required,
    /// No; but a credential that is not good is refused all the same.
    Optional,
    /// No, and credentials are not looked at. As `identity: off`.
    None,
}

/// Where requests carry their credential.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// In `Authorization: Bearer` (RFC 6750 §2.1).
    pub bearer: bool,
    /// In the cookie of this name.
    ///
    /// The trap: browsers send cookies along with requests that other sites make. See to `SameSite`.
    pub cookie: Option<String>,
    /// In the query parameter of this name. It is taken out before the request goes on, and is never logged; but the
    /// client's history and proxies on the way have it.
    pub query: Option<String>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { bearer: true, cookie: None, query: None }
    }
}

/// What becomes of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// The upstream sees it.
    Forward,
    /// The upstream does not see it.
    Strip,
}

/// How long an endless answer may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamLife {
    /// As long as the credential is good. Then it is cut, and the client may come back with a new one.
    #[default]
    Token,
    /// As long as it likes.
    Unlimited,
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("callers prove nothing"),
    Guard::at("providers", Weaker::Grows(exact), "more providers may vouch for callers"),
    Guard::at("caller", Weaker::When(|_, new| matches!(new, "optional" | "none")), "there need not be a caller"),
    Guard::at("credential", Weaker::When(|_, new| new == "forward"), "the upstream sees credentials"),
    Guard::at(
        "stream_max_life",
        Weaker::When(|_, new| new == "unlimited"),
        "streams go on after the credential has ended",
    ),
];

impl Config {
    /// Whether it may know who calls.
    pub(super) fn identifies(&self) -> bool {
        self.caller != Demand::None
    }

    /// Whether no upstream sees the credential.
    pub(super) fn strips(&self) -> bool {
        self.credential == Some(Credential::Strip)
    }

    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        if self.caller == Demand::None {
            return;
        }
        let path = scope.path();
        let mut providers: Vec<Arc<Provider>> = Vec::with_capacity(self.providers.len());
        for (place, name) in self.providers.iter().enumerate() {
            match scope.providers.get(name) {
                Some(provider) => {
                    let issuers = || provider.iter().flat_map(|provider| provider.issuers());
                    if let Some(issuer) =
                        issuers().find(|issuer| providers.iter().any(|before| before.issuers().contains(issuer)))
                    {
                        let message =
                            format!("`{name}` is never asked: one before it decides about tokens of `{issuer}`");
                        scope.issue(
                            Issue::new(path.key("providers").index(place), message)
                                .goes_by(KeyPath::root().key("identity").key(name).key("jwt").key("issuer"))
                                .hint("keep one of the two; a provider may have several keys"),
                        );
                    }
                    providers.extend(provider.clone());
                }
                None => {
                    let known = scope.providers.keys().map(String::as_str);
                    let issue = unknown_name(path.key("providers").index(place), "provider", name, known);
                    scope.issue(issue.goes_by(KeyPath::root().key("identity").key(name)));
                }
            }
        }
        if self.providers.is_empty() {
            scope.issue(
                Issue::new(path.clone(), "names no provider, so nobody could vouch for a caller")
                    .of_absence_of(&["providers"])
                    .hint("list names of the section `identity` under `providers`, or write `identity: off`"),
            );
        }
        let from = &self.from;
        let names_header = |name: &String| {
            let keys = scope.plan.identity.get(name).and_then(|provider| provider.api_keys.as_ref());
            keys.is_some_and(|keys| keys.header != "off")
        };
        let has_header = self.providers.iter().any(names_header);
        if !from.bearer && from.cookie.is_none() && from.query.is_none() && !has_header {
            scope.issue(
                Issue::new(path.key("from"), "leaves no place for a credential")
                    .of_absence()
                    .goes_by(path.key("providers"))
                    .hint("leave it out for `Authorization: Bearer`, or name a `cookie` or `query` parameter"),
            );
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$'*+-.^_`|~".contains(&byte);
        let is_parameter = |name: &str| !name.is_empty() && name.bytes().all(fits);
        let is_cookie: &dyn Fn(&str) -> bool = &is_cookie_name;
        for (key, name, is_name, hint) in [
            ("cookie", &from.cookie, is_cookie, COOKIE_NAME_HINT),
            ("query", &from.query, &is_parameter, "use letters, digits, `-`, `_` and `.`"),
        ] {
            if name.as_ref().is_some_and(|name| !is_name(name)) {
                scope.issue(Issue::new(path.key("from").key(key), "is no name of one").hint(hint));
            }
        }
        let mut headers: Vec<HeaderName> = providers.iter().filter_map(|provider| provider.header().cloned()).collect();
        headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        let takes_tokens = providers.is_empty() || providers.iter().any(|provider| provider.takes_tokens());
        // What no provider of the route would look at is for the upstream.
        let bearer = from.bearer && takes_tokens;
        let mut challenges = Challenges::default();
        if bearer || (from.query.is_some() && takes_tokens) {
            challenges.bearer();
        }
        headers.iter().for_each(|name| challenges.api_key(name));
        from.cookie.iter().filter(|_| takes_tokens).for_each(|name| challenges.cookie(name));
        if providers.iter().any(|provider| matches!(**provider, Provider::Mtls(_))) {
            challenges.certificate();
        }
        let challenges = Arc::new(challenges);
        if self.mode == Mode::Enforce {
            scope.challenges(challenges.clone());
        }
        let policy = IdentityPolicy {
            challenges,
            headers,
            is_required: self.caller == Demand::Required,
            bearer,
            cookie: from.cookie.as_deref().map(Arc::from),
            query: from.query.as_deref().map(Arc::from),
            strips: self.credential.map(|credential| credential == Credential::Strip),
            ends_streams: self.stream_max_life == StreamLife::Token,
            providers,
        };
        scope.add(Stage::Authenticate, self.mode, policy);
    }
}

/// Finds out who calls.
pub struct IdentityPolicy {
    providers: Vec<Arc<Provider>>,
    is_required: bool,
    bearer: bool,
    cookie: Option<Arc<str>>,
    query: Option<Arc<str>>,
    /// Of API keys.
    headers: Vec<HeaderName>,
    strips: Option<bool>,
    ends_streams: bool,
    challenges: Arc<Challenges>,
}

impl Policy for IdentityPolicy {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let Some((credential, place)) = self.find(exchange)? else {
            // The connection may say it.
            let shown = exchange.hop.certificate.as_ref();
            if let Some(outcome) = shown.and_then(|shown| provider::certificate(&self.providers, shown)) {
                let place = Place::Connection;
                let identity = outcome.map_err(|refusal| self.refused(refusal, &place))?;
                return Ok(self.identified(identity, place));
            }
            return if self.is_required { Err(Reason::TokenMissing.into()) } else { Ok(Verdict::Pass) };
        };
        let since = exchange.closing.record.time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = Now { wall: i64::try_from(since).unwrap_or(i64::MAX), instant: exchange.started };
        let identity = match &place {
            Place::Header(header) => provider::key(&self.providers, header, &credential, now),
            _ => provider::bearer(&self.providers, &credential, now).await,
        };
        let identity = identity.map_err(|refusal| self.refused(refusal, &place))?;
        Ok(self.identified(identity, place))
    }
}

impl IdentityPolicy {
    fn identified(&self, identity: Arc<Identity>, place: Place) -> Verdict {
        Verdict::Identify(Caller { identity, place, strips: self.strips, ends_streams: self.ends_streams })
    }

    fn refused(&self, refusal: Refusal, place: &Place) -> Rejection {
        let mut rejection = Rejection::from(refusal);
        if rejection.reason == Reason::TokenInvalid {
            self.challenges.tell(&mut rejection, Some(place));
        }
        rejection
    }

    /// The text that a credential is.
    fn text<'e>(&self, bytes: &'e [u8], place: &Place) -> Result<Cow<'e, str>, Rejection> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => Err(self.refused(Refusal::invalid("jwt_malformed"), place)),
        }
    }

    /// The one credential of the request.
    fn find<'e>(&self, exchange: &'e Exchange) -> Result<Option<(Cow<'e, str>, Place)>, Rejection> {
        let mut found = None;
        let mut note = |credential, place| match found.replace((credential, place)) {
            None => Ok(()),
            Some(_) => Err(Rejection::from(Reason::CredentialAmbiguous)),
        };
        let headers = exchange.headers();
        // More than one line of it was refused before (`http/headers/`).
        if self.bearer
            && let Some(token) = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()))
        {
            note(self.text(token, &Place::Bearer)?, Place::Bearer)?;
        }
        for name in &self.headers {
            for line in headers.get_all(name) {
                let place = Place::Header(name.clone());
                note(self.text(line.as_bytes(), &place)?, place)?;
            }
        }
        if let Some(name) = &self.cookie {
            for cookie in
                headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
            {
                if let Some(value) =
                    cookie.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
                {
                    let place = Place::Cookie(name.clone());
                    note(self.text(unquoted(value), &place)?, place)?;
                }
            }
        }
        if let Some(name) = &self.query {
            for (key, value) in query_pairs(exchange.request.uri().query().unwrap_or("")) {
                // A name that cannot be decoded is not this one.
                if key.is_some_and(|key| key == **name) {
                    let place = Place::Query(name.clone());
                    let malformed = || self.refused(Refusal::invalid("jwt_malformed"), &place);
                    note(value.ok_or_else(malformed)?, place)?;
                }
            }
        }
        Ok(found)
    }
}

/// The credential after `Bearer`, whose case does not count (RFC 9110 §11.1). `None`: another scheme, which is none of
/// ours to judge.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ') => Some(rest.trim_ascii_start()),
        Some(_) => None,
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case_and_nothing_else() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer a.b.c", Some("a.b.c")),
            ("BEARER   a", Some("a")),
            ("Bearer", Some("")),
            ("Bearer ", Some("")),
            ("Bearera", None),
            ("Basic YTpi", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value}");
        }
    }
}
