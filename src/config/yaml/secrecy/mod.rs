//! What stands in the file, is secret by its name or its form, and must not be shown by what is said of a mistake: values under
//! keys that say so, private keys, credentials in URLs.
//!
//! Where the type of a setting says that it is a secret, the decoder knows.

mod text;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::decode::places::{Step, Types};
use super::expand::has_reference;
use super::tree::{Content, Entry, Node, Scalar, Style};
pub(crate) use text::{in_comments, in_text, united};

/// How names of secrets end, without capitals and what stands between words.
const ENDS: [&str; 24] = [
    "secret",
    "secrets",
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "token",
    "tokens",
    "apikey",
    "apikeys",
    "accesskey",
    "privatekey",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "sessionkey",
    "sharedkey",
    "authkey",
    "hmackey",
    "basicauth",
    "credential",
    "credentials",
    "authorization",
];
/// Values that are none, whatever their key is called.
const PLAIN: [&str; 10] = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "none"];
/// How a condition on a header or cookie says what its value is.
const MATCHES: [&str; 3] = ["exact", "prefix", "regex"];
/// Keys whose values are secrets in some places. Where one cannot be filled in, or the types do not know the key, nobody learns
/// which place it is.
const OFTEN_SECRET: [&str; 3] = ["key", "keys", "hash"];
/// What the keys of a provider of tokens are told by.
const OF_KEYS: [&str; 16] = [
    "secret",
    "secrets",
    "secret_encoding",
    "pem",
    "jwks",
    "jwks_url",
    "discover",
    "refresh",
    "timeout",
    "wait",
    "start_wait",
    "required_at_start",
    "max_stale",
    "bytes_max",
    "insecure",
    "tls",
];
/// What templates name, `${claims.sub}`: no secrets.
const TEMPLATES: [&str; 9] = ["path", "claims", "identity", "request", "client", "route", "query", "headers", "parts"];
/// What is shown in the place of a secret.
pub(crate) const STARS: &str = "***";

/// Where secrets stand, and their texts, each with what is shown in its place.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) spans: Vec<Range<usize>>,
    pub(crate) texts: Vec<(String, String)>,
}

/// What is known of a place by the keys that lead to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    /// None of them says that a secret follows.
    Plain,
    /// The nearest does, or one above, and the types do not know what stands between: all is secret.
    Secret,
    /// One above does, and yet the types know this: what they do not know of it is secret.
    Known,
}

