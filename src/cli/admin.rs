//! Commands that ask a running armiger through its admin listener: `breaker`, `drain`, `keys`, `purge`, `reload`, `status`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::voice::{BadConfig, Voice};
use super::{CONFIG, print};
use crate::config::KeyPath;
use crate::config::address::ListenAddress;
use crate::config::load::{Partial, load_partial};
use crate::config::operate::Admin;
use crate::config::value::HumanDuration;
use crate::identity::introspection::form_encoded;
use crate::policy::Blocks;
use crate::server::admin::{SERVER_ADMIN, SERVER_PROBES};

/// The most bytes of an answer.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// How long one question about the drain is held back by the other side.
const DRAIN_POLL: &str = "/drain?wait=10s";

/// The pause between two such questions.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// What a command does to the armiger that it asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Whoever else is asked by mistake tells of itself, and that is all.
    Reads,
    /// It must not be done to another armiger.
    Changes,
}

/// Where the admin listener is, and what it asks for.
#[derive(Args)]
pub(super) struct AdminArgs {
    /// Where the admin listener is: `IP:port` or `unix:PATH`. Default: as the configuration says.
    #[arg(long, env = "ARMIGER_ADMIN", value_name = "ADDRESS", value_parser = address)]
    admin: Option<ListenAddress>,
    /// The file with the token that the admin listener asks for.
    #[arg(long, env = "ARMIGER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The configuration that armiger runs on: only its `admin` is read, and only where no address is given. Default:
    /// config.yaml, as with `run`; where that is not, the admin listener is sought at 127.0.0.1:9901. Where mistakes hide the
    /// address, what changes nothing asks there too, with a warning, and everything else asks nobody. One that is named here
    /// must be there and tell.
    #[arg(long, short, env = "ARMIGER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long all of this may take.
    #[arg(long, env = "ARMIGER_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: HumanDuration,
}

