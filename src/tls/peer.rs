//! What a client's certificate, once it is believed, says of the client.

use sha2::{Digest, Sha256};

use super::expiry;

/// A client that showed a certificate which an authority vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// URIs that it holds, such as SPIFFE names.
    pub uris: Vec<Box<str>>,
    /// Host names that it holds, in small letters.
    pub hosts: Vec<Box<str>>,
    /// The SHA-256 of it, in hexadecimal digits.
    pub fingerprint: Box<str>,
    /// When it ends, in seconds since 1970.
    pub ends: Option<i64>,
}

impl Peer {
    /// Reads the certificate `der`, which rustls has verified.
    pub fn of(der: &[u8]) -> Self {
        let certificate = der.into();
        let parsed = webpki::EndEntityCert::try_from(&certificate).ok();
        let fingerprint = Sha256::digest(der).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Self {
            uris: parsed.iter().flat_map(|parsed| parsed.valid_uri_names().map(Box::from)).collect(),
            hosts: parsed
                .iter()
                .flat_map(|parsed| parsed.valid_dns_names().map(|name| name.to_ascii_lowercase().into()))
                .collect(),
            fingerprint: fingerprint.into(),
            ends: expiry::of(der),
        }
    }

    /// Every name, the URIs first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.uris.iter().chain(&self.hosts).map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_its_names_its_end_and_its_digest() {
        let mut params = rcgen::CertificateParams::new(["A.test".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://example.org/app".try_into().unwrap()));
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let peer = Peer::of(certificate.der());
        assert_eq!(peer.names().collect::<Vec<_>>(), ["spiffe://example.org/app", "a.test"]);
        assert_eq!((peer.ends, peer.fingerprint.len()), (Some(1_893_456_000), 64));
        assert_eq!(Peer::of(b"nonsense").names().count(), 0);
    }
}
