//! What a rule says about a request: patterns of hosts, paths and values, and which requests two of them share.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use http::Method;
use memchr::{memchr, memchr2};
use regex::Regex;

use crate::http::framing::HOST_BYTES_MAX;
use crate::http::path;

/// The most segments that a path pattern may have. Paths may have any number: a prefix, a `{rest...}` or a regular
/// expression takes what is deeper.
pub const SEGMENTS_MAX: usize = 64;

/// Why a pattern was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    message: String,
    hint: String,
}

impl PatternError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }

    /// What is wrong, in one sentence without its full stop.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.hint)
    }
}

impl std::error::Error for PatternError {}

// === Hosts ===

/// Brings a `Host` or `:authority` into the form that hosts are compared in: lower case, without port and without the
/// root's trailing dot. IPv6 addresses keep their brackets and take their canonical form (RFC 5952).
///
/// `None` for what is no plain host: empty, with userinfo, spaces, empty labels, a port that is no number, or
/// characters other than letters, digits, `-`, `_` and `.` (RFC 3986 §3.2.2 would allow more, no name in use has them).
pub fn normalise_host(raw: &str) -> Option<Cow<'_, str>> {
    if raw.starts_with('[') {
        return normalise_address(raw);
    }
    // One pass: this runs for every request.
    let (mut end, mut all, mut last) = (raw.len(), 0, DOT);
    for (place, byte) in raw.bytes().enumerate() {
        let kind = KINDS[usize::from(byte)];
        if kind == COLON {
            end = place;
            break;
        }
        // No label is empty.
        if kind == 0 || kind & last & DOT != 0 {
            return None;
        }
        all |= kind;
        last = kind;
    }
    let (mut host, port) = raw.split_at(end);
    let has_capitals = all & CAPITAL != 0;
    if last == DOT {
        // Only the root's dot may end it, and only behind a name.
        host = host.strip_suffix('.')?;
    }
    if host.len() > HOST_BYTES_MAX || !port_is_valid(port) {
        return None;
    }
    Some(if has_capitals { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

const PLAIN: u8 = 1;
const CAPITAL: u8 = 2;
const DOT: u8 = 4;
const COLON: u8 = 8;

/// What a byte is in a host; 0 is for those that are in none.
static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => PLAIN,
            b'A'..=b'Z' => CAPITAL,
            b'.' => DOT,
            b':' => COLON,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

fn normalise_address(raw: &str) -> Option<Cow<'_, str>> {
    let (host, port) = raw.split_at(raw.find(']')? + 1);
    if !port_is_valid(port) {
        return None;
    }
    let address: Ipv6Addr = host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    let canonical = format!("[{address}]");
    Some(if canonical == host { Cow::Borrowed(host) } else { Cow::Owned(canonical) })
}

/// Nothing, or `:` and a port. An empty port is legal: `example.com:` (RFC 3986 §3.2.3).
fn port_is_valid(after: &str) -> bool {
    let Some(port) = after.strip_prefix(':') else { return after.is_empty() };
    let mut number = 0;
    port.bytes().all(|byte| {
        number = number * 10 + u32::from(byte.wrapping_sub(b'0'));
        byte.is_ascii_digit() && number <= u32::from(u16::MAX)
    })
}

/// The hosts that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name or address, as [`normalise_host`] gives it.
    Exact(String),
    /// Every name below this one, by one label or more. `*.example.com` is held as `example.com` and matches
    /// `a.example.com` and `a.b.example.com`, not `example.com` itself, as in the Kubernetes Gateway API.
    Suffix(String),
}

impl HostPattern {
    /// Reads `api.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`.
    ///
    /// # Errors
    /// A port, a wildcard that is not the whole first label, or what is no host name.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if text == "*" {
            return Err(PatternError::new("`*` is no host", "leave the host out to match any"));
        }
        if name.contains('*') {
            return Err(PatternError::new(
                format!("`{text}` has a `*` that is not its whole first label"),
                "write `*.example.com`, which matches every name below `example.com`",
            ));
        }
        if text.contains("://") || text.contains('/') {
            return Err(PatternError::new(format!("`{text}` is more than a host"), "write the name alone"));
        }
        if !name.is_ascii() {
            return Err(PatternError::new(
                format!("`{text}` is not ASCII"),
                "write the name as it is sent, in Punycode: `xn--...`",
            ));
        }
        let Some(host) = normalise_host(name) else {
            return Err(PatternError::new(
                format!("`{text}` is no host name"),
                "write `api.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`",
            ));
        };
        let colon = if name.starts_with('[') { name.contains("]:") } else { name.contains(':') };
        if colon {
            return Err(PatternError::new(
                format!("`{text}` has a port"),
                "leave the port out: hosts are compared without it",
            ));
        }
        match wildcard {
            true if host.starts_with('[') => {
                Err(PatternError::new(format!("`{text}` puts a wildcard before an address"), "write the address alone"))
            }
            true => Ok(Self::Suffix(host.into_owned())),
            false => Ok(Self::Exact(host.into_owned())),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(host) => write!(f, "*.{host}"),
        }
    }
}

