//! From YAML text to typed values, with every mistake reported at its place.
//!
//! `tree` parses once into nodes that know their bytes in the file; `expand` puts environment and file values
//! into scalars, after parsing, so that no value can change the structure; `decode` reads the tree into the
//! document's types and goes on after a mistake, with `stand_in` in the place of what must be there and is not; `secrecy`
//! finds what of it must not be shown. Words of the parser never reach a user: `syntax` translates them.

pub(crate) mod decode;
pub(crate) mod error;
pub(crate) mod expand;
pub(crate) mod scalar;
pub(crate) mod secrecy;
mod stand_in;
pub(crate) mod syntax;
pub(crate) mod tree;

use std::fmt::Write;

use serde::de::DeserializeOwned;

use super::issue::{Issues, Report, Source};
use decode::Decoded;
use decode::places::Places;
use tree::{End, Tree, Used};

pub use error::with_hint;

/// How many mistakes are told of a text whose places nobody can be shown.
const TOLD_MAX: usize = 10;

/// Reads YAML that is itself a value: the text of a file with a list of its own. `words`: the keys of its entries.
///
/// # Errors
/// What is wrong, each with its line: `line 3: unknown key `***`; line 7: the key "hash" is missing`. Nothing else of the text
/// is told: it may be secret.
pub(crate) fn plain<T: DeserializeOwned>(text: &str, words: &[&str]) -> Result<T, String> {
    let source = Source::new("", text);
    let mut issues = Issues::new();
    let parsed = match tree::parse(text, Used::default()) {
        Ok(parsed) => parsed,
        Err(issue) => {
            issues.push(*issue);
            return Err(told(&source.report(issues), text, words));
        }
    };
    parsed.issues.into_iter().for_each(|issue| issues.push(issue));
    if let Some(End::Break(issue)) = parsed.end {
        issues.push(*issue);
        return Err(told(&source.report(issues), text, words));
    }
    let tree = Tree::new(parsed.root);
    let mut lost = parsed.broken.into_iter().collect();
    let Decoded { value, misspelt, stood_in, .. } =
        decode::decode(text, &tree, &mut issues, &mut lost, &mut Vec::new(), &|_| Vec::new(), &|_, _| {
            Places::default()
        });
    match value {
        Some(value) if issues.is_empty() => Ok(value),
        _ => Err(told(&source.decoded(tree, lost, misspelt, stood_in).report(issues), text, words)),
    }
}

/// A report without what it quotes of the text.
fn told(report: &Report, text: &str, words: &[&str]) -> String {
    let mut told = String::new();
    for (position, mark) in report.marks().take(TOLD_MAX).enumerate() {
        let _ = write!(told, "{}line {}", if position > 0 { "; " } else { "" }, mark.line);
        // Then nobody knows what is quoted.
        if text.contains('`') {
            continue;
        }
        told.push_str(": ");
        for (position, part) in mark.message.split('`').enumerate() {
            match position % 2 {
                0 => told.push_str(part),
                // In backticks, who masks values from outside would take it for a part of one.
                _ if words.contains(&part) => {
                    let _ = write!(told, "\"{part}\"");
                }
                _ => told.push_str("`***`"),
            }
        }
    }
    match report.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Row {
        name: String,
        #[serde(default)]
        roles: Vec<String>,
    }

    fn mistakes(text: &str) -> String {
        plain::<Vec<Row>>(text, &["name", "roles"]).map(|_| ()).unwrap_err()
    }

    #[test]
    fn all_lines_that_are_wrong_are_told_and_nothing_of_what_they_say() {
        let rows = plain::<Vec<Row>>("- {name: a, roles: [b]}\n- name: c\n", &[]).unwrap();
        assert_eq!((rows[0].roles[0].as_str(), rows[1].name.as_str()), ("b", "c"));
        assert_eq!(
            mistakes("- {name: a}\n- hunter2\n- {nam: hunter2}\n- {roles: hunter2, name: x, hunter2: hunter2}\n"),
            "line 2: expected a mapping, found `***`; line 3: unknown key `***`; line 4: expected a list, found `***`; \
             line 4: unknown key `***`"
        );
        assert_eq!(mistakes("- {roles: []}"), "line 1: the key \"name\" is missing");
        assert_eq!(mistakes("- {name: [hunter`2`]}\n- {roles: 1}\n"), "line 1; line 2; line 2");
        assert!(mistakes("- {name: hunter2\n  hunter2: [\n").starts_with("line "));
        let many = mistakes(&"- hunter2\n".repeat(13));
        assert!(many.ends_with("line 10: expected a mapping, found `***`; and 3 more"), "{many}");
    }
}
