//! The requests of the agent's socket, as values: method, path, body and for how long a reply is waited.
//!
//! Names and ids consist of characters that need no escaping in a URL, which their types ensure.

use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use weft_node_agent::api::messages::{Connect, CreateNetwork, Disconnect};
use weft_overlay::id::{EndpointId, Name};

/// One request to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentRequest {
    /// GET changes nothing.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// JSON, or empty.
    pub(crate) body: Vec<u8>,
    /// For how long a reply is waited for, from the first attempt to connect.
    pub(crate) deadline: Duration,
}

/// For most requests: long enough for an agent that waits for its store in vain to say so itself.
const DEADLINE: Duration = Duration::from_secs(30);

/// For requests that may also wait for others: for a container's interface, behind those that came first, or for the
/// controller, which ends a network. Longer than an agent takes for any answer, which is 45 s.
const LONG_DEADLINE: Duration = Duration::from_secs(60);

impl AgentRequest {
    /// `weft status`
    pub(crate) fn status() -> Self {
        Self::get("/v1/status".to_owned())
    }

    /// `weft plan`
    pub(crate) fn plan() -> Self {
        Self::get("/v1/plan".to_owned())
    }

    /// `weft dump`
    pub(crate) fn dump() -> Self {
        Self::get("/v1/dump".to_owned())
    }

    /// `weft network ls`
    pub(crate) fn networks() -> Self {
        Self::get("/v1/networks".to_owned())
    }

    /// `weft network inspect`
    pub(crate) fn network(name: &Name) -> Self {
        Self::get(format!("/v1/networks/{name}"))
    }

    /// `weft network create`
    pub(crate) fn create_network(network: &CreateNetwork) -> Self {
        Self::post("/v1/networks".to_owned(), network)
    }

    /// `weft network rm`
    pub(crate) fn remove_network(name: &Name, force: bool) -> Self {
        Self::removal(format!("/v1/networks/{name}?force={force}"))
    }

    /// `weft endpoint ls`; `all` asks for the nodes' own legs too.
    pub(crate) fn endpoints(network: Option<&Name>, node: Option<&Name>, all: bool) -> Self {
        let network = network.map(|name| format!("network={name}"));
        let node = node.map(|name| format!("node={name}"));
        let all = all.then(|| "all=true".to_owned());
        let query: Vec<String> = [network, node, all].into_iter().flatten().collect();
        let separator = if query.is_empty() { "" } else { "?" };
        Self::get(format!("/v1/endpoints{separator}{}", query.join("&")))
    }

    /// `weft endpoint inspect`
    pub(crate) fn endpoint(id: EndpointId) -> Self {
        Self::get(format!("/v1/endpoints/{id}"))
    }

    /// `weft connect`
    pub(crate) fn connect(connect: &Connect) -> Self {
        Self { deadline: LONG_DEADLINE, ..Self::post("/v1/connect".to_owned(), connect) }
    }

    /// `weft disconnect`
    pub(crate) fn disconnect(disconnect: &Disconnect) -> Self {
        Self { deadline: LONG_DEADLINE, ..Self::post("/v1/disconnect".to_owned(), disconnect) }
    }

    /// `weft node ls`
    pub(crate) fn nodes() -> Self {
        Self::get("/v1/nodes".to_owned())
    }

    /// `weft node inspect`
    pub(crate) fn node(name: &Name) -> Self {
        Self::get(format!("/v1/nodes/{name}"))
    }

    /// `weft node drain`
    pub(crate) fn drain_node(name: &Name, undo: bool) -> Self {
        Self::without_body(Method::POST, format!("/v1/nodes/{name}/drain?undo={undo}"))
    }

    /// `weft node rm`
    pub(crate) fn remove_node(name: &Name, force: bool) -> Self {
        Self::removal(format!("/v1/nodes/{name}?force={force}"))
    }

    fn removal(path: String) -> Self {
        Self { deadline: LONG_DEADLINE, ..Self::without_body(Method::DELETE, path) }
    }

    fn get(path: String) -> Self {
        Self::without_body(Method::GET, path)
    }

    fn post(path: String, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("messages have string keys and no failing serializer");
        Self { body, ..Self::without_body(Method::POST, path) }
    }

    fn without_body(method: Method, path: String) -> Self {
        Self { method, path, body: Vec::new(), deadline: DEADLINE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_take_the_paths_of_the_socket() {
        let net: Name = "net1".parse().unwrap();
        let h1: Name = "h1".parse().unwrap();
        let table = [
            (AgentRequest::status(), "GET /v1/status"),
            (AgentRequest::plan(), "GET /v1/plan"),
            (AgentRequest::dump(), "GET /v1/dump"),
            (AgentRequest::networks(), "GET /v1/networks"),
            (AgentRequest::network(&net), "GET /v1/networks/net1"),
            (AgentRequest::remove_network(&net, false), "DELETE /v1/networks/net1?force=false"),
            (AgentRequest::remove_network(&net, true), "DELETE /v1/networks/net1?force=true"),
            (AgentRequest::endpoints(None, None, false), "GET /v1/endpoints"),
            (AgentRequest::endpoints(Some(&net), None, false), "GET /v1/endpoints?network=net1"),
            (AgentRequest::endpoints(None, Some(&h1), true), "GET /v1/endpoints?node=h1&all=true"),
            (AgentRequest::endpoints(Some(&net), Some(&h1), true), "GET /v1/endpoints?network=net1&node=h1&all=true"),
            (AgentRequest::endpoint("0123456789ab".parse().unwrap()), "GET /v1/endpoints/0123456789ab"),
            (AgentRequest::nodes(), "GET /v1/nodes"),
            (AgentRequest::node(&h1), "GET /v1/nodes/h1"),
            (AgentRequest::drain_node(&h1, false), "POST /v1/nodes/h1/drain?undo=false"),
            (AgentRequest::drain_node(&h1, true), "POST /v1/nodes/h1/drain?undo=true"),
            (AgentRequest::remove_node(&h1, false), "DELETE /v1/nodes/h1?force=false"),
            (AgentRequest::remove_node(&h1, true), "DELETE /v1/nodes/h1?force=true"),
        ];

        for (request, expected) in table {
            assert_eq!(format!("{} {}", request.method, request.path), expected);
            // The agent waits up to 30 s for the end of what is removed, and then has something to say.
            let seconds = if request.method == Method::DELETE { 60 } else { 30 };
            assert_eq!((request.body.len(), request.deadline), (0, Duration::from_secs(seconds)), "{expected}");
        }
    }

    #[test]
    fn attaching_and_detaching_wait_longer_for_the_reply() {
        let disconnect = Disconnect { network: "net1".parse().unwrap(), container: "ct1".to_owned() };

        let request = AgentRequest::disconnect(&disconnect);

        assert_eq!((request.method, request.path.as_str()), (Method::POST, "/v1/disconnect"));
        assert_eq!(request.deadline, Duration::from_secs(60));
        assert_eq!(serde_json::from_slice::<Disconnect>(&request.body).unwrap(), disconnect);
    }
}
