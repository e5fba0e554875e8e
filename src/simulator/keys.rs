//! The keys and certificates of the org: the pair that clients sign in with, and the CA
//! and server certificate of its TLS ports.

use std::path::Path;
use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::simulator::SimulatorError;
use crate::simulator::settings::SignIn;

/// What a client signs its assertions with, as far as the simulator knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SignInKeys {
    /// Only when the simulator made the pair itself.
    pub(crate) private_key_pem: Option<String>,
    pub(crate) certificate_pem: String,
}

/// Takes the configured certificate or public key, the pair of an earlier run in the directory, or makes a pair.
pub(crate) fn sign_in_keys(sign_in: &SignIn, directory: Option<&Path>) -> Result<SignInKeys, SimulatorError> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| SimulatorError::file(path, error));
    if let Some(pem) = &sign_in.certificate {
        return Ok(SignInKeys { private_key_pem: None, certificate_pem: pem.clone() });
    }
    if let Some(path) = &sign_in.certificate_file {
        return Ok(SignInKeys { private_key_pem: None, certificate_pem: read(path)? });
    }
    let paths = directory.map(|directory| (directory.join("key.pem"), directory.join("certificate.pem")));
    if let Some((key, certificate)) = paths.as_ref().filter(|(key, certificate)| key.exists() && certificate.exists()) {
        return Ok(SignInKeys { private_key_pem: Some(read(key)?), certificate_pem: read(certificate)? });
    }
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "casewire simulator sign-in");
    let certificate_pem = params.self_signed(&key)?.pem();
    let private_key_pem = key.serialize_pem();
    if let Some((key_path, certificate_path)) = paths {
        write(&certificate_path, &certificate_pem)?;
        write(&key_path, &private_key_pem)?;
        owner_only(&key_path)?;
    }
    Ok(SignInKeys { private_key_pem: Some(private_key_pem), certificate_pem })
}

fn write(path: &Path, text: &str) -> Result<(), SimulatorError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| SimulatorError::file(directory, error))?;
    }
    std::fs::write(path, text).map_err(|error| SimulatorError::file(path, error))
}

#[cfg(unix)]
fn owner_only(path: &Path) -> Result<(), SimulatorError> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions).map_err(|error| SimulatorError::file(path, error))
}

#[cfg(not(unix))]
fn owner_only(_path: &Path) -> Result<(), SimulatorError> {
    Ok(())
}

/// The key that verifies assertions, from a certificate or a public key in PEM.
pub(crate) fn verification_key(pem: &str) -> Result<DecodingKey, SimulatorError> {
    let unusable =
        || SimulatorError::Certificate("It is neither a certificate nor a public RSA key in PEM.".to_owned());
    if !pem.contains("BEGIN CERTIFICATE") {
        return DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| unusable());
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| unusable())?;
    let certificate = pem.parse_x509().map_err(|_| unusable())?;
    Ok(DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data))
}

/// The TLS side of the ports, and the CA that clients must trust.
pub(crate) struct ServerTls {
    /// HTTP/2 only, as gRPC needs it.
    pub(crate) pubsub: TlsAcceptor,
    /// HTTP/1.1.
    pub(crate) http: TlsAcceptor,
    pub(crate) ca_pem: String,
}

/// The server's chain and key, and the CA they come from, in PEM.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

/// The CA and certificate of an earlier run in the directory, so that clients need to trust them once; else new ones.
pub(crate) fn server_tls(directory: Option<&Path>) -> Result<ServerTls, SimulatorError> {
    let files = directory.map(|directory| ["ca.pem", "server.pem", "server-key.pem"].map(|name| directory.join(name)));
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| SimulatorError::file(path, error));
    let authority = match &files {
        Some([ca, certificate, key]) if ca.exists() && certificate.exists() && key.exists() => {
            Authority { ca: read(ca)?, certificate: read(certificate)?, key: read(key)? }
        }
        _ => new_authority()?,
    };
    if let Some([ca, certificate, key]) = &files {
        write(ca, &authority.ca)?;
        write(certificate, &authority.certificate)?;
        write(key, &authority.key)?;
        owner_only(key)?;
    }
    let acceptor = |protocol: &[u8]| -> Result<TlsAcceptor, SimulatorError> {
        let unusable =
            |_| SimulatorError::Certificate("The server certificate in the directory is damaged.".to_owned());
        let chain = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).map_err(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(authority.key.as_bytes()).map_err(unusable)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    };
    Ok(ServerTls { pubsub: acceptor(b"h2")?, http: acceptor(b"http/1.1")?, ca_pem: authority.ca })
}

/// A CA, and a certificate from it for `localhost` and the loopback addresses.
fn new_authority() -> Result<Authority, SimulatorError> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "casewire simulator CA");
    let ca = params.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let certificate = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(params, ca_key))?;
    Ok(Authority { ca, certificate: certificate.pem(), key: key.serialize_pem() })
}
