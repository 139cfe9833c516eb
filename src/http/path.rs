//! The path of a request, made normal once: the string that is routed, authorised, cached and forwarded.
//!
//! Every reader behind this function sees one spelling, so a rule written for `/admin` cannot be passed by
//! `/x/../admin`, `//admin` or `/%61dmin`. What cannot be given one meaning is refused or *held*: a route must ask
//! for it in words (`Held`).
//!
//! | In the path | What happens | Why |
//! |---|---|---|
//! | `%61` (unreserved) | decoded | RFC 3986 §6.2.2.2: the two spellings are equal |
//! | `%3a`, `%c3` (others) | hex in upper case | §6.2.2.1; decoding would change what a reader may split on |
//! | `%zz`, `%4` | refused | has no meaning |
//! | `//` | one slash | most file and application servers read it so |
//! | `.`, `..` | removed (§5.2.4) | after decoding, so `%2e%2e` counts, and after joining slashes |
//! | `..` above the root | refused | clamping it would give an attack the shape of a lawful path |
//! | `\|`, `[`, `"`, `é` … | percent-encoded | browsers send some of them raw; the escape is the same octet |
//! | controls, space, `?`, `#` | refused | they end or split a request line somewhere |
//! | `%2F`, `%00`, `\`, `;` | held | some server behind takes them for a separator or an end |
//! | `..;`, `..%2F`, `%5C..` | refused | a dot segment to whoever splits there, whatever the route allows |
//!
//! Escapes of other reserved characters (`%3A` for `:`) keep their spelling: RFC 3986 §2.2 does not call them equal,
//! signatures over a path count on it. `%252e` is left alone: it decodes to the text `%2e`, once.

use std::borrow::Cow;
use std::fmt;

/// A path in its one spelling, and what it holds that a route must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// Starts with `/`, is ASCII, has no empty (but the last) and no dot segment. Borrowed when the input was normal.
    pub path: Cow<'a, str>,
    /// What is refused unless the route allows it. Counts what the raw path held, also in segments a `..` removed.
    pub held: Held,
}

/// Why a path has no normal form. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Does not start with `/`. The `*` of `OPTIONS *` is not a path and never comes here.
    NotAbsolute,
    /// A `%` that two hex digits do not follow.
    BadEscape,
    /// A control, a space, `?` or `#`: never part of a path (RFC 9112 §3.2, RFC 3986 §3.3).
    ForbiddenByte,
    /// A `..` that leads above the root.
    AboveRoot,
    /// A `.` or `..` next to `;`, `\`, `%2F`, `%3B`, `%5C` or `%00`: a dot segment for whoever splits there.
    HiddenDots,
}

impl PathError {
    /// One sentence for the client, without a word of the request in it.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotAbsolute => "The path does not start with a slash.",
            Self::BadEscape => "The path has a percent sign without two hex digits.",
            Self::ForbiddenByte => "The path has a character that must be percent-encoded.",
            Self::AboveRoot => "The path leads above the root.",
            Self::HiddenDots => "The path hides a dot segment behind another separator.",
        }
    }
}

/// As a part of a sentence.
impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = self.detail().trim_end_matches('.');
        let (first, rest) = sentence.split_at(1);
        write!(f, "{}{rest}", first.to_ascii_lowercase())
    }
}

impl std::error::Error for PathError {}

/// A set of things that are refused in a path unless the route allows them (`path_allow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held(u8);

impl Held {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `%2F`. It stays escaped and never becomes a segment boundary here.
    pub const ENCODED_SLASH: Self = Self(1);
    /// `%00`. A server that uses C strings ends the path there.
    pub const ENCODED_NUL: Self = Self(1 << 1);
    /// `\` or `%5C`, both forwarded as `%5C`. Some servers take it for a slash.
    pub const BACKSLASH: Self = Self(1 << 2);
    /// A bare `;`, which starts path parameters for some servers. `%3B` is data (RFC 3986 §2.2) and is not held.
    pub const SEMICOLON: Self = Self(1 << 3);

    /// Every member with its word in the configuration.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("encoded_slash", Self::ENCODED_SLASH),
        ("encoded_nul", Self::ENCODED_NUL),
        ("backslash", Self::BACKSLASH),
        ("semicolon", Self::SEMICOLON),
    ];

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is left without `allowed`.
    #[must_use]
    pub const fn minus(self, allowed: Self) -> Self {
        Self(self.0 & !allowed.0)
    }

    /// One sentence for the client about the first of its members, without a word of the request in it.
    pub const fn detail(self) -> &'static str {
        if self.contains(Self::ENCODED_SLASH) {
            "The path has a percent-encoded slash, which is not allowed here."
        } else if self.contains(Self::ENCODED_NUL) {
            "The path has a percent-encoded NUL, which is not allowed here."
        } else if self.contains(Self::BACKSLASH) {
            "The path has a backslash, which is not allowed here."
        } else {
            "The path has a semicolon, which is not allowed here."
        }
    }

    /// The words of its members, in the order of [`Held::WORDS`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(_, held)| self.contains(*held)).map(|(word, _)| word)
    }
}

