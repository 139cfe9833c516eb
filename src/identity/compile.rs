//! From the section `identity` to providers, or to all that is wrong with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::api_key::ApiKeyProvider;
use super::cache::Known;
use super::client::{Target, Terms};
use super::introspection::{self, Introspection};
use super::jwk;
use super::jwks::{self, Jwks, Place};
use super::key::{Key, KeySet, Unfit, stamp};
use super::mtls::MtlsProvider;
use super::provider::{JwtProvider, Keys, OpaqueProvider, Provider};
use super::verify::{Rules, short_type};
use crate::config::identity::{self as config, Algorithm};
use crate::config::tls::UpstreamTls;
use crate::config::value::{ByteSize, HumanDuration};
use crate::config::yaml;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::Identity as Caller;
use crate::exchange::identity::ClaimPath;
use crate::http::headers::belongs_to_the_hop;
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::Metrics;
use crate::upstream::background;

/// How far clocks may differ, at most.
const LEEWAY_MAX: u64 = 300;

/// The longest token, at most: no header is longer.
const TOKEN_MAX: u64 = 64 * 1024;

/// How many API keys a provider may list.
const KEYS_MAX: usize = 10_000;

/// Providers by name. `None`: it is wrong, which is reported.
pub type Providers = BTreeMap<String, Option<Arc<Provider>>>;

/// Compiles the section, which stands at `path`. `is_lost`: what is there and could not be read, which is reported.
pub fn compile(
    section: &BTreeMap<String, config::Provider>,
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
    is_lost: &dyn Fn(&KeyPath) -> bool,
) -> Providers {
    let mut providers = Providers::new();
    for (name, provider) in section {
        let path = path.key(name);
        let before = issues.len();
        let mut compiler = Compiler { name, metrics, keeper, issues, is_lost };
        let ways = (&provider.jwt, &provider.introspection, &provider.api_keys, &provider.mtls);
        let compiled = match ways {
            (None, None, Some(keys), None) => {
                compiler.api_keys(keys, &path.key("api_keys")).map(|provider| Arc::new(Provider::ApiKeys(provider)))
            }
            (Some(jwt), None, None, None) => {
                compiler.jwt(jwt, &path.key("jwt")).map(|jwt| Arc::new(Provider::Jwt(Box::new(jwt))))
            }
            (None, Some(asked), None, None) => compiler
                .introspection(asked, &path.key("introspection"))
                .map(|provider| Arc::new(Provider::Opaque(provider))),
            (None, None, None, Some(mtls)) => {
                MtlsProvider::compile(name, mtls, metrics.identity(name), &path.key("mtls"), compiler.issues)
                    .map(|provider| Arc::new(Provider::Mtls(provider)))
            }
            (None, None, None, None) => {
                compiler.absent(
                    path,
                    &["jwt", "introspection", "api_keys", "mtls"],
                    "does not say how it vouches",
                    "give it `jwt`, `introspection`, `api_keys` or `mtls`",
                );
                None
            }
            (jwt, asked, keys, mtls) => {
                // Each is looked at all the same: it may be the one that stays.
                let _ = jwt.as_ref().map(|jwt| compiler.jwt(jwt, &path.key("jwt")));
                let _ = asked.as_ref().map(|asked| compiler.introspection(asked, &path.key("introspection")));
                let _ = keys.as_ref().map(|keys| compiler.api_keys(keys, &path.key("api_keys")));
                if let Some(mtls) = mtls {
                    MtlsProvider::compile(name, mtls, metrics.identity(name), &path.key("mtls"), compiler.issues);
                }
                compiler.refuse(path, "vouches in several ways", "keep one; give the other a provider of its own");
                None
            }
        };
        providers.insert(name.clone(), compiled.filter(|_| issues.len() == before));
    }
    providers
}

struct Compiler<'c, 'k> {
    name: &'c str,
    metrics: &'c Metrics,
    keeper: &'c mut Keeper<'k>,
    issues: &'c mut Issues,
    is_lost: &'c dyn Fn(&KeyPath) -> bool,
}

