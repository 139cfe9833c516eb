//! Headers that armiger alone may write: copies that come from outside are taken away, and look-alikes with them.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// Names of such headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Folded, each once.
    names: Vec<Box<str>>,
    /// A bit for each length that occurs, the last one for all longer ones.
    lengths: u64,
}

/// How back ends may read a name: to CGI and its heirs `X-User`, `X_User` and `x.user` are one variable.
fn folded(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

const fn bit(length: usize) -> u64 {
    1 << if length < 63 { length } else { 63 }
}

impl Reserved {
    /// These names.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n HeaderName>) -> Self {
        let mut reserved = Self::default();
        for name in names {
            let name: String = name.as_str().bytes().map(|byte| char::from(folded(byte))).collect();
            reserved.lengths |= bit(name.len());
            reserved.names.push(name.into());
        }
        reserved.names.sort();
        reserved.names.dedup();
        reserved
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether it is one of them, or looks like one to a back end.
    pub fn holds(&self, name: &str) -> bool {
        self.lengths & bit(name.len()) != 0
            && self.names.iter().any(|known| known.len() == name.len() && known.bytes().eq(name.bytes().map(folded)))
    }

    /// Takes them away, look-alikes included.
    pub fn clean(&self, headers: &mut HeaderMap) {
        if self.is_empty() {
            return;
        }
        let found: SmallVec<[HeaderName; 4]> =
            headers.keys().filter(|name| self.holds(name.as_str())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn copies_and_look_alikes_are_taken_away_and_nothing_else() {
        let long = "x-".to_owned() + &"a".repeat(80);
        let names =
            ["x-user", "x-user", "X-Org-Id", &long].map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap());
        let reserved = Reserved::new(&names);
        let mut headers = HeaderMap::new();
        let forged = ["x-user", "x_user", "x.user", "x_org-id", "x-org_id", &long];
        let others = ["x-users", "xuser", "y-user", "x-org-idx", "host", "x-"];
        for name in forged.iter().chain(&others) {
            for value in ["a", "b"] {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
            }
        }
        reserved.clean(&mut headers);
        assert!(forged.iter().all(|name| !headers.contains_key(*name)));
        assert!(others.iter().all(|name| headers.get_all(*name).iter().count() == 2));
        let mut headers = HeaderMap::from_iter([(names[0].clone(), HeaderValue::from_static("a"))]);
        Reserved::default().clean(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