impl FromIterator<Held> for Held {
    fn from_iter<I: IntoIterator<Item = Self>>(members: I) -> Self {
        members.into_iter().fold(Self::NONE, Self::union)
    }
}

/// The words, joined with `, `.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.names().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

/// The normal form of `raw`, the path part of a request target without its query.
///
/// Normal input comes back borrowed after one scan. `normalise(normal.path)` gives the same path again.
///
/// # Errors
/// `PathError`, when the path has no form that means one thing to every reader.
pub fn normalise(raw: &str) -> Result<Normal<'_>, PathError> {
    let Survey { held, respell, fold, hidden } = survey(raw)?;
    let mut path = if respell { Cow::Owned(respelled(raw)) } else { Cow::Borrowed(raw) };
    if hidden {
        refuse_hidden_dots(&path)?;
    }
    if respell || fold {
        path = Cow::Owned(folded(&path)?);
    }
    Ok(Normal { path, held })
}

/// What one scan over a raw path found.
#[derive(Default)]
struct Survey {
    held: Held,
    /// Some byte or escape is not in its canonical spelling.
    respell: bool,
    /// There is a double slash or a segment that starts with a dot and may be a dot segment.
    fold: bool,
    /// There is a separator other than `/`.
    hidden: bool,
}

fn survey(raw: &str) -> Result<Survey, PathError> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut found = Survey::default();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match CLASS[byte as usize] {
            Class::Plain => {}
            Class::Slash => match bytes.get(at + 1) {
                Some(b'/') => found.fold = true,
                Some(b'.') => found.fold |= starts_with_dot_segment(&bytes[at + 1..]),
                _ => {}
            },
            Class::Percent => {
                let value = escape_at(bytes, at).ok_or(PathError::BadEscape)?;
                let lower = bytes[at + 1].is_ascii_lowercase() || bytes[at + 2].is_ascii_lowercase();
                found.respell |= lower || is_unreserved(value);
                let held = match value {
                    b'/' => Held::ENCODED_SLASH,
                    0 => Held::ENCODED_NUL,
                    b'\\' => Held::BACKSLASH,
                    _ => Held::NONE,
                };
                found.held = found.held.union(held);
                found.hidden |= !held.is_empty() || value == b';';
                at += 2;
            }
            Class::Semicolon => {
                found.held = found.held.union(Held::SEMICOLON);
                found.hidden = true;
            }
            Class::Backslash => {
                found.held = found.held.union(Held::BACKSLASH);
                found.hidden = true;
                found.respell = true;
            }
            Class::Encode => found.respell = true,
            Class::Forbidden => return Err(PathError::ForbiddenByte),
        }
        at += 1;
    }
    Ok(found)
}

/// What a raw byte is to the survey.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A `pchar` (RFC 3986 §3.3) without a second meaning.
    Plain,
    Slash,
    Percent,
    Semicolon,
    Backslash,
    /// Printable or non-ASCII, but no `pchar`.
    Encode,
    Forbidden,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Encode; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b';' => Class::Semicolon,
            b'\\' => Class::Backslash,
            0..=b' ' | 0x7F | b'?' | b'#' => Class::Forbidden,
            plain if is_unreserved(plain) || is_plain_reserved(plain) => Class::Plain,
            _ => Class::Encode,
        };
        byte += 1;
    }
    table
};

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The reserved characters that are data in any path: `sub-delims` without `;`, and `:` and `@` (RFC 3986 §3.3).
const fn is_plain_reserved(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

fn starts_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// The octet of the escape whose `%` is at `at`.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let (high, low) = (*bytes.get(at + 1)?, *bytes.get(at + 2)?);
    Some(hex_value(high)? << 4 | hex_value(low)?)
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Appends `%XX`, in upper case.
pub(super) fn push_escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Every byte and escape of a surveyed path in its canonical spelling. The answer is ASCII.
fn respelled(raw: &str) -> String {
    let bytes = raw.as_bytes();
    // Room for a few bytes that grow to three.
    let mut out = String::with_capacity(bytes.len() + 16);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (CLASS[byte as usize], escape_at(bytes, at)) {
            (Class::Percent, Some(value)) => {
                if is_unreserved(value) {
                    out.push(char::from(value));
                } else {
                    push_escape(value, &mut out);
                }
                at += 2;
            }
            (Class::Encode | Class::Backslash, _) => push_escape(byte, &mut out),
            _ => out.push(char::from(byte)),
        }
        at += 1;
    }
    out
}

