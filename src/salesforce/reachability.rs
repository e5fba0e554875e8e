//! The way to a host, step by step, so that what blocks it can be told: proxy, name, connection, TLS.
//!
//! A client that makes requests only learns that "the request could not be sent". Here each step is made by itself, nothing
//! is asked of the host, and the connection is closed again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::failure::{Exit, Failure};
use crate::salesforce::proxy::{Connector, is_loopback};
use crate::salesforce::tls::{self, InvalidAuthority};

/// How a host was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The address that answered: the proxy's where one was used.
    pub address: SocketAddr,
    /// The proxy of the environment, if one leads there.
    pub proxy: Option<String>,
    /// What TLS showed; `None` for plaintext.
    pub tls: Option<TlsSeen>,
}

/// What a TLS handshake showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSeen {
    /// Who issued the server's certificate.
    pub issuer: String,
    /// Whether one of the public authorities stands behind it. If not, it is the one of `ca_file`.
    pub public: bool,
    /// Whether the server, and whatever is in between, offers HTTP/2.
    pub http2: bool,
}

/// What blocks the way to a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// The authority of `ca_file`, or the proxy setting, cannot be used.
    #[error("{0}")]
    Settings(String),
    /// DNS does not know the name, or does not answer.
    #[error("The name {host} has no address: {reason}")]
    Name {
        /// The host.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// Somebody is there and nobody listens, or a firewall says no.
    #[error("{host} refuses the connection ({address})")]
    Refused {
        /// The host, or the proxy.
        host: String,
        /// Its address.
        address: SocketAddr,
    },
    /// Nothing came back.
    #[error("{host} does not answer: {step} took longer than {} s", patience.as_secs())]
    TimedOut {
        /// The host, or the proxy.
        host: String,
        /// What was waited for.
        step: &'static str,
        /// For how long.
        patience: Duration,
    },
    /// Any other fault of the network.
    #[error("{host} cannot be reached: {reason}")]
    Network {
        /// The host.
        host: String,
        /// The system's words.
        reason: String,
    },
    /// The proxy does not lead to the host.
    #[error("The proxy {proxy} does not lead to {host}: {reason}")]
    Proxy {
        /// The proxy, without its password.
        proxy: String,
        /// The host.
        host: String,
        /// What it answered.
        reason: String,
    },
    /// The certificate comes from nobody who is trusted.
    #[error("The certificate that came for {host} was issued by {issuer}, which is no public authority")]
    UnknownAuthority {
        /// The host.
        host: String,
        /// Who issued it.
        issuer: String,
    },
    /// The certificate is not one for this host at this time.
    #[error("The certificate that came for {host}, issued by {issuer}, is not valid: {reason}")]
    Certificate {
        /// The host.
        host: String,
        /// Who issued it.
        issuer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What answers does not speak TLS, or breaks off.
    #[error("The TLS handshake with {host} failed: {reason}")]
    Handshake {
        /// The host.
        host: String,
        /// What happened.
        reason: String,
    },
}

impl Unreached {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::Settings(_) => (
                Exit::Configuration,
                "Point `ca_file` to a PEM file with the certificate of your authority; HTTPS_PROXY has to be an http:// proxy.",
            ),
            Self::Name { .. } => (
                Exit::Unavailable,
                "Check the spelling of the host in the configuration and the DNS of this machine (/etc/resolv.conf). Where only a proxy \
                 resolves names, set HTTPS_PROXY.",
            ),
            Self::Refused { .. } => (
                Exit::Unavailable,
                "Open the firewall for the host and port, or set HTTPS_PROXY to the proxy that leads out.",
            ),
            Self::TimedOut { .. } => (
                Exit::Unavailable,
                "A firewall that drops packets looks like this: open it for the host and port (443 is seldom blocked, 7443 often is), or \
                 set HTTPS_PROXY to the proxy that leads out.",
            ),
            Self::Network { .. } => (Exit::Unavailable, "Check the routes and the firewall of this machine."),
            Self::Proxy { .. } => (
                Exit::Unavailable,
                "Let the proxy allow CONNECT to the host and port; its user and password stand in HTTPS_PROXY (http://user:password@proxy:3128); \
                 NO_PROXY names hosts that need none.",
            ),
            Self::UnknownAuthority { .. } => (
                Exit::Unavailable,
                "If it is your company's authority, TLS is opened on the way: give its certificate as `ca_file`, in [salesforce] and in \
                 [salesforce.pubsub], or have the host exempted from inspection. If you do not know it, somebody else answers for Salesforce.",
            ),
            Self::Certificate { .. } => (
                Exit::Unavailable,
                "Check the host in the configuration, and the clock of this machine: certificates are valid for a time.",
            ),
            Self::Handshake { .. } => (
                Exit::Unavailable,
                "Check that the port is one that speaks TLS (443), and whether a firewall or proxy on the way breaks TLS off.",
            ),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

/// Goes the way to the host of `url` and back. `extra_ca` is a PEM of authorities to trust beside the public ones. Takes at
/// most three times `patience`: for the name, the connection and TLS.
///
/// # Errors
/// At the first step that is blocked.
pub async fn probe(url: &Url, extra_ca: Option<&str>, patience: Duration) -> Result<Reached, Unreached> {
    probe_through(url, extra_ca, patience, &Matcher::from_env()).await
}

/// As [`probe`], with the proxies given.
pub(crate) async fn probe_through(
    url: &Url,
    extra_ca: Option<&str>,
    patience: Duration,
    proxies: &Matcher,
) -> Result<Reached, Unreached> {
    let uri: http::Uri =
        url.as_str().parse().map_err(|error| Unreached::Settings(format!("`{url}` is no address: {error}")))?;
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let proxy = proxies.intercept(&uri).filter(|_| !is_loopback(&host)).map(|proxy| proxy.uri().clone());
    let (socket, address) = match &proxy {
        None => direct(&host, port, patience).await?,
        Some(proxy) => tunnelled(&uri, proxy, &host, proxies, patience).await?,
    };
    let tls = match url.scheme() {
        "https" => Some(handshake(socket, &host, extra_ca, patience).await?),
        _ => None,
    };
    Ok(Reached { address, proxy: proxy.map(|proxy| proxy.to_string()), tls })
}

/// Finds the name's addresses and connects to the first that answers.
async fn direct(host: &str, port: u16, patience: Duration) -> Result<(TcpStream, SocketAddr), Unreached> {
    let late = |step| Unreached::TimedOut { host: host.to_owned(), step, patience };
    let no_address = |reason: String| Unreached::Name { host: host.to_owned(), reason };
    let looked_up = tokio::time::timeout(patience, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(no_address(error.to_string())),
        Err(_) => return Err(no_address(format!("DNS did not answer within {} s", patience.as_secs()))),
    };
    let mut last = no_address("DNS knows the name without an address".to_owned());
    let deadline = Instant::now() + patience;
    for address in addresses {
        match tokio::time::timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok((socket, address)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = Unreached::Refused { host: host.to_owned(), address };
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => last = late("to connect"),
            Ok(Err(error)) => last = Unreached::Network { host: host.to_owned(), reason: error.to_string() },
            Err(_) => return Err(late("to connect")),
        }
    }
    Err(last)
}

/// Connects through the proxy. That the proxy itself is there is seen first: its absence is another fault than its refusal.
async fn tunnelled(
    uri: &http::Uri,
    proxy: &http::Uri,
    host: &str,
    proxies: &Matcher,
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), Unreached> {
    let proxy_host = proxy.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let (_, address) = direct(proxy_host, proxy.port_u16().unwrap_or(80), patience).await?;
    let mut connector =
        Connector::new(uri, proxies, patience).map_err(|error| Unreached::Settings(error.to_string()))?;
    let refused = |reason: String| Unreached::Proxy { proxy: proxy.to_string(), host: host.to_owned(), reason };
    match tokio::time::timeout(patience, connector.call(uri.clone())).await {
        Ok(Ok(stream)) => Ok((stream.into_inner(), address)),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {} s", patience.as_secs()))),
    }
}

async fn handshake(
    socket: TcpStream,
    host: &str,
    extra_ca: Option<&str>,
    patience: Duration,
) -> Result<TlsSeen, Unreached> {
    let witness = Arc::new(Witness::new(extra_ca).map_err(Unreached::Settings)?);
    let config = client_config(witness.clone()).map_err(Unreached::Settings)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Unreached::Settings(format!("`{host}` is no name that a certificate can have")))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let outcome = match tokio::time::timeout(patience, connecting).await {
        Ok(outcome) => outcome,
        Err(_) => {
            return Err(Unreached::TimedOut { host: host.to_owned(), step: "the TLS handshake", patience });
        }
    };
    let seen = witness.seen();
    let issuer = seen.as_ref().map_or_else(|| "nobody".to_owned(), |seen| seen.issuer.clone());
    match outcome {
        Ok(stream) => {
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(TlsSeen { issuer, public: seen.is_some_and(|seen| seen.public), http2 })
        }
        Err(error) => Err(refused_handshake(host, issuer, &error)),
    }
}

fn refused_handshake(host: &str, issuer: String, error: &io::Error) -> Unreached {
    let host = host.to_owned();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Unreached::UnknownAuthority { host, issuer }
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            Unreached::Certificate { host, issuer, reason: reason.to_string() }
        }
        _ => Unreached::Handshake { host, reason: error.to_string() },
    }
}