impl Secrets {
    /// Searches a node and all below it. What came from outside the file is kept out of sight without this, but for defaults.
    pub(crate) fn find(root: &Node, types: &Types<'_>) -> Self {
        let mut found = Self::default();
        let mut path: Vec<Step<'_>> = Vec::new();
        // Most keys stand in a file often.
        let mut misspelt: HashMap<&str, bool> = HashMap::new();
        let mut open = vec![(root, Under::Plain, None::<Step<'_>>, 0)];
        while let Some((node, under, step, depth)) = open.pop() {
            path.truncate(depth);
            path.extend(step);
            let below = path.len();
            match &node.content {
                Content::Scalar(scalar) => found.scalar(node, scalar, under == Under::Secret),
                Content::List(items) => {
                    open.extend(items.iter().map(|item| (item, under, Some(Step::Item), below)));
                }
                Content::Mapping(_) if under == Under::Secret && !types.have_keys(&path) => {
                    found.spans.push(node.span.clone());
                }
                Content::Mapping(entries) => {
                    let mut known = HashSet::new();
                    for entry in entries {
                        let step = Step::Key(entry.key.text());
                        path.push(step);
                        if under != Under::Plain && types.know(&path) {
                            known.insert(entry.key.text());
                        }
                        let key = entry.key.text();
                        let is_misspelt = *misspelt.entry(key).or_insert_with(|| is_misspelt(key));
                        let inner = found.under(entry, under, is_misspelt, || types.know(&path));
                        path.truncate(below);
                        open.push((&entry.value, inner, Some(step), below));
                    }
                    found.keys(entries, |key| under != Under::Plain && !known.contains(key));
                }
            }
        }
        found
    }

    /// What the value of an entry is under. `is_known`: whether the types know it.
    fn under(
        &mut self,
        Entry { key, value }: &Entry,
        around: Under,
        is_misspelt: bool,
        is_known: impl Fn() -> bool,
    ) -> Under {
        let key = key.text();
        let is_condition = around != Under::Plain && MATCHES.contains(&key);
        let may_be = OFTEN_SECRET.contains(&key) || is_misspelt;
        let is_unfilled = may_be && has_unfilled(value);
        if is_condition || is_unfilled || is_secret_name(key) || around != Under::Plain && !is_known() {
            Under::Secret
        } else if may_be && !is_known() && !value.scalar().is_some_and(|scalar| is_file(&scalar.text)) {
            // Seldom enough that no message needs to do without the words in it.
            self.spans.push(value.span.clone());
            Under::Plain
        } else if around == Under::Plain {
            Under::Plain
        } else {
            Under::Known
        }
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, is_named: bool) {
        match scalar {
            Scalar { text, reference: Some(written), .. } => {
                let is_plain = |default: &Range<usize>| is_named && is_plain(&written[default.clone()]);
                if (is_named || is_private_key(text)) && !defaults(written).iter().all(is_plain)
                    || userinfo(written).is_some_and(|credentials| tells(&written[credentials]))
                {
                    self.spans.push(node.span.clone());
                }
            }
            // Nothing but a tag, `!…`: it is a text that begins so, and has no quotes.
            _ if is_named && scalar.text.is_empty() && scalar.style == Style::Plain => {
                self.spans.push(node.span.clone());
            }
            // It could not be filled in. Around the reference, or as its default, there may be a secret.
            _ if is_named && is_unfilled(node) => self.spans.push(node.span.clone()),
            _ if is_named && may_be_secret(scalar) || is_private_key(&scalar.text) || hangs(&scalar.text) => {
                self.add(node, &scalar.text);
            }
            _ => {
                let credentials = userinfo(&scalar.text).map(|credentials| &scalar.text[credentials]);
                if let Some(credentials) = credentials.filter(|credentials| tells(credentials)) {
                    self.add(node, credentials);
                    // To who reads the URL, what has a slash in it ends there.
                    let pieces =
                        credentials.split(['/', '?', '#']).filter(|piece| piece.len() > 3 && *piece != credentials);
                    self.texts.extend(pieces.map(|piece| (piece.to_owned(), STARS.to_owned())));
                }
            }
        }
    }

    /// Keys that are no keys: a secret that has no quotes goes on behind a comma in it, stands in braces, or hangs on its
    /// name without a space between; or what is secret has something said about it. `may_be`: whether one may be a secret.
    fn keys(&mut self, entries: &[Entry], may_be: impl Fn(&str) -> bool) {
        let mut before: Option<&str> = None;
        let mut follows = false;
        for Entry { key, value } in entries {
            let is_alone = value.scalar().is_some_and(|scalar| scalar.style == Style::Absent);
            if let Some(name) = before.take_if(|_| is_alone) {
                follows = is_secret_name(name) || OFTEN_SECRET.contains(&name) || is_misspelt(name);
            }
            let is_secret = || (is_alone || is_like_secret(key.text())) && may_be(key.text());
            let has_credentials = || userinfo(key.text()).is_some_and(|credentials| tells(&key.text()[credentials]));
            let is_unparted = || is_alone && (unparted(key.text()).is_some() || has_credentials());
            if is_alone && follows || is_secret() || hangs(key.text()) || is_unparted() {
                self.add(key, key.text());
            }
            if !is_alone {
                (before, follows) = (Some(key.text()), false);
            }
        }
    }

    fn add(&mut self, node: &Node, text: &str) {
        self.spans.push(node.span.clone());
        self.texts.push((text.to_owned(), STARS.to_owned()));
    }
}

/// Whether what stands under a key of this name is a secret, if it is a text: `client_secret`, `X-Auth-Token`.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let ends = |end: &str| {
        let mut letters = name.chars().rev().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
        end.chars().rev().all(|letter| letters.next() == Some(letter))
    };
    ENDS.iter().any(|end| ends(end))
}

/// Whether a key may be meant as the name of a secret: it is one but for a letter.
fn is_misspelt(name: &str) -> bool {
    let last = name.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    // Of a name in one word, the end that begins with a capital.
    let last = last.char_indices().rev().find(|(_, c)| c.is_uppercase()).map_or(last, |(at, _)| &last[at..]);
    let last = last.to_lowercase();
    (5..=20).contains(&last.len())
        && ENDS
            .iter()
            .filter(|end| end.len() > 4 && end.len().abs_diff(last.len()) <= 1)
            .any(|end| strsim::damerau_levenshtein(&last, end) <= 1)
}

