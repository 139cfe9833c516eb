//! By what a policy counts: parts of a request, found by names that compile resolved.

use std::hash::Hasher;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Scope;
use crate::config::{Issue, KeyPath};
use crate::exchange::Exchange;
use crate::exchange::identity::ClaimPath;
use crate::http::headers::{COOKIE_NAME_HINT, is_cookie_name};
use crate::limits::key::{Kind, Label, Sink, address};
use crate::limits::store::Store;

/// What happens to a request that lacks a part of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// The client's address takes the place of the part.
    #[default]
    #[serde(rename = "fallback:ip")]
    FallbackIp,
    /// The limit is not asked.
    Skip,
    /// It is refused with a 403 (`limit-key-missing`).
    Deny,
}

/// By what requests are told apart.
pub struct Key {
    parts: Box<[Part]>,
    on_missing: OnMissing,
    ipv6_prefix: u8,
}

enum Part {
    Address,
    Claim(ClaimPath, Box<str>),
    Header(HeaderName),
    Cookie(Box<str>),
    Param(usize, Box<str>),
    Route,
    Constant,
}

/// What became of the look for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is fed.
    Key,
    /// The limit is not to be asked.
    Skip,
    /// The request is to be refused.
    Deny,
}

/// The words of `by`, for messages.
const WORDS: &str = "`client_ip`, `claim:NAME`, `header:NAME`, `cookie:NAME`, `path:NAME`, `route` or `constant`";

impl Key {
    /// Compiles `by`, which stands at `path`. `None`: it is wrong, which is reported.
    pub fn compile(
        by: &[String],
        on_missing: OnMissing,
        ipv6_prefix: u8,
        path: &KeyPath,
        scope: &mut Scope<'_>,
    ) -> Option<Self> {
        let mut parts = Vec::with_capacity(by.len());
        let mut is_good = true;
        for (place, text) in by.iter().enumerate() {
            match part(text, scope) {
                Ok(part) => parts.push(part),
                Err((message, hint)) => {
                    is_good = false;
                    scope.issue(Issue::new(path.key("by").index(place), message).hint(hint));
                }
            }
            if by[..place].contains(text) {
                is_good = false;
                scope.issue(Issue::new(path.key("by").index(place), format!("`{text}` stands twice")).hint("keep one"));
            }
        }
        if by.is_empty() {
            is_good = false;
            scope.issue(
                Issue::new(path.key("by"), "names nothing to count by")
                    .of_absence()
                    .hint("leave it out for `client_ip`; `constant` counts all requests together"),
            );
        }
        if !(32..=128).contains(&ipv6_prefix) {
            is_good = false;
            scope.issue(
                Issue::new(path.key("ipv6_prefix"), format!("{ipv6_prefix} is out of bounds"))
                    .hint("choose from 32 to 128"),
            );
        }
        let key = Self { parts: parts.into(), on_missing, ipv6_prefix };
        if key.needs_caller() {
            scope.needs_caller("a claim is a caller's");
        }
        is_good.then_some(key)
    }

    /// Whether it must be known who calls.
    pub fn needs_caller(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Claim(..)))
    }

    /// Whether it counts by the client's address.
    pub fn has_address(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Address))
    }

    /// Whether all requests of a route go together.
    pub fn is_shared(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Route | Part::Constant))
    }

    /// The hash of the key of this request, in a store.
    pub fn hash(&self, exchange: &Exchange, store: &Store) -> Result<u64, Found> {
        let mut hasher = store.hasher();
        match self.feed(exchange, &mut hasher) {
            Found::Key => Ok(hasher.finish()),
            other => Err(other),
        }
    }

    /// What the key of this request is called.
    pub fn label(&self, exchange: &Exchange) -> String {
        let mut label = Label::default();
        self.feed(exchange, &mut label);
        label.into_text()
    }

    /// Gives the parts of this request's key.
    pub fn feed(&self, exchange: &Exchange, sink: &mut impl Sink) -> Found {
        for part in &self.parts {
            if part.feed(exchange, self.ipv6_prefix, sink) {
                continue;
            }
            match self.on_missing {
                OnMissing::FallbackIp => address(Kind::Fallback, exchange.client.address, self.ipv6_prefix, sink),
                OnMissing::Skip => return Found::Skip,
                OnMissing::Deny => return Found::Deny,
            }
        }
        Found::Key
    }

    /// Gives the parts of the key whose values an operator wrote: one text for each part that has one.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn feed_texts(&self, texts: &[String], sink: &mut impl Sink) -> Result<(), String> {
        let mut texts = texts.iter();
        for part in &self.parts {
            if matches!(part, Part::Constant) {
                part.feed_text("", self.ipv6_prefix, sink)?;
                continue;
            }
            let text = texts.next().ok_or_else(|| format!("the key has more parts: {}", self.parts_named()))?;
            part.feed_text(text, self.ipv6_prefix, sink)?;
        }
        if texts.next().is_some() {
            return Err(format!("the key has fewer parts: {}", self.parts_named()));
        }
        Ok(())
    }

    fn parts_named(&self) -> String {
        let names: Vec<String> = self.parts.iter().map(Part::name).collect();
        names.join(", ")
    }
}

