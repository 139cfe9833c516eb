//! From the section `identity` to providers, or to all that is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::Known;
use super::jwk;
use super::key::{Key, KeySet, Unfit};
use super::provider::{JwtProvider, Keys, Provider};
use super::verify::{Rules, short_type};
use crate::config::identity::{self as config, Algorithm};
use crate::config::value::HumanDuration;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::identity::ClaimPath;
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::Metrics;

/// How far clocks may differ, at most.
const LEEWAY_MAX: u64 = 300;

/// The longest token, at most: no header is longer.
const TOKEN_MAX: u64 = 64 * 1024;

/// Providers by name. `None`: it is wrong, which is reported.
pub type Providers = BTreeMap<String, Option<Arc<Provider>>>;

/// Compiles the section, which stands at `path`.
pub fn compile(
    section: &BTreeMap<String, config::Provider>,
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Providers {
    let mut providers = Providers::new();
    for (name, provider) in section {
        let path = path.key(name);
        let before = issues.len();
        let compiled = match &provider.jwt {
            Some(jwt) => Compiler { name, metrics, keeper, issues }
                .jwt(jwt, &path.key("jwt"))
                .map(|jwt| Arc::new(Provider::Jwt(jwt))),
            None => {
                issues.push(Issue::new(path, "does not say how it vouches").hint("give it `jwt`"));
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

    fn refuse(&mut self, path: KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        self.issues.push(Issue::new(path, message.into()).hint(hint.into()));
    }

    /// What is accepted: what is said, else all that goes with the kind of the keys.
    fn algorithms(&mut self, jwt: &config::Jwt, path: &KeyPath) -> Vec<Algorithm> {
        let is_shared = jwt.keys.secret.is_some() || !jwt.keys.secrets.is_empty();
        if jwt.algorithms.is_empty() {
            let bytes = |secret: &crate::config::value::Secret| secret.expose().len();
            let shortest = jwt.keys.secret.iter().chain(&jwt.keys.secrets).map(bytes).min().unwrap_or(0);
            // A short secret is for the shorter hashes only; the shortest is named if it is too short for that.
            let fits = |algorithm: &Algorithm| match algorithm {
                Algorithm::HS384 => shortest >= 48 && jwt.keys.secret_encoding == config::Encoding::Text,
                Algorithm::HS512 => shortest >= 64 && jwt.keys.secret_encoding == config::Encoding::Text,
                _ => true,
            };
            let of_kind = |algorithm: &Algorithm| algorithm.is_symmetric() == is_shared && fits(algorithm);
            return Algorithm::ALL.into_iter().filter(of_kind).collect();
        }
        for (place, algorithm) in jwt.algorithms.iter().enumerate() {
            if algorithm.is_symmetric() != is_shared {
                let (keys, others) =
                    if is_shared { ("secrets", "HS") } else { ("public keys", "RS, PS, ES and EdDSA") };
                self.refuse(
                    path.key("algorithms").index(place),
                    format!("{} does not go with the keys, which are {keys}", algorithm.name()),
                    format!("accept algorithms of {others}; keys of the other kind need a provider of their own"),
                );
            }
        }
        jwt.algorithms.clone()
    }

    fn rules(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Rules {
        if jwt.issuer.is_empty() {
            self.refuse(path.key("issuer"), "is empty", "write what `iss` of the tokens is");
        }
        match (jwt.audiences.is_empty(), jwt.any_audience) {
            (true, false) => self.refuse(
                path.clone(),
                "names no audience, so a token for any other service would do here (RFC 8725 §3.9)",
                "list under `audiences` what `aud` of the tokens is, or write `any_audience: true`",
            ),
            (false, true) => self.refuse(path.key("any_audience"), "contradicts `audiences`", "keep one of the two"),
            _ => {}
        }
        if jwt.leeway.get().as_secs() > LEEWAY_MAX {
            self.refuse(
                path.key("leeway"),
                format!("{} is too much", jwt.leeway),
                "the most is `5m`; set clocks right instead",
            );
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
        if !(256..=TOKEN_MAX).contains(&jwt.token_max.get()) {
            self.refuse(
                path.key("token_max"),
                format!("{} is out of bounds", jwt.token_max),
                "choose from 256B to 64KiB",
            );
        }
        for (key, claim) in [("roles_claim", Some(&jwt.roles_claim)), ("scopes_claim", jwt.scopes_claim.as_ref())] {
            if claim.is_some_and(String::is_empty) {
                self.refuse(
                    path.key(key),
                    "is empty",
                    "write the claim's name, or a JSON Pointer such as `/realm_access/roles`",
                );
            }
        }
        let seconds = |duration: HumanDuration| i64::try_from(duration.get().as_secs()).unwrap_or(i64::MAX);
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
            scopes: match &jwt.scopes_claim {
                Some(claim) => vec![ClaimPath::new(claim)],
                None => vec![ClaimPath::new("scope"), ClaimPath::new("scp")],
            },
        }
    }

    fn keys(&mut self, jwt: &config::Jwt, algorithms: &[Algorithm], path: &KeyPath) -> Option<Keys> {
        let keys = &jwt.keys;
        let secrets: Vec<_> = keys
            .secret
            .iter()
            .map(|secret| (path.key("secret"), secret))
            .chain(keys.secrets.iter().enumerate().map(|(place, secret)| (path.key("secrets").index(place), secret)))
            .collect();
        let given: Vec<&str> =
            [(!secrets.is_empty(), "secret"), (!keys.pem.is_empty(), "pem"), (keys.jwks.is_some(), "jwks")]
                .into_iter()
                .filter_map(|(is_given, key)| is_given.then_some(key))
                .collect();
        if given.len() > 1 {
            self.refuse(
                path.clone(),
                format!("has keys of {} kinds: `{}`", given.len(), given.join("`, `")),
                "keep one; give the others a provider of their own",
            );
            return None;
        }
        if !secrets.is_empty() {
            let made = secrets.iter().map(|(path, secret)| {
                self.fits(path, Key::secret(secret.expose(), keys.secret_encoding, algorithms)).map(|key| vec![key])
            });
            let made: Vec<Option<Vec<Key>>> = made.collect();
            return given_keys(made, secrets.iter().map(|(_, secret)| secret.expose()));
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
        self.refuse(path.clone(), "names no key, so no signature could be checked", "give `secret`, `pem` or `jwks`");
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

/// All that decides whether a token is good but its keys, which have a stamp of their own.
fn rules_of(jwt: &config::Jwt) -> String {
    let rules = config::Jwt { keys: config::Keys::default(), ..jwt.clone() };
    serde_json::to_string(&rules).unwrap_or_default()
}
