//! When a certificate ends, and a list of those that were taken back. rustls knows, and does not tell.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;

/// The last second of a certificate's life, in seconds since 1970. `der` is the certificate (RFC 5280 §4.1).
pub fn of(der: &[u8]) -> Option<i64> {
    const VERSION: u8 = 0xa0;
    let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(certificate.expect(SEQUENCE)?);
    if body.0.first() == Some(&VERSION) {
        body.next()?;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        body.next()?;
    }
    let mut validity = Reader(body.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, text) = validity.next()?;
    time(tag, text)
}

/// Certificates that an authority has taken back, as it lists them (a CRL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The authority's common name, or which list of its listener it is.
    pub authority: String,
    /// When it was made, in seconds since 1970.
    pub since: i64,
    /// When the next one is due, after which rustls believes it no longer, in seconds since 1970.
    pub end: i64,
}

impl List {
    /// Reads the list `der` (RFC 5280 §5.1), which is number `place` of its listener.
    pub fn of(der: &[u8], place: usize) -> Option<Self> {
        const VERSION: u8 = 0x02;
        let mut list = Reader(Reader(der).expect(SEQUENCE)?);
        let mut body = Reader(list.expect(SEQUENCE)?);
        if body.0.first() == Some(&VERSION) {
            body.next()?;
        }
        // Algorithm.
        body.next()?;
        let issuer = body.expect(SEQUENCE)?;
        let mut moment = || body.next().and_then(|(tag, text)| time(tag, text));
        let (since, end) = (moment()?, moment()?);
        let authority = common_name(issuer).unwrap_or_else(|| format!("list {place}"));
        Some(Self { authority, since, end })
    }
}

/// The common name in the name of an authority (RFC 5280 §4.1.2.4).
fn common_name(issuer: &[u8]) -> Option<String> {
    const SET: u8 = 0x31;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const UTF8_STRING: u8 = 0x0c;
    const PRINTABLE_STRING: u8 = 0x13;
    let mut names = Reader(issuer);
    while let Some(set) = names.expect(SET) {
        let mut pair = Reader(Reader(set).expect(SEQUENCE)?);
        if pair.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
            let (tag, text) = pair.next()?;
            let is_text = [UTF8_STRING, PRINTABLE_STRING].contains(&tag) && !text.is_empty();
            return is_text.then(|| std::str::from_utf8(text).ok().map(str::to_owned))?;
        }
    }
    None
}

/// `UTCTime` or `GeneralizedTime`, in the one form that certificates may have (RFC 5280 §4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |at: usize| -> Option<i16> {
        let pair = digits.get(at..at + 2)?;
        Some(i16::from(pair[0] - b'0') * 10 + i16::from(pair[1] - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (two(0)? + if two(0)? < 50 { 2000 } else { 1900 }, 2),
        (GENERALIZED_TIME, 14) => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let part = |place: usize| two(rest + place * 2).and_then(|value| i8::try_from(value).ok());
    let moment = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    Some(moment.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Reads DER, value by value.
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// The next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let bytes = usize::from(first & 0x7f);
            if !(1..=4).contains(&bytes) {
                return None;
            }
            let (digits, after) = rest.split_at_checked(bytes)?;
            length = digits.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_when_it_ends() {
        let key = rcgen::KeyPair::generate().unwrap();
        for (year, seconds) in [(2030, 1_893_456_000), (2049, 2_493_072_000), (2060, 2_840_140_800)] {
            let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            assert_eq!(of(params.self_signed(&key).unwrap().der()), Some(seconds), "{year}");
        }
    }

    fn list(authority: rcgen::DistinguishedName) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = authority;
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2060, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::new(params, key)).unwrap().der().to_vec()
    }

    #[test]
    fn a_list_tells_whose_it_is_and_when_the_next_one_is_due() {
        let mut named = rcgen::DistinguishedName::new();
        named.push(rcgen::DnType::OrganizationName, "Example");
        let list_of =
            |authority: &str| Some(List { authority: authority.into(), since: 1_704_067_200, end: 2_840_140_800 });
        assert_eq!(List::of(&list(named.clone()), 3), list_of("list 3"));
        named.push(rcgen::DnType::CommonName, "Root \u{e9}");
        assert_eq!(List::of(&list(named), 3), list_of("Root \u{e9}"));
    }

    #[test]
    fn what_is_no_list_tells_nothing_and_does_no_harm() {
        let mut named = rcgen::DistinguishedName::new();
        named.push(rcgen::DnType::CommonName, "Root");
        let whole = list(named);
        for end in 0..60 {
            assert_eq!(List::of(&whole[..end], 0), None);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = List::of(&damaged, 0);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end_and_does_no_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let whole = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let whole = whole.der().to_vec();
        for end in 0..200 {
            assert_eq!(of(&whole[..end]), None);
        }
        for at in 0..whole.len().min(300) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = of(&damaged);
        }
    }
}