// === Paths ===

/// The paths that a rule is for. Compared with the normalised path, which is also the one that is forwarded.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: Box<str>,
    names: Box<[Box<str>]>,
    pub(super) segments: Vec<Segment>,
    pub(super) end: End,
}

/// One segment of a pattern, between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// This text. Empty only as the last one: the pattern ends with a slash.
    Literal(Box<str>),
    /// Any text but none.
    Param,
}

/// What may follow the segments of a pattern.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Nothing.
    Exact,
    /// A slash and anything: `{rest...}`.
    Tail,
    /// Nothing, or a slash and anything.
    Prefix,
    /// There are no segments; the whole path matches this, anchored at both ends.
    Regex(Regex),
}

impl PathPattern {
    /// Reads a path in which a segment may be `{name}` and the last one `{name...}`.
    ///
    /// - `/orders/{id}` matches `/orders/7`, but neither `/orders/` nor `/orders/7/items`.
    /// - `/files/{rest...}` matches `/files/`, `/files/a` and `/files/a/b`, but not `/files`.
    /// - `/orders` and `/orders/` are two paths.
    /// - `%2F` is a part of its segment, not a boundary.
    ///
    /// # Errors
    /// The pattern must be what a normalised path can be, or no request would match it: it begins with `/`, has no
    /// `//`, no `.` or `..`, percent-encodes what it must and nothing else. Parameters have names of letters, digits
    /// and `_`, each one once. At most [`SEGMENTS_MAX`] segments.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut names: Vec<Box<str>> = Vec::new();
        let mut segments = Vec::new();
        let mut end = End::Exact;
        let mut parts = split(text)?.peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            match parameter(text, part)? {
                Some(Parameter { name, takes_rest }) => {
                    if names.iter().any(|known| **known == *name) {
                        return Err(PatternError::new(
                            format!("`{text}` has two parameters named `{name}`"),
                            "give each its own name",
                        ));
                    }
                    names.push(name.into());
                    if !takes_rest {
                        segments.push(Segment::Param);
                    } else if is_last {
                        end = End::Tail;
                    } else {
                        return Err(PatternError::new(
                            format!("`{part}` takes the rest of the path, and something follows it"),
                            format!("put it last, or write `{{{name}}}` for one segment"),
                        ));
                    }
                }
                None => segments.push(Segment::Literal(literal(text, part, is_last)?.into())),
            }
        }
        check_normal(text, &segments)?;
        if segments.len() > SEGMENTS_MAX {
            return Err(PatternError::new(
                format!("`{text}` has {} segments", segments.len()),
                format!("the most is {SEGMENTS_MAX}"),
            ));
        }
        Ok(Self { text: text.into(), names: names.into(), segments, end })
    }

    /// Reads a path that stands for itself and everything below: `/api` matches `/api`, `/api/` and `/api/x`, but not
    /// `/apix`. A slash at its end means nothing. A segment may be `{name}`. `/` matches every path.
    ///
    /// # Errors
    /// As [`PathPattern::parse`]; and `{rest...}`, which a prefix has no need of.
    pub fn prefix(text: &str) -> Result<Self, PatternError> {
        let whole = Self::parse(text)?;
        if !matches!(whole.end, End::Exact) {
            return Err(PatternError::new(
                format!("`{text}` is a prefix and takes the rest by name as well"),
                "leave `{...}` out, or write it as a path instead of a prefix",
            ));
        }
        let mut segments = whole.segments;
        if matches!(segments.last(), Some(Segment::Literal(last)) if last.is_empty()) {
            segments.pop();
        }
        Ok(Self { segments, end: End::Prefix, ..whole })
    }

    /// Reads a regular expression that the whole path must match: it is anchored at both ends, so `/v[0-9]+` does not
    /// match `/v1/x`; add `.*` for that. Named groups, `(?<id>[0-9]+)`, are parameters; one that took no part is empty.
    ///
    /// # Errors
    /// What the `regex` crate cannot compile, and an expression that begins with a letter or digit: paths begin with
    /// `/`.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        let regex = anchored(text)?;
        let first = text.trim_start_matches('^').bytes().next();
        if first.is_some_and(|byte| byte.is_ascii_alphanumeric()) && !text.contains('|') {
            return Err(PatternError::new(
                format!("`{text}` can match no path"),
                "a path begins with `/`, and the expression must match all of it",
            ));
        }
        let names = regex.capture_names().flatten().map(Box::from).collect();
        Ok(Self { text: text.into(), names, segments: Vec::new(), end: End::Regex(regex) })
    }

    /// The names of the parameters, in the order of their values in [`Lookup::params`](super::router::Lookup::params).
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text that every path matched by a regular expression begins with, as far as it is plain to see.
    pub(super) fn regex_literal_prefix(&self) -> &str {
        // With an alternative anywhere, what stands first need not be there at all.
        if self.text.contains('|') {
            return "";
        }
        let text = self.text.trim_start_matches('^');
        let Some(stop) = text.find(|char: char| "\\.+*?()[]{}$^".contains(char)) else {
            return text;
        };
        if !text[stop..].starts_with(['*', '?', '{']) {
            return &text[..stop];
        }
        // The character before such a sign may be missing.
        let last = text[..stop].chars().next_back().map_or(0, char::len_utf8);
        &text[..stop - last]
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks that the segments, put together, are what a path looks like after it was normalised.
///
/// The checks of each segment say what is wrong and how to mend it. This one asks the judge himself, for what they do
/// not know of, such as a dot segment that hides behind a `;`.
fn check_normal(text: &str, segments: &[Segment]) -> Result<(), PatternError> {
    let mut whole = String::new();
    for segment in segments {
        whole.push('/');
        whole.push_str(match segment {
            Segment::Literal(literal) => literal,
            Segment::Param => "p",
        });
    }
    if whole.is_empty() {
        return Ok(());
    }
    let cause = match path::normalise(&whole) {
        Ok(normal) if normal.path == whole => return Ok(()),
        Ok(normal) => format!("its normal form is `{}`", normal.path),
        Err(error) => error.to_string(),
    };
    Err(PatternError::new(
        format!("`{text}` can match no path: {cause}"),
        "requests are matched by their normalised path; write the pattern in that form",
    ))
}

struct Parameter<'a> {
    name: &'a str,
    takes_rest: bool,
}

