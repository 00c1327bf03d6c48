//! The plugin socket: Go's way of HTTP, one route per call, one deadline for all.
//!
//! Every handled call is answered with 200 and JSON, refusals too, with both fields that errors are looked for in: Docker
//! takes every other status for a broken plugin. A call that was begun is carried out even if the engine goes away
//! meanwhile. Must not decide anything.

use std::{
    future::{Future, Ready, ready},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{net::UnixListener, time::timeout};
use tracing::{debug, warn};

use super::{
    Driver,
    error::DriverError,
    messages::{CreateEndpoint, CreateNetwork, NetworkOnly, OfEndpoint, OfPool, RequestPool},
};
use crate::{
    api::server::{SocketError, bind_from},
    reconciler::chain,
};

/// The name under which Docker knows us: that of the socket's file.
const PLUGIN: &str = "weft.sock";
const BODY_LIMIT: usize = 1 << 20;
/// Longer than everything that a call waits for itself.
const DEADLINE: Duration = Duration::from_secs(9);
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Makes the socket beside the directory, since Docker tries every socket that it finds inside, and moves it there.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn bind(plugins: &Path) -> Result<UnixListener, SocketError> {
    let draft = plugins.with_file_name(format!("weft-{}.sock", std::process::id()));
    bind_from(&draft, &plugins.join(PLUGIN), None)
}

/// Serves until the listener fails or the future is dropped.
///
/// # Errors
/// When the listener fails.
pub(super) async fn serve(listener: UnixListener, driver: Arc<Driver>) -> io::Result<()> {
    axum::serve(listener, router(driver)).await
}

fn router(driver: Arc<Driver>) -> Router {
    Router::new()
        .route("/Plugin.Activate", post(activate))
        .route(
            "/NetworkDriver.GetCapabilities",
            post(|| fixed(json!({"Scope": "local", "ConnectivityScope": "global"}))),
        )
        .route("/NetworkDriver.DiscoverNew", post(|| fixed(json!({}))))
        .route("/NetworkDriver.DiscoverDelete", post(|| fixed(json!({}))))
        .route("/NetworkDriver.EndpointOperInfo", post(|| fixed(json!({"Value": {}}))))
        .route("/NetworkDriver.ProgramExternalConnectivity", post(|| fixed(json!({}))))
        .route("/NetworkDriver.RevokeExternalConnectivity", post(|| fixed(json!({}))))
        .route("/NetworkDriver.CreateNetwork", post(create_network))
        .route("/NetworkDriver.DeleteNetwork", post(delete_network))
        .route("/NetworkDriver.CreateEndpoint", post(create_endpoint))
        .route("/NetworkDriver.DeleteEndpoint", post(delete_endpoint))
        .route("/NetworkDriver.Join", post(join))
        .route("/NetworkDriver.Leave", post(leave))
        .route(
            "/IpamDriver.GetCapabilities",
            post(|| fixed(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}))),
        )
        .route(
            "/IpamDriver.GetDefaultAddressSpaces",
            post(|| {
                fixed(json!({"LocalDefaultAddressSpace": "weft-local", "GlobalDefaultAddressSpace": "weft-global"}))
            }),
        )
        .route("/IpamDriver.RequestPool", post(request_pool))
        .route("/IpamDriver.ReleasePool", post(release_pool))
        .route("/IpamDriver.RequestAddress", post(request_address))
        .route("/IpamDriver.ReleaseAddress", post(release_address))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(driver)
}

async fn activate(State(driver): State<Arc<Driver>>) -> Response {
    // The engine has just started, or has just met us.
    driver.doubt.notify_one();
    answer(StatusCode::OK, &json!({"Implements": ["NetworkDriver", "IpamDriver"]}))
}

fn fixed(value: Value) -> Ready<Response> {
    ready(answer(StatusCode::OK, &value))
}

async fn create_network(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("CreateNetwork", body, move |request: CreateNetwork| driver.create_network(request)).await
}

async fn delete_network(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("DeleteNetwork", body, |request: NetworkOnly| async move {
        driver.delete_network(request);
        Ok(json!({}))
    })
    .await
}

async fn create_endpoint(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("CreateEndpoint", body, move |request: CreateEndpoint| driver.create_endpoint(request)).await
}

async fn delete_endpoint(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("DeleteEndpoint", body, move |request: OfEndpoint| driver.delete_endpoint(request)).await
}

async fn join(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("Join", body, move |request: OfEndpoint| driver.join(request)).await
}

async fn leave(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("Leave", body, move |request: OfEndpoint| driver.leave(request)).await
}

async fn request_pool(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("RequestPool", body, move |request: RequestPool| driver.request_pool(request)).await
}

async fn release_pool(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("ReleasePool", body, |request: OfPool| async move {
        driver.release_pool(&request);
        Ok(json!({}))
    })
    .await
}

async fn request_address(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("RequestAddress", body, move |request: OfPool| driver.request_address(request)).await
}

async fn release_address(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    call("ReleaseAddress", body, move |request: OfPool| driver.release_address(request)).await
}

/// Reads a request, has it carried out to its end, and answers within the deadline whatever becomes of it.
async fn call<Q, A, F>(name: &'static str, body: Bytes, handle: impl FnOnce(Q) -> F) -> Response
where
    Q: DeserializeOwned,
    A: Serialize + Send + 'static,
    F: Future<Output = Result<A, DriverError>> + Send + 'static,
{
    let started = tokio::time::Instant::now();
    let request = match read(&body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let outcome = match timeout(DEADLINE, tokio::spawn(handle(request))).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            warn!(call = name, %error, "a call of Docker's failed");
            Err(DriverError::Late(0))
        }
        Err(_) => Err(DriverError::Late(DEADLINE.as_secs())),
    };
    let elapsed_ms = started.elapsed().as_secs_f64() * 1000.0;
    match outcome {
        Ok(value) => {
            debug!(call = name, elapsed_ms, "served Docker");
            answer(StatusCode::OK, &value)
        }
        Err(error) => {
            warn!(call = name, elapsed_ms, error = %chain(&error), "refused a call of Docker's");
            refuse(StatusCode::OK, &chain(&error))
        }
    }
}

fn read<Q: DeserializeOwned>(body: &[u8]) -> Result<Q, Box<Response>> {
    if body.is_empty() {
        return Err(Box::new(refuse(StatusCode::OK, &DriverError::Interrupted.to_string())));
    }
    let words = |error| format!("the request is not what is expected here: {error}");
    serde_json::from_slice(body).map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, &words(error))))
}

/// `Err` is where network drivers' errors are looked for, `Error` where IPAM drivers' are.
fn refuse(status: StatusCode, words: &str) -> Response {
    answer(status, &json!({"Err": words, "Error": words}))
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("answers are maps with text keys");
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}

#[cfg(test)]
mod tests;
