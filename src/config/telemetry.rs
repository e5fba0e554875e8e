//! `[telemetry]`: traces for an OpenTelemetry collector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::config::reader::{Findings, Section};
use crate::config::settings::read_pem;

/// `[telemetry]`, where it names a collector. Without one nothing is traced.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Where the collector takes OTLP over gRPC. `https://` for TLS, `http://` for plaintext.
    pub endpoint: Url,
    /// A further certificate authority (PEM).
    pub certificate_authority: Option<String>,
    /// Headers of each call, in small letters; what they hold is secret.
    pub headers: BTreeMap<String, SecretString>,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Which share of the events is traced, from 0 to 1.
    pub sample: f64,
    /// Whether the records of a traced event carry a `traceparent` header.
    pub traceparent: bool,
}

/// The collector's address.
struct Endpoint(Url);

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A path is a sign of OTLP over HTTP, and who stands before the host would stand in the log.
        let allowed = |url: &Url| {
            let address = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
            let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            address && bare && url.username().is_empty() && url.password().is_none()
        };
        Url::parse(text).ok().filter(allowed).map(Self).ok_or(
            "the address of OTLP over gRPC is expected, scheme, host and port, such as \"http://127.0.0.1:4317\"",
        )
    }
}

impl TelemetryConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> Option<Self> {
        let endpoint = section.parsed::<Endpoint>("otlp_endpoint", findings).map(|endpoint| endpoint.0);
        let certificate_authority = read_pem(&mut section, "ca_file", findings);
        let service_name = section.text_or("service_name", "casewire", findings);
        let sample = section.share("sample", 0.01, findings);
        let traceparent = section.flag("traceparent", false, findings);
        let (at, of_headers) = (section.path_of("otlp_endpoint"), section.path_of("headers"));
        let headers = section.section("headers", findings).secrets(findings);
        for (name, value) in &headers {
            if let Some(problem) = unusable(name, value.expose_secret()) {
                findings.fault(format!("{of_headers}.{name}"), problem);
            }
        }
        section.finish(findings);
        let Some(endpoint) = endpoint else {
            if traceparent && !findings.faults.iter().any(|fault| fault.path == at) {
                let problem =
                    "is missing, which traceparent = true needs: the header names a span, and somebody has to have it";
                findings.fault(at, problem);
            }
            return None;
        };
        if endpoint.scheme() == "http" && !headers.is_empty() && !is_this_machine(&endpoint) {
            findings.fault(at, "would carry the headers, which are secret, unencrypted: https:// is expected");
        }
        Some(Self { endpoint, certificate_authority, headers, service_name, sample, traceparent })
    }
}

/// Why a header cannot be sent; its value is not named.
fn unusable(name: &str, value: &str) -> Option<&'static str> {
    let small = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    // What gRPC itself sends, and what is no text.
    let taken = name.starts_with("grpc-") || name.ends_with("-bin");
    let own = ["content-type", "te", "user-agent", "host", "connection"].contains(&name);
    if !small || taken || own || HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Some("is not a header that can be set: a name in small letters is expected, such as \"authorization\"");
    }
    HeaderValue::from_str(value.trim_end()).is_err().then_some(
        "holds what no header can: one line of printable letters is expected (it is not shown, being secret)",
    )
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
