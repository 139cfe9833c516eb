//! What upstreams see of callers on a route, as its blocks have it. For policies that must know of others what they do, and
//! may not name them.

use http::HeaderName;

use super::Blocks;
use crate::config::value::Mode;

/// What an upstream sees of who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Callers may prove who they are.
    pub identifies: bool,
    /// What they prove it with does not go on.
    pub strips_credential: bool,
    /// Claims that stand in headers of the request.
    pub claims: Vec<String>,
    /// The client's address stands in a header of the request that the route writes.
    pub address: bool,
    /// Headers that never go on.
    pub hidden: Vec<HeaderName>,
    /// Headers that the route writes.
    pub written: Vec<HeaderName>,
}

impl Blocks {
    /// What an upstream sees of callers under these blocks.
    pub fn exposure(&self) -> Exposure {
        let mut exposure = Exposure::default();
        if let Some(identity) = self.identity.on().filter(|identity| identity.mode == Mode::Enforce) {
            exposure.identifies = identity.identifies();
            exposure.strips_credential = identity.strips();
        }
        let Some(headers) = self.headers.on().filter(|headers| headers.mode == Mode::Enforce) else { return exposure };
        let edits = &headers.request;
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        let values = || edits.set.iter().chain(&edits.add);
        exposure.written = edits.rename.values().chain(values().map(|(name, _)| name)).filter_map(name).collect();
        exposure.claims = values().flat_map(|(_, value)| claims(value)).collect();
        exposure.address = values().any(|(_, value)| words(value).any(|word| word == "client.address"));
        // A name that is removed and written again is one that is written.
        let removed = edits.remove.iter().chain(edits.rename.keys()).filter_map(name);
        exposure.hidden = removed.filter(|name| !exposure.written.contains(name)).collect();
        exposure
    }
}

/// What stands for a part of an identity that is no claim. No claim of a caller can be called so.
pub const IDENTITY: &str = "\0identity";

/// What a template names, without how it is written. `$${` stands for `${`, and names nothing.
fn words(template: &str) -> impl Iterator<Item = &str> {
    let begun = template.match_indices("${").filter(|(at, _)| !template[..*at].ends_with('$'));
    let words = begun.filter_map(|(at, sign)| template[at + sign.len()..].split('}').next());
    words.map(|word| word.split('|').next().unwrap_or(word))
}

/// The claims that a template names: `${claims.sub}`, `${claims.name|base64url}`. What else it says of a caller counts as a
/// claim that nobody can name.
fn claims(template: &str) -> Vec<String> {
    words(template)
        .filter_map(|word| match word.split_once('.')? {
            ("claims" | "claim", claim) => Some(claim.to_owned()),
            ("path" | "request" | "client" | "route", _) => None,
            _ => Some(IDENTITY.to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_in_templates() {
        assert_eq!(claims("a ${claims.sub}-${path.id} ${claims./a/b|json}"), ["sub", "/a/b"]);
        assert_eq!(claims("${identity.subject} ${something.new}"), [IDENTITY, IDENTITY]);
        assert!(claims("$${claims.sub} ${request.id}$${claims.sub}").is_empty());
        assert!(claims("${request.id} ${client.address} claims.sub").is_empty());
    }
}