impl Compiler<'_, '_> {
    fn jwt(&mut self, jwt: &config::Jwt, path: &KeyPath) -> Option<JwtProvider> {
        let algorithms = self.algorithms(jwt, path);
        let rules = self.rules(jwt, &algorithms, path);
        let keys = self.keys(jwt, &algorithms, &path.key("keys"))?;
        let known = self.keeper.keep(
            Identity::of("known_tokens", self.name).shape("jwt", rules_of(jwt)).shape("cache_max", jwt.cache_max),
            || Known::new(jwt.cache_max.get()),
        );
        Some(JwtProvider {
            name: self.name.into(),
            rules,
            keys,
            known,
            token_max: usize::try_from(jwt.token_max.get()).unwrap_or(usize::MAX),
            metrics: self.metrics.identity(self.name),
        })
    }

    fn refuse(&mut self, path: KeyPath, message: impl Into<String>, hint: impl Into<Cow<'static, str>>) {
        self.issues.push(Issue::new(path, message.into()).hint(hint));
    }

    /// The same of something that is missing: any of these keys.
    fn absent(&mut self, path: KeyPath, keys: &[&str], message: &str, hint: &str) {
        self.issues.push(Issue::new(path, message).of_absence_of(keys).hint(hint.to_owned()));
    }

    /// What is accepted: what is said, else all that goes with the kind of the keys.
    fn algorithms(&mut self, jwt: &config::Jwt, path: &KeyPath) -> Vec<Algorithm> {
        if self.kinds(&jwt.keys, &path.key("keys")).len() > 1 {
            // What goes with them is known once there is one kind.
            return if jwt.algorithms.is_empty() { Algorithm::ALL.to_vec() } else { jwt.algorithms.clone() };
        }
        let is_shared = jwt.keys.secret.is_some() || !jwt.keys.secrets.is_empty();
        if jwt.algorithms.is_empty() {
            return jwt.algorithms_of_keys();
        }
        for (place, algorithm) in jwt.algorithms.iter().enumerate() {
            if algorithm.is_symmetric() != is_shared {
                let (keys, others) =
                    if is_shared { ("secrets", "HS") } else { ("public keys", "RS, PS, ES and EdDSA") };
                // Keys that could not be read are of an unknown kind.
                self.issues.push(
                    Issue::new(
                        path.key("algorithms").index(place),
                        format!("{} does not go with the keys, which are {keys}", algorithm.name()),
                    )
                    .goes_by(path.key("keys"))
                    .hint(format!(
                        "accept algorithms of {others}; keys of the other kind need a provider of their own"
                    )),
                );
            }
        }
        jwt.algorithms.clone()
    }

    fn rules(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Rules {
        if jwt.issuer.is_empty() {
            self.refuse(path.key("issuer"), "is empty", "write what `iss` of the tokens is");
        }
        self.audiences(&jwt.audiences, jwt.any_audience, path);
        for (key, texts) in
            [("more_issuers", &jwt.more_issuers), ("types", &jwt.types), ("required_claims", &jwt.required_claims)]
        {
            self.texts(texts, &path.key(key));
        }
        self.leeway(jwt.leeway, path);
        if jwt.types.is_empty() {
            let issue = Issue::new(path.key("types"), "names no type, so every token would be refused").of_absence();
            self.issues.push(issue.hint("leave it out for `JWT` and `at+jwt`"));
        }
        for (key, bound) in [("max_lifetime", jwt.max_lifetime), ("max_age", jwt.max_age)] {
            if bound.is_some_and(|bound| bound.get().as_secs() == 0) {
                self.refuse(
                    path.key(key),
                    "is less than a second, so every token would be refused",
                    "name a time such as `1h`",
                );
            }
        }
        self.token_max(jwt.token_max, path);
        let scopes = &jwt.scopes_claim.0;
        let place = |place| (scopes.len() > 1).then_some(place);
        self.claims(&jwt.roles_claim, scopes.iter().enumerate().map(|(at, claim)| (place(at), claim)), path);
        if scopes.is_empty() {
            let issue =
                Issue::new(path.key("scopes_claim"), "names no claim, so nobody would have a scope").of_absence();
            self.issues.push(issue.hint("leave it out for `scope` and `scp`"));
        }
        Rules {
            issuers: std::iter::once(&jwt.issuer).chain(&jwt.more_issuers).cloned().collect(),
            audiences: (!jwt.any_audience).then(|| jwt.audiences.clone()),
            algorithms: algorithms.to_vec(),
            types: jwt.types.iter().map(|text| short_type(text)).collect(),
            leeway: seconds(jwt.leeway),
            expires: !jwt.without_expiry,
            max_lifetime: jwt.max_lifetime.map(seconds),
            max_age: jwt.max_age.map(seconds),
            required: jwt.required_claims.iter().map(|text| ClaimPath::new(text)).collect(),
            roles: ClaimPath::new(&jwt.roles_claim),
            scopes: scopes.iter().map(|claim| ClaimPath::new(claim)).collect(),
        }
    }

    /// Texts of which none may be empty, as one becomes that comes from outside.
    fn texts(&mut self, texts: &[String], path: &KeyPath) {
        for (place, _) in texts.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            self.refuse(path.index(place), "is empty", "write what it should be, or take it out of the list");
        }
    }

