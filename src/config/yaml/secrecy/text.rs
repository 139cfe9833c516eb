//! Where secrets seem to stand in a text of which there is no tree: lines that cannot be read as YAML, and comments.

use std::ops::Range;

use super::{
    OF_KEYS, OFTEN_SECRET, improper, is_misspelt, is_part_of_name, is_private_key, is_reference, is_secret_name,
    unparted, userinfo, width,
};

/// Where secrets seem to stand in a text that is no YAML, and may be shown to say where it ceases to be: what follows a key
/// whose name says it, to the end of the line and in all lines that are indented deeper; credentials in URLs; private keys.
/// Where an entry ends nobody knows, so it is rather too much.
pub(crate) fn in_text(text: &str) -> Vec<Range<usize>> {
    let mut spans = private_keys(text);
    spans.append(&mut credentials(text));
    let mut start = 0;
    let mut hidden: Option<Hidden> = None;
    for line in text.split_inclusive('\n') {
        if hidden.as_ref().is_some_and(|hidden| hidden.has(line)) {
            spans.push(start..start + line.len());
        } else {
            hidden = None;
            if let Some((from, below)) = named(line) {
                spans.push(start + from..start + line.trim_end().len());
                hidden = below;
            }
        }
        start += line.len();
    }
    spans.append(&mut improper(text));
    united(spans)
}

/// The same of comments, which stand behind what is shown of a text that is YAML. Within quotes a `#` is none, and what follows it
/// is looked at all the same.
pub(crate) fn in_comments(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(at) = line.find(" #") {
            let comment = line[at..].trim_end();
            let from = start + at;
            spans.extend(named(comment).map(|(value, _)| from + value..from + comment.len()));
            spans.extend(credentials(comment).into_iter().map(|span| from + span.start..from + span.end));
        }
        start += line.len();
    }
    spans
}

/// What is hidden below a secret's name.
struct Hidden {
    /// The indentation of the name.
    indent: usize,
    /// Whether items of a list may stand below it, no deeper than the name itself.
    has_items: bool,
}

impl Hidden {
    fn has(&self, line: &str) -> bool {
        let inner = line.trim_start();
        let indent = line.len() - inner.len();
        inner.is_empty() || indent > self.indent || self.has_items && indent == self.indent && inner.starts_with('-')
    }
}

/// Where in a line stands what follows the name of a secret, and what is hidden below.
fn named(line: &str) -> Option<(usize, Option<Hidden>)> {
    for (colon, _) in line.match_indices([':', '=']) {
        let key = line[..colon].trim_end().trim_end_matches(['"', '\'']);
        let begin = key.rfind(|c| !is_part_of_name(c)).map_or(0, |at| at + width(key, at));
        let value = line[colon + 1..].trim_start();
        let name = &key[begin..];
        let is_secret = is_secret_name(name)
            || is_misspelt(name)
            // What else these may hold are keys and values that are known.
            || OFTEN_SECRET.contains(&name)
                && !value.is_empty()
                && !value.starts_with('#')
                && !is_of_keys(value);
        if !is_secret || is_reference(value) {
            continue;
        }
        let before = key[..begin].trim_end_matches(['"', '\'']);
        let is_first = before.trim_matches([' ', '-']).is_empty();
        let indent = if is_first { before.len() } else { line.len() - line.trim_start().len() };
        let is_comment = line.trim_start().starts_with('#');
        let below = Hidden { indent, has_items: is_first && value.is_empty() && !before.contains('-') };
        return Some((line.trim_end().len().min(line.len() - value.len()), (!is_comment).then_some(below)));
    }
    // In the prose of a comment a blank parts no name from its value.
    let code = line.split(" #").next().filter(|code| !code.starts_with('#'))?;
    let begins = code.match_indices(['{', '[', ',']).map(|(at, _)| at + 1);
    let mut pieces = std::iter::once(0).chain(begins).map(|at| code[at..].trim_start_matches([' ', '\t', '-']));
    let value = pieces.find_map(unparted)?;
    let indent = line.len() - line.trim_start().len();
    Some((code.len() - value.len(), Some(Hidden { indent, has_items: false })))
}

/// Whether a value, as a line has it, is a mapping that begins with a key of [`Keys`](crate::config::identity::Keys).
fn is_of_keys(value: &str) -> bool {
    let key = value.strip_prefix('{').and_then(|inner| inner.split_once(':')).map_or("", |(key, _)| key.trim());
    OF_KEYS.contains(&key.trim_matches(['"', '\'']))
}