/// Refuses a `.` or `..` that stands between separators of which one is not a slash.
///
/// A server that splits there (`..;` in servlet containers, `..%2F` where the path is decoded first, `..\` on some
/// systems) would climb although no segment here is a dot segment.
fn refuse_hidden_dots(path: &str) -> Result<(), PathError> {
    let bytes = path.as_bytes();
    // Whether the separator on the left was another than a slash.
    let mut odd_left = false;
    let mut start = 0;
    let mut at = 0;
    loop {
        let (odd_right, width) = match bytes.get(at) {
            None | Some(b'/') => (false, 1),
            Some(b';') => (true, 1),
            Some(b'%') if matches!(escape_at(bytes, at), Some(b'/' | b'\\' | b';' | 0)) => (true, 3),
            Some(_) => {
                at += 1;
                continue;
            }
        };
        if (odd_left || odd_right) && matches!(&bytes[start..at], b"." | b"..") {
            return Err(PathError::HiddenDots);
        }
        if at >= bytes.len() {
            return Ok(());
        }
        at += width;
        start = at;
        odd_left = odd_right;
    }
}

/// The path with slashes joined and dot segments removed (RFC 3986 §5.2.4, but refusing what leads above the root).
fn folded(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => {
                // Every kept segment put a slash in front of itself, so an empty output is the root.
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        // A path that ends in a slash or a dot segment names a folder.
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_has_one_normal_form() {
        for (raw, want) in [
            ("/", "/"),
            ("//", "/"),
            ("///", "/"),
            ("/./", "/"),
            ("/.", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a//", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/./b", "/a/b"),
            ("/a//b", "/a/b"),
            // Slashes are joined first: the empty segment is nothing a `..` could remove.
            ("/a//../b", "/b"),
            ("//evil.com", "/evil.com"),
            ("//evil.com/..", "/"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E./b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a/.../b", "/a/.../b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a", "/..a"),
            ("/a../b", "/a../b"),
            ("/%61dmin", "/admin"),
            ("/%7euser%2D%5f", "/~user-_"),
            ("/a%3ab%c3%a9", "/a%3Ab%C3%A9"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/%25%32%65", "/%252e"),
            ("/a|b^c`d{e}", "/a%7Cb%5Ec%60d%7Be%7D"),
            ("/a[1]\"<>", "/a%5B1%5D%22%3C%3E"),
            ("/é", "/%C3%A9"),
            ("/:@!$&'()*+,=", "/:@!$&'()*+,="),
            ("/a%20b%0a", "/a%20b%0A"),
            ("/*", "/*"),
        ] {
            let normal = normalise(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
            assert_eq!(normal.path, want, "{raw}");
            assert_eq!(normal.held, Held::NONE, "{raw}");
        }
    }

    #[test]
    fn a_path_without_a_normal_form_is_refused() {
        use PathError::*;
        for (raw, want) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a/b", NotAbsolute),
            ("\\a", NotAbsolute),
            ("http://x/", NotAbsolute),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("/%+1", BadEscape),
            ("/%é1", BadEscape),
            ("/a b", ForbiddenByte),
            ("/a\tb", ForbiddenByte),
            ("/a\r\nb", ForbiddenByte),
            ("/a\0", ForbiddenByte),
            ("/a\x7f", ForbiddenByte),
            ("/a?b", ForbiddenByte),
            ("/a#b", ForbiddenByte),
            ("/..", AboveRoot),
            ("/../a", AboveRoot),
            ("/a/../..", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("/.//..", AboveRoot),
            ("//..//a", AboveRoot),
            ("/%2e%2e/etc/passwd", AboveRoot),
            ("/a/..;/b", HiddenDots),
            ("/a/..;x=1/b", HiddenDots),
            ("/a/.;/b", HiddenDots),
            ("/a/%2e%2e;/b", HiddenDots),
            ("/a/..%3b/b", HiddenDots),
            ("/a/;../b", HiddenDots),
            ("/a/%5c../b", HiddenDots),
            ("/a/\\../b", HiddenDots),
            ("/a/..\\b", HiddenDots),
            ("/a/..%5Cb", HiddenDots),
            ("/a/..%2fb", HiddenDots),
            ("/a%2f..", HiddenDots),
            ("/a%2F.%2Fb", HiddenDots),
            ("/a%2f%2e%2e%2fb", HiddenDots),
            ("/a/..%00/b", HiddenDots),
            ("/a/..;/../b", HiddenDots),
        ] {
            assert_eq!(normalise(raw), Err(want), "{raw}");
        }
    }

    #[test]
    fn what_a_route_must_allow_is_held_and_stays_escaped() {
        for (raw, path, held) in [
            ("/a%2fb", "/a%2Fb", Held::ENCODED_SLASH),
            ("/@scope%2Fname", "/@scope%2Fname", Held::ENCODED_SLASH),
            ("/a%00", "/a%00", Held::ENCODED_NUL),
            ("/a\\b", "/a%5Cb", Held::BACKSLASH),
            ("/a%5cb", "/a%5Cb", Held::BACKSLASH),
            ("/a;v=1/b", "/a;v=1/b", Held::SEMICOLON),
            ("/a%3bb", "/a%3Bb", Held::NONE),
            ("/a%252fb", "/a%252fb", Held::NONE),
            ("/a;b%2Fc", "/a;b%2Fc", Held::SEMICOLON.union(Held::ENCODED_SLASH)),
            // Sent is sent, also when a dot segment removes it.
            ("/a%2Fb/../c", "/c", Held::ENCODED_SLASH),
        ] {
            let normal = normalise(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
            assert_eq!((normal.path.as_ref(), normal.held), (path, held), "{raw}");
        }
    }

    #[test]
    fn an_encoded_slash_is_no_segment_boundary() {
        let normal = normalise("/a%2Fb/../c").unwrap();
        assert_eq!(normal.path, "/c", "the whole segment `a%2Fb` is one step");
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for raw in ["/", "/a/b.c/", "/a%2Fb;c%5C%00", "/%C3%A9/..x/.y", "/a:b@c"] {
            let normal = normalise(raw).unwrap();
            assert!(matches!(normal.path, Cow::Borrowed(path) if path == raw), "{raw}");
        }
    }

    #[test]
    fn held_speaks_the_words_of_the_configuration() {
        for (word, held) in Held::WORDS {
            assert_eq!(held.to_string(), word);
        }
        let all: Held = Held::WORDS.into_iter().map(|(_, held)| held).collect();
        assert_eq!(all.to_string(), "encoded_slash, encoded_nul, backslash, semicolon");
        assert_eq!(all.minus(Held::BACKSLASH).names().count(), 3);
        assert!(all.minus(all).is_empty() && !all.is_empty());
        assert!(all.contains(Held::SEMICOLON) && !Held::SEMICOLON.contains(all));
    }

    /// Paths made of the pieces that matter, far denser than random text.
    fn any_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-z]{1,3}",
            3 => Just("/".to_owned()),
            3 => Just(".".to_owned()),
            2 => prop_oneof!["%2[eEfF]", "%5[cC]", "%3[bB]", "%00", "%25", "%[0-9a-fA-F]{2}"],
            1 => prop_oneof![Just(";".to_owned()), Just("\\".to_owned()), Just("é".to_owned()), Just("|".to_owned())],
            1 => "[ -~]",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// What a reader that splits at `separators` sees climb, at most.
    fn has_dot_segment(path: &str, separators: &[char]) -> bool {
        path.split(separators).any(|segment| matches!(segment, "." | ".."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn normalising_twice_changes_nothing(raw in any_path()) {
            if let Ok(first) = normalise(&raw) {
                let second = normalise(&first.path).expect("a normal path is normal");
                prop_assert_eq!(&second.path, &first.path);
                prop_assert!(matches!(second.path, Cow::Borrowed(_)));
                prop_assert!(first.held.contains(second.held));
            }
        }

        #[test]
        fn no_reader_finds_a_dot_segment_in_a_normal_path(raw in any_path()) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert!(normal.path.starts_with('/') && !normal.path.contains("//"));
                prop_assert!(normal.path.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!has_dot_segment(&normal.path, &['/']));
                let decoded: String = normal
                    .path
                    .replace("%2F", "/").replace("%5C", "/").replace("%3B", "/").replace("%00", "/");
                prop_assert!(!has_dot_segment(&decoded, &['/', ';']), "{} {}", raw, normal.path);
            }
        }

        #[test]
        fn no_text_makes_it_panic(raw in any::<String>()) {
            let _ = normalise(&raw);
            let _ = normalise(&format!("/{raw}"));
        }
    }
}