    fn audiences(&mut self, audiences: &[String], any_audience: bool, path: &KeyPath) {
        self.texts(audiences, &path.key("audiences"));
        match (audiences.is_empty(), any_audience) {
            (true, false) => {
                const WHAT: &str = "names no audience, so a token for any other service would do here (RFC 8725 §3.9)";
                let issue = Issue::new(path.clone(), WHAT).goes_by(path.key("audiences"));
                let issue = issue.goes_by(path.key("any_audience"));
                self.issues.push(
                    issue.hint("list under `audiences` what `aud` of the tokens is, or write `any_audience: true`"),
                );
            }
            (false, true) => self.refuse(path.key("any_audience"), "contradicts `audiences`", "keep one of the two"),
            _ => {}
        }
    }

    fn leeway(&mut self, leeway: HumanDuration, path: &KeyPath) {
        if leeway.get().as_secs() > LEEWAY_MAX {
            self.refuse(
                path.key("leeway"),
                format!("{leeway} is too much"),
                "the most is `5m`; set clocks right instead",
            );
        }
    }

    fn token_max(&mut self, size: ByteSize, path: &KeyPath) {
        if !(256..=TOKEN_MAX).contains(&size.get()) {
            self.refuse(path.key("token_max"), format!("{size} is out of bounds"), "choose from 256B to 64KiB");
        }
    }

    /// `scopes`: each with its place, if it stands in a list.
    fn claims<'s>(
        &mut self,
        roles: &'s str,
        scopes: impl IntoIterator<Item = (Option<usize>, &'s String)>,
        path: &KeyPath,
    ) {
        let at = path.key("scopes_claim");
        let scopes = scopes
            .into_iter()
            .map(|(place, claim)| (place.map_or_else(|| at.clone(), |place| at.index(place)), claim.as_str()));
        for (path, claim) in std::iter::once((path.key("roles_claim"), roles)).chain(scopes) {
            if claim.is_empty() {
                self.refuse(
                    path,
                    "is empty",
                    "write the claim's name, or a JSON Pointer such as `/realm_access/roles`",
                );
            }
        }
    }

    fn within(&mut self, value: HumanDuration, bounds: (HumanDuration, HumanDuration), path: KeyPath) -> Duration {
        if !(bounds.0.get()..=bounds.1.get()).contains(&value.get()) {
            self.refuse(path, format!("{value} is out of bounds"), format!("choose from {} to {}", bounds.0, bounds.1));
        }
        value.get()
    }

    fn bytes(&mut self, value: ByteSize, most: ByteSize, path: KeyPath) -> usize {
        if !(ByteSize::kib(1).get()..=most.get()).contains(&value.get()) {
            self.refuse(path, format!("{value} is out of bounds"), format!("choose from 1KiB to {most}"));
        }
        usize::try_from(value.get()).unwrap_or(usize::MAX)
    }

