//! Certificates and private keys in PEM form. What is wrong with one is told without a byte of it.

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a text is not what it should be, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong.
    pub message: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// How what is PEM begins.
const BEGIN: &str = "-----BEGIN ";

const fn unfit(message: &'static str, hint: &'static str) -> Unfit {
    Unfit { message, hint }
}

/// The certificates in a text. At least one.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    const SHAPE: &str = "it begins with `-----BEGIN CERTIFICATE-----`";
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates {
        Err(_) => Err(unfit("is damaged PEM", SHAPE)),
        Ok(certificates) if certificates.is_empty() => Err(unfit(
            "holds no certificate",
            if text.contains("PRIVATE KEY-----") {
                "it is a private key, which belongs under `key`"
            } else if text.contains(BEGIN) {
                SHAPE
            } else {
                "for the certificate of a file write `${file:tls.crt}`"
            },
        )),
        Ok(certificates) => {
            for certificate in &certificates {
                webpki::EndEntityCert::try_from(certificate)
                    .map_err(|_| unfit("holds something that is no certificate (X.509 v3)", SHAPE))?;
            }
            Ok(certificates)
        }
    }
}

/// The one private key in a text.
pub fn key(text: &str) -> Result<PrivateKeyDer<'static>, Unfit> {
    const SHAPE: &str = "it begins with `-----BEGIN PRIVATE KEY-----`";
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err(unfit(
            "is encrypted",
            "`openssl pkey -in KEY -out PLAIN` takes the passphrase off; guard the file",
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound if text.contains("-----BEGIN CERTIFICATE-----") => {
            unfit("holds no private key", "it is a certificate, which belongs under `certificate`")
        }
        pem::Error::NoItemsFound => unfit("holds no private key", SHAPE),
        _ => unfit("is damaged PEM", SHAPE),
    })
}

/// The authorities in a text. At least one.
pub fn authorities(text: &str) -> Result<RootCertStore, Unfit> {
    let mut roots = RootCertStore::empty();
    let (_, unread) = roots.add_parsable_certificates(certificates(text)?);
    if roots.is_empty() || unread > 0 {
        return Err(unfit("holds a certificate that cannot vouch for others", "take certificates of authorities"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_or_key_is_told_without_a_byte_of_it() {
        let pair = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (certificate, private) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        assert_eq!(certificates(&format!("{certificate}{certificate}")).unwrap().len(), 2);
        assert!(key(&private).is_ok() && authorities(&certificate).is_ok());
        let cut = &certificate[..certificate.len() / 2];
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, message) in [
            ("", "holds no certificate"),
            (private.as_str(), "holds no certificate"),
            (cut, "is damaged PEM"),
            (garbage, "holds something that is no certificate (X.509 v3)"),
        ] {
            assert_eq!(certificates(text).unwrap_err().message, message);
        }
        for (text, message) in [
            (certificate.as_str(), "holds no private key"),
            (&private[..private.len() / 2], "is damaged PEM"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "is encrypted"),
        ] {
            assert_eq!(key(text).unwrap_err().message, message);
        }
    }
}