/// What is done with keys that issuers publish.
#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Fetch the keys that issuers publish now, and print what came of it.
    Refresh {
        /// Those of this provider. Default: those of all.
        #[arg(long, env = "ARMIGER_PROVIDER", value_name = "NAME")]
        provider: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What is done with breakers. Each is an upstream's, an endpoint's or a route's, as `breaker.scope` says.
#[derive(Subcommand)]
pub(super) enum BreakerCommand {
    /// Print every breaker and what it has seen, as JSON.
    Show {
        /// Those of this upstream. Default: those of all.
        #[arg(env = "ARMIGER_UPSTREAM", value_name = "UPSTREAM")]
        upstream: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Hold breakers open: nothing reaches the upstream, and callers get a 503.
    Open(Hold),
    /// Hold breakers closed: everything reaches the upstream, whatever fails.
    Close(Hold),
    /// Let breakers begin afresh: closed, with nothing seen, and held no more.
    Reset {
        #[command(flatten)]
        which: Breakers,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Which breakers are held, and until when.
#[derive(Args)]
pub(super) struct Hold {
    #[command(flatten)]
    which: Breakers,
    /// For how long. At most 24h; it ends by itself.
    #[arg(long = "for", env = "ARMIGER_FOR", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    lasts: HumanDuration,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Which breakers of an upstream. Default: all of them.
#[derive(Args)]
pub(super) struct Breakers {
    /// The upstream.
    #[arg(env = "ARMIGER_UPSTREAM", value_name = "UPSTREAM", value_parser = NonEmptyStringValueParser::new())]
    upstream: String,
    /// That of this endpoint only, named as `breaker show` names it.
    #[arg(long, env = "ARMIGER_ENDPOINT", value_name = "ADDRESS", conflicts_with = "route")]
    endpoint: Option<String>,
    /// That of what this route sends there only, under `breaker.scope: route`.
    #[arg(long, env = "ARMIGER_ROUTE", value_name = "NAME")]
    route: Option<String>,
}

/// What `purge` does.
#[derive(Args)]
pub(super) struct Purge {
    #[command(flatten)]
    targets: Targets,
    /// Let it become stale, to be used where a stale answer may be, and not be gone.
    #[arg(long, env = "ARMIGER_PURGE_SOFT")]
    soft: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What is to be purged, each as often as needed.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Targets {
    /// All that is stored of this URL, with its host: `http://shop.example/shoes/1`. For every caller, variant, scheme and
    /// port.
    #[arg(long, env = "ARMIGER_PURGE_URL", value_name = "URL")]
    url: Vec<String>,
    /// All whose path begins so: `/shoes/` of any host, or `http://shop.example/shoes/` of one.
    #[arg(long, env = "ARMIGER_PURGE_PREFIX", value_name = "PREFIX")]
    prefix: Vec<String>,
    /// All that has this word in `Surrogate-Key` or `Cache-Tag`. One word: no blanks, no commas.
    #[arg(long, env = "ARMIGER_PURGE_TAG", value_name = "TAG", value_parser = tag)]
    tag: Vec<String>,
    /// All that is stored.
    #[arg(long, env = "ARMIGER_PURGE_ALL", conflicts_with_all = ["url", "prefix", "tag"])]
    all: bool,
}

fn address(text: &str) -> Result<ListenAddress, String> {
    ListenAddress::parse(text).map_err(|_| "write `IP:port`, or `unix:` and the absolute path of a socket".into())
}

fn tag(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && !text.contains(|c: char| c == ',' || c.is_whitespace());
    is_word.then(|| text.to_owned()).ok_or_else(|| {
        "write one word of `Surrogate-Key` or `Cache-Tag`, without blanks and commas; several tags one by one".into()
    })
}

fn duration(text: &str) -> Result<HumanDuration, String> {
    match HumanDuration::parse(text) {
        Ok(duration) if duration.get().is_zero() => Err("this is no time at all; the least is `1ms`".into()),
        parsed => parsed.map_err(|error| error.replace("\nhelp: ", "; ")),
    }
}

impl AdminArgs {
    fn client(&self, voice: Voice, effect: Effect) -> anyhow::Result<Client> {
        let configured = match (&self.admin, &self.config) {
            (None, Some(path)) => Some(Configured::read(path)),
            (None, None) if Path::new(CONFIG).exists() => Some(Configured::read(Path::new(CONFIG))),
            _ => None,
        };
        let given = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                let token = text.trim_end_matches(['\n', '\r']);
                if token.is_empty() {
                    bail!("{} is empty: it should hold the token that `admin.token` asks for", path.display());
                }
                Some(token.to_owned())
            }
            None => None,
        };
        let at_hand = Admin::default().address;
        let (address, token) = match (&self.admin, configured) {
            (Some(address), _) => (address.clone(), given),
            (None, None) => (at_hand, given),
            (None, Some(Configured { address: None, from, .. })) => {
                if self.config.is_some() || effect == Effect::Changes {
                    return Err(cannot_tell(
                        *from,
                        "where the admin listener is: name it with --admin, and its token with --token-file",
                    ));
                }
                voice.warn(format_args!(
                    "{CONFIG} has mistakes that hide where the admin listener is, so {at_hand} is asked; name another with --admin"
                ));
                // What token there is was not meant for whoever listens there.
                (at_hand, given)
            }
            (None, Some(Configured { address: Some(address), token, from })) => match (given, token) {
                (Some(given), _) => (address, Some(given)),
                (None, Some(token)) => (address, token),
                (None, None) if self.config.is_some() => {
                    return Err(cannot_tell(*from, "what `admin.token` is: name its file with --token-file"));
                }
                (None, None) => {
                    voice.warn(format_args!(
                        "{CONFIG} has mistakes that hide what `admin.token` is, so {address} is asked without; name its file with --token-file"
                    ));
                    (address, None)
                }
            },
        };
        Ok(Client { address: reachable(address)?, token })
    }

    /// Asks within the time that there is. What is still missing then, `asked` tells.
    fn run<T>(
        &self,
        voice: Voice,
        effect: Effect,
        ask: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
        missing: impl Fn() -> String,
    ) -> anyhow::Result<T> {
        let client = self.client(voice, effect)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = runtime.block_on(async { tokio::time::timeout(self.timeout.get(), ask(&client)).await });
        asked.unwrap_or_else(|_| bail!("{} after {}", missing(), self.timeout))
    }
}

/// The admin part of a configuration, as far as it can be told. Mistakes elsewhere do not matter here.
struct Configured {
    /// `None`: mistakes hide it.
    address: Option<ListenAddress>,
    /// `None`: mistakes hide what it is, or whether there is one.
    token: Option<Option<String>>,
    /// What was read.
    from: Box<Partial<Blocks>>,
}

impl Configured {
    fn read(path: &Path) -> Self {
        let from = load_partial::<Blocks>(path);
        let of = KeyPath::root().key("admin");
        let found = |key: &str| from.document.as_ref().filter(|_| !from.source.is_lost(&of.key(key)));
        let address = found("address").map(|document| document.admin.address.clone());
        let token = found("token").map(|document| Some(document.admin.token.as_ref()?.expose().to_owned()));
        Self { address, token, from: Box::new(from) }
    }
}

/// Why a configuration does not do, with all that is wrong with it.
fn cannot_tell(from: Partial<Blocks>, what: &str) -> anyhow::Error {
    let message = format!("cannot tell from {} {what}", from.source.name());
    BadConfig { message, report: Box::new(from.source.report(from.issues)) }.into()
}

/// An address to connect to: who listens on every address listens on loopback.
fn reachable(address: ListenAddress) -> anyhow::Result<ListenAddress> {
    let ListenAddress::Tcp(address) = address else { return Ok(address) };
    if address.port() == 0 {
        bail!("port 0 is a free port, and only armiger's log tells which: name it with --admin");
    }
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, address.port()).into())
}

/// `armiger drain`.
pub(super) fn drain(args: &AdminArgs, wait: bool, voice: Voice) -> anyhow::Result<ExitCode> {
    // What the other side said last, for the message that it took too long.
    let last = std::cell::RefCell::new(Value::Null);
    let missing = || match &*last.borrow() {
        Value::Null => "no answer".to_owned(),
        last => format!("still not drained ({last})"),
    };
    let ask = async |client: &Client| {
        let mut told = client.ask(Method::POST, "/drain").await?.json()?;
        while wait && told["drained"] != true {
            *last.borrow_mut() = told;
            match client.ask(Method::GET, DRAIN_POLL).await {
                Ok(answer) => told = answer.json()?,
                Err(Failure::Gone(_)) => return Ok(None),
                // It may have ended in the middle of its answer: then nobody is there to connect to.
                Err(Failure::Broken(_)) => told = last.borrow().clone(),
                Err(refused) => return Err(refused.into()),
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        Ok(Some(told))
    };
    match args.run(voice, Effect::Changes, ask, missing)? {
        Some(told) => print(&format!("{told}\n")),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// `armiger reload`.
pub(super) fn reload(args: &AdminArgs, voice: Voice) -> anyhow::Result<ExitCode> {
    post(args, voice, "/reload", &[StatusCode::UNPROCESSABLE_ENTITY, StatusCode::CONFLICT])
}

/// Posts to a page and prints its answer in words, also where that is a failure that has one, by these statuses.
fn post(args: &AdminArgs, voice: Voice, path: &str, failures: &[StatusCode]) -> anyhow::Result<ExitCode> {
    let ask = async |client: &Client| Ok(client.exchange(Method::POST, path, "text/plain", Bytes::new()).await?);
    let Answer { status, body } = args.run(voice, Effect::Changes, ask, no_answer)?;
    let told = String::from_utf8_lossy(&body);
    match status {
        StatusCode::OK => print(&told),
        status if failures.contains(&status) => print(&told).map(|_| ExitCode::FAILURE),
        _ => Err(refused(status, &body).into()),
    }
}

/// `armiger keys`.
pub(super) fn keys(command: &KeysCommand, voice: Voice) -> anyhow::Result<ExitCode> {
    let KeysCommand::Refresh { provider, admin } = command;
    let path = match provider {
        Some(name) => format!("/jwks/refresh?provider={}", form_encoded(name)),
        None => "/jwks/refresh".to_owned(),
    };
    post(admin, voice, &path, &[StatusCode::BAD_GATEWAY])
}

/// `armiger breaker`.
pub(super) fn breaker(command: &BreakerCommand, voice: Voice) -> anyhow::Result<ExitCode> {
    let (which, admin, set, lasts) = match command {
        BreakerCommand::Show { upstream, admin } => return show_breakers(upstream.as_deref(), admin, voice),
        BreakerCommand::Open(Hold { which, lasts, admin }) => (which, admin, "force-open", Some(lasts)),
        BreakerCommand::Close(Hold { which, lasts, admin }) => (which, admin, "force-closed", Some(lasts)),
        BreakerCommand::Reset { which, admin } => (which, admin, "reset", None),
    };
    let mut path = format!("/breakers/{}?set={set}", form_encoded(&which.upstream));
    let lasts = lasts.map(ToString::to_string);
    for (key, value) in [("for", &lasts), ("endpoint", &which.endpoint), ("route", &which.route)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", form_encoded(value)));
        }
    }
    post(admin, voice, &path, &[])
}

/// One object for each breaker, in the order of the upstreams, each with what it is of.
fn show_breakers(wanted: Option<&str>, admin: &AdminArgs, voice: Voice) -> anyhow::Result<ExitCode> {
    let ask = async |client: &Client| {
        let (mut rows, mut page) = (Vec::new(), 1);
        loop {
            let answer = client.ask(Method::GET, &format!("/state/upstreams?limit=1000&page={page}")).await?.json()?;
            rows.extend(answer["rows"].as_array().into_iter().flatten().cloned());
            if answer["pages"].as_u64().is_none_or(|pages| page >= pages) {
                return Ok(rows);
            }
            page += 1;
        }
    };
    let rows = admin.run(voice, Effect::Reads, ask, no_answer)?;
    let is_meant = |row: &&Value| wanted.is_none_or(|wanted| row["upstream"] == wanted);
    if let Some(wanted) = wanted
        && !rows.iter().any(|row| row["upstream"] == wanted)
    {
        let names: Vec<&str> = rows.iter().filter_map(|row| row["upstream"].as_str()).collect();
        bail!("no upstream is called `{wanted}`; there is {}", names.join(", "));
    }
    let breakers: Vec<Value> = rows.iter().filter(is_meant).flat_map(breakers_of).collect();
    print(&format!("{:#}\n", Value::from(breakers)))
}

/// The breakers in a row of `/state/upstreams`.
fn breakers_of(row: &Value) -> Vec<Value> {
    let of = |place: Option<(&str, &Value)>, breaker: &Value| {
        let mut told = json!({ "upstream": row["upstream"] });
        if let Some((what, name)) = place {
            told[what] = name.clone();
        }
        for (key, value) in breaker.as_object()? {
            told[key] = value.clone();
        }
        Some(told)
    };
    let own = of(None, &row["breaker"]);
    let routes = row["breakers_of_routes"].as_object();
    let routes = routes.into_iter().flatten().filter_map(|(name, breaker)| of(Some(("route", &json!(name))), breaker));
    let endpoints = row["endpoints"].as_array().into_iter().flatten();
    let endpoints = endpoints.filter_map(|one| of(Some(("endpoint", &one["endpoint"])), &one["breaker"]));
    own.into_iter().chain(routes).chain(endpoints).collect()
}

/// `armiger purge`.
pub(super) fn purge(purge: &Purge, voice: Voice) -> anyhow::Result<ExitCode> {
    let Purge { targets: Targets { url, prefix, tag, all }, soft, admin } = purge;
    let wanted = json!({"url": url, "prefix": prefix, "tag": tag, "all": all, "soft": soft});
    let body = Bytes::from(wanted.to_string());
    let ask = async |client: &Client| {
        Ok(client.exchange(Method::POST, "/cache/purge", "application/json", body.clone()).await?)
    };
    let Answer { status, body } = admin.run(voice, Effect::Changes, ask, no_answer)?;
    match status {
        StatusCode::OK => print(&String::from_utf8_lossy(&body)),
        _ => Err(refused(status, &body).into()),
    }
}

/// `armiger status`.
pub(super) fn status(args: &AdminArgs, voice: Voice) -> anyhow::Result<ExitCode> {
    let ask = async |client: &Client| {
        let mut told = json!({});
        for (key, path) in [("readiness", "/readyz?verbose"), ("config", "/config/status"), ("drain", "/drain")] {
            told[key] = client.ask(Method::GET, path).await?.json()?;
        }
        Ok(told)
    };
    print(&format!("{:#}\n", args.run(voice, Effect::Reads, ask, no_answer)?))
}

fn no_answer() -> String {
    "no answer".into()
}

struct Client {
    address: ListenAddress,
    token: Option<String>,
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not armiger's")
    }
}

/// Why there is no answer to go on with.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Nobody listens there.
    #[error(
        "nobody listens on {0}: if armiger runs, name its `admin.address` with --admin, or its configuration with -c"
    )]
    Gone(ListenAddress),
    /// The connection was not to be had for another reason.
    #[error(
        "cannot connect to {0}: {1}; if this is not its `admin.address`, name it with --admin, or armiger's configuration with -c"
    )]
    Unreachable(ListenAddress, io::Error),
    /// Somebody else listens there.
    #[error(
        "what answers on {0} is {1}, not armiger's admin listener: name its `admin.address` with --admin, or armiger's configuration with -c"
    )]
    Stranger(ListenAddress, &'static str),
    /// The connection broke before the answer was there.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is no.
    #[error("{0}")]
    Refused(String),
}