/// Whether a text is the path of a file, as `key` has it where it is no secret.
fn is_file(text: &str) -> bool {
    text.contains('/') && [".pem", ".key", ".crt", ".cer"].iter().any(|end| text.ends_with(end))
}

/// Whether a key is more like a secret than like a name: long, of letters and digits.
fn is_like_secret(key: &str) -> bool {
    key.len() >= 12 && key.contains(|c: char| c.is_ascii_digit()) && key.contains(|c: char| c.is_alphabetic())
}

/// Whether a text is the name of a secret and the secret, with nothing but a `:` or `=` between.
fn hangs(text: &str) -> bool {
    let url = text.find("://");
    text.match_indices([':', '=']).any(|(at, _)| {
        let begin = text[..at].rfind(|c: char| !is_part_of_name(c)).map_or(0, |at| at + width(text, at));
        let value = &text[at + 1..];
        let is_port = url.is_some_and(|url| url < at) && value.starts_with(|c: char| c.is_ascii_digit());
        is_secret_name(&text[begin..at])
            && !is_port
            && !value.starts_with(['=', ':', ' ', '/'])
            && !is_plain(value)
            && !is_one_reference(value)
            && !is_template(value)
    })
}

/// What stands behind the name of a secret that a text begins with, with nothing but a blank between: a colon is missing.
fn unparted(text: &str) -> Option<&str> {
    let (name, value) = text.split_once([' ', '\t'])?;
    let name = name.trim_matches(['"', '\'']);
    let value = value.trim_start();
    let is_value = !value.is_empty() && !value.starts_with([':', '=', '#']) && !is_reference(value);
    (is_value && name.chars().all(is_part_of_name) && is_secret_name(name)).then_some(value)
}

fn is_part_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

/// Whether a value under such a key may be the secret itself. A template is none, and no name of a variable.
pub(crate) fn may_be_secret(scalar: &Scalar) -> bool {
    !scalar.is_outside() && !is_template(&scalar.text) && !is_plain(&scalar.text) && !is_one_reference(&scalar.text)
}

/// Whether a text has something to fill in, and nothing else within `${…}` than what can be.
fn is_template(text: &str) -> bool {
    let mut pieces = text.split("${");
    pieces.next();
    let mut has_any = false;
    pieces.all(|piece| {
        has_any = true;
        let Some((inner, _)) = piece.split_once('}') else { return piece.is_empty() };
        let is_known = inner.split_once('.').is_some_and(|(first, _)| TEMPLATES.contains(&first));
        is_known || inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }) && has_any
}

fn is_plain(text: &str) -> bool {
    PLAIN.contains(&text.to_ascii_lowercase().as_str())
}

/// Where in what the file has the defaults of references stand: `${env:NAME:-default}`. Empty ones are none.
pub(crate) fn defaults(written: &str) -> Vec<Range<usize>> {
    const OPEN: &str = "${env:";
    let mut found = Vec::new();
    for (at, _) in written.match_indices(OPEN) {
        let from = at + OPEN.len();
        let body = written[from..].split('}').next().unwrap_or_default();
        if let Some((name, default)) = body.split_once(":-")
            && !default.is_empty()
            && !written[..at].ends_with('$')
        {
            found.push(from + name.len() + 2..from + body.len());
        }
    }
    found
}

/// What the file has, without the defaults in it, and without what it tells before the host of a URL.
pub(crate) fn without_defaults(written: &str) -> String {
    let mut shown = written.to_owned();
    if let Some(credentials) = userinfo(written).filter(|credentials| tells(&written[credentials.clone()])) {
        shown.replace_range(credentials, STARS);
        return shown;
    }
    defaults(written).into_iter().rev().for_each(|default| shown.replace_range(default, STARS));
    shown
}

/// Whether a text holds a private key, as PEM or as a JWK (RFC 7517 §4, RFC 7518 §6).
pub(crate) fn is_private_key(text: &str) -> bool {
    let is_jwk = || text.contains("\"kty\"") && (text.contains("\"k\"") || text.contains("\"d\""));
    text.contains("PRIVATE KEY-----") || is_jwk()
}

