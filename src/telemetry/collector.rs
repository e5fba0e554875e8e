//! One call of OTLP over gRPC, and what its errors mean.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::TelemetryConfig;
use crate::failure::{Exit, Failure};
use crate::salesforce::proxy::Connector;
use crate::salesforce::tls;

/// How long one call may take; the exporters of OpenTelemetry have the same.
pub(super) const CALL: Duration = Duration::from_secs(10);

/// TCP, proxy and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// The most that is told of what a collector says.
const LONGEST_REASON: usize = 200;

/// What came of a call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectorError {
    /// No connection, or one that broke off.
    #[error("The collector {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// Nothing came back.
    #[error("The collector {endpoint} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// Its address.
        endpoint: String,
        /// For how long it was waited.
        after: Duration,
    },
    /// It answered, and did not take the spans.
    #[error("The collector {endpoint} does not take the spans ({code:?}): {reason}")]
    Refused {
        /// Its address.
        endpoint: String,
        /// The code of gRPC.
        code: Code,
        /// Its own words, without what the headers hold.
        reason: String,
    },
    /// It took a part of them.
    #[error("The collector {endpoint} rejected {spans} spans: {reason}")]
    Rejected {
        /// Its address.
        endpoint: String,
        /// How many it did not take.
        spans: u64,
        /// Its own words, without what the headers hold.
        reason: String,
    },
    /// It takes what it gets, and there is more.
    #[error("The collector {endpoint} takes spans more slowly than they come")]
    Slow {
        /// Its address.
        endpoint: String,
    },
    /// Nothing can be asked of it with what the configuration says.
    #[error("The collector {endpoint} cannot be used: {reason}")]
    Unusable {
        /// Its address.
        endpoint: String,
        /// What is wrong.
        reason: String,
        /// What it is wrong with.
        setting: CollectorSetting,
    },
}

/// What the way to a collector is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectorSetting {
    /// `otlp_endpoint`.
    Endpoint,
    /// `ca_file`.
    Authority,
    /// The proxy of the environment.
    Proxy,
    /// `[telemetry.headers]`.
    Header,
}

