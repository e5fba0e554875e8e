//! Which certificate authorities are trusted: the Mozilla list that is compiled in,
//! so that an image without a certificate store works, and one more file for a
//! company's own authority or a simulator.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// An extra authority that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The extra CA certificate cannot be used: {reason}")]
pub struct InvalidAuthority {
    reason: String,
}

/// The client side of TLS for HTTP: the compiled-in roots and `extra_ca` (PEM, one or more certificates).
pub(crate) fn client_config(extra_ca: Option<&str>) -> Result<ClientConfig, InvalidAuthority> {
    let invalid = |reason: String| InvalidAuthority { reason };
    let roots = authorities(extra_ca)?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The public authorities alone.
pub(crate) fn public_authorities() -> RootCertStore {
    RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned())
}

/// The public authorities and those of `extra_ca`.
pub(crate) fn authorities(extra_ca: Option<&str>) -> Result<RootCertStore, InvalidAuthority> {
    let mut roots = public_authorities();
    for certificate in extra_authorities(extra_ca)? {
        roots.add(certificate).map_err(|error| InvalidAuthority { reason: error.to_string() })?;
    }
    Ok(roots)
}

/// The certificates of the extra CA file; fails if it holds none, because then its owner is mistaken about it.
pub(crate) fn extra_authorities(extra_ca: Option<&str>) -> Result<Vec<CertificateDer<'static>>, InvalidAuthority> {
    let Some(pem) = extra_ca else { return Ok(Vec::new()) };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| InvalidAuthority { reason: format!("it is not PEM ({error})") })?;
    if certificates.is_empty() {
        return Err(InvalidAuthority { reason: "it holds no `BEGIN CERTIFICATE` block".to_owned() });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_authority_is_added_and_a_file_without_one_is_refused() {
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = rcgen::CertificateParams::new(vec!["ca.example".into()])
            .and_then(|params| params.self_signed(&key))
            .expect("certificate");
        assert!(client_config(Some(&certificate.pem())).is_ok());
        assert!(client_config(None).is_ok());
        for wrong in ["", "hello", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"] {
            assert!(client_config(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