fn refused(status: StatusCode, body: &Bytes) -> Failure {
    let said = String::from_utf8_lossy(body);
    let said = serde_json::from_slice(body)
        .ok()
        .and_then(|body: Value| Some(body["error"].as_str()?.to_owned()))
        .unwrap_or_else(|| said.trim().to_owned());
    let hint = if status == StatusCode::UNAUTHORIZED { " (--token-file FILE)" } else { "" };
    Failure::Refused(format!("the admin listener says {status}: {said}{hint}"))
}

impl Client {
    /// Asks for JSON, and takes no for a failure. 503 is an answer, of `/readyz`.
    async fn ask(&self, method: Method, path: &str) -> Result<Answer, Failure> {
        let answer = self.exchange(method, path, "application/json", Bytes::new()).await?;
        match answer.status {
            status if status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE => Ok(answer),
            status => Err(refused(status, &answer.body)),
        }
    }

    async fn exchange(&self, method: Method, path: &str, accept: &str, body: Bytes) -> Result<Answer, Failure> {
        match &self.address {
            ListenAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| self.unreachable(error))?;
                self.converse(stream, method, path, accept, body).await
            }
            ListenAddress::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| self.unreachable(error))?;
                self.converse(stream, method, path, accept, body).await
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::ConnectionReset => {
                Failure::Gone(self.address.clone())
            }
            _ => Failure::Unreachable(self.address.clone(), error),
        }
    }

    /// One request and its answer on a connection of their own.
    async fn converse<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<Answer, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: &hyper::Error| match is_no_http(error) {
            true => Failure::Stranger(self.address.clone(), "no HTTP/1.1"),
            false => Failure::Broken(error.to_string()),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let host = match &self.address {
            ListenAddress::Tcp(address) => address.to_string(),
            ListenAddress::Unix(_) => "localhost".into(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, accept)
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|_| {
            Failure::Refused("the token, or a name, has a character that cannot stand in a request".into())
        })?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = answer.status();
            match answer.headers().get(header::SERVER).map(HeaderValue::as_bytes) {
                Some(server) if server == SERVER_ADMIN.as_bytes() => {}
                Some(server) if server == SERVER_PROBES.as_bytes() => {
                    return Err(Failure::Stranger(self.address.clone(), "armiger's `probes` listener"));
                }
                _ => return Err(Failure::Stranger(self.address.clone(), "something else")),
            }
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| Failure::Broken(error.to_string()))?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        let mut answer = std::pin::pin!(answer);
        // The connection works while the answer is waited for, and may end before it is read.
        tokio::select! {
            // The connection first: where it broke the answer says no more than that there is none.
            biased;
            ended = connection => match (answer.await, ended) {
                (Err(Failure::Broken(_)), Err(error)) => Err(broken(&error)),
                (answer, _) => answer,
            },
            answer = answer.as_mut() => answer,
        }
    }
}

/// Whether the other side said what is no answer. Some speak before they are asked.
fn is_no_http(error: &hyper::Error) -> bool {
    use std::error::Error;

    // A request that was on its way meanwhile is told that it is off, and why.
    if let Some(why) = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        return is_no_http(why);
    }
    let has_ended = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
    error.is_parse() || (!has_ended && error.source().is_none_or(|source| !source.is::<io::Error>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (address, expected) in [
            ("0.0.0.0:9901", "127.0.0.1:9901"),
            ("[::]:9901", "[::1]:9901"),
            ("10.0.0.1:9901", "10.0.0.1:9901"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let address = reachable(ListenAddress::parse(address).unwrap()).unwrap();
            assert_eq!(address.to_string(), expected);
        }
        assert!(reachable(ListenAddress::parse("127.0.0.1:0").unwrap()).is_err());
    }
}