/// Where in a text stands what is before the last `@` of `scheme://user:password@host` (RFC 3986 §3.2.1), however it is written:
/// no key of the configuration takes it there. A password that should be percent-encoded may have a slash or a blank in it, and
/// a path may have an `@`: that is rather hidden with it. References are looked at as one word each.
fn userinfo(text: &str) -> Option<Range<usize>> {
    let opaque = without_references(text);
    let end = opaque.rfind('@')?;
    let from = match opaque.find("://") {
        Some(at) => at + 3,
        // Without it: a slash is missing, or all that is before the user.
        None if is_user_and_password(&opaque[..end]) && opaque[end + 1..].starts_with(may_begin_host) => 0,
        None => return None,
    };
    (from < end).then_some(from..end)
}

fn may_begin_host(c: char) -> bool {
    c.is_alphanumeric() || c == '[' || c == ' '
}

/// Whether a text is `user:password`, perhaps with what is left of a scheme before it.
fn is_user_and_password(text: &str) -> bool {
    const ADDRESSES: [&str; 4] = ["mailto", "acct", "sip", "xmpp"];
    let Some((user, password)) = text.split_once(':') else {
        // `//token`, `redis//token`
        return text.split_once("//").is_some_and(|(scheme, user)| {
            scheme.chars().all(|c| c.is_ascii_alphanumeric()) && !user.is_empty() && !user.contains(' ')
        });
    };
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '%' | '/' | '\\');
    user.chars().all(is_part)
        && !password.is_empty()
        && !password.starts_with(char::is_whitespace)
        && !ADDRESSES.contains(&user.to_ascii_lowercase().as_str())
}

/// Whether what stands before the host of a URL tells more than where it comes from.
fn tells(credentials: &str) -> bool {
    let mut literal = String::new();
    let mut rest = credentials;
    while let Some(at) = rest.find("${") {
        literal.push_str(&rest[..at]);
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        if !is_one_reference(&rest[at..end]) {
            return true;
        }
        rest = &rest[end..];
    }
    literal.push_str(rest);
    !literal.split_once(':').map_or(literal.as_str(), |(_, password)| password).is_empty()
}

/// A text of the same length, without what stands in its references.
fn without_references(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, end)) =
        rest.find("${").and_then(|at| Some((at, at + rest[at..].find('}')? + 1))).filter(|(at, end)| {
            // One that is never closed ends nowhere.
            !rest[at + 2..*end].contains([' ', '"', '\''])
        })
    {
        out.push_str(&rest[..at]);
        out.extend(std::iter::repeat_n('x', end - at));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Where in the text of a tree stands what follows the names in `${…}` that are not as they should be, such as `${X:-default}`.
pub(crate) fn improper_within(root: &Node, text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        match &node.content {
            Content::Scalar(_) => {
                let written = text.get(node.span.clone()).unwrap_or_default();
                let start = node.span.start;
                found.extend(improper(written).into_iter().map(|span| start + span.start..start + span.end));
            }
            Content::List(items) => open.extend(items),
            Content::Mapping(entries) => open.extend(entries.iter().flat_map(|entry| [&entry.key, &entry.value])),
        }
    }
    found
}

