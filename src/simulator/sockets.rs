//! Accepting connections, with or without TLS, each served by a task of its own that
//! ends with the simulator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::simulator::org::Org;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// A byte stream to a client.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What a port needs besides what it serves.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) org: Arc<Org>,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Whether an outage of the org closes this port too.
    pub(crate) part_of_org: bool,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Hands each connection to `serve` until told to stop; then every connection is closed.
pub(crate) async fn accept<F, S>(listener: TcpListener, port: Port, serve: S)
where
    S: Fn(Box<dyn Wire>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = port.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) if port.part_of_org && *port.org.unreachable.borrow() => drop(socket),
            Ok((socket, peer)) => {
                let Some(wire) = secured(socket, peer, port.tls.as_ref()).await else { continue };
                let (served, shutdown) = (serve(wire), port.shutdown.clone());
                let (mut unreachable, part_of_org) = (port.org.unreachable.subscribe(), port.part_of_org);
                port.tasks.spawn(async move {
                    tokio::select! {
                        () = served => {}
                        _ = unreachable.wait_for(|unreachable| *unreachable), if part_of_org => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                // Out of file descriptors, most likely: trying at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The TLS handshake, where there is one. Nobody but a broken client makes others wait for it.
async fn secured(socket: TcpStream, peer: SocketAddr, tls: Option<&TlsAcceptor>) -> Option<Box<dyn Wire>> {
    // Small frames must not wait for the acknowledgement of earlier ones.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(error = %error, %peer, "a connection was gone before it was served");
        return None;
    }
    let Some(tls) = tls else { return Some(Box::new(socket)) };
    match tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await {
        Ok(Ok(stream)) => return Some(Box::new(stream)),
        Ok(Err(error)) => tracing::debug!(error = %error, %peer, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
    None
}