    fn api_keys(&mut self, config: &config::ApiKeys, path: &KeyPath) -> Option<ApiKeyProvider> {
        let before = self.issues.len();
        let header = match config.header.as_str() {
            "off" => None,
            text => {
                let fits = |name: &HeaderName| {
                    !matches!(name.as_str(), "authorization" | "cookie" | "host") && !belongs_to_the_hop(name)
                };
                let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(fits);
                if name.is_none() {
                    self.refuse(
                        path.key("header"),
                        format!("`{text}` is no header that a key could stand in"),
                        "choose a name such as `x-api-key`; `bearer: true` takes keys out of `Authorization: Bearer`",
                    );
                }
                name
            }
        };
        if config.header == "off" && !config.bearer {
            self.refuse(path.key("header"), "leaves no place for a key", "name a header, or write `bearer: true`");
        }
        let keys = ["hash", "subject", "roles", "scopes", "expires", "claims"];
        let listed = config.file.as_ref().map(|text| yaml::plain::<Vec<config::ApiKey>>(text.expose(), &keys));
        let more = match listed {
            None => Vec::new(),
            Some(Ok(more)) => more,
            Some(Err(mistakes)) => {
                self.refuse(
                    path.key("file"),
                    format!("is no list of keys: {mistakes}"),
                    "it looks like `- {hash: \"sha256:…\", subject: billing}`, a line for each",
                );
                Vec::new()
            }
        };
        if config.keys.len() + more.len() > KEYS_MAX {
            self.refuse(path.clone(), "lists too many keys", format!("the most is {KEYS_MAX}"));
            return None;
        }
        if config.keys.is_empty() && more.is_empty() && self.issues.len() == before {
            let hint = "`armiger token hash --new` makes one";
            self.absent(path.clone(), &["keys", "file"], "lists no key, so nobody could call", hint);
        }
        let given = config.keys.iter().enumerate().map(|(place, key)| (path.key("keys").index(place), None, key));
        let read = more.iter().enumerate().map(|(place, key)| (path.key("file"), Some(place + 1), key));
        let mut callers = HashMap::new();
        for (at, entry, key) in given.chain(read) {
            // What stands in a file is told by its number; its text is not shown.
            let of = entry.map_or(String::new(), |entry| format!("entry {entry}: "));
            let part = |name: &str| if entry.is_none() { at.key(name) } else { at.clone() };
            let digest = key.hash.digest();
            if digest.is_none() {
                self.refuse(
                    part("hash"),
                    format!("{of}is no hash of a key, and a key itself must not stand here"),
                    "`armiger token hash` makes a hash of the key on its standard input",
                );
            }
            if key.subject.is_empty() {
                self.refuse(part("subject"), format!("{of}the key is nobody's"), "say whose it is");
            }
            for (name, texts) in [("roles", &key.roles), ("scopes", &key.scopes)] {
                if texts.iter().any(String::is_empty) {
                    let message = format!("{of}one of `{name}` is empty");
                    self.refuse(part(name), message, "write what it should be, or take it out of the list");
                }
            }
            let expires = key.expires.as_ref().map(|text| text.parse::<jiff::Timestamp>().map(|time| time.as_second()));
            let expires = match expires.transpose() {
                Ok(expires) => expires,
                Err(_) => {
                    self.refuse(part("expires"), format!("{of}is no time"), "write it as `2027-01-31T00:00:00Z`");
                    None
                }
            };
            let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
            let mut claims: serde_json::Map<String, serde_json::Value> =
                key.claims.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
            claims.insert("sub".into(), key.subject.as_str().into());
            let identity = Caller {
                provider: self.name.into(),
                subject: key.subject.as_str().into(),
                roles: boxed(&key.roles),
                scopes: boxed(&key.scopes),
                claims,
                expires,
            };
            if let Some(digest) = digest
                && callers.insert(digest, Arc::new(identity)).is_some()
            {
                self.refuse(part("hash"), format!("{of}the same key stands here twice"), "keep one of the two");
            }
        }
        let metrics = self.metrics.identity(self.name);
        (self.issues.len() == before).then_some(ApiKeyProvider {
            name: self.name.into(),
            header,
            bearer: config.bearer,
            callers,
            metrics,
        })
    }