/// The same of a text.
fn improper(text: &str) -> Vec<Range<usize>> {
    const OPEN: &str = "${";
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut next = 0;
    // Each byte is looked at a few times, however many begin: what is hidden is not searched again.
    while let Some(at) = text[next..].find(OPEN).map(|more| next + more) {
        let from = at + OPEN.len();
        let is_escaped = text[next..at].ends_with('$');
        next = from;
        let stop = text[from..].find(['}', '\n', '\r']).map_or(text.len(), |more| from + more);
        let is_closed = text[stop..].starts_with('}');
        let inner = &text[from..stop];
        let is_proper = is_closed
            && match inner.split_once(':') {
                Some(("env", rest)) => {
                    is_name(rest.split_once(":-").map_or(rest, |(name, _)| name)) && !inner.contains(OPEN)
                }
                Some(("file", path)) => !path.contains(":-") && !path.contains('$'),
                _ => is_template(&text[at..=stop]),
            };
        // The inner one is looked at for itself.
        let holds_one = inner.split_once(OPEN).is_some_and(|(before, nested)| {
            before.strip_prefix("env:").and_then(|name| name.strip_suffix(":-")).is_some_and(is_name)
                && is_one_reference(&format!("{OPEN}{nested}}}"))
        });
        // What it names has no default that could be a secret, closed or not.
        let is_of_policies = inner.split_once('.').is_some_and(|(first, _)| TEMPLATES.contains(&first));
        if is_proper || holds_one || is_escaped || is_of_policies {
            continue;
        }
        let name = inner.strip_prefix("env:").or_else(|| inner.strip_prefix("file:")).unwrap_or(inner);
        let length = name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        let begin = from + inner.len() - name.len() + length;
        // Around a default that has a reference in it, there is more of it.
        let line = text[stop..].find(['\n', '\r']).map_or(text.len(), |more| stop + more);
        let end =
            if inner.contains(OPEN) { text[stop..line].rfind('}').map_or(stop, |more| stop + more) } else { stop };
        if begin < end {
            found.push(begin..end);
        }
        next = end.max(from);
    }
    found
}

/// Whether a value, as a line has it, comes from outside the file, all of it.
fn is_reference(value: &str) -> bool {
    let inner = value.trim_start_matches(['"', '\'']);
    let Some(end) = inner.find('}') else { return false };
    let after = inner[end + 1..].trim_start_matches(['"', '\'']);
    let rest = after.trim_start();
    // A comment has a blank before it.
    let is_end =
        rest.is_empty() || rest.starts_with([',', '}', ']']) || rest.starts_with('#') && rest.len() < after.len();
    is_one_reference(&inner[..=end]) && is_end
}

/// How many bytes the character at a place has.
fn width(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(1, char::len_utf8)
}

/// Whether a value could not be filled in, and is more than one reference as it should be.
fn is_unfilled(node: &Node) -> bool {
    node.scalar()
        .is_some_and(|scalar| !scalar.is_outside() && has_reference(&scalar.text) && !is_one_reference(&scalar.text))
}

/// The same of a value or one in a list.
fn has_unfilled(node: &Node) -> bool {
    match &node.content {
        Content::Scalar(_) => is_unfilled(node),
        Content::List(items) => items.iter().any(is_unfilled),
        Content::Mapping(_) => false,
    }
}

