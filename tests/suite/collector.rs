//! An OpenTelemetry collector on a real socket, with OpenTelemetry's own stubs. It keeps what it is sent, or behaves badly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

/// What it does with spans.
#[derive(Debug, Clone)]
pub enum Manner {
    /// It keeps them.
    Takes,
    /// It answers nothing.
    Hangs,
    /// It answers with an error that repeats what it was sent as `authorization`.
    Refuses(Code),
    /// It keeps them, and says that it did not take so many of them.
    Rejects(i64),
}

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: SpanKind,
    pub times: (u64, u64),
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub service: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Service {
    manner: watch::Receiver<Manner>,
    asked: Arc<watch::Sender<usize>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
}

/// The collector.
pub struct Collector {
    pub address: String,
    manner: watch::Sender<Manner>,
    service: Service,
    _task: AbortOnDropHandle<()>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let manner = self.manner.borrow().clone();
        let authorization = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        self.authorizations.lock().expect("no panic").push(authorization.clone());
        self.asked.send_modify(|asked| *asked += 1);
        let rejected_spans = match manner {
            Manner::Takes => 0,
            Manner::Rejects(spans) => spans,
            Manner::Hangs => std::future::pending().await,
            Manner::Refuses(code) => return Err(Status::new(code, format!("not with {authorization}"))),
        };
        let mut seen = self.seen.lock().expect("no panic");
        for resource in request.into_inner().resource_spans {
            let service = texts(&resource.resource.expect("a resource").attributes);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(Seen {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    kind: span.kind(),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    attributes: texts(&span.attributes),
                    failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
                    name: span.name,
                    service: service.clone(),
                });
            }
        }
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() });
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: partial_success.filter(|_| rejected_spans > 0),
        }))
    }
}

impl Collector {
    /// Listens on a port of its own, in plaintext.
    pub async fn start(manner: Manner) -> Self {
        Self::serve(manner, None).await
    }

    /// The same behind TLS.
    pub async fn behind_tls(identity: Identity) -> Self {
        Self::serve(Manner::Takes, Some(identity)).await
    }

    async fn serve(manner: Manner, identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let scheme = if identity.is_some() { "https" } else { "http" };
        let (manner, now) = watch::channel(manner);
        let service = Service {
            manner: now,
            asked: Arc::new(watch::Sender::new(0)),
            seen: Arc::default(),
            authorizations: Arc::default(),
        };
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("an identity");
        }
        let serving = server
            .add_service(TraceServiceServer::new(service.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = serving.await;
        }));
        Self { address: format!("{scheme}://127.0.0.1:{port}"), manner, service, _task: task }
    }

    /// Behaves in this way from the next call on.
    pub fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// The spans so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.service.seen.lock().expect("no panic").clone()
    }

    /// What came as `authorization`, call by call.
    pub fn authorizations(&self) -> Vec<String> {
        self.service.authorizations.lock().expect("no panic").clone()
    }

    /// Waits for the first call.
    pub async fn until_asked(&self) {
        let mut asked = self.service.asked.subscribe();
        let called = tokio::time::timeout(Duration::from_secs(90), asked.wait_for(|asked| *asked > 0)).await;
        called.expect("a call").expect("the collector lives");
    }
}
