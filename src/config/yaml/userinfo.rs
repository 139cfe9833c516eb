//! Credentials in URLs: no key of the configuration takes them there, and what is said of the mistake must not show them.

use std::ops::Range;

use super::tree::{Content, Node};

/// Where values with credentials stand, and the credentials, each with what is shown in its place.
#[derive(Debug, Default)]
pub(crate) struct Userinfo {
    pub(crate) spans: Vec<Range<usize>>,
    pub(crate) texts: Vec<(String, String)>,
}

impl Userinfo {
    /// Searches a node and all below it. What came from outside the file is kept out of sight without this.
    pub(crate) fn find(root: &Node) -> Self {
        let mut found = Self::default();
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            match &node.content {
                Content::Scalar(scalar) => {
                    if let Some(credentials) = userinfo(&scalar.text).filter(|_| !scalar.is_outside()) {
                        found.spans.push(node.span.clone());
                        found.texts.push((credentials.to_owned(), "***".to_owned()));
                    }
                }
                Content::List(items) => open.extend(items),
                Content::Mapping(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
            }
        }
        found
    }
}

/// What stands before the `@` of `scheme://user:password@host` (RFC 3986 §3.2.1).
fn userinfo(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(userinfo, _)| userinfo).filter(|userinfo| !userinfo.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_before_the_host_is_a_credential() {
        assert_eq!(userinfo("redis://user:pass@host:6379/0"), Some("user:pass"));
        assert_eq!(userinfo("http://a@b@c"), Some("a@b"));
        for none in ["http://host/a@b", "http://host?a@b", "a@b", "http://@host", "mailto:a@b"] {
            assert_eq!(userinfo(none), None, "{none}");
        }
    }
}