/// Whether a text is one reference as it should be. What stands in for a value that is not there would be the secret, and so
/// may be whatever else stands in it or around it.
fn is_one_reference(text: &str) -> bool {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let Some(inner) = text.strip_suffix('}').filter(|inner| !inner.contains('}')) else { return false };
    inner.strip_prefix("${env:").is_some_and(is_name)
        || inner.strip_prefix("${file:").is_some_and(|path| !path.contains(":-") && !path.contains('$'))
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Used, parse};
    use super::*;

    #[test]
    fn only_what_stands_before_the_host_is_a_credential() {
        let of = |text: &'static str| userinfo(text).map(|credentials| &text[credentials]);
        assert_eq!(of("redis://user:pass@host:6379/0"), Some("user:pass"));
        assert_eq!(of("http://a@b@c"), Some("a@b"));
        assert_eq!(of("redis://user:pa/ss@host"), Some("user:pa/ss"));
        assert_eq!(of("redis://u:${env:X:-a/b@c}@host"), Some("u:${env:X:-a/b@c}"));
        for (text, credentials) in [
            ("https://token/with-slash@host", "token/with-slash"),
            ("redis://u:12/34@host", "u:12/34"),
            ("redis://u:pa ss @ host", "u:pa ss "),
            ("redis:// u:pass@host", " u:pass"),
            ("https://token?x#y@host", "token?x#y"),
            ("redis:/u:pass@host", "redis:/u:pass"),
            ("redis//u:pass@host", "redis//u:pass"),
            ("//token@host", "//token"),
            ("u:pass@host:6379", "u:pass"),
            (":pass@[::1]", ":pass"),
            ("redis:\\\\u:pass@host", "redis:\\\\u:pass"),
        ] {
            assert_eq!(of(text), Some(credentials), "{text}");
        }
        for none in [
            "http://host/a",
            "a@b",
            "http://@host",
            "mailto:a@b",
            "x://${a@b}",
            "to: a@b",
            "x ? y : 'a@b'",
            "/users/{id}/@me",
            "claims.email.endsWith('@host')",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        assert!(tells("u:${env:X:-a}") && tells("u:a${env:X}") && tells("token") && tells("${env:X:-a}"));
        assert!(!tells("u:${env:X}") && !tells("${env:U}:${env:X}") && !tells("user:"));
    }

    #[test]
    fn what_follows_the_name_in_a_reference_that_is_not_as_it_should_be_is_found() {
        let left = |text: &str| {
            let mut left = text.to_owned();
            improper(text).into_iter().rev().for_each(|span| left.replace_range(span, "*"));
            left
        };
        for kept in
            ["${env:A}", "${env:A:-b}", "${file:/a b}", "${claims.sub}", "${A}", "$${a-b}", "${claims./a/b|json}", "$"]
        {
            assert_eq!(left(kept), kept);
        }
        for (text, expected) in [
            ("${A-b} ${A:-b} ${A?b}", "${A*} ${A*} ${A*}"),
            ("${env:A-b} ${ENV:A:-b}", "${env:A*} ${ENV*}"),
            ("x ${env:A:-b\nc", "x ${env:A*\nc"),
            ("${env:A:-${env:B:-c}} d", "${env:A*} d"),
            ("${file:/a:-b}", "${file:*}"),
        ] {
            assert_eq!(left(text), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_without_quotes_may_look_like_a_key() {
        for (text, secrets) in [
            ("a: {token: hunter2,hunter3, b: c, d}", vec!["hunter2", "hunter3"]),
            ("a: {token:hunter2}", vec!["token:hunter2"]),
            ("a: token=hunter2", vec!["token=hunter2"]),
            ("a: 'http://x/?api_key=hunter2'", vec!["http://x/?api_key=hunter2"]),
            ("a: [\"claim:sub\", \"x:${env:A}\"]\nb: {c, d}", vec![]),
            ("a: \"claims.token == 'x' ? token : b\"", vec![]),
        ] {
            let root = parse(text, Used::default()).unwrap().root;
            let mut found: Vec<String> =
                Secrets::find(&root, &Types::none()).texts.into_iter().map(|(text, _)| text).collect();
            found.sort();
            assert_eq!(found, secrets, "{text}");
        }
    }

    #[test]
    fn a_name_says_that_its_value_is_a_secret() {
        for name in ["secret", "client_secret", "clientSecret", "X-Auth-Token", "PASSWORD", "api-keys", "Authorization"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["token_use", "secret_encoding", "key", "password_file", "upstream", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_secret_by_its_name_or_its_form_is_found() {
        let text = "\
a: {token: one-1, other: two-2, password: [three-3, {x: y}], secret: off}
headers: {x-token: {exact: eight-8, present: x}}
set: {Authorization: 'Bearer four-4', X-Token: '${claims.sub}'}
url: http://five-5@host
pem: |
  -----BEGIN PRIVATE KEY-----
  six-6
jwk: '{\"kty\": \"oct\", \"k\": \"seven-7\"}'
";
        let root = parse(text, Used::default()).unwrap().root;
        let mut texts: Vec<String> =
            Secrets::find(&root, &Types::none()).texts.into_iter().map(|(text, _)| text).collect();
        texts.sort();
        let [pem, bearer, five, one, three, jwk] = texts.as_slice() else { panic!("{texts:?}") };
        assert!(pem.contains("six-6") && jwk.contains("seven-7"));
        let others = [bearer, five, one, three].map(String::as_str);
        assert_eq!(others, ["Bearer four-4", "five-5", "one-1", "three-3"]);
        // Nobody says what a mapping below such a key has in it, and none of it is shown.
        let spans = Secrets::find(&root, &Types::none()).spans;
        let hidden: Vec<&str> =
            spans.into_iter().map(|span| &text[span]).filter(|text| text.starts_with('{')).collect();
        assert_eq!(hidden, ["{exact: eight-8, present: x}", "{x: y}"]);
    }

    #[test]
    fn what_the_keys_of_a_provider_are_told_by_is_known() {
        let keys = serde_json::to_value(crate::config::identity::Keys::default()).unwrap();
        let mut known: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
        let mut told = OF_KEYS.to_vec();
        known.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, known);
    }
}
