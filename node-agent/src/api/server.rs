//! The server of the agent's socket: routes, limits, and where the socket is.
//!
//! Must not decide anything: each route reads its request and calls one method of [`Requests`].

use std::{
    fs::Permissions,
    future::Future,
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path as UrlPath, Query, Request, State},
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::net::UnixListener;
use weft_overlay::id::Name;

use super::{
    error::RequestError,
    messages::{
        Connect, CreateNetwork, Disconnect, DumpReply, Endpoint, ErrorClass, Network, Node, PlanReply, RemovedNetwork,
        Status,
    },
};

/// Larger requests are refused: the largest sensible one has a few hundred bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// A request that takes longer is answered with an error: callers must never wait for ever.
const DEADLINE: Duration = Duration::from_secs(45);

type Reply<T> = Result<T, RequestError>;

/// What the agent can be asked.
pub trait Requests: Send + Sync + 'static {
    /// How the agent is.
    fn status(&self) -> impl Future<Output = Reply<Status>> + Send;
    /// What the reconciler would change now.
    fn plan(&self) -> impl Future<Output = Reply<PlanReply>> + Send;
    /// Desired, observed and known of the store.
    fn dump(&self) -> impl Future<Output = Reply<DumpReply>> + Send;
    /// Creates a network.
    fn create_network(&self, request: CreateNetwork) -> impl Future<Output = Reply<Network>> + Send;
    /// All networks.
    fn networks(&self) -> impl Future<Output = Reply<Vec<Network>>> + Send;
    /// One network.
    fn network(&self, name: Name) -> impl Future<Output = Reply<Network>> + Send;
    /// Deletes a network.
    fn remove_network(&self, name: Name, force: bool) -> impl Future<Output = Reply<RemovedNetwork>> + Send;
    /// Attaches a container.
    fn connect(&self, request: Connect) -> impl Future<Output = Reply<Endpoint>> + Send;
    /// Detaches a container.
    fn disconnect(&self, request: Disconnect) -> impl Future<Output = Reply<Endpoint>> + Send;
    /// Endpoints, all or of one network or node; with or without legs.
    fn endpoints(&self, filter: EndpointFilter) -> impl Future<Output = Reply<Vec<Endpoint>>> + Send;
    /// One endpoint, by id or name.
    fn endpoint(&self, id: String) -> impl Future<Output = Reply<Endpoint>> + Send;
    /// All nodes.
    fn nodes(&self) -> impl Future<Output = Reply<Vec<Node>>> + Send;
    /// One node, by name or id.
    fn node(&self, name: String) -> impl Future<Output = Reply<Node>> + Send;
    /// Drains a node, or ends that.
    fn drain_node(&self, name: String, undo: bool) -> impl Future<Output = Reply<Node>> + Send;
    /// Removes a node that is gone; with `force`, what is left of it too.
    fn remove_node(&self, name: String, force: bool) -> impl Future<Output = Reply<Node>> + Send;
}

/// Which endpoints to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointFilter {
    /// Only of this network.
    pub network: Option<Name>,
    /// Only of this node.
    pub node: Option<String>,
    /// Gateway legs too.
    #[serde(default)]
    pub all: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Force {
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    #[serde(default)]
    undo: bool,
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making the socket {}", path.display())]
pub struct SocketError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Makes the socket: bound elsewhere, closed to others, then renamed into place, so that nobody finds it half made and a
/// stale one of an agent that died is replaced. Root may use it, and the members of `group` if there is one.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, SocketError> {
    bind_from(&path.with_extension(format!("{}.new", std::process::id())), path, group)
}

/// [`bind`] with the place where the socket is made; on the same file system.
///
/// # Errors
/// When the kernel refuses.
pub fn bind_from(draft: &Path, path: &Path, group: Option<u32>) -> Result<UnixListener, SocketError> {
    let bound = || -> io::Result<UnixListener> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::remove_file(draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(draft)?;
        open_to(draft, group)?;
        std::fs::rename(draft, path)?;
        Ok(listener)
    };
    bound().map_err(|cause| SocketError { path: path.to_owned(), cause })
}

/// Opens a socket to its owner, and to a group if there is one.
fn open_to(socket: &Path, group: Option<u32>) -> io::Result<()> {
    let set_mode = |mode| std::fs::set_permissions(socket, Permissions::from_mode(mode));
    set_mode(0o600)?;
    let Some(group) = group else { return Ok(()) };
    chown(socket, None, Some(group)).map_err(|cause| {
        let remedy = if cause.kind() == io::ErrorKind::PermissionDenied { ", which needs CAP_CHOWN" } else { "" };
        io::Error::new(cause.kind(), format!("giving it to group {group}{remedy}: {cause}"))
    })?;
    set_mode(0o660)
}

