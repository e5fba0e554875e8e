//! The one HTTP/2 channel to the Pub/Sub API, and its unary calls.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use url::Url;
use uuid::Uuid;

use crate::failure::{Exit, Failure};
use crate::identity::{SchemaId, TopicName};
use crate::proto::pub_sub_client::PubSubClient;
use crate::proto::{FetchRequest, FetchResponse, SchemaInfo, SchemaRequest, TopicInfo, TopicRequest};
use crate::salesforce::fetch_response::FetchCodec;
use crate::salesforce::proxy::{Connector, UnsupportedProxy};
use crate::salesforce::session::{Session, Token};
use crate::salesforce::tls::{self, InvalidAuthority};
use crate::salesforce::verdict::{CallError, Verdict};

/// Where Salesforce serves the Pub/Sub API for orgs of all regions.
pub const DEFAULT_ENDPOINT: &str = "https://api.pubsub.salesforce.com:443";

/// A FetchResponse has up to 3 MB by Salesforce's word; the rest is for a change of mind.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

const SUBSCRIBE: &str = "/eventbus.v1.PubSub/Subscribe";

/// Flow-control windows. A subscription that waits for room stops reading and leaves its
/// stream's window used up; the connection's is a multiple of it, so that the other
/// subscriptions of the channel are not held up as well.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// How to reach the Pub/Sub API.
#[derive(Debug, Clone)]
pub struct PubSubSettings {
    /// `https://host:port`, or `http://host:port` for plaintext to a local simulator.
    pub endpoint: Url,
    /// PEM of an authority to trust beside the public ones.
    pub extra_ca: Option<String>,
    /// How often an HTTP/2 ping is sent, also while nothing is under way.
    pub ping_interval: Duration,
    /// How long an unanswered ping is waited for before the connection counts as lost.
    pub ping_timeout: Duration,
    /// TCP, proxy and TLS.
    pub connect_timeout: Duration,
    /// A unary call.
    pub call_timeout: Duration,
}

impl PubSubSettings {
    /// The given endpoint with defaults: pings every 30 s, 15 s for their answer, 10 s to connect, 30 s a unary call.
    pub fn new(endpoint: Url) -> Self {
        Self {
            endpoint,
            extra_ca: None,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
        }
    }
}

/// Settings that no channel can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannel {
    /// Not a URL of a gRPC server.
    #[error("`{endpoint}` is not an endpoint of the Pub/Sub API: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The extra CA file cannot be used.
    #[error("{0}")]
    Authority(#[from] InvalidAuthority),
    /// The environment names a proxy that cannot be used.
    #[error("{0}")]
    Proxy(#[from] UnsupportedProxy),
}

impl InvalidChannel {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let remedy = match self {
            Self::Endpoint { .. } => {
                "Set `endpoint` to https://host:port, such as https://api.pubsub.salesforce.com:443."
            }
            Self::Authority(_) => "Point `ca_file` to a PEM file with the certificate of your authority.",
            Self::Proxy(_) => {
                "Set HTTPS_PROXY to an http:// proxy that allows CONNECT, or add the endpoint's host to NO_PROXY."
            }
        };
        Failure::new(Exit::Configuration, self.to_string(), remedy)
    }
}

/// The channel. Cheap to clone; clones share one connection, which is made on first use and remade when lost.
#[derive(Clone)]
pub struct PubSub {
    client: PubSubClient<Channel>,
    channel: Channel,
    session: Session,
    call_timeout: Duration,
    endpoint: Url,
}

impl PubSub {
    /// Prepares the channel; does not connect. Needs a Tokio runtime. Proxies are read from the environment now.
    pub fn new(settings: PubSubSettings, session: Session) -> Result<Self, InvalidChannel> {
        Self::through(settings, session, &Matcher::from_env())
    }

