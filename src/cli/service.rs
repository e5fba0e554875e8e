//! The running service, as commands ask it that leave their work to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::time::timeout;
use url::Url;

use crate::cli::service_error::ServiceError;
use crate::config::Config;
use crate::failure::Failure;

/// How long the service may take for an answer; it counts the records of each object of a snapshot first.
const ANSWER: Duration = Duration::from_secs(600);

/// How long the name of a service is looked up.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Instances behind one name that are asked, at most.
const MOST_INSTANCES: usize = 16;

/// The running service.
pub(super) struct Service {
    http: reqwest::Client,
    address: String,
}

impl Service {
    /// The service at `url`, or else at `admin.listen`; none where nobody answers there. Of several instances behind one name,
    /// that which carries most of the streams of `topics`.
    ///
    /// # Errors
    /// When nobody answers at a `url` that somebody named.
    pub async fn find(url: Option<&str>, config: &Config, topics: &[String]) -> Result<Option<Self>, Failure> {
        let address = match (url, config.admin.listen) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(listen)) => local(listen),
            (None, None) => return Ok(None),
        };
        match Self::at(&address, topics).await {
            Some((service, _)) => Ok(Some(service)),
            None if url.is_some() => Err(ServiceError::NoService(address).into()),
            None => Ok(None),
        }
    }

    /// The instance at `address` that carries most of the streams of `topics`, with what it says of itself; the first of
    /// those that carry none, and `None` where nobody answers. One name may stand for an active instance and its standbys, as
    /// that of a headless service of Kubernetes does, and only the active one does what it is asked for.
    async fn at(address: &str, topics: &[String]) -> Option<(Self, Value)> {
        let known = async {
            let url = Url::parse(address).ok()?;
            let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let found: Vec<SocketAddr> = lookup_host((bare, port)).await.ok()?.take(MOST_INSTANCES).collect();
            Some((host, found))
        };
        let found = timeout(LOOK_UP, known).await.ok().flatten();
        // A name that only a proxy resolves is left to it.
        let (host, addresses) = found.unwrap_or_default();
        Self::among(address, &host, &addresses, topics).await
    }

    async fn among(address: &str, host: &str, addresses: &[SocketAddr], topics: &[String]) -> Option<(Self, Value)> {
        let client = |at: Option<&SocketAddr>| {
            let builder = reqwest::Client::builder();
            let http = at.map_or_else(reqwest::Client::builder, |at| builder.resolve(host, *at)).build().ok()?;
            Some(Self { http, address: address.to_owned() })
        };
        let instances: Vec<Self> = match addresses {
            [] | [_] => client(None).into_iter().collect(),
            several => several.iter().filter_map(|at| client(Some(at))).collect(),
        };
        let asked = instances.into_iter().map(async |instance| {
            let status = instance.status().await?;
            Some((instance, status))
        });
        let answered = join_all(asked).await.into_iter().flatten();
        // Of equals the first.
        answered.rev().max_by_key(|(_, status)| carried(status, topics))
    }

    /// What it says of itself; `None` where nobody answers as casewire does.
    async fn status(&self) -> Option<Value> {
        let asked = self.http.get(format!("{}/status", self.address)).timeout(Duration::from_secs(5)).send().await;
        let status: Value = asked.ok()?.json().await.ok()?;
        status.get("process")?.get("streams")?.is_array().then_some(status)
    }

    /// What the one that carries the streams says now: a service that restarts goes on with what it was asked for and is back in
    /// seconds, and so does one that has taken over, which is the one from then on.
    pub async fn follow(&mut self, topics: &[String]) -> Option<Value> {
        let status = self.status().await;
        if status.as_ref().is_none_or(|status| carried(status, topics) == 0)
            && let Some((other, told)) = Self::at(&self.address, topics).await
        {
            *self = other;
            return Some(told);
        }
        status
    }

    /// Asks for something with `admin.token`; its code and its answer.
    ///
    /// # Errors
    /// When there is no token, or no answer.
    pub async fn ask(
        &self,
        config: &Config,
        path: &str,
        wanted: &impl serde::Serialize,
    ) -> Result<(StatusCode, Value), Failure> {
        let token = config.admin.token.as_ref().ok_or_else(|| ServiceError::NoToken(self.address.clone()))?;
        let asked = self.http.post(format!("{}{path}", self.address)).bearer_auth(token.expose_secret().trim());
        let unreachable = |error: reqwest::Error| ServiceError::NoAnswer {
            address: self.address.clone(),
            reason: error.without_url().to_string(),
        };
        let answer = asked.json(wanted).timeout(ANSWER).send().await.map_err(unreachable)?;
        Ok((answer.status(), answer.json().await.map_err(unreachable)?))
    }
}

/// The address at which a service of this machine is reached that listens there.
fn local(listen: SocketAddr) -> String {
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// How many of the streams of `topics` an instance carries, by its /status.
fn carried(status: &Value, topics: &[String]) -> usize {
    let streams = status.pointer("/process/streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |stream: &Value, name: &str| stream.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let running = |stream: &&Value| text(stream, "state") == "running" && topics.contains(&text(stream, "topic"));
    streams.iter().filter(running).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::get};
    use serde_json::json;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn of_several_instances_behind_one_name_the_one_is_asked_that_carries_the_streams() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let topics = ["/data/CaseChangeEvent".to_owned(), "/data/AccountChangeEvent".to_owned()];
        let status = |states: [&str; 2]| {
            let stream = |(topic, state): (&String, &str)| json!({ "topic": topic, "state": state });
            json!({ "process": { "streams": topics.iter().zip(states).map(stream).collect::<Vec<_>>() } })
        };
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = first.local_addr().expect("an address").port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.expect("the same port of another address");
        let addresses = [&first, &second].map(|listener| listener.local_addr().expect("an address"));
        let states = [["standby", "standby"], ["running", "paused"]];
        for (listener, states) in [first, second].into_iter().zip(states) {
            let status = status(states);
            let router = Router::new().route("/status", get(async move || Json(status)));
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        let url = format!("http://casewire.test:{port}");
        let state = async |addresses: &[SocketAddr], topics: &[String]| {
            let (_, status) = Service::among(&url, "casewire.test", addresses, topics).await?;
            status.pointer("/process/streams/0/state").and_then(Value::as_str).map(str::to_owned)
        };
        let [standby, active] = addresses;
        assert_eq!(state(&[standby, active], &topics).await.as_deref(), Some("running"));
        assert_eq!(state(&[active, standby], &topics).await.as_deref(), Some("running"));
        assert_eq!(
            state(&[standby, active], &topics[1..]).await.as_deref(),
            Some("standby"),
            "none carries it: the first"
        );
        let nobody = SocketAddr::from(([127, 0, 0, 3], port));
        assert_eq!(
            state(&[nobody, active], &topics).await.as_deref(),
            Some("running"),
            "one that is away is passed over"
        );
        assert_eq!(state(&[nobody, nobody], &topics).await, None);
    }
}