    fn introspection(&mut self, asked: &config::Introspection, path: &KeyPath) -> Option<OpaqueProvider> {
        self.audiences(&asked.audiences, asked.any_audience, path);
        self.texts(&asked.required_claims, &path.key("required_claims"));
        self.leeway(asked.leeway, path);
        self.token_max(asked.token_max, path);
        self.claims(&asked.roles_claim, asked.scopes_claim.iter().map(|claim| (None, claim)), path);
        if asked.issuer.as_ref().is_some_and(String::is_empty) {
            self.refuse(path.key("issuer"), "is empty", "write what `iss` of the answers is, or leave it out");
        }
        for (key, value) in [("in_flight_max", asked.in_flight_max), ("queue_max", asked.queue_max)] {
            if value == 0 {
                self.refuse(path.key(key), "`0` would let no question through", "the least is 1");
            }
        }
        let credential = introspection::credential(&asked.client_id, asked.client_secret.expose());
        if credential.is_none() {
            self.refuse(
                path.key("client_id"),
                "is empty, or `client_secret` is",
                "write what the issuer knows armiger by: anybody could ask about tokens otherwise (RFC 7662 §2.1)",
            );
        }
        let terms = Terms { insecure: asked.insecure, tls: asked.tls.clone() };
        let target = self.fits(&path.key("url"), Target::parse(&asked.url, &terms));
        let scopes = asked.scopes_claim();
        let rules = Rules {
            issuers: asked.issuer.iter().cloned().collect(),
            audiences: (!asked.any_audience).then(|| asked.audiences.clone()),
            algorithms: Vec::new(),
            types: Vec::new(),
            leeway: seconds(asked.leeway),
            expires: false,
            max_lifetime: None,
            max_age: None,
            required: asked.required_claims.iter().map(|text| ClaimPath::new(text)).collect(),
            roles: ClaimPath::new(&asked.roles_claim),
            scopes: vec![ClaimPath::new(scopes)],
        };
        let (none, second) = (HumanDuration::seconds(0), HumanDuration::seconds(1));
        let (minute, hour) = (HumanDuration::seconds(60), HumanDuration::seconds(3600));
        let timeout = self.within(asked.timeout, (HumanDuration::millis(10), minute), path.key("timeout"));
        let cache_for = self.within(asked.cache_for, (none, hour), path.key("cache_for"));
        let cache_refused_for = self.within(asked.cache_refused_for, (none, hour), path.key("cache_refused_for"));
        let answer_max = self.bytes(asked.answer_max, ByteSize::mib(1), path.key("answer_max"));
        let plan = introspection::Plan {
            target: target?,
            credential: credential?,
            rules,
            cache_for,
            cache_refused_for,
            timeout,
            in_flight_max: asked.in_flight_max.into(),
            answer_max,
        };
        let (name, metrics) = (self.name, self.metrics);
        let state = self.keeper.keep(
            // What was said under other rules, or by somebody else, is nobody's word.
            Identity::of("introspection", name)
                .shape("url", &asked.url)
                .shape("client_id", &asked.client_id)
                .shape("tls", fingerprint(asked.tls.as_ref()))
                .shape("rules", format_args!("{:?}", plan.rules))
                .shape("cache_max", asked.cache_max)
                .shape("queue_max", asked.queue_max)
                .setting("cache_for", asked.cache_for)
                .setting("cache_refused_for", asked.cache_refused_for)
                .setting("timeout", asked.timeout)
                .setting("in_flight_max", asked.in_flight_max),
            || Introspection::new(name, asked.cache_max.get(), asked.queue_max.into(), metrics),
        );
        background::employ(self.keeper, &state, plan);
        Some(OpaqueProvider {
            state,
            // An answer that comes at the last moment is still an answer.
            wait: timeout + second.get(),
            token_max: usize::try_from(asked.token_max.get()).unwrap_or(usize::MAX),
            metrics: metrics.identity(name),
        })
    }

