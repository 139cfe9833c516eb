//! `armiger token`: makes tokens for tests and tours, tells what is wrong with one, and hashes API keys.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::voice::{BadConfig, Voice};
use super::{ConfigArg, print};
use crate::app::{self, Source};
use crate::config::identity::{Algorithm, Jwt};
use crate::config::value::HumanDuration;
use crate::config::{Issues, KeyPath};
use crate::demo;
use crate::exchange::Identity;
use crate::exchange::identity::ClaimPath;
use crate::identity::mint::{self, Signer};
use crate::identity::provider::{self, Now};
use crate::identity::{self};
use crate::keep::Keeper;
use crate::machine::Machine;
use crate::snapshot::Document;
use crate::telemetry::metrics::Metrics;

/// The exit code of `inspect` for a token that is not accepted.
const REFUSED: u8 = 3;

/// The longest input that is read.
const INPUT_MAX: u64 = 1 << 20;

/// Standard output has the token, the word on one, or the hash.
#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token that a provider of the configuration accepts, for tests and tours.
    ///
    /// Only where the provider's key is a secret, or `--key` gives the private key to its public ones.
    Mint(Mint),
    /// Tell what a token says, and whether the configuration's providers accept it. Exits with 0 if one does, with 3 if
    /// none does. Touches no network: where a provider's keys are fetched, all but the signature is checked, `accepted` is
    /// `null`, and the exit code 3.
    Inspect(Inspect),
    /// Print the hash of an API key for the configuration, of the key on standard input or of a new one.
    Hash {
        /// Make a new key. It is shown once, beside its hash.
        #[arg(long, env = "ARMIGER_TOKEN_NEW")]
        new: bool,
    },
}

#[derive(Args)]
struct Of {
    #[command(flatten)]
    config: ConfigArg,
    /// The configuration that `armiger demo` runs, in place of a file.
    #[arg(long, env = "ARMIGER_TOKEN_DEMO")]
    demo: bool,
}

#[derive(Args)]
pub(super) struct Mint {
    #[command(flatten)]
    of: Of,
    /// The provider. Default: the only one that signs tokens.
    #[arg(long, env = "ARMIGER_TOKEN_PROVIDER", value_name = "NAME")]
    provider: Option<String>,
    /// Whom the token is about.
    #[arg(long, env = "ARMIGER_TOKEN_SUB", value_name = "SUBJECT")]
    sub: Option<String>,
    /// A role. It stands where the provider's `roles_claim` says.
    #[arg(long = "role", env = "ARMIGER_TOKEN_ROLES", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// A scope, likewise.
    #[arg(long = "scope", env = "ARMIGER_TOKEN_SCOPES", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Another claim, `plan=paid` or `/org/id=7`. What is JSON is taken as JSON, anything else as text; `null` leaves a
    /// claim out that would be there.
    #[arg(long = "claim", env = "ARMIGER_TOKEN_CLAIM", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// For how long it is valid.
    #[arg(long, env = "ARMIGER_TOKEN_TTL", default_value = "10m", value_name = "TIME")]
    ttl: String,
    /// A private key in PEM form (PKCS #8): for a provider with public keys, or to see a forgery refused.
    #[arg(long, env = "ARMIGER_TOKEN_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The name of that key.
    #[arg(long, env = "ARMIGER_TOKEN_KID", value_name = "NAME")]
    kid: Option<String>,
}

#[derive(Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    of: Of,
    /// The token. Default: what stands on standard input, which no list of processes shows.
    #[arg(env = "ARMIGER_TOKEN")]
    token: Option<String>,
}

pub(super) fn run(command: TokenCommand, voice: Voice) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Mint(mint) => mint.run(voice),
        TokenCommand::Inspect(inspect) => inspect.run(),
        TokenCommand::Hash { new } => hash(new),
    }
}

impl Of {
    /// The document, if it is good.
    fn document(&self) -> anyhow::Result<Document> {
        let source = match self.demo {
            true => demo::source(),
            false => Source::File(self.config.config.clone()),
        };
        match app::check(&source, &Machine::detect(), 1, &Metrics::new(), Keeper::fresh()) {
            Ok(checked) => Ok(checked.snapshot.document.clone()),
            Err(report) => Err(BadConfig { message: "the configuration is no good".into(), report }.into()),
        }
    }
}

