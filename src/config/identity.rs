//! `identity`: who may vouch for a caller, and how its word is checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::tls::UpstreamTls;
use super::value::{ByteSize, HumanDuration, KeyHash, Secret};

/// A provider: somebody who may vouch for a caller. Routes name it in their policy `identity`. Just one of the keys.
///
/// ```yaml
/// identity:
///   staff:
///     jwt:
///       issuer: https://id.example.com/
///       audiences: [orders-api]
///       keys: {jwks_url: "https://id.example.com/.well-known/jwks.json"}
///       roles_claim: /realm_access/roles
///   partners:
///     jwt: {issuer: partners, audiences: [orders-api], keys: {secret: "${env:PARTNER_SECRET}"}}
///   devices:
///     introspection:
///       url: https://id.example.com/introspect
///       client_id: orders
///       client_secret: ${file:/etc/armiger/introspection}
///       audiences: [orders-api]
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// It signs tokens (RFC 7519).
    pub jwt: Option<Jwt>,
    /// It is asked about each token that it gave out (RFC 7662).
    pub introspection: Option<Introspection>,
    /// It gave out keys, which are listed here.
    pub api_keys: Option<ApiKeys>,
    /// It stands behind the certificates of clients (mutual TLS, `listeners.tls.client_auth`).
    pub mtls: Option<Mtls>,
}

/// Keys that callers send as they are. Here stand their hashes alone, so that whoever reads the configuration cannot call.
///
/// `armiger token hash --new` makes a key and its hash. Take a key away, or let it expire, and it is good no more.
///
/// ```yaml
/// api_keys:
///   keys:
///     - {hash: "sha256:4f6cb68dc374d4a2fcb569b9e99104cc0e4ed8faf11d109dd400d48e7dc8ef40", subject: billing, roles: [reports], expires: 2027-01-31T00:00:00Z}
///   file: ${file:api-keys.yaml}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeys {
    /// The header that keys stand in. `off`: none.
    pub header: String,
    /// Whether they may also stand where the route looks for tokens: in `Authorization: Bearer`, say.
    pub bearer: bool,
    /// The keys.
    pub keys: Vec<ApiKey>,
    /// More of them: the text of a YAML list such as `keys`. As `${file:api-keys.yaml}` it is watched.
    pub file: Option<Secret>,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self { header: "x-api-key".into(), bearer: false, keys: Vec::new(), file: None }
    }
}

/// A key that callers may send.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Its SHA-256, as `armiger token hash` prints it: `sha256:` and 64 digits. Never the key itself.
    pub hash: KeyHash,
    /// Whose it is.
    pub subject: String,
    /// What the caller may be.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What the caller may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Until when it is good (RFC 3339). Default: for ever.
    #[serde(default)]
    pub expires: Option<String>,
    /// More that is said of the caller, for rules and headers.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
}

/// Certificates of clients, which the listener has verified. A request that carries a token is judged by that, any other
/// by the certificate of its connection. What the certificate says are claims: `sub`, `uris`, `hosts`, `fingerprint`.
///
/// ```yaml
/// identity:
///   mesh:
///     mtls:
///       names: [spiffe://example.org/ns/shop/*]
///       roles: {spiffe://example.org/ns/shop/cart: [orders.read]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mtls {
    /// Names of which the certificate must hold one: URIs, such as SPIFFE names, or hosts; `*` at the end stands for any
    /// rest. The first that it holds is who calls (`sub`). Default: any.
    pub names: Vec<String>,
    /// Roles of callers, by their name.
    pub roles: BTreeMap<String, Vec<String>>,
}