fn split(text: &str) -> Result<std::str::Split<'_, char>, PatternError> {
    match text.strip_prefix('/') {
        Some(rest) => Ok(rest.split('/')),
        None => Err(PatternError::new(format!("`{text}` does not begin with `/`"), format!("write `/{text}`"))),
    }
}

/// Reads `{name}` or `{name...}`; `None` for a segment without braces.
fn parameter<'a>(text: &str, part: &'a str) -> Result<Option<Parameter<'a>>, PatternError> {
    if !part.contains(['{', '}']) {
        return Ok(None);
    }
    let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
        return Err(PatternError::new(
            format!("`{part}` in `{text}` is neither plain text nor one `{{name}}`"),
            "a parameter is a whole segment; write `%7B` and `%7D` for braces, or use a regular expression",
        ));
    };
    let (name, takes_rest) = match inner.strip_suffix("...") {
        Some(name) => (name, true),
        None => (inner, false),
    };
    if name.is_empty() {
        return Err(PatternError::new(format!("`{part}` in `{text}` has no name"), "write `{id}` or `{rest...}`"));
    }
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(PatternError::new(
            format!("`{part}` in `{text}` is no parameter"),
            "a name has letters, digits and `_`, and begins with no digit; `{rest...}` takes all that remains",
        ));
    }
    Ok(Some(Parameter { name, takes_rest }))
}

