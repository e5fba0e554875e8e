//! Who may look, and who may have something done.
//!
//! A browser of an operator visits other pages too, and each of them can send requests to this port. What holds them off:
//!
//! - **Another name for this machine** (DNS rebinding). A page of `evil.example` whose name suddenly means 127.0.0.1 is of
//!   one origin with this port for the browser. Its requests still say `Host: evil.example`, so a port that listens on
//!   loopback answers to the names of loopback and to those of `admin.hosts` only.
//! - **A form or a script of another page** (cross-site requests). What acts takes JSON only, which no form can send;
//!   refuses requests that a browser says come from elsewhere (`Sec-Fetch-Site`, `Origin`); and wants the token in a
//!   header, which no browser adds by itself.
//! - **Somebody else on this machine or network.** Acting needs the token, from loopback too: other users and other
//!   programs of this machine reach loopback as well. Without a configured token nothing is done for anybody.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::admin::denial::Denial;
use crate::config::AdminConfig;

/// The rules of one admin port; cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    token: Option<SecretString>,
    hosts: Vec<String>,
}

impl Guard {
    /// As the configuration has it.
    pub fn of(config: &AdminConfig) -> Self {
        Self { rules: Arc::new(Rules { token: config.token.clone(), hosts: config.hosts.clone() }) }
    }

    /// Whether anything is done for anybody.
    pub(super) fn acts(&self) -> bool {
        self.rules.token.is_some()
    }

    /// Why a request to a port that listens at `address` is not answered.
    fn refuses(&self, address: SocketAddr, headers: &HeaderMap) -> Option<Response> {
        // Who speaks HTTP without a Host is no browser.
        let host = headers.get(header::HOST)?.to_str().unwrap_or_default();
        let name = name_of(host);
        let known = !address.ip().is_loopback()
            || is_loopback(name)
            || self.rules.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
        if known {
            return None;
        }
        Some(Denial::ForeignName.response())
    }

    /// Why nothing is done for somebody with these headers.
    fn refuses_to_act(&self, headers: &HeaderMap) -> Option<Response> {
        let text = |name: &header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
        let host = text(&header::HOST).unwrap_or_default();
        let elsewhere = site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
            || text(&header::ORIGIN).is_some_and(|origin| !is_of(origin, host));
        if elsewhere {
            return Some(Denial::ForeignPage.response());
        }
        let media = text(&header::CONTENT_TYPE).unwrap_or_default();
        if !media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Some(Denial::NotJson.response());
        }
        let Some(token) = &self.rules.token else { return Some(Denial::NoToken.response()) };
        let shown = text(&header::AUTHORIZATION).and_then(|shown| shown.strip_prefix("Bearer "));
        // Digests are compared, so the time it takes tells nothing of the token.
        let digest = |token: &str| Sha256::digest(token.trim().as_bytes());
        if shown.is_some_and(|shown| digest(shown) == digest(token.expose_secret())) {
            return None;
        }
        Some(Denial::WrongToken.response())
    }
}

/// Lets a request pass that may be answered. No answer may be read, framed or taken for something else by another page.
pub(super) async fn answers(
    State((guard, address)): State<(Guard, SocketAddr)>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match guard.refuses(address, request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Lets a request pass that may have something done, before anything of its body is read.
pub(super) async fn acts(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if *request.method() != Method::POST {
        return next.run(request).await;
    }
    match guard.refuses_to_act(request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// `host`, `host:port`, `[::1]:port`: without the port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an origin is that of the port itself, reached as `host`.
fn is_of(origin: &str, host: &str) -> bool {
    let bare = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    bare.is_some_and(|bare| !bare.is_empty() && bare.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>, hosts: &[&str]) -> Guard {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Guard { rules: Arc::new(Rules { token: token.map(SecretString::from), hosts }) }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn a_port_on_loopback_knows_itself_by_the_names_of_loopback_and_those_it_was_told() {
        let (loopback, open) = (SocketAddr::from(([127, 0, 0, 1], 8686)), SocketAddr::from(([0, 0, 0, 0], 8686)));
        let guard = guard(None, &["casewire.example.com"]);
        let answered =
            |address: SocketAddr, host: &'static str| guard.refuses(address, &headers(&[("host", host)])).is_none();
        for host in
            ["127.0.0.1:8686", "localhost", "LOCALHOST:1", "[::1]:8686", "127.9.9.9:80", "casewire.example.com:8686"]
        {
            assert!(answered(loopback, host), "{host}");
        }
        for host in
            ["evil.example:8686", "10.0.0.7:8686", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]:1"]
        {
            assert!(!answered(loopback, host), "{host}");
        }
        assert!(answered(open, "anything.example:8686"), "a network has its own names");
        assert!(guard.refuses(loopback, &HeaderMap::new()).is_none(), "no browser");
    }

    #[test]
    fn only_who_shows_the_token_with_json_and_from_nowhere_else_has_something_done() {
        let good: [(&str, &str); 3] = [
            ("host", "127.0.0.1:8686"),
            ("content-type", "application/json; charset=utf-8"),
            ("authorization", "Bearer sesame"),
        ];
        let with = |more: &[(&'static str, &'static str)]| {
            let mut all = headers(&good);
            all.extend(headers(more));
            guard(Some("sesame\n"), &[]).refuses_to_act(&all).map(|refusal| refusal.status().as_u16())
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("origin", "http://127.0.0.1:8686"), ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(with(&[("sec-fetch-site", "none")]), None);
        for (name, value, expected) in [
            ("origin", "http://evil.example", 403),
            ("origin", "http://127.0.0.1:9999", 403),
            ("origin", "null", 403),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            ("content-type", "text/plain", 415),
            ("content-type", "application/x-www-form-urlencoded", 415),
            ("authorization", "Bearer sesam", 401),
            ("authorization", "Bearer ", 401),
            ("authorization", "Basic sesame", 401),
        ] {
            assert_eq!(with(&[(name, value)]), Some(expected), "{name}: {value}");
        }
        let none = guard(None, &[]).refuses_to_act(&headers(&good)).map(|refusal| refusal.status().as_u16());
        assert_eq!(none, Some(403), "without a token nobody has the right one");
    }
}