impl Mint {
    fn run(self, voice: Voice) -> anyhow::Result<ExitCode> {
        let document = self.of.document()?;
        let (name, jwt) = self.provider(&document)?;
        let signer = self.signer(name, jwt)?;
        let now = i64::try_from(since_epoch()).unwrap_or(i64::MAX);
        let ttl = HumanDuration::parse(&self.ttl).map_err(|error| anyhow::anyhow!("--ttl: {error}"))?;
        let claims = self.claims(jwt, now, i64::try_from(ttl.get().as_secs()).unwrap_or(i64::MAX))?;
        let token = signer.token(self.kid.as_deref(), &claims).context("the key does not sign")?;
        match judge(&document, &token) {
            Verdict::Accepted(_) => {}
            Verdict::Unsigned(provider, Ok(_)) => {
                voice.tell(format_args!(
                    "whether `{provider}` accepts its signature is not known: its keys are fetched"
                ));
            }
            Verdict::Unasked(names) => {
                voice.tell(format_args!("whether it is accepted is not known: {names} would be asked about it"));
            }
            Verdict::Unsigned(_, Err(cause)) | Verdict::Refused(cause) => {
                voice.tell(format_args!("the configuration does not accept it: {cause}"));
            }
        }
        print(&format!("{token}\n"))
    }

    fn provider<'d>(&self, document: &'d Document) -> anyhow::Result<(&'d str, &'d Jwt)> {
        let mut signers =
            document.identity.iter().filter_map(|(name, provider)| Some((name.as_str(), provider.jwt.as_ref()?)));
        let known: Vec<&str> = signers.clone().map(|(name, _)| name).collect();
        match &self.provider {
            Some(wanted) => signers
                .find(|(name, _)| name == wanted)
                .with_context(|| format!("no provider `{wanted}` signs tokens; there are: {}", known.join(", "))),
            None if known.len() == 1 => signers.next().context("there is one"),
            None if known.is_empty() => bail!("the configuration has no provider that signs tokens"),
            None => bail!("several providers sign tokens: name one of {} with --provider", known.join(", ")),
        }
    }

    fn signer(&self, name: &str, jwt: &Jwt) -> anyhow::Result<Signer> {
        let all = Algorithm::ALL.to_vec();
        let accepted = if jwt.algorithms.is_empty() { &all } else { &jwt.algorithms };
        if let Some(path) = &self.key {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let signer = Signer::pem(&text, accepted).or_else(|| Signer::pem(&text, &all));
            return signer.with_context(|| {
                format!(
                    "{} holds no private key that can sign tokens; `openssl pkcs8 -topk8 -nodes` brings it into the form that is \
                     read",
                    path.display()
                )
            });
        }
        let secret = jwt.keys.secret.as_ref().or(jwt.keys.secrets.first());
        let secret = secret.with_context(|| {
            format!("`{name}` has public keys, which sign nothing: give the private one with --key FILE")
        })?;
        Signer::secret(secret.expose(), jwt.keys.secret_encoding, accepted).context("the secret signs nothing")
    }

    fn claims(&self, jwt: &Jwt, now: i64, ttl: i64) -> anyhow::Result<Map<String, Value>> {
        let mut claims = Map::new();
        claims.insert("iss".into(), jwt.issuer.as_str().into());
        if let Some(audience) = jwt.audiences.first() {
            claims.insert("aud".into(), audience.as_str().into());
        }
        if let Some(subject) = &self.sub {
            claims.insert("sub".into(), subject.as_str().into());
        }
        claims.insert("iat".into(), now.into());
        claims.insert("exp".into(), now.saturating_add(ttl).into());
        if !self.roles.is_empty() {
            ClaimPath::new(&jwt.roles_claim).put(&mut claims, self.roles.clone().into());
        }
        if !self.scopes.is_empty() {
            let place = jwt.scopes_claim.0.first().context("`scopes_claim` of the provider names no claim")?;
            ClaimPath::new(place).put(&mut claims, self.scopes.join(" ").into());
        }
        for claim in &self.claims {
            let (name, text) = claim.split_once('=').with_context(|| format!("--claim {claim}: write NAME=VALUE"))?;
            match serde_json::from_str(text) {
                Ok(Value::Null) => drop(claims.remove(name)),
                Ok(value) => ClaimPath::new(name).put(&mut claims, value),
                Err(_) => ClaimPath::new(name).put(&mut claims, text.into()),
            }
        }
        Ok(claims)
    }
}

