//! A certificate in PEM: whose it is, for how long, and its fingerprints.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Certificates that expire within this many days are warned about.
pub const EXPIRY_WARNING_DAYS: i64 = 30;

const SECONDS_OF_A_DAY: i64 = 86_400;

/// A text that is no certificate. Holds nothing of it: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableCertificate(String);

/// What stands in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it; the subject itself for what `casewire keygen` makes.
    pub issuer: String,
    /// Kind and size of the public key: `RSA, 2048 bits`.
    pub key: String,
    /// First moment of validity.
    pub not_before: DateTime<Utc>,
    /// Last moment of validity.
    pub not_after: DateTime<Utc>,
    /// Of the whole certificate, as hexadecimal octets with colons between. Salesforce and older tools show this one.
    pub sha1: String,
    /// The same by SHA-256.
    pub sha256: String,
    /// The public key as it stands in the certificate; PKCS#1 for RSA.
    pub(crate) public_key: Vec<u8>,
}

/// Whether a certificate is valid at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its time has not come.
    NotYet,
    /// For so many whole days more.
    Valid {
        /// 0 on the last day.
        days_left: i64,
    },
    /// Its time is over.
    Expired,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn from_pem(pem: &str) -> Result<Self, UnreadableCertificate> {
        let unreadable = |error: &dyn std::fmt::Display| UnreadableCertificate(error.to_string());
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(&error))?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| unreadable(&error))?;
        let time = |at: &ASN1Time| {
            DateTime::from_timestamp(at.timestamp(), 0).ok_or_else(|| unreadable(&"a time of it is out of range"))
        };
        let info = certificate.public_key();
        let key = match info.parsed() {
            Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
            Ok(PublicKey::EC(key)) => format!("elliptic curve, {} bits", key.key_size()),
            _ => "of another kind than RSA".to_owned(),
        };
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            key,
            not_before: time(&certificate.validity().not_before)?,
            not_after: time(&certificate.validity().not_after)?,
            sha1: fingerprint(&SHA1_FOR_LEGACY_USE_ONLY, &der),
            sha256: fingerprint(&SHA256, &der),
            public_key: info.subject_public_key.data.to_vec(),
        })
    }

    /// Whether it is valid at `now`.
    pub fn standing(&self, now: DateTime<Utc>) -> Standing {
        if now < self.not_before {
            return Standing::NotYet;
        }
        if now > self.not_after {
            return Standing::Expired;
        }
        Standing::Valid { days_left: (self.not_after - now).num_seconds() / SECONDS_OF_A_DAY }
    }
}

fn fingerprint(algorithm: &'static Algorithm, der: &[u8]) -> String {
    let octets: Vec<String> = digest(algorithm, der).as_ref().iter().map(|octet| format!("{octet:02X}")).collect();
    octets.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey rsa:2048`, and what `openssl x509 -noout -subject -dates -fingerprint` says of it.
    const PEM: &str = "\
-----BEGIN CERTIFICATE-----
MIIDKzCCAhOgAwIBAgIUFPwEMmjBS04A3Wyd2rPmMUR4PgswDQYJKoZIhvcNAQEL
BQAwJTERMA8GA1UEAwwIY2FzZXdpcmUxEDAOBgNVBAoMB0V4YW1wbGUwHhcNMjYx
MTIzMDIyNDQ3WhcNMjcxMjI4MDIyNDQ3WjAlMREwDwYDVQQDDAhjYXNld2lyZTEQ
MA4GA1UECgwHRXhhbXBsZTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEB
ALByzVeERaFIUKDxMyAF04tNCvfjWPS+8XtR9ABT517g12ldIuV1kVY0gCiuC7Pk
Lx7kgKIlcX55sKLinzVaCFEaV+3yv92XBe8XjvYFObmm2/S2EHSBG1kOnhf5Yfvz
y1pNtB0kKX6U2QTyRE0z+g51BuZuyulEfIDSjzJKTwudHBTR4ydEPxQryZtap6yo
cL+lWxu0OC8wYjJ8acJ53ra5Pjq3LkhqiSZ8B381RxZyYmFS/PBdN8739Qrj3Boc
fFP9SH3h8HFFDytzRCSMNbDraLR3RYXZPZraKoX+jDzGHwszkz3uN7+TIR67qhMQ
TKirAkPdSRZJ/lj26bJbYjkCAwEAAaNTMFEwHQYDVR0OBBYEFOleYdZmgkFwBszE
2hsCRWaHEu81MB8GA1UdIwQYMBaAFOleYdZmgkFwBszE2hsCRWaHEu81MA8GA1Ud
EwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBAJkEh1H2YP/7++EcaYJYIaPU
+3HvSu/nNfb6j8fZJaGT0i+nFOrWwCX7pvjwbyHrhxKk6+2kGGWd1w77u0r4Uiie
YqCqj+uvG/V9SvMbKM6Ea+wERj7ZjB2x2+tESEhsYnaCVANpMudaeW1Uw/hhptUE
HA5xLZCfjL9OPpTCW5Dhu8wjTwtAHyIzitO0SAcW6e1yb8kQVEcSitf1AnG8fPRN
W6EsOBXRfZ/uMX0HmernhBG+txDXOGDpSE2/vyKIAu53Nhos0dwoCNurexLqlzJh
jv+StUoJ0IxvOpN1YWNnpBwFV8d1fhw8cXlsKC7SnLF50/ARCuwssbV/5NAzyRc=
-----END CERTIFICATE-----

";

    #[test]
    fn a_certificate_is_read_as_openssl_reads_it() {
        let read = Certificate::from_pem(PEM).expect("a certificate");
        assert_eq!((read.subject.as_str(), read.issuer.as_str()), ("CN=casewire, O=Example", "CN=casewire, O=Example"));
        assert_eq!(read.key, "RSA, 2048 bits");
        assert_eq!(read.not_before.to_rfc3339(), "2026-11-23T02:24:47+00:00");
        assert_eq!(read.not_after.to_rfc3339(), "2027-12-28T02:24:47+00:00");
        assert_eq!(read.sha1, "BC:30:1B:85:37:81:6B:15:55:9A:44:DB:78:F2:6F:0B:CD:B8:7B:EF");
        assert_eq!(
            read.sha256,
            "70:25:68:C2:FE:C9:6B:55:1A:DC:B4:E8:5A:0A:35:F3:34:68:8A:6A:14:6A:9C:34:3E:2F:D3:A1:36:E1:4E:3C"
        );
    }

    #[test]
    fn its_standing_follows_the_clock_to_the_second() {
        let read = Certificate::from_pem(PEM).expect("a certificate");
        let at = |from: DateTime<Utc>, seconds| read.standing(from + chrono::TimeDelta::seconds(seconds));
        assert_eq!(at(read.not_before, -1), Standing::NotYet);
        assert_eq!(at(read.not_after, 1), Standing::Expired);
        assert_eq!(at(read.not_after, 0), Standing::Valid { days_left: 0 });
        assert_eq!(at(read.not_after, -30 * SECONDS_OF_A_DAY), Standing::Valid { days_left: 30 });
        assert_eq!(at(read.not_after, 1 - 30 * SECONDS_OF_A_DAY), Standing::Valid { days_left: 29 });
    }

    #[test]
    fn what_is_no_certificate_is_refused_without_repeating_it() {
        for wrong in ["", "secret", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n"] {
            let error = Certificate::from_pem(wrong).expect_err("no certificate").to_string();
            assert!(!error.is_empty() && !error.contains("secret"), "{error}");
        }
    }
}
