//! Conditions on headers, query parameters and cookies.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use regex::Regex;

use super::{PatternError, anchored};

/// A condition on one header, query parameter or cookie.
#[derive(Clone, Debug)]
pub struct ValueMatch<N = String> {
    /// Its name: a [`HeaderName`](http::HeaderName) for a header, else a text compared byte by byte.
    pub name: N,
    /// What it must be.
    pub is: Is,
}

/// What a header, query parameter or cookie must be.
///
/// A name may come more than once. Then **every** one of its values must be so: which of them a server goes by, only
/// that server knows.
#[derive(Clone, Debug)]
pub enum Is {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It is there, and this.
    Exact(String),
    /// It is there, and all of it matches. Make it with [`Is::regex`], which anchors it.
    Regex(Regex),
    /// It is there, and begins with this.
    Prefix(String),
}

impl Is {
    /// Reads a regular expression that the whole value must match.
    ///
    /// # Errors
    /// What the `regex` crate cannot compile.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        anchored(text).map(Self::Regex)
    }

    /// Whether no value satisfies both.
    fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => false,
            (Self::Absent, _) | (_, Self::Absent) => true,
            (Self::Present, _) | (_, Self::Present) => false,
            (Self::Exact(value), other) | (other, Self::Exact(value)) => {
                !other.accepts(value.as_bytes(), Coding::Plain)
            }
            (Self::Prefix(one), Self::Prefix(two)) => !one.starts_with(two.as_str()) && !two.starts_with(one.as_str()),
            // Whether two expressions share a text is not worth finding out.
            (Self::Regex(_), _) | (_, Self::Regex(_)) => false,
        }
    }

    /// Whether each value that satisfies `other` satisfies this one too, as far as it is plain to see.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, other) => matches!(other, Self::Absent),
            (_, Self::Absent) => false,
            (Self::Present, _) => true,
            (_, Self::Present) => false,
            (_, Self::Exact(value)) => self.accepts(value.as_bytes(), Coding::Plain),
            (Self::Prefix(short), Self::Prefix(long)) => long.starts_with(short.as_str()),
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            _ => false,
        }
    }

    /// Whether all of `values` are so; none at all is absence.
    pub(in crate::snapshot) fn holds<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>, coding: Coding) -> bool {
        let Some(first) = values.next() else {
            return matches!(self, Self::Absent);
        };
        self.accepts(first, coding) && values.all(|value| self.accepts(value, coding))
    }

    /// Whether a value that is there is so.
    fn accepts(&self, raw: &[u8], coding: Coding) -> bool {
        let plain = coding.leaves_alone(raw);
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Exact(wanted) if plain => raw == wanted.as_bytes(),
            Self::Exact(wanted) => coding.decode(raw).eq(wanted.bytes()),
            Self::Prefix(wanted) if plain => raw.starts_with(wanted.as_bytes()),
            Self::Prefix(wanted) => {
                let mut decoded = coding.decode(raw);
                wanted.bytes().all(|byte| decoded.next() == Some(byte))
            }
            Self::Regex(regex) => {
                let decoded = if plain { Cow::Borrowed(raw) } else { Cow::Owned(coding.decode(raw).collect()) };
                // A value that is no UTF-8 matches no expression, not even `.*`.
                std::str::from_utf8(&decoded).is_ok_and(|text| regex.is_match(text))
            }
        }
    }
}

impl<N: PartialEq> ValueMatch<N> {
    /// Whether no request satisfies all of `one` and all of `two`.
    pub(in crate::snapshot) fn are_disjoint(one: &[Self], two: &[Self]) -> bool {
        one.iter().any(|a| two.iter().any(|b| a.name == b.name && a.is.is_disjoint(&b.is)))
    }

    /// Whether each request that satisfies all of `other` satisfies all of `conditions`.
    pub(in crate::snapshot) fn cover(conditions: &[Self], other: &[Self]) -> bool {
        conditions.iter().all(|a| other.iter().any(|b| a.name == b.name && a.is.covers(&b.is)))
    }
}

/// How a value is written where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::snapshot) enum Coding {
    /// As it is: headers.
    Plain,
    /// Percent-encoded: cookies.
    Percent,
    /// Percent-encoded, and `+` is a space: queries.
    Form,
}

impl Coding {
    fn leaves_alone(self, raw: &[u8]) -> bool {
        match self {
            Self::Plain => true,
            Self::Percent => memchr(b'%', raw).is_none(),
            Self::Form => memchr2(b'%', b'+', raw).is_none(),
        }
    }

    /// Whether `raw` stands for `wanted`.
    pub(in crate::snapshot) fn is(self, raw: &[u8], wanted: &str) -> bool {
        if self.leaves_alone(raw) { raw == wanted.as_bytes() } else { self.decode(raw).eq(wanted.bytes()) }
    }

    /// Byte by byte, so that nothing is allocated. A `%` without two digits stands for itself.
    fn decode(self, raw: &[u8]) -> impl Iterator<Item = u8> {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        let mut at = 0;
        std::iter::from_fn(move || {
            let byte = *raw.get(at)?;
            if byte == b'%'
                && self != Self::Plain
                && let (Some(high), Some(low)) = (hex(raw.get(at + 1)), hex(raw.get(at + 2)))
            {
                at += 3;
                return u8::try_from(high * 16 + low).ok();
            }
            at += 1;
            Some(if byte == b'+' && self == Self::Form { b' ' } else { byte })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_that_is_none_is_refused() {
        assert!(Is::regex("(").is_err());
    }

    #[test]
    fn decoding_leaves_alone_what_is_not_encoded() {
        let decode = |coding: Coding, raw: &str| String::from_utf8(coding.decode(raw.as_bytes()).collect()).unwrap();
        assert_eq!(decode(Coding::Form, "a+b%20c%2Bd%"), "a b c+d%");
        assert_eq!(decode(Coding::Percent, "a+b%20c%4"), "a+b c%4");
        assert_eq!(decode(Coding::Form, "%zz%%41"), "%zz%A");
        assert_eq!(decode(Coding::Plain, "a+b%20c"), "a+b%20c");
    }
}
