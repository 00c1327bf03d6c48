//! Weft's own store: etcd's v3 API, of one server, over a durable file.
//!
//! A cluster needs no etcd to be installed: the controller serves this instead, and everybody uses it through the client
//! for etcd. What a client can tell apart from etcd 3.4 is a defect, except for what is said to be missing: users and
//! roles, snapshots, members, elections and locks as services. It is one server and not highly available.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::DuplexStream,
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tonic::transport::{Certificate, Endpoint, Identity, ServerTlsConfig};

use self::{authority::Authority, disk::AppendError, engine::Engine};
pub use self::{
    backup::{BackupError, Entry, StoreStatus, backup, observe_status, read_entries, restore},
    disk::OpenError,
    mvcc::Revision,
};

mod authority;
mod backup;
mod certificate;
mod check;
mod checksum;
mod clock;
mod disk;
mod draft;
mod engine;
mod fault;
mod hash;
mod header;
mod lease;
mod limits;
mod list;
mod mvcc;
mod refusal;
mod retention;
mod selection;
mod server;
mod service;
mod shared;
mod watch;
mod writer;

/// Bytes that a client in this process and the store may have under way, each way.
const PIPE_BYTES: usize = 1 << 20;

/// What a store is to be.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where its file is; made if missing.
    pub data_directory: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// With certificates, or in the clear.
    pub tls: Option<TlsFiles>,
    /// Common names of certificates that may write everything. Others may write what is their node's.
    pub administrators: Vec<String>,
    /// What the cluster's keys begin with, as `/weft/v1/`; decides what is whose.
    pub root: String,
    /// The member's name in `member list`.
    pub name: String,
    /// The URLs in `member list`.
    pub client_urls: Vec<String>,
    /// How often watches that asked for it hear that nothing happened.
    pub progress_every: Duration,
}

impl StoreOptions {
    /// A store without certificates, with defaults for the rest.
    pub fn new(data_directory: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_directory: data_directory.into(),
            listen,
            tls: None,
            administrators: vec!["weft-admin".to_owned()],
            root: "/weft/v1/".to_owned(),
            name: "weft".to_owned(),
            client_urls: Vec::new(),
            progress_every: Duration::from_secs(5),
        }
    }
}

/// Contents of PEM files.
#[derive(Clone)]
pub struct TlsFiles {
    /// The server's certificate, with those between it and its authority.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Authorities of clients. With them, every client must show a certificate.
    pub client_authority: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").field("client_authority", &self.client_authority.is_some()).finish_non_exhaustive()
    }
}

impl TlsFiles {
    fn server_config(&self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .timeout(Duration::from_secs(10));
        match &self.client_authority {
            Some(authority) => config.client_ca_root(Certificate::from_pem(authority)),
            None => config,
        }
    }
}

/// Why a store cannot be served, or not any longer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address cannot be listened at.
    #[error("cannot listen at {address}; free it, or choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("the store's certificates cannot be used; check --cert, --key and --client-ca")]
    Tls(#[source] tonic::transport::Error),
    /// Serving failed.
    #[error("serving the store's clients failed")]
    Serve(#[source] tonic::transport::Error),
    /// The disk failed. Nothing that was acknowledged is lost; what was under way is unknown to its clients.
    #[error("{path} can no longer be written; check its disk, then start again")]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// A store that is open and listens, but does not serve yet.
#[derive(Debug)]
pub struct EmbeddedStore {
    engine: Engine,
    options: StoreOptions,
    listener: TcpListener,
    writer_ended: engine::WriterEnded,
    pipes: mpsc::Receiver<DuplexStream>,
    connector: Connector,
}

/// Makes connections to a store of this process that leave it nowhere: no certificate is needed, everything is allowed.
#[derive(Debug, Clone)]
pub struct Connector {
    pipes: mpsc::Sender<DuplexStream>,
}

impl Connector {
    /// A client for etcd at the other end of such a connection. It connects when it is first used.
    ///
    /// # Errors
    /// None that are known: nothing is sent.
    pub async fn client(&self) -> Result<etcd_client::Client, etcd_client::Error> {
        let connector = self.clone();
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let ended = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                connector.connect().await.map(TokioIo::new).ok_or_else(ended)
            }
        });
        let channel = Endpoint::from_static("http://embedded").connect_with_connector_lazy(connect);
        etcd_client::Client::from_channel(etcd_client::Channel::Tonic(channel), None).await
    }

    /// Our end of a new connection; `None` when the store has ended.
    pub async fn connect(&self) -> Option<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.pipes.send(theirs).await.ok().map(|()| ours)
    }
}

impl EmbeddedStore {
    /// Opens the data directory, checks everything in it, and begins to listen.
    ///
    /// # Errors
    /// When the directory, the file or the address cannot be used; see [`StoreError`].
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let authority = Authority { root: options.root.clone() };
        let directory = options.data_directory.clone();
        // Reading a large file takes a while, and is no work for a thread that others share.
        let opening = tokio::task::spawn_blocking(move || Engine::open(&directory, authority));
        let (engine, writer_ended) = opening.await.expect("opening does not panic, and nobody cancels it")?;
        let address = options.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| StoreError::Listen { address, source })?;
        let (connect, pipes) = mpsc::channel(1);
        Ok(Self { engine, options, listener, writer_ended, pipes, connector: Connector { pipes: connect } })
    }

    /// Where it listens, with the port that was chosen if 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// For clients of this process. Must not be kept for longer than serving is wanted.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Serves until `until` completes or the disk fails.
    ///
    /// # Errors
    /// When the disk fails, or the certificates cannot be used.
    pub async fn serve(self, until: impl Future<Output = ()> + Send) -> Result<(), StoreError> {
        let Self { engine, options, listener, writer_ended, pipes, connector } = self;
        drop(connector);
        let routes = server::routes(&engine, &options);
        drop(engine);
        let own = tokio::spawn(server::serve_pipes(routes.clone(), pipes));
        let (stop, stopped) = oneshot::channel::<()>();
        let path = options.data_directory.join(disk::FILE);
        let serving = server::serve(listener, routes, options.tls.as_ref(), async move { drop(stopped.await) });
        let outcome = tokio::select! {
            served = serving => served,
            () = until => Ok(()),
            ended = writer_ended => writer_outcome(ended, &path),
        };
        drop(stop);
        own.abort();
        outcome
    }
}

fn writer_outcome(
    ended: Result<Result<(), AppendError>, oneshot::error::RecvError>,
    path: &Path,
) -> Result<(), StoreError> {
    match ended {
        Ok(Err(AppendError::Broken(source))) => Err(StoreError::Disk { path: path.to_owned(), source }),
        // The writer panicked, which its thread has already reported.
        Err(_) => Err(StoreError::Disk { path: path.to_owned(), source: rusqlite::Error::UnwindingPanic }),
        Ok(Ok(()) | Err(AppendError::Full)) => Ok(()),
    }
}
