//! Serving HTTP/1.1 on a listener.

use std::convert::Infallible;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tower_service::Service;

use crate::simulator::sockets::{self, Port};

/// Serves the router until told to stop; connections that clients keep open end then too.
pub(crate) async fn serve(listener: TcpListener, port: Port, router: Router) {
    sockets::accept(listener, port, |wire| {
        let router = router.clone();
        let calls = service_fn(move |request: http::Request<Incoming>| {
            let mut router = router.clone();
            async move { router.call(request).await.map_err(|never: Infallible| never) }
        });
        async move {
            let mut builder = http1::Builder::new();
            // The timer bounds how long a client may take to send its headers.
            let connection = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(wire), calls);
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "an HTTP connection ended");
            }
        }
    })
    .await;
}