    /// Keys that are fetched: from `jwks_url`, or from where the issuer says.
    fn fetched(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Option<Keys> {
        let keys = &jwt.keys;
        let terms = Terms { insecure: keys.insecure, tls: keys.tls.clone() };
        let place = match &keys.jwks_url {
            Some(url) => self.fits(&path.key("jwks_url"), Target::parse(url, &terms)).map(Place::Url),
            None => {
                let made = Target::parse(&jwks::document_url(&jwt.issuer), &terms);
                let made = made.map_err(|unfit| Unfit {
                    message: format!("`issuer`, by which keys are to be discovered, {}", unfit.message),
                    hint: if unfit.message == "is no URL" {
                        "write the issuer as its tokens do, such as `https://id.example.com`, or give `jwks_url`"
                    } else {
                        unfit.hint
                    },
                });
                let document = self.fits(&path.key("discover"), made);
                document.map(|document| Place::Discovered { document, issuer: jwt.issuer.clone() })
            }
        };
        let (none, second, minute) = (HumanDuration::seconds(0), HumanDuration::seconds(1), HumanDuration::seconds(60));
        let (hour, day) = (HumanDuration::seconds(3600), HumanDuration::seconds(24 * 3600));
        let month = HumanDuration::seconds(30 * 24 * 3600);
        let start_wait = self.within(keys.start_wait, (none, hour), path.key("start_wait"));
        let wait = self.within(keys.wait, (none, HumanDuration::seconds(10)), path.key("wait"));
        let plan = jwks::Plan {
            algorithms: algorithms.to_vec(),
            refresh: self.within(keys.refresh, (second, day), path.key("refresh")),
            timeout: self.within(keys.timeout, (HumanDuration::millis(10), minute), path.key("timeout")),
            wait,
            start_wait: keys.required_at_start.then_some(start_wait),
            max_stale: self.within(keys.max_stale, (second, month), path.key("max_stale")),
            bytes_max: self.bytes(keys.bytes_max, ByteSize::mib(16), path.key("bytes_max")),
            place: place?,
            terms,
        };
        let names: Vec<_> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let (name, metrics) = (self.name, self.metrics);
        let state = self.keeper.keep(
            Identity::of("keys", name)
                .shape("url", plan.place.url())
                .shape("discover", keys.discover)
                .shape("issuer", if keys.discover { &jwt.issuer } else { "" })
                .shape("algorithms", names.join(" "))
                .shape("insecure", keys.insecure)
                .shape("tls", fingerprint(keys.tls.as_ref()))
                .setting("refresh", keys.refresh)
                .setting("timeout", keys.timeout)
                .setting("wait", keys.wait)
                .setting("max_stale", keys.max_stale)
                .setting("bytes_max", keys.bytes_max),
            || Jwks::new(name, metrics),
        );
        background::employ(self.keeper, &state, plan);
        Some(Keys::Fetched { jwks: state, wait })
    }

    /// The kinds of keys that stand in the file, also those that could not be read.
    fn kinds(&self, keys: &config::Keys, path: &KeyPath) -> Vec<&'static str> {
        let is_lost = |key: &str| (self.is_lost)(&path.key(key));
        let has_secret = keys.secret.is_some() || !keys.secrets.is_empty();
        [
            (has_secret || is_lost("secret") || is_lost("secrets"), "secret"),
            (!keys.pem.is_empty() || is_lost("pem"), "pem"),
            (keys.jwks.is_some() || is_lost("jwks"), "jwks"),
            (keys.jwks_url.is_some() || is_lost("jwks_url"), "jwks_url"),
            (keys.discover, "discover"),
        ]
        .into_iter()
        .filter_map(|(is_given, key)| is_given.then_some(key))
        .collect()
    }

