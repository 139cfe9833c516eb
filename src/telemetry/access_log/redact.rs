//! What may be secret, and how it is masked. Every form of line writes queries and headers through this file.

use http::{HeaderName, header};

use crate::http::headers::is_credential;

/// What stands in place of a value that may be secret.
const MASK: &[u8] = b"***";

/// Writes bytes so that they cannot leave their place in a line.
pub(super) type Escape = fn(&mut Vec<u8>, &[u8]);

/// A header that is shown, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: HeaderName,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    AsIs,
    /// A URL, or several: their queries, fragments and credentials are masked.
    Url,
    Masked,
}

impl Shown {
    pub(super) fn of(name: HeaderName) -> Self {
        let urls = [header::REFERER, header::LOCATION, header::CONTENT_LOCATION, header::LINK, header::REFRESH];
        let original = ["x-original-url", "x-original-uri", "x-rewrite-url", "x-forwarded-uri"];
        let how = if is_credential(name.as_str()) {
            How::Masked
        } else if urls.contains(&name) || original.contains(&name.as_str()) {
            How::Url
        } else {
            How::AsIs
        };
        Self { name, how }
    }

    /// Writes a value. Query keys of URLs in `keys` keep theirs.
    pub(super) fn write(&self, out: &mut Vec<u8>, value: &[u8], keys: &[String], escape: Escape) {
        match self.how {
            How::AsIs => escape(out, value),
            How::Url => write_url(out, value, keys, escape),
            How::Masked => out.extend_from_slice(MASK),
        }
    }

    /// Whether there is nothing to show of a second line.
    pub(super) fn is_masked(&self) -> bool {
        self.how == How::Masked
    }
}

/// Writes the query with every value masked but those of listed keys.
///
/// What has no key is masked whole. A semicolon separates like an ampersand, for some applications read it so and a
/// secret would hide behind the value of a listed key. So does a hash in a URL: a fragment may hold a token (RFC 6749
/// §4.2.2).
pub(super) fn write_query(out: &mut Vec<u8>, query: &[u8], keys: &[String], escape: Escape) {
    let mut rest = query;
    loop {
        let end = memchr::memchr3(b'&', b';', b'#', rest).unwrap_or(rest.len());
        let pair = &rest[..end];
        match memchr::memchr(b'=', pair) {
            Some(at) if keys.iter().any(|key| key.as_bytes() == &pair[..at]) => escape(out, pair),
            Some(at) => {
                escape(out, &pair[..=at]);
                out.extend_from_slice(MASK);
            }
            None if pair.is_empty() => {}
            None => out.extend_from_slice(MASK),
        }
        let Some((separator, next)) = rest[end..].split_first() else {
            return;
        };
        out.push(*separator);
        rest = next;
    }
}

/// Writes a URL without what may be secret: what stands before the `@` of its authority, its query and its fragment.
fn write_url(out: &mut Vec<u8>, url: &[u8], keys: &[String], escape: Escape) {
    let end = memchr::memchr2(b'?', b'#', url).unwrap_or(url.len());
    let (mut place, query) = url.split_at(end);
    if let Some(at) = memchr::memmem::find(place, b"//") {
        let (scheme, rest) = place.split_at(at + 2);
        let authority = &rest[..memchr::memchr(b'/', rest).unwrap_or(rest.len())];
        // The last one: a password may hold another (WHATWG URL, "authority state").
        if let Some(user) = memchr::memrchr(b'@', authority) {
            escape(out, scheme);
            out.extend_from_slice(MASK);
            place = &rest[user..];
        }
    }
    escape(out, place);
    if let Some((mark, query)) = query.split_first() {
        out.push(*mark);
        write_query(out, query, keys, escape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend_from_slice(bytes);
    }

    #[test]
    fn a_query_is_masked_but_for_listed_keys() {
        for (query, keys, want) in [
            ("page=2&token=secret", &["page"][..], "page=2&token=***"),
            ("page=2&token=secret", &[], "page=***&token=***"),
            ("secret", &["secret"], "***"),
            ("page=a=b", &["page"], "page=a=b"),
            ("page=1;token=secret", &["page"], "page=1;token=***"),
            ("page=1#token=secret", &["page"], "page=1#token=***"),
            ("Page=1", &["page"], "Page=***"),
            ("%70age=1", &["page"], "%70age=***"),
            ("&&=x&", &["page"], "&&=***&"),
            ("", &["page"], ""),
        ] {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let mut out = Vec::new();
            write_query(&mut out, query.as_bytes(), &keys, plain);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{query}");
        }
    }

    #[test]
    fn a_header_shows_no_credential_whatever_it_is_called() {
        for (name, value, want) in [
            ("user-agent", "curl/8", "curl/8"),
            ("x-tenant", "a?b=c", "a?b=c"),
            ("authorization", "Bearer hunter2", "***"),
            ("proxy-authorization", "hunter2", "***"),
            ("cookie", "a=hunter2", "***"),
            ("set-cookie", "a=hunter2", "***"),
            ("x-api-key", "hunter2", "***"),
            ("apikey", "hunter2", "***"),
            ("x-amz-security-token", "hunter2", "***"),
            ("x-csrf-token", "hunter2", "***"),
            ("x-auth-request-user", "hunter2", "***"),
            ("x-session-id", "hunter2", "***"),
            ("x-goog-iap-jwt-assertion", "hunter2", "***"),
            ("referer", "https://shop.example.com/a", "https://shop.example.com/a"),
            ("referer", "https://shop.example.com/a?page=2&code=hunter2", "https://shop.example.com/a?page=2&code=***"),
            ("location", "https://app.example/#access_token=hunter2", "https://app.example/#access_token=***"),
            ("location", "https://app.example/?page=1#hunter2", "https://app.example/?page=1#***"),
            ("location", "https://me:hunter@2@app.example/x", "https://***@app.example/x"),
            ("location", "//hunter2@app.example", "//***@app.example"),
            ("location", "/a/b@c", "/a/b@c"),
            ("refresh", "5; url=/a?code=hunter2", "5; url=/a?code=***"),
            ("link", "</a?code=hunter2>; rel=next", "</a?code=***; rel=***"),
            ("x-original-url", "/a?code=hunter2", "/a?code=***"),
        ] {
            let shown = Shown::of(HeaderName::from_bytes(name.as_bytes()).unwrap());
            let mut out = Vec::new();
            shown.write(&mut out, value.as_bytes(), &["page".to_owned()], plain);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{name}: {value}");
        }
    }
}
