//! `identity`: who may vouch for a caller, and how its word is checked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{ByteSize, HumanDuration, Secret};

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
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// It signs tokens (RFC 7519).
    pub jwt: Option<Jwt>,
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
    /// What `typ` may be, whatever its case, where the token has it. `application/` before it counts for nothing.
    /// Default: `JWT` and `at+jwt` (RFC 9068), so that a logout token or an ID token of that kind is none to call with.
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
    /// Where the scopes stand, likewise. Default: `scope` (RFC 8693 §4.2), or `scp` where that is absent.
    #[serde(default)]
    pub scopes_claim: Option<String>,
    /// The longest token that is looked at.
    #[serde(default = "token_max")]
    pub token_max: ByteSize,
    /// What tokens that were found good may take in memory, so that the next request with one costs no signature check.
    /// `0B`: nothing is kept.
    #[serde(default = "cache_max")]
    pub cache_max: ByteSize,
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

/// Where keys come from. At most one kind: secrets and public keys never stand side by side.
///
/// Keys are read from files with `${file:…}`, as any other value: the files are watched, and a new key is in force with
/// the reload that its change brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