/// Signed tokens. One is accepted if its signature is by a key of `keys` and all that is said here holds of it.
///
/// What a token says of its own keys (`jku`, `x5u`, `jwk`, `x5c`) is never read, and `alg` only chooses among what its
/// key may do. A token with `crit`, with a member twice, or in another than the one spelling of base64url is refused.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// What `iss` must be, byte for byte: a slash at the end counts. Tokens are sorted among providers by it.
    pub issuer: String,
    /// More values that `iss` may have.
    #[serde(default)]
    pub more_issuers: Vec<String>,
    /// Of `aud`, one must be among these (RFC 8725 §3.9): a token for another service is none for this one.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Accept tokens for any audience, and those that name none. Only where the issuer serves nobody but this service.
    #[serde(default)]
    pub any_audience: bool,
    /// Algorithms that are accepted. Default: of keys that are secrets `HS256`, `HS384` and `HS512`; of public keys all
    /// others. A key never does another's work: an RSA key checks no `HS256`, and an EC key only what fits its curve.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// The keys by which signatures are checked.
    pub keys: Keys,
    /// What `typ` may be, whatever its case. `application/` before it counts for nothing, and a token without it is a `JWT`.
    /// Default: `JWT` and `at+jwt` (RFC 9068), so that a logout token is none to call with. Where the issuer marks its access
    /// tokens, write `[at+jwt]`: then its ID tokens, which often say nothing, are refused too (RFC 8725 §3.11).
    #[serde(default = "types")]
    pub types: Vec<String>,
    /// How far clocks may differ. At most `5m`.
    #[serde(default = "leeway")]
    pub leeway: HumanDuration,
    /// Accept tokens without `exp`, which never end.
    #[serde(default)]
    pub without_expiry: bool,
    /// The longest that a token may be valid, from `iat` to `exp`. Default: any.
    #[serde(default)]
    pub max_lifetime: Option<HumanDuration>,
    /// How old a token may be since `iat`, whatever its `exp`. Default: any.
    #[serde(default)]
    pub max_age: Option<HumanDuration>,
    /// Claims that must be there, by name or JSON Pointer.
    #[serde(default)]
    pub required_claims: Vec<String>,
    /// Where the roles stand: a plain name, which may be a URL, or a JSON Pointer (RFC 6901) such as
    /// `/realm_access/roles`. A list of texts, or one text with spaces between them. A token in which it is anything else
    /// is refused.
    #[serde(default = "roles_claim")]
    pub roles_claim: String,
    /// Where the scopes stand, likewise; of several claims, `[scope, scp]`, the first that is there. Default: those two, `scope`
    /// (RFC 8693 §4.2), or `scp` where that is absent.
    #[serde(default)]
    pub scopes_claim: Claims,
    /// The longest token that is looked at.
    #[serde(default = "token_max")]
    pub token_max: ByteSize,
    /// What tokens that were found good may take in memory, so that the next request with one costs no signature check.
    /// `0B`: nothing is kept.
    #[serde(default = "cache_max")]
    pub cache_max: ByteSize,
}

impl Jwt {
    /// What is accepted where nothing is said of it: all that goes with the kind of the keys, and their length.
    pub fn algorithms_of_keys(&self) -> Vec<Algorithm> {
        let Keys { secret, secrets, secret_encoding, .. } = &self.keys;
        let is_shared = secret.is_some() || !secrets.is_empty();
        let shortest = secret.iter().chain(secrets).map(|secret| secret.expose().len()).min().unwrap_or(0);
        // A short secret is for the shorter hashes only; the shortest is named if it is too short for that.
        let fits = |algorithm: &Algorithm| match algorithm {
            Algorithm::HS384 => shortest >= 48 && *secret_encoding == Encoding::Text,
            Algorithm::HS512 => shortest >= 64 && *secret_encoding == Encoding::Text,
            _ => true,
        };
        let of_kind = |algorithm: &Algorithm| algorithm.is_symmetric() == is_shared && fits(algorithm);
        Algorithm::ALL.into_iter().filter(of_kind).collect()
    }
}

/// Claims of which the first that is there counts: one by its name, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims(pub Vec<String>);