/// Serves until the listener fails or the future is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve<R: Requests>(listener: UnixListener, requests: Arc<R>) -> io::Result<()> {
    axum::serve(listener, router(requests)).await
}

fn router<R: Requests>(requests: Arc<R>) -> Router {
    Router::new()
        .route("/v1/status", get(|State(r): State<Arc<R>>| async move { r.status().await.map(Json) }))
        .route("/v1/plan", get(|State(r): State<Arc<R>>| async move { r.plan().await.map(Json) }))
        .route("/v1/dump", get(|State(r): State<Arc<R>>| async move { r.dump().await.map(Json) }))
        .route(
            "/v1/networks",
            get(|State(r): State<Arc<R>>| async move { r.networks().await.map(Json) })
                .post(|State(r): State<Arc<R>>, Body(b): Body<_>| async move { r.create_network(b).await.map(Json) }),
        )
        .route(
            "/v1/networks/{name}",
            get(|State(r): State<Arc<R>>, UrlPath(name): UrlPath<String>| async move {
                r.network(parse_name(&name)?).await.map(Json)
            })
            .delete(
                |State(r): State<Arc<R>>, UrlPath(name): UrlPath<String>, Params(p): Params<Force>| async move {
                    r.remove_network(parse_name(&name)?, p.force).await.map(Json)
                },
            ),
        )
        .route(
            "/v1/connect",
            post(|State(r): State<Arc<R>>, Body(b): Body<_>| async move { r.connect(b).await.map(Json) }),
        )
        .route(
            "/v1/disconnect",
            post(|State(r): State<Arc<R>>, Body(b): Body<_>| async move { r.disconnect(b).await.map(Json) }),
        )
        .route(
            "/v1/endpoints",
            get(|State(r): State<Arc<R>>, Params(p): Params<_>| async move { r.endpoints(p).await.map(Json) }),
        )
        .route(
            "/v1/endpoints/{id}",
            get(|State(r): State<Arc<R>>, UrlPath(id): UrlPath<String>| async move { r.endpoint(id).await.map(Json) }),
        )
        .merge(node_routes::<R>())
        .fallback(|uri: Uri| async move {
            RequestError::words(ErrorClass::NotFound, format!("there is no {} here; see `weft --help`", uri.path()))
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            RequestError::words(ErrorClass::Invalid, format!("{} does not take this method", uri.path()))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(within_deadline))
        .with_state(requests)
}

fn node_routes<R: Requests>() -> Router<Arc<R>> {
    Router::new()
        .route("/v1/nodes", get(|State(r): State<Arc<R>>| async move { r.nodes().await.map(Json) }))
        .route(
            "/v1/nodes/{name}",
            get(|State(r): State<Arc<R>>, UrlPath(name): UrlPath<String>| async move { r.node(name).await.map(Json) })
                .merge(delete(
                    |State(r): State<Arc<R>>, UrlPath(name): UrlPath<String>, Params(p): Params<Force>| async move {
                        r.remove_node(name, p.force).await.map(Json)
                    },
                )),
        )
        .route(
            "/v1/nodes/{name}/drain",
            post(|State(r): State<Arc<R>>, UrlPath(name): UrlPath<String>, Params(p): Params<Undo>| async move {
                r.drain_node(name, p.undo).await.map(Json)
            }),
        )
}

fn parse_name(text: &str) -> Result<Name, RequestError> {
    text.parse().map_err(|error| RequestError::new(ErrorClass::Invalid, &error))
}

async fn within_deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let words = format!("the agent found no answer within {} s; see `weft status`", DEADLINE.as_secs());
            RequestError::words(ErrorClass::Unavailable, words).into_response()
        }
    }
}

/// A JSON body, refused in our own words when it is malformed or too large.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = RequestError;

    async fn from_request(request: Request, state: &S) -> Result<Self, RequestError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let words = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                format!("the request is larger than {BODY_LIMIT} bytes")
            } else {
                rejection.body_text()
            };
            RequestError::words(ErrorClass::Invalid, words)
        })?;
        let unexpected = |why: &dyn std::fmt::Display| {
            RequestError::words(ErrorClass::Invalid, format!("the request is not what is expected here: {why}"))
        };
        // A list would be taken for the fields in their order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(unexpected(&"it is a list, not an object with named fields"));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| unexpected(&error))
    }
}

/// Query parameters, refused in our own words when they are malformed.
struct Params<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> axum::extract::FromRequestParts<S> for Params<T> {
    type Rejection = RequestError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, RequestError> {
        Query::<T>::from_request_parts(parts, state)
            .await
            .map(|Query(params)| Self(params))
            .map_err(|rejection| RequestError::words(ErrorClass::Invalid, rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_unless_it_is_given_to_a_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/weft.sock");

        let _alone = bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);

        let group = nix::unistd::getgid().as_raw();
        let _shared = bind(&path, Some(group)).unwrap();
        assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().gid()), (0o660, group));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