fn part(text: &str, scope: &Scope<'_>) -> Result<Part, (String, String)> {
    let unknown = || (format!("`{text}` is nothing to count by"), format!("write {WORDS}"));
    match text.split_once(':') {
        None => match text {
            "client_ip" => Ok(Part::Address),
            "route" => Ok(Part::Route),
            "constant" => Ok(Part::Constant),
            _ => Err(unknown()),
        },
        Some((_, "")) => Err(unknown()),
        Some(("claim", name)) => Ok(Part::Claim(ClaimPath::new(name), name.into())),
        Some(("header", name)) => HeaderName::from_bytes(name.as_bytes())
            .map(Part::Header)
            .map_err(|_| (format!("`{name}` is no header name"), "write a name such as `x-api-key`".into())),
        Some(("cookie", name)) if is_cookie_name(name) => Ok(Part::Cookie(name.into())),
        Some(("cookie", name)) => Err((format!("`{name}` is no cookie name"), COOKIE_NAME_HINT.into())),
        Some(("path", name)) => scope
            .params
            .place(name)
            .map(|place| Part::Param(place, name.into()))
            .map_err(|error| (error.message, error.hint.unwrap_or_else(|| "count by something else".into()))),
        Some(_) => Err(unknown()),
    }
}

impl Part {
    /// Gives the part, if the request has it.
    fn feed(&self, exchange: &Exchange, ipv6_prefix: u8, sink: &mut impl Sink) -> bool {
        match self {
            Self::Address => address(Kind::Address, exchange.client.address, ipv6_prefix, sink),
            Self::Claim(path, name) => {
                let Some(caller) = &exchange.caller else { return false };
                return claim(path.find(&caller.identity.claims), name, sink);
            }
            Self::Header(name) => {
                // Lines that differ tell nobody apart: back ends may go by any of them.
                let Some(value) = alike(exchange.headers().get_all(name).iter().map(HeaderValue::as_bytes)) else {
                    return false;
                };
                sink.part(Kind::Header, name.as_str(), value);
            }
            Self::Cookie(name) => {
                let Some(value) = cookie(exchange, name) else { return false };
                sink.part(Kind::Cookie, name, value);
            }
            Self::Param(place, name) => {
                let value = exchange.param(*place);
                if value.is_empty() {
                    return false;
                }
                sink.part(Kind::Param, name, value.as_bytes());
            }
            Self::Route => sink.part(Kind::Route, "", exchange.route_name().as_bytes()),
            Self::Constant => sink.part(Kind::Constant, "", b""),
        }
        true
    }

    fn feed_text(&self, text: &str, ipv6_prefix: u8, sink: &mut impl Sink) -> Result<(), String> {
        let value = text.as_bytes();
        match self {
            Self::Address => {
                let text = text.split_once('/').map_or(text, |(first, _)| first);
                let client: IpAddr = text.parse().map_err(|_| format!("`{}` is no address", text.escape_default()))?;
                address(Kind::Address, client, ipv6_prefix, sink);
            }
            Self::Claim(_, name) => sink.part(Kind::Claim, name, value),
            Self::Header(name) => sink.part(Kind::Header, name.as_str(), value),
            Self::Cookie(name) => sink.part(Kind::Cookie, name, value),
            Self::Param(_, name) => sink.part(Kind::Param, name, value),
            Self::Route => sink.part(Kind::Route, "", value),
            Self::Constant => sink.part(Kind::Constant, "", b""),
        }
        Ok(())
    }

    fn name(&self) -> String {
        match self {
            Self::Address => "client_ip".into(),
            Self::Claim(_, name) => format!("claim:{name}"),
            Self::Header(name) => format!("header:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::Param(_, name) => format!("path:{name}"),
            Self::Route => "route".into(),
            Self::Constant => "constant".into(),
        }
    }
}

/// A claim that is one value. A list or mapping tells nobody apart for sure, and counts as missing.
fn claim(value: Option<&Value>, name: &str, sink: &mut impl Sink) -> bool {
    match value {
        Some(Value::String(text)) if !text.is_empty() => sink.part(Kind::Claim, name, text.as_bytes()),
        Some(Value::Bool(value)) => sink.part(Kind::ClaimValue, name, if *value { b"true" } else { b"false" }),
        Some(Value::Number(number)) => sink.part(Kind::ClaimValue, name, number.to_string().as_bytes()),
        _ => return false,
    }
    true
}

fn cookie<'e>(exchange: &'e Exchange, name: &str) -> Option<&'e [u8]> {
    let lines = exchange.headers().get_all(header::COOKIE).iter();
    let cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    alike(cookies.filter_map(|cookie| cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"=")))
}

/// What all of them say. A decoy beside the one that a back end goes by must not be a bucket of its own.
fn alike<'e>(mut values: impl Iterator<Item = &'e [u8]>) -> Option<&'e [u8]> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}
