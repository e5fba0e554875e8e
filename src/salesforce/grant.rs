//! What casewire signs in with.
//!
//! The JWT bearer flow (RFC 7523) needs no password: casewire signs an assertion with
//! a private key whose certificate the org's administrator uploaded. Client
//! credentials are the alternative; Salesforce accepts them on a My Domain host only.

use chrono::{DateTime, SecondsFormat, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

pub use crate::config::Grant;
use crate::salesforce::certificate::{Certificate, EXPIRY_WARNING_DAYS, Standing};

/// How long an assertion is valid, in seconds. Salesforce allows three minutes;
/// the rest is for a clock that is known to a second or so.
const ASSERTION_SECONDS: i64 = 150;

/// Key material that cannot be used. Never holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Protected by a pass phrase.
    #[error("The private key is encrypted")]
    Encrypted,
    /// Not PEM, not RSA, or too short to sign with.
    #[error("The private key is not an unencrypted RSA key of at least 2048 bits in PEM form (PKCS#1 or PKCS#8)")]
    NotRsa,
    /// Not a certificate.
    #[error("The certificate cannot be read: {0}")]
    Certificate(String),
    /// The certificate belongs to another key.
    #[error("The certificate ({subject}) does not belong to the private key")]
    Mismatch {
        /// Whose certificate it is.
        subject: String,
    },
    /// The certificate is not valid now.
    #[error("The certificate ({subject}) is valid from {from} to {to} only")]
    NotValidNow {
        /// Whose certificate it is.
        subject: String,
        /// First moment of validity.
        from: String,
        /// Last moment of validity.
        to: String,
    },
}

/// A grant whose key has been read and checked.
pub(crate) enum Credentials {
    Jwt { username: String, client_id: String, key: EncodingKey },
    Secret { client_id: String, client_secret: SecretString },
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
}

impl Credentials {
    /// Reads the key, proves that it can sign, and checks the certificate against it.
    pub(crate) fn new(grant: Grant, now: DateTime<Utc>) -> Result<Self, InvalidKey> {
        match grant {
            Grant::ClientCredentials { client_id, client_secret } => Ok(Self::Secret { client_id, client_secret }),
            Grant::JwtBearer { username, client_id, private_key, certificate } => {
                let pem = private_key.expose_secret();
                if pem.contains("ENCRYPTED") {
                    return Err(InvalidKey::Encrypted);
                }
                let key = EncodingKey::from_rsa_pem(private_block(pem).as_bytes()).map_err(|_| InvalidKey::NotRsa)?;
                jsonwebtoken::crypto::sign(b"casewire", &key, Algorithm::RS256).map_err(|_| InvalidKey::NotRsa)?;
                let beside = pem.contains("BEGIN CERTIFICATE").then_some(pem);
                if let Some(certificate) = certificate.as_deref().or(beside) {
                    check_certificate(certificate, &key, now)?;
                }
                Ok(Self::Jwt { username, client_id, key })
            }
        }
    }

    /// The form of one token request. `now` is Salesforce's time.
    pub(crate) fn form(
        &self,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<(&'static str, SecretString)>, InvalidKey> {
        match self {
            Self::Jwt { username, client_id, key } => {
                let exp = now.timestamp().saturating_add(ASSERTION_SECONDS);
                let claims = Claims { iss: client_id, sub: username, aud: audience, exp };
                let assertion = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, key)
                    .map_err(|_| InvalidKey::NotRsa)?;
                Ok(vec![
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer".into()),
                    ("assertion", assertion.into()),
                ])
            }
            Self::Secret { client_id, client_secret } => Ok(vec![
                ("grant_type", "client_credentials".into()),
                ("client_id", client_id.as_str().into()),
                ("client_secret", client_secret.clone()),
            ]),
        }
    }
}

/// The private key block of a file that may hold a certificate before or after it.
fn private_block(pem: &str) -> &str {
    for (begin, end) in [
        ("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"),
        ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
    ] {
        if let Some(from) = pem.find(begin)
            && let Some(length) = pem.get(from..).and_then(|rest| rest.find(end))
        {
            return pem.get(from..from + length + end.len()).unwrap_or(pem);
        }
    }
    pem
}

