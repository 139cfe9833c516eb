//! Patterns of paths: segments, prefixes, and regular expressions.

use std::fmt;

use regex::Regex;

use super::{PatternError, anchored};
use crate::http::path;

/// The most segments that a path pattern may have. Paths may have any number: a prefix, a `{rest...}` or a regular
/// expression takes what is deeper.
pub const SEGMENTS_MAX: usize = 64;

/// The paths that a rule is for. Compared with the normalised path, which is also the one that is forwarded.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: Box<str>,
    names: Box<[Box<str>]>,
    pub(in crate::snapshot) segments: Vec<Segment>,
    pub(in crate::snapshot) end: End,
}

/// One segment of a pattern, between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::snapshot) enum Segment {
    /// This text. Empty only as the last one: the pattern ends with a slash.
    Literal(Box<str>),
    /// Any text but none.
    Param,
}

/// What may follow the segments of a pattern.
#[derive(Clone, Debug)]
pub(in crate::snapshot) enum End {
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
        Self::read(text).map_err(first)
    }

    /// As [`parse`](Self::parse), with all that is wrong and not only the first.
    ///
    /// # Errors
    /// At least one.
    pub fn read(text: &str) -> Result<Self, Vec<PatternError>> {
        let mut names: Vec<Box<str>> = Vec::new();
        let mut segments = Vec::new();
        let mut end = End::Exact;
        let mut wrong = Vec::new();
        if let Some(expression) = expression(text) {
            return Err(vec![PatternError::new(
                format!("`{text}` is a regular expression, and this is a path"),
                format!("write `path_regex: {expression:?}`, or a path such as `/orders/{{id}}`"),
            )]);
        }
        let rest = text.strip_prefix('/').unwrap_or_else(|| {
            wrong.push(PatternError::new(format!("`{text}` does not begin with `/`"), format!("write `/{text}`")));
            text
        });
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            match parameter(text, part) {
                Ok(Some(Parameter { name, takes_rest })) => {
                    if names.iter().any(|known| **known == *name) {
                        wrong.push(PatternError::new(
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
                        wrong.push(PatternError::new(
                            format!("`{part}` takes the rest of the path, and something follows it"),
                            format!("put it last, or write `{{{name}}}` for one segment"),
                        ));
                    }
                }
                Ok(None) => {
                    literal(text, part, is_last, &mut wrong);
                    segments.push(Segment::Literal(part.into()));
                }
                Err(error) => wrong.push(error),
            }
        }
        // What it says of the whole follows from what is wrong with a part.
        if wrong.is_empty() {
            wrong.extend(check_normal(text, &segments).err());
        }
        if segments.len() > SEGMENTS_MAX {
            wrong.push(PatternError::new(
                format!("`{text}` has {} segments", segments.len()),
                format!("the most is {SEGMENTS_MAX}"),
            ));
        }
        if wrong.is_empty() { Ok(Self { text: text.into(), names: names.into(), segments, end }) } else { Err(wrong) }
    }

    /// Reads a path that stands for itself and everything below: `/api` matches `/api`, `/api/` and `/api/x`, but not
    /// `/apix`. A slash at its end means nothing. A segment may be `{name}`. `/` matches every path.
    ///
    /// # Errors
    /// As [`PathPattern::parse`]; and `{rest...}`, which a prefix has no need of.
    pub fn prefix(text: &str) -> Result<Self, PatternError> {
        Self::read_prefix(text).map_err(first)
    }

    /// As [`prefix`](Self::prefix), with all that is wrong and not only the first.
    ///
    /// # Errors
    /// At least one.
    pub fn read_prefix(text: &str) -> Result<Self, Vec<PatternError>> {
        let whole = Self::read(text)?;
        if !matches!(whole.end, End::Exact) {
            return Err(vec![PatternError::new(
                format!("`{text}` is a prefix and takes the rest by name as well"),
                "leave `{...}` out, or write it as a path instead of a prefix",
            )]);
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

    /// The names of the parameters, in the order of their values in [`Lookup::params`](crate::snapshot::router::Lookup::params).
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text that every path matched by a regular expression begins with, as far as it is plain to see.
    pub(in crate::snapshot) fn regex_literal_prefix(&self) -> &str {
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

/// The expression, of a path that looks like one: `^/a`, or `~ ^/a` and `~* /a` as nginx has it.
fn expression(text: &str) -> Option<String> {
    let bare = text.trim_start_matches(['~', '*']).trim_start();
    let is_marked = text.starts_with('~');
    let begin = bare.trim_start_matches('^');
    let is_one = is_marked || bare.len() > begin.len();
    (is_one && begin.starts_with('/')).then(|| {
        // It is anchored at both ends.
        let is_whole = begin.ends_with('$');
        format!("{}{}", begin.trim_end_matches('$'), if is_whole { "" } else { ".*" })
    })
}

/// What is written here for a parameter as other routers have it: `:id`, `:rest*`, `<id>`, `<int:id>`.
fn foreign_parameter(part: &str) -> Option<String> {
    let (name, rest) = if let Some(inner) = part.strip_prefix('<').and_then(|part| part.strip_suffix('>')) {
        let name = inner.rsplit_once(':').map_or(inner, |(_, name)| name);
        (name, inner.starts_with("path:"))
    } else {
        let name = part.strip_prefix(':')?;
        let end = name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        (&name[..end], name[end..].ends_with(['*', '+']))
    };
    let is_name = !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit());
    let is_name = is_name && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| format!("{{{name}{}}}", if rest { "..." } else { "" }))
}

struct Parameter<'a> {
    name: &'a str,
    takes_rest: bool,
}

/// The first of all that is wrong.
fn first(wrong: Vec<PatternError>) -> PatternError {
    wrong.into_iter().next().unwrap_or_else(|| PatternError::new("is no path", "write a path such as `/orders/{id}`"))
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
            match name.split_once(':') {
                Some((name, expression)) if !name.is_empty() => {
                    format!("write `{{{name}}}` for any segment, or `path_regex` with `(?<{name}>{expression})` in it")
                }
                _ => "a name has letters, digits and `_`, and begins with no digit; `{rest...}` takes all that remains"
                    .to_owned(),
            },
        ));
    }
    Ok(Some(Parameter { name, takes_rest }))
}

