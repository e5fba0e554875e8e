//! Servers of which a test decides every answer, over real sockets: a login and REST
//! server by a function, a Pub/Sub server frame by frame.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::Code;
use url::Url;

use crate::proto::{ConsumerEvent, FetchRequest, FetchResponse, ProducerEvent};
use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::grant::Grant;
use crate::salesforce::session::{Session, SessionSettings};

/// Long enough for a loaded machine; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const ORG: &str = "00D8d00000AbCdEEAV";

/// An RSA key in both PEM forms, and its certificate; made once a test run.
pub struct KeyMaterial {
    pub pkcs8: String,
    pub pkcs1: String,
    pub certificate: String,
}

pub static KEY: LazyLock<KeyMaterial> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["casewire".into()])
        .and_then(|params| params.self_signed(&key))
        .expect("certificate");
    // In the PKCS#8 form of a 2048-bit RSA key, 26 bytes of envelope precede the PKCS#1 form.
    let body = base64::engine::general_purpose::STANDARD.encode(&key.serialize_der()[26..]);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ascii")).collect();
    let pkcs1 = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"));
    KeyMaterial { pkcs8: key.serialize_pem(), pkcs1, certificate: certificate.pem() }
});

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing came in time")
}

/// One HTTP request as a scripted server sees it.
pub struct Asked {
    pub path: String,
    /// The server itself, as the request names it.
    pub host: String,
    pub bearer: String,
    pub form: HashMap<String, String>,
    /// The query of the URI, decoded.
    pub query: HashMap<String, String>,
    /// The body, if it is JSON.
    pub json: serde_json::Value,
    /// How many requests came before.
    pub number: usize,
}

/// An HTTP server whose answers a function gives, with a count of its requests.
#[derive(Clone)]
pub struct ScriptedHttp {
    pub url: Url,
    pub requests: Arc<AtomicUsize>,
}

impl ScriptedHttp {
    pub async fn start(answer: impl Fn(Asked) -> Response + Clone + Send + Sync + 'static) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let handler = move |request: Request| {
            let (answer, number) = (answer.clone(), counter.fetch_add(1, Ordering::SeqCst));
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.expect("body");
                let bearer = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
                let host = parts.headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or("");
                answer(Asked {
                    host: format!("http://{host}"),
                    path: parts.uri.path().to_owned(),
                    bearer: bearer.trim_start_matches("Bearer ").to_owned(),
                    query: url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                        .into_owned()
                        .collect(),
                    json: serde_json::from_slice(&body).unwrap_or_default(),
                    form: url::form_urlencoded::parse(&body).into_owned().collect(),
                    number,
                })
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = local_url(listener.local_addr().expect("address"));
        let router = axum::Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, requests }
    }

    /// A login server that grants `token-0`, `token-1`, …
    pub async fn granting() -> Self {
        Self::start(|asked| granted(&format!("token-{}", asked.number), "http://127.0.0.1:1", ORG)).await
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

pub fn local_url(address: SocketAddr) -> Url {
    Url::parse(&format!("http://{address}")).expect("url")
}

pub fn answer(status: u16, body: impl Into<Body>) -> Response {
    let status = StatusCode::from_u16(status).expect("status");
    Response::builder().status(status).body(body.into()).expect("response")
}

pub fn granted(token: &str, instance: &str, org: &str) -> Response {
    let id = format!("https://login.salesforce.com/id/{org}/0058d000004XyZaAAK");
    let json = serde_json::json!({"access_token": token, "instance_url": instance, "id": id, "token_type": "Bearer"});
    answer(200, json.to_string())
}

pub fn refused(code: &str, description: &str) -> Response {
    answer(400, serde_json::json!({"error": code, "error_description": description}).to_string())
}

/// The settings without the waits that spare a real login server.
pub fn quick(settings: SessionSettings) -> SessionSettings {
    let backoff = BackoffLimits::new(Duration::from_millis(5), Duration::from_millis(20)).expect("valid");
    SessionSettings { minimum_spacing: Duration::ZERO, backoff, ..settings }
}

/// Settings that sign in at a scripted server.
pub fn settings(login: &Url) -> SessionSettings {
    let grant = Grant::ClientCredentials { client_id: "3MVG9".into(), client_secret: "client-secret-71".into() };
    quick(SessionSettings::new(login.clone(), grant))
}

pub fn session(login: &Url) -> Session {
    Session::new(settings(login)).expect("settings")
}

/// What a test can do to a whole connection.
enum ConnectionOrder {
    GoAway,
    Cut,
    Freeze,
}

/// A Pub/Sub server that hands each call to the test.
pub struct ScriptedPubSub {
    pub url: Url,
    calls: mpsc::UnboundedReceiver<ScriptedCall>,
}

impl ScriptedPubSub {
    pub async fn start() -> Self {
        Self::serve(|socket| async move { Some(socket) }).await
    }

    /// With TLS, for the server name of the certificate.
    pub async fn start_tls(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        Self::serve(move |socket| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(socket).await.ok() }
        })
        .await
    }

    async fn serve<S, F>(secure: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = local_url(listener.local_addr().expect("address"));
        let (sender, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (secured, sender) = (secure(socket), sender.clone());
                tokio::spawn(async move {
                    if let Some(socket) = secured.await {
                        connection(socket, sender).await;
                    }
                });
            }
        });
        Self { url, calls }
    }

    /// The next call that a client makes.
    pub async fn call(&mut self) -> ScriptedCall {
        soon(self.calls.recv()).await.expect("the server runs")
    }

    /// Whether a client has made a call that the test has not taken.
    pub fn has_call(&self) -> bool {
        !self.calls.is_empty()
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(socket: S, calls: mpsc::UnboundedSender<ScriptedCall>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let (sender, mut orders) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(ConnectionOrder::GoAway) => connection.graceful_shutdown(),
                Some(ConnectionOrder::Freeze) => std::future::pending().await,
                Some(ConnectionOrder::Cut) | None => return,
            },
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (parts, body) = request.into_parts();
                let call = ScriptedCall {
                    path: parts.uri.path().to_owned(),
                    headers: parts.headers,
                    body,
                    unread: BytesMut::new(),
                    respond,
                    stream: None,
                    connection: sender.clone(),
                };
                let _ = calls.send(call);
            }
        }
    }
}