fn check_certificate(pem: &str, key: &EncodingKey, now: DateTime<Utc>) -> Result<(), InvalidKey> {
    let certificate = Certificate::from_pem(pem).map_err(|error| InvalidKey::Certificate(error.to_string()))?;
    let subject = certificate.subject.clone();

    // A signature made with the key and read with the certificate proves that the two belong together.
    let signature = jsonwebtoken::crypto::sign(b"casewire", key, Algorithm::RS256).map_err(|_| InvalidKey::NotRsa)?;
    let public = DecodingKey::from_rsa_der(&certificate.public_key);
    if !jsonwebtoken::crypto::verify(&signature, b"casewire", &public, Algorithm::RS256).unwrap_or(false) {
        return Err(InvalidKey::Mismatch { subject });
    }

    match certificate.standing(now) {
        Standing::NotYet | Standing::Expired => {
            let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
            let (from, to) = (time(certificate.not_before), time(certificate.not_after));
            Err(InvalidKey::NotValidNow { subject, from, to })
        }
        Standing::Valid { days_left } => {
            if days_left < EXPIRY_WARNING_DAYS {
                tracing::warn!(days_left, certificate = %subject, "the certificate of the sign-in key expires soon");
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::salesforce::scripted::KEY;

    fn credentials(
        private_key: &str,
        certificate: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Credentials, InvalidKey> {
        let grant = Grant::JwtBearer {
            username: "integration@example.com".into(),
            client_id: "3MVG9".into(),
            private_key: private_key.into(),
            certificate: certificate.map(Into::into),
        };
        Credentials::new(grant, now)
    }

    #[test]
    fn both_forms_of_a_private_key_sign_an_assertion_that_its_certificate_verifies() {
        let der = CertificateDer::from_pem_slice(KEY.certificate.as_bytes()).expect("pem");
        let (_, certificate) = X509Certificate::from_der(&der).expect("certificate");
        let public = DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data);
        let mut rules = jsonwebtoken::Validation::new(Algorithm::RS256);
        rules.set_audience(&["https://login.salesforce.com"]);
        for key in [&KEY.pkcs1, &KEY.pkcs8] {
            let now = Utc::now();
            let credentials = credentials(key, Some(&KEY.certificate), now).unwrap_or_else(|error| panic!("{error}"));
            let form = credentials.form("https://login.salesforce.com", now).expect("signed");
            let claims: serde_json::Value =
                jsonwebtoken::decode(form[1].1.expose_secret(), &public, &rules).expect("verified").claims;
            assert_eq!(claims["iss"], "3MVG9");
            assert_eq!(claims["sub"], "integration@example.com");
            let lifetime = claims["exp"].as_i64().expect("number") - now.timestamp();
            assert!((1..=180).contains(&lifetime), "{lifetime} s");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused_with_the_reason() {
        let now = Utc::now();
        let refusal = |key: &str, certificate| credentials(key, certificate, now).err();
        let encrypted = KEY.pkcs8.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(refusal(&encrypted, None), Some(InvalidKey::Encrypted));
        assert_eq!(refusal("not a key", None), Some(InvalidKey::NotRsa));
        let elliptic = rcgen::KeyPair::generate().expect("key");
        assert_eq!(refusal(&elliptic.serialize_pem(), None), Some(InvalidKey::NotRsa));
        assert!(matches!(refusal(&KEY.pkcs8, Some("nonsense")), Some(InvalidKey::Certificate(_))));
        let foreign = rcgen::CertificateParams::new(vec!["other.example".into()])
            .and_then(|params| params.self_signed(&elliptic))
            .expect("certificate");
        assert!(matches!(refusal(&KEY.pkcs8, Some(&foreign.pem())), Some(InvalidKey::Mismatch { .. })));
    }

    #[test]
    fn a_certificate_in_the_key_file_is_checked_too_and_must_be_valid_now() {
        let both = format!("{}\n{}", KEY.certificate, KEY.pkcs8);
        assert!(credentials(&both, None, Utc::now()).is_ok());
        let past = DateTime::UNIX_EPOCH;
        assert!(matches!(credentials(&both, None, past).err(), Some(InvalidKey::NotValidNow { .. })));
    }
}
