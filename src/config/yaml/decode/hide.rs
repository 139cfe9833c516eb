//! What a message must not say: values from outside the file, and secrets that stand in it.

use super::super::super::issue::quote;
use super::super::secrecy;
use super::super::tree::{Content, Node};
use super::OUTSIDE;

/// Whether a key holds a secret, in whatever mapping it is one.
pub(super) fn is_secret_key(name: &str) -> bool {
    name == "key" || secrecy::is_secret_name(name)
}

/// Whether the mapping of these keys is there for what is secret in it.
pub(super) fn holds_secrets(known: &[&str]) -> bool {
    ["secret", "client_secret", "password", "token", "keys", "hash"].iter().any(|key| known.contains(key))
}

/// Whether a key says something about a secret, `secret_encoding`: the secret itself may stand there by mistake.
pub(super) fn is_about_secret(name: &str) -> bool {
    name.split_once('_').is_some_and(|(first, _)| secrecy::is_secret_name(first))
}

/// Takes all texts of a value that is secret out of what is said about it.
pub(super) fn without_secrets(message: String, hint: Option<String>, node: &Node) -> (String, Option<String>) {
    match &node.content {
        Content::Scalar(scalar) if !secrecy::may_be_secret(scalar) => (message, hint),
        Content::Scalar(scalar) => {
            let (message, shown) = masked(&message, hint.clone(), &scalar.text, secrecy::STARS);
            (message, Some(shown.filter(|shown| hint.as_ref() == Some(shown)).unwrap_or_else(|| OUTSIDE.to_owned())))
        }
        Content::List(items) => {
            items.iter().fold((message, hint), |(message, hint), item| without_secrets(message, hint, item))
        }
        Content::Mapping(entries) => {
            entries.iter().fold((message, hint), |(message, hint), entry| without_secrets(message, hint, &entry.value))
        }
    }
}

/// Takes a value from outside out of what is said about it, and puts the reference to it there.
pub(super) fn masked(message: &str, hint: Option<String>, value: &str, reference: &str) -> (String, Option<String>) {
    let put_in = quote(reference);
    let shown = [put_in.clone(), quote(value), format!("\"{value}\""), format!("`{value}`")];
    // What is put in is not looked at: a reference may be like the value.
    let pieces: Vec<&str> = shown.iter().fold(vec![message], |pieces, shown| {
        pieces.into_iter().flat_map(|piece| piece.split(shown.as_str())).collect()
    });
    let message = if pieces.iter().any(|piece| tells_of(value, reference, piece)) {
        format!("the value {put_in} does not fit")
    } else {
        pieces.join(&put_in)
    };
    let hint = hint.filter(|hint| !tells_of(value, reference, hint));
    (message, Some(hint.unwrap_or_else(|| "see what it stands for, which is not shown here".to_owned())))
}

/// Whether a text has a value in it, or so much of it as tells something that the file does not.
fn tells_of(value: &str, reference: &str, text: &str) -> bool {
    const WINDOW: usize = 4;
    let chars: Vec<char> = value.chars().collect();
    if chars.len() < WINDOW {
        // In part of many words; but what is in quotes is what somebody wrote.
        return text.split('`').skip(1).step_by(2).any(|quoted| !value.is_empty() && quoted.contains(value));
    }
    // Even a part of a secret is one.
    let mut windows = chars.windows(WINDOW).map(|window| window.iter().collect::<String>());
    windows.any(|window| text.contains(&window) && !reference.contains(&window))
}
