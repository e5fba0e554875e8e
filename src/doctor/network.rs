//! The way to Salesforce's hosts, and to the collector of traces.

use std::time::Duration;

use url::Url;

use crate::config::{Config, TelemetryConfig};
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::salesforce::reachability::{Reached, probe};
use crate::telemetry::Collector;

/// How long each step of the way may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The port that Salesforce serves the Pub/Sub API on beside 443, and that many firewalls drop.
const OFTEN_BLOCKED: u16 = 7443;

/// Which hosts can be reached.
#[derive(Debug, Clone, Copy)]
pub struct Reachable {
    /// The login host.
    pub login: bool,
    /// The Pub/Sub API.
    pub pubsub: bool,
}

/// Goes both ways at the same time, and adds what was found.
pub async fn examine(config: &Config, report: &mut Report<'_>) -> Reachable {
    let salesforce = &config.salesforce;
    let (login, pubsub) = tokio::join!(
        host(&salesforce.login_url, salesforce.certificate_authority.as_deref(), false),
        host(&salesforce.pubsub.endpoint, salesforce.pubsub.certificate_authority.as_deref(), true),
    );
    if let Some(telemetry) = &config.telemetry {
        report.add(Area::Network, "trace collector", collector(telemetry).await);
    }
    Reachable {
        login: report.add(Area::Network, "login host", login),
        pubsub: report.add(Area::Network, "pub/sub api", pubsub),
    }
}

/// The collector. One that is not there costs traces and no record, so it is never more than a warning.
pub async fn collector(config: &TelemetryConfig) -> Outcome {
    let mut collector = match Collector::new(config) {
        Ok(collector) => collector,
        Err(failure) => return Outcome::Failed(failure),
    };
    match collector.ask().await.map_err(|error| error.failure()) {
        Ok(()) => Outcome::Ok(format!("{} takes spans; {} of the events are traced", collector.url(), config.sample)),
        Err(failure) => Outcome::warning(failure.what, failure.remedy),
    }
}

/// One host. `http2` where nothing else will do.
pub async fn host(url: &Url, extra_ca: Option<&str>, http2: bool) -> Outcome {
    match probe(url, extra_ca, PATIENCE).await {
        Ok(reached) => judge(url, &reached, http2),
        Err(unreached) => Outcome::Failed(unreached.failure()),
    }
}

/// What the way that was found says.
fn judge(url: &Url, reached: &Reached, http2: bool) -> Outcome {
    if http2 && reached.tls.as_ref().is_some_and(|tls| !tls.http2) {
        return Outcome::failed(CheckError::NoHttp2(url.to_string()));
    }
    let seen = words(url, reached);
    if url.port() == Some(OFTEN_BLOCKED) && url.host_str().is_some_and(|host| host.ends_with(".salesforce.com")) {
        let remedy = "Set `endpoint` in [salesforce.pubsub] to port 443: firewalls often drop 7443 without an error.";
        return Outcome::warning(format!("{seen}; by port {OFTEN_BLOCKED}"), remedy);
    }
    Outcome::Ok(seen)
}

fn words(url: &Url, reached: &Reached) -> String {
    let origin = url.origin().ascii_serialization();
    let way = match &reached.proxy {
        Some(proxy) => format!("through the proxy {proxy}"),
        None => format!("at {}", reached.address),
    };
    match &reached.tls {
        None => format!("{origin} {way}, not encrypted"),
        Some(tls) if tls.public => format!("{origin} {way}, certificate issued by {}", tls.issuer),
        // Honest about what is known: a private authority is trusted because somebody said so.
        Some(tls) => format!(
            "{origin} {way}, certificate issued by {}, which is no public authority but that of `ca_file`: TLS is opened on the \
             way, or the host is your own",
            tls.issuer
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::reachability::TlsSeen;

    #[test]
    fn what_opens_tls_drops_http2_or_is_often_blocked_is_told() {
        let reached = |public, http2| Reached {
            address: ([127, 0, 0, 1], 443).into(),
            proxy: Some("http://proxy:3128/".to_owned()),
            tls: Some(TlsSeen { issuer: "CN=Somebody".to_owned(), public, http2 }),
        };
        let judged = |url: &str, reached: Reached| judge(&url.parse().expect("a URL"), &reached, true);
        let (usual, blocked) = ("https://api.pubsub.salesforce.com:443", "https://api.pubsub.salesforce.com:7443");
        let fine = judged(usual, reached(true, true));
        assert!(fine.word() == "ok" && fine.what().contains("through the proxy http://proxy:3128"), "{fine:?}");
        assert!(!fine.what().contains("ca_file"), "{fine:?}");
        assert!(judged(usual, reached(false, true)).what().contains("TLS is opened on the way"));
        assert_eq!(judged(usual, reached(true, false)).word(), "failed");
        assert_eq!(judged(blocked, reached(true, true)).word(), "warning");
        assert_eq!(judged("https://127.0.0.1:7443", reached(true, true)).word(), "ok", "a simulated org");
    }
}