/// Checks a segment without parameters: it must be one that a normalised path can have.
fn literal<'a>(text: &str, part: &'a str, is_last: bool) -> Result<&'a str, PatternError> {
    match part {
        "" if is_last => return Ok(part),
        "" => {
            return Err(PatternError::new(format!("`{text}` has an empty segment, `//`"), "write one slash"));
        }
        "." | ".." => {
            return Err(PatternError::new(
                format!("`{text}` has a `{part}` segment"),
                "write the path that it leads to: requests are matched after `.` and `..` are resolved",
            ));
        }
        "*" | "**" => {
            return Err(PatternError::new(
                format!("`{part}` in `{text}` is no wildcard"),
                "write `{name}` for one segment, `{rest...}` for all that remains",
            ));
        }
        _ => {}
    }
    let bytes = part.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        at += match bytes[at] {
            b'%' => escape(text, &part[at..])?,
            byte if is_path_byte(byte) => 1,
            byte @ (b'?' | b'#') => {
                return Err(PatternError::new(
                    format!("`{text}` has a `{}`, which ends a path", char::from(byte)),
                    "give conditions on the query under `query`",
                ));
            }
            _ => {
                let char = part[at..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
                let mut buffer = [0; 4];
                let escaped: String =
                    char.encode_utf8(&mut buffer).bytes().map(|byte| format!("%{byte:02X}")).collect();
                return Err(PatternError::new(
                    format!("`{text}` has a `{}`, which no path has as it is", char.escape_debug()),
                    format!("write `{escaped}`"),
                ));
            }
        };
    }
    Ok(part)
}

/// Checks the percent-encoding that `rest` begins with, and gives its length.
fn escape(text: &str, rest: &str) -> Result<usize, PatternError> {
    const LENGTH: usize = 3;
    let digits = rest.get(1..LENGTH).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
        return Err(PatternError::new(
            format!("`{text}` has a `%` without two hexadecimal digits"),
            "write `%25` for the sign itself",
        ));
    };
    // The normal form of RFC 3986 §6.2.2: capitals, and nothing encoded that need not be.
    let normal = if is_unreserved(byte) { char::from(byte).to_string() } else { rest[..LENGTH].to_ascii_uppercase() };
    if rest[..LENGTH] != normal {
        return Err(PatternError::new(
            format!("`{}` in `{text}` is not in normal form, so no path would match", &rest[..LENGTH]),
            format!("write `{normal}`"),
        ));
    }
    Ok(LENGTH)
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// `pchar` of RFC 3986 §3.3, but for percent-encoding.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// Compiles `text` so that it matches a whole text or not at all.
fn anchored(text: &str) -> Result<Regex, PatternError> {
    // Alone as well if it could close our group: `a)|(b` is wrong, although it would be right inside one.
    let alone = if text.contains(')') { Regex::new(text).map(|_| ()) } else { Ok(()) };
    alone.and_then(|()| Regex::new(&format!(r"\A(?:{text})\z"))).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            PatternError::new(format!("`{text}` is too large"), "use smaller repetitions")
        }
        anchored => {
            // What is wrong with it alone is easier to understand. The crate's text is a drawing of several lines; its
            // last one says what it is.
            let error = Regex::new(text).err().unwrap_or(anchored).to_string();
            let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            PatternError::new(
                format!("`{text}` is no regular expression: {cause}"),
                "there are no look-around and no back-references; `\\` takes a sign's meaning away",
            )
        }
    })
}

// === Values ===

/// A condition on one header, query parameter or cookie.
#[derive(Clone, Debug)]
pub struct ValueMatch<N = String> {
    /// Its name: a [`HeaderName`](http::HeaderName) for a header, else a text compared byte by byte.
    pub name: N,
    /// What it must be.
    pub is: Is,
}

/// What a header, query parameter or cookie must be.
///
/// A name may come more than once. Then **every** one of its values must be so: which of them a server goes by, only
/// that server knows.
#[derive(Clone, Debug)]
pub enum Is {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It is there, and this.
    Exact(String),
    /// It is there, and all of it matches. Make it with [`Is::regex`], which anchors it.
    Regex(Regex),
    /// It is there, and begins with this.
    Prefix(String),
}