/// Checks a segment without parameters: it must be one that a normalised path can have.
fn literal(text: &str, part: &str, is_last: bool, wrong: &mut Vec<PatternError>) {
    let mut tell = |error: PatternError| {
        if !wrong.contains(&error) {
            wrong.push(error);
        }
    };
    if let Some(ours) = foreign_parameter(part) {
        tell(PatternError::new(
            format!("`{part}` in `{text}` is no parameter"),
            format!("write `{ours}`; what really begins with such a sign is matched by `path_regex`"),
        ));
        return;
    }
    match part {
        "" if is_last => return,
        "" => tell(PatternError::new(format!("`{text}` has an empty segment, `//`"), "write one slash")),
        "." | ".." => tell(PatternError::new(
            format!("`{text}` has a `{part}` segment"),
            "write the path that it leads to: requests are matched after `.` and `..` are resolved",
        )),
        "*" | "**" => tell(PatternError::new(
            format!("`{part}` in `{text}` is no wildcard"),
            "write `{name}` for one segment, `{rest...}` for all that remains",
        )),
        _ => {}
    }
    for (at, char) in part.char_indices() {
        match char {
            '%' => escape(text, &part[at..]).unwrap_or_else(&mut tell),
            _ if u8::try_from(char).is_ok_and(is_path_byte) => {}
            '?' | '#' => {
                tell(PatternError::new(
                    format!("`{text}` has a `{char}`, which ends a path"),
                    "give conditions on the query under `query`",
                ));
                // What follows is no path.
                return;
            }
            _ => {
                let escaped: String =
                    char.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect();
                tell(PatternError::new(
                    format!("`{text}` has a `{}`, which no path has as it is", char.escape_debug()),
                    format!("write `{escaped}`"),
                ));
            }
        }
    }
}

/// Checks the percent-encoding that `rest` begins with.
fn escape(text: &str, rest: &str) -> Result<(), PatternError> {
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
    Ok(())
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// `pchar` of RFC 3986 §3.3, but for percent-encoding.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("/a/:id", "`:id` in `/a/:id` is no parameter", "`{id}`"),
            ("/a/:id(\\d+)/b", "`:id(\\d+)` in `/a/:id(\\d+)/b` is no parameter", "`{id}`"),
            ("/a/:rest*", "`:rest*` in `/a/:rest*` is no parameter", "`{rest...}`"),
            ("/a/<id>", "`<id>` in `/a/<id>` is no parameter", "`{id}`"),
            ("/a/<int:id>", "`<int:id>` in `/a/<int:id>` is no parameter", "`{id}`"),
            ("/a/<path:p>", "`<path:p>` in `/a/<path:p>` is no parameter", "`{p...}`"),
            ("/a/{id:[0-9]+}", "`{id:[0-9]+}` in `/a/{id:[0-9]+}` is no parameter", "(?<id>[0-9]+)"),
            ("^/a$", "`^/a$` is a regular expression, and this is a path", "`path_regex: \"/a\"`"),
            ("~* ^/a", "`~* ^/a` is a regular expression, and this is a path", "`path_regex: \"/a.*\"`"),
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
            ("/{x:[0-9]+}", "is no parameter", "(?<x>[0-9]+)"),
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
    fn all_that_is_wrong_with_a_pattern_is_told() {
        for (text, expected) in [
            ("a b//{1x}/%61/{x}/{x}", 6),
            ("/a b/c d/é", 2),
            ("/{rest...}/*/x?y z", 3),
            ("/{a}{b}/../%zz", 3),
            ("/x", 0),
        ] {
            let wrong = PathPattern::read(text).err().unwrap_or_default();
            assert_eq!(wrong.len(), expected, "{text}: {wrong:#?}");
            assert_eq!(PathPattern::parse(text).err(), wrong.into_iter().next());
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
}
