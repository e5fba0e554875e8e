//! The connections of the Pub/Sub port, one task each, so that each can be closed,
//! told to go away, or made to stand still.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower_service::Service;

use crate::proto::pub_sub_server::PubSubServer;
use crate::simulator::org::Org;
use crate::simulator::pubsub::{PubSubService, StreamCut};
use crate::simulator::sockets::{self, Port, Wire};

/// What can be done to every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionOrder {
    /// Close at once.
    Drop,
    /// GOAWAY; the calls that are open go on.
    GoAway,
    /// Nothing passes any more, in either direction.
    BlackHole,
}

/// Calls that one connection may have open.
const MOST_STREAMS: u32 = 1_000;
/// A connection through which nothing passes does not notice that its client has gone, so it ends by itself.
const LONGEST_BLACK_HOLE: Duration = Duration::from_secs(600);

/// Serves the Pub/Sub API until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    port: Port,
    service: PubSubService,
    orders: broadcast::Sender<ConnectionOrder>,
) {
    let org = Arc::clone(&port.org);
    sockets::accept(listener, port, |wire| {
        let (open, service, orders) = (OpenConnection::new(&org), service.clone(), orders.subscribe());
        async move {
            let _open = open;
            connection(wire, service, orders).await;
        }
    })
    .await;
}

/// Counts a connection for as long as it is open.
struct OpenConnection {
    org: Arc<Org>,
}

impl OpenConnection {
    fn new(org: &Arc<Org>) -> Self {
        org.stats.count(|stats| stats.connections += 1);
        Self { org: Arc::clone(org) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.org.stats.count(|stats| stats.connections = stats.connections.saturating_sub(1));
    }
}

async fn connection(wire: Box<dyn Wire>, service: PubSubService, mut orders: broadcast::Receiver<ConnectionOrder>) {
    let stopped = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Stoppable { wire, stopped: Arc::clone(&stopped) });
    let calls = service_fn(move |request| call(service.clone(), request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(MOST_STREAMS);
    let connection = builder.serve_connection(io, calls);
    tokio::pin!(connection);
    let mut buried = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(buried.unwrap_or_else(Instant::now)), if buried.is_some() => return,
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "a connection ended");
                }
                return;
            }
            order = orders.recv() => match order {
                Ok(ConnectionOrder::GoAway) => connection.as_mut().graceful_shutdown(),
                Ok(ConnectionOrder::BlackHole) => {
                    stopped.store(true, Ordering::Relaxed);
                    buried.get_or_insert_with(|| Instant::now() + LONGEST_BLACK_HOLE);
                }
                Ok(ConnectionOrder::Drop) | Err(broadcast::error::RecvError::Closed) => return,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
            },
        }
    }
}

/// One call. Its stream can be reset from outside, before or after the response has begun.
async fn call(
    service: PubSubService,
    mut request: http::Request<Incoming>,
) -> Result<http::Response<CuttableBody>, Cut> {
    let content_type = request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(|kind| kind.starts_with("application/grpc")) {
        let mut refused = http::Response::new(CuttableBody::new(tonic::body::Body::empty(), CancellationToken::new()));
        *refused.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(refused);
    }
    let cut = CancellationToken::new();
    request.extensions_mut().insert(StreamCut(cut.clone()));
    // Requests are small except for Publish, whose documented limit is 4 MB.
    let mut server = PubSubServer::new(service).max_decoding_message_size(4 * 1024 * 1024);
    let response = tokio::select! {
        response = server.call(request) => response.unwrap_or_else(|never: Infallible| match never {}),
        () = cut.cancelled() => return Err(Cut),
    };
    Ok(response.map(|body| CuttableBody::new(body, cut)))
}

/// Why a stream was reset; the transport turns any error into `INTERNAL_ERROR`.
#[derive(Debug, thiserror::Error)]
#[error("The stream was cut on purpose")]
struct Cut;

/// A response body that fails when its call is cut.
struct CuttableBody {
    inner: tonic::body::Body,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CuttableBody {
    fn new(inner: tonic::body::Body, cut: CancellationToken) -> Self {
        Self { inner, cut: Box::pin(cut.cancelled_owned()) }
    }
}

impl Body for CuttableBody {
    type Data = bytes::Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Box::new(Cut))));
        }
        Pin::new(&mut self.inner).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A socket through which nothing passes once it is stopped, and which nobody is told about.
struct Stoppable {
    wire: Box<dyn Wire>,
    stopped: Arc<AtomicBool>,
}

impl Stoppable {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Stoppable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_stopped() { Poll::Pending } else { Pin::new(&mut self.wire).poll_read(context, buffer) }
    }
}

impl AsyncWrite for Stoppable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_stopped() { Poll::Pending } else { Pin::new(&mut self.wire).poll_write(context, bytes) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_stopped() { Poll::Pending } else { Pin::new(&mut self.wire).poll_flush(context) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_stopped() { Poll::Pending } else { Pin::new(&mut self.wire).poll_shutdown(context) }
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_stopped() { Poll::Pending } else { Pin::new(&mut self.wire).poll_write_vectored(context, slices) }
    }
}