impl CollectorError {
    /// Whether the same spans may be taken later. OTLP's specification has the codes; one of them, `ResourceExhausted`, is to
    /// be tried again only if the collector names a time, and is not.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Refused { code, .. } => matches!(
                code,
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            ),
            Self::Rejected { .. } | Self::Slow { .. } | Self::Unusable { .. } => false,
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let remedy = match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
                "Check `otlp_endpoint` of [telemetry] and the collector: OTLP over gRPC has port 4317 as a rule, 4318 is OTLP over HTTP. \
                 Events go on without traces."
            }
            Self::Refused { code: Code::Unauthenticated | Code::PermissionDenied, .. } => {
                "Check [telemetry.headers]: the collector wants a header, such as `authorization`, with what it was given."
            }
            Self::Refused { code: Code::Unimplemented, .. } => {
                "Check `otlp_endpoint` of [telemetry], and that the collector has an `otlp` receiver with `grpc` in a pipeline of traces."
            }
            Self::Refused { code: Code::ResourceExhausted, .. } | Self::Slow { .. } => {
                "Lower `sample` of [telemetry], or give the collector more to work with."
            }
            Self::Refused { .. } | Self::Rejected { .. } => {
                "The collector's own log says more. Events go on without traces."
            }
            Self::Unusable { setting: CollectorSetting::Endpoint, .. } => {
                "Set `otlp_endpoint` of [telemetry] to scheme, host and port."
            }
            Self::Unusable { setting: CollectorSetting::Authority, .. } => {
                "Point `ca_file` of [telemetry] to a PEM file with the certificate of your authority."
            }
            Self::Unusable { setting: CollectorSetting::Proxy, .. } => {
                "Set HTTPS_PROXY to an http:// proxy that allows CONNECT, or add the collector's host to NO_PROXY."
            }
            Self::Unusable { setting: CollectorSetting::Header, .. } => "Correct it in [telemetry.headers].",
        };
        let exit = match self {
            Self::Unusable { .. } => Exit::Configuration,
            _ => Exit::Unavailable,
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

/// The collector. Nothing is asked of it before the first call.
pub struct Collector {
    url: String,
    endpoint: Endpoint,
    connector: Connector,
    metadata: MetadataMap,
    secrets: Vec<SecretString>,
    client: TraceServiceClient<Channel>,
}

impl Collector {
    /// Prepares the way there. Needs a Tokio runtime. Proxies are read from the environment now.
    ///
    /// # Errors
    /// When the certificate authority, a header or a proxy cannot be used.
    pub fn new(config: &TelemetryConfig) -> Result<Self, Failure> {
        let url = config.endpoint.origin().ascii_serialization();
        let unusable =
            |reason: String, setting| CollectorError::Unusable { endpoint: url.clone(), reason, setting }.failure();
        let of_endpoint = |error: &dyn fmt::Display| unusable(error.to_string(), CollectorSetting::Endpoint);
        let mut endpoint = Endpoint::from_shared(url.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("casewire/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| of_endpoint(&error))?
            .connect_timeout(CONNECT);
        if config.endpoint.scheme() == "https" {
            let mut trusted = ClientTlsConfig::new().with_webpki_roots();
            if let Some(pem) = config.certificate_authority.as_deref() {
                tls::authorities(Some(pem))
                    .map_err(|error| unusable(error.to_string(), CollectorSetting::Authority))?;
                trusted = trusted.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(trusted).map_err(|error| of_endpoint(&error))?;
        }
        let connector = Connector::new(endpoint.uri(), &Matcher::from_env(), CONNECT)
            .map_err(|error| unusable(error.to_string(), CollectorSetting::Proxy))?;
        let mut metadata = MetadataMap::with_capacity(config.headers.len());
        for (name, value) in &config.headers {
            let header = AsciiMetadataKey::from_bytes(name.as_bytes()).ok().zip(sensitive(value));
            let (key, value) = header.ok_or_else(|| {
                unusable(format!("`{name}` is no header, or holds what none can"), CollectorSetting::Header)
            })?;
            metadata.insert(key, value);
        }
        let client = client(&endpoint, &connector);
        let secrets = config.headers.values().cloned().collect();
        Ok(Self { url, endpoint, connector, metadata, secrets, client })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks whether it takes spans, with a call that has none. Takes at most [`CALL`].
    ///
    /// # Errors
    /// When it does not.
    pub async fn ask(&mut self) -> Result<(), CollectorError> {
        self.export(ExportTraceServiceRequest::default()).await
    }

    /// Hands spans over. Takes at most [`CALL`].
    ///
    /// # Errors
    /// When it took none, or only a part of them.
    pub async fn export(&mut self, request: ExportTraceServiceRequest) -> Result<(), CollectorError> {
        let request = Request::from_parts(self.metadata.clone(), tonic::Extensions::default(), request);
        let error = match tokio::time::timeout(CALL, self.client.export(request)).await {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                return match u64::try_from(partial.rejected_spans).unwrap_or_default() {
                    0 => Ok(()),
                    spans => Err(CollectorError::Rejected {
                        endpoint: self.url.clone(),
                        spans,
                        reason: self.words(&partial.error_message),
                    }),
                };
            }
            Ok(Err(status)) => self.refused(&status),
            Err(_) => CollectorError::TimedOut { endpoint: self.url.clone(), after: CALL },
        };
        if matches!(error, CollectorError::Unreachable { .. } | CollectorError::TimedOut { .. }) {
            // A connection on which nobody answers any more is not noticed by itself for a quarter of an hour.
            self.client = client(&self.endpoint, &self.connector);
        }
        Err(error)
    }

    fn refused(&self, status: &Status) -> CollectorError {
        let endpoint = self.url.clone();
        // A status with a cause was made here, of a connection that could not be made or broke off.
        match status.source() {
            Some(cause) => CollectorError::Unreachable { endpoint, reason: self.words(&with_causes(cause)) },
            None => CollectorError::Refused { endpoint, code: status.code(), reason: self.words(status.message()) },
        }
    }

    /// What is told of a text that the collector wrote: some put what they were sent into it.
    fn words(&self, text: &str) -> String {
        let mut words = text.to_owned();
        for secret in self.secrets.iter().map(|secret| secret.expose_secret().trim()) {
            // "Bearer" is no secret, and what comes after it is one by itself.
            let parts = secret.split_whitespace().filter(|part| part.len() >= 8 || *part == secret);
            for part in std::iter::once(secret).chain(parts).filter(|part| !part.is_empty()) {
                words = words.replace(part, "(secret)");
            }
        }
        words.chars().filter(|letter| !letter.is_control()).take(LONGEST_REASON).collect()
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Collector({})", self.url)
    }
}

fn client(endpoint: &Endpoint, connector: &Connector) -> TraceServiceClient<Channel> {
    TraceServiceClient::new(endpoint.connect_with_connector_lazy(connector.clone()))
}

/// Marked as such, which keeps it out of HPACK's tables and of debug prints.
fn sensitive(value: &SecretString) -> Option<AsciiMetadataValue> {
    let mut value = AsciiMetadataValue::try_from(value.expose_secret().trim_end()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> TelemetryConfig {
        let text = format!(
            "[salesforce]\nusername = 'a@b.example'\nclient_id = '3MVG9'\nprivate_key = 'k'\n[[stream]]\n\
             topic = '/data/CaseChangeEvent'\nstart = 'latest'\n[kafka]\nbrokers = '127.0.0.1:1'\n[telemetry]\n{more}"
        );
        let config = crate::config::Config::from_table(text.parse().expect("TOML"), &[].into()).expect("valid");
        config.telemetry.expect("a collector")
    }

    #[test]
    fn which_answers_are_tried_again_is_what_otlp_says() {
        let refused =
            |code| CollectorError::Refused { endpoint: String::new(), code, reason: String::new() }.is_retryable();
        let all = (0..=16).map(Code::from_i32);
        let again: Vec<Code> = all.filter(|code| refused(*code)).collect();
        assert_eq!(
            again,
            [
                Code::Cancelled,
                Code::DeadlineExceeded,
                Code::Aborted,
                Code::OutOfRange,
                Code::Unavailable,
                Code::DataLoss
            ]
        );
    }

    #[tokio::test]
    async fn what_the_headers_hold_is_in_no_text_that_a_collector_sends_back() {
        let more = "otlp_endpoint = 'https://c.example:4317'\n[telemetry.headers]\nauthorization = 'Bearer s3cret-token'\nx-team = 'k7'\n";
        let collector = Collector::new(&config(more)).expect("usable");
        let said = collector.words("no: Bearer s3cret-token\nnor s3cret-token, nor k7; Bearer wanted");
        assert_eq!(said, "no: (secret)nor (secret), nor (secret); Bearer wanted");
        assert_eq!(collector.words(&"x".repeat(500)).len(), LONGEST_REASON);
        let shown = format!("{collector:?} {:?} {:?}", config(more), collector.metadata);
        assert!(!shown.contains("s3cret") && !shown.contains("k7"), "{shown}");
    }
}
