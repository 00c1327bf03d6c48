//! The Docker engine's own interface: HTTP and JSON over its unix socket.
//!
//! Reads only fields that every engine from 20.10 on has, by paths without a version, and ignores the rest: an engine that
//! is upgraded must not become unreadable. Every call has a deadline, because an engine that starts containers accepts
//! connections and does not answer. Must not decide anything.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::messages::or_default;

/// How long an answer may take that needs no container's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer answers are not read: an engine with 10,000 containers says less.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why the engine could not be asked.
#[derive(Debug, Error)]
pub(super) enum EngineError {
    /// Nobody listens.
    #[error("connecting to the Docker engine at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The connection broke.
    #[error("asking the Docker engine for {path}")]
    Http {
        /// What was asked for.
        path: String,
        /// What broke.
        #[source]
        cause: hyper::Error,
    },
    /// No answer.
    #[error("the Docker engine did not answer {path} within {} ms", after.as_millis())]
    Silent {
        /// What was asked for.
        path: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It said no.
    #[error("the Docker engine answered {path} with {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// An answer that cannot be read.
    #[error("reading the Docker engine's answer to {path}")]
    Malformed {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
}

impl EngineError {
    /// The status of an answer that said no.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A network as the engine knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EngineNetwork {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) driver: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(rename = "IPAM", deserialize_with = "or_default")]
    pub(super) ipam: EngineIpam,
    /// By container, or by `ep-` and the endpoint while it is being made. Only in the answer about one network.
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: BTreeMap<String, Occupant>,
}

/// Where addresses come from in [`EngineNetwork`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EngineIpam {
    #[serde(deserialize_with = "or_default")]
    pub(super) config: Vec<EnginePool>,
}

/// Part of [`EngineIpam`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct EnginePool {
    /// In CIDR notation, as everything here; empty: not given.
    #[serde(rename = "Subnet", deserialize_with = "or_default")]
    pub(super) subnet: String,
    #[serde(rename = "IPRange", deserialize_with = "or_default")]
    pub(super) ip_range: String,
}

/// An endpoint in [`EngineNetwork`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Occupant {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
}

/// A container as the engine knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EngineContainer {
    pub(super) id: String,
    /// With a slash before it.
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) state: ContainerState,
    #[serde(deserialize_with = "or_default")]
    pub(super) config: ContainerConfig,
    #[serde(deserialize_with = "or_default")]
    pub(super) network_settings: NetworkSettings,
}

/// Part of [`EngineContainer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerState {
    pub(super) running: bool,
    /// Its first process; 0 while it has none.
    pub(super) pid: u32,
}

/// Part of [`EngineContainer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerConfig {
    #[serde(deserialize_with = "or_default")]
    pub(super) hostname: String,
}

/// Part of [`EngineContainer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkSettings {
    #[serde(deserialize_with = "or_default")]
    pub(super) sandbox_key: String,
    /// By the network's name, or what the user called it while the container has not been started.
    #[serde(deserialize_with = "or_default")]
    pub(super) networks: BTreeMap<String, Attachment>,
}

/// A container's part in one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Attachment {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "Aliases", deserialize_with = "or_default")]
    pub(super) aliases: Vec<String>,
    #[serde(rename = "DNSNames", deserialize_with = "or_default")]
    pub(super) dns_names: Vec<String>,
}

/// A network to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NewNetwork {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "CheckDuplicate")]
    pub(super) check_duplicate: bool,
    #[serde(rename = "Driver")]
    pub(super) driver: &'static str,
    #[serde(rename = "Internal")]
    pub(super) internal: bool,
    #[serde(rename = "Attachable")]
    pub(super) attachable: bool,
    #[serde(rename = "EnableIPv6")]
    pub(super) enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub(super) ipam: NewIpam,
    #[serde(rename = "Options")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(rename = "Labels")]
    pub(super) labels: BTreeMap<String, String>,
}

/// Part of [`NewNetwork`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NewIpam {
    pub(super) driver: &'static str,
    pub(super) options: BTreeMap<String, String>,
    pub(super) config: Vec<NewPool>,
}

/// Part of [`NewNetwork`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NewPool {
    pub(super) subnet: String,
    pub(super) gateway: String,
}

/// Something happened to a container or a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Event {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) action: String,
    pub(super) actor: Actor,
}

/// Whom an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Attributes", deserialize_with = "or_default")]
    pub(super) attributes: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    id: String,
}

/// The engine of this host.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    socket: PathBuf,
}

impl Engine {
    pub(super) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The newest version of the interface that the engine speaks, as (major, minor).
    pub(super) async fn api_version(&self) -> Result<(u32, u32), EngineError> {
        let path = "/_ping";
        let response = self.send(Method::GET, path, None, PATIENCE).await?;
        let header = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        Ok(header.and_then(parse_version).unwrap_or((1, 41)))
    }

