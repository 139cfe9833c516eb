//! What stands in the file, is secret by its name or its form, and must not be shown by what is said of a mistake: values under
//! keys that say so, private keys, credentials in URLs.
//!
//! Where the type of a setting says that it is a secret, the decoder knows.

use std::ops::Range;

use super::tree::{Content, Node, Scalar};

/// How names of secrets end, without capitals and what stands between words.
const ENDS: [&str; 17] = [
    "secret",
    "secrets",
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "token",
    "tokens",
    "apikey",
    "apikeys",
    "accesskey",
    "privatekey",
    "secretkey",
    "signingkey",
    "credential",
    "credentials",
    "authorization",
];
/// Values that are none, whatever their key is called.
const PLAIN: [&str; 10] = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "none"];
/// How a condition on a header or cookie says what its value is.
const MATCHES: [&str; 3] = ["exact", "prefix", "regex"];
/// What is shown in the place of a secret.
pub(crate) const STARS: &str = "***";

/// Where secrets stand, and their texts, each with what is shown in its place.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) spans: Vec<Range<usize>>,
    pub(crate) texts: Vec<(String, String)>,
}

impl Secrets {
    /// Searches a node and all below it. What came from outside the file is kept out of sight without this.
    pub(crate) fn find(root: &Node) -> Self {
        let mut found = Self::default();
        let mut open = vec![(root, false)];
        while let Some((node, is_named)) = open.pop() {
            match &node.content {
                Content::Scalar(scalar) if scalar.is_outside() => {}
                Content::Scalar(scalar) if is_named && may_be_secret(scalar) || is_private_key(&scalar.text) => {
                    found.add(node, &scalar.text);
                }
                Content::Scalar(scalar) => {
                    if let Some(credentials) = userinfo(&scalar.text) {
                        found.add(node, credentials);
                    }
                }
                Content::List(items) => open.extend(items.iter().map(|item| (item, is_named))),
                Content::Mapping(entries) => open.extend(entries.iter().map(|entry| {
                    let key = entry.key.text();
                    (&entry.value, is_secret_name(key) || is_named && MATCHES.contains(&key))
                })),
            }
        }
        found
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

/// Whether a value under such a key may be the secret itself. A template is none.
pub(crate) fn may_be_secret(scalar: &Scalar) -> bool {
    !scalar.is_outside() && !scalar.text.contains("${") && !PLAIN.contains(&scalar.text.to_ascii_lowercase().as_str())
}

/// Whether a text holds a private key, as PEM or as a JWK (RFC 7517 §4, RFC 7518 §6).
pub(crate) fn is_private_key(text: &str) -> bool {
    let is_jwk = || text.contains("\"kty\"") && (text.contains("\"k\"") || text.contains("\"d\""));
    text.contains("PRIVATE KEY-----") || is_jwk()
}

/// What stands before the `@` of `scheme://user:password@host` (RFC 3986 §3.2.1): no key of the configuration takes it there.
fn userinfo(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(userinfo, _)| userinfo).filter(|userinfo| !userinfo.is_empty())
}

/// Where secrets seem to stand in a text that is no YAML, and may be shown to say where it ceases to be: what follows a key
/// whose name says it, to the end of its entry.
pub(crate) fn in_text(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    // The indentation of a key whose value stands in the lines below it.
    let mut block: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        match block {
            Some(outer) if indent > outer || line.trim().is_empty() => spans.push(start..start + line.len()),
            _ => {
                block = None;
                for (colon, _) in line.match_indices(':') {
                    let key = line[..colon].trim_end().trim_end_matches(['"', '\'']);
                    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
                    let name = &key[key.rfind(|c| !is_part(c)).map_or(0, |at| at + width(key, at))..];
                    let value = line[colon + 1..].trim_start();
                    if !is_secret_name(name) || value.starts_with(['{', '[']) || value.starts_with("${") {
                        continue;
                    }
                    if value.is_empty() || value.starts_with(['|', '>']) {
                        block = Some(indent);
                        break;
                    }
                    let from = line.len() - value.len();
                    // In quotes, what would end it may belong to it.
                    let end = match value.starts_with(['"', '\'']) {
                        true => value.len(),
                        false => value.find([',', '}', ']']).unwrap_or(value.len()),
                    };
                    if !value.trim_start_matches(['"', '\'']).starts_with("${") {
                        spans.push(start + from..start + from + end);
                    }
                }
            }
        }
        start += line.len();
    }
    spans
}

/// How many bytes the character at a place has.
fn width(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Used, parse};
    use super::*;

    #[test]
    fn only_what_stands_before_the_host_is_a_credential() {
        assert_eq!(userinfo("redis://user:pass@host:6379/0"), Some("user:pass"));
        assert_eq!(userinfo("http://a@b@c"), Some("a@b"));
        for none in ["http://host/a@b", "http://host?a@b", "a@b", "http://@host", "mailto:a@b"] {
            assert_eq!(userinfo(none), None, "{none}");
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
        let mut texts: Vec<String> = Secrets::find(&root).texts.into_iter().map(|(text, _)| text).collect();
        texts.sort();
        let [pem, bearer, eight, five, one, three, jwk] = texts.as_slice() else { panic!("{texts:?}") };
        assert!(pem.contains("six-6") && jwk.contains("seven-7"));
        let others = [bearer, eight, five, one, three].map(String::as_str);
        assert_eq!(others, ["Bearer four-4", "eight-8", "five-5", "one-1", "three-3"]);
    }

    #[test]
    fn a_secret_is_found_in_what_is_no_yaml() {
        let text = "\
a: {secret: hunter2, b: 1
\"token\" : \"hunter2, hunter2
password: |
  hunter2

  hunter2
b: 1
client_secret: '${env:A}
tokens: {a: 1
é-token: hunter2";
        let mut left = text.to_owned();
        for span in in_text(text).into_iter().rev() {
            left.replace_range(span, "");
        }
        assert!(!left.contains("hunter"), "{left}");
        for kept in ["a: {secret: , b: 1\n", "b: 1\n", "client_secret: '${env:A}\n", "tokens: {a: 1\n"] {
            assert!(left.contains(kept), "{kept} of {left}");
        }
    }
}