/// Credentials in the URLs of a text. Where one ends cannot be told for sure: within quotes where those end, else with the line.
fn credentials(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, mark) in text.match_indices("://") {
        let from = at + mark.len();
        if found.last().is_some_and(|last| from < last.end) {
            continue;
        }
        let scheme = text[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let rest = &text[from..];
        let line = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let end = match scheme.chars().next_back().filter(|c| matches!(c, '"' | '\'')) {
            Some(quote) => rest.find(quote).unwrap_or(rest.len()),
            // A comment has a blank before it.
            None => rest[..line].find(" #").unwrap_or(line),
        };
        found.extend(rest[..end].rfind('@').map(|end| from..from + end));
    }
    let words = text.split_inclusive(char::is_whitespace).scan(0, |start, word| {
        let from = *start;
        *start += word.len();
        Some((from, word))
    });
    for (start, word) in words.filter(|(_, word)| word.contains('@') && !word.contains("://")) {
        let bare = word.trim_start_matches(['"', '\'', '[', '{', '-', ',']);
        let from = start + word.len() - bare.len();
        found.extend(userinfo(bare).map(|span| from + span.start..from + span.end));
    }
    found
}

/// Private keys: PEM from where it begins to where it ends, or of the whole text; lines with a JWK.
fn private_keys(text: &str) -> Vec<Range<usize>> {
    const MARK: &str = "PRIVATE KEY-----";
    let mut spans = Vec::new();
    let mut marks = text.match_indices(MARK).map(|(at, _)| at);
    while let Some(begin) = marks.next() {
        let line = text[..begin].rfind('\n').map_or(0, |at| at + 1);
        let from = text[line..begin].rfind("-----").map_or(begin, |at| line + at);
        spans.push(from..marks.next().map_or(text.len(), |end| end + MARK.len()));
    }
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if is_private_key(line) && !line.contains(MARK) {
            spans.push(start..start + line.trim_end().len());
        }
        start += line.len();
    }
    spans
}

/// The same places, in order, none of them twice.
pub(crate) fn united(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|span| span.start);
    let mut out: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => out.push(span),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_what_is_no_yaml() {
        let left = |text: &str| {
            let mut left = text.to_owned();
            for span in in_text(text).into_iter().rev() {
                left.replace_range(span, "");
            }
            left
        };
        for text in [
            "a: {secret: hunter2, b: 1",
            "\"token\" : \"hunter2, hunter2",
            "password: |\n  hunter2\n\n  hunter2\n",
            "é-token: hunter2",
            "api_keys: [hunter2, hunter3",
            "api_keys: [\n  hunter2,\n  hunter3",
            "api_keys:\n- hunter2\n- hunter3\nb: [",
            "authorization: [Bearer hunter2}",
            "authorization: Basic a}b,hunter2",
            "password: {exact: hunter2",
            "x-token:\n  exact: hunter2\n",
            "{url: http://u:hunter2@host/, x: [}",
            "a: redis://hunter2@host, b: http://x:y@hunter@host",
            "a: redis://u:hunter2 @host, b: [",
            "a: \"redis://u:x\n  hunter2@host\"\nb: [",
            "a: {b: redis:/u:hunter2@host, c: [",
            "a: 'u:hunter2@host'\nb: [",
            "password: \"a\n  hunter2\"\n",
            "password: a\n  hunter2\n",
            "secret: &k |\n  hunter2\n",
            "- secret: !!str >-\n   hunter2\n",
            "a: {b: 1, secret: \"x\n  hunter2\"}",
            "client_secret: ${env:A}hunter2",
            "a: ${env:SECRET:-hunter2}",
            "x: {token: ${env:A}, password: hunter2",
            "x: |\n  -----BEGIN RSA PRIVATE KEY-----\n  hunter2\n  -----END RSA PRIVATE KEY-----\n",
            "x: \"-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\\n",
            "x: |\n  -----BEGIN PRIVATE KEY-----\n  hunter2\n",
            "x: '{\"kty\": \"oct\", \"k\": \"hunter2\"}",
        ] {
            let left = left(text);
            assert!(!left.contains("hunter"), "{left} of {text}");
        }
        for kept in [
            "password: |\n  x\nb: 1\n",
            "client_secret: '${env:A}\nb: 1\n",
            "- secret: x\n  other: y\n",
            "a: http://host/x, b: [\n",
            "a: http://host/x # of a@b, b: [\n",
            "token_use: {a: 1\n",
            "# the token: x\n  other: y\n",
            "y: -----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\nz: 1\n",
        ] {
            let (left, end) = (left(kept), kept.trim_end().rsplit('\n').next().unwrap());
            assert!(left.contains(end), "{left} of {kept}");
        }
        assert_eq!(left("a: {b: 1, secret: x\n"), "a: {b: 1, secret: \n");
        assert_eq!(left("x: http://u:p@host/y, [\n"), "x: http://@host/y, [\n");
    }
}
