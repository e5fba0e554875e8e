//! The key pair that casewire signs in with, made new.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
};
use secrecy::SecretString;

/// The longest common name that X.509 allows (RFC 5280, `ub-common-name`).
const LONGEST_COMMON_NAME: usize = 64;

/// A private key and its self-signed certificate.
#[derive(Debug)]
pub struct SignInKeyPair {
    /// PKCS#8 in PEM, unencrypted.
    pub private_key: SecretString,
    /// X.509 in PEM, to be uploaded to the app.
    pub certificate: String,
}

/// How large the key is. RS256, which Salesforce asks for, takes both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBits {
    /// What Salesforce's own guides make.
    Bits2048,
    /// For companies whose rules ask for more; a signature takes some milliseconds longer.
    Bits4096,
}

/// A key pair could not be made.
#[derive(Debug, thiserror::Error)]
#[error("The key pair could not be made: {0}")]
pub struct NotMade(#[from] rcgen::Error);

impl SignInKeyPair {
    /// Makes a pair for a user; takes up to some seconds. The certificate is valid from a day before `now`, since the
    /// clocks of two machines differ, until `days` after it.
    ///
    /// # Errors
    /// When the machine has no randomness to make it from.
    pub fn generate(username: &str, bits: KeyBits, now: DateTime<Utc>, days: u32) -> Result<Self, NotMade> {
        let size = match bits {
            KeyBits::Bits2048 => RsaKeySize::_2048,
            KeyBits::Bits4096 => RsaKeySize::_4096,
        };
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name(username));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let day = Duration::from_secs(86_400);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let today = Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or(0));
        params.not_before = epoch + today.saturating_sub(day);
        params.not_after = epoch + today + day.saturating_mul(days);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { private_key: key.serialize_pem().into(), certificate })
    }
}

/// Whoever sees the certificate in Setup should see whose it is.
fn common_name(username: &str) -> String {
    let name = format!("casewire {username}");
    if name.chars().count() <= LONGEST_COMMON_NAME { name } else { "casewire".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::certificate::{Certificate, Standing};

    #[test]
    fn the_certificate_is_for_the_user_and_as_long_as_was_asked() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let pair = SignInKeyPair::generate("integration@example.com", KeyBits::Bits2048, now, 400).expect("made");
        let certificate = Certificate::from_pem(&pair.certificate).expect("a certificate");
        assert_eq!(certificate.subject, "CN=casewire integration@example.com");
        assert_eq!(certificate.key, "RSA, 2048 bits");
        assert_eq!(certificate.standing(now), Standing::Valid { days_left: 400 });
        assert_eq!(certificate.standing(now - chrono::TimeDelta::hours(23)), Standing::Valid { days_left: 400 });
        assert_eq!(certificate.standing(now + chrono::TimeDelta::days(401)), Standing::Expired);
        assert_eq!(common_name(&"x".repeat(80)), "casewire");
    }
}