/// One gRPC call, seen from the server. Nothing is sent unless the test sends it, the headers neither.
pub struct ScriptedCall {
    pub path: String,
    pub headers: HeaderMap,
    body: RecvStream,
    unread: BytesMut,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    connection: mpsc::UnboundedSender<ConnectionOrder>,
}

impl ScriptedCall {
    /// The next message of the client; `None` when it has half-closed or reset the call.
    pub async fn request<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(length) = self.unread.get(1..5).map(|mut length| length.get_u32() as usize)
                && self.unread.len() >= 5 + length
            {
                self.unread.advance(5);
                return Some(M::decode(self.unread.split_to(length)).expect("a message of the contract"));
            }
            match soon(self.body.data()).await {
                Some(Ok(data)) => {
                    self.body.flow_control().release_capacity(data.len()).expect("capacity");
                    self.unread.extend_from_slice(&data);
                }
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub async fn fetch(&mut self) -> FetchRequest {
        self.request().await.expect("a FetchRequest")
    }

    /// Sends one message, and the response headers before the first.
    pub fn send(&mut self, message: &impl Message) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len()).expect("small"));
        message.encode(&mut frame).expect("room");
        self.stream().send_data(frame.freeze(), false).expect("the call is open");
    }

    fn stream(&mut self) -> &mut SendStream<Bytes> {
        let respond = &mut self.respond;
        self.stream.get_or_insert_with(|| {
            let headers = http::Response::builder().header("content-type", "application/grpc");
            respond.send_response(headers.body(()).expect("headers"), false).expect("the call is open")
        })
    }

    /// Ends the call with OK.
    pub fn finish(mut self) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("header"));
        self.stream().send_trailers(trailers).expect("the call is open");
    }

    /// Ends the call with an error in the form of Salesforce; without headers before if none were sent.
    pub fn fail(mut self, code: Code, error_code: &str, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", (code as i32).to_string().parse().expect("header"));
        trailers.insert("grpc-message", message.replace(' ', "%20").parse().expect("header"));
        if !error_code.is_empty() {
            let error_code = format!("sfdc.platform.eventbus.grpc.{error_code}");
            trailers.insert("error-code", error_code.parse().expect("header"));
            trailers.insert("rpc-id", "c604fa9c-1ee8-4d4d-8988-1244a54ee952".parse().expect("header"));
        }
        if let Some(mut stream) = self.stream.take() {
            stream.send_trailers(trailers).expect("the call is open");
        } else {
            let mut response = http::Response::new(());
            *response.headers_mut() = trailers;
            response.headers_mut().insert("content-type", "application/grpc".parse().expect("header"));
            self.respond.send_response(response, true).expect("the call is open");
        }
    }

    /// RST_STREAM.
    pub fn reset(mut self, reason: Reason) {
        self.stream().send_reset(reason);
    }

    /// GOAWAY on the connection; the call itself goes on.
    pub fn go_away(&self) {
        let _ = self.connection.send(ConnectionOrder::GoAway);
    }

    /// Stops reading and writing the socket, which stays open: pings go unanswered.
    pub fn freeze(&self) {
        let _ = self.connection.send(ConnectionOrder::Freeze);
    }

    /// Closes the socket under the call.
    pub fn cut(self) {
        let _ = self.connection.send(ConnectionOrder::Cut);
    }
}

/// A replay id as Salesforce makes them today: eight bytes of number and two of zero.
pub fn replay(number: u64) -> Bytes {
    [&number.to_be_bytes()[..], &[0, 0]].concat().into()
}

pub fn event(number: u64) -> ConsumerEvent {
    let event = ProducerEvent {
        id: format!("event-{number}"),
        schema_id: "schema".into(),
        payload: Bytes::from(format!("payload {number}")),
        headers: Vec::new(),
    };
    ConsumerEvent { event: Some(event), replay_id: replay(number) }
}

/// A response with the events of these numbers.
pub fn events(numbers: impl IntoIterator<Item = u64>, pending: i32) -> FetchResponse {
    let events: Vec<_> = numbers.into_iter().map(event).collect();
    let latest_replay_id = events.last().map(|event| event.replay_id.clone()).unwrap_or_default();
    FetchResponse { events, latest_replay_id, rpc_id: "rpc".into(), pending_num_requested: pending }
}

pub fn keepalive(number: u64, pending: i32) -> FetchResponse {
    FetchResponse { latest_replay_id: replay(number), pending_num_requested: pending, ..FetchResponse::default() }
}

/// Passes CONNECT requests on to one address, whatever host they name; tells each request.
pub async fn connect_proxy(target: SocketAddr) -> (Url, mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = local_url(listener.local_addr().expect("address"));
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await?);
                }
                let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
                let mut server = tokio::net::TcpStream::connect(target).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (url, requests)
}