impl Is {
    /// Reads a regular expression that the whole value must match.
    ///
    /// # Errors
    /// What the `regex` crate cannot compile.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        anchored(text).map(Self::Regex)
    }

    /// Whether no value satisfies both.
    fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => false,
            (Self::Absent, _) | (_, Self::Absent) => true,
            (Self::Present, _) | (_, Self::Present) => false,
            (Self::Exact(value), other) | (other, Self::Exact(value)) => {
                !other.accepts(value.as_bytes(), Coding::Plain)
            }
            (Self::Prefix(one), Self::Prefix(two)) => !one.starts_with(two.as_str()) && !two.starts_with(one.as_str()),
            // Whether two expressions share a text is not worth finding out.
            (Self::Regex(_), _) | (_, Self::Regex(_)) => false,
        }
    }

    /// Whether each value that satisfies `other` satisfies this one too, as far as it is plain to see.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, other) => matches!(other, Self::Absent),
            (_, Self::Absent) => false,
            (Self::Present, _) => true,
            (_, Self::Present) => false,
            (_, Self::Exact(value)) => self.accepts(value.as_bytes(), Coding::Plain),
            (Self::Prefix(short), Self::Prefix(long)) => long.starts_with(short.as_str()),
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            _ => false,
        }
    }

    /// Whether all of `values` are so; none at all is absence.
    pub(super) fn holds<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>, coding: Coding) -> bool {
        let Some(first) = values.next() else {
            return matches!(self, Self::Absent);
        };
        self.accepts(first, coding) && values.all(|value| self.accepts(value, coding))
    }

    /// Whether a value that is there is so.
    fn accepts(&self, raw: &[u8], coding: Coding) -> bool {
        let plain = coding.leaves_alone(raw);
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Exact(wanted) if plain => raw == wanted.as_bytes(),
            Self::Exact(wanted) => coding.decode(raw).eq(wanted.bytes()),
            Self::Prefix(wanted) if plain => raw.starts_with(wanted.as_bytes()),
            Self::Prefix(wanted) => {
                let mut decoded = coding.decode(raw);
                wanted.bytes().all(|byte| decoded.next() == Some(byte))
            }
            Self::Regex(regex) => {
                let decoded = if plain { Cow::Borrowed(raw) } else { Cow::Owned(coding.decode(raw).collect()) };
                // A value that is no UTF-8 matches no expression, not even `.*`.
                std::str::from_utf8(&decoded).is_ok_and(|text| regex.is_match(text))
            }
        }
    }
}

impl<N: PartialEq> ValueMatch<N> {
    /// Whether no request satisfies all of `one` and all of `two`.
    pub(super) fn are_disjoint(one: &[Self], two: &[Self]) -> bool {
        one.iter().any(|a| two.iter().any(|b| a.name == b.name && a.is.is_disjoint(&b.is)))
    }

    /// Whether each request that satisfies all of `other` satisfies all of `conditions`.
    pub(super) fn cover(conditions: &[Self], other: &[Self]) -> bool {
        conditions.iter().all(|a| other.iter().any(|b| a.name == b.name && a.is.covers(&b.is)))
    }
}

/// How a value is written where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is: headers.
    Plain,
    /// Percent-encoded: cookies.
    Percent,
    /// Percent-encoded, and `+` is a space: queries.
    Form,
}

impl Coding {
    fn leaves_alone(self, raw: &[u8]) -> bool {
        match self {
            Self::Plain => true,
            Self::Percent => memchr(b'%', raw).is_none(),
            Self::Form => memchr2(b'%', b'+', raw).is_none(),
        }
    }

    /// Whether `raw` stands for `wanted`.
    pub(super) fn is(self, raw: &[u8], wanted: &str) -> bool {
        if self.leaves_alone(raw) { raw == wanted.as_bytes() } else { self.decode(raw).eq(wanted.bytes()) }
    }

    /// Byte by byte, so that nothing is allocated. A `%` without two digits stands for itself.
    fn decode(self, raw: &[u8]) -> impl Iterator<Item = u8> {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        let mut at = 0;
        std::iter::from_fn(move || {
            let byte = *raw.get(at)?;
            if byte == b'%'
                && self != Self::Plain
                && let (Some(high), Some(low)) = (hex(raw.get(at + 1)), hex(raw.get(at + 2)))
            {
                at += 3;
                return u8::try_from(high * 16 + low).ok();
            }
            at += 1;
            Some(if byte == b'+' && self == Self::Form { b' ' } else { byte })
        })
    }
}

// === Methods ===