impl Inspect {
    fn run(self) -> anyhow::Result<ExitCode> {
        let document = self.of.document()?;
        let given = match self.token {
            Some(token) => token,
            None => read_input()?,
        };
        let text = given.trim();
        // As it is copied out of a header.
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => text,
        };
        let (header, claims) = mint::peek(token);
        let verdict = judge(&document, token);
        let said = |accepted: Option<bool>, identity: &Identity| {
            json!({
                "accepted": accepted,
                "provider": &*identity.provider,
                "subject": &*identity.subject,
                "roles": identity.roles,
                "scopes": identity.scopes,
                "expires": identity.expires.and_then(date),
            })
        };
        let mut verdict_json = match &verdict {
            Verdict::Accepted(identity) => said(Some(true), identity),
            Verdict::Unsigned(_, Ok(identity)) => said(None, identity),
            Verdict::Unsigned(_, Err(cause)) | Verdict::Refused(cause) => json!({"accepted": false, "cause": cause}),
            Verdict::Unasked(names) => json!({
                "accepted": null,
                "introspection": format!("not asked: {names} would be asked about it, and this command touches no network"),
            }),
        };
        if let Verdict::Unsigned(provider, word) = &verdict {
            let rest = if word.is_ok() { "; all else is good" } else { "" };
            verdict_json["signature"] =
                format!("not checked: `{provider}` fetches its keys, and this command touches no network{rest}").into();
        }
        let told = json!({"verdict": verdict_json, "header": header, "claims": claims});
        print(&format!("{told:#}\n"))?;
        Ok(if matches!(verdict, Verdict::Accepted(_)) { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
    }
}

/// What is made of a token.
enum Verdict {
    Accepted(Arc<Identity>),
    /// This provider decides, and its keys are not here: its word on all but the signature.
    Unsigned(Arc<str>, Result<Box<Identity>, String>),
    /// Only these providers can say, whose issuers are asked about each token.
    Unasked(String),
    Refused(String),
}

/// What the document's providers make of a token.
fn judge(document: &Document, token: &str) -> Verdict {
    let (metrics, mut keeper, mut issues) = (Metrics::new(), Keeper::fresh(), Issues::new());
    let providers =
        identity::compile(&document.identity, &KeyPath::root(), &metrics, &mut keeper, &mut issues, &|_| false);
    let providers: Vec<_> = providers.into_values().flatten().collect();
    let now = Now { wall: i64::try_from(since_epoch()).unwrap_or(i64::MAX), instant: Instant::now() };
    if let Some((name, word)) = provider::unsigned(&providers, token, now) {
        return Verdict::Unsigned(name, word.map(Box::new).map_err(|refusal| refusal.cause.to_owned()));
    }
    let asked = provider::asked(&providers, token, now);
    if !asked.is_empty() {
        let names: Vec<String> = asked.iter().map(|name| format!("`{name}`")).collect();
        return Verdict::Unasked(names.join(", then "));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    match runtime.block_on(provider::bearer(&providers, token, now)) {
        Ok(identity) => Verdict::Accepted(identity),
        Err(refusal) => Verdict::Refused(refusal.cause.to_owned()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the command line is where time comes in")]
fn since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn date(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn read_input() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(INPUT_MAX).read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

fn hash(new: bool) -> anyhow::Result<ExitCode> {
    use crate::identity::api_key;
    if new {
        let key = api_key::generate().context("the system gives no random bytes")?;
        return print(&format!("{:#}\n", json!({"key": key, "hash": api_key::hash(&key)})));
    }
    let text = read_input()?;
    let key = text.trim();
    if key.len() < api_key::LEAST {
        bail!(
            "a key of {} characters is too short: whoever reads the hash could guess it. The least is {}; `--new` makes a good \
             one",
            key.len(),
            api_key::LEAST
        );
    }
    print(&format!("{}\n", api_key::hash(key)))
}
