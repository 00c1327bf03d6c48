//! The listener: TLS, limits on what one client may take, and the pipe for clients in this process.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    service::Routes,
    transport::{
        Server,
        server::{Connected, TcpConnectInfo},
    },
};
use tracing::{debug, warn};

use crate::{
    StoreError, StoreOptions, TlsFiles,
    engine::Engine,
    limits,
    service::{
        Administrators,
        cluster::Cluster,
        kv::{self, Kv},
        lease::Lease,
        maintenance::Maintenance,
        watch::Watch,
    },
};

/// A connection and its place among those that are allowed.
#[derive(Debug)]
struct Admitted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Serves clients from the network until the future `until` completes.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Routes,
    tls: Option<&TlsFiles>,
    until: impl Future<Output = ()>,
) -> Result<(), StoreError> {
    let mut server = builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls.server_config()).map_err(StoreError::Tls)?;
    }
    let (queue, connections) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(listener, queue));
    let served = server.add_routes(routes).serve_with_incoming_shutdown(ReceiverStream::new(connections), until).await;
    accepting.abort();
    served.map_err(StoreError::Serve)
}

/// Serves clients in this process; ends when nobody can connect any more.
pub(crate) async fn serve_pipes(routes: Routes, pipes: mpsc::Receiver<DuplexStream>) {
    let connections = tokio_stream::StreamExt::map(ReceiverStream::new(pipes), Ok::<_, io::Error>);
    if let Err(error) = builder().add_routes(routes).serve_with_incoming(connections).await {
        warn!(error = %error, "serving this process's own clients ended");
    }
}

/// Everything that is served.
pub(crate) fn routes(engine: &Engine, options: &StoreOptions) -> Routes {
    let administrators = Administrators { names: options.administrators.clone().into() };
    let kv = Kv { engine: engine.clone(), administrators: administrators.clone() };
    let lease = Lease { engine: engine.clone(), administrators };
    let watch = Watch { engine: engine.clone(), progress_every: options.progress_every };
    let cluster =
        Cluster { engine: engine.clone(), name: options.name.clone(), client_urls: options.client_urls.clone() };
    let mut routes = Routes::new(PbKvServer::new(kv).max_decoding_message_size(limits::MESSAGE_BYTES));
    let router = routes.axum_router_mut();
    *router = std::mem::take(router).layer(axum::middleware::map_response(kv::send_lists));
    routes = routes
        .add_service(PbLeaseServer::new(lease).max_decoding_message_size(limits::MESSAGE_BYTES))
        .add_service(PbWatchServer::new(watch).max_decoding_message_size(limits::MESSAGE_BYTES))
        .add_service(PbClusterServer::new(cluster))
        .add_service(PbMaintenanceServer::new(Maintenance { engine: engine.clone() }));
    let router = routes.axum_router_mut();
    let health = engine.clone();
    *router = std::mem::take(router)
        .route("/health", axum::routing::get(move || async move { health_of(&health) }))
        .fallback(|uri: http::Uri| async move { refuse(uri.path()) });
    routes
}

/// As etcd's `/health`: whether it can be written.
fn health_of(engine: &Engine) -> &'static str {
    if engine.shared.is_full() { r#"{"health":"false"}"# } else { r#"{"health":"true"}"# }
}

/// What a client hears that asks for something else.
fn refuse(path: &str) -> http::Response<tonic::body::Body> {
    let sentence = if path.starts_with("/etcdserverpb.Auth/") {
        "this store has no users and roles: permissions go by client certificates (--client-ca)"
    } else if path.starts_with("/v3electionpb.") || path.starts_with("/v3lockpb.") {
        "this store has no election and lock service: clients elect and lock with KV and Lease, as etcdctl does"
    } else {
        "this store serves etcd's KV, Watch, Lease, Cluster and Maintenance"
    };
    Status::unimplemented(sentence).into_http()
}

fn builder() -> Server {
    Server::builder()
        // For `/health` alone, which probes ask in HTTP/1.
        .accept_http1(true)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

async fn accept(listener: TcpListener, queue: mpsc::Sender<io::Result<Admitted>>) {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that ended too early: the next one may do better.
                warn!(error = %error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(%peer, limit = limits::CONNECTIONS, "refused a connection: there are too many");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, error = %error, "a connection ended at once");
            continue;
        }
        if queue.send(Ok(Admitted { stream, _place: place })).await.is_err() {
            return;
        }
    }
}

impl Connected for Admitted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
