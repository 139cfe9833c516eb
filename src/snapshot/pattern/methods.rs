//! Sets of methods.

use std::fmt;

use http::Method;

/// A set of methods. `GET` in it takes `HEAD` along (RFC 9110 §9.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// A bit for each of `STANDARD`: nearly all requests are decided by one `and`.
    standard: u16,
    other: Vec<Method>,
}

const STANDARD: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];
const GET: u16 = 1;
const HEAD: u16 = 1 << 1;

fn standard_bit(method: &Method) -> Option<u16> {
    Some(match *method {
        Method::GET => GET,
        Method::HEAD => HEAD,
        Method::POST => 1 << 2,
        Method::PUT => 1 << 3,
        Method::PATCH => 1 << 4,
        Method::DELETE => 1 << 5,
        Method::OPTIONS => 1 << 6,
        Method::TRACE => 1 << 7,
        Method::CONNECT => 1 << 8,
        _ => return None,
    })
}

impl Methods {
    /// Whether `method` is in the set, or is `HEAD` and `GET` is.
    pub fn allows(&self, method: &Method) -> bool {
        match standard_bit(method) {
            Some(HEAD) => self.standard & (GET | HEAD) != 0,
            Some(bit) => self.standard & bit != 0,
            None => self.other.contains(method),
        }
    }

    /// Whether the set holds no method.
    pub fn is_empty(&self) -> bool {
        self.standard == 0 && self.other.is_empty()
    }

    /// The methods that are allowed, `HEAD` included where `GET` is: `GET, HEAD, POST, ...`, then those of no standard.
    pub fn iter(&self) -> impl Iterator<Item = &Method> {
        STANDARD.iter().chain(&self.other).filter(|method| self.allows(method))
    }

    pub(in crate::snapshot) fn names(&self, method: &Method) -> bool {
        match standard_bit(method) {
            Some(bit) => self.standard & bit != 0,
            None => self.other.contains(method),
        }
    }

    /// Whether a method is named by both. A `HEAD` that comes along with `GET` does not count.
    pub(in crate::snapshot) fn share(&self, other: &Self) -> bool {
        self.standard & other.standard != 0 || self.other.iter().any(|method| other.other.contains(method))
    }

    pub(in crate::snapshot) fn cover(&self, other: &Self) -> bool {
        other.iter().all(|method| self.allows(method))
    }

    pub(in crate::snapshot) fn add(&mut self, more: &Self) {
        self.standard |= more.standard;
        for method in &more.other {
            if !self.other.contains(method) {
                self.other.push(method.clone());
            }
        }
    }
}

impl<'m> FromIterator<&'m Method> for Methods {
    fn from_iter<I: IntoIterator<Item = &'m Method>>(methods: I) -> Self {
        let mut set = Self::default();
        for method in methods {
            match standard_bit(method) {
                Some(bit) => set.standard |= bit,
                None if set.other.contains(method) => {}
                None => set.other.push(method.clone()),
            }
        }
        set
    }
}

/// As the `Allow` header has it: `GET, HEAD, POST` (RFC 9110 §10.2.1).
impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, method) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            f.write_str(method.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_listed_for_allow() {
        let purge = Method::from_bytes(b"PURGE").unwrap();
        let methods: Methods = [&purge, &Method::POST, &Method::GET, &purge].into_iter().collect();
        assert_eq!(methods.to_string(), "GET, HEAD, POST, PURGE");
        assert!(methods.allows(&Method::HEAD) && methods.allows(&purge));
        assert!(!methods.allows(&Method::PUT) && !methods.names(&Method::HEAD));
        assert!(Methods::default().is_empty() && !methods.is_empty());
    }
}