    /// The networks of our driver, without their containers.
    pub(super) async fn networks(&self) -> Result<Vec<EngineNetwork>, EngineError> {
        self.get(&format!("/networks?filters={}", escape(r#"{"driver":["weft"]}"#)), PATIENCE).await
    }

    /// Every network of this name, whatever its driver.
    pub(super) async fn networks_named(&self, name: &str) -> Result<Vec<EngineNetwork>, EngineError> {
        let filter = serde_json::json!({ "name": [name] }).to_string();
        let mut found: Vec<EngineNetwork> =
            self.get(&format!("/networks?filters={}", escape(&filter)), PATIENCE).await?;
        found.retain(|network| network.name == name);
        Ok(found)
    }

    /// One network with its endpoints.
    pub(super) async fn network(&self, id: &str, patience: Duration) -> Result<EngineNetwork, EngineError> {
        self.get(&format!("/networks/{}", escape(id)), patience).await
    }

    /// The ids of all running containers.
    pub(super) async fn running(&self) -> Result<Vec<String>, EngineError> {
        let listed: Vec<Listed> = self.get("/containers/json", PATIENCE).await?;
        Ok(listed.into_iter().map(|container| container.id).collect())
    }

    /// One container. Waits while the engine starts or stops it.
    pub(super) async fn container(&self, id: &str, patience: Duration) -> Result<EngineContainer, EngineError> {
        self.get(&format!("/containers/{}/json", escape(id)), patience).await
    }

    /// Makes a network; its id.
    pub(super) async fn create_network(&self, network: &NewNetwork) -> Result<String, EngineError> {
        let path = "/networks/create";
        let body = serde_json::to_vec(network).unwrap_or_default();
        let response = self.send(Method::POST, path, Some(body), PATIENCE * 3).await?;
        let made: Listed = decode(path, response, PATIENCE).await?;
        Ok(made.id)
    }

    /// Removes a network; one that is gone is no error.
    pub(super) async fn delete_network(&self, id: &str) -> Result<(), EngineError> {
        match self.send(Method::DELETE, &format!("/networks/{}", escape(id)), None, PATIENCE * 3).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// What happens to containers and networks from now on.
    pub(super) async fn events(&self) -> Result<Events, EngineError> {
        let filter = r#"{"type":["container","network"]}"#;
        let path = format!("/events?filters={}", escape(filter));
        let response = self.send(Method::GET, &path, None, PATIENCE).await?;
        Ok(Events { body: response.into_body(), buffer: Vec::new() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, EngineError> {
        let response = self.send(Method::GET, path, None, patience).await?;
        decode(path, response, patience).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Response<Incoming>, EngineError> {
        let exchange = async {
            let connect = |cause| EngineError::Connect { path: self.socket.clone(), cause };
            let http = |cause| EngineError::Http { path: path.to_owned(), cause };
            let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
            // Whatever breaks it shows in the answer.
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header("host", "docker");
            let request = request.header("content-type", "application/json");
            let request = request
                .body(Full::new(Bytes::from(body.unwrap_or_default())))
                .expect("a path made of escaped parts is a URI");
            sender.send_request(request).await.map_err(http)
        };
        let late = |_| EngineError::Silent { path: path.to_owned(), after: patience };
        let response = timeout(patience, exchange).await.map_err(late)??;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = read(path, response, patience).await.unwrap_or_default();
        let message = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let message = message.and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
        Err(EngineError::Refused { path: path.to_owned(), status, message: message.unwrap_or_default() })
    }
}

/// The engine's stream of events.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the stream has ended, and with it the certainty of having heard of everything.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(event) => return Some(event),
                    Err(_) => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

async fn decode<T: DeserializeOwned>(
    path: &str,
    response: Response<Incoming>,
    patience: Duration,
) -> Result<T, EngineError> {
    let bytes = read(path, response, patience).await?;
    serde_json::from_slice(&bytes).map_err(|cause| EngineError::Malformed { path: path.to_owned(), cause })
}

async fn read(path: &str, response: Response<Incoming>, patience: Duration) -> Result<Vec<u8>, EngineError> {
    let mut body = response.into_body();
    let all = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cause| EngineError::Http { path: path.to_owned(), cause })?;
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > ANSWER_LIMIT {
                break;
            }
        }
        Ok(bytes)
    };
    let late = |_| EngineError::Silent { path: path.to_owned(), after: patience };
    timeout(patience, all).await.map_err(late)?
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Percent-encodes everything but unreserved characters (RFC 3986, 2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_nulls_and_unknown_fields_is_read() {
        let text = r#"{"Id":"c1","Name":"/ct1","State":{"Running":true,"Pid":7,"Status":"of tomorrow"},"Config":null,
            "NetworkSettings":{"SandboxKey":null,"Networks":{"net1":{"NetworkID":"n1","EndpointID":"e1","Aliases":null,
            "DNSNames":["ct1"],"GwPriority":0}}},"Unheard":{"of":[]}}"#;

        let container: EngineContainer = serde_json::from_str(text).unwrap();

        assert_eq!((container.name.as_str(), container.state.pid), ("/ct1", 7));
        assert_eq!(container.network_settings.networks["net1"].dns_names, ["ct1"]);
    }

    #[test]
    fn paths_hold_no_character_with_a_meaning() {
        assert_eq!(escape(r#"{"a":["b/c"]}"#), "%7B%22a%22%3A%5B%22b%2Fc%22%5D%7D");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse_version("1.41") < parse_version("1.100"));
        assert_eq!(parse_version("next"), None);
    }
}
