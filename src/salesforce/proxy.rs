//! Connections through an HTTP proxy of the environment (`HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`), by CONNECT. TLS is spoken through the tunnel with Salesforce itself.

use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// A proxy setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The proxy {proxy} cannot be used for {destination}: only http:// proxies are supported")]
pub struct UnsupportedProxy {
    proxy: String,
    destination: String,
}

/// Whether a host is this machine, which no proxy leads to.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Opens TCP connections to one destination, directly or through a tunnel.
#[derive(Debug, Clone)]
pub(crate) enum Connector {
    Direct(HttpConnector),
    Tunnelled(Tunnel<HttpConnector>),
}

impl Connector {
    /// The way to `destination` that `proxies` prescribe.
    pub(crate) fn new(destination: &Uri, proxies: &Matcher, timeout: Duration) -> Result<Self, UnsupportedProxy> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        tcp.set_connect_timeout(Some(timeout));
        let local = destination.host().is_none_or(is_loopback);
        let Some(proxy) = proxies.intercept(destination).filter(|_| !local) else { return Ok(Self::Direct(tcp)) };
        if proxy.uri().scheme_str() != Some("http") {
            return Err(UnsupportedProxy { proxy: proxy.uri().to_string(), destination: destination.to_string() });
        }
        tracing::info!(proxy = %proxy.uri(), destination = %destination, "connecting through a proxy");
        let tunnel = Tunnel::new(proxy.uri().clone(), tcp);
        Ok(Self::Tunnelled(match proxy.basic_auth() {
            Some(credentials) => tunnel.with_auth(credentials.clone()),
            None => tunnel,
        }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(tcp) => tcp.poll_ready(context).map_err(Into::into),
            Self::Tunnelled(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        match self {
            Self::Direct(tcp) => {
                let connecting = tcp.call(destination);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Tunnelled(tunnel) => {
                let connecting = tunnel.call(destination);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_reached_as_the_environment_prescribes_but_never_this_machine_by_a_proxy() {
        let proxies = |proxy: &str| Matcher::builder().all(proxy).no("internal.example").build();
        let way = |destination: &str, proxy: &str| {
            Connector::new(&destination.parse().expect("uri"), &proxies(proxy), Duration::from_secs(1))
        };
        let tunnelled = |destination| matches!(way(destination, "http://proxy:3128"), Ok(Connector::Tunnelled(_)));
        assert!(tunnelled("https://api.pubsub.salesforce.com:443"));
        assert!(!tunnelled("https://internal.example"));
        for local in ["http://127.0.0.1:7443", "http://localhost:7443", "http://[::1]:7443"] {
            assert!(!tunnelled(local), "{local}");
        }
        let proxy = "socks5://user:pass-phrase@proxy:1080";
        let refused = way("https://api.pubsub.salesforce.com", proxy).expect_err("not supported").to_string();
        assert!(refused.contains("socks5://proxy:1080") && !refused.contains("pass-phrase"), "{refused}");
    }
}