    fn keys(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Option<Keys> {
        let kinds = self.kinds(&jwt.keys, path);
        if kinds.len() < 2 {
            return self.keys_of_a_kind(jwt, algorithms, path);
        }
        self.refuse(
            path.clone(),
            format!("has keys of {} kinds: `{}`", kinds.len(), kinds.join("`, `")),
            "keep one; give the others a provider of their own",
        );
        // Each is looked at all the same, as if it stood alone: it may be the one that stays.
        let of = |is_shared: bool| -> Vec<Algorithm> {
            Algorithm::ALL.into_iter().filter(|algorithm| algorithm.is_symmetric() == is_shared).collect()
        };
        let (none, all) = (config::Keys::default(), &jwt.keys);
        let rest = config::Keys { secret: None, secrets: Vec::new(), pem: Vec::new(), jwks: None, ..all.clone() };
        for (keys, algorithms) in [
            (
                config::Keys {
                    secret: all.secret.clone(),
                    secrets: all.secrets.clone(),
                    secret_encoding: all.secret_encoding,
                    ..none.clone()
                },
                vec![Algorithm::HS256],
            ),
            (config::Keys { pem: all.pem.clone(), ..none.clone() }, of(false)),
            (config::Keys { jwks: all.jwks.clone(), ..none }, of(false)),
            (rest, of(false)),
        ] {
            let has_keys = keys.secret.is_some()
                || !keys.secrets.is_empty()
                || !keys.pem.is_empty()
                || keys.jwks.is_some()
                || keys.jwks_url.is_some()
                || keys.discover;
            if has_keys {
                self.keys_of_a_kind(&config::Jwt { keys, ..jwt.clone() }, &algorithms, path);
            }
        }
        None
    }

    fn keys_of_a_kind(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Option<Keys> {
        let keys = &jwt.keys;
        let secrets: Vec<_> = keys
            .secret
            .iter()
            .map(|secret| (path.key("secret"), secret))
            .chain(keys.secrets.iter().enumerate().map(|(place, secret)| (path.key("secrets").index(place), secret)))
            .collect();
        if !secrets.is_empty() {
            let made = secrets.iter().map(|(path, secret)| {
                self.fits(path, Key::secret(secret.expose(), keys.secret_encoding, algorithms)).map(|key| vec![key])
            });
            let made: Vec<Option<Vec<Key>>> = made.collect();
            let encoding = format!("{:?}", keys.secret_encoding);
            // The same text means other keys in another encoding, and tokens that those signed are known no more.
            let source = std::iter::once(encoding.as_str()).chain(secrets.iter().map(|(_, secret)| secret.expose()));
            return given_keys(made, source);
        }
        if !keys.pem.is_empty() {
            let made = keys
                .pem
                .iter()
                .enumerate()
                .map(|(place, text)| self.fits(&path.key("pem").index(place), Key::pem(text, algorithms)));
            let made: Vec<_> = made.collect();
            return given_keys(made, keys.pem.iter().map(String::as_str));
        }
        if let Some(text) = &keys.jwks {
            let mut notes = Vec::new();
            return match jwk::read(text, algorithms, &mut notes) {
                Ok(set) => Some(Keys::Given(Arc::new(set))),
                Err(useless) => {
                    self.refuse(
                        path.key("jwks"),
                        useless.0,
                        "a JWK set looks like `{\"keys\": [{\"kty\": \"RSA\", …}]}`",
                    );
                    None
                }
            };
        }
        if keys.jwks_url.is_some() || keys.discover {
            return self.fetched(jwt, algorithms, path);
        }
        self.absent(
            path.clone(),
            &["secret", "secrets", "pem", "jwks", "jwks_url", "discover"],
            "names no key, so no signature could be checked",
            "give `secret`, `pem`, `jwks` or `jwks_url`, or write `discover: true` to ask the issuer where its keys are",
        );
        None
    }

    fn fits<T>(&mut self, path: &KeyPath, made: Result<T, Unfit>) -> Option<T> {
        made.map_err(|unfit| self.refuse(path.clone(), unfit.message, unfit.hint)).ok()
    }
}

fn given_keys<'s>(made: Vec<Option<Vec<Key>>>, source: impl Iterator<Item = &'s str>) -> Option<Keys> {
    let keys: Option<Vec<Vec<Key>>> = made.into_iter().collect();
    Some(Keys::Given(Arc::new(KeySet::unnamed(keys?.into_iter().flatten().collect(), source))))
}

/// Tells settings apart without showing them.
fn fingerprint(tls: Option<&UpstreamTls>) -> String {
    tls.map_or_else(|| "none".to_owned(), |tls| format!("#{:016x}", stamp([format!("{tls:?}").as_str()])))
}

fn seconds(duration: HumanDuration) -> i64 {
    i64::try_from(duration.get().as_secs()).unwrap_or(i64::MAX)
}

/// All that decides whether a token is good but its keys, which have a stamp of their own.
fn rules_of(jwt: &config::Jwt) -> String {
    let rules = config::Jwt { keys: config::Keys::default(), ..jwt.clone() };
    serde_json::to_string(&rules).unwrap_or_default()
}