impl Default for Claims {
    /// Where scopes stand.
    fn default() -> Self {
        Self(vec!["scope".into(), "scp".into()])
    }
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim's name, or a list of them")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Claims, E> {
                Ok(Claims(vec![name.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Claims, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = items.next_element()? {
                    names.push(name);
                }
                Ok(Claims(names))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Claims {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Claims".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}

fn types() -> Vec<String> {
    vec!["JWT".into(), "at+jwt".into()]
}

fn leeway() -> HumanDuration {
    HumanDuration::seconds(30)
}

fn roles_claim() -> String {
    "roles".into()
}

fn token_max() -> ByteSize {
    ByteSize::kib(8)
}

fn cache_max() -> ByteSize {
    ByteSize::mib(4)
}

/// A JWS algorithm (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
    ];

    /// Its name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The one of this name. Case counts (RFC 7515 §4.1.1).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether both sides hold the same key.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Where keys come from. Just one kind: secrets and public keys never stand side by side.
///
/// Keys in files are read with `${file:…}`, as any other value: the files are watched, and a new key is in force with
/// the reload that its change brings.
///
/// Keys at a URL are fetched in the background, before anybody needs them: at the start, then again and again. A key that
/// the issuer takes out of its set is good for nothing from the next time on. An answer that is no good (an error, a page
/// of HTML, an empty set) takes nothing out: known keys go on to serve, up to `max_stale`, while armiger tries again, from
/// a second to five minutes apart. A token that names an unknown key has them fetched at once, though no more than once
/// in ten seconds. While no key is known, the answer is a 503 (`identity-unavailable`) and not a 401.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// A secret that the issuer has too, for `HS256` and its kin. At least as long as the hash: 32, 48 or 64 bytes.
    pub secret: Option<Secret>,
    /// Several, so that a new one can be known before the issuer uses it.
    pub secrets: Vec<Secret>,
    /// How secrets are written.
    pub secret_encoding: Encoding,
    /// Public keys in PEM form (`-----BEGIN PUBLIC KEY-----`), one or more in each text: `${file:staff.pem}`.
    pub pem: Vec<String>,
    /// A JWK set (RFC 7517 §5) as JSON text: `${file:jwks.json}`.
    pub jwks: Option<String>,
    /// Where the issuer publishes its JWK set: `https://id.example.com/.well-known/jwks.json`. Redirects are not followed.
    pub jwks_url: Option<String>,
    /// Ask the issuer where its JWK set is: `issuer` must be a URL, at which `/.well-known/openid-configuration` tells
    /// (OpenID Connect Discovery §4). That document must name the same `issuer`, byte for byte.
    pub discover: bool,
    /// How old keys from a URL grow before they are fetched again. The issuer's `Cache-Control: max-age` may make it
    /// sooner, though no sooner than after 21 s. From `1s` to `24h`.
    ///
    /// The trap: for so long a key that the issuer has revoked is still good here. `POST /jwks/refresh` at the admin
    /// listener fetches at once.
    pub refresh: HumanDuration,
    /// How long a fetch may take.
    pub timeout: HumanDuration,
    /// How long a request whose key is unknown waits for a fetch. At most `10s`.
    pub wait: HumanDuration,
    /// How long `/readyz` waits for the first keys when armiger starts.
    pub start_wait: HumanDuration,
    /// Whether `/readyz` waits for the first keys at all.
    pub required_at_start: bool,
    /// How long known keys serve while none can be fetched. After that the answer is a 503.
    pub max_stale: HumanDuration,
    /// Bytes of a JWK set, at most; more is an outage. A set may have 100 keys.
    pub bytes_max: ByteSize,
    /// Fetch by `http://` too, from any address: whoever is on the way may then say who calls. Without it `http://` is for
    /// loopback addresses only, such as `http://127.0.0.1:8200`.
    pub insecure: bool,
    /// TLS, for an issuer whose certificate is no public one.
    pub tls: Option<UpstreamTls>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            secret: None,
            secrets: Vec::new(),
            secret_encoding: Encoding::default(),
            pem: Vec::new(),
            jwks: None,
            jwks_url: None,
            discover: false,
            refresh: HumanDuration::seconds(600),
            timeout: HumanDuration::seconds(10),
            wait: HumanDuration::seconds(1),
            start_wait: HumanDuration::seconds(30),
            required_at_start: true,
            max_stale: HumanDuration::seconds(24 * 3600),
            bytes_max: ByteSize::mib(1),
            insecure: false,
            tls: None,
        }
    }
}

/// Tokens that only who gave them out can read. For each it is asked: is this one good, and whose is it (RFC 7662)?
///
/// It is asked once for a token, however many requests come with it at once, and its word holds for a while. While it
/// cannot be asked the answer is a 503 (`identity-unavailable`). On a route that names providers of both kinds, tokens
/// that are signed by an issuer which a `jwt` provider knows are that provider's, and all others are sent here.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// Whom to ask: `https://id.example.com/introspect`. Redirects are not followed.
    pub url: String,
    /// As whom armiger asks (HTTP Basic, RFC 6749 §2.3.1).
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// What `iss` of the answer must be, byte for byte. Default: it is not looked at.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Of `aud` in the answer, one must be among these: a token for another service is none for this one.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Accept tokens for any audience. Many issuers answer without `aud`; armiger's `client_id` is then all that they may
    /// judge by.
    #[serde(default)]
    pub any_audience: bool,
    /// How far clocks may differ. At most `5m`.
    #[serde(default = "leeway")]
    pub leeway: HumanDuration,
    /// Members of the answer that must be there, by name or JSON Pointer.
    #[serde(default)]
    pub required_claims: Vec<String>,
    /// Where the roles stand, as in `jwt`.
    #[serde(default = "roles_claim")]
    pub roles_claim: String,
    /// Where the scopes stand. Default: `scope`.
    #[serde(default)]
    pub scopes_claim: Option<String>,
    /// How long the word that a token is good holds, unless the token ends before. `0s`: each request asks.
    ///
    /// The trap: for so long a token that was revoked is still good here.
    #[serde(default = "cache_for")]
    pub cache_for: HumanDuration,
    /// How long the word that a token is not good holds.
    #[serde(default = "cache_refused_for")]
    pub cache_refused_for: HumanDuration,
    /// How long an answer may take.
    #[serde(default = "introspection_timeout")]
    pub timeout: HumanDuration,
    /// Questions in flight at once.
    #[serde(default = "in_flight_max")]
    pub in_flight_max: u16,
    /// Questions that may wait for that; more is a 503.
    #[serde(default = "queue_max")]
    pub queue_max: u16,
    /// Bytes of an answer, at most; more is an outage.
    #[serde(default = "answer_max")]
    pub answer_max: ByteSize,
    /// The longest token that is looked at.
    #[serde(default = "token_max")]
    pub token_max: ByteSize,
    /// What the words about tokens may take in memory.
    #[serde(default = "cache_max")]
    pub cache_max: ByteSize,
    /// Ask by `http://` too, at any address: whoever is on the way then reads tokens, and may say who calls. Without it
    /// `http://` is for loopback addresses only.
    #[serde(default)]
    pub insecure: bool,
    /// TLS, for an issuer whose certificate is no public one.
    #[serde(default)]
    pub tls: Option<UpstreamTls>,
}

impl Introspection {
    /// Where the scopes stand.
    pub fn scopes_claim(&self) -> &str {
        self.scopes_claim.as_deref().unwrap_or("scope")
    }
}

fn cache_for() -> HumanDuration {
    HumanDuration::seconds(60)
}

fn cache_refused_for() -> HumanDuration {
    HumanDuration::seconds(10)
}

fn introspection_timeout() -> HumanDuration {
    HumanDuration::seconds(5)
}

fn in_flight_max() -> u16 {
    32
}

fn queue_max() -> u16 {
    256
}

fn answer_max() -> ByteSize {
    ByteSize::kib(64)
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Its characters are its bytes.
    #[default]
    Text,
    /// Base64, in the usual or the URL alphabet, padded or not.
    Base64,
}