/// A set of methods. `GET` in it takes `HEAD` along (RFC 9110 §9.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// A bit for each of `STANDARD`: nearly all requests are decided by one `and`.
    standard: u16,
    other: Vec<Method>,
}

const STANDARD: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];
const GET: u16 = 1;
const HEAD: u16 = 1 << 1;

fn standard_bit(method: &Method) -> Option<u16> {
    Some(match *method {
        Method::GET => GET,
        Method::HEAD => HEAD,
        Method::POST => 1 << 2,
        Method::PUT => 1 << 3,
        Method::PATCH => 1 << 4,
        Method::DELETE => 1 << 5,
        Method::OPTIONS => 1 << 6,
        Method::TRACE => 1 << 7,
        Method::CONNECT => 1 << 8,
        _ => return None,
    })
}

impl Methods {
    /// Whether `method` is in the set, or is `HEAD` and `GET` is.
    pub fn allows(&self, method: &Method) -> bool {
        match standard_bit(method) {
            Some(HEAD) => self.standard & (GET | HEAD) != 0,
            Some(bit) => self.standard & bit != 0,
            None => self.other.contains(method),
        }
    }

    /// Whether the set holds no method.
    pub fn is_empty(&self) -> bool {
        self.standard == 0 && self.other.is_empty()
    }

    /// The methods that are allowed, `HEAD` included where `GET` is: `GET, HEAD, POST, ...`, then those of no standard.
    pub fn iter(&self) -> impl Iterator<Item = &Method> {
        STANDARD.iter().chain(&self.other).filter(|method| self.allows(method))
    }

    pub(super) fn names(&self, method: &Method) -> bool {
        match standard_bit(method) {
            Some(bit) => self.standard & bit != 0,
            None => self.other.contains(method),
        }
    }

    /// Whether a method is named by both. A `HEAD` that comes along with `GET` does not count.
    pub(super) fn share(&self, other: &Self) -> bool {
        self.standard & other.standard != 0 || self.other.iter().any(|method| other.other.contains(method))
    }

    pub(super) fn cover(&self, other: &Self) -> bool {
        other.iter().all(|method| self.allows(method))
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.standard |= more.standard;
        for method in &more.other {
            if !self.other.contains(method) {
                self.other.push(method.clone());
            }
        }
    }
}

impl<'m> FromIterator<&'m Method> for Methods {
    fn from_iter<I: IntoIterator<Item = &'m Method>>(methods: I) -> Self {
        let mut set = Self::default();
        for method in methods {
            match standard_bit(method) {
                Some(bit) => set.standard |= bit,
                None if set.other.contains(method) => {}
                None => set.other.push(method.clone()),
            }
        }
        set
    }
}

