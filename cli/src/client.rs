//! The agent's client: one request over the unix socket, within a deadline.
//!
//! Says precisely what went wrong on the way, because "connection failed" leaves an operator with nothing to do. Never
//! repeats a request: whether that is safe is the user's to judge. Must not know what requests mean.

mod request;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{net::UnixStream, runtime, task::JoinSet, time};
use weft_node_agent::api::messages::ErrorReply;

pub(crate) use self::request::AgentRequest;

/// Why a request has no good reply.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {}: is `weft agent` running? set WEFT_SOCKET or --socket", socket.display())]
    NoAgent { socket: PathBuf },
    #[error(
        "nothing listens at {} any more: the agent that made it has ended; start `weft agent`, or set WEFT_SOCKET or \
         --socket",
        socket.display()
    )]
    Stale { socket: PathBuf },
    #[error(
        "{} may not be used by this user: run the command as root, or as a member of the group that the agent has with \
         --socket-group",
        socket.display()
    )]
    Denied { socket: PathBuf, source: io::Error },
    #[error("connecting to the agent at {}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error(
        "the agent at {} did not answer within {} s{}; `weft agent` may be stopped or overloaded: see its log",
        socket.display(), deadline.as_secs(), outcome(*changes)
    )]
    Silent { socket: PathBuf, deadline: Duration, changes: bool },
    #[error("the agent at {} closed the connection without a reply{}", socket.display(), outcome(*changes))]
    Closed { socket: PathBuf, changes: bool, source: hyper::Error },
    #[error("what answers at {} does not speak HTTP, so it is not an agent: set WEFT_SOCKET or --socket", socket.display())]
    NotHttp { socket: PathBuf, source: hyper::Error },
    #[error(
        "what answers at {} is not an agent of this version: status {}, reply {excerpt:?}",
        socket.display(), status.as_u16()
    )]
    Unreadable { socket: PathBuf, status: StatusCode, excerpt: String, source: serde_json::Error },
    #[error("{}", .0.error)]
    Refused(ErrorReply),
    #[error("preparing the request")]
    Request { source: hyper::http::Error },
    #[error("starting the event loop of the client")]
    Runtime { source: io::Error },
}

fn outcome(changes: bool) -> &'static str {
    if changes { " (whether it carried out the request is not known: list what is there)" } else { "" }
}

/// A way to the agent of this host.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent that listens at `socket`.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a request and reads the reply.
    pub(crate) fn call<T: DeserializeOwned>(&self, request: AgentRequest) -> Result<T, ClientError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ClientError::Runtime { source })?;
        runtime.block_on(self.call_within_deadline(request))
    }

    async fn call_within_deadline<T: DeserializeOwned>(&self, request: AgentRequest) -> Result<T, ClientError> {
        let deadline = request.deadline;
        let changes = request.method != Method::GET;
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), deadline, changes };
        let (status, body) = time::timeout(deadline, self.exchange(request)).await.map_err(silent)??;
        self.read(status, &body)
    }

    async fn exchange(&self, request: AgentRequest) -> Result<(StatusCode, Bytes), ClientError> {
        let changes = request.method != Method::GET;
        let broken = |source| self.exchange_error(source, changes);
        let request = Request::builder()
            .method(request.method)
            .uri(request.path)
            // HTTP/1.1 wants the header, a unix socket has no host to put into it.
            .header(header::HOST, "weft")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(request.body)))
            .map_err(|source| ClientError::Request { source })?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.connect_error(source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?;
        Ok((status, body.to_bytes()))
    }

    fn connect_error(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound => ClientError::NoAgent { socket },
            io::ErrorKind::ConnectionRefused => ClientError::Stale { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket, source },
            _ => ClientError::Connect { socket, source },
        }
    }

    fn exchange_error(&self, source: hyper::Error, changes: bool) -> ClientError {
        let socket = self.socket.clone();
        if source.is_parse() {
            return ClientError::NotHttp { socket, source };
        }
        ClientError::Closed { socket, changes, source }
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
        let unreadable =
            |source| ClientError::Unreadable { socket: self.socket.clone(), status, excerpt: excerpt(body), source };
        if status.is_success() {
            return serde_json::from_slice(body).map_err(unreadable);
        }
        Err(serde_json::from_slice(body).map_or_else(unreadable, ClientError::Refused))
    }
}

fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 80;
    let text = String::from_utf8_lossy(body);
    let head: String = text.chars().take(SHOWN).collect();
    if head.len() < text.len() { format!("{head}…") } else { head }
}
