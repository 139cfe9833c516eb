//! What is wrong with the path that a `rewrite` makes: all of it at once.

use std::ops::Range;

use crate::config::{Issue, Issues, KeyPath};
use crate::http::path::{self, Held};

/// Signs that no path has as they are. What else is to be percent-encoded, the normal form tells.
const NEVER: [char; 5] = [' ', '#', '<', '>', '`'];

/// Checks that the fixed text of a rewrite is what the path of a request may be once it was normalised: the upstream is never
/// sent what armiger would not take.
pub(super) fn check(text: &str, allowed: Held, at: &KeyPath, issues: &mut Issues) {
    let mut tell = |message: String, hint: String, part: Option<Range<usize>>| {
        let issue = Issue::new(at.clone(), message).hint(hint);
        issues.push(if let Some(part) = part { issue.part(text, part) } else { issue });
    };
    if !text.starts_with('/') {
        tell("does not begin with `/`".into(), "write the whole path".into(), None);
    }
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    if !query.is_empty() {
        let hint = "write the path only; the request's query is passed on".into();
        tell("has a query".into(), hint, Some(path.len()..text.len()));
    }
    // From here on as if what was told were mended.
    let mut sample = if path.starts_with('/') { String::new() } else { "/".to_owned() };
    let mut never: Vec<char> = Vec::new();
    let mut has_lone_percent = false;
    for (place, piece) in path.split(['{', '}']).enumerate() {
        if place % 2 == 1 {
            // Something harmless for each parameter.
            sample.push_str(&format!("~{place}~"));
            continue;
        }
        for (at, sign) in piece.char_indices() {
            let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
            let is_lone = sign == '%' && piece[at + 1..].bytes().take(2).filter(is_hex).count() < 2;
            has_lone_percent |= is_lone;
            match sign {
                _ if sign.is_control() || NEVER.contains(&sign) => {
                    if !never.contains(&sign) {
                        never.push(sign);
                    }
                    sample.push_str(&escaped(sign));
                }
                _ if is_lone => sample.push_str("%25"),
                _ => sample.push(sign),
            }
        }
    }
    if !never.is_empty() {
        let each = never.iter().map(|sign| format!("`{}` for `{}`", escaped(*sign), sign.escape_debug()));
        let hint = format!("write {}", each.collect::<Vec<_>>().join(", "));
        tell("has characters that cannot stand in a path".into(), hint, None);
    }
    if has_lone_percent {
        let message = format!("makes a path that is refused: {}", path::PathError::BadEscape);
        tell(message, "write `%25` for a percent sign".into(), None);
    }
    form(path, &sample, allowed, &mut |message, hint| tell(message, hint, None));
}

/// Tells where the sample of a path is not in the form that paths have here, or holds what the route does not allow.
fn form(path: &str, sample: &str, allowed: Held, tell: &mut dyn FnMut(String, String)) {
    match path::normalise(sample) {
        Err(error) => tell(
            format!("makes a path that is refused: {error}"),
            "write the path that it leads to, without `.` and `..`".into(),
        ),
        Ok(normal) => {
            let held = normal.held.minus(allowed);
            let allow = format!("allow it to the route, and so to its clients: `path_allow: [{held}]` in `match`");
            if normal.path != sample {
                let params = path.split(['{', '}']).enumerate().filter(|(place, _)| place % 2 == 1);
                let meant = params.fold(normal.path.clone().into_owned(), |meant, (place, name)| {
                    meant.replace(&format!("~{place}~"), &format!("{{{name}}}"))
                });
                let and = if held.is_empty() { String::new() } else { format!(", and {allow}") };
                tell("is not in the one form that paths have here".into(), format!("write `{meant}`{and}"));
            } else if !held.is_empty() {
                tell(
                    format!("has what some servers read as another path: {held}"),
                    format!("leave it out, or {allow}"),
                );
            }
        }
    }
}

fn escaped(sign: char) -> String {
    sign.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_rewrite_is_told_at_once() {
        for (text, expected) in [
            ("/v2/{id}", ""),
            ("v2", "does not begin with `/`"),
            ("v2?a={id}", "does not begin with `/`; has a query"),
            (
                "/a b#%zz//%61?x",
                "has a query; has characters that cannot stand in a path | write `%20` for ` `, `%23` for `#`; \
              makes a path that is refused: the path has a percent sign without two hex digits; \
              is not in the one form that paths have here | write `/a%20b%23%25zz/a`",
            ),
            (
                "x//{id}/..;/y%",
                "does not begin with `/`; makes a path that is refused: the path has a percent sign without two \
              hex digits; makes a path that is refused: the path hides a dot segment behind another separator",
            ),
            (
                "/a;%2f/{id}",
                "is not in the one form that paths have here | write `/a;%2F/{id}`, and allow it to the route, and \
              so to its clients: `path_allow: [encoded_slash, semicolon]` in `match`",
            ),
            ("/%{id}", "makes a path that is refused: the path has a percent sign without two hex digits"),
        ] {
            let mut issues = Issues::new();
            check(text, Held::NONE, &KeyPath::root(), &mut issues);
            let told: Vec<String> = issues
                .iter()
                .map(|issue| match issue.hint.as_deref() {
                    Some(hint) if expected.contains(hint) => format!("{} | {hint}", issue.message),
                    _ => issue.message.clone(),
                })
                .collect();
            assert_eq!(told.join("; "), expected, "{text}");
        }
    }
}