/// As the `Allow` header has it: `GET, HEAD, POST` (RFC 9110 §10.2.1).
impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, method) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            f.write_str(method.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised_or_refused() {
        for (raw, expected) in [
            ("a.com", Some("a.com")),
            ("A.Com", Some("a.com")),
            ("a.com.", Some("a.com")),
            ("a.com:80", Some("a.com")),
            ("a.com.:80", Some("a.com")),
            ("a.com:", Some("a.com")),
            ("a_b.svc-1", Some("a_b.svc-1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("[::1]", Some("[::1]")),
            ("[::1]:80", Some("[::1]")),
            ("[0:0::0:1]", Some("[::1]")),
            ("[2001:DB8::A]", Some("[2001:db8::a]")),
            ("", None),
            (".", None),
            (":80", None),
            ("a..com", None),
            (".a.com", None),
            ("a.com..", None),
            ("user@a.com", None),
            ("user:pass@a.com", None),
            ("a b", None),
            (" a.com", None),
            ("a.com:x", None),
            ("a.com:65536", None),
            ("a.com:+80", None),
            ("a.com:80:80", None),
            ("a.com/b", None),
            ("a%2ecom", None),
            ("a,b", None),
            ("ä.com", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1]80", None),
            ("[fe80::1%25eth0]", None),
            ("[a.com]", None),
            ("]", None),
        ] {
            assert_eq!(normalise_host(raw).as_deref(), expected, "{raw}");
        }
        assert!(normalise_host(&"a".repeat(256)).is_none());
        assert!(matches!(normalise_host("a.com:80"), Some(Cow::Borrowed(_))), "nothing is copied without need");
    }

    #[test]
    fn host_patterns_are_read() {
        for (text, expected) in [
            ("a.com", HostPattern::Exact("a.com".into())),
            ("A.com.", HostPattern::Exact("a.com".into())),
            ("*.A.com", HostPattern::Suffix("a.com".into())),
            ("[::1]", HostPattern::Exact("[::1]".into())),
        ] {
            assert_eq!(HostPattern::parse(text).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(HostPattern::parse("*.a.com").unwrap().to_string(), "*.a.com");
    }

    #[test]
    fn host_patterns_are_refused_with_a_way_out() {
        for (text, message, hint) in [
            ("*", "`*` is no host", "leave the host out"),
            ("a.*", "`a.*` has a `*`", "`*.example.com`"),
            ("*a.com", "`*a.com` has a `*`", "`*.example.com`"),
            ("*.*.com", "`*.*.com` has a `*`", "`*.example.com`"),
            ("a.com:80", "`a.com:80` has a port", "leave the port out"),
            ("[::1]:80", "`[::1]:80` has a port", "leave the port out"),
            ("http://a.com", "`http://a.com` is more than a host", "name alone"),
            ("a.com/x", "`a.com/x` is more than a host", "name alone"),
            ("köln.de", "`köln.de` is not ASCII", "xn--"),
            ("*.[::1]", "`*.[::1]` puts a wildcard before an address", "address alone"),
            ("", "`` is no host name", "write"),
            ("a b", "`a b` is no host name", "write"),
            ("*.", "`*.` is no host name", "write"),
        ] {
            let error = HostPattern::parse(text).unwrap_err();
            assert!(error.message().starts_with(message), "{text}: {error}");
            assert!(error.hint().contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn path_patterns_are_read() {
        for (text, names) in [
            ("/", ""),
            ("/a/b", ""),
            ("/a/", ""),
            ("/a/{x}/{y}", "x,y"),
            ("/a/{x}/", "x"),
            ("/{rest...}", "rest"),
            ("/{_a1}/{rest...}", "_a1,rest"),
            ("/a%2Fb", ""),
            ("/~a-b.c_d!$&'()*+,;=:@", ""),
            ("/...", ""),
            ("/%C3%B6", ""),
        ] {
            let pattern = PathPattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(pattern.names().join(","), names, "{text}");
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn path_patterns_are_refused_with_a_way_out() {
        let deep = "/a".repeat(SEGMENTS_MAX + 1);
        for (text, message, hint) in [
            ("", "does not begin with `/`", "write `/`"),
            ("a/b", "does not begin with `/`", "write `/a/b`"),
            ("/a//b", "empty segment", "one slash"),
            ("//", "empty segment", "one slash"),
            ("/a/./b", "`.` segment", "resolved"),
            ("/a/..", "`..` segment", "resolved"),
            ("/a/*", "`*` in `/a/*` is no wildcard", "{rest...}"),
            ("/{x}/{x}", "two parameters named `x`", "own name"),
            ("/{x}/{x...}", "two parameters named `x`", "own name"),
            ("/{}", "no name", "{id}"),
            ("/{...}", "no name", "{id}"),
            ("/{rest...}/a", "something follows it", "`{rest}`"),
            ("/{rest...}/", "something follows it", "put it last"),
            ("/a{x}", "neither plain text nor", "whole segment"),
            ("/{x}.json", "neither plain text nor", "whole segment"),
            ("/{a}{b}", "neither plain text nor", "whole segment"),
            ("/{x", "neither plain text nor", "%7B"),
            ("/x}", "neither plain text nor", "%7B"),
            ("/{{x}}", "neither plain text nor", "whole segment"),
            ("/{x:[0-9]+}", "is no parameter", "letters"),
            ("/{*rest}", "is no parameter", "{rest...}"),
            ("/{1x}", "is no parameter", "no digit"),
            ("/{a b}", "is no parameter", "letters"),
            ("/a%", "without two hexadecimal digits", "%25"),
            ("/a%2", "without two hexadecimal digits", "%25"),
            ("/a%zz", "without two hexadecimal digits", "%25"),
            ("/a%+1", "without two hexadecimal digits", "%25"),
            ("/a%2ö", "without two hexadecimal digits", "%25"),
            ("/a%2fb", "not in normal form", "`%2F`"),
            ("/%41", "not in normal form", "`A`"),
            ("/%2e%2E", "not in normal form", "`.`"),
            ("/a b", "has a ` `", "`%20`"),
            ("/köln", "has a `ö`", "`%C3%B6`"),
            ("/a?b=1", "has a `?`", "query"),
            ("/a#b", "has a `#`", "query"),
            ("/a\\b", "has a `\\\\`", "`%5C`"),
            ("/a/..;x", "hides a dot segment", "normalised"),
            ("/a%5C../x", "hides a dot segment", "normalised"),
            (&deep, "has 65 segments", "most is 64"),
        ] {
            let error = PathPattern::parse(text).map(|_| text).unwrap_err();
            assert!(error.message().contains(message), "{text}: {error}");
            assert!(error.hint().contains(hint), "{text}: {error}");
            assert!(PathPattern::prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_normal_path_can_be_written_as_a_pattern() {
        for raw in
            ["/a|b", "/[x]", "/\"q\"", "/é", "/^`", "/<a>", "/a;b=1", "/%2f%00", "/\\", "/%3a:", "/a/./b/..//c/", "/*x"]
        {
            let normal = path::normalise(raw).unwrap_or_else(|error| panic!("{raw}: {error}")).path;
            PathPattern::parse(&normal).unwrap_or_else(|error| panic!("{raw}: {error}"));
        }
    }

    #[test]
    fn a_prefix_takes_no_tail_and_forgets_its_last_slash() {
        assert!(PathPattern::prefix("/a/{rest...}").unwrap_err().hint().contains("leave `{...}` out"));
        assert_eq!(PathPattern::prefix("/a/").unwrap().segments, PathPattern::prefix("/a").unwrap().segments);
        assert_eq!(PathPattern::prefix("/").unwrap().segments, []);
    }

    #[test]
    fn expressions_are_refused_with_a_cause() {
        for (text, message) in [
            ("/(", "unclosed group"),
            ("/a)|(/b", "unopened group"),
            ("/[", "unclosed character class"),
            ("/(?=a)", "look-around"),
            ("/a{1000}{1000}{1000}", "too large"),
            ("/a\\", "incomplete escape sequence"),
            ("api/.*", "can match no path"),
            ("^api/.*", "can match no path"),
            ("(?x)/a # why", "unclosed group"),
        ] {
            let error = PathPattern::regex(text).map(|_| text).unwrap_err();
            assert!(error.message().contains(message), "{text}: {error}");
            assert!(!error.message().contains('\n'), "{text}: {error}");
        }
        assert!(Is::regex("(").is_err());
    }

    #[test]
    fn the_literal_beginning_of_an_expression_is_what_must_be_there() {
        for (text, expected) in [
            ("/api/v[0-9]", "/api/v"),
            ("^/api/x$", "/api/x"),
            ("/api", "/api"),
            ("/api/?", "/api"),
            ("/apis*", "/api"),
            ("/apis{0,1}", "/api"),
            ("/apis+", "/apis"),
            ("/ö?", "/"),
            ("/a|/b", ""),
            ("(/a)?/b", ""),
            ("/a\\.b", "/a"),
        ] {
            assert_eq!(PathPattern::regex(text).unwrap().regex_literal_prefix(), expected, "{text}");
        }
    }

    #[test]
    fn methods_are_listed_for_allow() {
        let purge = Method::from_bytes(b"PURGE").unwrap();
        let methods: Methods = [&purge, &Method::POST, &Method::GET, &purge].into_iter().collect();
        assert_eq!(methods.to_string(), "GET, HEAD, POST, PURGE");
        assert!(methods.allows(&Method::HEAD) && methods.allows(&purge));
        assert!(!methods.allows(&Method::PUT) && !methods.names(&Method::HEAD));
        assert!(Methods::default().is_empty() && !methods.is_empty());
    }

    #[test]
    fn decoding_leaves_alone_what_is_not_encoded() {
        let decode = |coding: Coding, raw: &str| String::from_utf8(coding.decode(raw.as_bytes()).collect()).unwrap();
        assert_eq!(decode(Coding::Form, "a+b%20c%2Bd%"), "a b c+d%");
        assert_eq!(decode(Coding::Percent, "a+b%20c%4"), "a+b c%4");
        assert_eq!(decode(Coding::Form, "%zz%%41"), "%zz%A");
        assert_eq!(decode(Coding::Plain, "a+b%20c"), "a+b%20c");
    }
}