    /// As [`PubSub::new`], with the proxies given.
    pub(crate) fn through(
        settings: PubSubSettings,
        session: Session,
        proxies: &Matcher,
    ) -> Result<Self, InvalidChannel> {
        let invalid = |reason: String| InvalidChannel::Endpoint { endpoint: settings.endpoint.to_string(), reason };
        let plaintext = match settings.endpoint.scheme() {
            "http" => true,
            "https" => false,
            other => return Err(invalid(format!("the scheme must be https or http, not {other}"))),
        };
        let mut endpoint = Endpoint::from_shared(settings.endpoint.to_string())
            .map_err(|error| invalid(error.to_string()))?
            .connect_timeout(settings.connect_timeout)
            .http2_keep_alive_interval(settings.ping_interval)
            .keep_alive_timeout(settings.ping_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .user_agent(concat!("casewire/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| invalid(error.to_string()))?;
        if !plaintext {
            let mut tls = ClientTlsConfig::new().with_webpki_roots();
            if let Some(pem) = settings.extra_ca.as_deref() {
                tls::client_config(Some(pem))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| invalid(error.to_string()))?;
        }
        let connector = Connector::new(endpoint.uri(), proxies, settings.connect_timeout)?;
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client = PubSubClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { client, channel, session, call_timeout: settings.call_timeout, endpoint: settings.endpoint })
    }

    /// The session whose token the calls carry.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The writer schema with this id. Immutable, so the caller may keep it for ever.
    pub async fn schema(&self, id: &SchemaId) -> Result<SchemaInfo, CallError> {
        self.unary(|mut client, metadata| {
            let message = SchemaRequest { schema_id: id.to_string() };
            async move { client.get_schema(Request::from_parts(metadata, Default::default(), message)).await }
        })
        .await
    }

    /// What the API knows about a topic, and what the user may do with it.
    pub async fn topic(&self, name: &TopicName) -> Result<TopicInfo, CallError> {
        self.unary(|mut client, metadata| {
            let message = TopicRequest { topic_name: name.to_string() };
            async move { client.get_topic(Request::from_parts(metadata, Default::default(), message)).await }
        })
        .await
    }

    /// Makes one unary call; with a new token once more if the token was refused.
    async fn unary<T, F>(&self, call: impl Fn(PubSubClient<Channel>, MetadataMap) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut renewed = false;
        loop {
            let token = self.session.token().await?;
            let call = call(self.client.clone(), metadata(&token)?);
            let answer = match tokio::time::timeout(self.call_timeout, call).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:?}", self.call_timeout))),
            };
            let error = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => CallError::from(status),
            };
            if error.verdict() != Verdict::NewToken || renewed {
                return Err(error);
            }
            self.session.reject(&token);
            renewed = true;
        }
    }

    /// Opens a Subscribe call that sends what comes out of `requests`.
    ///
    /// Salesforce withholds the response headers until the first message, up to 270 s, so
    /// the future has no time-out; `requests` must hold the first FetchRequest already.
    pub(crate) fn subscribe(
        &self,
        token: &Token,
        requests: mpsc::Receiver<FetchRequest>,
    ) -> Result<impl Future<Output = Result<Response<Streaming<FetchResponse>>, Status>> + Send + 'static, Status> {
        let request = Request::from_parts(metadata(token)?, Default::default(), ReceiverStream::new(requests));
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(async move {
            client.ready().await.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
            client.streaming(request, PathAndQuery::from_static(SUBSCRIBE), FetchCodec).await
        })
    }
}

impl fmt::Debug for PubSub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PubSub({})", self.endpoint)
    }
}

/// The headers of one call. The token is marked sensitive, which keeps it out of HPACK's tables and of debug prints.
fn metadata(token: &Token) -> Result<MetadataMap, Status> {
    let value = |text: &str| {
        AsciiMetadataValue::try_from(text).map_err(|_| Status::internal("A header of the call is not printable ASCII"))
    };
    let mut access_token = value(token.access_token().expose_secret())?;
    access_token.set_sensitive(true);
    let mut metadata = MetadataMap::with_capacity(4);
    metadata.insert("accesstoken", access_token);
    metadata.insert("instanceurl", value(&token.instance_origin())?);
    metadata.insert("tenantid", value(token.org_id().as_str())?);
    metadata.insert("x-client-trace-id", value(&Uuid::new_v4().to_string())?);
    Ok(metadata)
}
