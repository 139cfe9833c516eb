//! What operators have: the admin listener, the one for probes, and the access log.

use http::HeaderName;

use super::super::Document;
use crate::config::{Issue, Issues, KeyPath, route};
use crate::policy::Blocks;

/// The fewest bytes that the admin listener's token may have: no fewer can be called a secret.
const TOKEN_LEAST: usize = 16;

/// The listeners for operators: addresses of their own, and a token that can be sent and is none to guess.
pub(super) fn admin(document: &Document, root: &KeyPath, issues: &mut Issues) {
    let admin = &document.admin.address;
    let told = (root.key("admin"), "admin listens here, on 127.0.0.1:9901 unless told otherwise");
    if let Some(probes) = &document.probes
        && admin.clashes(&probes.address.into())
    {
        issues.push(
            Issue::new(root.key("probes").key("address"), format!("{} is taken by `admin`", probes.address))
                .related(told.0.clone(), told.1)
                .goes_by(told.0.key("address"))
                .hint("give one of them another port"),
        );
    }
    for (place, listener) in document.listeners.iter().enumerate() {
        let address = &listener.address;
        let at = || root.key("listeners").index(place).key("address");
        if admin.clashes(address) {
            issues.push(
                Issue::new(at(), format!("{address} is taken by `admin`"))
                    .related(told.0.clone(), told.1)
                    .goes_by(told.0.key("address"))
                    .hint("give one of them another port"),
            );
        }
        if document.probes.as_ref().is_some_and(|probes| address.clashes(&probes.address.into())) {
            issues.push(
                Issue::new(at(), format!("{address} is taken by `probes`"))
                    .related(root.key("probes").key("address"), "taken here")
                    .hint("give one of them another port"),
            );
        }
    }
    let Some(token) = document.admin.token.as_ref().map(|token| token.expose()) else { return };
    let at = root.key("admin").key("token");
    if token.len() < TOKEN_LEAST {
        issues.push(
            Issue::new(at, format!("a token of {} bytes is too short", token.len()))
                .hint(format!("the least is {TOKEN_LEAST}; `openssl rand -hex 32` makes a good one")),
        );
    } else if !is_bearer(token) {
        issues.push(
            Issue::new(at, "the token has a character that no `Authorization: Bearer` can hold")
                .hint("use letters, digits and `-._~+/`, with `=` at the end only; `openssl rand -hex 32` makes one"),
        );
    }
}

/// Whether it can stand in `Authorization: Bearer` (`b64token`, RFC 6750 §2.1).
fn is_bearer(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(fits)
}

pub(super) fn access_log(document: &Document, path: &KeyPath, issues: &mut Issues) {
    let log = &document.access_log;
    if !(0.0..=1.0).contains(&log.sample) {
        issues
            .push(Issue::new(path.key("sample"), format!("{} is no share", log.sample)).hint("choose from 0.0 to 1.0"));
    }
    for (place, name) in log.query.iter().enumerate() {
        let is_credential = |route: &route::Route<Blocks>| {
            let policies = route.policies.or(&document.defaults.policies);
            policies.identity.on().and_then(|identity| identity.from.query.as_ref()) == Some(name)
        };
        if document.routes.iter().any(is_credential) {
            issues.push(
                Issue::new(
                    path.key("query").index(place),
                    format!("shows a credential: `{name}` is where callers send it"),
                )
                .hint("remove it: whoever reads the log could call as they do"),
            );
        }
    }
    for (key, names) in [("headers", &log.headers), ("response_headers", &log.response_headers)] {
        for (place, text) in names.iter().enumerate() {
            if HeaderName::from_bytes(text.as_bytes()).is_err() {
                issues.push(
                    Issue::new(path.key(key).index(place), format!("`{text}` is no header name"))
                        .hint("write a name such as `x-tenant`"),
                );
            }
        }
    }
    let at = path.key("fields");
    if log.fields.is_empty() {
        issues.push(
            Issue::new(at.clone(), "names no field, so lines would say nothing")
                .of_absence()
                .hint("leave it out to have them all, or write `format: \"off\"`"),
        );
    }
    for (place, field) in log.fields.iter().enumerate() {
        if let Some(first) = log.fields[..place].iter().position(|known| known == field) {
            issues.push(
                Issue::new(at.index(place), format!("`{}` stands twice", field.facts().name))
                    .related(at.index(first), "first here")
                    .hint("keep one of them"),
            );
        }
    }
}