fn client_config(witness: Arc<Witness>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        // The witness decides exactly as the verifier that it asks; it only looks on.
        .dangerous()
        .with_custom_certificate_verifier(witness)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What a certificate told, whether it was accepted or not.
#[derive(Debug, Clone)]
struct Seen {
    issuer: String,
    public: bool,
}

/// Lets the ordinary verifier decide, and remembers who issued the certificate: a refused handshake leaves no other trace of
/// it, and who answered in Salesforce's place is what an operator needs to know.
struct Witness {
    public: Arc<WebPkiServerVerifier>,
    trusted: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Seen>>,
}

impl Witness {
    fn new(extra_ca: Option<&str>) -> Result<Self, String> {
        let verifier = |roots| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| error.to_string())
        };
        let trusted = tls::authorities(extra_ca).map_err(|error: InvalidAuthority| error.to_string())?;
        Ok(Self { public: verifier(tls::public_authorities())?, trusted: verifier(trusted)?, seen: Mutex::default() })
    }

    fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Witness({:?})", self.seen())
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let issuer = match X509Certificate::from_der(end_entity) {
            Ok((_, certificate)) => {
                certificate.issuer().to_string().chars().filter(|char| !char.is_control()).collect()
            }
            Err(_) => "somebody who makes unreadable certificates".to_owned(),
        };
        let of = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let seen = Seen { issuer, public: of(&self.public).is_ok() };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        of(&self.trusted)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trusted.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trusted.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    async fn blocked(text: &str, proxies: &Matcher) -> Unreached {
        probe_through(&url(text), None, PATIENCE, proxies).await.expect_err(text)
    }

    #[tokio::test]
    async fn each_step_that_blocks_the_way_is_told_from_the_others() {
        let none = Matcher::builder().build();
        let (listener, port) = listener().await;
        let reached = probe_through(&url(&format!("http://127.0.0.1:{port}")), None, PATIENCE, &none).await;
        assert!(reached.is_ok_and(|reached| reached.proxy.is_none() && reached.tls.is_none()));

        // Connected, and then silent: as behind a firewall that looks into the packets.
        let silent = blocked(&format!("https://127.0.0.1:{port}"), &none).await;
        assert!(matches!(silent, Unreached::TimedOut { step: "the TLS handshake", .. }), "{silent}");
        drop(listener);
        let refused = blocked(&format!("https://127.0.0.1:{port}"), &none).await;
        assert!(matches!(&refused, Unreached::Refused { host, .. } if host == "127.0.0.1"), "{refused}");
        let unknown = blocked("https://login.salesforce.invalid", &none).await;
        assert!(matches!(&unknown, Unreached::Name { host, .. } if host == "login.salesforce.invalid"), "{unknown}");
        assert!(unknown.failure().remedy.contains("DNS"), "{unknown}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_a_failed_handshake() {
        let (listener, port) = listener().await;
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            socket.write_all(b"SSH-2.0-nothing of the kind\r\n").await.expect("written");
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
        });
        let failed = blocked(&format!("https://127.0.0.1:{port}"), &Matcher::builder().build()).await;
        assert!(matches!(failed, Unreached::Handshake { .. }), "{failed}");
        server.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_there_is_told_from_one_that_refuses() {
        let (listener, port) = listener().await;
        let proxies = Matcher::builder().all(format!("http://127.0.0.1:{port}")).build();
        let proxy = tokio::spawn(async move {
            // The first connection only looks whether somebody is there.
            for _ in 0..2 {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut head = [0; 256];
                let read = socket.read(&mut head).await.unwrap_or(0);
                if head[..read].starts_with(b"CONNECT api.pubsub.salesforce.com:443 ") {
                    socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.expect("written");
                }
            }
        });
        let refused = blocked("https://api.pubsub.salesforce.com", &proxies).await;
        assert!(matches!(&refused, Unreached::Proxy { reason, .. } if reason.contains("auth")), "{refused}");
        proxy.await.expect("no panic");
        let gone = blocked("https://api.pubsub.salesforce.com", &proxies).await;
        assert!(matches!(&gone, Unreached::Refused { host, .. } if host == "127.0.0.1"), "{gone}");
    }
}
